"A rule of somebody's own is one entry of the table: its thresholds, the verdict and the report follow."
import json
import re
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from days import Lake, chargebacks

from chargeback_consolidation.deciding import Stretch, index_rows
from chargeback_consolidation.landing import RecordView
from chargeback_consolidation.settings import ARGUMENTS, RULES

ROOT = Path(__file__).parents[2]
OWN = """    Rule('amount_sign', 'records', 'have an amount that is not positive', 0.0, 0.1,
         'ColumnValues "amount" > 0 where "amount is not null"'),
"""


def script_with_a_rule(folder):
    "The exported script with one more entry in RULES"
    text = (ROOT / 'glue_export/consolidate_chargebacks.py').read_text()
    path = folder / 'script.py'
    path.write_text(text.replace('RULES = (\n', 'RULES = (\n' + OWN, 1))
    return path


def run(script, lake, *more):
    "Exit code, report and stderr of the script"
    done = subprocess.run([sys.executable, script, *lake.words(), *more], capture_output=True, text=True)
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]
    return done.returncode, reports[-1] if reports else None, done.stderr


def with_amounts(keys, amounts):
    return chargebacks(keys).append_column('amount', pa.array(amounts, pa.int64()))


def test_one_entry_makes_a_rule(tmp_path):
    lake, script = Lake(tmp_path), script_with_a_rule(tmp_path)
    lake.land('a.parquet', with_amounts(['a', 'b'], [10, None]))
    lake.land('b.parquet', chargebacks(['c', 'd']))     # without the column: nothing to flag
    lake.land('bad.parquet', with_amounts(['e', 'f', 'g'], [0, -5, 7]))
    code, report, err = run(script, lake)
    assert code == 4 and 'Traceback' not in err and not lake.files()
    for words in (
        '2 of 7 records have an amount that is not positive', '--MAX_AMOUNT_SIGN_RATE 0.1', 'bad.parquet: 2 records'):
        assert words in err
    finding = next(f for f in report['findings'] if f['rule'] == 'amount_sign')
    assert (finding['count'], finding['whole'], finding['level']) == (2, 7, 'fail')
    code, report, err = run(script, lake, '--MAX_AMOUNT_SIGN_RATE', '0.5', '--WARN_AMOUNT_SIGN_RATE=0.2')
    assert code == 0 and report['rows_after'] == 7 and any('not positive' in w for w in report['warnings'])


BROKEN = {
    'decimal': pa.array([Decimal('0.01'), Decimal('-1.00'), None], pa.decimal128(9, 2)),
    'uint64': pa.array([2**63 + 1, 0, None], pa.uint64()), 'half': pa.array(np.array([1, 0, 0], np.float16)),
    'text': pa.array(['1', '0', None]), 'bool': pa.array([True, False, None]), 'null': pa.nulls(3),
    'struct': pa.array([{'value': 1}, {'value': 0}, None]), 'list': pa.array([[1], [], None])}


@pytest.mark.parametrize('name', ['amount', 'Amount'])
@pytest.mark.parametrize('kind', BROKEN)
def test_a_rule_in_dqdl_takes_any_type_and_any_case(kind, name):
    table = chargebacks(['a', 'b', 'c']).append_column(name, BROKEN[kind])
    records = RecordView(index_rows([table], [Stretch(0, table.num_rows)]), date(2025, 11, 2), [table])
    found = records.breaks('ColumnValues "amount" > 0 where "amount is not null"').tolist()
    known = BROKEN[kind].is_valid().to_pylist()
    numbers = kind in ('decimal', 'uint64', 'half')
    expected = [False, *known[1:]] if numbers else known    # what is no number is not above 0
    assert found == expected


def test_its_thresholds_are_arguments(tmp_path):
    script = script_with_a_rule(tmp_path)
    shown = subprocess.run([sys.executable, script, '--help'], capture_output=True, text=True).stdout
    assert '--MAX_AMOUNT_SIGN_RATE' in shown and '--WARN_AMOUNT_SIGN_RATE' in shown
    wrong = subprocess.run([sys.executable, script, '--MAX_AMOUNT_SIGN_RATE', '2'], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.count('\n') == 1


def test_wherever_rules_are_listed_none_is_missing():
    variables = (ROOT / 'glue_export/terraform/variables.tf').read_text()
    listed = re.search(r'_\(([A-Z_|]+)\)_RATE\$', variables)[1], re.search(r'the rates are ([A-Z_, ]+)\.', variables)[1]
    names = [rule.name.upper() for rule in RULES]
    assert [re.split(r'\W+', text) for text in listed] == [names, names], 'variables.tf, thresholds: regex and message'
    readme = (ROOT / 'README.md').read_text()
    assert [a.name for a in ARGUMENTS if f'| `{a.name}` |' not in readme] == [], 'refresh nbs/index.ipynb'
