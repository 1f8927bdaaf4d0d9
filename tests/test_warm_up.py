"The archive of classes that makes Spark start faster."
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chargeback_consolidation.landing import class_archive, find_java

START = "from chargeback_consolidation.landing import get_spark; print(get_spark().range(3).count())"


@pytest.mark.timeout(300)
def test_a_session_takes_its_classes_from_the_archive(tmp_path):
    find_java()
    if not os.path.exists(class_archive()): pytest.skip("no class archive in this environment: chargeback-consolidation warm-up")
    log = tmp_path / "classes"
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, env=dict(os.environ, JDK_JAVA_OPTIONS=f"-Xlog:class+load:file={log}"))
    assert done.stdout.strip() == "3"
    spark = [line for line in log.read_text().splitlines() if " org.apache.spark." in line]
    shared = [line for line in spark if re.search(r"shared objects file \(top\)", line)]
    assert len(shared) > len(spark) / 2 > 1000     # the rest are lambdas, which are made as one goes


def test_an_environment_that_cannot_be_written_to_is_refused_in_one_line(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from chargeback_consolidation import cli
    monkeypatch.setattr(cli, "class_archive", lambda: str(tmp_path / "none" / "archive.jsa"))
    done = CliRunner().invoke(cli.commands, ["warm-up"], standalone_mode=False)
    assert isinstance(done.exception, PermissionError) and str(tmp_path) in str(done.exception)
    assert not list(Path(tmp_path).iterdir())
