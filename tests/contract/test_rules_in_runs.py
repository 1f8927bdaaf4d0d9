"C18 in runs: where rules come from, what each level does, what history is, and that a mistake of ours is caught."
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from days import LENIENT, Lake, chargebacks, tree
from inline import inline

from chargeback_consolidation import copying, inventory, job, landing
from chargeback_consolidation.quality import ConservationBroken, QualityFailed
from chargeback_consolidation.settings import ArgumentError

POSITIVE = 'ColumnValues "amount" > 0'
ASIDE = f'Rules = [ {POSITIVE} labels=["level"="quarantine"] ]'


def amounts(keys, values, updated=0):
    return chargebacks(keys, updated).append_column(
        'amount', pa.array([v and Decimal(v) for v in values], pa.decimal128(9, 2)))


@pytest.fixture
def lake(tmp_path):
    lake = Lake(tmp_path)
    lake.land('1.parquet', amounts(['a', 'b', 'c', None, 'e'], ['1', '-1', None, '-2', '3']))
    return lake


def run(lake, rules, **more): return lake.run(session=inline, RULES=rules, **{**LENIENT, **more})


def keys_of(files): return sorted(k for f in files for k in pq.ParquetFile(f).read()['chargeback_id'].to_pylist() if k)


def test_fail_stops_with_the_first_offender(lake):
    before = tree(lake.table)
    with pytest.raises(QualityFailed) as e: run(lake, f'Rules = [ {POSITIVE} ]')
    assert str(e.value) == f'nothing is published: {POSITIVE}: 3 of 5 rows fail: 2025/11/02/1.parquet row 1'
    after = tree(lake.table)
    assert not lake.files() and after == before


def test_text_that_is_not_utf_8_is_a_value_like_others(lake):
    "A rule about its column ends no run"
    odd = pa.array([b'caf\xe9', b'cafe', None], pa.binary()).view(pa.string())
    lake.land('odd.parquet', chargebacks(['x', 'y', 'z'], 1).append_column('shop', odd))
    report = run(lake, 'Rules = [ ColumnValues "shop" in ["cafe"] with threshold > 0.1, '
                       'ColumnLength "shop" < 9 labels=["level"="warn"], IsComplete "shop" labels=["level"="warn"] ]')
    assert report.rows_after == 7 and [(v['outcome'], v['count']) for v in report.rules][0] == ('ok', 7)


def test_warn_publishes_and_says_so(lake):
    report = run(lake, f'Rules = [ {POSITIVE} labels=["level"="warn"] ]')
    assert report.status == 'done' and report.rows_after == 4 and any('3 of 5 rows fail' in w for w in report.warnings)


def test_quarantine_sets_rows_aside_with_rule_file_and_row(lake):
    report = run(lake, ASIDE)
    assert (report.quarantined, report.rows_after, report.records_processed) == (3, 2, 5)
    assert keys_of(lake.files()) == ['a', 'e']
    rows = [r for f in lake.quarantine() for r in pq.ParquetFile(f).read().to_pylist()]
    assert {(r['_landing_file'], r['_landing_row'], r['_quarantine_reason'][:25]) for r in rows} == {
        ('2025/11/02/1.parquet', 1, POSITIVE), ('2025/11/02/1.parquet', 2, POSITIVE),
        ('2025/11/02/1.parquet', 3, 'missing key')}


def test_a_row_that_is_set_aside_never_wins(lake):
    run(lake, ASIDE)
    lake.land('2.parquet', amounts(['a', 'b'], ['-9', '9'], updated=99))
    report = run(lake, ASIDE)
    assert keys_of(lake.files()) == ['a', 'b', 'e'] and report.duplicates_removed == 0
    values = {r['chargeback_id']: r['amount'] for f in lake.files() for r in pq.ParquetFile(f).read().to_pylist()}
    assert values['a'] == 1 and values['b'] == 9


def test_other_rules_are_told_and_reprocess_applies_them(lake):
    run(lake, None)
    lake.land('2.parquet', amounts(['x'], ['-1']))
    report = run(lake, ASIDE)
    assert any('the rules that set rows aside are not those of commit 1' in w for w in report.warnings)
    assert keys_of(lake.files()) == ['a', 'b', 'c', 'e']
    run(lake, ASIDE, REPROCESS=True)
    assert keys_of(lake.files()) == ['a', 'e'] and len(lake.quarantine()) > 0


def test_large_files_in_pieces(lake, monkeypatch):
    monkeypatch.setattr(inventory, 'SMALL', 100)
    monkeypatch.setattr(copying, 'BATCH_ROWS', 3)
    keys = [f'k{i:03}' for i in range(300)]
    lake.land('big.parquet', amounts(keys, [str(i % 3 - 1) for i in range(300)]), row_group_size=40)
    report = run(lake, ASIDE, OUTPUT_FILE_COUNT=7)
    assert report.quarantined == 203 and len(lake.files()) == 7
    assert keys_of(lake.files()) == sorted(['a', 'e'] + [k for i, k in enumerate(keys) if i % 3 == 2])


@pytest.mark.parametrize('level', ['fail', 'quarantine'])
@pytest.mark.parametrize(('column', 'words'), [
    ('amout', 'no file has a column amout; did you mean amount?'),
    ('event_timestamp', 'cannot be asked of its columns')])
def test_a_rule_that_cannot_be_answered_stops(lake, level, column, words):
    with pytest.raises(QualityFailed, match=words.replace('?', '.')):
        run(lake, f'Rules = [ ColumnValues "{column}" > 0 labels=["level"="{level}"] ]')
    assert not lake.files()


def test_history(lake):
    rule = 'Rules = [ RowCount > avg(last(2)) * 0.5 ]'
    assert run(lake, rule).rules[0]['outcome'] == 'unknown'
    lake.land('2.parquet', amounts(list('uvw'), ['1', '2', '3']))
    assert run(lake, rule).rules[0]['value'] == {'RowCount': 3.0}
    lake.land('3.parquet', amounts(['z'], ['1']))
    with pytest.raises(QualityFailed, match='RowCount is 1'): run(lake, rule)
    lake.land('2025/11/03/1.parquet', amounts(['z'], ['1']))
    with pytest.raises(QualityFailed, match='RowCount is 1'): run(lake, rule, PARTITION_DATE='2025-11-03')


def test_keys(lake):
    rules = ('Rules = [ IsUnique "chargeback_id" labels=["level"="warn"], '
             'DistinctValuesCount "chargeback_id" = 4, Uniqueness "chargeback_id" > 0.5 ]')
    report = run(lake, rules)
    assert [v['outcome'] for v in report.rules] == ['ok'] * 3 and report.rules[2]['value'] == {
        'Uniqueness "chargeback_id"': 0.8}
    lake.land('2.parquet', amounts(['a', 'x', 'x'], ['1', '2', '3']))
    with pytest.raises(QualityFailed) as e: run(lake, rules)
    assert 'DistinctValuesCount "chargeback_id" is 2' in str(e.value)
    assert 'Uniqueness "chargeback_id" is 0.333333' in str(e.value)
    with pytest.raises(ArgumentError, match='known of the key only, which is chargeback_id'):
        run(lake, 'Rules = [ IsUnique "amount" ]')


def test_rules_from_a_file_and_a_mistake_in_it(lake, tmp_path, capsys):
    path = tmp_path / 'rules.dqdl'
    path.write_text(f'# ours\nRules = [\n    {POSITIVE} labels=["level"="quarantine"]\n]\n')
    assert run(lake, str(path)).quarantined == 3
    path.write_text('Rules = [\n    ColumnValue "amount" > 0\n]')
    before = tree(lake.root / 'out')
    assert lake.main(RULES=path) == 2
    err = capsys.readouterr().err
    assert err == f'--RULES {path}: line 2, column 5: ColumnValue is no type of rule; did you mean ColumnValues?\n'
    for wrong, words in ((tmp_path / 'none', 'no such file'), (tmp_path, 'is a folder')):
        assert lake.main(RULES=wrong) == 2 and words in capsys.readouterr().err
    assert lake.main(RULES=path, SOURCE_TABLE='nothing') == 2
    assert 'line 2, column 5' in capsys.readouterr().err, 'rules are read before the catalog is asked'
    assert tree(lake.root / 'out') == before


def test_a_failed_run_tells_its_verdicts(lake, capfd):
    assert lake.main(RULES=f'Rules = [ {POSITIVE}, RowCount > 1 ]', MAX_NULL_KEY_RATE=1) == 4
    report = json.loads([line for line in capfd.readouterr().out.splitlines() if line.startswith('{')][-1])
    assert [v['outcome'] for v in report['rules']] == ['failed', 'ok']
    assert report['rules'][0]['first'] == [['2025/11/02/1.parquet', 1]]


def ignore_in_copy(monkeypatch):
    "The copy forgets the rules"
    monkeypatch.setattr(copying, 'quarantine_rules', lambda rules: [])


def forget_in_index(monkeypatch):
    "The index leaves a row that is set aside among the rivals"
    monkeypatch.setattr(landing, 'without_keys', lambda rows, broken: rows)
    monkeypatch.setattr(landing, 'judged', lambda *a: (None, REAL_JUDGED(*a)[1]))


def one_row_less(monkeypatch):
    "The copy lets one row pass"
    real = copying.Sieve.reasons
    def reasons(self, table, part):
        found = real(self, table, part)
        found[np.flatnonzero(found > 0)[:1]] = -1
        return found
    monkeypatch.setattr(copying.Sieve, 'reasons', reasons)


def another_row(monkeypatch):
    "The copy sets another row aside: two mistakes that cancel in the count"
    real = copying.Sieve.reasons
    def reasons(self, table, part):
        found = real(self, table, part)
        a, b = np.flatnonzero(found > 0)[:1], np.flatnonzero(found < 0)[:1]
        if len(a) and len(b): found[a], found[b] = -1, 1
        return found
    monkeypatch.setattr(copying.Sieve, 'reasons', reasons)


REAL_JUDGED = landing.judged


@pytest.mark.parametrize('mutant', [ignore_in_copy, forget_in_index, one_row_less, another_row])
def test_mutants_are_caught(lake, monkeypatch, mutant):
    mutant(monkeypatch)
    with pytest.raises((ConservationBroken, job.Conflict)): run(lake, ASIDE)
    assert not lake.files()
