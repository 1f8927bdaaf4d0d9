"What the tests share: one Spark session a process, and a lake of their own."
import pytest
from days import Lake

from chargeback_consolidation.spark import get_spark


@pytest.fixture(scope="session")
def spark():
    "One core and two shuffle partitions: enough to show what depends on them, and quick"
    session = get_spark(cores=1)
    session.conf.set("spark.sql.shuffle.partitions", "2")
    session.conf.set("spark.sql.adaptive.enabled", "false")
    return session


@pytest.fixture
def lake(tmp_path, spark):
    "A lake with an empty landing table"
    return Lake(tmp_path)
