"""Every investigation on a sound day and on a damaged one: it says exactly what is wrong. What it says is checked
against DuckDB, which shares no code with it."""
import os
import random
import shutil
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import DAY, FOLDER, damaged, execute, head, sound
from days import tree

from chargeback_consolidation import entry
from chargeback_consolidation.answers.day import Overtaken, landing_files, open_day
from chargeback_consolidation.answers.duplicates import duplicates
from chargeback_consolidation.answers.file_sizes import sizes
from chargeback_consolidation.answers.late_arrivals import late_arrivals
from chargeback_consolidation.answers.quality_history import history, open_days, stands_out
from chargeback_consolidation.answers.reconcile import reconcile
from chargeback_consolidation.answers.records import row_origin
from chargeback_consolidation.answers.rules import rules_answered as rules_now
from chargeback_consolidation.answers.trace import trace
from chargeback_consolidation.ledger import Ledger
from chargeback_consolidation.quality import QualityFailed
from chargeback_consolidation.sample.lake import run_words
from chargeback_consolidation.sample.landing import land_sample
from chargeback_consolidation.settings import ArgumentError, parse, read_date
from chargeback_consolidation.state import quiet
from chargeback_consolidation.store import store_for

pytestmark = pytest.mark.xdist_group('findings')

RECORDS = """
SELECT '2025/11/02/' || parse_filename(filename) AS path, file_row_number AS row,
    chargeback_id, updated_at, event_timestamp, status
FROM read_parquet('{}/*.parquet', filename = true, file_row_number = true, union_by_name = true)
"""
ORDER = 'coalesce(updated_at, event_timestamp) DESC NULLS LAST, event_timestamp DESC NULLS LAST, path DESC, row DESC'


@pytest.fixture(scope='module')
def good(tmp_path_factory, spark):
    root = tmp_path_factory.mktemp('sound')
    sound(root)
    return root


@pytest.fixture(scope='module')
def bad(tmp_path_factory, good):
    "A damaged copy, and what was done to it; modification times, which are a local file's ETag, are kept"
    root = tmp_path_factory.mktemp('damaged')/'lake'
    shutil.copytree(good, root)
    return root, damaged(root)


def day_of(root, **options): return open_day(f'{root}/out', DAY, catalog=str(root), **options)
def found(answer): return {f.kind: (f.level, f.count, f.where) for f in answer.findings}


def ask(root, sql):
    "An answer of DuckDB about the landing records of the day"
    with duckdb.connect() as db:
        db.sql(f'CREATE VIEW records AS {RECORDS.format(Path(root, FOLDER))}')
        return db.sql(sql).fetchall()


def common(done):
    "What every investigation says about the damaged day"
    return {'landing file gone': ('fail', 50, (done.gone,)), 'output file short': ('fail', 5, (done.short,))}


def waits(done, records=1): return {'not yet taken': ('warn', records, (done.waiting,))}


def twice(done): return {'landing file doubled': ('ok', 50, (done.doubled,))}


# reconcile


def test_reconcile_sound(good):
    answer = reconcile(day_of(good))
    assert found(answer) == {'landing file doubled': ('ok', 50, ('2025/11/02/part-7-0.parquet',))}
    ((chargebacks, records, keyless),) = ask(
        good, 'SELECT count(DISTINCT chargeback_id), count(*), count(*) FILTER (chargeback_id IS NULL) FROM records')
    facts = dict(answer.facts)
    assert (facts['chargebacks'], facts['records in them'], facts['quarantined'], facts['rows of the day']) == (
        chargebacks, records, keyless, chargebacks)
    assert facts['duplicates'] == records - keyless - chargebacks
    assert answer.tables['executions']['balanced'].all() and len(answer.tables['executions']) == 2


def test_reconcile_damaged(bad):
    root, done = bad
    answer = reconcile(day_of(root))
    missing = next(f for f in answer.findings if f.kind == 'keys missing')
    where = {
        p
        for (p,) in ask(
            root,
            f"SELECT DISTINCT path FROM (SELECT *, row_number() OVER (PARTITION BY chargeback_id ORDER BY {ORDER}) AS "
            f"place FROM records WHERE path <> '{done.waiting}') "
            f"WHERE place = 1 AND chargeback_id IN {tuple(done.removed)}")}
    assert found(answer) == {
        **common(done), **waits(done), **twice(done), 'keys missing': ('fail', 5, tuple(sorted(where)))}
    assert set(missing.keys) == set(done.removed) and Path(done.short).name in missing.text
    assert answer.verdict.startswith('Wrong: ')
    states = answer.tables['files'].set_index('path')['state']
    assert states[done.gone] == 'gone' and states[done.waiting] == 'waiting'


def copy_of(root, tmp_path):
    shutil.copytree(root, tmp_path/'lake')
    return tmp_path/'lake'


def kinds(root): return {f.kind for f in reconcile(day_of(root)).findings} - {'landing file doubled'}


def rewrite(root, change, slot=0):
    "Change the rows of an output file, its row count as it was"
    path = root/'out'/head(root).files[slot].path
    pq.write_table(change(pq.ParquetFile(path).read()), path)


def with_column(table, name, change):
    return table.set_column(
        table.schema.get_field_index(name), table.schema.field(name),
        pa.array(change(table[name].to_pylist()), table.schema.field(name).type))


@pytest.mark.parametrize(
    'name, harm, kind',
    [
        (
            'a key changed by hand',
            lambda root: rewrite(
                root, lambda t: with_column(t, 'chargeback_id', lambda keys: ['cb-forged', *keys[1:]])),
            {'keys extra', 'keys missing', 'keys not as committed', 'output file changed'}),
        (
            'a time changed by hand',
            lambda root: rewrite(
                root, lambda t: with_column(t, 'updated_at', lambda times: [times[0].replace(year=2020), *times[1:]])),
            {'older version', 'row changed', 'output file changed'}),
        (
            'a row doubled by hand',
            lambda root: rewrite(root, lambda t: pa.concat_tables([t.slice(0, 1), t.slice(0, len(t) - 1)])),
            {'keys twice', 'keys missing', 'keys not as committed', 'output file changed'}),
        (
            'an output file deleted', lambda root: (root / 'out' / head(root).files[2].path).unlink(),
            {'output file gone', 'keys missing'}),
        (
            'an output file broken', lambda root: (root / 'out' / head(root).files[2].path).write_bytes(b'PAR1'),
            {'output file unreadable', 'keys missing'}),
        (
            'a commit interrupted',
            lambda root: (root / 'out' / head(root).files[2].path).rename(
                (root / 'out' / head(root).files[2].path).with_name(head(root).files[2].token)),
            {'output file not published', 'keys missing'}),
        (
            'a foreign file',
            lambda root: shutil.copy(
                root / 'out' / head(root).files[2].path, root / 'out/year=2025/month=11/day=02/extra.parquet'),
            {'output file foreign'}),
        ('lineage deleted', lambda root: (root / '_out' / head(root).files[2].lineage).unlink(), {'lineage gone'}),
        (
            'quarantine deleted', lambda root: (root / '_out' / head(root).quarantine[0].path).unlink(),
            {'quarantine file gone', 'quarantine rows missing'}),
        (
            'a landing file rewritten',
            lambda root: shutil.copyfile(root / FOLDER / 'part-0-0.parquet', root / FOLDER / 'part-3-1.parquet'),
            {'landing file rewritten'}),
        (
            'a landing file cut after it was taken',
            lambda root: os.truncate(root / FOLDER / 'part-3-1.parquet', 400),
            {'landing file broken'}),
        (
            'the landing zone expired', lambda root: [p.unlink() for p in (root / FOLDER).glob('*.parquet')],
            {'landing file gone'}),
        (
            'a key changed after the landing zone expired',
            lambda root: [
                rewrite(root, lambda t: with_column(t, 'chargeback_id', lambda keys: ['cb-forged', *keys[1:]])),
                *[p.unlink() for p in (root / FOLDER).glob('*.parquet')]],
            {'landing file gone', 'output file changed', 'keys not as committed'})],
    ids=lambda v: v.replace(' ', '-') if isinstance(v, str) else '')
def test_other_damage(good, tmp_path, name, harm, kind):
    root = copy_of(good, tmp_path)
    harm(root)
    assert kinds(root) == kind


def test_ledger_whose_counts_do_not_add_up(good, tmp_path):
    root = copy_of(good, tmp_path)
    record = sorted(Path(root, '_out/_ledger/year=2025/month=11/day=02').glob('*.json'))[0]
    record.write_text(record.read_text().replace('"duplicates_removed": ', '"duplicates_removed": 1'))
    assert kinds(root) == {'not balanced'}


# duplicates


def test_duplicates(good, bad):
    root, done = bad
    answer = duplicates(day_of(good))
    rows = ask(
        good,
        'SELECT count(*) - count(DISTINCT (chargeback_id, updated_at, event_timestamp)) AS alike, count(*) - '
        'count(DISTINCT chargeback_id) FROM records WHERE chargeback_id IS NOT NULL'
    )
    whole = dict(answer.facts)
    assert whole['duplicates'] == rows[0][1] and whole['repeat'] + whole['tie'] == rows[0][0]
    assert whole['repeat'] >= 50 and whole['tie'] > 0
    assert {'landing file doubled', 'tie'} == set(found(answer))
    doubled = answer.tables['doubled files'].iloc[0]
    assert (doubled['path'], doubled['twin']) == (done.doubled, done.twin)
    lost = answer.tables['files'].set_index('path')
    assert lost.loc[done.twin, 'share, %'] >= 90 and lost.loc[done.twin, 'repeats'] >= 40, (
        'the copy has the later path, so the original loses')
    harmed = found(duplicates(day_of(root)))
    assert {k: v for k, v in harmed.items() if k != 'tie'} == {**common(done), **waits(done), **twice(done)}


def test_repeats_and_ties_against_duckdb(good):
    "Whole rows are compared: a repeat is equal in every column, a tie only in its times"
    answer = duplicates(day_of(good))
    with duckdb.connect() as db:
        ((records, contents, times),) = (
            db.sql(f"""SELECT count(*), count(DISTINCT whole),
                   count(DISTINCT (chargeback_id, updated_at, event_timestamp))
            FROM (SELECT chargeback_id, updated_at, event_timestamp, t::VARCHAR AS whole
                  FROM (SELECT * FROM read_parquet('{Path(good, FOLDER)}/*.parquet', union_by_name = true)) t
                  WHERE chargeback_id IS NOT NULL)""").fetchall()
        )
    facts = dict(answer.facts)
    assert (facts['repeat'], facts['tie']) == (records - contents, contents - times)


# trace and lineage


def test_trace_of_a_hundred_chargebacks(good):
    everything = ask(
        good,
        f'SELECT chargeback_id, path, row, row_number() OVER (PARTITION BY chargeback_id ORDER BY {ORDER}) AS place '
        'FROM records WHERE chargeback_id IS NOT NULL ORDER BY chargeback_id, place'
    )
    several = sorted({k for k, _, _, place in everything if place > 1})
    chosen = sorted(
        random.Random(7).sample(several, 60)
        + random.Random(8).sample(sorted({k for k, *_ in everything} - set(several)), 40))
    want = [(k, path, row, 'kept' if place == 1 else 'not') for k, path, row, place in everything if k in set(chosen)]
    answer = trace(day_of(good), chosen)
    versions = answer.tables['versions']
    have = [
        (v['chargeback_id'], v['landing file'], v['row'], 'kept' if v['outcome'] == 'kept' else 'not')
        for v in versions.to_dict('records')]
    assert have == want and len(have) > 160
    assert {f.level for f in answer.findings} == set()
    now = answer.tables['now']
    assert sorted(zip(now['chargeback_id'], now['landing file'], now['landing row'], strict=True)) == sorted(
        (k, p, r) for k, p, r, outcome in want if outcome == 'kept')
    for r in now.to_dict('records')[:20]:
        assert pq.read_table(good / 'out' / r['file'])['chargeback_id'][r['row']].as_py() == r['chargeback_id'], (
            'the output row is where the report says')
    outcomes = set(versions['outcome'])
    assert {'kept', 'older updated_at'} <= outcomes and any('path comes first' in o for o in outcomes)


def test_every_row_leads_back_to_its_landing_row(good):
    ledger = Ledger(store_for(f'{good}/out'), f'{good}/out', read_date(DAY))
    commit = ledger.head()
    rng = random.Random(3)
    for f in commit.files:
        table = pq.ParquetFile(good/'out'/f.path).read()
        for row in [0, f.rows - 1, *rng.sample(range(f.rows), 10)]:
            path, at = row_origin(ledger, commit, f.path, row)
            own, landed = (
                table.slice(row, 1).to_pylist()[0],
                pq.read_table(good / 'landing/chargebacks' / path).slice(at, 1).to_pylist()[0])
            assert {k: v for k, v in own.items() if v is not None} == {k: v for k, v in landed.items() if v is not None}
    with pytest.raises(ArgumentError, match='has the rows 0 to'): row_origin(ledger, commit, f.path, f.rows)
    with pytest.raises(ArgumentError, match='is not a file of commit 2'):
        row_origin(ledger, commit, 'part-x.parquet', 0)


def test_trace_on_a_damaged_day(bad):
    root, done = bad
    day, general = day_of(root), {'landing file gone', 'not yet taken', 'output file short'}
    lost = trace(day, done.removed[:1])
    assert (
        found(lost)['not in the day'] == ('fail', 1, (done.short,))
        and not len(lost.tables['now'])
        and set(found(lost)) == general | {'not in the day'})
    new = trace(day, [done.newer[0]])
    assert (
        found(new)['version not yet taken'] == ('warn', 1, (done.waiting,))
        and new.tables['versions']['outcome'].iloc[0] == 'waits for the next execution')
    orphan = trace(day, [done.lost_with_gone])
    assert any(
        f.kind == 'landing file gone' and f.keys == (done.lost_with_gone,) and f.where == (done.gone,)
        for f in orphan.findings)
    assert orphan.tables['now'].iloc[0]['landing file'] == done.gone
    assert lost.verdict.startswith('Wrong: the chargeback landed and was taken, but is not in the day')
    unknown = trace(day, ['cb-nowhere'])
    assert found(unknown)['unknown'][0] == 'warn' and 'another day' in unknown.verdict
    short = pq.read_table(root/'out'/done.short)['chargeback_id']
    still = trace(day, [short[20].as_py()])
    assert set(found(still)) <= general and len(still.tables['now']) == 1
    assert (
        still.tables['now'].iloc[0][['landing file', 'landing row']].tolist()
        == still.tables['versions'].iloc[0][['landing file', 'row']].tolist()
    ), 'the lineage of a changed file is of use'
    assert still.verdict == 'The version that the day shows is the latest of 1 that landed.', 'of this question alone'
    assert still.level == 'ok' and {f.level for f in still.findings} >= {'fail', 'warn'} and lost.level == 'fail'
    assert 'class="summary ok"' in still._repr_mimebundle_()['text/html']


def test_payloads_are_shown_on_demand_only(good):
    key = pq.read_table(good/'out'/head(good).files[0].path)['chargeback_id'][0].as_py()
    plain, whole = (trace(day_of(good), [key], show_payload=show).tables['versions'] for show in (False, True))
    assert not {'evidence', 'documents', 'cardholder', 'transaction_id'} & set(plain.columns) and {
        'evidence', 'documents', 'cardholder'} <= set(whole.columns)
    with pytest.raises(ArgumentError, match='give one of them'):
        trace(day_of(good, mask=True), [key], show_payload=True)


# late arrivals, sizes, history


def test_late_arrivals(good, bad):
    root, done = bad
    sound_day = late_arrivals(day_of(good))
    assert set(found(sound_day)) == {'landing file doubled'} and sound_day.verdict.startswith('Every landing file')
    first = sound_day.tables['missed'].iloc[0]
    taken = {f.path for f in landing_files(day_of(good)).itertuples() if f.commit == 1}
    ((missing, outdated),) = ask(
        good,
        f"""SELECT count(*) FILTER (seen = 0), count(*) FILTER (seen > 0 AND NOT early)
        FROM (SELECT chargeback_id, count(*) FILTER (path IN {tuple(taken)}) AS seen,
                     first(path ORDER BY {ORDER}) IN {tuple(taken)} AS early
              FROM records WHERE chargeback_id IS NOT NULL GROUP BY ALL)""",
    )
    assert (first['files taken'], first['files later']) == (20, 21)
    assert (first['chargebacks that would be missing'], first['chargebacks that would be outdated']) == (
        missing, outdated) and outdated > 0
    answer = late_arrivals(day_of(root))
    assert found(answer) == {**common(done), **waits(done, 8), **twice(done)}
    last = answer.tables['missed'].iloc[-1]
    assert (
        last['records later'], last['chargebacks that would be missing'],
        last['chargebacks that would be outdated']) == (8, 5, 3)
    assert answer.tables['not in the day']['path'].tolist() == [done.waiting]


def test_a_file_that_was_rewritten_has_not_arrived_late(good, tmp_path):
    root = copy_of(good, tmp_path)
    shutil.copyfile(root / FOLDER / 'part-0-0.parquet', root / FOLDER / 'part-3-1.parquet')
    answer = late_arrivals(day_of(root))
    assert 'not yet taken' not in found(answer) and dict(answer.facts)['waiting files'] == 0


TABLE = {'source_database': 'landing', 'source_table': 'chargebacks'}


def landed(root): return sorted((root / FOLDER).glob('*.parquet'))


def again(root, execute_after=False):
    "The whole day lands once more under the same names"
    for path in landed(root): shutil.copyfile(path, path.with_suffix('.new')); path.with_suffix('.new').replace(path)
    if execute_after: execute(root, '--MAX_DUPLICATE_RATE', '1')


def cut(root):
    "A file that was taken is cut afterwards"
    os.truncate(landed(root)[0], 100)


def refused(root):
    "A fifth of a day that no run would take cannot be read"
    for name in ('out', '_out'): shutil.rmtree(root / name)
    for path in landed(root)[::5]: os.truncate(path, 100)
    settings = parse(run_words(root, partition_date=DAY, max_null_key_rate=1, max_unreadable_rate=0.1))
    with pytest.raises(QualityFailed): entry.run_all(settings, observe=quiet, tell=lambda report: None)


@pytest.mark.parametrize('happens', [again, lambda root: again(root, True), cut, refused],
                         ids=['again', 'again, and taken', 'cut', 'refused'])
def test_every_question_has_an_answer_on_odd_days(good, tmp_path, happens):
    root = copy_of(good, tmp_path)
    some = ask(root, 'SELECT chargeback_id FROM records WHERE chargeback_id IS NOT NULL LIMIT 1')[0][0]
    happens(root)
    rules = 'Rules = [ ColumnValues "amount" > 0 ]'
    questions = (
        duplicates, sizes, late_arrivals, reconcile, lambda day: trace(day, [some]), lambda day: rules_now(day, rules))
    for question in questions:
        answer = question(day_of(root, **TABLE))
        for name in answer.tables: assert answer.show(name).text
    answer = history(open_days(f'{root}/out', DAY, 2, catalog=str(root), **TABLE))
    assert len(answer.tables['days']) == 1


def test_a_day_that_lands_again_is_all_repeats(good, tmp_path):
    root = copy_of(good, tmp_path)
    again(root, True)
    answer = duplicates(day_of(root))
    assert answer.tables['files']['path'].is_unique and answer.tables['files']['share, %'].max() <= 100
    assert found(answer)['landing file rewritten'][0] == 'warn'


def test_a_day_that_was_refused_says_why(good, tmp_path):
    root = copy_of(good, tmp_path)
    refused(root)
    answer = reconcile(day_of(root, **TABLE))
    broken = tuple(str(p.relative_to(root / 'landing/chargebacks')) for p in landed(root)[::5])
    level, count, where = found(answer)['not readable']
    assert level == 'warn' and set(where) == set(broken)
    files = answer.tables['files'].set_index('path')
    assert (files['cause'] != '').sum() == len(broken) and (files['rows'] > 0).sum() == len(files) - len(broken)


def test_the_history_tells_of_files_that_are_set_aside_since(good, tmp_path):
    "The rate is that of the day, not that of its last execution"
    root = copy_of(good, tmp_path)
    for number in range(3): (root / FOLDER / f'part-8-{number}.parquet').write_bytes(b'PAR1 and no more')
    execute(root)
    shutil.copyfile(landed(root)[0], root / FOLDER / 'part-9-0.parquet')
    execute(root)
    days = history(open_days(f'{root}/out', DAY, 1, catalog=str(root))).tables['days']
    assert days['unreadable, %'][0] == pytest.approx(100 * 3 / len(landed(root)), abs=1e-3)


def test_sizes(good, bad):
    root, done = bad
    whole = sum(p.stat().st_size for p in (good/'out/year=2025').rglob('*.parquet'))
    answer = sizes(day_of(good), target_mb=whole / 6e6)
    assert dict(answer.facts)['output files'] == 3 and {f.kind for f in answer.findings} <= {'file count'}
    assert found(sizes(day_of(good), target_mb=whole / 12e6))['file count'] == ('ok', 12, ())
    harmed = found(sizes(day_of(root), target_mb=whole / 3e6))
    assert harmed == {**common(done), **waits(done)}
    with pytest.raises(ArgumentError, match='--target-mb'): sizes(day_of(good), target_mb=0)


@pytest.fixture(scope='module')
def week(tmp_path_factory, spark):
    "Seven days; the sixth has half of the files and ten times the newer versions"
    root = tmp_path_factory.mktemp('week')
    for i in range(1, 8):
        odd = dict(files=6, versions=0.6) if i == 6 else dict(files=12, versions=0.06)
        land_sample(
            str(root), date=f'2025-11-0{i}', records_per_file=20, payload_bytes=20, truncated_files=0.0,
            empty_files=0.0, redelivered_files=0.0, seed=i, null_keys=0.0, **odd)
    execute(root, '--ENABLE_PARTITION_FILTER', 'false', '--MAX_DUPLICATE_RATE', '1')
    return root


def test_history(week, tmp_path):
    answer = history(open_days(f'{week}/out', '2025-11-07', 9))
    assert {(o.date, o.what) for o in answer.tables['outliers'].itertuples() if o.why == 'far from the median'} >= {
        ('2025-11-06', w) for w in ('records', 'rows', 'landing files', 'duplicate')}
    assert {
        o.date
        for o in answer.tables['outliers'].itertuples()
        if o.what in ('records', 'rows', 'landing files', 'duplicate')} == {'2025-11-06'}
    assert len(answer.tables['days']) == 7 and not [f for f in answer.findings if f.level == 'fail']
    root = tmp_path/'lake'
    shutil.copytree(week, root)
    (root/'landing/chargebacks/2025/11/03/part-0-0.parquet').unlink()
    shutil.rmtree(root/'_out/_ledger/year=2025/month=11/day=04')
    harmed = history(open_days(f'{root}/out', '2025-11-07', 7, catalog=str(root)))
    assert {(f.kind, f.text[:10]) for f in harmed.findings if f.level == 'fail'} == {
        ('landing file gone', '2025-11-03'), ('no execution', '2025-11-04')}
    days = harmed.tables['days']
    assert list(days['date']) == [f'2025-11-0{i}' for i in range(1, 8)]
    assert list(days['executions'])[2:5] == [1, 0, 1] and days['records'].isna().tolist() == [False] * 3 + [True] + [
        False] * 3


def test_history_on_a_damaged_day(bad):
    root, done = bad
    answer = history(open_days(f'{root}/out', DAY, 2, catalog=str(root)))
    assert {k: v for k, v in found(answer).items() if 'threshold' not in k} == {**common(done), **waits(done)}


def test_what_stands_out():
    assert [far for _, far in stands_out([10, 10, 10, 10, 10, 10, 10])] == [False] * 7
    assert [far for _, far in stands_out([10, 11, 9, 10, 11, 30, 10])] == [False] * 5 + [True, False]
    assert [far for _, far in stands_out([10, 11, 9, 10, 90])] == [False] * 5, 'four other days are too few'


# what holds for all


@pytest.mark.parametrize(
    'ask_for',
    [
        reconcile, duplicates, late_arrivals, sizes, lambda day: trace(day, ['cb-nowhere']),
        lambda day: history(open_days(day.ledger.root, DAY, 2, catalog=str(Path(day.ledger.root).parent)))])
def test_same_digest_and_nothing_changed(bad, ask_for):
    before = tree(bad[0])
    first, masked = ask_for(day_of(bad[0])), ask_for(day_of(bad[0], mask=True))
    assert first.digest == masked.digest
    assert tree(bad[0]) == before


def test_masked(bad):
    root, done = bad
    answer = reconcile(day_of(root, mask=True))
    text = str(answer.data()) + answer._repr_mimebundle_()['text/html']
    assert not any(k in text for k in done.removed) and 'id~' in text
    shown = trace(day_of(root, mask=True), [done.newer[0]]).show('versions').html
    assert done.newer[0] not in shown and shown.count(day_mask(shown)) >= 2


def day_mask(text): return text[text.index('id~'):][:15]


def test_a_day_before_its_first_execution(tmp_path, good):
    root = copy_of(good, tmp_path)
    land_sample(str(root), date='2025-11-03', files=4, records_per_file=5, payload_bytes=20)
    for investigation in (reconcile, duplicates, late_arrivals, sizes):
        answer = investigation(open_day(f'{root}/out', '2025-11-03', catalog=str(root)))
        assert found(answer)['no execution'][:2] == ('fail', 4)
    empty = reconcile(open_day(f'{root}/out', '2025-11-04', catalog=str(root)))
    assert 'nothing has landed' in empty.verdict


def test_what_is_refused(tmp_path, good):
    with pytest.raises(ArgumentError, match='holds no day'): open_day(tmp_path/'nothing', DAY)
    with pytest.raises(ArgumentError, match='--partition-date must be a day'): open_day(f'{good}/out', '2025-2-30')
    with pytest.raises(ArgumentError, match='--output-path is required'): open_day('', DAY)
    with pytest.raises(ArgumentError, match='--SOURCE_TABLE'): open_day(f'{good}/out', DAY, source_table='refunds')


def test_overtaken(good, tmp_path, monkeypatch):
    "An execution that commits while an investigation reads is not reported as damage"
    root = copy_of(good, tmp_path)
    day = day_of(root)
    shutil.copy(root/FOLDER/'part-0-1.parquet', root/FOLDER/'part-9-9.parquet')
    execute(root)
    for ask_for in (reconcile, duplicates, late_arrivals, sizes):
        with pytest.raises(Overtaken, match='run'): ask_for(day)
