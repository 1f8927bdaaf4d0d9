"The job as a process: how it ends, what it says then, and what it leaves behind."
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chargeback_consolidation.sample import land_sample

SCRIPT = Path(__file__).parent.parent / "glue_export/consolidate_chargebacks.py"
WORDS = ("--CATALOG lake --SOURCE_DATABASE landing --SOURCE_TABLE chargebacks --OUTPUT_PATH out --OUTPUT_FILE_COUNT 3 "
         "--COMPRESSION_CODEC zstd --PARTITION_DATE 2025-11-02 --MAX_UNREADABLE_RATE 0.2 --MAX_NULL_KEY_RATE 0.2").split()
CLEAN = dict(truncated_files=0.0, empty_files=0.0, versions=0.1)
NOISE = re.compile(r"Traceback|Exception|Py4J|\bat org\.|terminate called|Error")


class Place:
    "A folder with a day that has landed, and a temporary folder of its own"

    def __init__(self, root, files=12, temporary="tmp"):
        self.root, self.temporary = Path(root), Path(root, temporary)
        self.temporary.mkdir()
        land_sample(str(root / "lake"), files=files, records_per_file=20, payload_bytes=40, **CLEAN)

    def start(self, *more, environment=None, command=(sys.executable, str(SCRIPT)), **options):
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        given = dict(os.environ, TMPDIR=str(self.temporary), **(environment or {}))
        return subprocess.Popen([*command, *WORDS, *more], cwd=self.root, env=given, start_new_session=True, **{**pipes, **options})

    def run(self, *more, **options):
        "Exit code, stdout and stderr of a run"
        started = self.start(*more, **options)
        out, err = started.communicate(timeout=120)
        return started.returncode, out, err

    def rows(self):
        import pyarrow.parquet as pq
        return sum(pq.ParquetFile(p).metadata.num_rows for p in self.root.glob("out/year=*/*/*/*.parquet"))

    def left(self):
        "What of a run still runs or lies about: staged files, temporary folders, processes"
        staged = [str(p) for p in self.root.rglob("out/**/.*") if p.is_file()]
        return staged + [p.name for p in self.temporary.iterdir()] + self.processes()

    def processes(self):
        "The processes that have our temporary folder in their environment"
        found, word = [], f"TMPDIR={self.temporary}".encode()
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit(): continue
            try:
                if word in (folder / "environ").read_bytes().split(b"\0"): found.append((folder / "cmdline").read_bytes()[:60])
            except OSError: continue
        return found

    def settled(self, seconds=5):
        "What is left after so many seconds"
        until = time.monotonic() + seconds
        while self.left() and time.monotonic() < until: time.sleep(0.1)
        return self.left()


@pytest.fixture
def place(tmp_path): return Place(tmp_path)


def stop_at(started, stage, number, wait=0.0):
    "Send the signal to the run and all of its session when a stage has ended; what it printed"
    lines = []
    for line in started.stdout:
        lines.append(line)
        if line.startswith(f"stage {stage}"): break
    time.sleep(wait)
    os.killpg(started.pid, number) if number == signal.SIGINT else started.send_signal(number)
    out, err = started.communicate(timeout=60)
    return "".join(lines) + out, err


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("stage, wait", [("look", 0), ("look", 0.4), ("look", 1.5), ("index", 0), ("decide", 0.05), ("commit", 0)])
def test_a_stopped_run_says_so_in_one_line_and_leaves_nothing(place, stage, wait, number, code):
    started = place.start()
    out, err = stop_at(started, stage, number, wait)
    assert started.returncode == code, (out, err)
    assert len(err.splitlines()) == 1 and not NOISE.search(err + out), err
    assert ("the commit stands" if "stage commit" in out else "nothing is lost") in err
    committed = "stage commit" in out       # then what is staged is the day's, and the next run shows it
    assert place.settled() == [] or committed and not place.processes() and not list(place.temporary.iterdir())
    assert place.run()[0] == 0 and place.settled() == []
    undisturbed = place.rows()
    assert undisturbed and place.run("--REPROCESS", "true")[0] == 0 and place.rows() == undisturbed


@pytest.mark.timeout(300)
def test_an_undisturbed_run_leaves_nothing_and_a_run_with_nothing_new_ends_well(place):
    code, out, err = place.run()
    assert (code, err) == (0, "") and "METRICS: " in out
    assert place.settled() == []
    for _ in range(25):
        code, out, err = place.run()
        assert (code, err) == (0, "") and "nothing new" in out
    assert place.settled(0) == []


@pytest.mark.timeout(200)
def test_a_reader_that_goes_away_does_not_end_the_run(place):
    started = place.start()
    started.stdout.readline()
    started.stdout.close()
    err = started.stderr.read()
    assert (started.wait(60), err) == (0, "")
    assert place.rows() and place.settled() == []


@pytest.mark.timeout(200)
@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_an_ascii_stdout_changes_nothing(tmp_path, environment):
    place = Place(tmp_path)
    odd, name = next((tmp_path / "lake").rglob("*.parquet")), "ügly"
    odd.with_name(name + ".parquet").write_bytes(b"PAR1 no")
    code, out, err = place.run(environment=environment)
    assert (code, err) == (0, "") and "gly.parquet" in out and place.rows()


@pytest.mark.timeout(200)
def test_a_temporary_folder_with_a_blank(tmp_path):
    place = Place(tmp_path, temporary="tmp of \"ours\" here")
    assert place.run()[::2] == (0, "") and place.rows()
    assert place.settled() == []


@pytest.mark.timeout(200)
def test_a_planted_link_in_the_temporary_folder_is_not_followed(place):
    victim = place.root / "victim"
    victim.mkdir()
    (place.temporary / f"chargeback-log4j-{os.getuid()}").symlink_to(victim)
    assert place.run()[::2] == (0, "")
    assert not list(victim.iterdir())
