"""Two runs of the same day, interleaved at every pair of phases, and four at once: one consistent result, whoever
wins (C10).

Both runs live in this process. The first stops at the end of phase A, the second then goes to the end of phase B and
stops; the first finishes, then the second.
"""
from itertools import count, product

import pytest
from aws import SERVER, s3_server
from matrices import record
from racer import Racer
from world import LocalWorld, S3World, prepared

from chargeback_consolidation.job import Conflict

pytestmark = pytest.mark.xdist_group('races')    # what its tests share is made once
PHASES = ['look', 'index', 'decide', 'copy', 'audit', 'prepare', 'commit', 'settling', 'settle']
QUICK_ON_S3 = [('copy', 'commit'), ('commit', 'commit'), ('settling', 'settling')]
ON_S3 = [
    pytest.param(a, b, marks=() if (a, b) in QUICK_ON_S3 else pytest.mark.slow) for a, b in product(PHASES, PHASES)
    if a == b or {a, b} <= {'copy', 'prepare', 'commit', 'settling'}]


@pytest.fixture(scope='module')
def local(session, tmp_path_factory):
    world, before = prepared(LocalWorld(tmp_path_factory.mktemp('world') / 'lake'), session)
    reference = world.copy(tmp_path_factory.mktemp('reference') / 'lake')
    reference.run(session)
    return lambda: world.copy(tmp_path_factory.mktemp('copy') / 'lake'), before, reference.listed()


@pytest.fixture(scope='module')
def cloud(local, session, tmp_path_factory):
    numbers = count()
    with s3_server(SERVER) as endpoint:
        world, before = prepared(S3World(endpoint, 'base', folder=tmp_path_factory.mktemp('cloud')).create(), session)
        assert before == local[1]
        yield lambda: world.copy(f'copy-{next(numbers)}'), before, local[2]


def check(world, before, after, outcomes):
    assert all(o in ('done', 'nothing new') or isinstance(o, Conflict) for o in outcomes), outcomes
    assert 'done' in outcomes
    assert world.listed() == world.asked() == after
    assert world.orphans() == []


def race(world, session, a, b):
    with world.environment():
        first, second = Racer(world, session, a).until_stop(), Racer(world, session, b).until_stop()
        return first.finish(), second.finish()


@pytest.mark.parametrize('a,b', list(product(PHASES, PHASES)))
def test_c10_two_runs_local(local, session, a, b):
    copy, before, after = local
    world = copy()
    check(world, before, after, race(world, session, a, b))
    record('races', store='local', first=a, second=b)


@pytest.mark.parametrize('a,b', ON_S3)
def test_c10_two_runs_s3(cloud, session, a, b):
    copy, before, after = cloud
    world = copy()
    check(world, before, after, race(world, session, a, b))
    record('races', store='s3', first=a, second=b)


LOGGING = ['copy', 'prepare', 'commit', 'settling', 'settle']
LOGGING_ON_S3 = [('settling', 'settling'), ('commit', 'settling'), ('prepare', 'settle')]


@pytest.mark.parametrize('store,a,b', [
    *(('local', a, b) for a, b in product(LOGGING, LOGGING)), ('s3', 'commit', 'commit'),
    *(pytest.param('s3', a, b, marks=pytest.mark.slow) for a, b in LOGGING_ON_S3)])
def test_c19_two_runs_one_log(local, cloud, session, store, a, b):
    copy, before, after = local if store == 'local' else cloud
    world = copy()
    world.extra = ('--DELTA_LOG', 'true')
    check(world, before, after, race(world, session, a, b))
    assert world.logged() == after
    record('races', store=store, first=a, second=b, log=True)


@pytest.mark.parametrize('store', ['local', 's3'])
def test_c10_four_at_once(local, cloud, spark, store):
    copy, before, after = local if store == 'local' else cloud
    world = copy()
    with world.environment():
        racers = [Racer(world, lambda: spark) for _ in range(4)]
        for r in racers: r.start()
        check(world, before, after, [r.finish() for r in racers])
    record('races', store=store, first='four at once', second='')
