"""A Delta table as an engine reads it: `python read_delta.py ENGINE ROOT [VERSION ...]` prints for each version a line
of JSON, its rows in an order of their own; without a version, for the last.

deltalake and Polars are in the project's environment, the others in one of their own (see readers.py).
"""
import json
import os
import sys
from datetime import UTC, date, datetime
from decimal import Decimal


def plain(value):
    "A value so that engines agree: instants in UTC, a struct and a map as sorted pairs"
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo else value).replace(tzinfo=None).isoformat()
    if isinstance(value, date | Decimal): return str(value)
    if isinstance(value, bytes): return value.decode('latin-1')     # chDB makes no difference to a text
    if isinstance(value, dict): return sorted([str(k), plain(v)] for k, v in value.items())
    if isinstance(value, list):
        pairs = value and all(isinstance(v, tuple) for v in value)
        return sorted([str(k), plain(v)] for k, v in value) if pairs else [plain(v) for v in value]
    return value


def rows(records):
    "The rows as texts, sorted"
    return sorted(json.dumps({k: plain(v) for k, v in r.items()}, sort_keys=True) for r in records)


def deltalake(root, version):
    from deltalake import DeltaTable
    return DeltaTable(root, version=version).to_pyarrow_table().to_pylist()


def datafusion(root, version):
    import pyarrow as pa
    from deltalake import DeltaTable, QueryBuilder
    table = QueryBuilder().register('t', DeltaTable(root, version=version)).execute('select * from t').read_all()
    return pa.table(table).to_pylist()


def polars(root, version):
    import polars as pl
    return pl.scan_delta(root, version=version).collect().to_dicts()


def duckdb(root, version):
    from pathlib import Path

    import duckdb
    import duckdb_extension_delta
    found = next(Path(duckdb_extension_delta.__file__).parent.rglob('*.duckdb_extension'))
    connection = duckdb.connect()
    connection.execute(f"load '{found}'")
    connection.execute("set timezone = 'UTC'")
    at = '' if version is None else f', version = {version}'
    result = connection.execute(f"select * from delta_scan('file://{root}'{at})")
    names = [d[0] for d in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def chdb(root, version):
    os.chdir('/')       # chDB reads below the folder it is started in
    import chdb
    import pyarrow as pa
    at = '' if version is None else f', delta_lake_snapshot_version = {version}'
    query = f"select * from deltaLakeLocal('{root}') settings output_format_arrow_string_as_string = 1{at}"
    return pa.ipc.open_file(pa.BufferReader(chdb.query(query, 'Arrow').bytes())).read_all().to_pylist()


def daft(root, version):
    import daft
    return daft.read_deltalake(root, version=version).to_pylist()


ENGINES = {f.__name__: f for f in (deltalake, datafusion, polars, duckdb, chdb, daft)}
OURS = ('deltalake', 'datafusion', 'polars')     # in the project's environment

if __name__ == '__main__':
    engine, root, *versions = sys.argv[1:]
    for version in [int(v) for v in versions] or [None]:
        print(json.dumps(rows(ENGINES[engine](root, version))), flush=True)
