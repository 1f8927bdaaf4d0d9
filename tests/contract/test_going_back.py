"""A day goes back to an earlier commit and is held there; superseded files stay for a while (C20)."""
import hashlib
import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from days import DAY, LENIENT, Lake, chargebacks, tree
from deltalake import DeltaTable
from inline import inline
from oracle import consolidated
from rich.console import Console

from chargeback_consolidation import entry
from chargeback_consolidation.answers.day import footers, landing_files, open_day, standing
from chargeback_consolidation.answers.late_arrivals import late_arrivals
from chargeback_consolidation.answers.quality_history import day_counts
from chargeback_consolidation.answers.reconcile import reconcile
from chargeback_consolidation.answers.trace import trace
from chargeback_consolidation.commands.cli import carry_out
from chargeback_consolidation.commands.going_back import expire_day, release_day, roll_back
from chargeback_consolidation.commands.terminal import teller
from chargeback_consolidation.ledger import (
    Gone,
    Ledger,
    LedgerDamaged,
    remove_superseded,
    retained,
    settle,
    slot_paths,
    snapshot,
    snapshot_of,
)
from chargeback_consolidation.local import LocalStore
from chargeback_consolidation.parquet import read_lineage
from chargeback_consolidation.repair import fence_after, repair
from chargeback_consolidation.report import BY_SNAPSHOT, tell

KEEP = dict(LENIENT, KEEP_SUPERSEDED_HOURS=48)


def rows(files):
    return sorted(
        tuple(map(str, row.values())) for e in files
        for row in pq.ParquetFile(e.path).read(use_threads=False).to_pylist())


def digest(files): return hashlib.sha256(repr(rows(files)).encode()).hexdigest()


def land(lake, name, keys, updated):
    lake.land(f'{name}.parquet', chargebacks(keys, updated=updated, status=pa.array([name] * len(keys))), mtime=updated)


@pytest.fixture
def lake(tmp_path):
    "A day of three commits, with files that the commits share, a quarantine and files superseded that are still there"
    lake = Lake(tmp_path)
    land(lake, 'one', ['k1', 'k2', 'k3', None], 1)
    lake.run(session=inline, **KEEP)
    land(lake, 'two', ['k4', 'k5', None], 2)
    lake.run(session=inline, **KEEP)
    land(lake, 'bad', ['k1', 'k2', 'k3', 'k4', 'k9'], 3)
    lake.run(session=inline, **KEEP)
    return lake


@pytest.fixture
def ledger(lake): return Ledger(LocalStore(), str(lake.output), date.fromisoformat(DAY))


def test_c20_every_commit_is_there(ledger):
    counts = [snapshot_of(ledger, n)[0].rows for n in ledger.numbers()]
    assert counts == [3, 5, 6] and len(ledger.visible()) > len(ledger.head().files)
    for n in ledger.numbers(): assert len(rows(snapshot_of(ledger, n)[1])) == counts[n - 1]


def test_c20_zero_hours_is_as_ever(lake, ledger):
    land(lake, 'more', ['k7'], 4)
    report = lake.run(session=inline, **LENIENT)
    assert report.serves == 'listing' and {e.path for e in ledger.visible()} == {
        ledger.path(f.path) for f in ledger.head().files}


def test_c20_a_run_says_that_the_way_back_goes(lake, ledger):
    land(lake, 'more', ['k7'], 4)
    report = lake.run(session=inline, **LENIENT)
    assert [w for w in report.warnings if w.startswith('commit 3 kept superseded files for 48 hours and this run')]
    land(lake, 'still more', ['k8'], 5)
    assert not any('superseded' in w for w in lake.run(session=inline, **LENIENT).warnings)


def test_c20_a_reprocess_says_that_it_ends_a_hold(lake, ledger):
    roll_back(ledger, 1, 'a' * 8)
    report = lake.run(session=inline, REPROCESS='true', **KEEP)
    assert ledger.head().held == 0 and f'{DAY} is held at commit 1: this reprocess ends that' in report.warnings


def test_c20_they_stay_as_long_as_said(ledger):
    head, now = ledger.head(), datetime.now(UTC)
    def kept(hours): return [c.number for c in retained(ledger, head, now + timedelta(hours=hours))]
    assert (kept(0), kept(47), kept(49)) == ([2, 1], [2, 1], [])


def test_c20_back_and_forward_have_equal_digests(ledger):
    before = {n: digest(snapshot_of(ledger, n)[1]) for n in ledger.numbers()}
    for number, name in ((1, 'a' * 8), (3, 'b' * 8), (2, 'c' * 8)):
        made = roll_back(ledger, number, name)
        assert made.held == number and made.kind == 'rollback'
        commit, files = snapshot(ledger)
        assert commit == made and digest(files) == before[number]
    assert len(set(before.values())) == 3


def test_c20_lineage_goes_with_the_files(ledger):
    def origins(commit):
        return [tuple(map(tuple, read_lineage(ledger.store.load(ledger.path(f.lineage))))) for f in commit.files]
    before = snapshot_of(ledger, 1)[0]
    made = roll_back(ledger, 1, 'a' * 8)
    assert origins(made) == origins(before) and ledger.taken(made) == ledger.taken(before)
    assert sum(f.rows for f in made.quarantine) == sum(f.rows for f in before.quarantine) == 1


def test_c20_a_held_day_is_left_alone(lake, ledger, capsys):
    roll_back(ledger, 2, 'a' * 8)
    land(lake, 'later', ['k8'], 9)
    before = tree(lake.output)
    assert entry.main(lake.words(**KEEP), session=lambda: pytest.fail('Spark was started')) == 0
    out = capsys.readouterr().out
    assert 'warning: 2025-11-02 was rolled back to commit 2 and is held there: 2 landing files wait' in out
    report = json.loads(out.splitlines()[-1])
    assert report['status'] == 'held' and report['records_processed'] == 0 and report['commit'] == 4
    assert 'METRICS: records_processed=0, duplicates_removed=0, output_files=2' in out and tree(lake.output) == before


def test_c20_a_repair_does_not_release(lake, ledger):
    roll_back(ledger, 2, 'a' * 8)
    with ledger.store.stage(ledger.path(slot_paths(ledger.day, 0, 5, 'dead0000').file)) as sink: sink.write(b'x')
    assert repair(ledger, 'f' * 8) == ['removed 1 staged files']
    assert ledger.head().kind == 'repair' and ledger.head().held == 2
    assert lake.run(session=inline, **KEEP).status == 'held'


def test_c20_released_it_takes_what_has_landed_since(lake, ledger):
    undisturbed = digest(snapshot(ledger)[1])
    roll_back(ledger, 1, 'a' * 8)
    assert release_day(ledger, 'b' * 8).held == 0 and release_day(ledger, 'c' * 8) is None
    report = lake.run(session=inline, **KEEP)
    assert report.status == 'done' and report.files_taken == 2 and digest(snapshot(ledger)[1]) == undisturbed


def test_c20_reprocess_ends_it_too(lake, ledger):
    undisturbed = digest(snapshot(ledger)[1])
    roll_back(ledger, 1, 'a' * 8)
    assert lake.run(session=inline, REPROCESS='true', **KEEP).status == 'done'
    assert ledger.head().held == 0 and digest(snapshot(ledger)[1]) == undisturbed


def test_c20_what_was_set_aside_keeps_its_cause(lake, ledger):
    "Through rollback, release and the fence of a repair, which have no causes of their own"
    lake.land('cut.parquet', b'PAR1 and no more')
    lake.land('odd.parquet', chargebacks(['o']).rename_columns(['dispute_id', 'updated_at', 'event_timestamp']))
    causes = [(a.path, a.rule, a.cause) for a in lake.run(session=inline, MAX_SCHEMA_CONFLICT_RATE=1, **KEEP).set_aside]
    assert [rule for _, rule, _ in causes] == ['unreadable', 'schema'] and all(cause for _, _, cause in causes)
    land(lake, 'late', ['k11'], 5)
    lake.run(session=inline, **KEEP)
    roll_back(ledger, 4, 'a' * 8)
    held = lake.run(session=inline, **KEEP)
    assert held.status == 'held' and [tuple(a) for a in held.set_aside] == causes
    release_day(ledger, 'b' * 8)
    assert ledger.publish_commit(fence_after(ledger, ledger.head(), 'c' * 8))
    land(lake, 'more', ['k12'], 6)
    report = lake.run(session=inline, **KEEP)
    assert report.status == 'done' and [tuple(a) for a in report.set_aside] == causes


@pytest.mark.parametrize('how', ['expire', 'a run', 'by hand'])
def test_c20_files_that_are_gone(lake, ledger, how):
    first = ledger.load(1)
    if how == 'expire': assert len(expire_day(ledger, 0)) > 0 and expire_day(ledger, 0) == []
    if how == 'by hand': ledger.store.delete([ledger.path(first.files[0].path)])
    if how == 'a run':
        land(lake, 'more', ['k7'], 4)
        lake.run(session=inline, **LENIENT)
    before = tree(lake.root)
    with pytest.raises(Gone, match='files of commit 1 of 2025-11-02 are gone, for example'):
        roll_back(ledger, 1, 'a' * 8)
    whole = 'All files of commit 4 are' if how == 'a run' else r'All files of commits? .*3.* are'
    with pytest.raises(Gone, match=whole + ' still there'):
        snapshot_of(ledger, 1)
    assert tree(lake.root) == before


def test_c20_a_file_that_is_not_what_it_was(lake, ledger):
    path = next(ledger.path(f.path) for f in ledger.load(1).files if f not in ledger.head().files)
    with open(path, 'ab') as f: f.write(b'x')
    with pytest.raises(LedgerDamaged, match='is not as it was written'): roll_back(ledger, 1, 'a' * 8)
    assert ledger.head().number == 3 and ledger.store.staged(ledger.partition) == []


@pytest.mark.parametrize('where', ['before', 'after'])
def test_c20_killed_at_its_commit_point(lake, ledger, where, monkeypatch):
    "A rollback that dies is litter before its commit point; after it, the next run finishes it"
    class Killed(BaseException): pass
    publish = Ledger.publish_commit
    def dying(self, commit):
        if where == 'after': publish(self, commit)
        raise Killed
    monkeypatch.setattr(Ledger, 'publish_commit', dying)
    before = {n: digest(snapshot_of(ledger, n)[1]) for n in (1, 3)}
    with pytest.raises(Killed): roll_back(ledger, 1, 'a' * 8)
    monkeypatch.undo()
    assert digest(snapshot(ledger)[1]) == before[3]
    report = lake.run(session=inline, **KEEP)
    assert report.status == ('held' if where == 'after' else 'nothing new')
    repair(ledger, 'f' * 8)
    assert digest(snapshot(ledger)[1]) == before[1 if where == 'after' else 3]
    assert ledger.store.staged(ledger.partition) == []


def test_c20_a_slow_run_cannot_delete_what_came_back(lake, ledger):
    "It clears up after commit 3 with a list that it made before the day went back to commit 1"
    third, paths = ledger.head(), sorted(e.path for e in ledger.visible())
    before = digest(snapshot_of(ledger, 1)[1])
    roll_back(ledger, 1, 'a' * 8)
    remove_superseded(ledger, replace(third, keep_hours=0), paths, lambda: None)
    settle(ledger, replace(third, keep_hours=0))
    assert digest(snapshot(ledger)[1]) == before


def test_c20_a_run_that_was_planning_finds_the_day_held(lake, ledger):
    land(lake, 'later', ['k8'], 9)
    def observe(stage, seconds, facts):
        if stage == 'prepare' and not ledger.head().held: roll_back(ledger, 2, 'a' * 8)
    assert lake.run(session=inline, observe=observe, **KEEP).status == 'held'
    assert snapshot(ledger)[0].rows == 5


def test_c20_the_log_follows(lake, ledger):
    ledger.delta = True
    repair(ledger, 'f' * 8)
    roll_back(ledger, 1, 'a' * 8)
    keys = sorted(DeltaTable(str(lake.output)).to_pyarrow_table()['chargeback_id'].to_pylist())
    assert keys == ['k1', 'k2', 'k3']
    roll_back(ledger, 3, 'b' * 8)
    assert DeltaTable(str(lake.output)).to_pyarrow_table().num_rows == 6
    assert DeltaTable(str(lake.output), version=1).to_pyarrow_table().num_rows == 3     # its files stay, too


def test_c20_as_commands(lake, ledger, capsys):
    day = ['--output-path', str(lake.output), '--partition-date', DAY]
    def told(*words):
        code = carry_out([*words, *day])
        return code or 0, capsys.readouterr()
    assert told('rollback', '--to-commit', '1') == (
        0, ('commit 4 of 2025-11-02 is commit 1 again: 3 rows in 2 files; held until `release` or a reprocess\n' +
            BY_SNAPSHOT + '\n', ''))
    code, (out, _) = told('snapshot', '--commit', '2', '--json')
    assert json.loads(out)['commit'] == 2 and sum(f['rows'] for f in json.loads(out)['files']) == 5
    code, (out, _) = told('history')
    assert '4 rollback' not in out and 'commit 4: rolled back to commit 1\n' in out and '…' not in out
    assert '2025-11-02 is held at commit 1: runs leave it alone until `release`' in out
    assert told('release') == (0, (f'2025-11-02 is released with commit 5\n{BY_SNAPSHOT}\n', ''))
    assert told('release') == (0, ('2025-11-02 is not held\n', ''))
    code, (out, _) = told('expire', '--keep-superseded-hours', '0')
    assert code == 0 and out.startswith('removed ')
    assert told('expire', '--keep-superseded-hours', '0') == (0, ('nothing to remove\n', ''))
    code, (out, err) = told('rollback', '--to-commit', '2')
    assert code == 2 and not out and 'files of commit 2 of 2025-11-02 are gone, for example' in err
    assert 'All files of commits 4, 5 are still there. Superseded' in err and err.count('\n') == 1
    code, (out, err) = told('snapshot', '--commit', '77')
    assert code == 2 and err == '2025-11-02 has no commit 77: its last is 5; `history` lists them\n'


def test_c20_an_investigation_understands_it(lake, ledger):
    def found():
        day = open_day(str(lake.output), DAY)
        return {f.kind: f for f in standing(day, landing_files(day), footers(day))}
    assert 'output file left over' not in found() and found()['superseded file kept'].level == 'ok'
    roll_back(ledger, 1, 'a' * 8)
    assert found()['held'].level == 'warn' and found()['not yet taken'].count == 2


FOLDER = '2025/11/02'


def told_of(lake, paths, waiting=(), kinds=()):
    """Whether `reconcile` and `trace` say of the day what DuckDB makes of the landing files at these paths.
    waiting: paths that have landed and are not taken; kinds: of findings that there should be"""
    paths, waiting = ([f'{FOLDER}/{name}.parquet' for name in names] for names in (paths, waiting))
    right, day = consolidated(lake.table, paths), open_day(str(lake.output), DAY)
    answer = reconcile(day)
    facts, runs = dict(answer.facts), answer.tables['executions']
    assert {f.kind for f in answer.findings if f.level != 'ok'} == set(kinds)
    assert runs['balanced'].all(), runs.loc[~runs['balanced'], 'commit'].tolist()
    assert (facts['landing files taken'], facts['waiting files']) == (len(paths), len(waiting))
    assert (facts['records in them'], facts['quarantined']) == (right.records, len(right.keyless))
    assert facts['chargebacks'] == facts['rows of the day'] == len(right.winners)
    assert facts['duplicates'] == right.records - len(right.keyless) - len(right.winners)
    counts, missed = day_counts(day), late_arrivals(day).tables['missed']
    assert (counts['records'], counts['quarantined']) == (right.records, len(right.keyless))
    assert counts['duplicates'] == facts['duplicates'] and missed['files taken'].sum() == len(paths)
    assert missed['files later'].tolist()[-1] == len(waiting)
    every = consolidated(lake.table, paths + waiting)
    answer = trace(day, list(every.winners))
    assert {f.kind for f in answer.findings if f.level == 'fail'} == set()
    now, versions = answer.tables['now'], answer.tables['versions']
    lies = {r[0]: (r[3], r[4]) for r in now.itertuples(index=False)}
    assert len(now) == len(lies) and lies == right.winners
    for key in every.winners:
        outcome = versions[versions['chargeback_id'] == key].set_index('landing file')['outcome'].to_dict()
        kept = {path for path, what in outcome.items() if what == 'kept'}
        waits = {path for path, what in outcome.items() if what.startswith('waits')}
        assert kept == {right.winners[key][0]} if key in right.winners else not kept
        assert waits == set(outcome) & set(waiting)
    return len(right.winners)


def test_c20_what_is_told_of_a_day_that_went_back(lake, ledger, capsys):
    "`reconcile`, `trace` and `history` before it, while it is held, after its release, and when all is taken again"
    rows = [3, 5, told_of(lake, ['one', 'two', 'bad'])]
    roll_back(ledger, 1, 'a' * 8)
    rows.append(told_of(lake, ['one'], ['two', 'bad'], ['held', 'not yet taken']))
    land(lake, 'later', ['k2', 'k8', None], 9)
    lake.run(session=inline, **KEEP)
    told_of(lake, ['one'], ['two', 'bad', 'later'], ['held', 'not yet taken'])
    with ledger.store.stage(ledger.path(slot_paths(ledger.day, 0, 5, 'dead0000').file)) as sink: sink.write(b'x')
    repair(ledger, 'f' * 8)
    rows.append(told_of(lake, ['one'], ['two', 'bad', 'later'], ['held', 'not yet taken']))
    release_day(ledger, 'b' * 8)
    rows.append(told_of(lake, ['one'], ['two', 'bad', 'later'], ['not yet taken']))
    lake.run(session=inline, **KEEP)
    rows.append(told_of(lake, ['one', 'two', 'bad', 'later']))
    roll_back(ledger, 2, 'c' * 8)
    rows.append(told_of(lake, ['one', 'two'], ['bad', 'later'], ['held', 'not yet taken']))
    lake.run(session=inline, REPROCESS='true', **KEEP)
    rows.append(told_of(lake, ['one', 'two', 'bad', 'later']))
    day = ['--output-path', str(lake.output), '--partition-date', DAY]
    capsys.readouterr()
    assert not carry_out(['history', *day, '--json'])
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(t['commit'], t['kind'], t['held']) for t in told] == [
        (1, 'consolidate', 0), (2, 'consolidate', 0), (3, 'consolidate', 0), (4, 'rollback', 1), (5, 'repair', 1),
        (6, 'release', 0), (7, 'consolidate', 0), (8, 'rollback', 2), (9, 'reprocess', 0)]
    assert not carry_out(['history', *day])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()]
    at = next(line.index('rows') - len(line) for line in lines if line[0] == '#')
    assert [int(line[at]) for line in lines if line[0].isdigit()] == rows


@pytest.mark.parametrize('hours', [0, 48])
def test_c20_a_command_says_that_a_listing_holds_too_much(lake, capsys, hours):
    for name, keys in (('a', ['k1']), ('b', ['k1', 'k2'])):
        lake.land(f'{name}.parquet', chargebacks(keys, updated=1))
        given = dict(LENIENT, KEEP_SUPERSEDED_HOURS=hours)
        report = lake.run(session=inline, **given)
    teller(Console(width=200))(report)
    tell(report)
    assert capsys.readouterr().out.count(BY_SNAPSHOT) == (2 if hours else 0)


def test_c20_once_the_way_back_is_gone_a_listing_is_right(lake, ledger):
    "A run with nothing new says so, whatever the last commit was to keep"
    def serves(**more): return lake.run(session=inline, **dict(KEEP, **more)).serves
    assert [serves(), serves(KEEP_SUPERSEDED_HOURS=0)] == ['snapshot', 'snapshot']
    expire_day(ledger, 0)
    assert len(ledger.visible()) == len(ledger.head().files)
    assert [serves(), serves(KEEP_SUPERSEDED_HOURS=0)] == ['listing', 'listing']


def test_c20_what_snapshot_misses_is_named(ledger):
    gone = ledger.path(ledger.head().files[0].path)
    for number in (2, 3):
        for f in ledger.load(number).files: Path(ledger.path(f.path)).unlink(missing_ok=True)
    with pytest.raises(LedgerDamaged, match=f'{gone} is not there, though commit 3 of 2025-11-02 names it: `repair`'):
        snapshot(ledger)
