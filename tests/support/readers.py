"""Engines that read a Delta table, in an environment of their own under .runtimes/: `python tests/support/readers.py`
makes it."""
import json
import subprocess
import sys
from pathlib import Path

import read_delta

ROOT = Path(__file__).parents[2]
HOME = ROOT / '.runtimes/readers'
PINS = Path(__file__).with_name('requirements-readers.txt')
NAMES = list(read_delta.ENGINES)


class Missing(Exception):
    "The environment is not there; the message says how to make it."


def prepare():
    "Make the environment"
    if not (HOME / 'bin/python').exists(): subprocess.run([sys.executable, '-m', 'venv', str(HOME)], check=True)
    pip = [str(HOME / 'bin/pip'), 'install', '--quiet', '--disable-pip-version-check', '--requirement', str(PINS)]
    subprocess.run(pip, check=True)


def read(engine, root, versions=()):
    "The rows of a table at these versions, or at its last, as texts in order"
    if engine in read_delta.OURS:
        return [read_delta.rows(read_delta.ENGINES[engine](str(root), v)) for v in versions or [None]]
    python = HOME / 'bin/python'
    if not python.exists(): raise Missing(f'{engine}: `python tests/support/readers.py` makes its environment')
    words = [str(python), read_delta.__file__, engine, str(root), *map(str, versions)]
    run = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


if __name__ == '__main__': prepare()
