"The sample day: the same bytes for ever, and really holding what it says was planted."
import re
from collections import Counter
from dataclasses import fields
from hashlib import blake2b
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chargeback_consolidation import entry, state
from chargeback_consolidation.sample import landing
from chargeback_consolidation.sample.lake import run_words, sample_partition
from chargeback_consolidation.sample.landing import Landed, digest, land_sample
from chargeback_consolidation.sample.records import Sample, instants, noise, origins, own_records, planted_files, schema
from chargeback_consolidation.sample.records import records as made
from chargeback_consolidation.settings import parse

TROUBLE = dict(
    files=60, records_per_file=50, payload_bytes=60, versions=0.15, ties=0.02, redelivered_records=0.03, null_keys=0.01,
    missing_updated_at=0.05, outside_day=0.02, redelivered_files=0.1, truncated_files=0.05, empty_files=0.04,
    zero_row_files=0.02)
COUNTS = [f.name for f in fields(Landed) if f.name != 'folder']

def parts(landed): return sorted(Path(landed.folder).glob('part-*.parquet'))
def readable(landed): return [path for path in parts(landed) if path.read_bytes()[-4:] == b'PAR1']
def rows_of(landed):
    return pa.concat_tables([pq.read_table(path) for path in readable(landed)], promote_options='default')

def ask(rows, sql):
    "The one row that a query of the table `rows` gives, as a dict: DuckDB's opinion, not ours"
    return duckdb.sql(sql).to_arrow_table().to_pylist()[0]

@pytest.fixture(scope='module')
def landed(tmp_path_factory): return land_sample(tmp_path_factory.mktemp('catalog'), **TROUBLE)

@pytest.fixture(scope='module')
def rows(landed): return rows_of(landed)


# The same bytes

def test_bytes_depend_on_neither_workers_nor_deliveries(landed, tmp_path):
    deliveries = [land_sample(tmp_path, delivery=d, workers=d, **TROUBLE) for d in (3, 1, 4, 2)]
    assert digest(deliveries[0].folder) == digest(landed.folder)
    assert {name: sum(getattr(d, name) for d in deliveries) for name in COUNTS} == {
        name: getattr(landed, name) for name in COUNTS}

def test_another_seed_or_day_is_another_sample(landed, tmp_path):
    found = [
        land_sample(tmp_path, table=f't{i}', **{**TROUBLE, **other})
        for i, other in enumerate([{'seed': 1}, {'date': '2025-11-03'}])]
    assert len({digest(landed.folder), *(digest(o.folder) for o in found)}) == 3

def test_days_share_no_chargeback(tmp_path):
    "Nor two days far apart, nor those before the usual one"
    days = ['2025-11-02', '2025-11-03', '2025-11-01', '2026-11-02', '1970-01-02', '2199-12-31']
    found = [rows_of(land_sample(tmp_path, date=day, **TROUBLE)) for day in days]
    for column in ('chargeback_id', 'transaction_id'):
        ids = [set(rows[column].drop_null().to_pylist()) for rows in found]
        assert min(map(len, ids)) > 1000 and len(set.union(*ids)) == sum(map(len, ids)), column

FLINK = re.compile(
    r'2025-11-02--([01][0-9]|2[0-3])/part-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}-[0-9]+-[0-9]+'
)

def test_flinks_own_names_hold_the_same_day(landed, rows, tmp_path, spark):
    "And the job reads them as they are"
    for delivery in (1, 2, 3, 4): there = land_sample(tmp_path, names='flink', delivery=delivery, **TROUBLE)
    table = Path(there.folder)
    files = [p for p in table.rglob('*') if p.is_file() and p.name[0] != '.']
    assert len(files) == TROUBLE['files'] and all(FLINK.fullmatch(p.relative_to(table).as_posix()) for p in files)
    assert len({p.parent for p in files}) == 24 and len({p.name[5:41] for p in files}) == landing.SUBTASKS
    assert sorted(p.read_bytes() for p in files) == sorted(p.read_bytes() for p in parts(landed))
    words = run_words(tmp_path, max_duplicate_rate=1, max_null_key_rate=1, max_unreadable_rate=1)
    report, = entry.run_all(parse(words), lambda: spark, state.quiet, lambda report: None)
    assert (report.records_processed, report.rows_after) == (
        len(rows), len(set(rows['chargeback_id'].drop_null().to_pylist())))

def test_scoped_ids_make_a_key_of_two_columns(landed, rows, tmp_path, spark):
    "As many chargebacks and versions as in the plain sample, told apart by two columns only"
    land_sample(tmp_path, columns='scoped', **TROUBLE)
    more = dict(max_duplicate_rate=1, max_null_key_rate=1, max_unreadable_rate=1, output_file_count=1)
    names = dict(key_columns='card_network,dispute_number', version_columns='revised_at,occurred_at')
    words = run_words(tmp_path, **more, **names)
    report, = entry.run_all(parse(words), lambda: spark, state.quiet, lambda report: None)
    keys = rows['chargeback_id'].drop_null().to_pylist()
    assert (report.records_processed, report.rows_after) == (len(rows), len(set(keys)))
    [path] = (tmp_path / 'out').rglob('*.parquet')
    pairs = pq.ParquetFile(path).read().select(['card_network', 'dispute_number']).to_pylist()
    assert len(pairs) == len({tuple(p.values()) for p in pairs}) > len({p['dispute_number'] for p in pairs}) + 100

def test_noise_is_splitmix64():
    def splitmix64(x, mask=2**64 - 1):
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
        return x ^ x >> 31
    first, step = int.from_bytes(blake2b(b'7 anything', digest_size=8).digest(), 'little'), 0x9E3779B97F4A7C15
    at = np.array([0, 1, 2**40])
    assert noise(7, 'anything', at).tolist() == [splitmix64((first + n * step) % 2**64) for n in at.tolist()]

def test_a_record_needs_no_other_record():
    s = Sample(**TROUBLE)
    at = np.arange(own_records(s))
    whole, some = origins(s, at), origins(s, at[777:801])
    for name in ('kind', 'key', 'times', 'content', 'step'):
        assert (getattr(whole, name)[777:801] == getattr(some, name)).all()

def test_landing_again_disturbs_nothing_and_mends_what_is_missing(tmp_path):
    landed = sample_partition(tmp_path)
    before, missing = {path: path.stat().st_mtime_ns for path in Path(landed.folder).iterdir()}, parts(landed)[2]
    missing.unlink()
    assert sample_partition(tmp_path) == landed
    after = {path: path.stat().st_mtime_ns for path in Path(landed.folder).iterdir()}
    assert [path for path in before if after[path] != before[path]] in ([], [missing]) and after.keys() == before.keys()

def test_a_file_of_somebody_else_is_not_overwritten(tmp_path):
    folder = tmp_path / 'landing/chargebacks/2025/11/02'
    folder.mkdir(parents=True)
    (folder / 'part-0-0.parquet').write_bytes(b'mine')
    with pytest.raises(FileExistsError, match=r'part-0-0\.parquet is there and is not of this sample'):
        land_sample(tmp_path, files=500)
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [('part-0-0.parquet', b'mine')]


# What was planted

def test_files_are_what_was_planted(landed):
    whole, widths = readable(landed), Counter(pq.read_metadata(path).num_columns for path in readable(landed))
    with_rows = [path.read_bytes() for path in whole if pq.read_metadata(path).num_rows]
    empty = [path for path in parts(landed) if path.stat().st_size == 0]
    assert len(parts(landed)) == landed.files == 60
    assert sum(path.stat().st_size for path in parts(landed)) == landed.bytes
    assert len(with_rows) - len(set(with_rows)) == landed.redelivered_files == 6
    assert len(whole) - len(with_rows) == landed.zero_row_files == 1
    assert len(empty) == landed.empty_files == 2
    assert len(parts(landed)) - len(whole) - len(empty) == landed.truncated_files == 3
    assert len(widths) == 3 and sum(widths.values()) - widths[min(widths)] == landed.drifted_files > 20

def test_records_are_what_was_planted(landed, rows):
    found = ask(rows, """
        with keyed as (from rows where chargeback_id is not null),
             moments as (select distinct chargeback_id, event_timestamp, updated_at from keyed)
        select (select count(*) from rows) as records,
               (select count(*) from rows where chargeback_id is null) as null_keys,
               (select count(distinct chargeback_id) from keyed) as chargebacks,
               (select count(*) - count(distinct stream_offset) from keyed) as redelivered_records,
               (select count(distinct stream_offset) from keyed)
                 - (select count(*) from moments) as ties,
               (select count(*) - count(distinct chargeback_id) from moments) as versions,
               (select count(*) from rows where updated_at is null) as missing_updated_at,
               (select count(*) from rows where event_timestamp < timestamptz '2025-11-02 00:00:00+00') as outside_day
    """)
    assert found == {name: getattr(landed, name) for name in found}
    assert all(found.values())

def test_every_record_is_counted_once(landed):
    assert (
        landed.records
        == landed.chargebacks + landed.versions + landed.ties + landed.redelivered_records + landed.null_keys)

def test_exact_repeats_are_exact(rows):
    found = ask(
        rows,
        'select (select count(*) from (select distinct * from rows)) as records, count(distinct stream_offset) as '
        'offsets from rows'
    )
    assert found['records'] == found['offsets'] < len(rows)

def test_versions_agree_on_what_belongs_to_the_chargeback(rows, landed):
    shared = (
        'transaction_id, merchant_id, merchant_name, card_network, currency, reason_code, reason_description, '
        'cardholder')
    assert ask(
        rows,
        f"""select count(*) as rows, count(distinct chargeback_id) as keys
                         from (select distinct chargeback_id, {shared} from rows where chargeback_id is not null)""",
    ) == {'rows': landed.chargebacks, 'keys': landed.chargebacks}

def test_later_arrival_is_not_always_newer():
    s = Sample(versions=0.4, version_lag=0.0001, files=200)
    found = ask(
        made(s, origins(s, np.arange(own_records(s)))), """
        select count(*) filter (event_timestamp > before) as newer, count(*) filter (event_timestamp < before) as older
        from (select event_timestamp,
                     lag(event_timestamp) over (partition by chargeback_id order by stream_offset) as before
              from rows)"""
    )
    assert found['newer'] > found['older'] > 0

def test_events_are_in_the_day_or_the_evening_before(rows):
    assert ask(
        rows,
        """
        with events as (
            select *, epoch(event_timestamp) - epoch(timestamptz '2025-11-02 00:00:00+00') as second from rows)
        select count(*) filter (second not between -4 * 3600 and 24 * 3600) as outside,
               count(*) filter (updated_at > event_timestamp + interval 2 second
                                or updated_at < event_timestamp - interval 2 second) as apart
        from events""",
    ) == {'outside': 0, 'apart': 0}

def test_events_lie_up_to_a_minute_before_their_arrival():
    s = Sample(outside_day=0)
    at, gap = np.arange(own_records(s)), 86400 / own_records(s)
    event, _ = instants(s, at)
    delay = (at * gap - (event - event[0] // 86400_000_000 * 86400_000_000) / 1e6)[at * gap > 60]
    assert -gap <= delay.min() < 1 and 58 < delay.max() <= 60

def test_versions_come_close_to_what_they_revise():
    s = Sample(files=500, versions=0.2)
    o = origins(s, np.arange(own_records(s)))
    back = (np.arange(len(o.key)) - o.key)[(o.kind == 2) & (o.step == 1)] / len(o.key)
    assert np.median(back) < 0.02 and back.max() > 0.5

def test_everything_that_may_be_missing_sometimes_is(rows):
    missing = {name for name in rows.column_names if rows[name].null_count}
    assert missing == {
        'chargeback_id', 'reason_description', 'cardholder', 'documents', 'evidence', 'updated_at', 'channel',
        'risk_score'}
    assert {len(each) for each in rows['documents'].to_pylist() if each is not None} == {0, 1, 2, 3}
    assert {each['authenticated'] for each in rows['cardholder'].to_pylist() if each} == {True, False, None}
    assert len(set(rows['status'].to_pylist())) == 6

def test_100_records_are_about_75_kb(tmp_path):
    landed = land_sample(tmp_path, files=12, timestamps='int96')
    assert all(60_000 < path.stat().st_size < 90_000 for path in parts(landed))
    assert rows_of(landed).num_rows == landed.records == 1200

def test_a_default_day_has_some_of_everything_and_few_broken_files_in_each_delivery():
    s = Sample()
    brings, source = landing.plan(s)
    assert planted_files(s) == [5, 1, 1, 1] and all(
        landing.tally(s, brings, source)[name] for name in COUNTS if name not in ('files', 'bytes'))
    assert all(np.isin(brings[first:stop], (2, 3)).mean() < 0.01 for first, stop in landing.spans(s))


# Names, types, places

def test_what_is_not_data_lies_beside(landed):
    others = sorted(path.name for path in Path(landed.folder).iterdir() if path not in parts(landed))
    assert others[-1] == '_SUCCESS' and len(others) == 5
    assert all(re.fullmatch(r'\.part-[0-3]-[0-9]+\.parquet\.inprogress\.[0-9a-f]{16}', name) for name in others[:-1])
    assert Path(landed.folder).parts[-5:] == ('landing', 'chargebacks', '2025', '11', '02')

def test_order_of_names_is_not_order_of_time(landed):
    times = [pq.read_table(path, columns=['stream_offset'])['stream_offset'] for path in readable(landed)]
    firsts = [each[0].as_py() for each in times if len(each)]
    assert firsts != sorted(firsts)

@pytest.mark.parametrize('unit, physical', [('us', 'INT64'), ('ms', 'INT64'), ('ns', 'INT64'), ('int96', 'INT96')])
def test_timestamps_of_every_unit(tmp_path, unit, physical):
    landed = sample_partition(tmp_path, timestamps=unit)
    leaves = pq.ParquetFile(readable(landed)[0]).schema
    columns = {column.path: column for column in map(leaves.column, range(len(leaves)))}
    assert {columns[name].physical_type for name in ('event_timestamp', 'updated_at')} == {physical}
    found = rows_of(landed)['event_timestamp']
    wanted = rows_of(sample_partition(tmp_path, table='us'))['event_timestamp'].cast(
        pa.timestamp(unit if unit == 'ms' else 'us', 'UTC'), safe=False)
    assert found.type == pa.timestamp('ns' if unit == 'int96' else unit, tz=None if unit == 'int96' else 'UTC')
    assert found.cast(wanted.type) == wanted

def test_types_are_those_of_the_schema(rows):
    assert rows.schema.types == schema().types and rows.schema.names == schema().names

def test_sample_partition_has_everything_in_40_records(tmp_path):
    landed = sample_partition(tmp_path)
    assert (landed.files, landed.records) == (6, 40)
    assert {name for name in COUNTS if not getattr(landed, name)} == {'empty_files', 'zero_row_files'}

@pytest.mark.parametrize('files', [0, 1, 2])
def test_sample_partition_needs_a_file_of_its_own(tmp_path, files):
    with pytest.raises(ValueError, match='^files must be'): sample_partition(tmp_path, files=files)

def test_progress_and_options_reach_the_landing(tmp_path):
    seen = []
    sample_partition(
        tmp_path, files=40, records_per_file=1000, payload_bytes=600, progress=lambda *done: seen.append(done))
    assert len(seen) > 3 and seen == sorted(seen) and seen[-1] == (40, 40)


# Limits

@pytest.mark.parametrize(
    'extreme',
    [
        dict(files=1, records_per_file=1), dict(files=3, deliveries=5), dict(payload_bytes=0), dict(versions=0.97),
        dict(null_keys=1), dict(version_lag=0), dict(version_lag=1, versions=0.9), dict(drift=0), dict(drift=1),
        dict(missing_updated_at=1, outside_day=1), dict(date='1970-01-02', timestamps='ns'),
        dict(date='2199-12-31', timestamps='ns'), dict(compression='zstd'), dict(compression='none'),
        dict(versions=0, ties=0, redelivered_records=0, redelivered_files=0, null_keys=0)],
    ids=str)
def test_extremes(tmp_path, extreme):
    landed = land_sample(tmp_path, **{**dict(files=8, records_per_file=20, payload_bytes=50), **extreme})
    rows = rows_of(landed)
    keys = rows['chargeback_id'].drop_null()
    assert (len(rows), len(keys.unique()), len(rows) - len(keys)) == (
        landed.records, landed.chargebacks, landed.null_keys)
    assert rows['updated_at'].null_count == landed.missing_updated_at

@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(files=0), 'files must be a whole number from 1 to 1000000, not 0'),
        (dict(files='7'), "files must be a whole number from 1 to 1000000, not '7'"),
        (dict(files=True), 'files must be a whole number from 1 to 1000000, not True'),
        (dict(records_per_file=-1), 'records_per_file must be a whole number from 1 to 100000, not -1'),
        (dict(seed=-1), 'seed must be a whole number'), (dict(seed=None), 'seed must be a whole number'),
        (dict(date='2025-02-30'), 'date must be a day'), (dict(date='20251102'), 'date must be a day'),
        (dict(date=''), 'date must be a day'), (dict(date='2250-01-01'), 'date must be a day'),
        (dict(deliveries=0), 'deliveries must be'),
        (dict(delivery=0), 'delivery must be a whole number from 1 to 4, not 0'),
        (dict(delivery=5), 'delivery must be a whole number from 1 to 4, not 5'),
        (dict(delivery='1'), 'delivery must be'), (dict(workers=0), 'workers must be'),
        (dict(versions=-0.1), 'versions must be a share from 0 to 1, not -0.1'),
        (dict(ties=float('nan')), 'ties must be a share'), (dict(null_keys='1%'), 'null_keys must be a share'),
        (dict(versions=0.6, ties=0.5), 'versions [+] ties [+] redelivered_records must be at most 0.99, not 1.102'),
        (
            dict(files=4, empty_files=0.5, truncated_files=0.5),
            'files must be more than the 4 that bring nothing new, not 4'),
        (
            dict(records_per_file=100_000, payload_bytes=100_000),
            'records_per_file [*] payload_bytes must be at most 500000000'),
        (dict(timestamps='s'), "timestamps must be one of us, ms, ns, int96, not 's'"),
        (dict(compression='rar'), 'compression must be one of'),
        (dict(table='a/b'), 'table must be the name of a folder'), (dict(table=''), 'table must be'),
        (dict(database='..'), 'database must be'),
        (dict(verions=0.1), 'verions is not a parameter of a sample; the nearest is versions')],
    ids=lambda value: str(value)[:40])
def test_a_bad_value_is_one_line_that_names_it(tmp_path, bad, message):
    with pytest.raises(ValueError, match='^' + message) as e: land_sample(tmp_path, **bad)
    assert '\n' not in str(e.value) and not list(tmp_path.iterdir())

def test_no_catalog_is_a_bad_value():
    with pytest.raises(ValueError, match='^catalog must be a folder'): land_sample('')
