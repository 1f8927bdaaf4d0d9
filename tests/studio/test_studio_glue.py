"""All Studio notebooks through the real Glue kernel, in sessions that have what Glue 5.1 has and nothing of ours but
the wheel, with the sample in S3.

`make studio-test`; not part of `make test`, because the environment takes as long to make as all notebooks to run.
"""
import os
import subprocess
import sys
from pathlib import Path

import aws
import pytest
import runtimes

from chargeback_consolidation.build import package
from chargeback_consolidation.studio import workbench
from chargeback_consolidation.studio.sessions import Endpoint

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
GLUE = runtimes.RUNTIMES['5.1']
NOTEBOOKS = workbench.studio_notebooks(ROOT)


@pytest.fixture(scope='module')
def python():
    "A Python with Glue 5.1's packages: those that the job needs, and matplotlib"
    try:
        folder = runtimes.make_environment(
            'glue-5.1-studio', runtimes.find_python(GLUE.python), [*GLUE.requirements, 'matplotlib==3.10.7'])
    except runtimes.Missing as e: pytest.skip(f'Glue 5.1: {e}')
    return str(folder / 'bin/python')


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "Zip and wheel"
    return package.build_package(ROOT, tmp_path_factory.mktemp('dist'))


@pytest.fixture(scope='module')
def studio(python, built, tmp_path_factory):
    "A function that runs a notebook with the wheel and the sample in S3"
    with aws.moto() as url, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            'AWS_ENDPOINT_URL': url, 'AWS_ACCESS_KEY_ID': 'testing', 'AWS_SECRET_ACCESS_KEY': 'testing',
            'AWS_DEFAULT_REGION': aws.REGION}.items():
            patch.setenv(name, value)
        s3 = aws.client('s3', url)
        s3.create_bucket(Bucket='lake', CreateBucketConfiguration={'LocationConstraint': aws.REGION})
        for path in built: s3.upload_file(str(path), 'lake', f'glue/{path.name}')
        with Endpoint(python) as endpoint:
            kernels = workbench.install_kernel(tmp_path_factory.mktemp('kernels'), endpoint)
            yield lambda path, which=1: workbench.run_notebook(
                path, kernels, f's3://lake/glue/{built[which].name}', 's3://lake/sample')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs_from_top_to_bottom(studio, path):
    assert studio(path).problems == ()


def test_notebook_runs_with_the_zip_as_well(studio):
    path, = workbench.studio_notebooks(ROOT, ['28_job'])
    assert studio(path, which=0).problems == ()


# What the library is with Glue's packages alone

RUN = """
import os, sys
from chargeback_consolidation import entry, job
from chargeback_consolidation.sample.lake import run_words, sample_lake
from chargeback_consolidation.studio import show
assert not os.path.realpath(job.__file__).startswith({root!r}), job.__file__
sys.exit(entry.main(run_words(sample_lake(), max_null_key_rate=1, max_unreadable_rate=1)))
"""


def run(python, tmp_path, **environment):
    here = runtimes.clean_environment(
        JAVA_HOME=os.environ.get('JAVA_HOME') or runtimes.java_home(GLUE_STUDIO), **environment)
    done = subprocess.run(
        [python, '-c', RUN.format(root=str(ROOT / 'chargeback_consolidation'))], cwd=tmp_path, env=here,
        capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'METRICS: records_processed=40, duplicates_removed=15, output_files=2' in done.stdout


GLUE_STUDIO = runtimes.Runtime('5.1-studio', GLUE.python, GLUE.packages)


def test_zip_runs_the_job(python, built, tmp_path):
    run(python, tmp_path, PYTHONPATH=str(built[0]))


def test_wheel_is_installed_by_pip_and_runs_the_job(python, built, tmp_path):
    "With its requirements, as Glue's pip installs it: there is nothing left to fetch"
    before = subprocess.run([python, '-m', 'pip', 'freeze'], capture_output=True, text=True, check=True).stdout
    environment = tmp_path / 'environment'
    subprocess.run([python, '-m', 'venv', '--system-site-packages', environment], check=True)
    # A venv of a venv sees the packages of neither's parent: it is told where they are.
    site, = Path(python).parent.parent.glob('lib/python*/site-packages')
    own, = environment.glob('lib/python*/site-packages')
    (own / 'glue.pth').write_text(f'{site}\n')
    done = subprocess.run(
        [
            environment / 'bin/python', '-m', 'pip', 'install', '--quiet', '--no-index', '--disable-pip-version-check',
            str(built[1])],
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'chargeback' not in before and sys.executable != python
    run(str(environment / 'bin/python'), tmp_path)
