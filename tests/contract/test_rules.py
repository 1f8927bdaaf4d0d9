"A rule of somebody's own is one entry of the table: its thresholds, the verdict and the report follow."
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
from days import Lake, chargebacks

ROOT = Path(__file__).parents[2]
OWN = """    Rule('amount', 'records', 'have an amount that is not positive', 0.0, 0.1, ('amount',),
         lambda records: pc.less_equal(records.column('amount'), 0)),
"""


def script_with_a_rule(folder):
    "The exported script with one more entry in RULES, and the import that its function needs"
    text = (ROOT / 'glue_export/consolidate_chargebacks.py').read_text()
    path = folder / 'script.py'
    path.write_text(text.replace('RULES = (\n', 'RULES = (\n' + OWN, 1).replace(
        'import pyarrow as pa\n', 'import pyarrow as pa\nimport pyarrow.compute as pc\n', 1))
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
        '2 of 7 records have an amount that is not positive', '--MAX_AMOUNT_RATE 0.1', 'bad.parquet: 2 records'):
        assert words in err
    finding = next(f for f in report['findings'] if f['rule'] == 'amount')
    assert (finding['count'], finding['whole'], finding['level']) == (2, 7, 'fail')
    code, report, err = run(script, lake, '--MAX_AMOUNT_RATE', '0.5', '--WARN_AMOUNT_RATE=0.2')
    assert code == 0 and report['rows_after'] == 7 and any('not positive' in w for w in report['warnings'])


def test_its_thresholds_are_arguments(tmp_path):
    script = script_with_a_rule(tmp_path)
    shown = subprocess.run([sys.executable, script, '--help'], capture_output=True, text=True).stdout
    assert '--MAX_AMOUNT_RATE' in shown and '--WARN_AMOUNT_RATE' in shown
    wrong = subprocess.run([sys.executable, script, '--MAX_AMOUNT_RATE', '2'], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.count('\n') == 1
