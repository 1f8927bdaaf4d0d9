"What makes Spark start faster: an archive of its classes, and a home without zips."
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chargeback_consolidation.spark import find_java, warm_home

START = 'from chargeback_consolidation.spark import get_spark; print(get_spark().range(3).count())'


@pytest.mark.timeout(300)
def test_a_session_takes_its_classes_from_the_archive(tmp_path):
    find_java()
    if not os.path.exists(os.path.join(warm_home(), 'classes.jsa')):
        pytest.skip('no class archive in this environment: chargeback-consolidation warm-up')
    log = tmp_path / 'classes'
    done = subprocess.run(
        [sys.executable, '-c', START], capture_output=True, text=True,
        env=dict(os.environ, JDK_JAVA_OPTIONS=f'-Xlog:class+load:file={log}'))
    assert done.stdout.strip() == '3'
    spark = [line for line in log.read_text().splitlines() if ' org.apache.spark.' in line]
    shared = [line for line in spark if re.search(r'shared objects file \(top\)', line)]
    assert len(shared) > len(spark) / 2 > 1000     # the rest are lambdas, which are made as one goes


WORKER = """
import os
from chargeback_consolidation.spark import get_spark
def seen(part):
    import pyspark
    yield pyspark.__file__
before = dict(os.environ)
print(get_spark().sparkContext.parallelize([0], 1).mapPartitions(seen).collect())
assert "SPARK_HOME" not in os.environ or before.get("SPARK_HOME"), os.environ["SPARK_HOME"]
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize('own', [False, True])
def test_workers_take_the_spark_that_is_installed_unless_there_is_another_home(own):
    import pyspark
    find_java()
    if not os.path.isdir(warm_home()): pytest.skip('no warm home in this environment: chargeback-consolidation warm-up')
    environment = {name: value for name, value in os.environ.items() if name != 'SPARK_HOME'}
    if own: environment['SPARK_HOME'] = os.path.dirname(pyspark.__file__)
    done = subprocess.run([sys.executable, '-c', WORKER], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert ('pyspark.zip' in done.stdout) == own, done.stdout


def test_an_environment_that_cannot_be_written_to_is_refused_in_one_line(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from chargeback_consolidation.commands import cli, warm_up
    monkeypatch.setattr(warm_up, 'warm_home', lambda: str(tmp_path / 'none' / 'home'))
    done = CliRunner().invoke(cli.commands, ['warm-up'], standalone_mode=False)
    assert isinstance(done.exception, PermissionError) and str(tmp_path) in str(done.exception)
    assert not list(Path(tmp_path).iterdir())
