"""What goes wrong with a file, with a store and with the output, and who is blamed for it (C2 to C6, C8, C22).

A file that is not good is set aside by name and cause, a store that refuses ends the run, and what a commit made
stands whatever follows it. The runs are whole; where Spark's part does not matter it is played in this process.
"""
import json
import os
import struct
from dataclasses import replace
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from days import LENIENT, NOON, chargebacks, encode, tree
from inline import inline

from chargeback_consolidation import entry, landing, quality
from chargeback_consolidation.ledger import Ledger, LedgerDamaged, snapshot
from chargeback_consolidation.local import LocalStore
from chargeback_consolidation.repair import repair
from chargeback_consolidation.sample.lake import run_words
from chargeback_consolidation.schema import adapt
from chargeback_consolidation.settings import RULES, ArgumentError, parse
from chargeback_consolidation.spark import TaskFailed, collect, run_tasks
from chargeback_consolidation.store import StoreError, store_for

DAY = '2025/11/02'


@pytest.fixture
def lake(tmp_path):
    from days import Lake
    return Lake(tmp_path)


def run(lake, **arguments): return lake.run(session=inline, **{**LENIENT, **arguments})
def ledger_of(lake): return Ledger(store_for(str(lake.output)), str(lake.output), date(2025, 11, 2))
def rows_of(lake): return [row for path in lake.files() for row in pq.ParquetFile(path).read().to_pylist()]
def files_of(root): return {path: found for path, found in tree(root).items() if found[1]}
def no_spark(): pytest.fail('Spark was started')


def main(lake, **arguments):
    return entry.main(lake.words(**{**LENIENT, **arguments}), session=inline)


def said(capsys):
    "(the JSON report on stdout, stderr)"
    out, err = capsys.readouterr()
    reports = [json.loads(line) for line in out.splitlines() if line.startswith('{')]
    assert len(reports) == 1 and sum(line.startswith('METRICS: ') for line in out.splitlines()) == 1, out
    return reports[0], err


# A file that is not good


def spoil(path, column):
    "Damage the first data page of a column"
    meta = pq.ParquetFile(path).metadata.row_group(0)
    page = next(meta.column(i) for i in range(meta.num_columns) if meta.column(i).path_in_schema == column)
    data = bytearray(path.read_bytes())
    data[page.data_page_offset:page.data_page_offset + 60] = b'\xff' * 60
    path.write_bytes(bytes(data))


def test_a_file_that_lands_meanwhile_is_not_blamed_for_another(lake):
    "The copy finds a damaged page; before it looks again a file lands whose name comes first, and all numbers move on"
    for i in range(4):
        note = pa.array([os.urandom(30).hex() for _ in range(50)])
        path = lake.land(
            f'm{i}.parquet', chargebacks([f'k{i}-{j}' for j in range(50)], note=note), use_dictionary=False,
            compression='none')
        if i == 2: spoil(path, 'note')
    landed = []
    def observe(stage, seconds, facts):
        if stage == 'decide' and not landed:
            landed.append(lake.land('a-new-one.parquet', chargebacks(['new'], note=pa.array(['x']))))
    report = run(lake, observe=observe)
    assert [(a.path, a.rule) for a in report.set_aside] == [(f'{DAY}/m2.parquet', 'unreadable')]
    assert {row['chargeback_id'].split('-')[0] for row in rows_of(lake)} == {'k0', 'k1', 'k3', 'new'}


def test_a_broken_file_is_looked_at_once(lake):
    "An idle run tells of it and starts nothing; when it changes it is taken"
    lake.land('a.parquet', chargebacks(['a']))
    broken = lake.land('b.parquet', b'PAR1 cut short')
    assert [a.path for a in run(lake).set_aside] == [f'{DAY}/b.parquet']
    again = lake.run(session=no_spark, **LENIENT)
    assert again.status == 'nothing new' and again.unreadable_files == 1
    assert [(a.path, a.rule) for a in again.set_aside] == [
        (f'{DAY}/b.parquet', 'unreadable')] and 'magic bytes' in again.set_aside[0].cause
    assert any('set aside before' in w for w in again.warnings)
    lake.land('c.parquet', b'PAR1 another')  # nothing but broken files is new: noted, once
    assert len(run(lake).set_aside) == 2 and len(lake.run(session=no_spark, **LENIENT).set_aside) == 2
    broken.write_bytes(encode(chargebacks(['b'])))
    assert run(lake).records_processed == 1 and sorted(r['chargeback_id'] for r in rows_of(lake)) == ['a', 'b']


def test_a_delivery_of_which_everything_is_broken_fails(lake, capsys):
    "However large the day is already"
    for i in range(100): lake.land(f'f{i:03d}.parquet', chargebacks([f'k{i}']))
    run(lake)
    for i in range(3): lake.land(f'late{i}.parquet', b'broken')
    assert main(lake, MAX_UNREADABLE_RATE=0.01) == 4
    report, err = said(capsys)
    assert err.count('\n') == 1 and '3 of 3 files cannot be read' in err and '--MAX_UNREADABLE_RATE 0.01' in err
    assert f'{DAY}/late0.parquet: ArrowInvalid' in err and 'and 2 more' in err
    assert (
        report['status'] == 'failed'
        and report['message'] in err
        and [a[0] for a in report['set_aside']] == [f'{DAY}/late{i}.parquet' for i in range(3)])
    assert {f['rule']: f['level'] for f in report['findings']}['unreadable'] == 'fail' and report['output_files'] == 0
    assert [s[0] for s in report['stages']] == ['look', 'index', 'decide']


@pytest.mark.parametrize('dry', [False, True])
def test_a_key_column_of_another_name_is_said(lake, capsys, dry):
    for i in range(3):
        table = chargebacks([f'k{i}']).rename_columns(['dispute_id', 'updated_at', 'event_timestamp'])
        lake.land(f'{i}.parquet', table)
    assert main(lake, DRY_RUN=dry) == 2
    report, err = said(capsys)
    assert err.strip() == (
        '--KEY_COLUMNS chargeback_id: there is no column chargeback_id (its ids are dispute_id) in any of the 3 '
        'landing files of 2025-11-02: say which columns tell one chargeback from another')
    assert len(report['set_aside']) == 3


def test_a_rewritten_file_is_said(lake):
    lake.land('a.parquet', chargebacks(['a', 'b'], updated=1), mtime=1)
    run(lake)
    lake.land('a.parquet', chargebacks(['a', 'c'], updated=2), mtime=2)
    assert any('1 landing file rewritten' in w and 'a.parquet' in w for w in run(lake).warnings)
    assert not any('rewritten' in w for w in run(lake).warnings)


def test_a_day_without_any_version_fails(lake, capsys):
    "The file's name would decide"
    lake.land('a.parquet', chargebacks(['a', 'a']).select(['chargeback_id']))
    assert main(lake) == 4
    assert 'no file has a column updated_at or event_timestamp' in said(capsys)[1] and not lake.files()


def test_a_rebuild_from_less_is_refused(lake, capsys):
    "A file that was taken can no longer be read: the reprocessed day would lack its rows"
    paths = [lake.land(f'f{i}.parquet', chargebacks([f'k{i}'])) for i in range(5)]
    run(lake)
    before = files_of(lake.output)
    paths[3].write_bytes(paths[3].read_bytes()[:50])
    assert main(lake, REPROCESS=True) == 2
    err = said(capsys)[1]
    assert '--REPROCESS would lose records' in err and 'land them again as they were, or run without' in err
    assert files_of(lake.output) == before
    assert len(rows_of(lake)) == 5


def test_a_rebuild_under_which_a_file_changes_looks_again(lake):
    "None of its files may be left out"
    for name in 'ab': lake.land(f'{name}.parquet', chargebacks([name], updated=1))
    run(lake)
    changed = []
    def observe(stage, seconds, facts):
        if stage == 'look' and not changed: changed.append(lake.land('b.parquet', chargebacks(['b', 'new'], updated=2)))
    report = run(lake, REPROCESS=True, observe=observe)
    assert (
        report.status == 'done'
        and report.set_aside == ()
        and sorted(r['chargeback_id'] for r in rows_of(lake)) == ['a', 'b', 'new'])


def test_a_rebuild_without_the_list_of_files(lake):
    "Allowed if no row is lost"
    lake.land('a.parquet', chargebacks(['a', 'b']))
    path = lake.land('b.parquet', chargebacks(['c']))
    run(lake)
    ledger = ledger_of(lake)
    os.unlink(ledger.path(ledger.head().manifest))
    with pytest.raises(LedgerDamaged, match='reprocess the day with --REPROCESS true'): run(lake)
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(ArgumentError, match='landing holds 2 rows for the day, which has 3'): run(lake, REPROCESS=True)
    path.write_bytes(content)
    assert run(lake, REPROCESS=True).rows_after == 3 and run(lake).status == 'nothing new'


# Names and kinds of files


def test_files_are_known_by_what_they_hold(lake):
    "Flink's names have no ending; what else lies there is left alone, once and for all"
    for i in range(5): lake.land(f'part-0-{i}', chargebacks([f'k{i}']))
    lake.land('README', b'not Parquet')
    lake.land('notes.txt', b'not Parquet either')
    lake.land('data.txt', encode(chargebacks(['t'])))
    lake.land('part-0-9.tmp', encode(chargebacks(['no'])))
    report = run(lake, MAX_UNREADABLE_RATE=0)
    assert report.rows_after == 6 and report.unreadable_files == 0
    assert {a.path: a.rule for a in report.set_aside} == {
        f'{DAY}/{name}': 'foreign' for name in ('README', 'notes.txt')}
    assert lake.run(session=no_spark).status == 'nothing new'


def test_only_foreign_files_are_no_data(lake, capsys):
    lake.land('README', b'not Parquet')
    assert main(lake) == 3 and said(capsys)[0]['status'] == 'no data'


def test_a_name_that_is_not_utf8(lake):
    lake.land('a.parquet', chargebacks(['a']))
    with open(os.fsencode(lake.table / DAY) + b'/b\xff.parquet', 'wb') as f: f.write(encode(chargebacks(['b'])))
    report = run(lake)
    assert report.rows_after == 1 and [(a.path, a.cause) for a in report.set_aside] == [
        (f'{DAY}/b\\udcff.parquet', 'it has a name that is not UTF-8, rename it')]
    json.dumps(report.set_aside).encode()
    assert lake.run(session=no_spark, **LENIENT).unreadable_files == 1


def test_what_is_no_file_hangs_nobody(lake):
    "A pipe, a link that leads nowhere and one that leads back"
    lake.land('a.parquet', chargebacks(['a']))
    folder = lake.table / DAY
    os.mkfifo(folder / 'pipe.parquet')
    (folder / 'nowhere.parquet').symlink_to(folder / 'gone')
    (folder / 'loop').symlink_to(folder)
    report = run(lake)
    assert report.rows_after == 1 and [a.path.rsplit('/', 1)[1] for a in report.set_aside] == [
        'loop', 'nowhere.parquet', 'pipe.parquet']
    assert lake.run(session=no_spark, **LENIENT).status == 'nothing new'


# Columns


def test_a_struct_with_a_required_field_beside_a_file_without_it(lake):
    "As Avro and Flink write nested records"
    required = pa.struct([pa.field('code', pa.int32(), nullable=False)])
    for name, kind, value in [
        ('s', required, {'code': 1}), ('d', pa.struct([('x', required)]), {'x': {'code': 1}}),
        ('l', pa.list_(required), [{'code': 1}]), ('m', pa.map_(pa.string(), required), [('k', {'code': 1})])]:
        lake.land(f'{name}.parquet', chargebacks([f'{name}1', f'{name}2'], **{name: pa.array([value, None], kind)}))
    lake.land('z.parquet', chargebacks(['z']))
    lake.land(
        'n.parquet', chargebacks(['n'], **{name: pa.nulls(1) for name in 'sdlm'}))  # nothing tells what they would be
    run(lake, OUTPUT_FILE_COUNT=1, MAX_UNREADABLE_RATE=0, MAX_SCHEMA_CONFLICT_RATE=0)
    rows = {row['chargeback_id']: row for row in rows_of(lake)}
    assert len(rows) == 10 and (rows['s1']['s'], rows['d1']['d'], rows['l1']['l'], rows['m1']['m']) == (
        {'code': 1}, {'x': {'code': 1}}, [{'code': 1}], [('k', {'code': 1})])
    assert all(row[name] is None for key, row in rows.items() for name in 'sdlm' if key != f'{name}1')


def test_a_column_of_nulls_beside_timestamps(lake):
    lake.land('a.parquet', chargebacks(['a'], updated=1))
    lake.land(
        'b.parquet',
        pa.table({
            'chargeback_id': ['b'], 'updated_at': pa.nulls(1),
            'event_timestamp': pa.array([NOON // 1000], pa.timestamp('us'))}))
    assert run(lake).set_aside == () and len(rows_of(lake)) == 2


@pytest.mark.parametrize('name', ['x.parquet', 'x.PARQUET', 'part-0', 'data.snappy'])
def test_a_file_that_readers_would_take_for_one_of_the_day_is_refused(lake, name):
    "Whatever its name; what is no Parquet is nobody's rows"
    lake.land('a.parquet', chargebacks(['a']))
    run(lake)
    (lake.partition / 'notes.txt').write_text('not rows')
    lake.land('b.parquet', chargebacks(['b']))
    assert run(lake).rows_after == 2
    (lake.partition / name).write_bytes(encode(chargebacks(['stranger'])))
    with pytest.raises(LedgerDamaged, match=f'{name} was not written by a commit of this ledger: move it out'):
        run(lake)


@pytest.mark.parametrize('order', [('Amount', 'amount', 'AMOUNT'), ('amount', 'Amount', 'AMOUNT')])
def test_names_that_differ_in_case_are_one_column(lake, order):
    "At once or one after the other; within one file they are a conflict"
    for i, name in enumerate(order):
        lake.land(f'{i}.parquet', chargebacks([f'k{i}'], **{name: pa.array([i])}))
        run(lake, OUTPUT_FILE_COUNT=1)
    assert pq.read_schema(lake.files()[0]).names == ['chargeback_id', 'updated_at', 'event_timestamp', 'amount']
    assert {row['chargeback_id']: row['amount'] for row in rows_of(lake)} == {'k0': 0, 'k1': 1, 'k2': 2}
    lake.land('both.parquet', chargebacks(['x'], Amount=pa.array([1]), amount=pa.array([2])))
    assert [a.cause for a in run(lake, MAX_SCHEMA_CONFLICT_RATE=1).set_aside] == [
        'columns Amount and amount differ only in case']


def test_json_beside_text_and_enums_are_text(lake):
    data = encode(chargebacks(['a', 'b'], status=pa.array(['won', 'lost'])), store_schema=False)
    plain = b'status\x25\x00\x4c\x1c\x00\x00\x00'
    assert data.count(plain) == 1
    lake.land('enum.parquet', data.replace(plain, b'status\x25\x08\x4c\x4c\x00\x00\x00'))
    assert pq.ParquetFile(lake.table / DAY / 'enum.parquet').schema.column(3).converted_type == 'ENUM'
    lake.land('text.parquet', chargebacks(['c'], status=pa.array(['open'])))
    run(lake, OUTPUT_FILE_COUNT=1, MAX_SCHEMA_CONFLICT_RATE=0)
    assert pq.read_schema(lake.files()[0]).field('status').type == pa.string()
    assert {row['chargeback_id']: row['status'] for row in rows_of(lake)} == {'a': 'won', 'b': 'lost', 'c': 'open'}


def test_versions_beyond_every_calendar(lake):
    lake.land('a.parquet', chargebacks(['a', 'a']).set_column(1, 'updated_at', pa.array([2**63 + 5, 1], pa.uint64())))
    assert run(lake).rows_after == 1 and rows_of(lake)[0]['updated_at'] == 2**63 + 5


def test_a_quarantine_file_that_lands_again(lake):
    lake.land('a.parquet', chargebacks(['a', None], updated=1))
    run(lake)
    table = pq.ParquetFile(lake.quarantine()[0]).read()
    lake.land('mended.parquet', table.set_column(0, 'chargeback_id', pa.array(['b'])))
    assert run(lake).rows_after == 2
    assert {'_quarantine_reason', '_landing_file', '_landing_row'} & set(rows_of(lake)[0]) == set()
    lake.land('own.parquet', chargebacks([None, 'c'], _landing_row=pa.array([7, 8])))
    assert run(lake).rows_after == 3 and {row['_landing_row'] for row in rows_of(lake)} == {None, 8}


def footer_says(data, size):
    "The bytes of a file whose footer gives another size for its row group"
    def varint(n):
        n, out = ((n << 1) ^ (n >> 63)) & (2**64 - 1), b''
        while True:
            n, low = n >> 7, n & 127
            out += bytes([low | (128 if n else 0)])
            if not n: return b'\x16' + out
    own = varint(pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0).total_byte_size)
    length = struct.unpack('<I', data[-8:-4])[0]
    body, footer = data[:-8 - length], data[-8 - length:-8].replace(own, varint(size))
    return body + footer + struct.pack('<I', len(footer)) + b'PAR1'


@pytest.mark.parametrize('size', [0, -1, -2**40, 2**60, 2**63 - 1])
def test_a_footer_that_lies_about_sizes(lake, size):
    lake.land('z.parquet', chargebacks([f'z{i}' for i in range(50)]))
    lake.land('a.parquet', footer_says(encode(chargebacks([f'k{i}' for i in range(100)])), size))
    assert run(lake, OUTPUT_FILE_COUNT=3).rows_after == 150 and len(rows_of(lake)) == 150


def test_adapting_keeps_what_a_slice_hides():
    "Nested columns are brought in line from the row on at which a table begins"
    kind = pa.list_(pa.struct([('a', pa.int32()), ('t', pa.timestamp('ms'))]))
    values = [[{'a': i, 't': i}] * (i % 3) if i % 4 else None for i in range(40)]
    table = pa.table(
        {'v': pa.array(values, kind), 'm': pa.array([[('k', i)] for i in range(40)], pa.map_(pa.string(), pa.int32()))}
    ).slice(7, 20)
    wide = pa.schema([
        ('v', pa.list_(pa.struct([('t', pa.timestamp('us')), ('a', pa.int64()), ('n', pa.string())]))),
        ('m', pa.map_(pa.string(), pa.int64()))])
    adapted = adapt(table, wide)
    adapted.validate(full=True)
    def plain(rows): return [None if v is None else [(x['a'], x['t']) for x in v] for v in rows]
    assert (
        plain(adapted['v'].to_pylist()) == plain(table['v'].to_pylist())
        and adapted['m'].to_pylist() == table['m'].to_pylist())


def test_a_rule_that_nobody_counts_is_an_error():
    counts = dict.fromkeys((rule.name for rule in RULES), 0)
    settings = parse(run_words(None, output_path='/o'))
    wholes = dict.fromkeys(('rows', 'records', 'files'), 1)
    assert len(quality.judge(counts, wholes, settings)) == len(RULES)
    rules = (*RULES, RULES[0]._replace(name='forgotten'))
    with pytest.raises(KeyError, match='forgotten'): quality.judge(counts, wholes, settings, rules)


# A store that refuses


def refusing(monkeypatch, operation, where, error='AccessDenied'):
    "From now on a store refuses an operation on paths that hold `where`; the function that lets it again"
    real, on = getattr(LocalStore, operation), [True]
    def refuse(self, path, *args, **options):
        paths = path if isinstance(path, list) else [getattr(path, 'path', path)]
        if on and any(where in p for p in paths): raise StoreError(f'{paths[0]}: {operation} is refused: {error}')
        return real(self, path, *args, **options)
    monkeypatch.setattr(LocalStore, operation, refuse)
    return on.clear


@pytest.mark.parametrize('operation', ['read', 'list', 'stage'])
def test_a_refusal_is_not_a_bad_file(lake, monkeypatch, capsys, operation):
    for name in 'abc': lake.land(f'{name}.parquet', chargebacks([name]))
    refusing(
        monkeypatch, operation, 'b.parquet' if operation == 'read' else '2025/11/02' if operation == 'list' else 'part-'
    )
    assert main(lake) == 1
    report, err = said(capsys)
    assert (
        err.count('\n') == 1 and 'AccessDenied' in err and report['unreadable_files'] == 0 and report['set_aside'] == []
    )
    assert report['status'] == 'failed' and not lake.files() and 'Traceback' not in err


def test_an_output_that_is_full_for_a_moment_blames_no_file(lake, monkeypatch):
    "The run ends, nothing is published, and the next one takes everything"
    for i in range(20): lake.land(f'{i}.parquet', chargebacks([f'k{i}-{j}' for j in range(50)]))
    clear = refusing(monkeypatch, 'stage', 'part-', 'no space left on device')
    with pytest.raises(StoreError, match='no space left'): run(lake)
    clear()
    assert run(lake).rows_after == 1000 and run(lake).set_aside == ()


def test_what_a_task_says_survives_spark(lake, spark, monkeypatch, capsys):
    "The one cause, and no Java trace"
    lake.land('a.parquet', chargebacks(['a']))
    monkeypatch.setattr(landing, 'cause_of', None)
    def work(share):
        yield 1
        raise StoreError('s3://b/k: GetObject is refused: AccessDenied')
    with pytest.raises(StoreError, match=r'^s3://b/k: GetObject is refused: AccessDenied$'):
        collect(run_tasks(spark, [1], work))
    def broken(share): return [1 / 0]
    with pytest.raises(TaskFailed, match=r'^a task failed: ZeroDivisionError: division by zero$'):
        collect(run_tasks(spark, [1], broken))
    with pytest.raises(TaskFailed, match='Spark could not finish the work'):
        collect(spark.sparkContext.parallelize([1], 1).map(lambda x: os._exit(3)))


def test_superseded_files_that_may_not_be_deleted_block_nothing(lake, monkeypatch, capsys):
    "The commit stands, the run says what is left and ends with 1, the next one goes on"
    lake.land('a.parquet', chargebacks(['a']))
    run(lake, OUTPUT_FILE_COUNT=1)
    clear = refusing(monkeypatch, 'delete', '/part-')
    for commit, name in ((2, 'b'), (3, 'c')):
        lake.land(f'{name}.parquet', chargebacks([name]))
        assert main(lake, OUTPUT_FILE_COUNT=1) == 1
        report, err = said(capsys)
        assert report['status'] == 'unfinished' and report['commit'] == commit and report['output_files'] == 1
        assert f'commit {commit} stands' in err and 'superseded files are still there' in err
    assert main(lake, OUTPUT_FILE_COUNT=1) == 1
    clear()
    assert main(lake, OUTPUT_FILE_COUNT=1) == 0 and len(lake.files()) == 1
    assert sorted(r['chargeback_id'] for r in rows_of(lake)) == ['a', 'b', 'c']


def test_files_that_may_not_be_published_are_published_later(lake, monkeypatch, capsys):
    lake.land('a.parquet', chargebacks(['a']))
    clear = refusing(monkeypatch, 'publish', 'part-')
    assert main(lake) == 1
    report, err = said(capsys)
    assert report['status'] == 'unfinished' and 'its files are not visible yet' in err and not lake.files()
    assert snapshot(ledger_of(lake)) == (None, [])      # a day whose first commit is rolled forward is still empty
    clear()
    assert main(lake) == 0 and len(rows_of(lake)) == 1


def test_a_record_that_arrives_after_its_run_has_given_up(lake, monkeypatch):
    "No answer is no refusal: while the record may still appear nothing that it names is dropped"
    lake.land('a.parquet', chargebacks(['a']))
    run(lake)
    lake.land('b.parquet', chargebacks(['b']))
    create, sent = LocalStore.create, []
    def unanswered(self, path, data):
        if not path.endswith('.json'): return create(self, path, data)
        sent.append((self, path, data))
        raise StoreError(f'{path} cannot be created: ReadTimeoutError')
    monkeypatch.setattr(LocalStore, 'create', unanswered)
    with pytest.raises(StoreError, match='ReadTimeoutError'): run(lake)
    monkeypatch.undo()
    assert create(*sent[0])
    assert lake.run(session=no_spark).status == 'nothing new' and sorted(
        row['chargeback_id'] for row in rows_of(lake)) == ['a', 'b']


def test_quarantine_that_has_expired_is_no_damage(lake):
    lake.land('a.parquet', chargebacks(['a', None]))
    run(lake)
    lake.quarantine()[0].unlink()
    report = run(lake)
    assert report.status == 'nothing new' and any('1 quarantined rows are gone' in w for w in report.warnings)
    assert repair(ledger_of(lake), 'abad1dea') == []
    lake.land('b.parquet', chargebacks(['b']))
    assert run(lake).rows_after == 2


def test_quarantine_of_superseded_commits_goes(lake):
    lake.land('a.parquet', chargebacks(['a', None, 'c']))
    run(lake)
    lake.land('a.parquet', chargebacks(['a', 'b', 'c']), mtime=1)
    assert lake.quarantine() and run(lake, REPROCESS=True).rows_after == 3 and not lake.quarantine()


# The ledger


def test_another_table_into_the_same_output_is_refused(lake, capsys):
    "Also for another day"
    lake.land('a.parquet', chargebacks(['a']))
    run(lake)
    other = lake.root / 'lake/landing/refunds/2025/11/03'
    other.mkdir(parents=True)
    (other / 'b.parquet').write_bytes(encode(chargebacks(['r'])))
    before = files_of(lake.output)
    assert main(lake, SOURCE_TABLE='refunds', PARTITION_DATE='2025-11-03') == 2
    assert (
        'holds the days of landing.chargebacks, not of landing.refunds' in said(capsys)[1]
        and files_of(lake.output) == before)
    assert ledger_of(lake).head().table == 'landing.chargebacks'


def test_the_days_stand_alone(lake, monkeypatch, capsys):
    "One fails, whatever the reason; the others are done"
    for day in (1, 2, 3): lake.land(f'2025/11/0{day}/a.parquet', chargebacks([f'k{day}']))
    refusing(monkeypatch, 'read', '2025/11/02/')
    assert entry.main(lake.words(ENABLE_PARTITION_FILTER=False, **LENIENT), session=inline) == 1
    assert sorted(p.name for p in lake.output.glob('year=*/*/*')) == ['day=01', 'day=03']
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith('{')]
    assert [r['status'] for r in reports] == ['done', 'failed', 'done']


@pytest.mark.parametrize('data', [b'', b'{', b'[]', b'{"format": 1}'])
def test_a_record_that_is_cut_is_named(lake, capsys, data):
    lake.land('a.parquet', chargebacks(['a']))
    run(lake)
    record = lake.ledger / '_ledger/year=2025/month=11/day=02/000001.json'
    record.write_bytes(data)
    assert main(lake) == 1 and f'{record} is not a commit record' in said(capsys)[1]


def test_more_than_a_million_commits(lake):
    lake.land('a.parquet', chargebacks(['a']))
    run(lake, OUTPUT_FILE_COUNT=1)
    ledger = ledger_of(lake)
    ledger.store.create(ledger.record_path(999_999), replace(ledger.head(), number=999_999).data())
    lake.land('b.parquet', chargebacks(['b']))
    assert run(lake, OUTPUT_FILE_COUNT=1).commit == 1_000_000 == ledger.head().number
    lake.land('c.parquet', chargebacks(['c']))
    assert run(lake, OUTPUT_FILE_COUNT=1).commit == 1_000_001 and len(rows_of(lake)) == 3


def test_a_sidecar_that_is_there_already_must_be_the_same(lake, monkeypatch):
    "A task that is tried again finds its own; anything else ends the run"
    lake.land('a.parquet', chargebacks(['a']))
    create = LocalStore.create
    def twice(self, path, data):
        if path.endswith('.lineage'): create(self, path, data)
        return create(self, path, data)
    monkeypatch.setattr(LocalStore, 'create', twice)
    assert run(lake).status == 'done'
    lake.land('b.parquet', chargebacks(['b']))
    monkeypatch.setattr(
        LocalStore, 'create',
        lambda self, path, data: (
            create(self, path, data + b'x') and False if path.endswith('.lineage') else create(self, path, data)))
    with pytest.raises(StoreError, match='is not what this run makes'): run(lake)


def test_none_means_none():
    words = run_words(None, output_path='/o', compression_codec='none')
    settings = parse([*words, '--KMS_KEY_ID', 'none', '--METRICS_NAMESPACE', 'None'])
    assert settings.kms_key_id is None and settings.metrics_namespace is None and settings.compression_codec == 'none'


# What Spark says about its calendar


VERSION, LEGACY = b'org.apache.spark.version', b'org.apache.spark.legacyDateTime'


def by_spark(key, due, **metadata):
    "A table as Spark of this version writes it, with a date"
    table = chargebacks([key], updated=1, due=pa.array([due], pa.date32()))
    return table.replace_schema_metadata({VERSION: '3.5.6', **metadata})


def footers(lake): return [pq.ParquetFile(path).metadata.metadata.get(VERSION) for path in lake.files()]


def test_spark_s_version_is_kept_where_all_sources_have_it(lake):
    "Without it Spark refuses the old dates that it read in landing"
    lake.land('a.parquet', by_spark('a', date(1, 1, 1)))
    run(lake, OUTPUT_FILE_COUNT=1)
    assert footers(lake) == [b'3.5.6']
    lake.land('b.parquet', by_spark('b', date(2025, 1, 1)))
    run(lake, OUTPUT_FILE_COUNT=1)
    assert footers(lake) == [b'3.5.6'] and sorted(row['due'] for row in rows_of(lake)) == [
        date(1, 1, 1), date(2025, 1, 1)]
    lake.land('c.parquet', chargebacks(['c'], updated=1))
    run(lake, OUTPUT_FILE_COUNT=1)
    assert footers(lake) == [None]


def test_old_dates_in_the_legacy_calendar_are_a_conflict(lake):
    "They would move by days; newer ones are the same in both"
    lake.land('new.parquet', by_spark('a', date(2025, 1, 1), **{LEGACY.decode(): ''}))
    lake.land('old.parquet', by_spark('b', date(1000, 1, 1), **{LEGACY.decode(): ''}))
    lake.land('older.parquet', by_spark('c', date(1000, 1, 1)).replace_schema_metadata({VERSION: '2.4.8'}))
    report = run(lake, MAX_SCHEMA_CONFLICT_RATE=1)
    assert [(a.path, a.rule) for a in report.set_aside] == [
        (f'{DAY}/old.parquet', 'schema'), (f'{DAY}/older.parquet', 'schema')]
    assert all('column due has dates before 1582' in a.cause for a in report.set_aside) and report.rows_after == 1
