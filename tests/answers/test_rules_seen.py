"What rules set aside is where the investigations expect it, and is told apart from what is lost."
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from days import LENIENT, Lake, chargebacks
from inline import inline

from chargeback_consolidation.answers.day import open_day
from chargeback_consolidation.answers.quality_history import history, open_days
from chargeback_consolidation.answers.reconcile import reconcile
from chargeback_consolidation.answers.rules import rules_answered
from chargeback_consolidation.answers.trace import trace
from chargeback_consolidation.ledger import LedgerDamaged
from chargeback_consolidation.settings import ArgumentError

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


ASKED = """Rules = [
    ColumnValues "amount" > 0 labels=["level"="quarantine"], IsComplete "amount" with threshold > 0.9,
    RowCount > 3, Mean "amount" > 100 labels=["level"="warn"], IsPrimaryKey "chargeback_id"
]"""


def test_the_rows_that_break_a_rule(day):
    "Of what was taken and of what waits, as plain Python has it"
    day.land('3.parquet', amounts(['e', 'f'], ['-9', '8']).append_column('merchant_id', pa.array(['m-1', 'm-2'])))
    answer = rules_answered(opened(day), ASKED)
    landed = {p.name: pq.ParquetFile(p).read().to_pylist() for p in sorted(day.table.rglob('*.parquet'))}
    want = [
        (number, f'2025/11/02/{name}', i, row['chargeback_id'])
        for number, fails in ((1, lambda v: v is None or v <= 0), (2, lambda v: v is None))
        for name, rows in landed.items() for i, row in enumerate(rows) if fails(row['amount'])]
    rows = answer.tables['rows']
    got = list(zip(*(rows[c] for c in ('rule', 'landing file', 'row', 'chargeback_id')), strict=True))
    assert sorted(got, key=str) == sorted(want, key=str)
    assert rows['merchant_id'].dropna().tolist() == ['m-1'] and 'amount' not in rows
    told = answer.tables['rules']
    assert told['outcome'].tolist() == ['failed', 'failed', 'ok', 'failed', 'failed']
    assert told['failing'].tolist()[:2] == [len([w for w in want if w[0] == n]) for n in (1, 2)]
    kinds = [(f.kind, f.level) for f in answer.findings if f.kind.startswith('rule')]
    assert sorted(kinds) == [('rule failed', 'fail')] * 2 + [('rule failed', 'warn')] * 2 and answer.level == 'fail'
    merchants = answer.tables['merchants']
    assert merchants['failing'].sum() == len(want) and ('m-1', 1) in zip(
        merchants['merchant_id'], merchants['failing'], strict=True)


def test_values_only_where_asked_for_and_masked_identifiers(day):
    shown = rules_answered(opened(day), ASKED, show_values=True).tables['rows']
    assert {'-1.00', '-5.00'} <= set(shown['amount'].dropna())
    masked = open_day(str(day.output), '2025-11-02', str(day.root / 'lake'), 'landing', 'chargebacks', mask=True)
    page = str(rules_answered(masked, ASKED).show('rows')._repr_mimebundle_())
    assert 'id~' in page and '-5.00' not in page
    with pytest.raises(ArgumentError, match='--show-values shows what --mask is to hide'):
        rules_answered(masked, ASKED, show_values=True)


def test_without_rules_those_of_the_last_execution(day):
    answer = rules_answered(opened(day))
    assert answer.tables['rules']['text'].tolist() == ['IsComplete "amount" labels=["level"="quarantine"]']
    history = answer.tables['history']
    assert list(zip(history['commit'], history['outcome'], strict=True)) == [(1, 'failed'), (2, 'failed')]


def test_a_rule_that_fails_since_days(tmp_path):
    lake = Lake(tmp_path)
    rule = 'Rules = [ ColumnValues "amount" > 0 labels=["level"="warn"] ]'
    for number, amount in (('01', '-1'), ('02', '1'), ('03', '-1'), ('04', '-2')):
        lake.land(f'2025/11/{number}/a.parquet', amounts(['a'], [amount]))
        lake.run(session=inline, RULES=rule, PARTITION_DATE=f'2025-11-{number}', **LENIENT, MAX_OUTSIDE_DAY_RATE=1)
    def since(date, days=14):
        day = open_day(str(lake.output), date, str(lake.root / 'lake'), 'landing', 'chargebacks')
        return rules_answered(day, days=days).tables['rules']['failing since'].tolist()
    assert [since('2025-11-04'), since('2025-11-04', 1), since('2025-11-02'), since('2025-11-01')] == [
        ['2025-11-03'], ['2025-11-04'], [''], ['2025-11-01']]


def test_a_file_that_cannot_be_read_and_no_rules(tmp_path):
    lake = Lake(tmp_path)
    lake.land('a.parquet', amounts(['a'], ['1']))
    lake.land('b.parquet', b'PAR1')
    lake.run(session=inline, **LENIENT)
    answer = rules_answered(opened(lake))
    assert answer.facts[0] == ('rules', 0) and not len(answer.tables['rows'])
    assert rules_answered(opened(lake), ASKED).tables['rules']['outcome'].tolist()[0] == 'ok'
    with pytest.raises(ArgumentError, match='line 1, column'): rules_answered(opened(lake), 'Rules = [ Colum "a" ]')


@pytest.mark.parametrize('text', ['', ASKED])
def test_a_day_of_which_nothing_has_landed(day, text):
    "It is wrong, as every investigation says, whatever is asked"
    other = open_day(str(day.output), '2025-11-09', str(day.root / 'lake'), 'landing', 'chargebacks')
    answer = rules_answered(other, text)
    assert answer.level == 'fail' and 'nothing has landed for this day' in answer.verdict


def test_the_only_record_is_damaged(tmp_path):
    "Which folder it is was not the mistake"
    lake = Lake(tmp_path)
    lake.land('1.parquet', amounts(['a'], ['1']))
    lake.run(session=inline, **LENIENT)
    [record] = lake.ledger.rglob('000001.json')
    record.write_bytes(record.read_bytes()[:300])
    with pytest.raises(LedgerDamaged, match='000001.json is not a commit record, .*: restore it'):
        open_day(str(lake.output), '2025-11-09')


def test_a_key_that_comes_twice_is_counted(tmp_path):
    lake = Lake(tmp_path)
    lake.land('1.parquet', amounts(['a', 'a', 'b', None], ['1'] * 4))
    lake.run(session=inline, **LENIENT)
    told = rules_answered(opened(lake), 'Rules = [ IsUnique "chargeback_id", IsPrimaryKey "chargeback_id" ]').tables
    twice = '3 records with a key have 2 different ones'
    assert told['rules']['why'].tolist() == [twice, twice + '; 1 of 4 records have no key']


def test_the_history_of_a_rule(tmp_path):
    "A mean that is far from that of the other days stands out, and so does a day on which a rule did not hold"
    lake = Lake(tmp_path)
    rules = 'Rules = [ Mean "amount" > 0 labels=["level"="warn"], IsComplete "amount" labels=["level"="warn"] ]'
    for number in range(1, 9):
        values = ['1000' if number == 7 else '100', None if number == 3 else '102']
        lake.land(f'2025/11/{number:02}/a.parquet', amounts(['a', 'b'], values))
        lake.run(session=inline, RULES=rules, PARTITION_DATE=f'2025-11-{number:02}', **LENIENT, MAX_OUTSIDE_DAY_RATE=1)
    answer = history(open_days(
        str(lake.output), '2025-11-08', 8, catalog=str(lake.root / 'lake'), source_database='landing',
        source_table='chargebacks'))
    odd = answer.tables['outliers']
    odd = odd[odd['what'].str.contains('amount')]
    assert list(zip(odd['date'], odd['what'].str.split().str[0], odd['why'], strict=True)) == [
        ('2025-11-07', 'Mean', 'far from the median'), ('2025-11-03', 'IsComplete', 'does not hold')]
    told = answer.tables['rules']
    assert len(told) == 16 and told.loc[(told['date'] == '2025-11-03') & (told['of'] > 0), 'number'].tolist() == [0.5]


@pytest.mark.parametrize('key', ['merchant_id', 'row', 'rule,key'])
def test_columns_of_data_may_be_called_as_those_of_the_report(tmp_path, key):
    lake = Lake(tmp_path)
    names = 'merchant_id', 'row', 'rule', 'key', 'number', 'state', 'whose'
    table = chargebacks(['x'], 1)
    for name in names: table = table.append_column(name, pa.array([f'{name} it is']))
    lake.land('a.parquet', table)
    rules = ', '.join(f'ColumnValues "{name}" = "another"' for name in names)
    lake.run(session=inline, KEY_COLUMNS=key)
    answer = rules_answered(opened(lake), f'Rules = [ {rules} ]', show_values=True)
    rows = answer.tables['rows']
    assert len(set(rows.columns)) == len(rows.columns) and rows['rule'].tolist() == list(range(1, 8))
    title = {'row': 'key row'}.get(key, key.replace(',', '|'))
    assert rows[title].tolist() == ['|'.join(f'{name} it is' for name in key.split(','))] * 7
    for name in names:
        assert f'{name} it is' in {str(v) for v in rows.iloc[0]}, name
    assert answer.show('rows').html and answer.show('merchants').html
