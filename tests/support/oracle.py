"""What a consolidated day must hold, found without the package: DuckDB decides which row wins, pyarrow reads its
values.

Rows are compared bit for bit. A value becomes something hashable that says all about it and nothing about how wide
its column is: a float its 64 bits, a decimal its exact ratio, a timestamp its nanoseconds since 1970. A null is left
out of its row, or of its struct, because a column that a file lacks is null.
"""
from collections import namedtuple
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NANOS = {'s': 10**9, 'ms': 10**6, 'us': 10**3, 'ns': 1}

WINNERS = """
SELECT key, path, row FROM records WHERE key <> ''
QUALIFY row_number() OVER (PARTITION BY key ORDER BY
    coalesce(updated, event) DESC NULLS LAST, event DESC NULLS LAST, path DESC, row DESC) = 1
"""

Day = namedtuple('Day', 'rows winners keyless records unreadable')
Day.__doc__ = """rows: {key: row}. winners: {key: (path, row number)}. keyless: {(path, row number): row} without a key.
records: in all readable files. unreadable: paths of the others. Paths are relative to the table."""


def nanoseconds(exact, rough):
    "A timestamp array as integers. rough: the same array, where INT96 came as microseconds, which hold any year"
    found = [None if v is None else v * NANOS[exact.type.unit] for v in exact.cast(pa.int64()).to_pylist()]
    if exact.type == rough.type:
        return found
    micros = rough.cast(pa.int64()).to_pylist()
    return [a if a is None or a // 1000 == b else b * 1000 for a, b in zip(found, micros, strict=True)]


def fields(a):
    return [a.type[i].name for i in range(a.type.num_fields)], a.flatten()


def values(a, b=None):
    "The values of an array, as the module says. b: the same array read with INT96 as microseconds"
    b, t, kind = (a if b is None else b), pa.types, a.type
    if t.is_dictionary(kind):
        a = a.dictionary_decode()
    if t.is_timestamp(kind):
        return nanoseconds(a, b)
    if t.is_floating(kind):
        bits = a.cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False).view(np.int64).tolist()
        return [v if there else None for v, there in zip(bits, a.is_valid().to_pylist(), strict=True)]
    if t.is_decimal(kind):
        return [None if v is None else v.as_integer_ratio() for v in a.to_pylist()]
    if t.is_struct(kind):
        names = fields(a)[0]
        rows = zip(*map(values, fields(a)[1], fields(b)[1]), strict=True)
        whole = [frozenset((n, v) for n, v in zip(names, row, strict=True) if v is not None) for row in rows]
        return [v if there else None for v, there in zip(whole, a.is_valid().to_pylist(), strict=True)]
    if t.is_map(kind) or t.is_list(kind) or t.is_large_list(kind):
        parts = [(a.keys, b.keys), (a.items, b.items)] if t.is_map(kind) else [(a.values, b.values)]
        items = list(zip(*(values(*p) for p in parts), strict=True))
        ends = a.offsets.to_pylist()
        return [
            tuple(items[i:j]) if there else None
            for i, j, there in zip(ends, ends[1:], a.is_valid().to_pylist(), strict=False)]
    return a.to_pylist()


def columns(path):
    "{column: values} of a Parquet file"
    exact, rough = (pq.ParquetFile(path, coerce_int96_timestamp_unit=unit).read() for unit in ('ns', 'us'))
    return {n: values(exact[n].combine_chunks(), rough[n].combine_chunks()) for n in exact.column_names}


def rows(found):
    "The rows of `columns`"
    names = list(found)
    return [
        frozenset((n, v) for n, v in zip(names, row, strict=True) if v is not None)
        for row in zip(*found.values(), strict=True)]


def rows_of(paths):
    "All rows of these files, in order"
    return [row for path in paths for row in rows(columns(path))]


def key_text(key):
    return None if key is None else key.hex() if isinstance(key, bytes) else str(key)


def by_key(some):
    "Rows by key; AssertionError if a key occurs twice"
    found = {key_text(dict(row).get('chargeback_id')): row for row in some}
    assert len(found) == len(some), 'a chargeback occurs twice'
    return found


def consolidated(table, paths):
    "The `Day` that these landing files, given relative to the folder `table`, make"
    every, deciding, unreadable = {}, [], []
    for path in paths:
        try:
            found = columns(Path(table, path))
        except (pa.ArrowException, OSError):
            unreadable.append(path)
            continue
        every.update({(path, i): row for i, row in enumerate(rows(found))})
        nulls = [None] * len(found['chargeback_id'])
        keys = map(key_text, found['chargeback_id'])
        deciding += zip(
            [path] * len(nulls), range(len(nulls)), keys, found.get('updated_at', nulls),
            found.get('event_timestamp', nulls), strict=True)
    names, kinds = (
        ('path', 'row', 'key', 'updated', 'event'), (pa.string(), pa.int32(), pa.string(), pa.string(), pa.string()))
    text = [[None if v is None else str(v) if i > 2 else v for i, v in enumerate(row)] for row in deciding]
    table = pa.table(
        [pa.array(c, k) for c, k in zip(list(zip(*text, strict=True)) or [()] * 5, kinds, strict=True)], names=names)
    with duckdb.connect() as db:
        db.register('landed', table)
        db.sql(
            'CREATE VIEW records AS SELECT path, row, key, updated::HUGEINT AS updated, event::HUGEINT AS event FROM '
            'landed'
        )
        winners = {key: (path, row) for key, path, row in db.sql(WINNERS).fetchall()}
        keyless = db.sql("SELECT path, row FROM records WHERE key IS NULL OR key = ''").fetchall()
    return Day(
        {key: every[at] for key, at in winners.items()}, winners, {at: every[at] for at in keyless}, len(deciding),
        unreadable)
