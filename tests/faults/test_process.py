"The job as a process: how it ends, what it says then, and what it leaves behind."
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from days import encode, tree
from inline import inline

from chargeback_consolidation import entry, job, spark
from chargeback_consolidation.sample.lake import run_words
from chargeback_consolidation.sample.landing import land_sample

SCRIPT = Path(__file__).parents[2] / 'glue_export/consolidate_chargebacks.py'
KILLED = Path(__file__).parents[1] / 'support/killed.py'
CLI = Path(sys.executable).parent / 'chargeback-consolidation'
JOB, COMMAND = (sys.executable, str(SCRIPT)), (str(CLI), 'consolidate')
WORDS = run_words('lake', output_path='out', max_unreadable_rate=0.2, max_null_key_rate=0.2)
CLEAN = dict(truncated_files=0.0, empty_files=0.0, versions=0.1)
NOISE = re.compile(r'Traceback|Exception|Py4J|\bat org\.|terminate called|Error')


def test_spark_gets_no_answer_of_its_own_to_signals():
    "Its own, which it gives itself in its start, asks over the connection that waits: then a Ctrl-C was exit code 1"
    heard = []
    def session():
        signal.signal(signal.SIGINT, lambda *about: heard.append('a stranger'))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
    with pytest.raises(spark.Stopped), spark.stoppable(session) as (started, came): started()
    assert came == [signal.SIGINT] and not heard


HANGING = """
import sys, time
from chargeback_consolidation import spark
from chargeback_consolidation.store import publish_each
class Hanging:
    threads = 8
    def publish(self, path, token): time.sleep(60 * path)
try:
    with spark.stoppable(None):
        print('begun', flush=True)
        list(publish_each(Hanging(), [(i, '') for i in range(30)]))
except spark.Stopped as e: sys.exit(128 + e.args[0])
"""


def test_requests_that_hang_do_not_keep_a_process_that_is_stopped():
    "Several files are published at once over S3; the threads that wait for answers are left behind"
    with subprocess.Popen([sys.executable, '-c', HANGING], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout.readline() == 'begun\n'
        time.sleep(0.3)
        started.terminate()
        assert started.wait(5) == 143


class Place:
    "A folder with a day that has landed, and a temporary folder of its own"

    def __init__(self, root, files=12, temporary='tmp', **delivered):
        self.root, self.temporary = Path(root), Path(root, temporary)
        self.temporary.mkdir()
        self.land(files=files, **delivered)

    def land(self, files=12, **delivered):
        land_sample(str(self.root / 'lake'), files=files, records_per_file=20, payload_bytes=40, **CLEAN, **delivered)

    def inside(self, *more, output=None):
        "The exit code of a run that is none of those looked at: in this process, without Spark"
        at = {'lake': self.root / 'lake', 'out': output or self.root / 'out'}
        return entry.main([*(str(at.get(word, word)) for word in WORDS), *more], session=inline)

    def start(self, *more, environment=None, command=JOB, **options):
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        given = dict(os.environ, TMPDIR=str(self.temporary), **(environment or {}))
        return subprocess.Popen(
            [*command, *WORDS, *more], cwd=self.root, env=given, start_new_session=True, **{**pipes, **options})

    def run(self, *more, **options):
        "Exit code, stdout and stderr of a run"
        started = self.start(*more, **options)
        out, err = started.communicate(timeout=120)
        return started.returncode, out, err

    def rows(self):
        return sum(pq.ParquetFile(p).metadata.num_rows for p in self.root.glob('out/year=*/*/*/*.parquet'))

    def left(self):
        "What of a run still runs or lies about: staged files, temporary folders, processes"
        staged = [str(p) for p in self.root.rglob('*out/**/.*') if p.is_file()]
        return staged + [p.name for p in self.temporary.iterdir()] + self.processes()

    def running(self):
        "{number: command} of the processes that have our temporary folder in their environment"
        found, word = {}, f'TMPDIR={self.temporary}'.encode()
        for folder in Path('/proc').iterdir():
            if not folder.name.isdigit(): continue
            try:
                if word in (folder / 'environ').read_bytes().split(b'\0'):
                    found[int(folder.name)] = (folder / 'cmdline').read_bytes()
            except OSError: continue
        return found

    def processes(self): return [command[:60] for command in self.running().values()]

    def end(self):
        "A test that failed leaves nothing that stands still"
        for number in self.running():
            with suppress(ProcessLookupError): os.kill(number, signal.SIGKILL)

    def settled_processes(self, seconds=5):
        "The processes that are left after so many seconds"
        until = time.monotonic() + seconds
        while self.processes() and time.monotonic() < until: time.sleep(0.1)
        return self.processes()

    def left_behind(self, seconds=5):
        "What is left after so many seconds"
        until = time.monotonic() + seconds
        while self.left() and time.monotonic() < until: time.sleep(0.1)
        return self.left()


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    place.end()


def until(started, stage):
    "What the run prints until a stage has ended"
    lines = []
    for line in started.stdout:
        lines.append(line)
        if line.startswith(f'stage {stage}'): break
    return ''.join(lines)


def stop_at(started, stage, number, wait=0.0):
    "Send the signal to the run and all of its session when a stage has ended; what it printed"
    lines = until(started, stage)
    time.sleep(wait)
    os.killpg(started.pid, number) if number == signal.SIGINT else started.send_signal(number)
    out, err = started.communicate(timeout=60)
    return lines + out, err


SLOW = pytest.mark.slow
SLOW_IMPORT = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name in ('rich_click', 'pyarrow'):
            print('importing', flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
"""


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(('words', 'said'), [
    ((CLI, 'history', '--help'), 'stopped before it began: run the command again\n'),
    ((*JOB, '--help'), 'stopped before it began: run it again\n')], ids=['command', 'script'])
def test_what_is_stopped_while_it_starts_says_so_in_one_line(tmp_path, words, said, number, code):
    (tmp_path / 'sitecustomize.py').write_text(SLOW_IMPORT)
    process = subprocess.Popen(
        words, env=dict(os.environ, PYTHONPATH=str(tmp_path)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True)
    assert process.stdout.readline() == 'importing\n'
    process.send_signal(number)
    assert (process.communicate(timeout=20)[1], process.returncode) == (said, code)


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
QUICK = [('script', 'index', 'SIGINT'), ('command', 'index', 'SIGTERM')]


def stops():
    scripts = [('look', 0), ('look', 0.4), ('look', 1.5), ('index', 0), ('decide', 0.05), ('commit', 0)]
    at = {'script': scripts, 'command': [('look', 0.4), ('index', 0), ('commit', 0)]}
    for (name, places), (number, code) in product(at.items(), SIGNALS):
        for stage, wait in places:
            marks = () if (name, stage, number.name) in QUICK else SLOW
            command = JOB if name == 'script' else COMMAND
            yield pytest.param(
                command, stage, wait, number, code, id=f'{name}-{stage}-{wait}-{number.name}', marks=marks)


@pytest.mark.timeout(300)
@pytest.mark.parametrize('command, stage, wait, number, code', stops())
def test_a_stopped_run_says_so_in_one_line_and_leaves_nothing(place, stage, wait, command, number, code):
    started = place.start(command=command)
    out, err = stop_at(started, stage, number, wait)
    if started.returncode in (0, -number) and '"status": "done"' in out:    # all was done, and it on its way out
        assert err == '' and place.left_behind() == []
        return
    assert started.returncode == code, (out, err)
    assert len(err.splitlines()) == 1 and not NOISE.search(err + out), err
    assert ('the commit stands' if 'stage commit' in out else 'nothing is lost') in err
    committed = 'stage commit' in out       # then what is staged is the day's, and the next run shows it
    assert place.left_behind() == [] or committed and not place.processes() and not list(place.temporary.iterdir())
    assert place.inside() == 0 and place.left_behind() == []
    undisturbed = place.rows()
    assert undisturbed and place.inside('--REPROCESS', 'true') == 0 and place.rows() == undisturbed


@pytest.fixture
def half(tmp_path):
    "A place whose day has its first half; the second has landed"
    place = Place(tmp_path, delivery=1, deliveries=2)
    assert place.inside() == 0
    place.land(delivery=2, deliveries=2)
    yield place
    place.end()


# What a quick run tries: one with a JVM and its workers, the others with Spark played
WITH_SPARK, PLAYED = [('copy', 'SIGTERM')], [
    ('copy', 'SIGINT'), ('prepare', 'SIGTERM'), ('created', 'SIGTERM'), ('settling 1', 'SIGINT')]


PHASES = ['copy', 'audit', 'prepare', 'creating', 'created', 'settling 1', 'settling 3', 'settling 4', 'settle']


def commits():
    for phase, (number, code) in product(PHASES, SIGNALS):
        at = phase, number.name
        yield pytest.param(
            phase, number, code, ['inline'], id='-'.join(at), marks=() if at in PLAYED else SLOW)
        yield pytest.param(
            phase, number, code, [], id='-'.join([*at, 'spark']), marks=() if at in WITH_SPARK else SLOW)


@pytest.mark.timeout(200)
@pytest.mark.parametrize('phase, number, code, spark', commits())
def test_a_run_that_is_stopped_while_it_commits(half, phase, number, code, spark):
    """Before the record is asked for nothing has changed; from then on the next run finds out, and ends as if
    nothing had been"""
    def lasting():
        there = {**tree(half.root / 'out'), **tree(half.root / '_out')}
        return {path: found for path, found in there.items() if found[1] and 'source-table' not in path}
    before, rows = lasting(), half.rows()
    ended, out, err = half.run(command=(sys.executable, str(KILLED), *spark, f'{phase}:{number.name}'))
    assert ended == code and err.count('\n') == 1 and not NOISE.search(err + out), (out, err)
    report = told(out)
    assert (
        report['status'] == 'stopped'
        and report['message'] == err.strip()
        and [s[0] for s in report['stages']][-1] in (phase, 'audit', 'prepare', 'commit'))
    assert not half.settled_processes() and not list(half.temporary.iterdir())
    words = {
        'copy': 'nothing of this run is published', 'audit': 'nothing of this run is published',
        'prepare': 'nothing is lost', 'creating': 'nothing is lost',
        'created': 'the next run finds out whether the commit was made'}
    assert words.get(phase, 'the commit stands') in err
    if phase in ('copy', 'audit', 'prepare'): assert lasting() == before
    if phase in ('creating', 'created'): assert half.rows() == rows
    assert len(list(half.root.glob('_out/_ledger/*/*/*/*.json'))) == 1 + (
        phase in ('created', 'settling 1', 'settling 3', 'settling 4', 'settle'))
    assert half.inside() == 0 and half.left_behind() == []
    day = half.rows()
    assert day > rows and half.inside('--REPROCESS', 'true') == 0 and half.rows() == day


@pytest.mark.timeout(300)
@pytest.mark.parametrize('times', [1, pytest.param(5, marks=SLOW), pytest.param(25, marks=SLOW)])
def test_an_undisturbed_run_leaves_nothing_and_a_run_with_nothing_new_ends_well(place, times):
    code, out, err = place.run()
    assert (code, err) == (0, '') and 'METRICS: ' in out
    assert place.left_behind() == []
    for _ in range(times):
        code, out, err = place.run()
        assert (code, err) == (0, '') and 'nothing new' in out
    assert place.left_behind(0) == []


@pytest.mark.timeout(200)
def test_the_event_log_that_somebody_asked_for_is_closed(place):
    events, settings = place.root / 'events', place.root / 'conf'
    for folder in (events, settings): folder.mkdir()
    asked = f'spark.eventLog.enabled true\nspark.eventLog.dir {events.as_uri()}\n'
    (settings / 'spark-defaults.conf').write_text(asked)
    code, out, err = place.run(environment={'SPARK_CONF_DIR': str(settings)})
    assert (code, err) == (0, '') and out.startswith('stage ')
    [log] = events.iterdir()
    assert log.suffix != '.inprogress' and 'SparkListenerApplicationEnd' in log.read_text()
    assert place.left_behind(0) == []


@pytest.mark.timeout(200)
def test_temporary_files_that_somebody_wants_elsewhere_go_as_well(place):
    elsewhere = place.root / 'elsewhere'
    elsewhere.mkdir()
    code, _, err = place.run(environment={'SPARK_LOCAL_DIRS': str(elsewhere)})
    assert (code, err) == (0, '') and list(elsewhere.iterdir()) == place.left_behind(0) == []


@pytest.mark.timeout(200)
def test_a_reader_that_goes_away_does_not_end_the_run(place):
    started = place.start()
    started.stdout.readline()
    started.stdout.close()
    err = started.stderr.read()
    assert (started.wait(60), err) == (0, '')
    assert place.rows() and place.left_behind() == []


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    'environment', [
        pytest.param({'PYTHONIOENCODING': 'ascii'}, marks=SLOW),
        {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}])
def test_an_ascii_stdout_changes_nothing(tmp_path, environment):
    place = Place(tmp_path)
    odd, name = next((tmp_path / 'lake').rglob('*.parquet')), 'ügly'
    odd.with_name(name + '.parquet').write_bytes(b'PAR1 no')
    code, out, err = place.run(environment=environment)
    assert (code, err) == (0, '') and 'gly.parquet' in out and place.rows()


@SLOW
@pytest.mark.timeout(200)
def test_a_temporary_folder_with_a_blank(tmp_path):
    place = Place(tmp_path, temporary='tmp of "ours" here')
    assert place.run()[::2] == (0, '') and place.rows()
    assert place.left_behind() == []


@SLOW
@pytest.mark.timeout(200)
def test_a_planted_link_in_the_temporary_folder_is_not_followed(place):
    victim = place.root / 'victim'
    victim.mkdir()
    (place.temporary / f'chargeback-log4j-{os.getuid()}').symlink_to(victim)
    assert place.run()[::2] == (0, '')
    assert not list(victim.iterdir())


def told(out):
    "The one report on stdout"
    reports = [json.loads(line) for line in out.splitlines() if line.startswith('{')]
    assert len(reports) == 1 and sum(line.startswith('METRICS: ') for line in out.splitlines()) == 1, out
    return reports[0]


def spoil(place, share):
    "Cut a share of the landing files"
    files = sorted((place.root / 'lake').rglob('*.parquet'))
    for path in files[:round(share * len(files))]: path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    'what, code, status, words',
    [
        pytest.param(['--DRY_RUN', 'true'], 0, 'dry run', '', marks=SLOW),
        (['--PARTITION_DATE', '2024-02-29'], 3, 'no data', 'nothing has landed for 2024-02-29'),
        (['--MAX_UNREADABLE_RATE', '0.01'], 4, 'failed', '3 of 12 files cannot be read'),
        pytest.param(['--DRY_RUN', 'true', '--MAX_UNREADABLE_RATE', '0.01'], 4, 'failed', 'and 2 more', marks=SLOW)],
    ids=str)
def test_each_end_has_its_code_its_line_and_its_report(place, what, code, status, words):
    if code == 4: spoil(place, 0.25)
    given = [w for pair in zip(what[::2], what[1::2], strict=True) for w in pair]
    command = [w for i, w in enumerate(WORDS) if WORDS[i - i % 2] not in what]
    started = subprocess.run(
        [sys.executable, str(SCRIPT), *command, *given], cwd=place.root,
        env=dict(os.environ, TMPDIR=str(place.temporary)), capture_output=True, text=True)
    assert started.returncode == code and started.stderr.count('\n') == bool(words) and words in started.stderr
    report = told(started.stdout)
    assert report['status'] == status and report['output_files'] == 0 and 'output_files=0' in started.stdout
    assert not NOISE.search(started.stderr.replace('ArrowInvalid', '').replace('OSError', ''))
    assert place.left_behind() == []
    assert code != 4 or [a[0] for a in report['set_aside']] and report['findings'] and report['stages']


@pytest.mark.timeout(200)
@pytest.mark.parametrize('more', [['--OUTPUT_PATH', 's3://lake/out'], ['--CATALOG', 'glue']], ids=' '.join)
def test_what_cannot_be_reached_is_no_bad_argument(place, more):
    "Nor is there a day yet: the report says so all the same"
    command = [w for i, w in enumerate(WORDS) if WORDS[i - i % 2] not in more]
    away = dict(AWS_ENDPOINT_URL='http://127.0.0.1:9', AWS_MAX_ATTEMPTS='1', AWS_REGION='eu-west-1',
                AWS_ACCESS_KEY_ID='a', AWS_SECRET_ACCESS_KEY='b')
    started = subprocess.run(
        [sys.executable, str(SCRIPT), *command, *more], cwd=place.root, capture_output=True, text=True,
        env=dict(os.environ, TMPDIR=str(place.temporary), **away))
    report = told(started.stdout)
    assert started.returncode == 1 and started.stderr.count('\n') == 1 and 'cannot be reached' in started.stderr
    assert (report['status'], report['day'], report['message']) == ('failed', '2025-11-02', started.stderr.strip())
    assert 'output_files=0' in started.stdout and place.left_behind() == []


@pytest.mark.timeout(200)
def test_a_full_stdout_is_named(place):
    "It is not the disk of the output that is full"
    assert place.inside() == 0
    day = ['--output-path', 'out', '--partition-date', '2025-11-02']
    for command in (['history', *day], ['snapshot', *day], ['investigate', 'file_sizes', *day], ['--help']):
        with open('/dev/full', 'w') as full:
            done = subprocess.run([CLI, *command], cwd=place.root, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (1, 'stdout cannot be written: ENOSPC: the disk is full\n'), command
    with open('/dev/full', 'w') as full: code, _, err = place.run('--REPROCESS', 'true', stdout=full)
    assert (code, err) == (1, 'stdout cannot be written: ENOSPC: the disk is full\n') and place.left_behind() == []
    with open('/dev/full', 'w') as full:
        done = subprocess.run([*JOB, '--help'], stdout=full, stderr=subprocess.PIPE, text=True)
    code, err = done.returncode, done.stderr
    assert (code, err) == (1, 'stdout cannot be written: ENOSPC: the disk is full\n') and place.left_behind() == []


@pytest.mark.timeout(200)
@pytest.mark.parametrize('wait', [0, *(pytest.param(wait, marks=pytest.mark.slow) for wait in (0.02, 0.05))])
@pytest.mark.parametrize('command', [JOB, COMMAND], ids=['script', 'command'])
def test_a_run_that_is_stopped_when_all_is_done_leaves_nothing(place, command, wait):
    started = place.start(command=command)
    for line in started.stdout:
        if line.startswith('METRICS'): break
    time.sleep(wait)
    os.kill(started.pid, signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert started.returncode in (0, 130) and err.count('\n') == (started.returncode == 130), err
    assert place.left_behind() == []


@pytest.mark.timeout(200)
def test_a_bad_argument_starts_nothing(place):
    started = time.monotonic()
    assert place.run('--NO_SUCH', '1') == (2, '', '--NO_SUCH is not an argument; --help lists the arguments\n')
    assert time.monotonic() - started < 20 and not (place.root / 'out').exists() and place.left() == []


@pytest.fixture
def small_disk(tmp_path):
    "A function that mounts a disk of so many bytes; skipped where nobody may mount"
    disk = tmp_path / 'disk'
    disk.mkdir()
    def mount(size, *options):
        done = subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', ','.join([f'size={size}', *options]), 'tmpfs', str(disk)],
            capture_output=True, text=True)
        if done.returncode: pytest.skip(f'mounting a small disk is not possible here: {done.stderr.strip()}')
        return disk
    yield mount
    subprocess.run(['umount', str(disk)], capture_output=True)


@pytest.mark.timeout(200)
def test_a_full_disk_is_named_and_blames_no_file(tmp_path, small_disk, capsys):
    (tmp_path / 'place').mkdir()
    place, disk = Place(tmp_path / 'place'), small_disk('64k')
    assert place.inside() == 0 and capsys.readouterr()
    words = [w if w != 'out' else str(disk / 'out') for w in WORDS]
    (disk / 'ballast').write_bytes(b'x' * (44 << 10))
    started = subprocess.run(
        [sys.executable, str(SCRIPT), *words], cwd=place.root, env=dict(os.environ, TMPDIR=str(place.temporary)),
        capture_output=True, text=True)
    assert started.returncode == 1 and started.stderr.count('\n') == 1 and 'ENOSPC: the disk is full' in started.stderr
    report = told(started.stdout)
    assert report['status'] == 'failed' and report['set_aside'] == [] and not list(disk.rglob('*.parquet'))
    (disk / 'ballast').unlink()
    subprocess.run(['mount', '-o', 'remount,size=64m', str(disk)], check=True)
    assert place.inside(output=disk / 'out') == 0
    assert told(capsys.readouterr().out)['rows_after'] == place.rows()


@pytest.mark.timeout(200)
def test_a_read_only_output_is_a_bad_argument(tmp_path, small_disk):
    (tmp_path / 'place').mkdir()
    place, disk = Place(tmp_path / 'place'), small_disk('1m', 'ro')
    words = [w if w != 'out' else str(disk / 'out') for w in WORDS]
    started = subprocess.run(
        [sys.executable, str(SCRIPT), *words], cwd=place.root, env=dict(os.environ, TMPDIR=str(place.temporary)),
        capture_output=True, text=True)
    assert (
        started.returncode == 2
        and started.stderr.count('\n') == 1
        and str(disk) in started.stderr
        and place.left_behind() == [])


@SLOW
@pytest.mark.timeout(200)
def test_a_read_only_environment_is_named(tmp_path, small_disk):
    "Neither HOME nor the temporary folder can be written to: a line that says so, or a run that needs neither"
    (tmp_path / 'place').mkdir()
    place, disk = Place(tmp_path / 'place'), small_disk('1m', 'ro')
    environment = dict(os.environ, TMPDIR=str(disk), HOME=str(disk))
    started = subprocess.run(
        [sys.executable, str(SCRIPT), *WORDS], cwd=place.root, env=environment, capture_output=True, text=True)
    assert (
        started.returncode in (0, 1)
        and started.stderr.count('\n') == (started.returncode == 1)
        and 'Traceback' not in started.stderr), started.stderr


@SLOW
@pytest.mark.timeout(200)
def test_a_run_that_sleeps_after_its_commit_leaves_the_others_work_alone(place, capsys):
    "It is stopped once its commit is reported, another run commits on top of it, and it goes on"
    first = place.start()
    for line in first.stdout:
        if line.startswith('stage commit'):
            first.send_signal(signal.SIGSTOP)
            break
    landing = sorted((place.root / 'lake').rglob('*.parquet'))
    landing[0].with_name('late.parquet').write_bytes(landing[1].read_bytes())
    assert place.inside() == 0 and capsys.readouterr()
    first.send_signal(signal.SIGCONT)
    out, err = first.communicate(timeout=60)
    assert (first.returncode, err) == (0, '')
    landing[0].with_name('later.parquet').write_bytes(landing[2].read_bytes())
    code, (out, err) = place.inside(), capsys.readouterr()
    assert (code, err) == (0, '') and told(out)['commit'] == 3 and place.left_behind() == []


def edited(path):
    "Another hand writes other chargebacks into a file, in place: of the same size, and its time is put back"
    found = path.stat()
    table = pq.ParquetFile(path).read()
    keys = pa.array([key and key[:-1] + ('0' if key[-1] != '0' else '1') for key in table['chargeback_id'].to_pylist()])
    data = encode(
        table.set_column(table.schema.get_field_index('chargeback_id'), table.schema.field('chargeback_id'), keys),
        compression='none')
    assert len(data) == found.st_size
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def held(started, stage, meanwhile):
    "Let the run stand still when a stage has ended, and go on after `meanwhile`; what it printed so far"
    lines = until(started, stage)
    started.send_signal(signal.SIGSTOP)
    meanwhile()
    started.send_signal(signal.SIGCONT)
    return lines


BY_SCRIPT = pytest.mark.parametrize('command', [JOB, pytest.param(COMMAND, marks=SLOW)], ids=['script', 'command'])
BY_COMMAND = pytest.mark.parametrize('command', [pytest.param(JOB, marks=SLOW), COMMAND], ids=['script', 'command'])


@pytest.mark.timeout(200)
@BY_SCRIPT
def test_rows_that_are_not_those_that_were_planned_are_never_published(place, command):
    """A landing file gets other rows between index and copy, and nothing shows it but the keys that were written:
    exit code 5"""
    path = next(p for p in sorted((place.root / 'lake').rglob('*.parquet')) if pq.ParquetFile(p).metadata.num_rows)
    path.write_bytes(encode(pq.ParquetFile(path).read(), compression='none'))
    started = place.start(command=command)
    said = held(started, 'decide', lambda: edited(path))
    out, err = started.communicate(timeout=60)
    assert (
        started.returncode == 5
        and err.count('\n') == 1
        and 'nothing is published' in err
        and 'the keys written are not the winners' in err), (out, err)
    report = told(said + out)
    assert (
        report['status'] == 'failed'
        and report['message'] == err.strip()
        and place.rows() == 0
        and place.left_behind() == [])
    assert place.inside() == 0 and place.rows()


@pytest.mark.timeout(200)
@BY_COMMAND
def test_a_run_that_loses_every_race_gives_up(place, command):
    "Whenever it has looked, another run commits, and the next file lands: exit code 6, and the others' day stands"
    started, folder = place.start(command=command), next((place.root / 'lake').rglob('*.parquet')).parent
    def overtake(number):
        assert place.inside() == 0
        (folder / f'late-{number}.parquet').write_bytes(encode(pa.table({'chargeback_id': [f'late-{number}']})))
    said = [held(started, 'look', lambda number=number: overtake(number)) for number in range(job.ATTEMPTS)]
    out, err = started.communicate(timeout=60)
    assert (
        started.returncode == 6
        and err.count('\n') == 1
        and 'other runs committed 2025-11-02' in err
        and f'{job.ATTEMPTS} times' in err), (out, err)
    report = told(''.join(said) + out)
    assert report['status'] == 'failed' and report['message'] == err.strip() and place.left_behind() == []
    keys = [
        key
        for p in place.root.glob('out/year=*/*/*/*.parquet')
        for key in pq.ParquetFile(p).read()['chargeback_id'].to_pylist()]
    assert {f'late-{number}' for number in range(job.ATTEMPTS - 1)} <= set(keys) and len(keys) == len(set(keys))
    assert place.inside() == 0 and place.rows() == len(keys) + 1


@SLOW
@pytest.mark.timeout(200)
def test_a_rebuild_whose_files_change_all_the_time_gives_up(place):
    assert place.inside() == 0
    day, path = (
        place.rows(),
        next(p for p in sorted((place.root / 'lake').rglob('*.parquet')) if pq.ParquetFile(p).metadata.num_rows))
    started, content = place.start('--REPROCESS', 'true'), path.read_bytes()
    said = [held(started, 'look', lambda: path.write_bytes(content)) for _ in range(job.ATTEMPTS)]
    out, err = started.communicate(timeout=60)
    assert started.returncode == 6 and err.count('\n') == 1 and 'its files changed' in err, (out, err)
    assert told(''.join(said) + out)['status'] == 'failed' and place.rows() == day and place.left_behind() == []


@pytest.mark.timeout(300)
@SLOW
@pytest.mark.parametrize('times', [2, 10])
def test_the_command_ends_as_well_when_nothing_is_new(place, times):
    assert place.run(command=COMMAND)[::2] == (0, '') and place.left_behind() == []
    for _ in range(times):
        code, out, err = place.run(command=COMMAND)
        assert (code, err) == (0, '') and told(out)['status'] == 'nothing new'
    code, out, err = place.run('--DRY_RUN', 'true', command=COMMAND)
    assert (code, err) == (0, '') and place.left_behind(0) == []


def piped(place, *words):
    "(exit code, stdout, stderr) of a command whose reader takes one line and goes"
    line = 'set -o pipefail; "$@" | head -n 1'
    ended = subprocess.run(
        ['bash', '-c', line, 'bash', *words], cwd=place.root, env=dict(os.environ, TMPDIR=str(place.temporary)),
        capture_output=True, text=True, timeout=120)
    return ended.returncode, ended.stdout, ended.stderr


def unread(place, *words):
    "(exit code, stderr) of a command whose reader is gone before it says anything"
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            words, cwd=place.root, env=dict(os.environ, TMPDIR=str(place.temporary)), stdout=writing,
            stderr=subprocess.PIPE, text=True, timeout=120)
    finally: os.close(writing)
    return ended.returncode, ended.stderr


@SLOW
@pytest.mark.timeout(300)
@pytest.mark.parametrize('command', [JOB, COMMAND], ids=['script', 'command'])
def test_a_reader_that_takes_one_line_does_not_end_the_run(place, command):
    code, out, err = piped(place, *command, *WORDS)
    assert (code, err, out.count('\n')) == (0, '', 1) and place.rows() and place.left_behind() == []
    assert unread(place, *command, *WORDS, '--REPROCESS', 'true') == (0, '') and place.left_behind() == []


def test_help_fits_the_terminal_and_a_reader_that_goes_away(place):
    assert unread(place, *JOB, '--help') == (0, '')
    assert piped(place, *JOB, '-h')[::2] == (0, '')
    told = subprocess.run([*JOB, '--help'], env=dict(os.environ, COLUMNS='80'), capture_output=True, text=True).stdout
    assert max(map(len, told.splitlines())) <= 80 and '130 and 143 stopped' in told


DAY = '--output-path out --partition-date 2025-11-02'.split()
QUESTIONS = {
    'history': ['history'], 'history --json': ['history', '--json'], 'snapshot': ['snapshot'], 'repair': ['repair'],
    'reconcile': ['investigate', 'reconcile']}


def asked():
    for name, times in product(QUESTIONS, [2, 8]):
        quick = name == 'repair' and times == 2
        yield pytest.param(name, times, id=f'{name}-{times}', marks=() if quick else SLOW)


@pytest.mark.timeout(600)
@pytest.mark.parametrize('name, times', asked())
def test_a_question_ends_well_every_time(place, name, times):
    "Whoever reads the answer, several processes at once, again and again"
    assert place.inside() == 0
    words = [str(CLI), *QUESTIONS[name], *DAY]
    def ask(_):
        return subprocess.run(
            words, cwd=place.root, env=dict(os.environ, TMPDIR=str(place.temporary)), capture_output=True, text=True,
            timeout=200)
    with ThreadPoolExecutor(2) as pool: ended = list(pool.map(ask, range(times)))
    assert {(e.returncode, e.stderr) for e in ended} == {(0, '')} and all(e.stdout for e in ended)
    assert piped(place, *words)[::2] == (0, '') and unread(place, *words) == (0, '')
    assert place.left_behind() == []


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    'stage, wait, code, said',
    [
        pytest.param('look', 1.5, 1, 'Spark could not ', marks=SLOW),
        pytest.param('look', 2.5, 1, 'Spark could not ', marks=SLOW), ('index', 0, 1, 'its JVM has ended'),
        pytest.param('copy', 0, 0, '', marks=SLOW), pytest.param('settle', 0, 0, '', marks=SLOW)])
def test_a_jvm_that_is_killed_is_one_line(place, stage, wait, code, said):
    "As by a machine that lacks memory; once everything is staged nobody misses it"
    started = place.start()
    lines = until(started, stage)
    time.sleep(wait)
    for number, command in place.running().items():
        if b'java' in command.split(b'\0')[0]: os.kill(number, signal.SIGKILL)
    out, err = started.communicate(timeout=60)
    if code and not started.returncode: code, said = 0, ''      # a fast machine: it was over already
    assert started.returncode == code and err.count('\n') == bool(said) and said in err, (out, err)
    report = told(lines + out)
    assert (
        report['status'] == ('failed' if code else 'done')
        and report['message'] == err.strip()
        and place.left_behind() == [])
    assert place.inside() == 0 and place.rows()


@pytest.mark.timeout(200)
def test_a_spark_that_cannot_start_is_said(place):
    "In a line after what Spark's launcher itself writes"
    java = place.root / 'java/bin/java'
    java.parent.mkdir(parents=True)
    java.write_text('#!/bin/sh\nexit 3\n')
    java.chmod(0o755)
    code, out, err = place.run(environment={'JAVA_HOME': str(java.parents[1])})
    assert (
        code == 1
        and err.splitlines()[-1].startswith('Spark could not be started: ')
        and not NOISE.search(err)
        and told(out)['status'] == 'failed'), err
    assert place.left_behind() == []
