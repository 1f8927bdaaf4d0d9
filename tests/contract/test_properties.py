"""Whatever the day, and however it falls into executions: the same rows as an independent oracle finds, bit for bit.

CHARGEBACK_DAYS is the number of days (200), CHARGEBACK_SEED where their sequence begins (0): the same two give the
same days.
"""
import os
import tempfile
from dataclasses import replace

import pytest
from days import LENIENT, Day, Execution, File, Lake, days, land, tree
from hypothesis import HealthCheck, Phase, given, seed, settings
from inline import inline
from oracle import by_key, columns, consolidated, rows_of

from chargeback_consolidation import job, landing, parquet, plan, state, versions
from chargeback_consolidation.spark import get_spark
from chargeback_consolidation.state import NoData

DAYS, SEED, ITEMS = int(os.environ.get('CHARGEBACK_DAYS', 200)), int(os.environ.get('CHARGEBACK_SEED', 0)), 10


def execute(lake, execution, session):
    "An execution's report, or None where nothing has landed yet"
    try:
        return lake.run(
            session=session,
            OUTPUT_FILE_COUNT=execution.count, COMPRESSION_CODEC=execution.codec, REPROCESS=execution.reprocess,
            **LENIENT)
    except NoData:
        return None


def check_day(lake, execution, report):
    "What holds after every execution"
    landed = lake.landed()
    wanted, files = consolidated(lake.table, landed), lake.files()
    if report is None:
        assert not landed and not lake.partition.exists()
        return
    assert by_key(rows_of(files)) == wanted.rows
    assert len(files) == min(execution.count, len(wanted.rows))
    assert sorted(lake.partition.iterdir()) == files if files else True, 'something else lies in the partition'
    if files:
        there = {name for path in landed if path not in wanted.unreadable for name in columns(lake.table / path)}
        assert all(columns(path).keys() == there for path in files)
    aside = [dict(row) for row in rows_of(lake.quarantine())]
    found = {
        (row.pop('_landing_file'), row.pop('_landing_row')): (row.pop('_quarantine_reason'), frozenset(row.items()))
        for row in aside}
    assert found == {at: ('missing key', row) for at, row in wanted.keyless.items()} and len(found) == len(aside)
    assert report.rows_after == len(wanted.rows)
    assert (
        report.rows_before + report.records_processed
        == report.rows_after + report.duplicates_removed + report.quarantined)
    assert [path for path, _, _ in report.set_aside] == wanted.unreadable


def check(day, session=get_spark):
    "Land a day, execute it as it says, then at once: the same"
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        for number, execution in enumerate(day.executions):
            land(lake, day, number)
            before = tree(lake.table)
            report = execute(lake, execution, session)
            check_day(lake, execution, report)
            assert tree(lake.table) == before, 'the landing folder has changed'
        if day.at_once and len(day.executions) > 1 and report is not None:
            parts = by_key(rows_of(lake.files()))
            lake.output = lake.root / 'at once'
            check_day(lake, execution, execute(lake, replace(execution, reprocess=False), session))
            assert by_key(rows_of(lake.files())) == parts


def cases():
    for item in range(ITEMS):
        yield pytest.param(inline, item, id=f'{item}', marks=() if item < 3 else pytest.mark.slow)
        yield pytest.param(get_spark, item, id=f'{item}-spark', marks=pytest.mark.slow)


@pytest.mark.parametrize('session, item', cases())
def test_every_day_is_what_the_oracle_says(spark, session, item):
    number = SEED * ITEMS + item

    @seed(number)
    @settings(
        max_examples=-(-DAYS // ITEMS), deadline=None, database=None, print_blob=False, report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck))
    @given(days())
    def every(day):
        check(day, session)

    every()


# The properties can fail: each of these bugs is noticed

TROUBLE = Day(
    seed=1, keys=40, key='string', time='ns', missing=0.4, keyless=0.05,
    executions=(Execution(5, 'snappy'), Execution(3, 'zstd')),
    files=(
        File('2025/11/02/z.parquet', 0, 40, (('count', 0), ('detail', 0))),
        File('2025/11/02/a.parquet', 0, 30, (('score', 0), ('amount', 0)), mtime=9),
        File('2025/11/02/b.parquet', 1, 40, (('score', 1), ('name', 2)), versions=False),
        File('2025/11/2/m.parquet', 1, 30, (('count', 3), ('detail', 1), ('amount', 1)))))


def order(change):
    """A mutant of the order of versions: its columns, changed. Tasks import the library themselves, so what they are
    sent changes it there."""
    def losers(rows, ranks, names):
        from chargeback_consolidation import versions
        real = versions.latest_last
        versions.latest_last = lambda rows, ranks, names: change(rows, *real(rows, ranks, names))
        try: return versions.losers(rows, ranks, names)
        finally: versions.latest_last = real
    return lambda monkeypatch: monkeypatch.setattr(versions, 'losers', losers)


def calling(name):
    "The stage that calls a function by this name: the plan, the job or the state"
    return next(stage for stage in (plan, job, state) if hasattr(stage, name))


def wrapped(name, change):
    "A mutant of a function that the job calls: what it returns, changed"
    def mutate(monkeypatch):
        at = calling(name)
        real = getattr(at, name)
        monkeypatch.setattr(at, name, lambda *args: change(real(*args)))
    return mutate


def given_other(name, change):
    "A mutant of a function that the job calls: what it is given, changed"
    def mutate(monkeypatch):
        at = calling(name)
        real = getattr(at, name)
        monkeypatch.setattr(at, name, lambda *args: real(*change(*args)))
    return mutate


def touch(run, *more):
    "Write to the landing folder"
    os.utime(os.path.join(run.partition.locations[0], 'a.parquet'))
    return run, *more


MUTANTS = {
    'the lesser path wins': order(
        lambda rows, has, u, un, known, e, en, path, row: [has, u, un, known, e, en, -path, row]),
    'the earlier row wins': order(
        lambda rows, has, u, un, known, e, en, path, row: [has, u, un, known, e, en, path, -row]),
    'the event does not count': order(lambda rows, has, u, un, known, e, en, path, row: [has, u, un, path, row]),
    'the event does not stand in': order(lambda rows, has, u, un, *others: [
        known := parquet.known(landing.field_of(rows, 'updated_at us')), u * known, un * known, *others]),
    'missing is the highest': order(lambda rows, has, u, un, known, *others: [~has, u, un, ~known, *others]),
    'nanoseconds do not count': order(lambda rows, has, u, un, known, e, en, path, row: [has, u, known, e, path, row]),
    'the earliest wins': order(lambda rows, has, u, *others: [has, -u, *others]),
    'a file is overlooked': wrapped('take_inventory', lambda found: replace(found, files=found.files[1:])),
    'origins are mixed up': wrapped(
        'landing_paths', lambda paths: [path.translate(str.maketrans('abmz', 'zmba')) for path in paths]),
    'a column is lost': given_other(
        'copy_slots',
        lambda spark, parts, schema, *more: (spark, parts, schema.remove(schema.get_field_index('stamp')), *more)),
    'one file too many': given_other('lay_out', lambda consolidated, new, count, reprocess: (
        consolidated, new, count + 1, reprocess)),
    'a duplicate is not counted': wrapped(
        'plan_facts', lambda facts: dict(facts, duplicates_removed=facts['duplicates_removed'] - 1)),
    'the landing folder is written to': given_other('finish', touch)}


def test_the_day_of_trouble_is_in_order(spark):
    check(TROUBLE)


@pytest.mark.parametrize('mutate', MUTANTS.values(), ids=MUTANTS)
def test_a_bug_is_noticed(spark, monkeypatch, mutate):
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        check(TROUBLE)
