"The bench measures things that run: each way of it, on a day so small that nothing is measured."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from chargeback_consolidation.sample.lake import run_words, sample_lake

pytestmark = pytest.mark.xdist_group('bench')     # they share a folder
BENCH = Path(__file__).resolve().parents[2] / 'bench'


def test_the_script_without_its_guarantees_runs(tmp_path):
    words = run_words(sample_lake(), output_path=tmp_path / 'out', max_null_key_rate=1, max_unreadable_rate=1)
    done = subprocess.run([sys.executable, BENCH / 'bare.py', *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report['output_files'] == len(list((tmp_path / 'out').rglob('*.parquet'))) > 0


def test_the_floor_is_measured():
    "Each step of pyarrow alone, both passes of the job, rows that are there already, and a start"
    done = subprocess.run([sys.executable, BENCH / 'floor.py', '--files', '20', '--rounds', '1'], capture_output=True,
                          text=True)
    steps = ['read', 'open', 'columns that decide', 'all columns', 'join', 'write', 'the index of the job',
             'the copy of the job', 'index', 'scatter and sift', 'hashes', 'start']
    assert done.returncode == 0 and [line[:22].strip() for line in done.stdout.splitlines()] == steps, done.stderr


def test_a_large_day_is_planned():
    done = subprocess.run([sys.executable, BENCH / 'scale.py', '--files', '200', '--output-files', '3'],
                          capture_output=True, text=True)
    steps = ['start', 'listing', 'notes', 'decide', 'shares', 'commit']
    assert done.returncode == 0 and [line.split()[0] for line in done.stdout.splitlines()][:6] == steps, done.stderr


@pytest.mark.parametrize('all_hear', [True, False])
def test_who_stops_a_measurement_is_told_so_and_nothing_runs_on(all_hear):
    "While the job runs: by Ctrl-C, which all processes of the terminal hear, or by a signal to the bench alone"
    words = [sys.executable, BENCH / 'bench.py', '--files', '20', '--rounds', '99', '--ways', 'ours']
    bench = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert bench.stdout.readline().startswith('round 1 ours')
    until = time.monotonic() + 20
    while len(tree := psutil.Process(bench.pid).children(recursive=True)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    (os.killpg if all_hear else os.kill)(bench.pid, signal.SIGINT)
    said = bench.communicate(timeout=20)
    assert (bench.returncode, said[1]) == (130, 'stopped: nothing is kept\n')
    assert len(tree) > 1 and psutil.wait_procs(tree, 10)[1] == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_way_runs():
    ways = 'ours,bare,duckdb-stream,duckdb,polars,late,tuned,textbook,ruled,totals,logged'
    done = subprocess.run(
        [sys.executable, BENCH / 'bench.py', '--files', '20', '--rounds', '1', '--ways', ways], capture_output=True,
        text=True)
    assert done.returncode == 0 and done.stdout.count('round 1 ') == len(ways.split(',')), done.stdout + done.stderr
