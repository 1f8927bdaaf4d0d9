"""Whatever the day, and however it falls into executions: the same rows as an independent oracle finds, bit for bit.

CHARGEBACK_DAYS is the number of days (200), CHARGEBACK_SEED where their sequence begins (0): the same two give the same days.
"""
import os
import tempfile
from dataclasses import replace

import pytest
from days import LENIENT, Day, Execution, File, Lake, days, land, tree
from hypothesis import HealthCheck, Phase, given, seed, settings
from oracle import by_key, columns, consolidated, rows_of

from chargeback_consolidation import job, versions
from chargeback_consolidation.job import NoData
from chargeback_consolidation.layout import Slot

DAYS, SEED, ITEMS = int(os.environ.get("CHARGEBACK_DAYS", 200)), int(os.environ.get("CHARGEBACK_SEED", 0)), 10


def execute(lake, execution):
    "An execution's report, or None where nothing has landed yet"
    try:
        return lake.run(OUTPUT_FILE_COUNT=execution.count, COMPRESSION_CODEC=execution.codec, REPROCESS=execution.reprocess, **LENIENT)
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
    assert sorted(lake.partition.iterdir()) == files if files else True, "something else lies in the partition"
    if files:
        there = {name for path in landed if path not in wanted.unreadable for name in columns(lake.table / path)}
        assert all(columns(path).keys() == there for path in files)
    aside = [dict(row) for row in rows_of(lake.quarantine())]
    found = {(row.pop("_landing_file"), row.pop("_landing_row")): (row.pop("_quarantine_reason"), frozenset(row.items())) for row in aside}
    assert found == {at: ("missing key", row) for at, row in wanted.keyless.items()} and len(found) == len(aside)
    assert report.rows_after == len(wanted.rows)
    assert report.rows_before + report.records_processed == report.rows_after + report.duplicates_removed + report.quarantined
    assert [path for path, _, _ in report.set_aside] == wanted.unreadable


def check(day):
    "Land a day, execute it as it says, then at once: the same"
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        for number, execution in enumerate(day.executions):
            land(lake, day, number)
            before = tree(lake.table)
            report = execute(lake, execution)
            check_day(lake, execution, report)
            assert tree(lake.table) == before, "the landing folder has changed"
        if len(day.executions) > 1 and report is not None:
            parts = by_key(rows_of(lake.files()))
            lake.output = lake.root / "at once"
            check_day(lake, execution, execute(lake, replace(execution, reprocess=False)))
            assert by_key(rows_of(lake.files())) == parts


@pytest.mark.parametrize("item", range(ITEMS))
def test_every_day_is_what_the_oracle_says(spark, item):
    number = SEED * ITEMS + item

    @seed(number)
    @settings(max_examples=-(-DAYS // ITEMS), deadline=None, database=None, print_blob=False, report_multiple_bugs=False,
              phases=[Phase.generate] + [Phase.shrink] * ("CHARGEBACK_NO_SHRINK" not in os.environ), suppress_health_check=list(HealthCheck))
    @given(days())
    def every(day):
        check(day)

    every()
