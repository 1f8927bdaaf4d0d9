"The command as a person sees it: on a pty."
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

CLI = Path(sys.executable).parent / "chargeback-consolidation"
WORDS = ("--catalog lake --source-database landing --source-table chargebacks --output-path lake/out --output-file-count 3 "
         "--compression-codec zstd --partition-date 2025-11-02").split()


def on_a_terminal(folder, columns, *words):
    "Exit code of a command on a pty, and what it showed"
    master, slave = pty.openpty()
    environment = dict(os.environ, COLUMNS=str(columns), TERM="xterm-256color")
    started = subprocess.Popen([CLI, *words], cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try: part = os.read(master, 4096)
        except OSError: break      # nobody holds the other end any more
        if not part: break
        shown += part
    os.close(master)
    return started.wait(60), shown.decode()


@pytest.mark.timeout(200)
@pytest.mark.parametrize("columns", [80, 120])
def test_four_executions_at_a_terminal(tmp_path, columns):
    sample = "--files 40 --deliveries 4 --truncated-files 0 --empty-files 0 --catalog lake --partition-date 2025-11-02".split()
    for k in "1234":
        assert on_a_terminal(tmp_path, columns, "land-sample", *sample, "--delivery", k)[0] == 0
        code, shown = on_a_terminal(tmp_path, columns, "consolidate", *WORDS, "--execution-sequence", k)
        assert code == 0, shown
        for word in ("Traceback", "_jsc", "METRICS", '{"'): assert word not in shown, shown
        assert "8/8" in shown and "tasks" in shown, shown
