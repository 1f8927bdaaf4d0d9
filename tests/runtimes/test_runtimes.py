"""The exported script in the runtimes of AWS Glue: the oldest, the default and the newest that this machine has.
`make runtimes` takes all."""
import pytest
import runtimes
from aws import moto as moto_server
from runtimes import DAY, TYPED, by_day, digest, leaves, list_of, orders, parsed, rows_of, run_local, run_s3, words_of

from chargeback_consolidation.settings import parse

pytestmark = [pytest.mark.xdist_group('runtimes'), pytest.mark.timeout(1800)]

FOUND, MISSING = runtimes.present()
CHOSEN = sorted({r.glue for r in [FOUND[0], FOUND[-1]]} | {'5.1'}) if FOUND else ['5.1']


@pytest.fixture(scope='module', params=CHOSEN)
def runtime(request): return prepared(request.param)


@pytest.fixture(scope='module', params=[CHOSEN[0], *(pytest.param(g, marks=pytest.mark.slow) for g in CHOSEN[1:])])
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


def test_what_is_compared_is_right(here, landing):
    assert {day: rows_of(files) for day, files in by_day(here).items()} == landing.expected()


def test_int96_stays_int96(here):
    for day in (DAY, TYPED):
        kinds = {(name, kind) for path in by_day(here)[day] for name, kind, _ in leaves(path)}
        assert {kind for name, kind in kinds if name in ('updated_at', 'event_timestamp')} == {'INT96'}


def test_same_digest_from_local_folders(runtime, landing, here, tmp_path):
    assert digest(run_local(runtime, landing, tmp_path)) == digest(here)


def test_same_digest_from_s3(runtime_on_s3, landing, here, tmp_path, endpoint):
    assert digest(run_s3(runtime_on_s3, landing, tmp_path, endpoint)) == digest(here)


def test_order_of_arguments_does_not_matter(runtime, tmp_path):
    arguments = words_of('/lake', '/out', DRY_RUN='true', PARTITION_DATE=DAY)
    expected = parse(list_of(arguments)).as_arguments()
    assert parsed(runtime, orders(arguments, 100), tmp_path) == [expected] * 100


def test_missing_interpreters_are_named():
    assert {r.glue for r in FOUND} | set(MISSING) == set(runtimes.RUNTIMES)
    assert all(MISSING.values())
