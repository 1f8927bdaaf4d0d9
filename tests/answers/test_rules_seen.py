"What rules set aside is where the investigations expect it, and is told apart from what is lost."
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from days import LENIENT, Lake, chargebacks
from inline import inline

from chargeback_consolidation.answers.day import open_day
from chargeback_consolidation.answers.reconcile import reconcile
from chargeback_consolidation.answers.trace import trace

POSITIVE = 'Rules = [ ColumnValues "amount" > 0 labels=["level"="quarantine"] ]'
COMPLETE = 'Rules = [ IsComplete "amount" labels=["level"="quarantine"] ]'


def amounts(keys, values, updated=0):
    return chargebacks(keys, updated).append_column(
        'amount', pa.array([v and Decimal(v) for v in values], pa.decimal128(9, 2)))


@pytest.fixture
def day(tmp_path):
    "A day in two executions with different rules; each file was judged by its own"
    lake = Lake(tmp_path)
    lake.land('1.parquet', amounts(['a', 'b', 'c', None], ['1', '-1', None, '2']))
    lake.run(session=inline, RULES=POSITIVE, **LENIENT)
    lake.land('2.parquet', amounts(['a', 'b', 'd'], ['-5', None, '7'], updated=9))
    lake.run(session=inline, RULES=COMPLETE, **LENIENT)
    return lake


def opened(lake): return open_day(str(lake.output), '2025-11-02', str(lake.root / 'lake'), 'landing', 'chargebacks')


def test_the_day_is_as_the_rules_of_each_file_say(day):
    rows = {r['chargeback_id']: r['amount'] for f in day.files() for r in pq.ParquetFile(f).read().to_pylist()}
    assert rows == {'a': Decimal('-5.00'), 'd': Decimal('7.00')}
    reasons = [r['_quarantine_reason'] for f in day.quarantine() for r in pq.ParquetFile(f).read().to_pylist()]
    assert sorted(reason.split()[0] for reason in reasons) == ['ColumnValues', 'ColumnValues', 'IsComplete', 'missing']


def test_reconcile_finds_nothing_wrong(day):
    assert [f for f in reconcile(opened(day)).findings if f.level == 'fail'] == []


def test_reconcile_misses_a_row_that_was_set_aside(day):
    [first, *_] = day.quarantine()
    table = pq.ParquetFile(first).read()
    pq.write_table(table.slice(1), first)
    kinds = [f.kind for f in reconcile(opened(day)).findings if f.level == 'fail']
    assert 'quarantine rows missing' in kinds


def test_trace_says_which_rule(day):
    answer = trace(opened(day), ['b'])
    told = [f.text for f in answer.findings if f.kind == 'set aside']
    assert len(told) == 2 and 'ColumnValues "amount" > 0' in told[0] + told[1] and not answer.tables['now'].size
