"""The command: parameters, reports, records, repetition, several days, S3. Real kernels, real files, S3 over HTTP.

What each investigation finds is asserted in test_findings; here it is what becomes of it.
"""
import html
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import pyarrow.parquet as pq
import pytest
from aws import Proxy, client, environment, moto
from damage import DAY, damaged, execute, head, sound
from days import tree
from world import S3World, prepared

from chargeback_consolidation.answers import run
from chargeback_consolidation.answers.compare import broken, compare
from chargeback_consolidation.answers.parameters import NOTEBOOKS, find_notebook, parameters_of
from chargeback_consolidation.answers.request import plan_requests, run_all
from chargeback_consolidation.commands.cli import main
from chargeback_consolidation.sample.landing import land_sample
from chargeback_consolidation.settings import ArgumentError

pytestmark = pytest.mark.xdist_group('investigate')
NAMES = ['duplicates', 'file_sizes', 'late_arrivals', 'quality_history', 'reconcile', 'rules', 'trace']


@pytest.fixture(scope='module')
def lakes(tmp_path_factory, spark):
    "A sound day and a damaged copy of it"
    root = tmp_path_factory.mktemp('lakes')
    (root/'sound').mkdir()
    sound(root/'sound')
    shutil.copytree(root/'sound', root/'bad')
    return root/'sound', root/'bad', damaged(root/'bad')


def words(root, runs, *more):
    return ['--output-path', f'{root}/out', '--catalog', str(root), '--runs', str(runs), *more]


def command(*argv):
    "The exit code of the command"
    with pytest.raises(SystemExit) as end: main(['investigate', *map(str, argv)])
    return end.value.code


def records(runs):
    return [json.loads(p.read_text()) for p in sorted(Path(runs).rglob('*.record.json'))]


# Parameters


def test_each_notebook_is_there_with_typed_parameters():
    assert sorted(p.stem for p in NOTEBOOKS.glob('*.ipynb')) == NAMES
    for name in NAMES:
        found = parameters_of(find_notebook(name))
        assert {'output_path', 'partition_date', 'mask'} <= set(found) and all(
            p.kind in ('str', 'int', 'float', 'bool') and p.meaning for p in found.values())
    assert not any(c.get('outputs') for p in NOTEBOOKS.glob('*.ipynb') for c in nbformat.read(p, 4).cells)


@pytest.mark.parametrize(
    'argv, says',
    [
        (['reconcil'], "'reconcil' is not an investigation (did you mean reconcile?)"),
        (['--output-path', 'o'], 'which investigation? There is duplicates,'),
        (['reconcile', 'x'], "argument 'x' has no name"),
        (
            ['trace', '--output-path', 'o', '--partition-date', DAY, '--chargback-id', 'x'],
            '--chargback-id is not an option of investigate trace; did you mean --chargeback-id?'),
        (['trace', '--output-path', 'o', '--partition-date', DAY], '--chargeback-id is required: the chargeback'),
        (['trace', '--output-path', 'o', '--partition-date', DAY, '--chargeback-id'], '--chargeback-id has no value'),
        (
            ['reconcile', '--output-path', 'o', '--partition-date', '2025-11-31'],
            "--partition-date must be a day of the calendar, written YYYY-MM-DD, not '2025-11-31'"),
        (
            ['reconcile', '--output-path', 'ftp://x', '--partition-date', DAY],
            '--output-path must be a local folder or s3://bucket/prefix'),
        (
            ['quality_history', '--output-path', 'o', '--partition-date', DAY, '--days', 'many'],
            "--days must be a whole number, not 'many'"),
        (
            ['file_sizes', '--output-path', 'o', '--partition-date', DAY, '--target-mb', '1,5'],
            "--target-mb must be a number, not '1,5'"),
        (
            ['reconcile', '--output-path', 'o', '--partition-date', DAY, '--mask=perhaps'],
            "--mask must be true or false, not 'perhaps'"),
        (
            ['reconcile', '--output-path', 'o', '--partition-date', DAY, '--partition-date', DAY],
            '--partition-date is given twice'),
        (
            ['reconcile', '--output-path', 'o', '--partition-date', DAY, '--run', 'x'],
            '--run is not an option of investigate reconcile; did you mean --runs?'),
        (
            ['reconcile', '--output-path', 'o', '--partition-date', DAY, '--processes', '0'],
            '--processes must be from 1 to 64'),
        (
            ['reconcile', '--output-path', 'o', '--from', DAY],
            '--to is missing: --from and --to go together'),
        (
            ['reconcile', '--output-path', 'o', '--from', '2025-11-03', '--to', DAY],
            '--from 2025-11-03 is after --to 2025-11-02'),
        (
            ['reconcile', '--output-path', 'o', '--from', DAY, '--to', DAY, '--partition-date', DAY],
            'exclude each other'),
        (
            [
                'trace', '--output-path', 'o', '--partition-date', DAY, '--chargeback-id', 'x', '--mask',
                '--show-payload'],
            'give one of them'),
        (['--again', 'nowhere.json'], 'there is no such file'),
        (
            ['reconcile', '--output-path', 'o', '--partition-date', DAY, '--fail-on', 'red'],
            "--fail-on must be wrong or look, not 'red'"),
        (['reconcile', '--fail-on'], '--fail-on has no value: Exit code 1 where'),
        (['--again', __file__], 'this is not a record of an investigation'),
        (['reconcile', '--notebooks', '/nowhere', '--output-path', 'o'], 'there is no investigation in /nowhere')],
    ids=lambda v: None if isinstance(v, str) else ' '.join(v[-2:])[:30])
def test_refused(argv, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(*argv) == 2
    out, err = capsys.readouterr()
    assert says in err and err.count('\n') == 1 and not out
    assert list(tmp_path.iterdir()) == []


def test_spellings_and_types():
    (request,), _ = plan_requests(
        'file_sizes', {'output_path': 'out', 'partition_date': DAY, 'target_mb': '12', 'mask': 'true'})
    assert request.parameters == {
        'output_path': os.path.abspath('out'), 'partition_date': DAY, 'target_mb': 12.0, 'mask': True}


# Reports


@pytest.fixture(scope='module')
def reports(lakes, tmp_path_factory):
    "All investigations of the damaged day, through the command"
    root, done, runs = lakes[1], lakes[2], tmp_path_factory.mktemp('runs')
    before = tree(root)
    more = {'trace': ['--chargeback-id', done.removed[0]], 'quality_history': ['--days', '2'],
            'rules': ['--rules', 'Rules = [ ColumnValues "amount" < 0 ]']}
    for name in NAMES:
        assert command(name, *words(root, runs, '--partition-date', DAY, *more.get(name, ()))) == 0
    assert tree(root) == before, 'an investigation only reads'
    return runs


def test_the_reports_of_a_damaged_day(reports, lakes):
    done = lakes[2]
    found = {r['investigation']: r for r in records(reports)}
    assert sorted(found) == NAMES
    for name, r in found.items():
        kinds = {f['kind']: f for f in r['answer']['findings']}
        assert (
            kinds['landing file gone']['where'] == [done.gone]
            and kinds['output file short']['where'] == [done.short]
            and kinds['not yet taken']['where'] == [done.waiting]), name
        assert (r['status'], r['error'], r['masked'], r['again']) == ('done', '', False, None) and r['answer'][
            'verdict'].startswith('Wrong: ')
    assert {
        n
        for n, r in found.items()
        if any(f['kind'] == 'landing file doubled' and f['where'] == [done.doubled] for f in r['answer']['findings'])
    } == {'reconcile', 'duplicates', 'late_arrivals'}
    assert sorted(
        next(f['keys'] for f in found['reconcile']['answer']['findings'] if f['kind'] == 'keys missing')
    ) == sorted(done.removed)
    assert (
        next(f['keys'] for f in found['trace']['answer']['findings'] if f['kind'] == 'not in the day')
        == done.removed[:1])


def test_the_record_says_from_what_and_with_what(reports, lakes):
    root, done = lakes[1], lakes[2]
    r = next(r for r in records(reports) if r['investigation'] == 'reconcile')
    inputs, = r['inputs']
    commit = head(root)
    assert inputs['commit'] == {'number': 2, 'run': commit.run, 'at': commit.report['at']}
    landed = {
        p.relative_to(root / 'landing/chargebacks').as_posix(): p
        for p in (root / 'landing').rglob('*.parquet')
        if p.name[0] != '.'}
    assert {f[0] for f in inputs['landing_files']} == set(landed)
    for path, size, etag, rows in inputs['landing_files']:
        stat = landed[path].stat()
        assert (size, etag) == (stat.st_size, f'{stat.st_mtime_ns:x}') and rows == (
            None if path == done.waiting else 50)
    assert [f[0] for f in inputs['output_files']] == sorted(f.path for f in commit.files)
    code = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=NOTEBOOKS, capture_output=True, text=True)
    assert (
        r['code']['commit'] == (code.stdout.strip() or None)
        and isinstance(r['code']['dirty'], bool)
        and len(r['code']['digest']) == 32)
    assert {'python', 'pyspark', 'pyarrow'} <= set(r['versions']) and r['versions']['python'] == sys.version.split()[0]
    assert r['parameters'] == {'output_path': f'{root}/out', 'partition_date': DAY, 'catalog': str(root)}


def test_pages_stand_alone_and_show_no_code(reports, lakes):
    for path in reports.rglob('*.html'):
        text = path.read_text()
        body = text[text.index('<body>'):]
        assert 'class="summary fail"' in text and '<img alt=' in text, path
        assert '<script' not in text and 'src="http' not in text and 'href="http' not in text and '@import' not in text
        assert not any(word in body for word in ('Traceback', 'open_day(', 'stderr', 'Warning')) and len(text) < 400_000
        assert 'application/pdf' not in text, 'a payload'


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('chromium'), reason='chromium is not installed')
def test_pages_fit_a_screen_of_1280_pixels(reports, tmp_path):
    for path in sorted(reports.rglob('*.html')):
        probe = tmp_path/f'{path.stem}.html'
        probe.write_text(path.read_text().replace(
            '</body>',
            '<script>document.title = document.documentElement.scrollWidth + " " + [...document.images].every(i => '
            'i.naturalWidth > 500)</script></body>'
        ))
        done = subprocess.run(
            [
                'chromium', '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
                '--window-size=1280,900', '--dump-dom', f'file://{probe}'],
            capture_output=True, text=True, timeout=60)
        assert '<title>1280 true</title>' in done.stdout, path


def test_masked_trace(lakes, tmp_path):
    "Neither the id nor a payload is anywhere in the report, nor in what repeats it"
    root, done = lakes[0], lakes[2]
    key = done.newer[0]
    assert command('trace', *words(root, tmp_path, '--partition-date', DAY, '--chargeback-id', key, '--mask')) == 0
    paths = [p for p in tmp_path.rglob('*') if p.is_file()]
    merchants = {
        m for p in (root / 'landing').rglob('part*.parquet') for m in pq.read_table(p)['merchant_id'].to_pylist()}
    for p in paths:
        text = p.read_text()
        assert key not in text and not [m for m in merchants if m in text] and 'application/pdf' not in text, p
    page = next(p for p in paths if p.suffix == '.html').read_text()
    record, = records(tmp_path)
    assert record['parameters']['chargeback_id'].startswith('id~') and record['parameters']['chargeback_id'] in page
    path = next(p for p in paths if p.name.endswith('.record.json'))
    with pytest.raises(ArgumentError, match='does not hold --chargeback-id'): plan_requests(None, {'again': str(path)})
    assert command('--again', path, '--chargeback-id', key, '--runs', tmp_path/'second') == 0
    again, = records(tmp_path/'second')
    assert {k: again['again'][k] for k in ('inputs', 'code', 'result')} == {
        'inputs': [], 'code': [], 'result': []} and again['digest'] == record['digest']
    assert not any(key in p.read_text() for p in (tmp_path/'second').rglob('*') if p.is_file())


@pytest.mark.slow
def test_a_short_masked_id_is_hidden_and_nothing_else(lakes, notebooks, tmp_path):
    "Also where the run fails and the traceback quotes it"
    own = nbformat.read(notebooks/'shaky.ipynb', 4)
    own.cells[1].source += "\nchargeback_id: str = ''  # id\nmask: bool = False  # hide"
    own.cells[3].source = "raise ValueError('the chargeback ' + chargeback_id + ' of 17 is odd')"
    nbformat.write(own, notebooks/'quotes.ipynb')
    assert (
        command(
            'quotes',
            *words(
                lakes[0], tmp_path / 'runs', '--partition-date', DAY, '--notebooks', notebooks, '--chargeback-id', '7',
                '--mask'))
        == 1)
    record, = records(tmp_path/'runs')
    assert record[
        'error'
    ] == f"ValueError: the chargeback {record['parameters']['chargeback_id']} of 17 is odd" and record['parameters'][
        'chargeback_id'].startswith('id~')
    for path in (record['page'], record['notebook']):
        text = Path(path).read_text()
        assert 'chargeback 7 of' not in text and '"7"' not in text and 'of 17 is odd' in text


# Again


def test_again(lakes, tmp_path, capsys, spark):
    "Twice: the same digest. After one more execution: what is new is named"
    root, runs = tmp_path/'lake', tmp_path/'runs'
    shutil.copytree(lakes[0], root)
    assert command('reconcile', *words(root, runs, '--partition-date', DAY)) == 0
    path = next(runs.rglob('*.record.json'))
    assert command('--again', path, '--runs', tmp_path/'twice') == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.endswith('the same')] == [
        'inputs  the same', 'code    the same', 'result  the same']
    first, = records(runs)
    second, = records(tmp_path/'twice')
    assert (
        first['digest'] == second['digest']
        and first['id'] != second['id']
        and first['input_digest'] == second['input_digest'])
    shutil.copy(
        root / 'landing/chargebacks/2025/11/02/part-0-1.parquet',
        root / 'landing/chargebacks/2025/11/02/part-9-9.parquet')
    execute(root)
    assert command('--again', path, '--runs', tmp_path/'later') == 0
    third, = records(tmp_path/'later')
    said = '\n'.join(third['again']['inputs'])
    assert (
        f'{DAY}: the ledger was at commit 2, now at 3' in said
        and '1 new landing file: 2025/11/02/part-9-9.parquet' in said
        and '1 new output file: ' in said
        and '1 gone output file: ' in said)
    assert third['again']['code'] == [] and 'fact landing files taken was 41, now 42' in third['again']['result']
    assert not broken(third['again'])


def test_a_result_that_differs_for_no_reason_is_not_trusted(reports):
    r = next(r for r in records(reports) if r['investigation'] == 'reconcile')
    other = json.loads(json.dumps(r))
    other['digest'], other['answer']['facts']['duplicates'] = 'x', 0
    said = compare(r, other)
    assert broken(said) and said['result'] == [f"fact duplicates was {r['answer']['facts']['duplicates']}, now 0"]
    other['code']['digest'] = 'other'
    assert not broken(compare(r, other)) and compare(r, other)['code'] == [
        f"code digest was {r['code']['digest']}, now other"]


# Code, verdicts, folders and titles


def test_an_index_that_nbdev_writes_is_no_code(tmp_path, monkeypatch):
    (tmp_path/'one.py').write_text('x = 1')
    monkeypatch.setattr(run, 'package_file', str(tmp_path/'__init__.py'))
    before = run.code_digest(find_notebook('trace'))
    (tmp_path/'_modidx.py').write_text('d = {}')
    assert run.code_digest(find_notebook('trace')) == before
    (tmp_path/'two.py').write_text('y = 1')
    assert run.code_digest(find_notebook('trace')) != before


def test_fail_on_as_a_process(lakes, reports, tmp_path, typed):
    "A verdict is a failure only where that was asked for (`reports` did not), and only from the level asked for"
    program = [sys.executable, '-c', 'from chargeback_consolidation.commands.cli import main; main()', 'investigate']
    def code(root, *more):
        argv = [*program, 'file_sizes', *words(root, tmp_path, '--partition-date', DAY, *more)]
        done = subprocess.run(argv, capture_output=True, text=True)
        return done.returncode, done.stdout
    assert command('file_sizes', *words(lakes[0], tmp_path, '--partition-date', DAY, '--fail-on', 'look')) == 0
    ended, out = code(lakes[1], '--fail-on', 'wrong')
    assert ended == 1 and '--fail-on wrong: this ends with 1 for 1 of 1' in out
    _, shown, _ = typed('investigate', 'file_sizes', '--help')
    assert '--fail-on' in shown and 'Exit code 1 where a verdict' in ' '.join(shown.replace('│', ' ').split())


@pytest.mark.parametrize('level, asked, bad', [
    ('fail', 'wrong', True), ('warn', 'wrong', False), ('fail', 'look', True), ('warn', 'look', True),
    ('ok', 'look', False), ('fail', '', False)])
def test_too_bad(level, asked, bad):
    request = run.Request('reconcile', '', {}, '', None, asked)
    assert run.too_bad(request, {'answer': {'level': level}}) is bad
    assert not run.too_bad(request, {'answer': None})


def test_runs_of_different_lakes_lie_apart_and_pages_name_theirs(reports, lakes):
    root = lakes[1]
    for r in records(reports):
        folder = Path(r['page']).parent
        assert folder.parts[-3:-1] == (r['investigation'], DAY) and folder.name.startswith('out-')
        text = Path(r['page']).read_text()
        title = text[text.index('<title>') + 7:text.index('</title>')]
        asked, table = r['investigation'].replace('_', ' '), r['inputs'][-1]['table']
        assert title == f'{asked}: {table}, {root}/out, {DAY}'
        assert f'{root}/out' in text[text.index('<body>'):][:600]
    folders = {run.lake_folder({'output_path': f'/{lake}/consolidated/chargebacks'}) for lake in ('one', 'two')}
    assert len(folders) == 2 and all(f.startswith('chargebacks-') for f, in folders) and run.lake_folder({}) == ()


# Failed runs, several days


@pytest.fixture
def notebooks(tmp_path):
    "A folder of investigations: one of them fails for one of its days"
    md, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    parameters = code(
        "output_path: str = ''  # required: out\npartition_date: str = ''  # required: day\ncatalog: str = ''  # folder"
    )
    parameters.metadata['tags'] = ['parameters']
    cells = [
        md('# Shaky'),
        parameters,
        code(
            'from chargeback_consolidation.answers.day import open_day\nday = open_day(output_path, partition_date, '
            'catalog)\nday'
        ),
        code("assert partition_date != '2025-11-03', 'no luck on this day'"),
        md('The end'),
    ]
    (tmp_path/'own').mkdir()
    kernel = {'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path/'own/shaky.ipynb')
    return tmp_path/'own'


def test_a_failed_day_keeps_its_evidence_and_takes_no_other_with_it(lakes, notebooks, tmp_path, capsys):
    root = lakes[0]
    code = command(
        'shaky',
        *words(
            root, tmp_path / 'runs', '--from', DAY, '--to', '2025-11-04', '--notebooks', notebooks, '--processes', '2'))
    out, err = capsys.readouterr()
    assert code == 1, err
    assert (
        'shaky 2025-11-03 failed: AssertionError: no luck on this day' in err
        and '2 of 3 days have a report without an error' in out)
    found = {r['parameters']['partition_date']: r for r in records(tmp_path/'runs')}
    assert {d: r['status'] for d, r in found.items()} == {DAY: 'done', '2025-11-03': 'failed', '2025-11-04': 'done'}
    failed = found['2025-11-03']
    assert (
        failed['inputs'][0]['day'] == '2025-11-03'
        and failed['digest'] is None
        and failed['error'] == 'AssertionError: no luck on this day')
    page, notebook = Path(failed['page']).read_text(), nbformat.read(failed['notebook'], 4)
    assert 'The run failed: AssertionError: no luck on this day' in page and 'Traceback' in page
    assert any(o.output_type == 'error' for c in notebook.cells for o in c.get('outputs', ()))


def test_a_wrong_output_path_is_said_in_one_line_and_leaves_no_page(tmp_path, capsys):
    words = 'reconcile', '--output-path', tmp_path / 'nothing', '--runs', tmp_path / 'runs'
    assert command(*words, '--partition-date', DAY) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and 'holds no day: are both the right folders?' in said
    assert not (tmp_path / 'runs').exists()
    assert command(*words, '--from', DAY, '--to', '2025-11-03') == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all('holds no day' in line and 'Error' not in line for line in said)


def processes_in(temporary):
    "The processes that have this temporary folder in their environment"
    found, word = [], f'TMPDIR={temporary}'.encode()
    for folder in Path('/proc').iterdir():
        if not folder.name.isdigit(): continue
        with suppress(OSError):
            if word in (folder / 'environ').read_bytes().split(b'\0'): found.append(folder.name)
    return found


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('days', [('--partition-date', DAY), ('--from', '2025-11-01', '--to', '2025-11-04')], ids=len)
@pytest.mark.parametrize('wait', [0.7, pytest.param(1.1, marks=pytest.mark.slow), 1.6])
def test_what_is_interrupted_leaves_nothing(lakes, tmp_path, number, days, wait):
    "Whatever it was doing then: one line, no page, no temporary file, no kernel"
    temporary, runs = tmp_path / 'tmp', tmp_path / 'runs'
    temporary.mkdir()
    stated = [Path(sys.executable).with_name('chargeback-consolidation'), 'investigate', 'reconcile']
    process = subprocess.Popen(
        [*stated, *words(lakes[0], runs, *days)], env=dict(os.environ, TMPDIR=str(temporary)), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(wait)
    if number == signal.SIGINT: os.killpg(process.pid, number)      # as Ctrl-C does
    else: process.send_signal(number)
    out, err = process.communicate(timeout=20)
    lines = 'interrupted; nothing is lost: run the command again\n', 'stopped before it began: run the command again\n'
    assert process.returncode == 128 + number and err in lines and out == '', (out, err)
    assert list(temporary.iterdir()) == [] and not runs.exists()
    assert processes_in(temporary) == []


LATE = """
import subprocess, sys, time
from chargeback_consolidation.answers.run import beside
from chargeback_consolidation.commands.cli import Interrupted, interruptible
def work():
    print('begun', flush=True)
    time.sleep(0.5)
    subprocess.run(['sleep', '60'])
try:
    with interruptible(): beside(work)
except Interrupted:
    time.sleep(0.5)
    sys.exit(130)
"""


def test_what_begins_after_the_interruption_ends_too(tmp_path):
    "A kernel, say, that papermill was about to start: it would hold the terminal"
    with subprocess.Popen([sys.executable, '-c', LATE], env=dict(os.environ, TMPDIR=str(tmp_path)), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == 'begun\n'
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ('', '') and process.returncode == 130
    assert processes_in(tmp_path) == []


@pytest.mark.slow
def test_plain_papermill(lakes, tmp_path):
    out = tmp_path/'report.ipynb'
    subprocess.run(
        [
            sys.executable, '-m', 'papermill', str(NOTEBOOKS / 'late_arrivals.ipynb'), str(out), '-p', 'output_path',
            f'{lakes[0]}/out', '-p', 'partition_date', DAY, '-p', 'catalog', str(lakes[0]), '--no-progress-bar'],
        check=True, capture_output=True)
    assert any(
        'Every landing file that can be read was taken' in str(c.get('outputs')) for c in nbformat.read(out, 4).cells)


# S3


@pytest.fixture(scope='module')
def s3_world(tmp_path_factory, spark):
    with moto() as endpoint:
        folder = tmp_path_factory.mktemp('s3')
        world = S3World(endpoint, 'output', folder=folder).create()
        prepared(world, lambda: spark)
        client('s3', endpoint).create_bucket(
            Bucket='reports', CreateBucketConfiguration={'LocationConstraint': 'eu-west-1'})
        yield world


def test_on_s3_with_the_glue_catalog(s3_world):
    "The report is the only thing written, one request a file"
    with Proxy(s3_world.endpoint) as proxy, environment(AWS_ENDPOINT_URL=proxy.endpoint):
        requests, _ = plan_requests(
            'late_arrivals', {'output_path': s3_world.output, 'partition_date': DAY, 'runs': 's3://reports/of/ours'})
        record, = run_all(requests)
        assert record['status'] == 'done', record['error']
        again, _ = plan_requests(
            None, {'again': record['notebook'].replace('.ipynb', '.record.json'), 'runs': 's3://reports/of/ours'})
        second, = run_all(again)
    waiting = next(f for f in record['answer']['findings'] if f['kind'] == 'not yet taken')
    assert len(waiting['where']) == 6 and waiting['count'] == 60
    assert second['digest'] == record['digest'] and second['again']['inputs'] == second['again']['result'] == []
    s3 = [(done, path) for done, path in proxy.requests if path.startswith(('/landing-zone', '/output', '/reports'))]
    writes = [(done, path) for done, path in s3 if done not in ('GET', 'LIST', 'HEAD')]
    assert (
        {done for done, _ in writes} == {'PUT'}
        and all(path.startswith('/reports/of/ours/late_arrivals/2025-11-02/') for _, path in writes)
        and len(writes) == 6)
    assert [done for done, path in s3 if path.startswith('/landing-zone')]


@pytest.mark.slow
def test_days_that_never_landed(lakes, tmp_path):
    root = tmp_path/'lake'
    shutil.copytree(lakes[0], root)
    land_sample(str(root), date='2025-11-03', files=3, records_per_file=5, payload_bytes=20)
    assert command('reconcile', *words(root, tmp_path/'runs', '--partition-date', '2025-11-03')) == 0
    record, = records(tmp_path/'runs')
    assert record['answer']['verdict'] == 'Wrong: no execution has committed this day, though 3 files have landed'


@pytest.mark.parametrize('width', [400, pytest.param(1280, marks=pytest.mark.slow)])
def test_pages_fit_their_window(reports, tmp_path, width):
    "In a real browser: the page itself never scrolls sideways, and a plot stays legible"
    browser = shutil.which('chromium') or shutil.which('google-chrome')
    if not browser: pytest.skip('no chromium here')
    for r in records(reports):
        probe = ('<script>document.title=JSON.stringify([document.documentElement.scrollWidth,innerWidth,'
                 '...[...document.images].map(i=>i.getBoundingClientRect().width)])</script></body>')
        page = tmp_path/'page.html'
        page.write_text(Path(r['page']).read_text().replace('</body>', probe))
        words = [
            browser, '--headless=new', '--no-sandbox', '--disable-gpu', f'--window-size={width},1200', '--dump-dom',
            page.as_uri()]
        shown = subprocess.run(words, capture_output=True, text=True, timeout=60).stdout
        wide, window, *plots = json.loads(html.unescape(shown[shown.index('<title>') + 7:shown.index('</title>')]))
        assert wide <= window, (r['investigation'], wide, window)
        assert min(plots, default=600) >= 500
