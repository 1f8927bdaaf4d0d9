"C21 in the answers: the control totals of a day, added up again from its files."
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from days import LENIENT, Lake, chargebacks
from inline import inline

from chargeback_consolidation.answers.answer import as_html
from chargeback_consolidation.answers.day import open_day
from chargeback_consolidation.answers.reconcile import reconcile


def paid(keys, amounts, currencies, updated=0):
    return chargebacks(keys, updated, amount=pa.array([Decimal(v) for v in amounts], pa.decimal128(9, 2)),
                       currency=pa.array(currencies, pa.string()), merchant_id=pa.array(['m'] * len(keys)))


@pytest.fixture
def lake(tmp_path):
    lake = Lake(tmp_path)
    for name, table in {
            '1.parquet': paid(['a', 'b', None], ['1', '2', '5'], ['EUR', '<b>', 'EUR']),
            '2.parquet': paid(['a', 'e'], ['10', '20'], ['EUR', None], updated=9)}.items():
        lake.land(name, table)
        lake.run(session=inline, CONTROL_TOTALS='amount by currency, amount by merchant_id', **LENIENT)
    return lake


def asked(lake, mask=False):
    return reconcile(open_day(str(lake.output), '2025-11-02', str(lake.root / 'lake'), 'landing', 'chargebacks', mask))


def test_reconcile_adds_them_up_again(lake):
    answer = asked(lake)
    assert answer.level == 'ok' and answer.tables['executions']['balanced'].all()
    assert answer.tables['control totals'].iloc[:3].values.tolist() == [
        ['amount by currency', 'no value', '20.00', '20.00', '0.00', '0'],
        ['amount by currency', "'<b>'", '2.00', '2.00', '0.00', '0'],
        ['amount by currency', "'EUR'", '16.00', '10.00', '1.00', '5.00']]
    masked = asked(lake, True).tables['control totals']['value'].iloc[-1]
    assert masked.startswith("'id~") and '<b>' not in as_html(answer.tables['control totals']).partition('<tbody>')[2]
    assert '&lt;b&gt;' in as_html(answer.tables['control totals'])


def test_an_amount_that_was_changed_in_a_file_of_the_day(lake):
    path = lake.files()[0]
    table = pq.ParquetFile(path).read()
    twice = pc.add(table['amount'], table['amount']).cast(table['amount'].type)
    pq.write_table(table.set_column(table.column_names.index('amount'), 'amount', twice), path)
    found = {f.kind: f for f in asked(lake).findings}['totals not as committed']
    assert (found.level, found.count) == ('fail', 1) and found.where[0].endswith(path.name)


def test_landing_files_that_are_gone(lake):
    (lake.table / '2025/11/02/1.parquet').unlink()
    answer = asked(lake)
    assert set(answer.tables['control totals']['duplicates']) == {'not known'}
    assert 'totals not as committed' not in {f.kind for f in answer.findings}
