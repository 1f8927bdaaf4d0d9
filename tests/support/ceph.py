"""A real S3 server on this machine: Ceph's RADOS gateway, as Debian packages it.

`python tests/support/ceph.py start FOLDER` starts one and prints what to export, `python tests/support/ceph.py stop
FOLDER` ends it. In tests: `with ceph() as address:`.

It is one monitor, one manager and one object store in memory, all on loopback and on free ports. It checks
signatures, honours If-None-Match and answers some requests otherwise than moto does, so it is a second opinion on
what the job may take for granted.
"""
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

PACKAGES = 'ceph-mon ceph-mgr ceph-osd radosgw ceph-common'
PROGRAMS = ('ceph-mon', 'ceph-mgr', 'ceph-osd', 'radosgw', 'radosgw-admin', 'ceph', 'ceph-authtool', 'monmaptool')
ACCESS_KEY = SECRET_KEY = 'testing'
SECONDS_TO_START = 120

ALL = {'mon': 'allow *', 'osd': 'allow *', 'mgr': 'allow *'}
KEYS = {
    'client.admin': ALL,
    'mgr.x': {'mon': 'allow profile mgr', 'osd': 'allow *'},
    'osd.0': {'mon': 'allow profile osd', 'mgr': 'allow profile osd', 'osd': 'allow *'},
    'client.rgw.a': {'mon': 'allow rw', 'osd': 'allow rwx', 'mgr': 'allow rw'}}

CONFIGURATION = """
[global]
fsid = {fsid}
mon host = {monitor}
public network = 127.0.0.0/8
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
keyring = {folder}/keyring
log file = {folder}/log/$name.log
admin socket = {folder}/run/$name.asok
pid file = {folder}/run/$name.pid
run dir = {folder}/run
[mon.a]
mon data = {folder}/mon
mon initial members = a
[mgr.x]
mgr data = {folder}/mgr
[osd.0]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = {memory}
osd memory target = 1073741824
[client.rgw.a]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw dns name = localhost
rgw thread pool size = 64
"""


class Absent(Exception):
    "Ceph cannot run here; the message says what is missing."


def check_installed():
    "`Absent` if a program is missing, or the right to start it"
    lacking = [name for name in PROGRAMS if not shutil.which(name)]
    if lacking:
        raise Absent(
            f'radosgw is not installed ({lacking[0]} is missing): apt-get install --no-install-recommends {PACKAGES}')
    if os.geteuid(): raise Absent('radosgw needs root')


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets: s.bind(('127.0.0.1', 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets: s.close()
    return ports


def run(*words):
    "Run a program and return what it prints; what a failing one says is in the error"
    done = subprocess.run([str(w) for w in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode: raise RuntimeError(f'{" ".join(map(str, words))}: {done.stderr[-2000:]}')
    return done.stdout


def answers(port):
    try: socket.create_connection(('127.0.0.1', port), 1).close()
    except OSError: return False
    return True


def make_keys(folder, monitor, fsid):
    "The keyring and the map of monitors"
    keyring = folder / 'keyring'
    run('ceph-authtool', '--create-keyring', keyring, '--gen-key', '-n', 'mon.', '--cap', 'mon', 'allow *')
    for name, rights in KEYS.items():
        caps = [word for service, right in rights.items() for word in ('--cap', service, right)]
        run('ceph-authtool', keyring, '--gen-key', '-n', name, *caps)
    run('monmaptool', '--create', '--addv', 'a', monitor, '--fsid', fsid, folder / 'monmap', '--clobber')


def start_daemons(folder):
    "Monitor, object store, manager and gateway, in this order; each goes to the background by itself"
    configured = '-c', folder / 'ceph.conf'
    run('ceph-mon', *configured, '--mkfs', '-i', 'a', '--monmap', folder / 'monmap', '--keyring', folder / 'keyring')
    run('ceph-mon', *configured, '-i', 'a')
    disk = str(uuid.uuid4())
    run('ceph', *configured, 'osd', 'new', disk)
    run('ceph-osd', *configured, '-i', '0', '--mkfs', '--osd-uuid', disk, '--keyring', folder / 'keyring')
    run('ceph-mgr', *configured, '-i', 'x')
    run('ceph-osd', *configured, '-i', '0')


def set_region(folder, region):
    "Let the gateway call its region as the tests do"
    admin, described = ('radosgw-admin', '-c', folder / 'ceph.conf', 'zonegroup'), folder / 'zonegroup.json'
    found = run(*admin, 'get')
    described.write_text(found.replace('"api_name": "default"', f'"api_name": "{region}"'))
    run(*admin, 'set', '--infile', described)


def start(folder, region='eu-west-1', memory=6 << 30):
    "Start Ceph in a folder that is to be empty; the address of its S3"
    check_installed()
    folder = Path(folder).resolve()
    for name in ('mon', 'mgr', 'osd', 'rgw', 'run', 'log'): (folder / name).mkdir(parents=True, exist_ok=True)
    new, old, port = free_ports(3)
    fsid, monitor = str(uuid.uuid4()), f'[v2:127.0.0.1:{new},v1:127.0.0.1:{old}]'
    words = dict(fsid=fsid, monitor=monitor, folder=folder, memory=memory, port=port)
    (folder / 'ceph.conf').write_text(CONFIGURATION.format(**words))
    make_keys(folder, monitor, fsid)
    start_daemons(folder)
    user = '--uid', 'tests', '--display-name', 'tests', '--access-key', ACCESS_KEY, '--secret-key', SECRET_KEY
    run('radosgw-admin', '-c', folder / 'ceph.conf', 'user', 'create', *user)
    set_region(folder, region)
    run('radosgw', '-c', folder / 'ceph.conf', '-n', 'client.rgw.a')
    until = time.monotonic() + SECONDS_TO_START
    while not answers(port):
        if time.monotonic() > until: raise RuntimeError(f'radosgw does not answer: see {folder}/log')
        time.sleep(0.1)
    return f'http://127.0.0.1:{port}'


def stop(folder):
    "End what `start` started in this folder"
    waiting = []
    for path in Path(folder).resolve().glob('run/*.pid'):
        number = int(path.read_text())
        try: os.kill(number, signal.SIGKILL)
        except ProcessLookupError: continue
        waiting.append(number)
    until = time.monotonic() + 10
    while any(Path(f'/proc/{number}').exists() for number in waiting) and time.monotonic() < until: time.sleep(0.05)


@contextmanager
def ceph():
    "The address of a gateway of one's own; `Absent` where it cannot run"
    folder = tempfile.mkdtemp(prefix='ceph-')
    try: yield start(folder)
    finally:
        stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


def main(what, folder):
    if what == 'stop': return stop(folder)
    print(
        f'export AWS_ENDPOINT_URL_S3={start(folder)} AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY}')


if __name__ == '__main__':
    if len(sys.argv) != 3 or sys.argv[1] not in ('start', 'stop'): sys.exit(__doc__)
    try: main(*sys.argv[1:])
    except Absent as e: sys.exit(str(e))
