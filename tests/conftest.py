"What the tests share: one Spark session a process, a lake of their own, and a day in S3."
from itertools import count

import pytest
from aws import SERVER, s3_server
from botocore.retries.standard import ExponentialBackoff
from days import Lake
from inline import inline
from world import LocalWorld, S3World, prepared

from chargeback_consolidation.commands import cli
from chargeback_consolidation.spark import get_spark


@pytest.fixture(scope='session')
def spark():
    "One core and two shuffle partitions: enough to show what depends on them, and quick"
    session = get_spark(cores=1)
    session.conf.set('spark.sql.shuffle.partitions', '2')
    session.conf.set('spark.sql.adaptive.enabled', 'false')
    return session


@pytest.fixture
def lake(tmp_path, spark):
    "A lake with an empty landing table"
    return Lake(tmp_path)


@pytest.fixture(scope='session')
def session():
    "What most runs of a world take for Spark; those in which tasks, or their faults, must travel take `spark`"
    return inline


@pytest.fixture
def hasty(monkeypatch):
    "S3 is asked again at once by this process"
    monkeypatch.setattr(ExponentialBackoff, 'delay_amount', lambda self, context: 0.01)


@pytest.fixture
def typed(capsys):
    "A function that takes the words of a command and carries it out in this process: (exit code, stdout, stderr)"
    def carry_out(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end: cli.main([str(word) for word in words])
        return end.value.code, *capsys.readouterr()
    return carry_out


@pytest.fixture(scope='module')
def endpoint():
    "The address of an S3 server of the module's own"
    with s3_server(SERVER) as address: yield address


@pytest.fixture(scope='module')
def cloud_day(session, endpoint, tmp_path_factory):
    """(the S3 world with half a day, its rows, the rows of the day as an undisturbed run on a disk has them, a
    function that makes a copy)"""
    local, _ = prepared(LocalWorld(tmp_path_factory.mktemp('world') / 'lake'), session)
    local.run(session)
    cloud, before = prepared(S3World(endpoint, 'base', folder=tmp_path_factory.mktemp('cloud')).create(), session)
    numbers = count()
    return cloud, before, local.listed(), lambda: cloud.copy(f'copy-{next(numbers)}')
