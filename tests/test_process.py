"The job as a process: how it ends, what it says then, and what it leaves behind."
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chargeback_consolidation.sample.landing import land_sample

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


def told(out):
    "The one report on stdout"
    reports = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert len(reports) == 1 and sum(line.startswith("METRICS: ") for line in out.splitlines()) == 1, out
    return reports[0]


def spoil(place, share):
    "Cut a share of the landing files"
    files = sorted((place.root / "lake").rglob("*.parquet"))
    for path in files[:round(share * len(files))]: path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.timeout(200)
@pytest.mark.parametrize("what, code, status, words", [
    (["--DRY_RUN", "true"], 0, "dry run", ""), (["--PARTITION_DATE", "2024-02-29"], 3, "no data", "nothing has landed for 2024-02-29"),
    (["--MAX_UNREADABLE_RATE", "0.01"], 4, "failed", "3 of 12 files cannot be read"), (["--DRY_RUN", "true", "--MAX_UNREADABLE_RATE", "0.01"], 4, "failed", "and 2 more")], ids=str)
def test_each_end_has_its_code_its_line_and_its_report(place, what, code, status, words):
    if code == 4: spoil(place, 0.25)
    given = [w for pair in zip(what[::2], what[1::2], strict=True) for w in pair]
    command = [w for i, w in enumerate(WORDS) if WORDS[i - i % 2] not in what]
    started = subprocess.run([sys.executable, str(SCRIPT), *command, *given], cwd=place.root, env=dict(os.environ, TMPDIR=str(place.temporary)), capture_output=True, text=True)
    assert started.returncode == code and started.stderr.count("\n") == bool(words) and words in started.stderr
    report = told(started.stdout)
    assert report["status"] == status and report["output_files"] == 0 and "output_files=0" in started.stdout
    assert not NOISE.search(started.stderr.replace("ArrowInvalid", "").replace("OSError", "")) and place.settled() == []
    assert code != 4 or [a[0] for a in report["set_aside"]] and report["findings"] and report["stages"]


@pytest.mark.timeout(200)
def test_a_bad_argument_starts_nothing(place):
    started = time.monotonic()
    assert place.run("--NO_SUCH", "1") == (2, "", "--NO_SUCH is not an argument; --help lists the arguments\n")
    assert time.monotonic() - started < 20 and not (place.root / "out").exists() and place.left() == []


@pytest.fixture
def small_disk(tmp_path):
    "A function that mounts a disk of so many bytes; skipped where nobody may mount"
    disk = tmp_path / "disk"
    disk.mkdir()
    def mount(size, *options):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs", str(disk)], capture_output=True, text=True)
        if done.returncode: pytest.skip(f"mounting a small disk is not possible here: {done.stderr.strip()}")
        return disk
    yield mount
    subprocess.run(["umount", str(disk)], capture_output=True)


@pytest.mark.timeout(200)
def test_a_full_disk_is_named_and_blames_no_file(tmp_path, small_disk):
    (tmp_path / "place").mkdir()
    place, disk = Place(tmp_path / "place"), small_disk("64k")
    code, out, err = place.run("--REPROCESS", "false", environment={}, command=(sys.executable, str(SCRIPT)))
    assert code == 0
    words = [w if w != "out" else str(disk / "out") for w in WORDS]
    (disk / "ballast").write_bytes(b"x" * (44 << 10))
    started = subprocess.run([sys.executable, str(SCRIPT), *words], cwd=place.root, env=dict(os.environ, TMPDIR=str(place.temporary)), capture_output=True, text=True)
    assert started.returncode == 1 and started.stderr.count("\n") == 1 and "ENOSPC: the disk is full" in started.stderr
    report = told(started.stdout)
    assert report["status"] == "failed" and report["set_aside"] == [] and not list(disk.rglob("*.parquet"))
    (disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    again = subprocess.run([sys.executable, str(SCRIPT), *words], cwd=place.root, env=dict(os.environ, TMPDIR=str(place.temporary)), capture_output=True, text=True)
    assert again.returncode == 0 and told(again.stdout)["rows_after"] == place.rows()


@pytest.mark.timeout(200)
def test_a_read_only_output_is_a_bad_argument(tmp_path, small_disk):
    (tmp_path / "place").mkdir()
    place, disk = Place(tmp_path / "place"), small_disk("1m", "ro")
    words = [w if w != "out" else str(disk / "out") for w in WORDS]
    started = subprocess.run([sys.executable, str(SCRIPT), *words], cwd=place.root, env=dict(os.environ, TMPDIR=str(place.temporary)), capture_output=True, text=True)
    assert started.returncode == 2 and started.stderr.count("\n") == 1 and str(disk) in started.stderr and place.settled() == []


@pytest.mark.timeout(200)
def test_a_read_only_environment_is_named(tmp_path, small_disk):
    "Neither HOME nor the temporary folder can be written to: a line that says so, or a run that needs neither"
    (tmp_path / "place").mkdir()
    place, disk = Place(tmp_path / "place"), small_disk("1m", "ro")
    environment = dict(os.environ, TMPDIR=str(disk), HOME=str(disk))
    started = subprocess.run([sys.executable, str(SCRIPT), *WORDS], cwd=place.root, env=environment, capture_output=True, text=True)
    assert started.returncode in (0, 1) and started.stderr.count("\n") == (started.returncode == 1) and "Traceback" not in started.stderr, started.stderr


@pytest.mark.timeout(200)
def test_a_run_that_sleeps_after_its_commit_leaves_the_others_work_alone(place):
    "It is stopped once its commit is reported, another run commits on top of it, and it goes on"
    first = place.start()
    for line in first.stdout:
        if line.startswith("stage commit"):
            first.send_signal(signal.SIGSTOP)
            break
    landing = sorted((place.root / "lake").rglob("*.parquet"))
    landing[0].with_name("late.parquet").write_bytes(landing[1].read_bytes())
    assert place.run()[0] == 0
    first.send_signal(signal.SIGCONT)
    out, err = first.communicate(timeout=60)
    assert (first.returncode, err) == (0, "")
    landing[0].with_name("later.parquet").write_bytes(landing[2].read_bytes())
    code, out, err = place.run()
    assert (code, err) == (0, "") and told(out)["commit"] == 3 and place.settled() == []
