"""The exported script on a standalone cluster: a master and two workers, each a process with a folder of its own and
without our package.

A worker is killed in mid-run, and the rows are the same.
"""
import os
import re
import shutil
import signal
import subprocess
import time

import psutil
import pytest
import runtimes
from aws import client, free_port
from aws import moto as moto_server
from runtimes import SCRIPT, as_glue, catalog_table, digest, download, environment_of, words_of

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('runtime 5.1'), pytest.mark.timeout(1800)]


class Process:
    "A process whose output goes to a file; `wait_for` a pattern in it"

    def __init__(self, words, folder, environment):
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / 'log'
        with open(self.log, 'w') as log:
            self.popen = subprocess.Popen(
                list(map(str, words)), cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def wait_for(self, pattern, seconds=400):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = re.search(pattern, self.log.read_text(errors='replace'), re.MULTILINE)
            if found: return found.group()
            if self.popen.poll() is not None: break
            time.sleep(0.05)
        raise AssertionError(
            f"no {pattern!r} in the output of {self.popen.args[:3]}:\n{self.log.read_text(errors='replace')[-6000:]}")

    def kill(self):
        "SIGKILL, for the process and all below it"
        try: below = psutil.Process(self.popen.pid).children(recursive=True)
        except psutil.NoSuchProcess: below = []
        for process in [self.popen, *below]:
            try: os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError: pass
        self.popen.wait()
        return len(below)


class Cluster:
    "A master and two workers of one core"

    def __init__(self, runtime, folder):
        self.runtime, self.folder = runtime, folder
        self.spark = next(runtime.folder.glob('lib/python*/site-packages/pyspark'))
        self.url = f'spark://127.0.0.1:{free_port()}'
        self.processes, self.workers = [], []
        self.start(
            'master', 'master.Master', '--host', '127.0.0.1', '--port', self.url.rsplit(':')[-1], '--webui-port', 0
        ).wait_for('I have been elected leader')
        self.complete()

    def complete(self):
        "Start workers until there are two"
        self.workers = [w for w in self.workers if w.popen.poll() is None]
        while len(self.workers) < 2:
            name = f'worker-{len(self.processes)}'
            self.workers.append(self.start(
                name, 'worker.Worker', '--cores', 1, '--memory', '1g', '--webui-port', 0, '--work-dir',
                self.folder / name / 'work', self.url))
        for worker in self.workers: worker.wait_for('Successfully registered with master')
        return self

    def __enter__(self): return self

    def __exit__(self, *_):
        for process in reversed(self.processes): process.kill()

    def environment(self, **more):
        # Executors have credentials, as a role would give them, and nothing else of AWS.
        credentials = {
            'AWS_ACCESS_KEY_ID': 'testing', 'AWS_SECRET_ACCESS_KEY': 'testing', 'AWS_EC2_METADATA_DISABLED': 'true'}
        return environment_of(
            self.runtime, SPARK_LOCAL_IP='127.0.0.1', PYSPARK_PYTHON=str(self.runtime.bin / 'python'), **credentials,
            **more)

    def start(self, name, kind, *words):
        self.processes.append(Process(
            [self.spark / 'bin/spark-class', f'org.apache.spark.deploy.{kind}', *words], self.folder / name,
            self.environment()))
        return self.processes[-1]

    def submit(self, name, words, **more):
        "The driver of a run, started"
        settings = {
            'spark.executor.memory': '512m', 'spark.driver.memory': '512m', 'spark.ui.enabled': 'false',
            'spark.ui.showConsoleProgress': 'false', 'spark.driver.host': '127.0.0.1',
            'spark.sql.shuffle.partitions': '4'}
        options = [word for k, v in settings.items() for word in ('--conf', f'{k}={v}')]
        script = self.folder / name / SCRIPT.name
        script.parent.mkdir()
        shutil.copy(SCRIPT, script)
        run = Process(
            [
                self.spark / 'bin/spark-submit', '--master', self.url, '--deploy-mode', 'client', *options, script,
                *words],
            script.parent, self.environment(**more))
        self.processes.append(run)
        return run


def finish(run):
    "Wait for a run to succeed"
    assert run.popen.wait(600) == 0, run.log.read_text(errors='replace')[-6000:]
    return run.log.read_text(errors='replace')


@pytest.fixture(scope='module')
def runtime():
    glue = '5.1'
    found, missing = runtimes.present()
    if glue in missing: pytest.skip(f'Glue {glue}: {missing[glue]}')
    try: return runtimes.prepare(runtimes.RUNTIMES[glue])
    except runtimes.Missing as e: pytest.skip(str(e))


@pytest.fixture(scope='module')
def landing(tmp_path_factory): return runtimes.Landing(tmp_path_factory.mktemp('landing'))


@pytest.fixture(scope='module')
def begun(landing, tmp_path_factory):
    "A folder with `lake` and `out` in which the first run has been done, in this process, and the rest has landed"
    folder = tmp_path_factory.mktemp('here')
    runtimes.run_here(landing, folder, 0)
    landing.add(1, folder / 'lake')
    return folder


@pytest.fixture(scope='module')
def local(landing, begun, tmp_path_factory):
    "The digest when the second run is done in this process too"
    folder = shutil.copytree(begun, tmp_path_factory.mktemp('local') / 'copy')
    return digest(runtimes.run_here(landing, folder, 1))


@pytest.fixture(scope='module')
def one_cluster(runtime, tmp_path_factory):
    with Cluster(runtime, tmp_path_factory.mktemp('cluster')) as found: yield found


@pytest.fixture
def cluster(one_cluster): return one_cluster.complete()


def test_same_digest_on_a_cluster(cluster, landing, local, tmp_path):
    for step in (0, 1): landing.add(step, tmp_path / 'lake')
    finish(cluster.submit('run', as_glue(words_of(tmp_path / 'lake', tmp_path / 'out'))))
    assert digest(tmp_path / 'out') == local
    # Both workers had a part in it, from folders of their own.
    assert all(list(w.log.parent.glob('work/app-*/*/stderr')) for w in cluster.workers)


@pytest.mark.parametrize('stage', ['index', 'decide'])
def test_same_digest_when_a_worker_is_killed(cluster, begun, local, tmp_path, stage):
    folder = shutil.copytree(begun, tmp_path / 'copy')
    run = cluster.submit(f'run-{stage}', as_glue(words_of(folder / 'lake', folder / 'out'), 1))
    run.wait_for(f'^stage {stage} .*$')
    assert cluster.workers[0].kill() > 0 and run.popen.poll() is None
    finish(run)
    assert digest(folder / 'out') == local


def test_same_digest_from_s3_with_executors_that_know_no_endpoint(cluster, landing, local, tmp_path):
    with moto_server() as endpoint:
        s3 = client('s3', endpoint)
        s3.create_bucket(Bucket='lake', CreateBucketConfiguration={'LocationConstraint': 'eu-west-1'})
        catalog_table(client('glue', endpoint), 'lake', f's3://lake/{runtimes.TABLE}', [runtimes.DAY, runtimes.TYPED])
        for step in (0, 1): landing.put(step, s3, 'lake')
        words = words_of(None, 's3://lake/consolidated', SOURCE_DATABASE='lake')
        finish(cluster.submit('run-s3', as_glue(words), AWS_ENDPOINT_URL=endpoint, AWS_DEFAULT_REGION='eu-west-1'))
        assert digest(download(s3, 'lake', 'consolidated/', tmp_path / 'out')) == local
