"""AWS Glue on this machine: a moto server that runs the jobs it is asked to start.

`run_job` does what Glue does with a job and a job run as the API has them: it merges the arguments and adds its own,
fetches the script from S3, runs it with spark-submit in the runtime of the job's GlueVersion, and writes what it
prints to the job's log group. `LocalGlue` is the server: StartJobRun, whoever calls it, starts that in the
background, and GetJobRun tells how it went.
"""
import hashlib
import re
import subprocess
import sys
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from runtimes import RUNTIMES, Missing, environment_of, prepare
from terraform_stack import REGION, Moto, serve

CONSUMED = {
    '--additional-python-modules', '--extra-py-files'}  # arguments that Glue acts upon here; the script sees them too
QUIET = (
    'log4j.rootCategory=ERROR, console\nlog4j.appender.console=org.apache.log4j.ConsoleAppender\n'
    'log4j.appender.console.layout=org.apache.log4j.SimpleLayout\n')
QUIET2 = (
    'rootLogger.level=error\nrootLogger.appenderRef.stderr.ref=console\nappender.console.type=Console\n'
    'appender.console.name=console\nappender.console.target=SYSTEM_ERR\n')

Outcome = namedtuple('Outcome', 'state exit_code error seconds lines')
Outcome.__doc__ = 'How a job run ended. lines: (milliseconds since 1970, text) of what it printed, in order.'


class CannotRun(Exception):
    "The job cannot be started as it is; the message becomes the run's ErrorMessage."


def clients(endpoint):
    "A function from a service's name to a client"
    import boto3
    return lambda service: boto3.client(
        service, endpoint_url=endpoint, region_name=REGION, aws_access_key_id='test', aws_secret_access_key='test')


def words_for(job, run):
    "The words that Glue puts behind the script's name"
    given = {**job.get('DefaultArguments', {}), **run.get('Arguments', {})}
    own = {
        '--JOB_ID': 'j_' + hashlib.sha256(job['Name'].encode()).hexdigest(), '--JOB_RUN_ID': run['Id'],
        '--JOB_NAME': job['Name']}
    if job.get('SecurityConfiguration'): own['--SECURITY_CONFIGURATION'] = job['SecurityConfiguration']
    return [
        word for pair in {**given, '--scriptLocation': job['Command']['ScriptLocation'], **own}.items() for word in pair
    ]


def log_streams(job, run):
    "(log group, log stream) of what the script prints"
    secured, role = job.get('SecurityConfiguration'), job['Role'].rsplit('/', 1)[-1]
    if float(job['GlueVersion']) < 5:
        return '/aws-glue/jobs/logs-v2' + (f'-{secured}' if secured else ''), f"{run['Id']}-driver"
    return '/aws-glue/jobs' + (f'/{secured}-role/{role}' if secured else '') + '/output', run['Id']


def runtime_of(job):
    "The runtime of the job, with the Python modules it asks for; `CannotRun` if there is none"
    if job['GlueVersion'] not in RUNTIMES: raise CannotRun(f"no runtime for Glue {job['GlueVersion']}")
    runtime = RUNTIMES[job['GlueVersion']]
    modules = [m for m in job.get('DefaultArguments', {}).get('--additional-python-modules', '').split(',') if m]
    others = [m for m in modules if m not in runtime.requirements]
    if others: raise CannotRun(f"the runtime of Glue {job['GlueVersion']} has no {', '.join(others)}")
    try: return prepare(runtime)
    except Missing as e: raise CannotRun(str(e)) from None


def fetch(s3, location, folder):
    "The object at `location`, as a file"
    bucket, key = re.fullmatch(r's3://([^/]+)/(.+)', location).groups()
    path = Path(folder, key.rsplit('/', 1)[-1])
    path.write_bytes(s3.get_object(Bucket=bucket, Key=key)['Body'].read())
    return path


def submit(runtime, script, words, endpoint, timeout):
    "Run the script as Glue does, under spark-submit; the `Outcome`"
    folder, started, lines = script.parent, time.monotonic(), []
    for name, text in (('log4j.properties', QUIET), ('log4j2.properties', QUIET2)): Path(folder, name).write_text(text)
    java = (
        f'-Dlog4j.configuration=file:{folder}/log4j.properties '
        f'-Dlog4j2.configurationFile=file:{folder}/log4j2.properties')
    spark = {
        'spark.driver.memory': '1g', 'spark.driver.host': '127.0.0.1', 'spark.driver.extraJavaOptions': java,
        'spark.ui.enabled': 'false', 'spark.ui.showConsoleProgress': 'false', 'spark.sql.shuffle.partitions': '4'}
    options = [word for k, v in spark.items() for word in ('--conf', f'{k}={v}')]
    aws = {
        'AWS_ENDPOINT_URL': endpoint, 'AWS_ACCESS_KEY_ID': 'test', 'AWS_SECRET_ACCESS_KEY': 'test',
        'AWS_DEFAULT_REGION': REGION, 'AWS_REGION': REGION, 'AWS_EC2_METADATA_DISABLED': 'true'}
    command = [runtime.bin / 'spark-submit', '--master', 'local[2]', *options, script, *words]
    process = subprocess.Popen(
        list(map(str, command)), cwd=folder,
        env=environment_of(runtime, PYSPARK_PYTHON=str(runtime.bin / 'python'), SPARK_LOCAL_IP='127.0.0.1', **aws),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors='replace')

    def follow(stream):
        for line in stream:
            if line.strip(): lines.append((int(time.time() * 1000), line.rstrip('\n')))
    with ThreadPoolExecutor(2) as pool:
        for stream in (process.stdout, process.stderr): pool.submit(follow, stream)
        try: code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            code = None
    state = 'TIMEOUT' if code is None else 'FAILED' if code else 'SUCCEEDED'
    error = (
        f"Exit code {code}: {lines[-1][1] if lines else 'the script said nothing'}"
        if code
        else 'the job run timed out'
        if code is None
        else '')
    return Outcome(state, code, error, time.monotonic() - started, lines)


def write_logs(logs, group, stream, lines):
    "Put lines into a log stream, which is made, as its group is"
    for make, names in (
        (logs.create_log_group, {'logGroupName': group}),
        (logs.create_log_stream, {'logGroupName': group, 'logStreamName': stream})):
        try: make(**names)
        except logs.exceptions.ResourceAlreadyExistsException: pass
    for i in range(0, len(lines), 1000):
        logs.put_log_events(
            logGroupName=group, logStreamName=stream,
            logEvents=[{'timestamp': t, 'message': text[:250_000]} for t, text in lines[i : i + 1000]])


def run_job(job, run, endpoint):
    "Run a job run; the `Outcome`, its lines also in the log group"
    client = clients(endpoint)
    try: runtime = runtime_of(job)
    except CannotRun as e: outcome = Outcome('FAILED', None, str(e), 0, [(int(time.time() * 1000), str(e))])
    else:
        with TemporaryDirectory() as folder:
            script = fetch(client('s3'), job['Command']['ScriptLocation'], folder)
            outcome = submit(runtime, script, words_for(job, run), endpoint, 60 * job.get('Timeout', 2880))
    write_logs(client('logs'), *log_streams(job, run), outcome.lines)
    return outcome


# The server


def run_what_is_started():
    "Make moto run its job runs, and let their states say how it goes"
    from moto.core.utils import utcnow
    from moto.glue.models import FakeJob, FakeJobRun
    start, as_dict = FakeJob.start_job_run, FakeJobRun.as_dict

    def work(job, run):
        run.status = 'RUNNING'
        try: outcome = run_job(job.as_dict(), run.as_dict(), run.endpoint)
        except Exception as e: outcome = Outcome('FAILED', None, f'{type(e).__name__}: {e}', 0, [])
        run.outcome, run.completed_on = outcome, utcnow()
        run.status = outcome.state

    def start_job_run(self, **given):
        from flask import request
        id = start(self, **given)
        run = next(r for r in self.job_runs if r.job_run_id == id)
        run._transitions, run.outcome, run.endpoint, run.version = (
            [], None, request.host_url.rstrip('/'), self.glue_version)
        threading.Thread(target=work, args=(self, run), daemon=True).start()
        return id

    def describe(self):
        found = dict(
            as_dict(self), GlueVersion=self.version, ExecutionTime=int(self.outcome.seconds) if self.outcome else 0)
        if not self.outcome: del found['CompletedOn']
        elif self.outcome.error: found['ErrorMessage'] = self.outcome.error
        return found

    FakeJob.start_job_run, FakeJobRun.as_dict = start_job_run, describe


class LocalGlue(Moto):
    "A moto server whose job runs run; ends with this process at the latest"

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        if not self.url: raise RuntimeError('the moto server did not start')

    def wait(self, job, run, seconds=600):
        "The job run when it has ended"
        glue, deadline = self.client('glue'), time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = glue.get_job_run(JobName=job, RunId=run)['JobRun']
            if found['JobRunState'] not in ('STARTING', 'RUNNING'): return found
            time.sleep(0.5)
        raise AssertionError(f"{run} is still {found['JobRunState']} after {seconds} s")


if __name__ == '__main__':
    run_what_is_started()
    serve()
