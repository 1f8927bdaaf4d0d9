"The contract, line by line: what a run takes, decides, reports and leaves. C6 to C11 stand in test_contract_files."
import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from days import LENIENT, NOON, chargebacks, tree
from oracle import by_key, rows_of

from chargeback_consolidation import entry, job
from chargeback_consolidation.catalog import day_folders
from chargeback_consolidation.settings import parse

METRICS = re.compile(
    r'^METRICS: records_processed=(\d+), duplicates_removed=(\d+), output_files=(\d+), duration_seconds=\d+\.\d\d$',
    re.M)


def no_spark():
    pytest.fail('Spark was started')


def table_of(lake):
    return pa.concat_tables([pq.read_table(path) for path in lake.files()])


def column(lake, name):
    "{key: value} of a column of the consolidated day"
    table = table_of(lake)
    found = dict(zip(table['chargeback_id'].to_pylist(), table[name].to_pylist(), strict=True))
    assert len(found) == len(table)
    return found


# C1 Arguments


NOW = datetime(2025, 11, 3, 5, tzinfo=UTC)


def test_c1_either_spelling_in_any_order_is_the_same(lake):
    words = [*lake.words(), '--DRY_RUN', 'false']
    pairs = list(zip(words[::2], words[1::2], strict=True))
    now = parse(words, now=NOW)
    assert parse([f'{a}={b}' for a, b in reversed(pairs)], now=NOW) == now
    assert parse([*words, '--EXECUTION_TIME=2025-11-04T05:00:00Z'], now=NOW) != now


def test_c1_glue_s_own_arguments_are_ignored(lake):
    own = [
        '--JOB_NAME', 'x', '--job-language', 'python', '--TempDir=s3://b/t', '--enable-metrics',
        '--job-bookmark-option', 'job-bookmark-disable', '--JOB_RUN_ID', 'j']
    assert parse([*own, *lake.words()], now=NOW) == parse(lake.words(), now=NOW)


@pytest.mark.parametrize(
    ('given', 'day'),
    [
        (dict(EXECUTION_TIME='2025-11-03T05:00:00Z'), date(2025, 11, 2)),
        (dict(EXECUTION_TIME='2025-03-01'), date(2025, 2, 28)),
        (dict(EXECUTION_TIME='2025-11-03T01:00:00+02:00'), date(2025, 11, 1)), ({}, date(2025, 11, 2))],
    ids=str)
def test_c1_the_day_is_the_one_before_the_execution_in_utc(lake, given, day):
    assert parse(lake.words(PARTITION_DATE=None, **given), now=NOW).partition_date == day


# C2 Source


def test_c2_every_spelling_of_the_day_is_read_and_nothing_else(lake):
    folders = [*day_folders(date(2025, 1, 2)), '2025/01/02/hour=07']
    assert {
        '2025/01/02', '2025/1/2', 'year=2025/month=1/day=02',
        'partition_0=2025/partition_1=01/partition_2=2'} < set(folders)
    for i, folder in enumerate(folders):
        lake.land(f'{folder}/a.parquet', chargebacks([f'k{i}']))
    strangers = [
        '2025/01/02/_SUCCESS', '2025/01/02/.a.parquet.crc', '2025/01/02/_temporary/0/a.parquet',
        '2025/01/02/.part-0.inprogress.1', '2025/01/02/.x/a.parquet', '2025/01/03/a.parquet', '2025/02/01/a.parquet',
        'a.parquet', '2025/01/a.parquet', '2024/01/02/a.parquet']
    for path in strangers:
        lake.land(path, chargebacks(['no']))
    lake.land('2025/01/02/notes.txt', b'no')
    before = tree(lake.table)
    report = lake.run(PARTITION_DATE='2025-01-02')
    found = {
        key
        for path in lake.output.glob('year=2025/month=01/day=02/*.parquet')
        for key in pq.read_table(path)['chargeback_id'].to_pylist()}
    assert found == {f'k{i}' for i in range(len(folders))}
    assert any('notes.txt' in w and '1 file not Parquet and ignored' in w for w in report.warnings)
    assert tree(lake.table) == before


def test_c2_without_the_filter_each_day_stands_alone(lake, capsys):
    for day in ('2025/11/02', '2025/11/03', 'year=2025/month=12/day=1'):
        lake.land(f'{day}/a.parquet', chargebacks(['same key']))
    assert lake.main(ENABLE_PARTITION_FILTER=False) == 0
    assert sorted(str(p.parent.relative_to(lake.output)) for p in lake.output.glob('year=*/*/*/*')) == [
        'year=2025/month=11/day=02', 'year=2025/month=11/day=03', 'year=2025/month=12/day=01']
    assert len(METRICS.findall(capsys.readouterr().out)) == 3


# C3 No data


def test_c3_nothing_landed(lake, capsys):
    before = tree(lake.table)
    assert entry.main(lake.words(), session=no_spark) == 3
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and all(
        words in err
        for words in (f'{lake.table}/2025/', 'stream processor', 'ENABLE_PARTITION_FILTER', 'ALLOW_EMPTY'))
    assert entry.main(lake.words(ALLOW_EMPTY=True), session=no_spark) == 0
    out = capsys.readouterr().out
    assert 'As --ALLOW_EMPTY is true, this is a success' in out and 'makes this a success' not in out
    assert METRICS.search(out).groups() == ('0', '0', '0') and 'nothing has landed' in out
    assert tree(lake.table) == before and not lake.files()


def test_c3_nothing_new_is_a_success(lake, capsys):
    lake.land('a.parquet', chargebacks(['a']))
    assert lake.main() == 0
    before = tree(lake.output)
    assert entry.main(lake.words(EXECUTION_SEQUENCE=2), session=no_spark) == 0
    out = capsys.readouterr().out
    assert 'nothing new' in out and METRICS.findall(out)[1:] == [('0', '0', '1')]
    assert {p: v for p, v in tree(lake.output).items() if v[1]} == {p: v for p, v in before.items() if v[1]}


def test_c3_who_loses_a_race_has_done_nothing(lake):
    "The report says nothing of a plan that was given up: its sums would count what the winner counted"
    lake.land('a.parquet', chargebacks(['a', 'a', None]))
    won = []
    def overtake(stage, seconds, facts):
        if stage == 'copy' and not won: won.append(lake.run(**LENIENT))
    lost, after = lake.run(observe=overtake, **LENIENT), lake.run(**LENIENT)
    assert (won[0].status, won[0].duplicates_removed, won[0].quarantined) == ('done', 1, 1)
    assert lost.status == 'nothing new' and [stage for stage, _ in lost.stages].count('look') == 2
    assert [replace(r, stages=(), duration_seconds=0, arguments={}) for r in (lost, after)] == [
        replace(after, stages=(), duration_seconds=0, arguments={})] * 2


def test_c3_who_loses_every_race_has_done_nothing(lake, capsys, monkeypatch):
    monkeypatch.setattr(job, 'ATTEMPTS', 2)
    def overtake(stage, seconds, facts):
        if stage != 'copy': return
        lake.run(**LENIENT)
        lake.land(f'{len(lake.landed())}.parquet', chargebacks(['a', 'a']))
    lake.land('0.parquet', chargebacks(['a', 'a']))
    assert entry.main(lake.words(**LENIENT), session=lake.session, observe=overtake) == 6
    said = capsys.readouterr()
    [report] = [json.loads(line) for line in said.out.splitlines() if line.startswith('{')]
    assert (report['status'], report['duplicates_removed'], report['files_taken']) == ('failed', 0, 0)
    assert METRICS.findall(said.out) == [('0', '0', '0')] and '2 times while this one was planning' in said.err


# C4 Executions


def test_c4_an_execution_takes_what_none_has_taken(lake):
    lake.land('b.parquet', chargebacks(['b']), mtime=2 * 10**18)
    assert lake.run().files_taken == 1
    lake.land('a.parquet', chargebacks(['a', 'b']), mtime=10**18)
    report = lake.run(EXECUTION_SEQUENCE=2)
    assert (report.files_taken, report.records_processed, report.rows_before, report.rows_after) == (1, 2, 1, 2)
    lake.land('a.parquet', chargebacks(['a', 'c']), mtime=10**18 + 1)
    assert lake.run(EXECUTION_SEQUENCE=3).files_taken == 1
    assert column(lake, 'updated_at').keys() == {'a', 'b', 'c'}


def test_c4_reprocess_rebuilds_from_all_landing_files(lake, capsys):
    for name in ('a', 'b'):
        lake.land(f'{name}.parquet', chargebacks([name, 'both']))
        lake.run()
    before, rows = lake.files(), by_key(rows_of(lake.files()))
    report = lake.run(REPROCESS=True)
    assert (report.files_taken, report.records_processed, report.rows_before, report.rows_after) == (2, 4, 0, 3)
    assert by_key(rows_of(lake.files())) == rows and not set(before) & set(lake.files())
    (lake.table / '2025/11/02/a.parquet').unlink()
    assert lake.main(REPROCESS=True) == 2
    assert 'would lose records' in capsys.readouterr().err and by_key(rows_of(lake.files())) == rows


# C5 Latest wins


VERSIONS = [  # key, what it shows, and (file, updated, event) of its versions, the winner first
    ('later update', [('a', 2, 1), ('b', 1, 9)]),
    ('a hair later', [('a', 10**6 + 1, 0), ('b', 10**6, 0)]),
    ('event stands in', [('a', None, 5), ('b', 4, 9)]),
    ('event stands in, and loses', [('b', 6, 0), ('a', None, 5)]),
    ('then the later event', [('a', 3, 2), ('b', 3, 1)]),
    ('then any event', [('a', 3, -(10**9)), ('b', 3, None)]),
    ('no version is the lowest', [('a', -(10**12), None), ('b', None, None)]),
    ('then the greater path', [('b', 1, 1), ('a', 1, 1)]),
    ('then the later row', [('b', 1, 1), ('b', 1, 1), ('b', 1, 1)]),
    ('nothing but path', [('b', None, None), ('a', None, None)]),
]


@pytest.mark.parametrize('executions', [('ab',), ('a', 'b'), ('b', 'a')], ids=' then '.join)
def test_c5_latest_wins(lake, executions):
    rows = [
        (file, key, updated, event, place)
        for key, versions in VERSIONS
        for place, (file, updated, event) in enumerate(versions)]
    for files in executions:
        for name in files:
            some = [r for r in reversed(rows) if r[0] == name]
            table = chargebacks(
                [r[1] for r in some], [r[2] for r in some], pa.array([r[3] for r in some], pa.int64()).to_pylist(),
                place=pa.array([r[4] for r in some]))
            lake.land(f'{name}.parquet', table)
        lake.run(MAX_DUPLICATE_RATE=1)
    assert column(lake, 'place') == {key: 0 for key, _ in VERSIONS}


def test_c5_whole_rows_win(lake):
    lake.land('a.parquet', chargebacks(['k'], 1, amount=pa.array([7])))
    lake.land('b.parquet', chargebacks(['k'], 2, amount=pa.array([None], pa.int64())))
    lake.run()
    assert column(lake, 'amount') == {'k': None}


def test_c5_a_day_that_lands_again_says_what_to_do(lake, capsys):
    "Fails by its repeats, names the rewritten files with the way out, and warns as a run that commits does"
    for when in (0, 1):
        lake.land('a.parquet', chargebacks(['k1', 'k2', f'x{when}']))
        code = lake.main(MAX_DUPLICATE_RATE=0.3)
        assert code == (0, 4)[when]
    out, err = capsys.readouterr()
    told = ('1 of the landing files are rewritten ones that were taken before, for example 2025/11/02/a.parquet, and '
            '--REPROCESS true takes what is there now')
    assert told in err and err.count('\n') == 1
    assert '1 landing file rewritten after being taken' in json.loads(out.splitlines()[-1])['warnings'][0]
    assert lake.main(MAX_DUPLICATE_RATE=0.3, REPROCESS=True, MAX_NULL_KEY_RATE=1) == 0


# C12 Dry run


@pytest.mark.parametrize('there', [False, True], ids=['empty output', 'third execution'])
def test_c12_a_dry_run_leaves_no_trace_and_tells_the_truth(lake, capsys, there):
    for name in 'ab' * there:
        lake.land(f'{name}.parquet', chargebacks([name, 'both']))
        lake.run()
    lake.land('c.parquet', chargebacks(['c', 'both', 'd', None] + ['e'] * 2))
    before = tree(lake.root)
    assert lake.main(DRY_RUN=True, OUTPUT_FILE_COUNT=3, MAX_NULL_KEY_RATE=1) == 0
    out = capsys.readouterr().out
    assert tree(lake.root) == before
    dry, plan = METRICS.search(out).groups(), json.loads(out.splitlines()[-1])
    assert dry[2] == '0' and plan['status'] == 'dry run'
    said = (fr"{plan['rows_after']} rows would be in 3 files of about [\d.]+ MB uncompressed, all of them written: 6 "
            'records of 1 landing file would be taken')
    assert re.fullmatch(said, plan['message']) and 'rewritten' not in plan['message'], plan['message']
    report = lake.run(OUTPUT_FILE_COUNT=3, MAX_NULL_KEY_RATE=1)
    assert dry[:2] == (str(report.records_processed), str(report.duplicates_removed))
    assert all(
        plan[name] == getattr(report, name)
        for name in ('rows_before', 'rows_after', 'quarantined', 'files_taken', 'unreadable_files'))


# C13 Metrics


def test_c13_one_metrics_line_and_one_json_line(lake, capfd):
    lake.land('a.parquet', chargebacks(['a', 'b', 'b', 'c', '']))
    lake.land('b.parquet', b'PAR1 not')
    assert lake.main(MAX_NULL_KEY_RATE=1, MAX_UNREADABLE_RATE=1) == 0
    out, err = capfd.readouterr()
    assert [line for line in out.splitlines() if 'METRICS' in line] == [METRICS.search(out).group()]
    assert METRICS.search(out).groups() == ('5', '1', '2') and err == ''
    found = [json.loads(line) for line in out.splitlines() if line.startswith('{')]
    wanted = dict(
        event='consolidation', status='done', day='2025-11-02', table='landing.chargebacks', records_processed=5,
        duplicates_removed=1, quarantined=1, output_files=2, files_taken=1, files_listed=2, unreadable_files=1,
        rows_after=3, commit=1)
    assert [{name: line[name] for name in wanted} for line in found] == [wanted]


def test_c13_the_line_of_json_fits_into_a_log_event(lake, capfd):
    "However many files are set aside: agents cut an event at 256 KiB"
    names = sorted(f'{"long" * 30}-{i}.parquet' for i in range(2500))
    for name in names: lake.land(name, b'')
    lake.land('good.parquet', chargebacks(['a']))
    assert lake.main(MAX_UNREADABLE_RATE=1) == 0
    lines = capfd.readouterr()[0].splitlines()
    [line] = [line for line in lines if line.startswith('{')]
    told = json.loads(line)
    first = [path for path, _, _ in told['set_aside']]
    assert len(line) < 256 << 10 and told['files_set_aside'] == told['unreadable_files'] == 2500
    assert 500 < len(first) < 2500 and first == [f'2025/11/02/{name}' for name in names[:len(first)]]
    assert len([line for line in lines if line.startswith('set aside ')]) == 2500, 'each has a line of its own'


# C14 Logs


def test_c14_no_content_of_a_record_is_said(lake, capfd):
    secret = '4111-secret'
    def rows(key, **more): return chargebacks([key, key, secret, None], 1, name=pa.array([secret] * 4), **more)
    for i in range(3):
        lake.land(f'{i}.parquet', rows(f'{secret}{i}', amount=pa.array([4111] * 4)))
    lake.land('conflict.parquet', rows('x', amount=pa.array([secret] * 4)))
    broken = lake.land('broken.parquet', rows('y', amount=pa.array([1] * 4)), compression='none', use_dictionary=False)
    broken.write_bytes(broken.read_bytes()[:-30])
    wide = dict(MAX_UNREADABLE_RATE=1, MAX_SCHEMA_CONFLICT_RATE=1, MAX_NULL_KEY_RATE=1)
    codes = [
        lake.main(), lake.main(**wide, DRY_RUN=True), lake.main(**wide, MAX_DUPLICATE_RATE=1),
        lake.main(**wide, REPROCESS=True, MAX_DUPLICATE_RATE=0)]
    out, err = capfd.readouterr()
    assert codes == [4, 0, 0, 4] and 'stage' in out and 'conflict.parquet' in out and 'MAX_DUPLICATE_RATE' in err
    said = out + err + ''.join(p.read_text() for p in lake.output.rglob('*.json'))
    assert secret not in said and '4111' not in said


def test_c14_stages_have_timings_and_counts(lake, capsys):
    lake.land('a.parquet', chargebacks(['a', 'b'], [NOON // 10**12, 1]))
    lake.main()
    stages = re.findall(r'^stage (\w+) +\d+\.\d\d s  ?(.*)$', capsys.readouterr().out, re.M)
    assert [name for name, _ in stages if name in ('look', 'index', 'decide', 'copy', 'commit', 'settle')] == [
        'look', 'index', 'decide', 'copy', 'commit', 'settle']
    assert {'index': 'files 1, records 2', 'copy': 'files 2, records 2'}.items() <= dict(stages).items()
