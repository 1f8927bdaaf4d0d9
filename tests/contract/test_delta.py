"""Every engine sees one day, at every moment: the Delta log beside the files (C19)."""
import json
import random
import re
import shutil
import threading
import time
from collections import Counter
from datetime import date
from decimal import Decimal
from itertools import product
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import read_delta
import readers
from days import LENIENT, Lake, chargebacks, encode, tree
from deltalake import DeltaTable
from inline import inline
from racer import Racer

from chargeback_consolidation import entry, job, state
from chargeback_consolidation.delta import CHECKPOINT_EVERY, NO_LOG, DayFiles, DeltaLog, protocol_for
from chargeback_consolidation.ledger import Ledger, snapshot
from chargeback_consolidation.local import LocalStore
from chargeback_consolidation.repair import repair
from chargeback_consolidation.settings import ArgumentError, parse
from chargeback_consolidation.store import StoreError
from chargeback_consolidation.writer import WrittenFile

DAYS = ('2025-11-02', '2025-11-03')
LOGGED = dict(LENIENT, DELTA_LOG='true')


@pytest.fixture
def lake(tmp_path): return Lake(tmp_path)


def land(lake, day, name, keys, updated, **columns):
    "Land a file of the day, as Flink writes it: timestamps as INT96"
    at = {c: pa.array([date.fromisoformat(day)] * len(keys), pa.date32()).cast(pa.timestamp('us'))
          for c in ('updated_at', 'event_timestamp')}
    at['updated_at'] = pa.array([v + updated * 1_000_001 for v in at['updated_at'].cast(pa.int64()).to_pylist()]).cast(
        pa.timestamp('us'))
    table = chargebacks(keys, **columns)
    for name_of, column in at.items():
        table = table.set_column(table.column_names.index(name_of), name_of, column)
    lake.land(f'{day.replace("-", "/")}/{name}', encode(table, use_deprecated_int96_timestamps=True))


def rich(n, **more):
    "Columns of the types that chargebacks have, nested ones too"
    return dict(
        amount=pa.array([Decimal(i).scaleb(-2) for i in range(n)], pa.decimal128(12, 2)),
        card=pa.array([{'bin': '400000', 'attempts': i} for i in range(n)]),
        tags=pa.array([['late', str(i)] for i in range(n)]),
        fees=pa.array([[('base', i)] for i in range(n)], pa.map_(pa.string(), pa.int64())),
        due=pa.array([date(2025, 12, 1)] * n), paid=pa.array([i % 2 == 0 for i in range(n)]),
        raw=pa.array([b'\x00\x01'] * n), rate=pa.array([0.25 * i for i in range(n)]), **more)


def ledger_of(lake, day=DAYS[0]): return Ledger(LocalStore(), str(lake.output), date.fromisoformat(day))


def table_rows(lake, days=DAYS):
    "The rows of the table as the ledger has them, by pyarrow, as texts in order; what a day lacks is null"
    found, names = [], {}
    for day in days:
        commit, files = snapshot(ledger_of(lake, day))
        for e in files:
            table = pq.ParquetFile(e.path).read(use_threads=False)
            names.update(dict.fromkeys(table.column_names))
            where = dict(part.split('=') for part in e.path.split('/')[-4:-1])
            found += [dict(row, **where) for row in table.to_pylist()]
    return read_delta.rows([{**dict.fromkeys(names), **row} for row in found])


def log_version(lake): return DeltaLog(LocalStore(), str(lake.output)).read().version


@pytest.fixture(scope='module')
def history(tmp_path_factory):
    "A table with a history, and its rows at every version: {version: rows}"
    lake, seen = Lake(tmp_path_factory.mktemp('history')), {}
    def run(day, **arguments):
        lake.run(session=inline, PARTITION_DATE=day, KEEP_SUPERSEDED_HOURS=48, **{**LOGGED, **arguments})
        seen[log_version(lake)] = table_rows(lake)
    land(lake, DAYS[0], 'a.parquet', ['k1', 'k2', None, 'k3'], 1, **rich(4))
    run(DAYS[0])
    land(lake, DAYS[1], 'a.parquet', ['k1', 'k9'], 1, **rich(2))
    run(DAYS[1])
    land(lake, DAYS[0], 'b.parquet', ['k2', 'k4'], 2, **rich(2, channel=pa.array(['web', None])))     # a late column
    run(DAYS[0])
    run(DAYS[0], OUTPUT_FILE_COUNT=1)
    run(DAYS[1], REPROCESS='true')
    for i in range(8):
        land(lake, DAYS[1], f'c{i}.parquet', [f'k{i}'], 3 + i, **rich(1))
        run(DAYS[1])
    return lake, seen


def test_c19_the_history_is_worth_it(history):
    lake, seen = history
    assert list(seen) == list(range(len(seen))) and len(seen) > CHECKPOINT_EVERY
    assert len({tuple(rows) for rows in seen.values()}) > 10
    kinds = {c.physical_type for c in (pq.ParquetFile(p).metadata.row_group(0).column(1) for p in lake.files())}
    assert kinds == {'INT96'}
    assert any('checkpoint' in p.name for p in Path(lake.output, '_delta_log').iterdir())


@pytest.mark.parametrize('engine', readers.NAMES)
def test_c19_every_version_is_the_day_of_its_commit(history, engine):
    lake, seen = history
    schema = set(json.loads(seen[max(seen)][0]))
    def shaped(rows):
        "A version's schema may lack the late column; row by row it is null then"
        return sorted(json.dumps({**dict.fromkeys(schema), **json.loads(r)}, sort_keys=True) for r in rows)
    try: found = readers.read(engine, lake.output, list(seen))
    except readers.Missing as e: pytest.skip(str(e))
    for version, rows in zip(seen, found, strict=True): assert shaped(rows) == shaped(seen[version]), (engine, version)


def test_the_comparison_can_fail(history):
    lake, seen = history
    assert read_delta.rows(read_delta.polars(str(lake.output), 0)) != seen[1]


@pytest.mark.parametrize('engine', readers.NAMES)
def test_c19_the_last_version_from_the_checkpoint_alone(history, engine, tmp_path):
    "Without the versions before the checkpoint the table opens all the same"
    lake, seen = history
    shutil.copytree(lake.output, tmp_path / 'out')
    for version in range(CHECKPOINT_EVERY): (tmp_path / f'out/_delta_log/{version:020d}.json').unlink()
    try: rows, = readers.read(engine, tmp_path / 'out')
    except readers.Missing as e: pytest.skip(str(e))
    assert rows == seen[max(seen)]


def test_c19_who_lists_the_root_still_gets_the_table_only(history):
    lake, seen = history
    repair(ledger_of(lake), 'ffffffff')
    keys = sorted(json.loads(row)['chargeback_id'] for row in table_rows(lake))
    named = [e.path for day in DAYS for e in snapshot(ledger_of(lake, day))[1]]
    listed = pyarrow.dataset.dataset(str(lake.output), partitioning='hive').files
    assert set(named) <= set(listed) and not [f for f in listed if '_delta_log' in f]
    assert sorted(pl.read_parquet(named, missing_columns='insert')['chargeback_id']) == keys
    found = duckdb.sql(f"select file from glob('{lake.output}/year=*/*/*/*.parquet')").fetchall()
    assert {f for f, in found} == set(listed)


def test_c19_repeated_by_anybody(lake):
    land(lake, DAYS[0], 'a.parquet', ['k1'], 1)
    lake.run(session=inline, **LOGGED)
    before = tree(lake.output / '_delta_log')
    for arguments in ({}, LOGGED): assert lake.run(session=inline, **{**LENIENT, **arguments}).status == 'nothing new'
    repair(ledger_of(lake), 'ffffffff')
    assert tree(lake.output / '_delta_log') == before


def test_c19_a_table_that_has_a_log_keeps_it_up(lake):
    "Also in a run that was not asked for one"
    land(lake, DAYS[0], 'a.parquet', ['k1'], 1)
    lake.run(session=inline, **LOGGED)
    land(lake, DAYS[0], 'b.parquet', ['k1', 'k2'], 2)
    lake.run(session=inline, **LENIENT)
    assert readers.read('deltalake', lake.output) == [table_rows(lake, DAYS[:1])]
    assert len(DeltaTable(lake.output).history()) == 2


def without_log(lake):
    "A table of two days that never had a log"
    for day in DAYS:
        land(lake, day, 'a.parquet', ['k1', 'k2'], 1)
        lake.run(session=inline, PARTITION_DATE=day, **LENIENT)
    assert not (lake.output / '_delta_log').exists()


def test_c19_repair_makes_a_log_for_a_table_that_has_none(lake):
    without_log(lake)
    ledger = ledger_of(lake)
    assert repair(ledger, 'ffffffff') == []
    ledger.delta = True
    assert repair(ledger, 'ffffffff') == [f'brought the Delta log up to commit 1 of {day}' for day in DAYS]
    assert readers.read('deltalake', lake.output) == [table_rows(lake)]
    assert repair(ledger, 'ffffffff') == []


def test_c19_the_first_run_with_a_log_tells_it_all_days(lake):
    without_log(lake)
    land(lake, DAYS[1], 'b.parquet', ['k3'], 2)
    lake.run(session=inline, PARTITION_DATE=DAYS[1], **LOGGED)
    assert readers.read('deltalake', lake.output) == [table_rows(lake)]


@pytest.mark.parametrize('what', ['last version', 'all'])
def test_c19_a_log_that_lags_is_brought_up(lake, what):
    land(lake, DAYS[0], 'a.parquet', ['k1'], 1)
    lake.run(session=inline, **LOGGED)
    land(lake, DAYS[0], 'b.parquet', ['k1', 'k2'], 2)
    lake.run(session=inline, **LOGGED)
    for path in sorted((lake.output / '_delta_log').iterdir())[-1 if what == 'last version' else 0:]: path.unlink()
    if what == 'all': assert lake.run(session=inline, **LENIENT).status == 'nothing new' and log_version(lake) == -1
    lake.run(session=inline, **LOGGED)
    assert readers.read('deltalake', lake.output) == [table_rows(lake, DAYS[:1])]


def test_c19_a_log_ahead_of_the_ledger_is_said(lake):
    land(lake, DAYS[0], 'a.parquet', ['k1'], 1)
    lake.run(session=inline, **LOGGED)
    ledger = ledger_of(lake)
    day = DayFiles(DAYS[0], 7, (), None)
    ledger.log.follow([day], lambda: [])
    with pytest.raises(StoreError, match='has commit 7 of 2025-11-02, which the ledger has not'):
        repair(ledger, 'ffffffff')


def test_c19_a_day_begun_anew_is_no_day_of_the_old_log(lake):
    "Its ledger counts from one again, and the log is further: nothing that the log names is removed"
    land(lake, DAYS[0], 'a.parquet', ['k1'], 1)
    lake.run(session=inline, **LOGGED)
    land(lake, DAYS[0], 'b.parquet', ['k1'], 2)
    lake.run(session=inline, **LOGGED)
    shutil.rmtree(lake.partition)
    shutil.rmtree(lake.ledger / '_ledger/year=2025')
    for words in ('has commit 2 of 2025-11-02, which the ledger has not', 'commit 2 of 2025-11-02 with other files'):
        report = lake.run(session=inline, **LOGGED)
        assert report.status == 'unfinished' and words in report.message
        land(lake, DAYS[0], 'c.parquet', ['k1'], 3)
    shutil.rmtree(lake.output / '_delta_log')
    lake.run(session=inline, **LOGGED)
    assert readers.read('deltalake', lake.output) == [table_rows(lake, DAYS[:1])]


# What a log cannot hold


ODD = {
    'nanoseconds': (dict(seen=pa.array([1], pa.timestamp('ns'))), r'column seen is timestamp\[ns\]'),
    'unsigned': (dict(seen=pa.array([1], pa.uint32())), 'column seen is uint32'),
    'time': (dict(seen=pa.array([1], pa.time64('us'))), r'column seen is time64\[us\]'),
    'nested': (
        dict(card=pa.array([{'bin': b'1'}], pa.struct([('bin', pa.binary(1))]))), r'column card\.bin is fixed_size'),
    'partition column': (dict(Day=pa.array([1])), 'column Day has the name of a partition column'),
    'odd name': ({'my amount': pa.array([1])}, 'column my amount has a character')}


@pytest.mark.parametrize('what', ODD)
def test_c19_refused_before_anything_is_touched(lake, what, capsys):
    columns, words = ODD[what]
    lake.land('a.parquet', chargebacks(['k1'], updated=1, **columns))
    assert lake.main(MAX_NULL_KEY_RATE=1, DELTA_LOG='true') == 2
    err = capsys.readouterr().err
    assert re.fullmatch(f'--DELTA_LOG: [^\n]*{words}[^\n]*\n', err), err
    assert not lake.files() and not (lake.output / '_delta_log').exists() and not ledger_of(lake).numbers()
    assert lake.main(MAX_NULL_KEY_RATE=1) == 0      # without a log all of it is fine


def test_c19_a_type_that_widens_over_days_is_refused(lake):
    land(lake, DAYS[0], 'a.parquet', ['k1'], 1, count=pa.array([1], pa.int32()))
    land(lake, DAYS[1], 'a.parquet', ['k1'], 1, count=pa.array([1], pa.int64()))
    lake.run(session=inline, **LOGGED)
    before = tree(lake.output)
    with pytest.raises(ArgumentError, match='column count would be long, and is integer in other days of the table'):
        lake.run(session=inline, PARTITION_DATE=DAYS[1], **LENIENT)
    assert tree(lake.output) == before


def test_c19_a_type_that_only_this_day_has_may_widen(lake):
    "All its files are written anew, so no file of the table has the narrow type"
    land(lake, DAYS[1], 'a.parquet', ['k1'], 1)
    land(lake, DAYS[0], 'a.parquet', ['k1'], 1, count=pa.array([1], pa.int32()))
    for day in DAYS: lake.run(session=inline, PARTITION_DATE=day, **LOGGED)
    land(lake, DAYS[0], 'b.parquet', ['k2'], 2, count=pa.array([2**40]))
    lake.run(session=inline, **LOGGED)
    for engine in read_delta.OURS: assert readers.read(engine, lake.output) == [table_rows(lake)]


def test_c19_a_dry_run_leaves_the_log_alone(lake):
    land(lake, DAYS[0], 'a.parquet', ['k1'], 1)
    before = tree(lake.root)
    lake.run(session=inline, DRY_RUN='true', **LOGGED)
    assert tree(lake.root) == before


def test_c19_timestamps_without_a_zone(lake):
    lake.land('a.parquet', chargebacks(['k1', 'k2'], updated=1))
    lake.run(session=inline, **LOGGED)
    assert DeltaTable(lake.output).protocol().reader_features == ['timestampNtz']
    for engine in readers.NAMES:
        try: assert readers.read(engine, lake.output) == [table_rows(lake, DAYS[:1])], engine
        except readers.Missing: continue


# At once


def test_c19_many_writers_one_log(tmp_path):
    "Eight days commit twelve times each, at once: no number is lost, each day ends with its last commit"
    def file(day, n):
        return WrittenFile(f'year=2025/month=11/day={day:02d}/part-00000-c{n:06d}-{day:08x}.parquet', 1, 10, '')
    def days(day):
        log = DeltaLog(LocalStore(), str(tmp_path / 'out'))
        for n in range(1, 13):
            commit = DayFiles(f'2025-11-{day:02d}', n, (file(day, n),), pa.schema([('chargeback_id', pa.string())]))
            log.follow([commit], lambda: [])
    threads = [threading.Thread(target=days, args=(d,)) for d in range(1, 9)]
    for t in threads: t.start()
    for t in threads: t.join()
    state = DeltaLog(LocalStore(), str(tmp_path / 'out')).read()
    assert state.version == 8 * 12 - 1 and set(state.numbers.values()) == {12} and len(state.adds) == 8
    files = DeltaTable(str(tmp_path / 'out')).file_uris()
    assert sorted(files) == sorted(f'{tmp_path}/out/{path}' for path in state.adds)


PHASES = ['prepare', 'commit', 'settling', 'settle']


@pytest.mark.parametrize('a, b', [
    pytest.param(a, b, marks=() if a == 'prepare' or a == b else pytest.mark.slow)
    for a, b in product(PHASES, PHASES)])
def test_c19_two_days_into_one_log(tmp_path, a, b):
    "The run of one day stops at the end of phase A, that of the other at B; then both go on"
    class Both:
        def __init__(self, lake, day): self.lake, self.day = lake, day

        def start(self, session, observe):
            settings = parse(self.lake.words(PARTITION_DATE=self.day, **LOGGED))
            table, (partition,) = entry.plan_runs(settings)
            return state.start_run(settings, table, partition, session, observe)
    lake = Lake(tmp_path)
    for day in DAYS:
        land(lake, day, 'a.parquet', ['k1', 'k2'], 1)
        if a in PHASES[:2]: lake.run(session=inline, PARTITION_DATE=day, **LOGGED)
        land(lake, day, 'b.parquet', ['k2', 'k3'], 2)
    first = Racer(Both(lake, DAYS[0]), inline, a).until_stop()
    second = Racer(Both(lake, DAYS[1]), inline, b).until_stop()
    assert (first.finish(), second.finish()) == ('done', 'done')
    assert readers.read('deltalake', lake.output) == [table_rows(lake)]


class Killed(BaseException):
    "The process is gone"


def commits(lake, number, stop, hours):
    "Land a file that rewrites all keys and run, again and again, until `stop`; one run in seven is killed at a phase"
    chance = random.Random(number)
    while not stop.is_set():
        doomed = chance.choice(['copy', 'prepare', 'commit', 'settling', 'settle']) if chance.random() < 1 / 7 else ''
        settings = parse(lake.words(KEEP_SUPERSEDED_HOURS=hours, **LOGGED))
        runs = []
        def observe(stage, seconds, facts, doomed=doomed, runs=runs):
            if stage == doomed:
                runs[0].unsure = True   # a process that is gone cleans nothing up
                raise Killed
        with lake.lock:
            lake.landed += 1
            n = lake.landed
        status = pa.array([str(n)] * 20)
        lake.land(f'.n{n}.part', chargebacks([f'k{i}' for i in range(20)], updated=n, status=status)).rename(
            lake.table / f'2025/11/02/n{n:05d}.parquet')
        table, (partition,) = entry.plan_runs(settings)
        runs.append(state.start_run(settings, table, partition, inline, observe))
        try: job.consolidate(runs[0])
        except (Killed, job.Conflict): pass


def looked(read):
    "What a reader found who looked at the day while it changed: 'right', 'wrong' or 'an error'"
    try: statuses = read()
    except (OSError, pa.ArrowException): return 'an error'
    return 'right' if len(statuses) == 20 and len(set(statuses)) == 1 else 'wrong'


@pytest.mark.parametrize('hours, number', [
    (1, 20), pytest.param(1, 200, marks=pytest.mark.slow), pytest.param(0, 200, marks=pytest.mark.slow)])
def test_c19_a_reader_during_many_commits(tmp_path, hours, number):
    """Two runs at once, one in seven killed: who reads through the log never sees anything but one commit's day. If
    superseded files stay, it never meets a file that is gone, either."""
    lake, stop, found = Lake(tmp_path), threading.Event(), {'log': Counter(), 'listing': Counter()}
    lake.lock, lake.landed = threading.Lock(), 1
    lake.land('n00001.parquet', chargebacks([f'k{i}' for i in range(20)], updated=1, status=pa.array(['1'] * 20)))
    lake.run(session=inline, KEEP_SUPERSEDED_HOURS=hours, **LOGGED)
    writers = [threading.Thread(target=commits, args=(lake, n, stop, hours), daemon=True) for n in (1, 2)]
    for w in writers: w.start()
    ledger, end = ledger_of(lake), time.monotonic() + 240
    def by_log(): return DeltaTable(str(lake.output)).to_pyarrow_table(columns=['status'])['status'].to_pylist()
    def by_listing():
        return [s for p in lake.files() for s in pq.ParquetFile(p).read(columns=['status'])['status'].to_pylist()]
    while (ledger.numbers() or [0])[-1] < number and time.monotonic() < end:
        found['log'][looked(by_log)] += 1
        found['listing'][looked(by_listing)] += 1
    stop.set()
    for w in writers: w.join(60)
    print(f'{ledger.numbers()[-1]} commits, superseded files stay {hours} h:', {k: dict(v) for k, v in found.items()})
    assert ledger.numbers()[-1] >= number and found['log']['right'] > number / 4 and found['log']['wrong'] == 0
    if hours: assert found['log']['an error'] == 0


class Alone(DeltaLog):
    "The log of a writer that knows it is alone, and need not read what it wrote"
    state = NO_LOG

    def read(self): return self.state

    def save(self, state):
        super().save(state)
        saved = state.version - max(state.checkpoint, 0) >= CHECKPOINT_EVERY
        self.state = state._replace(checkpoint=state.version) if saved else state


@pytest.mark.slow
def test_c19_2000_commits_open_in_a_second(tmp_path):
    alone, log = (kind(LocalStore(), str(tmp_path / 'out')) for kind in (Alone, DeltaLog))
    schema = pa.schema([('chargeback_id', pa.string())])
    for n in range(2000):
        day = f'2025-{n // 200 + 1:02d}-{n // 10 % 20 + 1:02d}'
        where = 'year={}/month={}/day={}'.format(*day.split('-'))
        names = [f'{where}/part-{i:05d}-c{n % 10 + 1:06d}-00000000.parquet' for i in range(10)]
        files = tuple(WrittenFile(name, 1, 10, '') for name in names)
        alone.follow([DayFiles(day, n % 10 + 1, files, schema)], lambda: [], now=n)
    started = time.perf_counter()
    table = DeltaTable(str(tmp_path / 'out'))
    files = table.file_uris()
    opened = time.perf_counter() - started
    started = time.perf_counter()
    state = log.read()
    read = time.perf_counter() - started
    print(f'2,000 commits, {len(files)} files: deltalake opens the table in {opened:.3f} s, the job in {read:.3f} s')
    assert table.version() == state.version == 1999 and len(files) == len(state.adds) == 2000
    assert opened < 1 and read < 1


def test_c19_a_log_without_superseded_files_warns(lake):
    "Who reads through it may meet a file that is gone; else nothing is said"
    for number, (given, warned) in enumerate((
            (LOGGED, True), (dict(LOGGED, KEEP_SUPERSEDED_HOURS=1), False), (LENIENT, False), (LOGGED, True))):
        land(lake, DAYS[0], f'n{number}.parquet', ['k1', f'k{number}'], number)
        report = lake.run(session=inline, **given)
        said = [w for w in report.warnings if w.startswith('KEEP_SUPERSEDED_HOURS is 0: ')]
        assert report.status == 'done' and len(said) == warned and not any('\n' in w for w in said)
    assert lake.run(session=inline, **LOGGED).warnings == tuple(said)


def test_c19_a_log_that_is_begun_or_kept_is_told(lake):
    messages = []
    for name, log in (('a', False), ('b', True), ('c', True), ('d', False)):
        lake.land(f'{name}.parquet', chargebacks([name]))
        messages.append(lake.run(session=inline, DELTA_LOG=log).message)
    folder = f'{lake.output}/_delta_log'
    assert messages == [
        '', f'a Delta log of the table was begun, in {folder}: from now on each run keeps it', '',
        f'the table has a Delta log, in {folder}: it was kept']


@pytest.mark.parametrize(('kind', 'version'), [
    ('string', 1), ('timestamp', 1), ('timestamp_ntz', 3),
    ({'type': 'struct', 'fields': [{'name': 'timestamp_ntz', 'type': 'string', 'nullable': True, 'metadata': {}}]}, 1),
    ({'type': 'struct', 'fields': [{'name': 'at', 'type': 'timestamp_ntz', 'nullable': True, 'metadata': {}}]}, 3),
    ({'type': 'array', 'elementType': 'timestamp_ntz', 'containsNull': True}, 3),
    ({'type': 'map', 'keyType': 'string', 'valueType': {'type': 'array', 'elementType': 'timestamp_ntz'}}, 3)], ids=str)
def test_c19_types_and_not_names_say_what_a_reader_must_know(kind, version):
    found = protocol_for([{'name': 'timestamp_ntz_hint', 'type': kind, 'nullable': True, 'metadata': {}}])
    assert found['minReaderVersion'] == version
