"""C21: control totals, beside sums that plain Python takes of the files: any days in any executions, and mistakes that
no count of rows shows.

CHARGEBACK_DAYS is the number of days (120), CHARGEBACK_SEED where their sequence begins (0).
"""
import json
import os
import random
from decimal import Context, Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from days import LENIENT, Lake, chargebacks, tree
from inline import inline

from chargeback_consolidation import copying, entry, inventory, landing, schema, writer
from chargeback_consolidation.quality import ConservationBroken
from chargeback_consolidation.settings import ArgumentError, totals_of

DAYS, SEED = int(os.environ.get('CHARGEBACK_DAYS', 120)), int(os.environ.get('CHARGEBACK_SEED', 0))
TOTALS = 'amount by currency, fee by scheme'
ASIDE = 'Rules = [ ColumnValues "amount" != 7 labels=["level"="quarantine"] ]'
EXACT = Context(prec=200)
CURRENCIES = [None, '', 'EUR', 'USD', 'ä€', "it's\n<b>"]
AMOUNTS = [None, '0', '7', '-7', '0.1', '0.2', '99999999999999.99', '-99999999999999.99']


def landing_table(rng, n, whole):
    "A landing file of some columns, amounts in one of several widths. whole: it has all columns"
    kind = rng.choice([pa.decimal128(16, 2), pa.decimal128(38, 4), pa.decimal128(17, 3)])
    fee = rng.choice([pa.int64(), pa.int16(), pa.uint8()] if not whole else [pa.int64()])
    fees = {pa.int64(): [2**63 - 1, -2**63, 5], pa.int16(): [-2**15, 7], pa.uint8(): [255, 0]}[fee]
    more = {
        'amount': pa.array([v and Decimal(v) for v in rng.choices(AMOUNTS, k=n)], kind),
        'currency': pa.array(rng.choices(CURRENCIES, k=n), pa.string()),
        'fee': pa.array(rng.choices([None, *fees], k=n), fee),
        'scheme': pa.array(rng.choices(['visa', 'mc', None], k=n), pa.string())}
    if rng.random() < 0.3: more['currency'] = more['currency'].dictionary_encode()
    if not whole: more = {name: column for name, column in more.items() if rng.random() < 0.8}
    return chargebacks(rng.choices(['', None, *'abcdefghijk'], k=n), [rng.choice([None, 1, 2, 3]) for _ in range(n)],
                       **more)


def sums_of(tables):
    "What tables hold: {(total, value): Decimal}, without those that are nothing"
    found = {}
    for table in tables:
        for amount, by in (('amount', 'currency'), ('fee', 'scheme')):
            if amount not in table.column_names: continue
            values = table[by].to_pylist() if by in table.column_names else [None] * table.num_rows
            for value, number in zip(values, table[amount].to_pylist(), strict=True):
                key = f'{amount} by {by}', value
                found[key] = EXACT.add(found.get(key, Decimal()), Decimal(number or 0))
    return {key: number for key, number in found.items() if number}


def read(paths): return sums_of(pq.ParquetFile(path).read() for path in paths)


def minus(a, b):
    some = {key: EXACT.subtract(a.get(key, Decimal()), b.get(key, Decimal())) for key in {*a, *b}}
    return {key: number for key, number in some.items() if number}


def told(report, side):
    "One side of a report's totals"
    found = {(line['total'], line['value']): Decimal(line[side]) for line in report.totals}
    return {key: number for key, number in found.items() if number}


def one_day(folder, seed, split):
    "Land and execute a random day; what it holds in the end. split: seed of how it falls into executions"
    rng, parting = random.Random(seed), random.Random(split)
    lake, aside = Lake(folder), {}
    tables = {f'{number}.parquet': landing_table(rng, rng.randrange(0, 30), number == 0) for number in range(6)}
    when = {path: parting.randrange(3) for path in tables}
    when['0.parquet'] = 0
    before = {}
    for execution in sorted(set(when.values())):
        now = {path: table for path, table in tables.items() if when[path] == execution}
        for path, table in now.items(): lake.land(path, table, row_group_size=parting.choice([4, 1000]))
        report = lake.run(session=inline, CONTROL_TOTALS=TOTALS, RULES=ASIDE, OUTPUT_FILE_COUNT=parting.randrange(1, 5),
                          **LENIENT)
        after, left = read(lake.files()), minus(read(lake.quarantine()), aside)
        assert told(report, 'before') == before and told(report, 'landed') == sums_of(now.values())
        assert told(report, 'after') == after and told(report, 'quarantined') == left
        out = minus(minus(minus(sums_of(now.values()), minus({}, before)), after), left)
        assert told(report, 'duplicates') == out
        before, aside = after, read(lake.quarantine())
    return sorted(before.items(), key=str), sorted(aside.items(), key=str)


@pytest.mark.parametrize('part', [pytest.param(i, marks=pytest.mark.slow if i > 2 else ()) for i in range(10)])
def test_random_days(part, tmp_path, monkeypatch):
    if part % 2: monkeypatch.setattr(inventory, 'SMALL', 100)
    if part % 3 == 0: monkeypatch.setattr(landing, 'CHUNK', 5)
    monkeypatch.setattr(copying, 'BATCH_ROWS', 3)
    for seed in range(SEED + part, SEED + DAYS, 10):
        ends = [one_day(tmp_path / f'{seed}-{split}', seed, split) for split in range(2)]
        assert ends[0] == ends[1], 'the day depends on how it fell into executions'


@pytest.mark.parametrize(('kind', 'numbers'), [
    (pa.decimal128(38, 0), [10**38 - 1, 1 - 10**38, None]), (pa.decimal256(76, 10), [Decimal(10**60), Decimal('0.1')]),
    (pa.decimal128(5, 2), [Decimal('-0.01'), Decimal('999.99')]), (pa.uint64(), [2**64 - 1, None, 0]),
    (pa.int64(), [-2**63, 2**63 - 1, None]), (pa.int8(), [-128, 127]), (pa.decimal128(9, 9), [None])])
def test_both_passes_are_exact(kind, numbers):
    rng = random.Random(str(kind))
    picked, words = rng.choices(numbers, k=3000), rng.choices(['a', 'b', None], k=3000)
    table = pa.table({'n': pa.array(picked, kind), 'w': pa.array(words, pa.string())})[7:2900]
    want = {}
    for number, word in zip(picked[7:2900], words[7:2900], strict=True):
        want[word] = EXACT.add(want.get(word, Decimal()), Decimal(number or 0))
    amounts, groups = table['n'].combine_chunks(), table['w'].combine_chunks()
    found = writer.digit_sums(amounts, groups)
    assert {w: found.get(w, 0) for w in want} == want
    [total] = totals_of('n by w')
    [[scale, sums]] = landing.one_total(table, total, np.array([0]))
    assert {value: Decimal(number).scaleb(-scale, EXACT) for value, number in sums} == want


def paid(keys, amounts, currencies, updated=0):
    return chargebacks(keys, updated, amount=pa.array([Decimal(v) for v in amounts], pa.decimal128(9, 2)),
                       currency=pa.array(currencies, pa.string()))


@pytest.fixture
def lake(tmp_path):
    lake = Lake(tmp_path)
    currencies = ['EUR', 'USD', 'EUR', None, 'USD']
    lake.land('1.parquet', paid(['a', 'b', 'c', 'd', None], ['1', '2', '3', '4', '5'], currencies))
    lake.land('2.parquet', paid(['a', 'e'], ['10', '20'], ['EUR', 'USD'], updated=9))
    return lake


def run(lake, totals='amount by currency', **more):
    return lake.run(session=inline, CONTROL_TOTALS=totals, **{**LENIENT, **more})


def refused(lake, error, **more):
    "The message of a run that ends so and leaves nothing behind"
    landed = tree(lake.table)
    with pytest.raises(error) as e: run(lake, **more)
    assert not lake.files() and not lake.quarantine() and tree(lake.table) == landed
    return str(e.value)


def test_where_they_are_told(lake, capsys):
    "In the report, the commit and its files; without the argument nowhere"
    assert lake.main(CONTROL_TOTALS='amount by currency', **LENIENT) == 0
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    assert {'total': 'amount by currency', 'value': 'EUR', 'before': '0', 'landed': '14.00', 'after': '13.00',
            'duplicates': '1.00', 'quarantined': '0'} in report['totals']
    assert any(line.startswith('stage audit') and line.endswith('totals 3') for line in lines)
    [commit] = (lake.ledger / '_ledger/year=2025/month=11/day=02').glob('0*.json')
    record = json.loads(commit.read_text())
    assert record['report']['totals'] == report['totals']
    sums = [pair for file in record['files'] for pair in file['totals']['amount by currency']]
    assert sum(Decimal(number) for value, number in sums if value == 'USD') == 22


def test_without_the_argument_nothing_is_kept(lake, monkeypatch):
    monkeypatch.setattr(landing, 'one_total', None)
    monkeypatch.setattr(writer, 'digit_sums', None)
    assert run(lake, None).totals == ()
    [commit] = (lake.ledger / '_ledger/year=2025/month=11/day=02').glob('0*.json')
    assert all('totals' not in file for file in json.loads(commit.read_text())['files'])


def test_an_amount_that_changes_in_the_copy(lake, monkeypatch):
    true = schema.adapt

    def adapt(table, schema):
        table = true(table, schema)
        if 'amount' not in table.column_names: return table
        amounts = [v + 1 if v == 3 else v for v in table['amount'].to_pylist()]
        return table.set_column(table.column_names.index('amount'), 'amount', pa.array(amounts, pa.decimal128(9, 2)))
    monkeypatch.setattr(writer, 'adapt', adapt)
    assert refused(lake, ConservationBroken) == (
        "nothing is published: amount by currency, 'EUR': 0 before + 14.00 landed, 14.00 after + 1.00 duplicates + "
        '0 quarantined')


def test_two_errors_that_cancel_in_the_count_of_rows(lake, monkeypatch):
    "A euro becomes a dollar: rows, keys and the sum of all amounts are as they were"
    true = schema.adapt

    def adapt(table, schema):
        table = true(table, schema)
        return table if 'currency' not in table.column_names else table.set_column(
            table.column_names.index('currency'), 'currency', pc.replace_substring(table['currency'], 'EUR', 'USD'))
    monkeypatch.setattr(writer, 'adapt', adapt)
    assert "'EUR': 0 before + 14.00 landed, 0 after" in refused(lake, ConservationBroken)


def test_a_wrong_version_wins_for_a_right_one(lake, monkeypatch):
    "The rows of the day differ, their count and their keys do not: what the index dropped is not what the copy drops"
    true = copying.rows_of_piece
    monkeypatch.setattr(copying, 'rows_of_piece', lambda first, aside, drop, *more: true(
        first, aside, (drop + 2).astype(np.int32), *more))
    refused(lake, ConservationBroken)


def test_a_wrong_version_wins_in_a_file_that_comes_whole(lake, monkeypatch):
    lake.land('1.parquet', paid(['a', 'b', 'c', 'd'], ['1', '2', '3', '4'], ['EUR', 'USD', 'EUR', None]))
    true = writer.marks_of

    def marks_of(waiting):
        other = [rows._replace(drop=rows.drop + 2) for rows in waiting]
        return true(waiting)._replace(keep=true(other).keep)
    monkeypatch.setattr(writer, 'marks_of', marks_of)
    refused(lake, ConservationBroken)


def test_a_mistake_in_the_quarantine(lake, monkeypatch):
    true = copying.take_rows

    def take_rows(rows, writer, quarantine):
        true(rows, writer, quarantine)
        quarantine[:] = [(t.set_column(t.column_names.index('amount'), 'amount', pc.negate(t['amount']).cast(
            t['amount'].type)), *more) for t, *more in quarantine]
    monkeypatch.setattr(copying, 'take_rows', take_rows)
    assert '-5.00 quarantined' in refused(lake, ConservationBroken)


def test_a_kept_file_that_was_tampered_with(lake):
    "A file that stays as it is must hold what its commit says"
    run(lake)
    [target] = [p for p in lake.files() if 'b' in pq.ParquetFile(p).read()['chargeback_id'].to_pylist()][:1]
    table = pq.ParquetFile(target).read()
    twice = pc.add(table['amount'], table['amount']).cast(table['amount'].type)
    table = table.set_column(table.column_names.index('amount'), 'amount', twice)
    pq.write_table(table, target, compression='snappy')
    before = tree(lake.output)
    lake.land('3.parquet', paid(['a'], ['0.5'], ['EUR'], updated=0))     # an older version: no file is rewritten
    with pytest.raises(ConservationBroken): run(lake)
    assert tree(lake.output) == before


def test_files_written_before_anybody_asked(lake):
    run(lake, None)
    lake.land('3.parquet', paid(['a', 'z'], ['0.5', '8'], ['EUR', 'BRL'], updated=0))
    for _ in range(2):
        report = run(lake)
        if report.status == 'nothing new': break
        assert told(report, 'before')['amount by currency', 'USD'] == 22
        assert told(report, 'duplicates') == {('amount by currency', 'EUR'): Decimal('0.5')}


def test_a_column_that_appears_late(lake):
    lake.land('3.parquet', paid(['x'], ['1'], ['EUR']).append_column('tip', pa.array([5], pa.int64())))
    report = run(lake, 'amount by currency, tip by currency')
    assert told(report, 'after')['tip by currency', 'EUR'] == 5


@pytest.mark.parametrize(('totals', 'words'), [
    ('amount', "must be such as 'amount by currency'"), ('amount by', "must be such as 'amount by currency'"),
    ('by currency', "must be such as 'amount by currency'"), ('amount by currency,', 'must be such as'),
    ('amount by currency, amount  BY currency', 'names amount by currency twice')])
def test_arguments_that_say_nothing(lake, totals, words):
    assert words in refused(lake, ArgumentError, totals=totals)


@pytest.mark.parametrize(('totals', 'words'), [
    ('amonut by currency', 'no file has a column amonut (there is amount)'),
    ('amount by place', 'no file has a column place'),
    ('rate by currency', 'column rate is double, it must be numbers'),
    ('nested by currency', 'column nested is struct<a: int64>, it must be numbers'),
    ('nested.a by currency', 'no file has a column nested.a'), ('currency by currency', 'it must be numbers'),
    ('currency by amount', 'column currency is string, it must be numbers'),
    ('fee by rate', 'column rate is double, it must be text'),
    ('amount by long', 'more than 100 values, or one of more than 100 characters'),
    ('amount by many', 'more than 100 values')])
def test_columns_that_cannot_be_summed(tmp_path, totals, words):
    lake, n = Lake(tmp_path), 150
    table = paid([f'k{i}' for i in range(n)], ['1'] * n, ['EUR'] * n)
    for name, column in {
            'rate': pa.array([0.5] * n), 'nested': pa.array([{'a': 1}] * n), 'long': pa.array(['x' * 101] * n),
            'many': pa.array([f'v{i}' for i in range(n)]), 'fee': pa.array([1] * n)}.items():
        table = table.append_column(name, column)
    lake.land('1.parquet', table[:75])
    lake.land('2.parquet', table[75:])
    assert words in refused(lake, ArgumentError, totals=totals)


def test_values_are_quoted_where_people_read_them(tmp_path, monkeypatch, capsys):
    lake = Lake(tmp_path)
    lake.land('1.parquet', paid(['a'], ['1'], ['\x1b[31m\nMETRICS: x']))
    monkeypatch.setattr(writer, 'digit_sums', lambda amounts, groups: {})
    assert entry.main(lake.words(CONTROL_TOTALS='amount by currency', **LENIENT), session=inline) == 5
    said = capsys.readouterr()
    assert '\x1b' not in said.err + said.out and r"'\x1b[31m\nMETRICS: x'" in said.err
    assert len([line for line in said.out.splitlines() if line.startswith('METRICS')]) == 1


def test_dry_run_and_bytes_that_are_no_text(tmp_path):
    lake = Lake(tmp_path)
    bad = pa.array([b'\xff\xfe']).view(pa.string())
    lake.land('1.parquet', paid(['a'], ['1'], ['EUR']).set_column(4, 'currency', bad))
    assert run(lake, DRY_RUN=True).status == 'dry run'
    assert told(run(lake), 'after') == {('amount by currency', '\\xff\\xfe'): Decimal(1)}


def test_each_sum_is_a_line_and_so_are_the_rules(tmp_path, capsys):
    "For those who read the log; a value is data and is quoted"
    lake = Lake(tmp_path)
    columns = dict(amount=pa.array([Decimal('1.50'), Decimal('2')], pa.decimal128(9, 2)), currency=['a\nb', None])
    lake.land('a.parquet', chargebacks(['a', 'b'], **columns))
    rules = 'Rules = [ RowCount > 1, RowCount > avg(last(3)) * 0.5, ColumnCount > 99 labels=["level"="warn"] ]'
    assert lake.main(CONTROL_TOTALS='amount by currency', RULES=rules) == 0
    said = capsys.readouterr().out.splitlines()
    start, end = 'TOTAL: day=2025-11-02, sum=amount by currency, value=', ', duplicates=0, quarantined=0'
    assert [line for line in said if line.startswith(('TOTAL', 'rules:'))] == [
        f'{start}None, before=0, landed=2.00, after=2.00{end}',
        f"{start}'a\\nb', before=0, landed=1.50, after=1.50{end}",
        'rules: 1 ok, 1 failed, 1 unknown']
