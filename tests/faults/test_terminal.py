"The command as a person sees it: on a pty."
import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyspark import SparkContext
from rich.console import Console

from chargeback_consolidation.commands import terminal

CLI = Path(sys.executable).parent / 'chargeback-consolidation'
WORDS = (
    '--catalog lake --source-database landing --source-table chargebacks --output-path lake/out --output-file-count 3 '
    '--compression-codec zstd --partition-date 2025-11-02').split()


def on_a_terminal(folder, columns, *words):
    "Exit code of a command on a pty, and what it showed"
    master, slave = pty.openpty()
    environment = dict(os.environ, COLUMNS=str(columns), TERM='xterm-256color')
    started = subprocess.Popen([CLI, *words], cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b''
    while True:
        try: part = os.read(master, 4096)
        except OSError: break      # nobody holds the other end any more
        if not part: break
        shown += part
    os.close(master)
    return started.wait(60), shown.decode()


@pytest.mark.timeout(200)
@pytest.mark.parametrize('columns', [80, 120])
def test_four_executions_at_a_terminal(tmp_path, columns):
    sample = '--files 40 --deliveries 4 --truncated-files 0 --empty-files 0'.split()
    sample += '--catalog lake --partition-date 2025-11-02'.split()
    for k in '1234':
        assert on_a_terminal(tmp_path, columns, 'land-sample', *sample, '--delivery', k)[0] == 0
        code, shown = on_a_terminal(tmp_path, columns, 'consolidate', *WORDS, '--execution-sequence', k)
        assert code == 0, shown
        for word in ('Traceback', '_jsc', 'METRICS', '{"'): assert word not in shown, shown
        assert '8/8' in shown and 'tasks' in shown, shown


def test_a_spark_that_is_starting_has_no_tasks(monkeypatch):
    monkeypatch.setattr(SparkContext, '_active_spark_context', SparkContext.__new__(SparkContext))
    assert terminal.tasks_done() == (0, 0)


def test_the_bar_outlives_a_spark_that_cannot_be_asked(monkeypatch):
    asked, console = [], Console(file=io.StringIO(), force_terminal=True, width=80)
    def tasks():
        asked.append(time.monotonic())
        if len(asked) == 1: raise ConnectionRefusedError
        return 3, 7
    monkeypatch.setattr(terminal, 'tasks_done', tasks)
    until = time.monotonic() + 20
    with terminal.shown(console):
        while '3/7' not in console.file.getvalue() and time.monotonic() < until: time.sleep(0.05)
    assert '3/7' in console.file.getvalue() and len(asked) > 1
