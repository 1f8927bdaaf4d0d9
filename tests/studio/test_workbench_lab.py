"`make studio`, as somebody at a terminal opens and ends it."
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.xdist_group('studio'), pytest.mark.timeout(300)]


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Lab:
    "JupyterLab with the Studio notebooks of a copy of the project, on a terminal of its own"

    def __init__(self, folder):
        self.port, self.shown = free_port(), ''
        shutil.copytree(ROOT / 'glue_export/studio', folder / 'glue_export/studio')
        for name in (
            'nbs', 'chargeback_consolidation', 'settings.ini', 'pyproject.toml', 'Makefile', 'requirements-dev.txt',
            'requirements-local.txt', 'README.md', 'LICENSE'):
            (folder / name).symlink_to(ROOT / name)
        (folder / '.venv').symlink_to(Path(sys.executable).parents[1])
        self.master, slave = pty.openpty()
        words = ['make', '--assume-old=.venv/.ready', 'studio', f'PORT={self.port}']
        environment = dict(os.environ, JUPYTER_TOKEN='secret', BROWSER='true', TMPDIR=str(folder / 'tmp'))
        (folder / 'tmp').mkdir()
        self.temporary = folder / 'tmp'
        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        self.started = subprocess.Popen(
            words, cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave, preexec_fn=own_terminal)
        os.close(slave)

    def read(self, seconds=0.2):
        while select.select([self.master], [], [], seconds)[0]:
            try: part = os.read(self.master, 4096)
            except OSError: return
            if not part: return
            self.shown += part.decode(errors='replace')

    def ask(self, path, data=None):
        request = urllib.request.Request(
            f'http://127.0.0.1:{self.port}/api/{path}', data,
            {'Authorization': 'token secret', 'Content-Type': 'application/json'})
        with urllib.request.urlopen(request, timeout=30) as answer: return json.loads(answer.read())

    def wait_until_up(self):
        until = time.monotonic() + 120
        while time.monotonic() < until and self.started.poll() is None:
            self.read()
            try: return self.ask('status')
            except OSError: pass
        raise AssertionError(self.shown)

    def ended(self):
        "The exit code, once it has ended"
        until = time.monotonic() + 30
        while self.started.poll() is None and time.monotonic() < until: self.read()
        self.read()
        return self.started.poll()


@pytest.mark.parametrize('how', ['Ctrl-C', pytest.param('SIGTERM', marks=pytest.mark.slow)])
def test_studio_opens_at_its_port_and_is_ended_cleanly(tmp_path, how):
    lab = Lab(tmp_path)
    try:
        lab.wait_until_up()
        assert lab.ask('kernels', json.dumps({'name': 'glue_pyspark'}).encode())['name'] == 'glue_pyspark'
        time.sleep(2)
        below = psutil.Process(lab.started.pid).children(recursive=True)
        assert any('jupyterlab' in ' '.join(p.cmdline()) for p in below) and any(
            'kernel' in ' '.join(p.cmdline()) for p in below), below
        if how == 'Ctrl-C': os.write(lab.master, b'\x03')
        else: next(p for p in below if 'workbench' in ' '.join(p.cmdline())).send_signal(signal.SIGTERM)
        code = lab.ended()
    finally:
        for p in psutil.Process().children(recursive=True):
            if lab.started.poll() is None and p.pid == lab.started.pid: p.kill()
        os.close(lab.master)
    assert code is not None, lab.shown
    assert 'Traceback' not in lab.shown and 'ending JupyterLab and what runs in it' in lab.shown, lab.shown
    assert re.search(r'y/\[n\]', lab.shown) is None, 'it does not ask'
    _, alive = psutil.wait_procs(below, timeout=5)
    assert alive == [] and [p.name for p in lab.temporary.iterdir()] == []
    with pytest.raises(OSError): lab.ask('status')
