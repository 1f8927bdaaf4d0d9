"""Runs on S3 that meet what only S3 does: actions that are denied, uploads that vanish, odd names, kills at any
moment."""
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aws import SERVER, Proxy, client
from test_kills import check_readers
from test_s3_store import NOT_ON_MOTO, ODD
from world import DAY

from chargeback_consolidation import entry, job, state
from chargeback_consolidation.ledger import LedgerDamaged
from chargeback_consolidation.settings import ArgumentError
from chargeback_consolidation.store import StoreError, StoreUnfit

pytestmark = pytest.mark.xdist_group('s3_runs')    # what its tests share is made once
SCRIPT = Path(__file__).parents[2] / 'glue_export/consolidate_chargebacks.py'
KILLED = Path(__file__).parents[1] / 'support/killed.py'
KILLS, LONGEST = 15, 14.0


def test_uploads_that_vanish_between_commit_and_settling(cloud_day, session):
    "A lifecycle rule or a person aborts them. The run says so at once, the day can be reprocessed."
    _, before, after, copy = cloud_day
    world = copy()
    def abort(stage, seconds, facts):
        if stage != 'commit': return
        ledger = world.ledger()
        for path, token in ledger.store.staged(ledger.partition): ledger.store.discard(path, token)
        began.append(time.monotonic())
    began = []
    with pytest.raises(LedgerDamaged, match='is gone, though commit 2'): world.run(session, abort)
    assert time.monotonic() - began[0] < 5
    world.run(session, state.quiet, '--REPROCESS', 'true')
    assert world.listed() == world.asked() == after
    world.repair()
    assert world.orphans() == []


def test_landing_files_with_odd_names(cloud_day, session, endpoint):
    cloud, _, after, copy = cloud_day
    world, s3, keys = copy(), client('s3', endpoint), []
    names = [name for name in ODD if SERVER != 'moto' or name not in NOT_ON_MOTO]
    row = pq.read_table(sorted(world.folder.rglob('*.parquet'))[0]).slice(0, 1)
    place = row.schema.get_field_index('chargeback_id')
    try:
        for i, name in enumerate(names):
            sink = pa.BufferOutputStream()
            pq.write_table(row.set_column(place, row.schema.field(place), pa.array([f'odd-{i}'])), sink)
            keys.append(f'landing/chargebacks/{DAY.replace("-", "/")}/{name}.parquet')
            s3.put_object(Bucket=cloud.landing, Key=keys[-1], Body=sink.getvalue().to_pybytes())
        report = world.run(session)
        assert report.set_aside == () and {f'odd-{i}' for i in range(len(names))} <= {
            key for key, _, _ in world.listed()}
    finally:
        for key in keys: s3.delete_object(Bucket=cloud.landing, Key=key)


def test_rules_in_s3(cloud_day, session, endpoint):
    "They are read before anything is touched; what is wrong with the object is told in one line"
    _, before, after, copy = cloud_day
    world, s3 = copy(), client('s3', endpoint)
    place = f'{world.output}-rules.dqdl'
    with pytest.raises(ArgumentError, match=f'^--RULES {place}: there is no such file$'):
        world.run(session, state.quiet, '--RULES', place)
    key = place.split('/', 3)[3]
    s3.put_object(Bucket=world.bucket, Key=key, Body=b'Rules = [ IsComplet "status" ]')
    with pytest.raises(ArgumentError, match=f'^--RULES {place}: line 1, column 11: .*IsComplete'):
        world.run(session, state.quiet, '--RULES', place)
    s3.put_object(Bucket=world.bucket, Key=key, Body=b'Rules = [ IsComplete "status" ]')
    assert world.asked() == before
    assert world.run(session, state.quiet, '--RULES', place).rules[0]['outcome'] == 'ok' and world.asked() == after


DENIED = {
    'PUT': '', 'LIST': '', 'LIST_UPLOADS': '', 'GET': '', 'CREATE_UPLOAD': '', 'UPLOAD_PART': '', 'COMPLETE': '',
    'DELETE': ''}


QUICK = 'PUT', 'LIST', 'GET', 'COMPLETE'


@pytest.mark.parametrize('denied', [pytest.param(d, marks=() if d in QUICK else pytest.mark.slow) for d in DENIED])
def test_an_action_that_is_denied_is_named_and_leaves_the_day_right(cloud_day, session, endpoint, denied, request):
    "Only the probe may say that the output is unfit; when the right is back the next run ends as if nothing had been"
    _, before, after, copy = cloud_day
    world = copy()
    def fault(number, done, path):
        to_catalog = path == '/'
        return '403' if done == denied and DENIED[denied] in path and not to_catalog else None
    spark = (
        request.getfixturevalue('spark') if denied in ('GET', 'CREATE_UPLOAD', 'UPLOAD_PART') else None
    )  # its tasks are refused
    with Proxy(endpoint, fault) as proxy, world.environment(proxy.endpoint):
        if denied == 'LIST':    # asked before a day begins: there is no report yet, and nothing is touched
            with pytest.raises(StoreError, match='AccessDenied'): world.start(session)
            return
        report, error = entry.run_day(world.start((lambda: spark) if spark else session))
    assert proxy.faults['403'] and ('AccessDenied' in report.message or 'no permission' in report.message)
    after_the_commit = denied in ('LIST_UPLOADS', 'COMPLETE', 'DELETE')
    assert isinstance(error, job.AftermathFailed if after_the_commit else StoreUnfit if denied == 'PUT' else StoreError)
    assert report.status == ('unfinished' if after_the_commit else 'failed') and report.unreadable_files == 0
    check_readers(world, before, after)
    world.run(session)
    assert world.listed() == world.asked() == after
    world.repair()
    assert world.orphans() == []


def test_an_upload_that_may_not_be_completed_is_asked_for_once_more_and_no_longer(cloud_day, session, endpoint):
    "A refusal is not repeated for half a minute"
    world = cloud_day[3]()
    with Proxy(endpoint, lambda number, done, path: '403' if done == 'COMPLETE' else None) as proxy:
        with world.environment(proxy.endpoint): report = job.consolidate(world.start(session))
    assert report.status == 'unfinished' and 'cannot be published: AccessDenied' in report.message
    assert proxy.count('COMPLETE') == 2


@pytest.mark.parametrize('seed', range(KILLS))
def test_killed_at_a_random_moment(cloud_day, session, seed):
    if SERVER == 'moto': pytest.skip('takes minutes: make s3 runs it')
    _, before, after, copy = cloud_day
    world, chance = copy(), random.Random(seed)
    with world.environment():
        words = [sys.executable, str(SCRIPT), *world.arguments()]
        run = subprocess.Popen(
            words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
        try: run.wait(chance.uniform(0.5, LONGEST))
        except subprocess.TimeoutExpired: os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    check_readers(world, before, after)
    world.run(session)
    assert world.listed() == world.asked() == after
    world.repair()
    assert world.orphans() == []


@pytest.mark.parametrize('phase', ['copying', pytest.param('copy', marks=pytest.mark.slow)])
def test_a_stopped_run_leaves_no_upload(cloud_day, session, phase, tmp_path):
    """SIGTERM, as Glue stops a job, while files are staged and once all are: its exit code, one line, and nothing
    that is staged or kept on this machine"""
    _, before, after, copy = cloud_day
    world = copy()
    with world.environment():
        words = [sys.executable, str(KILLED), f'{phase}:SIGTERM', *world.arguments()]
        run = subprocess.run(
            words, start_new_session=True, capture_output=True, text=True, timeout=180,
            env=dict(os.environ, TMPDIR=str(tmp_path)))
        ledger = world.ledger()
        staged = ledger.store.staged(ledger.partition) + ledger.store.staged(ledger.quarantine)
    assert run.returncode == 143 and run.stderr.count('\n') == 1 and 'nothing is lost' in run.stderr, run.stderr
    assert staged == list(tmp_path.iterdir()) == [] and world.listed() == before
    world.run(session)
    assert world.listed() == world.asked() == after
