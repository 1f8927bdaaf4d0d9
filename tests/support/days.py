"""Small days, generated, and a lake to land them in.

hypothesis draws the shape of a day: files, rows, columns, executions. What is in a row follows from the day's seed,
the file and the row number, so a smaller day is a part of a larger one, and a failing day prints on a few lines.
"""
import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from chargeback_consolidation import entry, job, state
from chargeback_consolidation.sample.lake import run_words
from chargeback_consolidation.settings import parse
from chargeback_consolidation.spark import get_spark

DAY = '2025-11-02'
NOON = int(datetime(2025, 11, 2, 12, tzinfo=UTC).timestamp()) * 10**9
NANOS = {'s': 10**9, 'ms': 10**6, 'us': 10**3, 'ns': 1}
LENIENT = dict.fromkeys(('MAX_DUPLICATE_RATE', 'MAX_NULL_KEY_RATE', 'MAX_UNREADABLE_RATE'), 1)


class Lake:
    "A landing table, an output folder, and runs over them"

    def __init__(self, root, session=get_spark):
        self.session, self.root = session, Path(root)
        self.table, self.output, self.ledger = (
            Path(root, name) for name in ('lake/landing/chargebacks', 'out', '_out'))
        self.table.mkdir(parents=True, exist_ok=True)

    def land(self, path, content, mtime=None, **options):
        "Land a table, or bytes, at `path`, which is relative to the table's folder or just a name"
        path = self.table / (path if '/' in path else f'2025/11/02/{path}')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else encode(content, **options))
        if mtime is not None:
            os.utime(path, ns=(mtime, mtime))
        return path

    def words(self, **arguments):
        "The command line of a run; an argument that is None is left out"
        own = dict(OUTPUT_PATH=self.output, OUTPUT_FILE_COUNT=2, COMPRESSION_CODEC='snappy', PARTITION_DATE=DAY)
        return run_words(self.root / 'lake', **{**own, **arguments})

    def run(self, session=None, observe=state.quiet, **arguments):
        "The `Report` of one execution"
        settings = parse(self.words(**arguments))
        table, partitions = entry.plan_runs(settings)
        return job.consolidate(state.start_run(settings, table, partitions[0], session or self.session, observe))

    def main(self, **arguments):
        "The exit code of one execution"
        return entry.main(self.words(**arguments), session=self.session)

    @property
    def partition(self):
        return self.output / 'year=2025/month=11/day=02'

    def files(self):
        "The day's files, as a reader who lists the folder sees them"
        return sorted(p for p in self.partition.glob('*') if p.name[0] not in '._')

    def quarantine(self):
        return sorted((self.ledger / '_quarantine/year=2025/month=11/day=02').glob('*.parquet'))

    def landed(self):
        "The landing files, relative to the table"
        return sorted(str(p.relative_to(self.table)) for p in self.table.rglob('*.parquet'))


def encode(table, **options):
    "The bytes of a Parquet file"
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def chargebacks(keys, updated=None, event=None, **more):
    "A small landing table. updated, event: microseconds after noon, None for none, one for all rows or a list"
    def instants(given):
        given = given if isinstance(given, list) else [given] * len(keys)
        return pa.array([None if v is None else NOON // 1000 + v for v in given], pa.timestamp('us'))
    return pa.table({'chargeback_id': pa.array(keys, pa.string()), 'updated_at': instants(updated),
                     'event_timestamp': instants(0 if event is None else event), **more})


def tree(root):
    "Everything below `root`: {path: (time of change, digest)}"
    root = Path(root)
    return {
        str(p.relative_to(root)): (
            p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else '')
        for p in [root, *root.rglob('*')]
        if p.exists()}


# A day


@dataclass(frozen=True)
class File:
    path: str               # relative to the table
    execution: int          # the first that can see it, from 0
    rows: int
    columns: tuple          # (name, how wide) of the columns it has beside those that decide
    versions: bool = True   # False: it has no column updated_at
    write: tuple = ()       # options for pyarrow, as pairs
    copies: int = None      # number of the file whose bytes it repeats
    cut: float = None       # share of its bytes that landed
    mended: int = None      # the execution that finds all of it
    mtime: int = 0          # seconds


@dataclass(frozen=True)
class Execution:
    count: int
    codec: str
    reprocess: bool = False


@dataclass(frozen=True)
class Day:
    seed: int
    keys: int               # how many different ones there are; 0: no two are equal
    key: str                # 'string', 'int64' or 'binary'
    time: str               # unit of timestamps, 'int96', or 'far': INT96 in the year 9999
    missing: float          # share of rows without a version
    keyless: float          # share of rows without a key
    files: tuple
    executions: tuple
    at_once: bool = True    # whether to execute it all in one, too


DETAIL = [
    pa.struct({'a': pa.int32(), 'b': pa.float32()}), pa.struct({'a': pa.int64(), 'b': pa.float64(), 'c': pa.string()}),
    pa.struct({'c': pa.string(), 'b': pa.float64(), 'd': pa.list_(pa.timestamp('ns'))})]
FAMILIES = {  # the types that a column comes in; all of one family fit together
    'count': [pa.int8(), pa.int16(), pa.int32(), pa.int64()],
    'score': [pa.float32(), pa.float64()],
    'amount': [pa.decimal128(9, 2), pa.decimal128(20, 6), pa.decimal128(12, 0)],
    'detail': DETAIL,
    'lines': [pa.list_(DETAIL[0]), pa.list_(DETAIL[1])],
    'tags': [pa.map_(pa.string(), pa.int32()), pa.map_(pa.string(), pa.int64())],
    'name': [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())],
    'raw': [pa.binary(), pa.large_binary()],
    'seen': [pa.timestamp('ms', 'UTC'), pa.timestamp('ms', 'Europe/Berlin')],
    'nothing': [pa.null(), pa.int32()],
    'flag': [pa.bool_()],
    'due': [pa.date32()],
}
FLOATS = [0.0, -0.0, 1.5, float('nan'), float('inf'), -1e-40, 3.4e38, 0.1]
TEXTS = ['', 'x', 'naïve ☃ 𝄞', 'a' * 70, 'line\nbreak', '\0']


def value(rng, kind):
    "A value of this type; null now and then"
    t = pa.types
    if t.is_null(kind) or rng.random() < 0.15:
        return None
    if t.is_dictionary(kind):
        return value(rng, kind.value_type)
    if t.is_struct(kind):
        return {kind[i].name: value(rng, kind[i].type) for i in range(kind.num_fields)}
    if t.is_map(kind):
        return [(f'k{i}', value(rng, kind.item_type)) for i in range(rng.integers(3))]
    if t.is_list(kind):
        return [value(rng, kind.value_type) for _ in range(rng.integers(4))]
    if t.is_integer(kind):
        limit = 2 ** (kind.bit_width - 1)
        return int(rng.choice([0, 1, -1, limit - 1, -limit, int(rng.integers(-limit, limit))]))
    if t.is_floating(kind):
        return float(np.dtype(kind.to_pandas_dtype()).type(rng.choice(FLOATS)))
    if t.is_decimal(kind):
        limit = 10**kind.precision - 1
        digits = [0, 1, limit, -limit, int(rng.integers(-10**9 + 1, 10**9))][rng.integers(5)]
        return Decimal(digits).scaleb(-kind.scale) if kind.scale else Decimal(digits)
    if t.is_timestamp(kind):
        return int(NOON + rng.integers(10**9) * 10**6) // NANOS[kind.unit]
    if t.is_date(kind):
        return int(rng.integers(-1000, 30000))
    if t.is_boolean(kind):
        return bool(rng.integers(2))
    text = TEXTS[rng.integers(len(TEXTS))]
    return text.encode() + b'\xff' if 'binary' in str(kind) else text


def instants(rng, day, n):
    "A version column: few different instants, so that many are equal, and some that differ by a hair"
    unit = {'int96': 'ns', 'far': 'us'}.get(day.time, day.time)
    steps = np.array([0, 0, 1, 2, 999, 10**6])
    numbers = NOON // NANOS[unit] + rng.choice(steps, n)
    if day.time == 'far':
        numbers = np.where(rng.random(n) < 0.3, 253402300799 * 10**6 + rng.choice(steps[:4], n), numbers)
    return pa.array(numbers, pa.int64(), mask=rng.random(n) < day.missing).cast(pa.timestamp(unit))


def keys(rng, day, number):
    n = day.files[number].rows
    numbers = rng.integers(day.keys, size=n).tolist() if day.keys else range(1000 * number, 1000 * number + n)
    keyless = rng.random(n) < day.keyless
    write = {'int64': int, 'string': lambda v: f'cb-{v**2}', 'binary': lambda v: f'cb-{v}'.encode()}[day.key]
    empty = {'int64': None, 'string': '', 'binary': b''}[day.key]
    none = [[None, empty][i] for i in rng.integers(2, size=n)]
    return pa.array([none[i] if keyless[i] else write(v) for i, v in enumerate(numbers)], getattr(pa, day.key)())


def table_of(day, number):
    "The rows of a day's file"
    file = day.files[number]
    rng, n = np.random.default_rng([day.seed, number]), file.rows
    found = {
        'chargeback_id': keys(rng, day, number), 'stamp': pa.array(np.arange(n) + 1000 * number, pa.int64()),
        'event_timestamp': instants(rng, day, n)}
    if file.versions:
        found['updated_at'] = instants(rng, day, n)
    for name, wide in file.columns:
        kind = FAMILIES[name][wide]
        found[name] = pa.array([value(rng, kind) for _ in range(n)], kind)
    return pa.table(found)


def bytes_of(day, number):
    file = day.files[number]
    if file.copies is not None:
        return bytes_of(day, file.copies)
    return encode(
        table_of(day, number), use_deprecated_int96_timestamps=day.time in ('int96', 'far'), **dict(file.write))


def land(lake, day, execution):
    "Land what comes before an execution"
    for number, file in enumerate(day.files):
        if execution not in (file.execution, file.mended):
            continue
        data = bytes_of(day, number)
        if file.cut is not None and execution != file.mended:
            data = data[: int(file.cut * len(data))]
        lake.land(file.path, data, mtime=(file.mtime + execution) * 10**9 + number)


# Strategies

FOLDERS = [
    '2025/11/02', '2025/11/02', '2025/11/02/hour=07', '2025/11/2', 'year=2025/month=11/day=02',
    'partition_0=2025/partition_1=11/partition_2=2']
COUNTS = [1, 2, 2, 3, 3, 4, 5, 7, 9, 12]
NAMES = ['part-0', 'part-1', 'part-10', 'part-2', 'b b', 'Ä', 'z=1', 'chargebacks%20x', 'A', 'a.b']


@st.composite
def files(draw, executions, number):
    columns = draw(st.lists(st.sampled_from(sorted(FAMILIES)), unique=True, max_size=5))
    cut = draw(st.sampled_from([None] * 10 + [0.0, 0.4, 0.99]))
    execution = draw(st.integers(0, executions - 1))
    mended = draw(st.sampled_from([None, *range(execution + 1, executions)])) if cut is not None else None
    write = (('compression', draw(st.sampled_from(['snappy', 'gzip', 'zstd', 'lz4', 'none', 'brotli']))),
             ('row_group_size', draw(st.sampled_from([1000, 7, 25]))), ('use_dictionary', draw(st.booleans())),
             ('data_page_version', draw(st.sampled_from(['1.0', '2.0']))))
    return File(
        path=f'{draw(st.sampled_from(FOLDERS))}/{draw(st.sampled_from(NAMES))}-{number}.parquet', execution=execution,
        rows=draw(st.one_of(st.integers(0, 8), st.integers(0, 60))),
        versions=draw(st.sampled_from([True, True, True, False])),
        columns=tuple((name, draw(st.integers(0, len(FAMILIES[name]) - 1))) for name in columns), write=write,
        copies=draw(st.sampled_from([None] * 5 + list(range(number))[-2:])), cut=cut, mended=mended,
        mtime=draw(st.integers(0, 2 * 10**9)))


@st.composite
def days(draw):
    "A `Day`"
    executions = draw(st.sampled_from([1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 5, 6]))
    found = tuple(draw(files(executions, number)) for number in range(draw(st.integers(1, 7))))
    rows = max(1, sum(f.rows for f in found))
    rate = draw(st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.6, 0.9]))
    return Day(
        seed=draw(st.integers(0, 2**16)), keys=max(1, int(rows * (1 - rate))) if rate else 0,
        key=draw(st.sampled_from(['string', 'string', 'string', 'int64', 'binary'])),
        time=draw(st.sampled_from(['us', 'int96', 'ns', 'far', 'ms', 's'])),
        missing=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])), keyless=draw(st.sampled_from([0.0, 0.0, 0.05, 0.5])),
        files=found, at_once=draw(st.booleans()),
        executions=tuple(
            Execution(
                draw(st.sampled_from(COUNTS)), draw(st.sampled_from(['snappy', 'gzip', 'zstd', 'lz4', 'none'])),
                draw(st.sampled_from([False] * 8 + [True])))
            for _ in range(executions)))
