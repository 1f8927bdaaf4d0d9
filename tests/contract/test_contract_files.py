"""The contract, line by line: quality, the files of a day, types, conservation, the commit. C1 to C5 and C12 to C14
stand in test_contract_runs."""
import json
import re
from datetime import datetime
from decimal import Decimal
from statistics import mean

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from days import NOON, Lake, chargebacks, encode, tree
from hypothesis import example, given
from hypothesis import strategies as st
from inline import inline
from oracle import by_key, columns, rows_of

from chargeback_consolidation import copying, job
from chargeback_consolidation.layout import Piece
from chargeback_consolidation.ledger import Ledger
from chargeback_consolidation.parquet import SchemaConflict, int96_unit
from chargeback_consolidation.quality import ConservationBroken, QualityFailed

YESTERDAY = -(86400 * 10**6)
ANY = dict.fromkeys(('MAX_DUPLICATE_RATE', 'MAX_NULL_KEY_RATE', 'MAX_UNREADABLE_RATE', 'MAX_SCHEMA_CONFLICT_RATE'), 1)


@pytest.fixture
def played(tmp_path):
    "A lake whose runs play Spark in this process: for what is decided and committed, whoever copies"
    return Lake(tmp_path, inline)


# C6 Quality


def trouble(lake, rule):
    "Land four files of four records, a quarter of them, or one of the files, in trouble"
    for i in range(4):
        keys, updated, event, more = [f'{i}{j}' for j in range(4)], [1] * 4, [0] * 4, {'amount': pa.array([i + 1] * 4)}
        if rule == 'null_key':
            keys[0] = [None, ''][i % 2]
        if rule == 'duplicate':
            keys[0] = keys[1]
        if rule == 'missing_version':
            updated[0] = None
        if rule == 'outside_day':
            event[0] = YESTERDAY if i % 2 else -YESTERDAY
        if rule == 'schema_conflict' and i == 3:
            more = {'amount': pa.array(['four'] * 4)}
        table = chargebacks(keys, updated, event, **more)
        path = lake.land(f'{i}.parquet', table)
    if rule == 'unreadable':
        path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    'rule', ['duplicate', 'null_key', 'missing_version', 'outside_day', 'unreadable', 'schema_conflict'])
def test_c6_each_rule_has_a_threshold_to_warn_and_one_to_fail(played, rule, capsys):
    trouble(played, rule)
    maximum, warn = f'MAX_{rule.upper()}_RATE', f'WARN_{rule.upper()}_RATE'
    before = tree(played.table)
    assert played.main(**{maximum: 0.24}) == 4
    err = capsys.readouterr().err
    assert (
        err.count('\n') == 1 and f'--{maximum}' in err and re.search(r'\b4 of 16 |\b1 of 4 ', err) and '25.00%' in err)
    assert not played.files() and not played.quarantine() and not list(played.output.rglob('*.json'))
    for limit, level in ((0.25, 'ok'), (0.24, 'warn')):
        report = played.run(DRY_RUN=True, **{maximum: 0.25, warn: limit})
        assert [(f['rule'], f['level']) for f in report.findings if f['rule'] == rule or f['level'] != 'ok'] == [
            (rule, level)]
        assert ('25.00%' in ' '.join(report.warnings)) == (level == 'warn')
    assert tree(played.table) == before


def test_c6_the_default_thresholds(played, capsys):
    played.land('a.parquet', chargebacks(['a'] * 2 + ['b'] * 2))
    assert played.main() == 0
    played.land('b.parquet', chargebacks(['a'] * 9))
    played.land('c.parquet', b'')
    played.land('d.parquet', chargebacks([None]))
    assert played.main() == 4
    err = capsys.readouterr().err
    assert all(f'--MAX_{word}_RATE' in err for word in ('DUPLICATE', 'UNREADABLE', 'NULL_KEY')) and 'SCHEMA' not in err


def test_c6_rows_without_a_key_go_to_quarantine(lake):
    lake.land(
        'a.parquet',
        chargebacks(['a', None, 'b', ''], amount=pa.array([Decimal('1.10'), Decimal('2.20'), None, Decimal('4.40')])))
    lake.land('b.parquet', chargebacks([None, None]))
    report = lake.run(OUTPUT_FILE_COUNT=3, MAX_NULL_KEY_RATE=1)
    assert report.quarantined == 4 and sorted(by_key(rows_of(lake.files()))) == ['a', 'b']
    aside = pa.concat_tables([pq.read_table(path) for path in lake.quarantine()]).to_pylist()
    told = sorted(
        (r['_landing_file'], r['_landing_row'], r['_quarantine_reason'], r['chargeback_id'], r['amount']) for r in aside
    )
    assert told == [
        ('2025/11/02/a.parquet', 1, 'missing key', None, Decimal('2.20')),
        ('2025/11/02/a.parquet', 3, 'missing key', '', Decimal('4.40')),
        ('2025/11/02/b.parquet', 0, 'missing key', None, None), ('2025/11/02/b.parquet', 1, 'missing key', None, None)]
    lake.land('c.parquet', chargebacks(['c', None]))
    lake.run(OUTPUT_FILE_COUNT=3, MAX_NULL_KEY_RATE=1)
    assert sum(pq.read_metadata(path).num_rows for path in lake.quarantine()) == 5


def broken_page(table, column):
    "The bytes of a file in which only the values of `column` are damaged"
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, use_dictionary=False, compression='gzip')
    data = bytearray(sink.getvalue().to_pybytes())
    place = pq.ParquetFile(pa.BufferReader(bytes(data))).metadata.row_group(0).column(table.column_names.index(column))
    end = place.data_page_offset + place.total_compressed_size
    data[end - 40:end] = b'\xff' * 40
    return bytes(data)


@pytest.mark.parametrize('column', ['chargeback_id', 'text'])
def test_c6_a_file_that_cannot_be_read_is_named_and_tried_again(lake, capsys, column):
    text = pa.array([f'{i * 7919 % 1009}' for i in range(100)])
    good = chargebacks([f'bad{i}' for i in range(100)], text=text)
    lake.land('good.parquet', chargebacks([f'good{i}' for i in range(100)], text=text))
    lake.land('bad.parquet', broken_page(good, column))
    lake.land('empty.parquet', b'')
    assert lake.main() == 4 and not lake.files()
    capsys.readouterr()
    assert lake.main(MAX_UNREADABLE_RATE=0.7) == 0
    said = capsys.readouterr().out
    assert re.search(r'set aside 2025/11/02/bad.parquet: unreadable: \w+: .+', said) and '0 bytes' in said
    assert {k[:4] for k in by_key(rows_of(lake.files()))} == {'good'}
    lake.land('bad.parquet', good)
    report = lake.run(MAX_UNREADABLE_RATE=0.4)
    assert (report.files_taken, report.unreadable_files, report.rows_after) == (1, 1, 200)


def test_c6_a_file_that_fits_no_schema_is_set_aside_by_name(lake):
    lake.land('a.parquet', chargebacks(['a'], amount=pa.array([Decimal('1.10')])))
    lake.land('b.parquet', chargebacks(['b'], amount=pa.array([Decimal('1.10')])))
    lake.land('c.parquet', chargebacks(['c'], amount=pa.array(['1.10'])))
    lake.land('d.parquet', chargebacks(['d']).drop_columns('chargeback_id'))
    lake.land('e.parquet', chargebacks(['e']).set_column(1, 'updated_at', pa.array([1.5])))
    report = lake.run(**ANY)
    assert [(path[11:], rule) for path, rule, _ in report.set_aside] == [(f'{x}.parquet', 'schema') for x in 'cde']
    assert [
        name in cause
        for (_, _, cause), name in zip(report.set_aside, ('amount', 'chargeback_id', 'updated_at'), strict=True)
    ] == [True] * 3
    assert by_key(rows_of(lake.files())).keys() == {'a', 'b'}


# C7 Exactly N


def payload(rng, n, size=400):
    return pa.array([rng.bytes(size) for _ in range(n)])


def morning(lake, rng, files=40, rows=50, name='{:03d}.parquet'):
    "Land files that arrive one after the other, their events a minute apart"
    for i in range(files):
        keys = [f'{name.format(i)}-{j}' for j in range(rows)]
        lake.land(
            name.format(i), chargebacks(keys, None, [60 * 10**6 * i + j for j in range(rows)], raw=payload(rng, rows)))


@pytest.mark.parametrize(
    ('rows', 'count', 'files'), [(0, 3, 0), (1, 3, 1), (2, 3, 2), (3, 3, 3), (50, 12, 12), (50, 1, 1)])
def test_c7_exactly_n_files_fewer_only_for_fewer_rows(played, rows, count, files):
    played.land('a.parquet', chargebacks([f'{i}' for i in range(rows)]))
    report = played.run(OUTPUT_FILE_COUNT=count)
    assert len(played.files()) == report.output_files == files
    assert sum(pq.read_metadata(path).num_rows for path in played.files()) == rows


def test_c7_balanced_merged_and_narrow(lake):
    morning(lake, np.random.default_rng(1))
    lake.land(
        'huge.parquet',
        chargebacks(
            [f'huge{i}' for i in range(1000)], None, 60 * 10**6 * 40, raw=payload(np.random.default_rng(2), 1000)))
    lake.run(OUTPUT_FILE_COUNT=6)
    sizes = [path.stat().st_size for path in lake.files()]
    assert max(map(abs, np.array(sizes) - mean(sizes))) < 0.05 * mean(sizes)
    metas = [pq.read_metadata(path) for path in lake.files()]
    assert [m.num_row_groups for m in metas] == [1] * 6
    at = metas[0].schema.to_arrow_schema().get_field_index('event_timestamp')
    spans = [m.row_group(0).column(at).statistics for m in metas]
    minutes = sorted((s.max - s.min).total_seconds() / 60 for s in spans)
    assert minutes[-1] <= 40 / 6 * 2.1, 'a row group holds the events of far more than its share of the day'


def test_c7_a_small_late_increment_rewrites_only_what_it_touches(lake):
    rng = np.random.default_rng(3)
    morning(lake, rng)
    lake.run(OUTPUT_FILE_COUNT=10)
    before = {path: path.stat().st_mtime_ns for path in lake.files()}
    held = {path: set(columns(path)['chargeback_id']) for path in before}
    touched = lake.files()[4]
    lake.land('late.parquet', chargebacks(['late', sorted(held[touched])[0]], [None, 10**12], raw=payload(rng, 2)))
    report = lake.run(OUTPUT_FILE_COUNT=10)
    after = {path: path.stat().st_mtime_ns for path in lake.files()}
    kept = before.keys() & after.keys()
    assert touched not in after and len(kept) >= 8 and len(after) == 10 and report.files_written == 10 - len(kept)
    assert all(before[path] == after[path] for path in kept)
    assert report.rows_after == 2001
    lake.land('newer.parquet', chargebacks([sorted(held[touched])[1]], 10**12, raw=payload(rng, 1)))
    lake.run(OUTPUT_FILE_COUNT=10)
    assert len(set(after) & set(lake.files())) == 9


def test_c7_another_count_lays_the_day_out_anew(played):
    morning(played, np.random.default_rng(4), files=4)
    played.run(OUTPUT_FILE_COUNT=3)
    rows = by_key(rows_of(played.files()))
    report = played.run(OUTPUT_FILE_COUNT=5)
    assert (report.status, report.records_processed, len(played.files())) == ('done', 0, 5)
    assert by_key(rows_of(played.files())) == rows


# C8 Types


SPARK_DAY = """
SELECT 'k' || id AS chargeback_id,
       CASE WHEN id = 3 THEN NULL
            ELSE timestamp'{year}-12-31 23:59:59.123456' - make_interval(0, 0, 0, 0, 0, 0, id) END AS updated_at,
       timestamp'2025-11-02 03:04:05.000001' + make_interval(0, 0, 0, 0, 0, 0, id) AS event_timestamp,
       CAST(id AS DECIMAL(9, 2)) / 3 AS rate, CAST(-id AS DECIMAL(38, 10)) AS amount,
       named_struct('at', timestamp'{year}-01-01 00:00:00', 'n', CAST(id AS INT)) AS detail,
       array(named_struct('x', double('NaN')), NULL, named_struct('x', -0.0D)) AS lines,
       map('a', CAST(id AS FLOAT), 'b', NULL) AS tags,
       CAST('bytes' AS BINARY) AS raw, date'2025-11-02' AS due, id % 2 = 0 AS flag,
       CAST(id AS TINYINT) AS tiny, CAST(NULL AS STRING) AS nothing
FROM range({first}, {last})
"""


def land_with_spark(lake, spark, first, last, kind, year):
    "Land what parquet-java writes through Spark"
    spark.conf.set('spark.sql.parquet.outputTimestampType', kind)
    folder = lake.root / f'spark{first}'
    spark.sql(SPARK_DAY.format(first=first, last=last, year=year)).coalesce(1).write.parquet(str(folder))
    for path in folder.glob('part-*.parquet'):
        lake.land(f'{first}.parquet', path.read_bytes())


@pytest.fixture
def forget(spark):
    "The session as it was"
    yield
    spark.conf.unset('spark.sql.parquet.outputTimestampType')


def timestamps(path):
    "{leaf column: physical and logical type} of the timestamps"
    schema = pq.ParquetFile(path).schema
    leaves = [schema.column(i) for i in range(len(schema))]
    return {
        leaf.path: (leaf.physical_type, str(leaf.logical_type))
        for leaf in leaves
        if leaf.physical_type == 'INT96' or leaf.logical_type.type == 'TIMESTAMP'}


@pytest.mark.parametrize(
    ('kind', 'year'), [
        ('INT96', 9999), ('TIMESTAMP_MILLIS', 2025), pytest.param('INT96', 2025, marks=pytest.mark.slow),
        pytest.param('TIMESTAMP_MICROS', 9999, marks=pytest.mark.slow)])
def test_c8_what_parquet_java_wrote_reads_the_same_everywhere(lake, spark, forget, kind, year):
    land_with_spark(lake, spark, 0, 6, kind, year)
    landed = spark.read.parquet(str(lake.table / '2025/11/02')).orderBy('chargeback_id')
    rows = landed.collect()
    wanted = by_key(rows_of([lake.table / '2025/11/02/0.parquet']))
    kinds = timestamps(lake.table / '2025/11/02/0.parquet')
    lake.run(OUTPUT_FILE_COUNT=2)
    land_with_spark(lake, spark, 6, 9, kind, year)
    lake.run(OUTPUT_FILE_COUNT=2)
    files = [str(path) for path in lake.files()]
    found = by_key(rows_of(files))
    assert len(found) == 9 and {key: found[key] for key in wanted} == wanted
    assert len(kinds) == 3 and [timestamps(path) for path in files] == [kinds] * 2
    again = spark.read.parquet(*files).orderBy('chargeback_id')
    assert again.schema == landed.schema and str(again.limit(6).collect()) == str(rows)


def test_c8_pyarrow_duckdb_polars_and_spark_read_the_same(lake, spark):
    for i, more in enumerate([
        {}, {'channel': pa.array(['web'] * 9)}, {'count': pa.array(range(9), pa.int32())},
        {'count': pa.array([2**40] * 9)}]):
        keys = [f'{i}{j}' for j in range(9)]
        lake.land(
            f'{i}.parquet',
            chargebacks(
                keys, list(range(9)), amount=pa.array([Decimal(j) / 100 for j in range(9)], pa.decimal128(9 + i, 2)),
                **more))
        lake.run(OUTPUT_FILE_COUNT=4)
    names = ['chargeback_id', 'updated_at', 'amount', 'channel', 'count']
    def plain(rows): return sorted(tuple(str(v) if isinstance(v, Decimal) else v for v in row) for row in rows)
    arrow = ds.dataset(lake.partition).to_table(columns=names)
    wanted = plain(zip(*(arrow[name].to_pylist() for name in names), strict=True))
    assert (
        len(wanted) == 36
        and sum(row[3] == 'web' for row in wanted) == 9
        and sum(row[4] == 2**40 for row in wanted) == 9)
    assert plain(duckdb.sql(f"SELECT {', '.join(names)} FROM '{lake.partition}/*.parquet'").fetchall()) == wanted
    assert plain(polars.read_parquet(f'{lake.partition}/*.parquet').select(names).rows()) == wanted
    assert plain(map(tuple, spark.read.parquet(str(lake.partition)).select(names).collect())) == wanted


DRIFT = {
    'a column more': ({}, {'channel': pa.array(['web'])}),
    'wider integers': ({'n': pa.int32()}, {'n': pa.array([2**40])}),
    'wider decimals': ({'n': pa.decimal128(9, 2)}, {'n': pa.array([Decimal('0.0001')])}),
    'a field more': ({'detail': pa.struct({'a': pa.int32()})}, {'detail': pa.array([{'b': 1}])})}


@pytest.mark.parametrize(('first', 'late'), DRIFT.values(), ids=DRIFT)
def test_c8_a_late_file_with_other_columns_leaves_one_schema(lake, spark, first, late):
    "A reader takes the schema of a folder from any one of its files: Spark does, and pyarrow"
    for i in range(8):
        lake.land(
            f'{i}.parquet',
            chargebacks([f'{i}{j}' for j in range(50)], **{name: pa.nulls(50, kind) for name, kind in first.items()}))
    lake.run(OUTPUT_FILE_COUNT=4)
    lake.land('late.parquet', chargebacks(['late'], **late))
    lake.run(OUTPUT_FILE_COUNT=4)
    assert len({pq.read_schema(path).remove_metadata() for path in lake.files()}) == 1
    [name], value = late, [{'a': None, 'b': 1}] if 'detail' in late else next(iter(late.values())).to_pylist()
    for path in lake.files():
        others = [other for other in lake.files() if other != path]
        found = ds.dataset([path, *others]).to_table(filter=ds.field('chargeback_id') == 'late')
        assert found[name].to_pylist() == value
    found = spark.read.parquet(str(lake.partition)).where("chargeback_id = 'late'").select(name).collect()
    assert [row[0].asDict() if name == 'detail' else row[0] for row in found] == value


def test_c8_a_column_without_rows_is_a_column_of_the_day(lake):
    lake.land('a.parquet', chargebacks([], channel=pa.array([], pa.string())))
    lake.run()
    lake.land('b.parquet', chargebacks(['b']))
    lake.run()
    apart = pq.read_schema(lake.files()[0]).names
    lake.run(REPROCESS=True)
    assert (
        apart == pq.read_schema(lake.files()[0]).names == ['chargeback_id', 'updated_at', 'event_timestamp', 'channel'])


WIDER = [  # what lands first, what lands then, what comes out
    (pa.int8(), pa.int64(), pa.int64()),
    (pa.int64(), pa.int16(), pa.int64()),
    (pa.uint8(), pa.int8(), pa.int16()),
    (pa.uint32(), pa.int8(), pa.int64()),
    (pa.float32(), pa.float64(), pa.float64()),
    (pa.decimal128(9, 2), pa.decimal128(9, 4), pa.decimal128(11, 4)),
    (pa.decimal128(38, 2), pa.decimal128(9, 2), pa.decimal128(38, 2)),
    (
        pa.struct({'a': pa.int8()}), pa.struct({'b': pa.string(), 'a': pa.int32()}),
        pa.struct({'a': pa.int32(), 'b': pa.string()})),
    (pa.list_(pa.int8()), pa.list_(pa.int32()), pa.list_(pa.field('element', pa.int32()))),
    (pa.null(), pa.string(), pa.string()),
]
NARROW = [
    (pa.int64(), pa.float64()), (pa.int64(), pa.string()), (pa.decimal128(38, 0), pa.decimal128(38, 10)),
    (pa.timestamp('us'), pa.timestamp('ms')), (pa.timestamp('us'), pa.timestamp('us', 'UTC')),
    (pa.date32(), pa.timestamp('us')), (pa.uint64(), pa.int64()), (pa.bool_(), pa.int8()),
    (pa.struct({'a': pa.int8()}), pa.int8())]


def test_c8_columns_widen_and_nothing_else_is_cast(lake):
    for i, (first, then, _) in enumerate(WIDER):
        lake.land(f'2024/01/01/{i}-a.parquet', chargebacks([f'{i}-a'], **{f'c{i}': pa.nulls(1, first)}))
        lake.land(f'2024/01/01/{i}-b.parquet', chargebacks([f'{i}-b'], **{f'c{i}': pa.nulls(1, then)}))
    report = lake.run(PARTITION_DATE='2024-01-01', OUTPUT_FILE_COUNT=1)
    assert report.set_aside == ()
    [path] = lake.output.glob('year=2024/month=01/day=01/*.parquet')
    schema = pq.read_schema(path)
    assert [schema.field(f'c{i}').type for i in range(len(WIDER))] == [kind for _, _, kind in WIDER]
    for i, (first, then) in enumerate(NARROW):
        for name in ('a', 'b'):
            lake.land(f'{name}{i}.parquet', chargebacks([f'{i}{name}'], **{f'c{i}': pa.nulls(1, first)}))
        lake.land(f'z{i}.parquet', chargebacks([f'{i}z'], **{f'c{i}': pa.nulls(1, then)}))
    report = lake.run(**ANY)
    assert [(path[11:], rule, f'column c{i} ' in cause) for i, (path, rule, cause) in enumerate(report.set_aside)] == [
        (f'z{i}.parquet', 'schema', True) for i in range(len(NARROW))]


def test_c8_int96_keeps_nanoseconds_and_the_year_9999_apart(lake):
    def column(*values): return pa.array(values, pa.timestamp('ns'))
    late = pa.array([datetime(9999, 12, 31, 23, 59, 59, 999999)], pa.timestamp('us'))
    lake.land('a.parquet', chargebacks(['a'], seen=column(NOON + 1)), use_deprecated_int96_timestamps=True)
    lake.land('b.parquet', chargebacks(['b'], seen=column(NOON + 999)), use_deprecated_int96_timestamps=True)
    lake.land('c.parquet', chargebacks(['c'], seen=late), use_deprecated_int96_timestamps=True)
    report = lake.run(OUTPUT_FILE_COUNT=1, **ANY)
    assert [(path[11:], cause) for path, _, cause in report.set_aside] == [
        ('c.parquet', 'INT96 timestamps need us here and ns elsewhere')]
    found = by_key(rows_of(lake.files()))
    assert {k: dict(found[k])['seen'] for k in found} == {'a': NOON + 1, 'b': NOON + 999}
    assert timestamps(lake.files()[0])['seen'][0] == 'INT96'


@pytest.mark.parametrize('within', [
    lambda kind: pa.list_(kind, 1), lambda kind: pa.large_list(kind), lambda kind: pa.list_(pa.struct({'on': kind}), 1),
    lambda kind: pa.map_(pa.string(), pa.list_(kind, 1))], ids=['fixed', 'large', 'struct in fixed', 'fixed in map'])
def test_c8_int96_within_lists_of_any_kind(lake, within):
    kind = within(pa.timestamp('us'))
    last = datetime(9999, 12, 31, 23, 59, 59, 999999)
    value = {'fixed': [last], 'struct': [{'on': last}], 'map': [('k', [last])]}[
        'map' if pa.types.is_map(kind) else 'struct' if pa.types.is_struct(kind.value_type) else 'fixed']
    lake.land('a.parquet', chargebacks(['a', 'b'], due=pa.array([value, value], kind)),
              use_deprecated_int96_timestamps=True)
    for again in (False, True):
        assert lake.run(OUTPUT_FILE_COUNT=1, REPROCESS=again, **ANY).rows_after == 2
        [file] = lake.files()
        found = pq.ParquetFile(file, coerce_int96_timestamp_unit='us').read()['due'].to_pylist()
        assert found == [value, value], 'the year 9999 does not fit into nanoseconds'
    assert pq.ParquetFile(file).schema.column(3).physical_type == 'INT96' or pa.types.is_map(kind)


DAY = 86400 * 10**6     # microseconds
EDGE = 2**63 // 1000     # the last after 1970 that nanoseconds can tell
WRAPPED = -2**64 % 1000  # so end the nanoseconds before 1970 that read as those of a later age
TIMES = st.one_of(      # times of day before 1677 Arrow cannot read as it has written them, in no unit
    st.integers(-10**15, 10**15), st.integers(-700_000, 2_900_000).map(lambda day: day * DAY),
    st.integers(-EDGE + 1, -EDGE + 3), st.integers(EDGE - 3, EDGE + 3), st.integers(0, 253_000 * 10**12))


@given(unit=st.sampled_from(['us', 'ns']), times=st.lists(st.none() | TIMES, max_size=5), more=st.integers(0, 999))
@example(unit='us', times=[EDGE - 1, EDGE + 1], more=0)
@example(unit='us', times=[None, 253_000 * 10**12], more=0)
@example(unit='ns', times=[-DAY], more=1)
@example(unit='ns', times=[-1], more=WRAPPED)
@example(unit='ns', times=[-1, None, EDGE - 2], more=WRAPPED)
def test_c8_what_int96_needs_is_found(unit, times, more):
    if unit == 'ns':
        times = [time if time is None else max(-EDGE + 2, min(EDGE - 2, time)) * 1000 + more for time in times]
    table = pa.table({'due': pa.array(times, pa.timestamp(unit))})
    data = encode(table, use_deprecated_int96_timestamps=True)
    both = [pq.read_table(pa.BufferReader(data), coerce_int96_timestamp_unit=kind) for kind in ('ns', 'us')]
    exact = [time * (1000 if unit == 'us' else 1) for time in times if time is not None]    # in nanoseconds
    exact = [time + 2**64 if time < 0 and time % 1000 == WRAPPED else time for time in exact]     # as it reads
    far = any(not -2**63 <= time < 2**63 for time in exact)
    fine, before = any(time % 1000 for time in exact), any(time < 0 and time % (DAY * 1000) for time in exact)
    if (far and (fine or before)) or any(time < 0 and time % 1000 for time in exact):
        with pytest.raises(SchemaConflict, match='do not go together'): int96_unit([both])
        return
    need = int96_unit([both])
    assert need == ('us' if far else 'ns' if fine or before else 'any')
    if need != 'us': assert both[0]['due'].cast(pa.int64()).drop_null().to_pylist() == exact
    if need == 'us': assert both[1]['due'].cast(pa.int64()).drop_null().to_pylist() == [time // 1000 for time in exact]


def test_c8_a_time_before_1970_survives_a_second_run(lake):
    "Arrow writes such times as INT96 in a way that it misreads in microseconds"
    def land(name, key, *seen):
        lake.land(name, chargebacks(key, seen=pa.array(seen, pa.timestamp('us'))), use_deprecated_int96_timestamps=True)
    land('a.parquet', ['a', 'b'], -1, 10**15)
    lake.run(OUTPUT_FILE_COUNT=1, **ANY)
    land('c.parquet', ['c'], -DAY - 10**6)
    far = pa.array([datetime(9999, 12, 31)], pa.timestamp('us'))
    lake.land('d.parquet', chargebacks(['d'], seen=far), use_deprecated_int96_timestamps=True)
    report = lake.run(OUTPUT_FILE_COUNT=1, **ANY)
    assert [(path[11:], cause) for path, _, cause in report.set_aside] == [
        ('d.parquet', 'INT96 timestamps need us here and ns elsewhere')]
    [(file,)] = [lake.files()]
    [found] = duckdb.sql(f"select list(epoch_us(seen) order by chargeback_id) from '{file}'").fetchall()
    assert found == ([-1, 10**15, -DAY - 10**6],)


def test_c8_int96_and_int64_columns_in_one_day(lake):
    "Taken or set aside, but today as tomorrow: what a run writes, the next one can read"
    def seen(key):
        return chargebacks([key], seen=pa.array([1], pa.timestamp('us'))).drop_columns(
            ['updated_at', 'event_timestamp'])
    lake.land('a.parquet', chargebacks(['a', 'b']), use_deprecated_int96_timestamps=True)
    lake.land('c.parquet', seen('c'))
    first = lake.run(OUTPUT_FILE_COUNT=1, **ANY)
    lake.land('d.parquet', seen('d'))
    second = lake.run(OUTPUT_FILE_COUNT=1, **ANY)
    left = {path[11:12] for report in (first, second) for path, _, _ in report.set_aside}
    assert left in (set(), {'c', 'd'}) and by_key(rows_of(lake.files())).keys() == {'a', 'b', 'c', 'd'} - left


# C9 Conservation


def change_slots(monkeypatch, change):
    "Let the copy do something else than was planned"
    real = copying.slot_parts
    monkeypatch.setattr(job, 'slot_parts', lambda slots, *more: real(change(slots), *more))


def with_pieces(slots, change):
    return [s._replace(pieces=change(s.pieces)) for s in slots]


def forget_one(slots):
    "The last piece of the last file gives a row less"
    *others, last = slots
    return [*others, last._replace(pieces=[*last.pieces[:-1], last.pieces[-1]._replace(take=last.pieces[-1].take - 1)])]


def double_one(slots):
    return with_pieces(slots, lambda pieces: [*pieces, pieces[0]])


def one_for_another(slots):
    "The first source twice, the second not at all: the counts stay equal"
    ids = sorted({p.source for s in slots for p in s.pieces})
    return with_pieces(slots, lambda pieces: [p._replace(source=ids[0]) if p.source == ids[1] else p for p in pieces])


def loser_for_winner(slots):
    "Rows beyond those that stay do not exist"
    return with_pieces(slots, lambda pieces: [Piece(p.source, p.skip, p.take + 1) for p in pieces])


@pytest.mark.parametrize('change', [forget_one, double_one, one_for_another])
def test_c9_broken_conservation_publishes_nothing(lake, monkeypatch, capsys, change):
    for name in 'abc':
        lake.land(f'{name}.parquet', chargebacks([f'{name}{i}' for i in range(10)]))
    change_slots(monkeypatch, change)
    before = tree(lake.table)
    assert lake.main(OUTPUT_FILE_COUNT=3) == 5
    out, err = capsys.readouterr()
    assert err.count('\n') == 1 and '30 rows in' in err and 'nothing is published' in err
    assert ('are not the winners' in err) and 'output_files=0' in out
    assert not [p for p in lake.output.rglob('*') if p.is_file()] and tree(lake.table) == before
    monkeypatch.undo()
    assert lake.main(OUTPUT_FILE_COUNT=3) == 0 and len(by_key(rows_of(lake.files()))) == 30


def test_c9_rows_that_were_promised_and_are_not_there_stop_the_run(lake, monkeypatch):
    lake.land('a.parquet', chargebacks(['a', 'a', 'b']))
    change_slots(monkeypatch, loser_for_winner)
    with pytest.raises((ConservationBroken, QualityFailed)):
        lake.run(OUTPUT_FILE_COUNT=1)
    assert not lake.files()


# C10 Commit, C11 Killed: only what one run shows


def test_c10_one_record_for_each_execution_and_nothing_staged_is_left(played):
    for number, name in enumerate('abc', 1):
        played.land(f'{name}.parquet', chargebacks([name, name]))
        played.run()
        records = sorted(p for p in played.ledger.glob('_ledger/**/*.json'))
        assert [p.name for p in records] == [f'{n:06d}.json' for n in range(1, number + 1)]
        head = json.loads(records[-1].read_text())
        there = sorted(str(p.relative_to(played.output)) for p in played.files())
        assert sorted(f['path'] for f in head['files']) == there
        assert [f['rows'] for f in head['files']] == [
            pq.read_metadata(played.output / f['path']).num_rows for f in head['files']]
        assert not [
            p
            for place in (played.output, played.ledger)
            for p in place.rglob('*')
            if p.is_file() and (p.name.startswith('.') or 'staged' in p.name)]


def test_c10_until_the_commit_nothing_of_a_run_is_visible(played, monkeypatch):
    played.land('a.parquet', chargebacks(['a']))
    played.run()
    before, seen = played.files(), []
    played.land('b.parquet', chargebacks(['b']))
    real = Ledger.publish_commit
    def publish(ledger, commit):
        seen.append(played.files())
        return real(ledger, commit)
    monkeypatch.setattr(Ledger, 'publish_commit', publish)
    played.run()
    assert seen == [before] and played.files() != before


def test_c11_a_commit_that_was_interrupted_is_rolled_forward_by_the_next_run(played, monkeypatch, capsys):
    played.land('a.parquet', chargebacks(['a', 'b']))
    played.run()
    played.land('b.parquet', chargebacks(['b', 'c'], 1))
    def killed(*args): raise KeyboardInterrupt
    monkeypatch.setattr(job, 'finish', killed)
    with pytest.raises(KeyboardInterrupt):
        played.run()
    monkeypatch.undo()
    assert by_key(rows_of(played.files())).keys() >= {'a', 'b'}, 'the day is readable and complete as of some commit'
    assert played.main() == 0 and 'nothing new' in capsys.readouterr().out
    found = by_key(rows_of(played.files()))
    assert found.keys() == {'a', 'b', 'c'} and dict(found['b'])['updated_at'] == NOON + 1000
