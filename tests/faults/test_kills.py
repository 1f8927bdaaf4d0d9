"""A run is killed at every phase, on both stores; the next run ends with the result of an undisturbed one (C11).

Between kill and recovery both kinds of reader look: who asks the ledger sees one consistent day, who lists the
folder sees no fewer rows than the last commit has.
"""
import os
import signal
import subprocess
import sys
from itertools import count, product
from pathlib import Path

import pytest
from matrices import record
from world import LocalWorld, S3World, prepared

from chargeback_consolidation.repair import repair

pytestmark = pytest.mark.xdist_group('kills')    # what its tests share is made once
KILLED = Path(__file__).parents[1] / 'support/killed.py'
PHASES = [
    'look', 'index', 'decide', 'copying', 'copy', 'audit', 'prepare', 'creating', 'commit', 'settling 1', 'settling 3',
    'settling 4', 'settle']

TWICE = {
    'look': 'copying', 'copying': 'copying', 'prepare': 'commit', 'commit': 'settling 1', 'settling 1': 'settling 1',
    'settling 3': 'settling 1'}  # killed at the one, then at the other

# What a quick run tries: with a JVM and its workers, and with Spark played
SPARK = [('local', 'copying'), ('s3', 'commit')]
PLAYED = [('local', p) for p in PHASES] + [('s3', 'copying')]
LOGGED = [('local', p) for p in ('creating', 'commit', 'settling 5', 'logging', 'logged')] + [('s3', 'commit')]


@pytest.fixture(scope='module')
def worlds(session, endpoint, tmp_path_factory):
    "For each store: (world, rows before, rows of the undisturbed day, a function that makes a copy)"
    local, before = prepared(LocalWorld(tmp_path_factory.mktemp('world') / 'lake'), session)
    undisturbed = local.copy(tmp_path_factory.mktemp('undisturbed') / 'lake')
    undisturbed.run(session)
    cloud, cloud_before = prepared(S3World(endpoint, 'base', folder=tmp_path_factory.mktemp('cloud')).create(), session)
    after = undisturbed.listed()
    assert cloud_before == before and before != after and max(after.values()) == 1
    numbers = count()
    return {'local': (local, before, after, lambda: local.copy(tmp_path_factory.mktemp('copy') / 'lake')),
            's3': (cloud, before, after, lambda: cloud.copy(f'copy-{next(numbers)}'))}


def with_log(world, session):
    "The world with a Delta log of its first half, which all its runs go on with"
    world.extra = ('--DELTA_LOG', 'true')
    with world.environment():
        ledger = world.ledger()
        ledger.delta = True
        repair(ledger, 'abad1dea')
    return world


def kill(world, phase, *spark):
    "Run the job in a process group of its own until it is killed"
    with world.environment():
        run = subprocess.run(
            [sys.executable, str(KILLED), *spark, phase, *world.arguments()],
            start_new_session=True, capture_output=True, text=True, timeout=180, env=dict(os.environ))
    assert run.returncode == -signal.SIGKILL, f'not killed at {phase}: {run.stdout[-2000:]}{run.stderr[-2000:]}'


def check_readers(world, before, after):
    assert world.asked() in (before, after)
    listed = world.listed()
    assert sum(listed.values()) >= sum(before.values()) and {key for key, _, _ in listed} >= {
        key for key, _, _ in before}


def cases():
    for store, phase in product(('local', 's3'), PHASES):
        if (store, phase) == ('s3', 'creating'): continue
        for spark, at, name in (([], SPARK, '-spark'), (['inline'], PLAYED, '')):
            quick = (store, phase) in at
            yield pytest.param(
                store, phase, spark, id=f'{store}-{phase}{name}', marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize('store,phase,spark', list(cases()))
def test_c11_killed_at_any_phase(worlds, session, store, phase, spark):
    _, before, after, copy = worlds[store]
    world = copy()
    kill(world, phase, *spark)
    check_readers(world, before, after)
    if phase in TWICE:
        kill(world, TWICE[phase], *spark)
        check_readers(world, before, after)
    world.run(session)
    assert world.listed() == world.asked() == after
    world.repair()
    assert world.orphans() == [] and world.listed() == after
    record('kills', store=store, phase=phase, then=TWICE.get(phase, ''))


LOG_PHASES = [
    'prepare', 'creating', 'created', 'commit', 'settling 1', 'settling 3', 'settling 4', 'settling 5', 'settling 6',
    'logging', 'logged', 'settle']
LINKS = ('creating', 'created', 'logging', 'logged')


@pytest.mark.parametrize('store,phase', [
    pytest.param(s, p, marks=() if (s, p) in LOGGED else pytest.mark.slow)
    for s, p in product(('local', 's3'), LOG_PHASES) if s == 'local' or p not in LINKS])
def test_c19_killed_while_a_log_is_kept(worlds, session, store, phase):
    "Who reads through the log sees one commit's day, before the next run and after it"
    _, before, after, copy = worlds[store]
    world = with_log(copy(), session)
    assert world.logged() == before
    for again in (phase, TWICE.get(phase, '')):
        if not again: break
        kill(world, again, 'inline')
        check_readers(world, before, after)
        assert world.logged() in (before, after)
    world.run(session)
    assert world.listed() == world.asked() == world.logged() == after
    world.repair()
    assert world.orphans() == [] and world.logged() == after
    record('kills', store=store, phase=phase, then=TWICE.get(phase, ''), log=True)


def test_the_check_can_fail(worlds):
    "A file that nobody committed is seen as an orphan"
    _, _, _, copy = worlds['local']
    world = copy()
    ledger = world.ledger()
    with ledger.store.stage(ledger.partition + '/part-00000-c000009-00000000.parquet') as sink: sink.write(b'x')
    assert len(world.orphans()) == 1
