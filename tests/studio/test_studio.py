"""Glue Studio notebooks, run by the real Glue kernel against the sessions of this machine; and what those sessions
promise."""
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import aws
import boto3
import nbformat
import psutil
import pytest
from botocore.exceptions import ClientError
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from chargeback_consolidation.build import package
from chargeback_consolidation.build.studio import STUDIO, STUDIO_MAGICS, STUDIO_SAMPLE
from chargeback_consolidation.studio import sessions, workbench
from chargeback_consolidation.studio.sessions import FINAL, Endpoint

ROOT = Path(__file__).parents[2]
QUESTIONS = sorted((ROOT / 'nbs/investigations').glob('*.ipynb'))
pytestmark = pytest.mark.xdist_group('studio')


# Notebooks


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    return str(package.build_zip(ROOT, tmp_path_factory.mktemp('library'), package.version_of(ROOT)))


@pytest.fixture(scope='module')
def endpoint():
    with Endpoint() as e:
        yield e


@pytest.fixture(scope='module')
def kernels(tmp_path_factory, endpoint):
    return workbench.install_kernel(tmp_path_factory.mktemp('kernels'), endpoint)


@pytest.fixture
def bucket(monkeypatch):
    "A bucket in S3, which the sessions see as this process does"
    with aws.moto() as url:
        for name, value in {
            'AWS_ENDPOINT_URL': url, 'AWS_ACCESS_KEY_ID': 'testing', 'AWS_SECRET_ACCESS_KEY': 'testing',
            'AWS_DEFAULT_REGION': aws.REGION}.items():
            monkeypatch.setenv(name, value)
        s3 = aws.client('s3', url)
        s3.create_bucket(Bucket='lake', CreateBucketConfiguration={'LocationConstraint': aws.REGION})
        yield s3


def keys(s3, prefix):
    return [o['Key'] for o in s3.list_objects_v2(Bucket='lake', Prefix=prefix).get('Contents', [])]


def outputs(notebook):
    return ''.join(workbench.text_of(c, 'stdout') for c in notebook.cells)


def test_every_sample_of_a_studio_notebook_lies_in_s3():
    "A notebook says where its sample lies in the cell of its parameters"
    said = {p.name: p.read_text() for p in sorted((ROOT / STUDIO).rglob('*.ipynb'))}
    assert not [name for name, text in said.items() if 'SAMPLE = None' in text]
    assert sum(STUDIO_SAMPLE in text for text in said.values()) > 10


def test_stage_notebook_runs_with_library_and_sample_in_s3(bucket, kernels, library):
    bucket.upload_file(library, 'lake', 'glue/library.zip')
    path, = workbench.studio_notebooks(ROOT, ['15_inventory'])
    before = set(psutil.Process().children(recursive=True))
    outcome = workbench.run_notebook(path, kernels, 's3://lake/glue/library.zip', 's3://lake/sample')
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [p for p in left if 'glue' in ' '.join(p.cmdline()).lower()], 'a kernel is left'
    assert outcome.problems == ()
    assert len(keys(bucket, 'sample/landing/chargebacks/2025/11/02/part-')) == 6
    assert 'part-2-0.parquet' in outputs(outcome.notebook)


@pytest.mark.slow
def test_investigation_runs_and_shows_text_and_figure(kernels, library, tmp_path):
    path, = workbench.studio_notebooks(ROOT, ['reconcile'])
    outcome = workbench.run_notebook(path, kernels, library, str(tmp_path / 'sample'))
    assert outcome.problems == ()
    assert 'part-2-0.parquet' in outputs(outcome.notebook) and 'object at 0x' not in outputs(outcome.notebook)
    assert [o for c in outcome.notebook.cells for o in c.get('outputs', ()) if 'image/png' in o.get('data', {})]


def notebook(path, *cells):
    v = nbformat.v4
    nb = v.new_notebook(
        cells=[v.new_code_cell(o) for o in (STUDIO_MAGICS, *cells)],
        metadata={'kernelspec': {'name': 'glue_pyspark', 'display_name': 'Glue PySpark'}})
    path.write_text(nbformat.writes(nb))
    return path


DONE = "print('All cells have run: it')"


@pytest.mark.parametrize('cells, problem', [
    (['x = 1', 'x / 0', DONE], 'cell 3 (`x / 0`): ZeroDivisionError: division by zero'),
    pytest.param(['def f(:', DONE], 'cell 2 (`def f(:`): SyntaxError: ', marks=pytest.mark.slow),
    (['import os, signal\nos.kill(os.getpid(), signal.SIGKILL)', DONE], 'SessionDied'),
    pytest.param(['x = 1'], 'the last cell did not say that all cells have run', marks=pytest.mark.slow),
])
def test_failing_notebook_is_reported(kernels, library, tmp_path, cells, problem):
    outcome = workbench.run_notebook(notebook(tmp_path / 'it.ipynb', *cells), kernels, library, str(tmp_path))
    assert len(outcome.problems) >= 1 and problem in outcome.problems[0], outcome.problems


def test_notebook_whose_session_cannot_be_made_is_reported(kernels, tmp_path):
    outcome = workbench.run_notebook(
        notebook(tmp_path / 'it.ipynb', 'x = 1', DONE), kernels, str(tmp_path / 'gone.zip'), str(tmp_path))
    assert 'gone.zip cannot be read' in ' '.join(outcome.problems)


DIES = """
import os, sys
folder, times, *argv = sys.argv[1:]
died = len(os.listdir(folder))
if died < int(times): sys.exit(open(os.path.join(folder, str(died)), 'w').close() or 'the port is taken')
os.execv(argv[0], argv)
"""


@pytest.mark.parametrize('times, problem', [(2, ''), (3, 'Kernel died before replying')])
def test_a_kernel_that_dies_before_it_answers_is_started_again(kernels, library, tmp_path, times, problem):
    "As where a port that was free has been taken meanwhile; after the third time that is what is wrong"
    place, deaths = Path('kernels', workbench.KERNEL, 'kernel.json'), tmp_path / 'deaths'
    spec = json.loads((kernels / place).read_text())
    spec['argv'] = [sys.executable, '-c', DIES, str(deaths), str(times), *spec['argv']]
    deaths.mkdir()
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(json.dumps(spec))
    path = notebook(tmp_path / 'it.ipynb', 'x = 1', DONE)
    outcome = workbench.run_notebook(path, tmp_path, library, str(tmp_path))
    assert len(list(deaths.iterdir())) == times
    assert problem in ' '.join(outcome.problems) if problem else outcome.problems == ()


def test_command_ends_non_zero_and_names_what_failed(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / 'chargeback_consolidation', tmp_path / 'chargeback_consolidation')
    for name in package.DESCRIBED_BY: shutil.copy(ROOT / name, tmp_path)
    (tmp_path / workbench.STUDIO).mkdir(parents=True)
    for name, cell in (('good', '1 + 1'), ('bad', 'nowhere')):
        notebook(tmp_path / workbench.STUDIO / f'{name}.ipynb', cell, f"print('All cells have run: {name}')")
    monkeypatch.chdir(tmp_path)
    assert workbench.main(['run']) == 1
    assert '1 of 2 notebooks failed: bad' in capsys.readouterr().out
    assert workbench.main(['run', 'goood']) == 1
    assert capsys.readouterr().err == 'there is no Studio notebook goood; there are: bad, good\n'


@pytest.mark.parametrize(
    'words, message',
    [
        (['--library', '/tmp/x.zip', '--sample', 's3://lake/sample'], '--library must be a location in S3'),
        (
            ['--library', 's3://lake/x.zip', '--sample', 's3://YOUR-BUCKET/sample'],
            '--sample must be a location in S3 that is yours')])
def test_copies_for_aws_need_locations_in_s3(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(ROOT)
    assert workbench.main(['fill', *words, '--to', str(tmp_path / 'out')]) == 1
    assert message in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_copies_for_aws_name_the_bucket_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert (
        workbench.main(['fill', '--library', 's3://lake/x.whl', '--sample', 's3://lake/sample', '--to', str(tmp_path)])
        == 0)
    texts = [p.read_text() for p in tmp_path.rglob('*.ipynb')]
    assert len(texts) == len(workbench.studio_notebooks(ROOT)) and not [t for t in texts if 'YOUR-BUCKET' in t]
    assert all('%additional_python_modules s3://lake/x.whl' in t for t in texts)


# At the kernel


class Kernel:
    "A Glue kernel, and what it printed"

    def __init__(self, folder):
        self.manager = KernelManager(
            kernel_name=workbench.KERNEL,
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(Path(folder, 'kernels'))]))
        self.manager.start_kernel(env=workbench.without_aws())
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(60)

    def run(self, code, timeout=60):
        said = []
        def hook(message):
            content = message['content']
            said.append(content.get('text') or content.get('evalue') or '')
        self.client.execute_interactive(code, output_hook=hook, timeout=timeout)
        return ''.join(said)

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def start(kernels):
    started = []
    def make():
        started.append(Kernel(kernels))
        return started[-1]
    yield make
    for kernel in started: kernel.close()


def session_of(endpoint, kernel):
    return endpoint.api.session(kernel.run('%session_id').split()[-1])


def wait(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it did not happen'
        time.sleep(0.05)


def interrupt(kernel, session):
    "Interrupt a cell once the kernel waits for its statement"
    wait(lambda: session.statements[-1].state == 'RUNNING')
    time.sleep(1)
    kernel.manager.interrupt_kernel()
    wait(lambda: session.statements[-1].state in FINAL)
    assert session.statements[-1].state == 'CANCELLED'


def test_interrupted_cell_cancels_its_statement(endpoint, start):
    kernel = start()
    kernel.run('x = 41')
    session = session_of(endpoint, kernel)
    kernel.client.execute('import time\nwhile True: time.sleep(0.1)')
    interrupt(kernel, session)
    assert '42' in kernel.run('x + 1')


@pytest.mark.slow
def test_interrupt_reaches_spark(endpoint, start):
    kernel = start()
    kernel.run('spark.range(1).count()')
    session = session_of(endpoint, kernel)
    kernel.client.execute("spark.sparkContext.range(2).map(lambda i: __import__('time').sleep(60)).count()")
    interrupt(kernel, session)
    assert '3' in kernel.run('spark.range(3).count()', timeout=30)
    assert '[]' in kernel.run('sc.statusTracker().getActiveJobsIds()')


def test_dead_session_says_so_and_what_helps(endpoint, start):
    kernel = start()
    kernel.run('x = 1')
    session_of(endpoint, kernel).process.kill()
    said = kernel.run('x')
    assert 'was killed by SIGKILL' in said and 'run %stop_session, then your cells from the top' in said
    assert 'Stopped session' in kernel.run('%stop_session')
    assert "name 'x' is not defined" in kernel.run('x')


@pytest.mark.slow
def test_two_sessions_do_not_disturb_each_other(endpoint, start):
    kernels, code = (
        [start(), start()],
        ("spark.range({0}).createOrReplaceTempView('mine'); mine = {0}\nspark.sql('select count(*) n from "
        "mine').first()['n'], spark.sparkContext.applicationId")
    )
    said = {}
    threads = [
        threading.Thread(target=lambda i=i, k=k: said.update({i: k.run(code.format(10 + i))}))
        for i, k in enumerate(kernels)]
    for t in threads: t.start()
    for t in threads: t.join()
    found = [said[i].strip().split('\n')[-1].strip("()'").split(", '") for i in range(2)]
    assert [n for n, _ in found] == ['10', '11'] and found[0][1] != found[1][1]
    first, second = (session_of(endpoint, k) for k in kernels)
    first.process.kill()
    assert '11' in kernels[1].run('mine') and second.as_reply()['Status'] == 'READY'


# At the API


def create(glue, name, **request):
    return glue.create_session(
        Id=name, Role='arn:aws:iam::000000000000:role/local', Command={'Name': 'glueetl', 'PythonVersion': '3'},
        **request)


def ended(glue, session, number):
    while True:
        statement = glue.get_statement(SessionId=session, Id=number)['Statement']
        if statement['State'] in FINAL: return statement


def run(glue, session, code):
    return ended(glue, session, glue.run_statement(SessionId=session, Code=code)['Id'])


@pytest.fixture
def glue(endpoint, request):
    "A client of the API with a session that is named like the test"
    client = endpoint.client()
    create(client, request.node.name)
    client.name = request.node.name
    yield client
    client.delete_session(Id=client.name)


def error_of(call, **request):
    with pytest.raises(ClientError) as e: call(**request)
    return e.value.response['Error']['Code'], e.value.response['Error']['Message']


@pytest.mark.parametrize(
    'code, text',
    [
        ('1 + 1', '2'), ("print('a')\n'b'", "a\n'b'"), ('x = 1', ''), ('None', ''),
        ('for i in range(2): print(i)', '0\n1'), ("'''\n%not a magic\n'''", "'\\n%not a magic\\n'"),
        ("import os; os.system('echo past Python')", '0'), ('def f(spark): return spark\nf(2)', '2'),
        ("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 1\nA()", 'A(x=1)')])
def test_statement_prints_what_it_prints_and_its_last_value(endpoint, code, text):
    if 'shared' not in endpoint.api.sessions: create(endpoint.client(), 'shared')
    assert run(endpoint.client(), 'shared', code)['Output'] == {
        'Data': {'TextPlain': text}, 'ExecutionCount': len(endpoint.api.sessions['shared'].statements) - 1,
        'Status': 'ok'}


def test_error_has_name_value_and_traceback_of_the_cells(glue):
    run(glue, glue.name, "def f(): return {}['gone']")
    output = run(glue, glue.name, 'f()')['Output']
    assert (output['Status'], output['ErrorName'], output['ErrorValue']) == ('error', 'KeyError', "'gone'")
    text = ''.join(output['Traceback'])
    assert "def f(): return {}['gone']" in text and 'glue_session.py' not in text


def test_exit_and_stray_magics_are_errors_not_ends(glue):
    assert run(glue, glue.name, 'exit(3)')['Output']['ErrorName'] in ('SystemExit', 'NameError')
    assert run(glue, glue.name, 'import sys; sys.exit(3)')['Output']['ErrorName'] == 'SystemExit'
    assert 'only at the very top' in run(glue, glue.name, 'x = 1\n%glue_version 5.1')['Output']['ErrorValue']
    assert run(glue, glue.name, 'x = 1\nx')['Output']['Data']['TextPlain'] == '1'


def test_waiting_statement_is_cancelled_without_running(glue, tmp_path):
    first = glue.run_statement(SessionId=glue.name, Code='import time; time.sleep(2)')['Id']
    second = glue.run_statement(SessionId=glue.name, Code=f"open({str(tmp_path / 'ran')!r}, 'w')")['Id']
    assert glue.get_statement(SessionId=glue.name, Id=second)['Statement']['State'] == 'WAITING'
    glue.cancel_statement(SessionId=glue.name, Id=second)
    assert (
        ended(glue, glue.name, second)['State'] == 'CANCELLED' and ended(glue, glue.name, first)['State'] == 'AVAILABLE'
    )
    assert not (tmp_path / 'ran').exists()


def test_cancel_after_the_end_changes_nothing(glue):
    number = glue.run_statement(SessionId=glue.name, Code='6 * 7')['Id']
    ended(glue, glue.name, number)
    glue.cancel_statement(SessionId=glue.name, Id=number)
    assert glue.get_statement(SessionId=glue.name, Id=number)['Statement']['State'] == 'AVAILABLE'
    assert run(glue, glue.name, '1')['Output']['Status'] == 'ok'


def test_stopped_session_takes_its_processes_along(endpoint):
    glue = endpoint.client()
    create(glue, 'stopped')
    run(glue, 'stopped', 'spark.range(3).count()')
    family = [p := psutil.Process(endpoint.api.session('stopped').process.pid), *p.children(recursive=True)]
    assert any('java' in p.name() for p in family)
    number = glue.run_statement(SessionId='stopped', Code='import time; time.sleep(60)')['Id']
    glue.stop_session(Id='stopped')
    assert ended(glue, 'stopped', number)['State'] == 'CANCELLED'
    assert psutil.wait_procs(family, 10)[1] == []
    assert error_of(glue.run_statement, SessionId='stopped', Code='1')[0] == 'IllegalSessionStateException'
    glue.stop_session(Id='stopped')
    folder = endpoint.api.session('stopped').folder
    glue.delete_session(Id='stopped')
    assert not folder.exists() and error_of(glue.get_session, Id='stopped')[0] == 'EntityNotFoundException'


def test_session_ends_with_a_killed_endpoint(tmp_path):
    code = """
from chargeback_consolidation.studio.sessions import Endpoint
endpoint = Endpoint()
glue = endpoint.client()
command = {'Name': 'glueetl', 'PythonVersion': '3'}
glue.create_session(Id='x', Role='arn:aws:iam::000000000000:role/local', Command=command)
glue.run_statement(SessionId='x', Code='import time; time.sleep(100)')
print(endpoint.api.session('x').process.pid, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=dict(os.environ, TMPDIR=str(tmp_path))) as process:
        session = psutil.Process(int(process.stdout.readline()))
        assert session.is_running()
        process.kill()
    assert psutil.wait_procs([session], 10)[1] == []


def test_idle_session_ends(endpoint, monkeypatch):
    monkeypatch.setattr(sessions.Session, '__init__', with_short_minutes(sessions.Session.__init__))
    glue = endpoint.client()
    create(glue, 'idle', IdleTimeout=1)
    wait(lambda: glue.get_session(Id='idle')['Session']['Status'] == 'TIMEOUT')
    assert error_of(glue.run_statement, SessionId='idle', Code='1')[0] == 'InvalidInputException'


def with_short_minutes(init):
    def made(self, request, *args): init(self, dict(request, IdleTimeout=0.02), *args)
    return made


def test_session_has_its_files_and_its_own_folder(glue, endpoint, library, tmp_path):
    (tmp_path / 'helper.py').write_text("WORD = 'helped'")
    create(glue, 'files', DefaultArguments={'--extra-py-files': f"{library},{tmp_path / 'helper.py'}"})
    code = 'import chargeback_consolidation as c, helper, os\nc.__file__, helper.WORD, os.getcwd()'
    place, word, folder = eval(run(glue, 'files', code)['Output']['Data']['TextPlain'])
    assert (
        place.startswith(folder)
        and '.zip/' in place
        and word == 'helped'
        and folder == str(endpoint.api.session('files').folder))


@pytest.mark.parametrize('arguments, message', [
    ({'--extra-py-files': '/nowhere/x.zip'}, '/nowhere/x.zip cannot be read'),
    ({'--additional-python-modules': '/nowhere/x.whl'}, '/nowhere/x.whl cannot be read'),
])
def test_session_with_wrong_files_is_refused_and_can_be_made_again(endpoint, arguments, message):
    glue = endpoint.client()
    for _ in range(2):
        code, text = error_of(create, glue=glue, name='wrong', DefaultArguments=arguments)
        assert code == 'InvalidInputException' and message in text


def test_strangers_and_unknown_operations_are_refused(endpoint, glue):
    other = boto3.client(
        'glue', endpoint_url=endpoint.url, region_name='eu-central-1', aws_access_key_id='other',
        aws_secret_access_key='local')
    assert error_of(other.list_sessions)[0] == 'AccessDeniedException'
    assert error_of(glue.get_tables, DatabaseName='x')[0] == 'UnknownOperationException'
    assert error_of(glue.get_session, Id='nobody')[0] == 'EntityNotFoundException'
    assert error_of(glue.get_statement, SessionId=glue.name, Id=7)[0] == 'EntityNotFoundException'
    assert error_of(create, glue=glue, name=glue.name)[0] == 'AlreadyExistsException'


# The package


def clone(place, mode):
    "The sources of the package in another place, with other permissions and times"
    place.mkdir()
    for path in [*(ROOT / package.NAME).glob('*.py'), *(ROOT / o for o in package.DESCRIBED_BY)]:
        copied = place / path.relative_to(ROOT)
        copied.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copied)
        copied.chmod(mode)
        os.utime(copied, (mode, mode))
    (place / 'build/lib').mkdir(parents=True)
    (place / 'build/lib/left.py').write_text("LEFT = 'from an earlier build'")
    return place


def test_package_is_the_same_from_two_clones(tmp_path):
    one, two = clone(tmp_path / 'one', 0o644), clone(tmp_path / 'deeper-two', 0o600)
    old = os.umask(0o077)
    try: first = [p.read_bytes() for p in package.build_package(one)]
    finally: os.umask(old)
    done = subprocess.run(
        [sys.executable, '-m', 'chargeback_consolidation.build.package'], cwd=two, capture_output=True, text=True,
        env=dict(os.environ, TZ='Asia/Tokyo'))
    assert done.returncode == 0, done.stderr
    second = [p.read_bytes() for p in sorted((two / package.DIST).iterdir(), key=lambda p: p.suffix, reverse=True)]
    assert first == second and len(first) == 2


def test_package_of_an_earlier_version_is_removed(tmp_path):
    root = clone(tmp_path / 'one', 0o644)
    (root / package.DIST).mkdir(parents=True)
    (root / package.DIST / 'chargeback_consolidation-0.0.9.zip').write_bytes(b'')
    made = package.build_package(root)
    assert sorted((root / package.DIST).iterdir()) == sorted(made)


def test_package_outside_the_project_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert package.main([]) == 1
    assert 'call this in the project' in capsys.readouterr().err


def test_library_imports_nothing_that_glue_lacks(library, tmp_path):
    "What Studio notebooks import, and what that imports: modules of the standard library, of Glue, and our own"
    names = ['job', 'answers.day', *(f'answers.{p.stem}' for p in QUESTIONS), 'studio.show', 'sample.lake']
    modules = ', '.join(f'chargeback_consolidation.{n}' for n in names)
    code = f'import sys; sys.path.insert(0, {library!r}); import {modules}; print(*sys.modules)'
    loaded = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=tmp_path).stdout.split()
    assert {o.split('.')[0] for o in loaded} & {
        'nbdev', 'rich', 'rich_click', 'IPython', 'nbformat', 'papermill', 'moto'} == set()
    assert not [
        o
        for o in loaded
        if o
        in {
            f'chargeback_consolidation.{n}' for n in (
                'commands.cli', 'build.project', 'answers.request', 'build.package',
                'studio.sessions', 'studio.workbench')
        }
    ]


def test_studio_notebooks_parse_as_the_kernel_reads_them():
    "Magics stand at the very top only; what comes after them is Python, or %matplot"
    for path in workbench.studio_notebooks(ROOT):
        first, *cells = [
            ''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
        assert first == STUDIO_MAGICS
        for source in cells:
            compile('\n'.join(line for line in source.split('\n') if line != '%matplot plt'), path.name, 'exec')
