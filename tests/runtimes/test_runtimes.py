"""The exported script in the runtimes of AWS Glue: the oldest, the default and the newest that this machine has.
`make runtimes` takes all."""
import json
import os
import subprocess
import sys

import pytest
import runtimes
from aws import moto as moto_server
from deltalake import DeltaTable
from runtimes import DAY, TYPED, by_day, digest, leaves, list_of, orders, parsed, rows_of, run_local, run_s3, words_of

from chargeback_consolidation import entry
from chargeback_consolidation.delta import read_checkpoint
from chargeback_consolidation.sample.landing import land_sample
from chargeback_consolidation.settings import parse

pytestmark = pytest.mark.timeout(1800)

FOUND, MISSING = runtimes.present()
CHOSEN = sorted({r.glue for r in [FOUND[0], FOUND[-1]]} | {'5.1'}) if FOUND else ['5.1']


def releases(*quick):
    "The releases as parameters: the tests of one share a group, as its environment is made once"
    for glue in CHOSEN:
        group = pytest.mark.xdist_group(f'runtime {glue}')
        yield pytest.param(glue, marks=[group] if glue in quick else [group, pytest.mark.slow])


@pytest.fixture(scope='module', params=releases(CHOSEN[0], CHOSEN[-1]))
def runtime(request): return prepared(request.param)


@pytest.fixture(scope='module', params=releases())
def runtime_on_s3(request): return prepared(request.param)


def prepared(glue):
    "The runtime of a release of Glue; the test is skipped where there is none"
    if glue in MISSING: pytest.skip(f'Glue {glue}: {MISSING[glue]}')
    try: return runtimes.prepare(runtimes.RUNTIMES[glue])
    except runtimes.Missing as e: pytest.skip(str(e))


@pytest.fixture(scope='module')
def landing(tmp_path_factory): return runtimes.Landing(tmp_path_factory.mktemp('landing'))


@pytest.fixture(scope='module')
def here(landing, tmp_path_factory, spark):
    "What the library makes of the landing in this process"
    return runtimes.run_here(landing, tmp_path_factory.mktemp('here'))


@pytest.fixture(scope='module')
def endpoint():
    with moto_server() as url: yield url


OLDEST = pytest.mark.xdist_group(f'runtime {CHOSEN[0]}')    # what is not about a release shares its landing


@OLDEST
def test_what_is_compared_is_right(here, landing):
    assert {day: rows_of(files) for day, files in by_day(here).items()} == landing.expected()


@OLDEST
def test_int96_stays_int96(here):
    for day in (DAY, TYPED):
        kinds = {(name, kind) for path in by_day(here)[day] for name, kind, _ in leaves(path)}
        assert {kind for name, kind in kinds if name in ('updated_at', 'event_timestamp')} == {'INT96'}


def test_same_digest_from_local_folders(runtime, landing, here, tmp_path):
    assert digest(run_local(runtime, landing, tmp_path)) == digest(here)


def test_same_digest_from_s3(runtime_on_s3, landing, here, tmp_path, endpoint):
    assert digest(run_s3(runtime_on_s3, landing, tmp_path, endpoint)) == digest(here)


RULES = """Rules = [
    IsComplete "reason_description" labels=["level"="warn"] with threshold > 0.5,
    ColumnValues "amount" between 5 and 2000 labels=["level"="quarantine"],
    ColumnValues "currency" in ["USD","EUR","GBP"] labels=["level"="warn"] with threshold > 0.99,
    ColumnValues "dispute_number" matches "cb-[0-9a-f]+" with threshold > 0.9,
    ColumnLength "card_network" between 3 and 11,
    Mean "amount" between 1 and 1000, Sum "stream_offset" > 0, StandardDeviation "amount" > 0,
    Completeness "revised_at" >= 0.5, DataFreshness "occurred_at" <= 72 hours, RowCount > 100,
    (IsPrimaryKey "card_network" "dispute_number") or (Uniqueness "dispute_number" "card_network" > 0.5)
]"""


def test_c17_c18_c21_the_users_own_words(runtime_on_s3, tmp_path, spark):
    "Own keys, rules and control totals: the same rows, quarantine, verdicts and sums as here"
    for delivery in (1, 2):
        land_sample(tmp_path / 'lake', columns='scoped', delivery=delivery, **runtimes.SAMPLE)
    told, rows = [], []
    for where in ('here', 'there'):
        words = words_of(
            tmp_path / 'lake', tmp_path / where, ENABLE_PARTITION_FILTER='true', PARTITION_DATE=DAY, RULES=RULES,
            KEY_COLUMNS='card_network,dispute_number', VERSION_COLUMNS='revised_at,occurred_at',
            CONTROL_TOTALS='amount by currency, stream_offset by status')
        if where == 'here': assert entry.main(list_of(words)) == 0
        else: runtimes.run_script(runtime_on_s3, words, tmp_path)
        told.append(json.loads(next((tmp_path / f'_{where}').rglob('000001.json')).read_text())['report'])
        kept = [p for p in by_day(tmp_path / where)[DAY]]
        rows.append([rows_of(kept), rows_of(sorted((tmp_path / f'_{where}/_quarantine').rglob('*.parquet')))])
    assert rows[0] == rows[1] and all(rows[0])
    for name in ('rules', 'totals', 'findings', 'quarantined', 'duplicates_removed', 'rows_after'):
        assert told[0][name] == told[1][name] and told[0][name], name


def test_order_of_arguments_does_not_matter(runtime, tmp_path):
    arguments = words_of('/lake', '/out', DRY_RUN='true', PARTITION_DATE=DAY)
    expected = parse(list_of(arguments)).as_arguments()
    assert parsed(runtime, orders(arguments, 100), tmp_path) == [expected] * 100


def test_missing_interpreters_are_named():
    assert {r.glue for r in FOUND} | set(MISSING) == set(runtimes.RUNTIMES)
    assert all(MISSING.values())


WRITE_LOG = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location('job', sys.argv[1])
job = sys.modules['job'] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(job)
pa, log = job.pa, job.DeltaLog(job.LocalStore(), sys.argv[2], 'chargebacks')
schema = pa.schema([
    ('chargeback_id', pa.string()), ('amount', pa.decimal128(12, 2)), ('updated_at', pa.timestamp('us', 'UTC')),
    ('card', pa.struct([('bin', pa.string())])), ('fees', pa.map_(pa.string(), pa.int64()))])
for n in range(1, 13):
    path = 'year=2025/month=11/day=02/part-00000-c%06d-5c0ffee5.parquet' % n
    late = schema.append(pa.field('channel', pa.list_(pa.string()))) if n > 3 else schema
    log.follow([job.DayFiles('2025-11-02', n, (job.WrittenFile(path, n, 900, ''),), late)], lambda: [], now=n)
assert log.read().checkpoint == 10
"""


def test_c19_same_bytes_in_the_log(runtime, tmp_path):
    "Of its versions; of the checkpoint, what the library reads in it"
    root = 'log'
    for folder, python in (('here', sys.executable), ('there', str(runtime.bin / 'python'))):
        (tmp_path / folder).mkdir()
        environment = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
        run = subprocess.run(
            [python, '-c', WRITE_LOG, str(runtimes.SCRIPT), root], cwd=tmp_path / folder, env=environment,
            capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    logs = [tmp_path / folder / root / '_delta_log' for folder in ('here', 'there')]
    here, there = ({p.name: p.read_bytes() for p in sorted(log.iterdir()) if p.suffix != '.parquet'} for log in logs)
    assert here == there and len(here) == 13
    states = [read_checkpoint((log / f'{10:020d}.checkpoint.parquet').read_bytes(), 10) for log in logs]
    assert states[0] == states[1] and DeltaTable(str(logs[1].parent)).version() == 11
