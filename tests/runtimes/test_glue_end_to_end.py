"""From Terraform to the consolidated day: what the schedules start, and what an operator types, runs on a local Glue.

The deployment is the module's, the script runs in the runtime of its GlueVersion, and the AWS CLI is the real one.
"""
import json
import os
import re
import shlex
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import oracle
import pytest
import runtimes
from glue_runner import LocalGlue
from runtimes import RUNTIMES, catalog_table, clean_environment, download
from terraform_stack import REGION, Missing, Stack

from chargeback_consolidation.sample.landing import land_sample

pytestmark = [pytest.mark.xdist_group('runtime 5.1'), pytest.mark.timeout(1800)]

JOB, DAY = 'chargebacks-e2e', '2025-11-02'
VARIABLES = {
    'name': JOB, 'source_database': 'payments', 'source_table': 'chargebacks', 'landing_bucket': 'e2e-landing',
    'output_bucket': 'e2e-output', 'script_bucket': 'e2e-script', 'output_database': 'lake',
    'output_table': 'consolidated', 'output_file_count': 4}
LANDING, OUTPUT = 'landing/chargebacks', 'consolidated/chargebacks'
METRICS = re.compile(
    r'METRICS: records_processed=(\d+), duplicates_removed=(\d+), output_files=(\d+), duration_seconds=(\d+\.\d\d)$',
    re.MULTILINE)


@pytest.fixture(scope='module')
def glue():
    with LocalGlue() as server: yield server


@pytest.fixture(scope='module')
def landed(glue, tmp_path_factory):
    """The lake that has landed in the bucket: the day of the sample, and those that a run without arguments may take
    for yesterday"""
    lake, s3 = tmp_path_factory.mktemp('lake'), glue.client('s3')
    # Made here and not by Terraform: moto would apply the bucket policy's Deny to every request.
    for bucket in ('e2e-landing', 'e2e-output', 'e2e-script'):
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={'LocationConstraint': REGION})
    now = datetime.now(UTC).date()
    recent = [str(now - timedelta(days=1)), str(now)]
    for day in [DAY, *recent]:
        land_sample(
            str(lake), 'landing', 'chargebacks', day, workers=1, files=12, records_per_file=40, payload_bytes=60,
            versions=0.1, redelivered_records=0.05)
    for path in sorted(lake.rglob('*.parquet')):
        s3.put_object(Bucket='e2e-landing', Key=str(path.relative_to(lake)), Body=path.read_bytes())
    catalog_table(glue.client('glue'), 'payments', f's3://e2e-landing/{LANDING}', [DAY, *recent])
    glue.client('glue').create_database(DatabaseInput={'Name': 'lake'})
    return lake / LANDING


@pytest.fixture(scope='module')
def outputs(glue, landed, tmp_path_factory):
    "What Terraform says about the deployment"
    try:
        runtimes.prepare(RUNTIMES['5.1'])
        stack = Stack(tmp_path_factory.mktemp('deployment'), glue.url).init()
    except (Missing, runtimes.Missing) as e: pytest.skip(str(e))
    stack.apply(**VARIABLES)
    return stack.outputs()


@pytest.fixture(scope='module')
def scheduled(glue, outputs):
    "The job run that the first schedule of the day describes, ended"
    schedule = glue.client('scheduler').get_schedule(
        Name=outputs['schedule_names'][0], GroupName=outputs['schedule_group'])
    request = json.loads(schedule['Target']['Input'].replace('<aws.scheduler.scheduled-time>', '2025-11-03T01:00:00Z'))
    return glue.wait(JOB, glue.client('glue').start_job_run(**request)['JobRunId'])


def log_of(glue, outputs, run):
    events = glue.client('logs').filter_log_events(
        logGroupName=outputs['metrics_log_group'], logStreamNames=[run['Id']])['events']
    return '\n'.join(e['message'] for e in events)


def files_of(glue, day, folder):
    "The day's files in S3, downloaded"
    prefix = '{}/year={}/month={}/day={}/'.format(OUTPUT, *day.split('-'))
    return sorted(p for p in download(glue.client('s3'), 'e2e-output', prefix, folder).rglob('*') if p.is_file())


def expected(landed, day):
    paths = sorted(str(p.relative_to(landed)) for p in (landed / day.replace('-', '/')).glob('*.parquet'))
    return oracle.consolidated(landed, paths)


def test_scheduled_run_succeeds(glue, outputs, scheduled):
    assert scheduled['JobRunState'] == 'SUCCEEDED', log_of(glue, outputs, scheduled) + scheduled.get('ErrorMessage', '')
    assert scheduled['GlueVersion'] == '5.1'


def test_metrics_line_is_in_the_log_group_that_the_query_asks(glue, outputs, scheduled, landed):
    day = expected(landed, DAY)
    lines = METRICS.findall(log_of(glue, outputs, scheduled))
    assert [line[:3] for line in lines] == [
        (str(day.records), str(day.records - len(day.keyless) - len(day.rows)), '4')]


def test_metrics_are_in_cloudwatch(glue, outputs, scheduled, landed):
    watch = glue.client('cloudwatch')
    known = {m['MetricName']: m for m in watch.list_metrics(Namespace=outputs['metrics_namespace'])['Metrics']}
    assert {'RecordsProcessed', 'DuplicatesRemoved', 'Succeeded'} <= set(known)
    now = datetime.now(UTC)
    points = watch.get_metric_statistics(
        Namespace=outputs['metrics_namespace'], MetricName='RecordsProcessed',
        Dimensions=known['RecordsProcessed']['Dimensions'], StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(hours=1), Period=7200, Statistics=['Maximum'])['Datapoints']
    assert max(p['Maximum'] for p in points) >= expected(landed, DAY).records


def test_partition_is_in_the_catalog(glue, scheduled):
    partition = glue.client('glue').get_partition(
        DatabaseName='lake', TableName='consolidated', PartitionValues=DAY.split('-'))['Partition']
    assert partition['StorageDescriptor']['Location'].rstrip(
        '/') == 's3://e2e-output/{}/year={}/month={}/day={}'.format(OUTPUT, *DAY.split('-'))


def test_files_are_in_s3_and_hold_the_day(glue, scheduled, landed, tmp_path):
    files = files_of(glue, DAY, tmp_path)
    assert len(files) == 4 and oracle.by_key(oracle.rows_of(files)) == expected(landed, DAY).rows


def test_files_are_encrypted_with_the_key(glue, outputs, scheduled):
    s3 = glue.client('s3')
    keys = [o['Key'] for o in s3.list_objects_v2(Bucket='e2e-output', Prefix=OUTPUT)['Contents']]
    assert {s3.head_object(Bucket='e2e-output', Key=k).get('SSEKMSKeyId') for k in keys} == {outputs['kms_key_arn']}


# With the AWS CLI


def find_cli():
    "The first AWS CLI on the PATH that runs, version 2 before version 1; None if there is none"
    found = {}
    for folder in os.environ['PATH'].split(os.pathsep):
        program = shutil.which('aws', path=folder)
        done = program and subprocess.run(
            [program, '--version'], capture_output=True, text=True, env=clean_environment())
        if done and done.returncode == 0: found.setdefault(done.stdout[:9], program)
    return found.get('aws-cli/2', found.get('aws-cli/1'))


@pytest.fixture(scope='module')
def aws(glue, outputs):
    "A function that runs the AWS CLI as an operator would and returns what it prints"
    program = find_cli()
    if not program:
        try: program = runtimes.make_environment('aws', runtimes.find_python('3.11'), ['awscli==1.45.11']) / 'bin/aws'
        except runtimes.Missing as e: pytest.skip(f'no AWS CLI: {e}')
    environment = clean_environment(
        AWS_DEFAULT_REGION=REGION, AWS_ACCESS_KEY_ID='test', AWS_SECRET_ACCESS_KEY='test', AWS_PAGER='')

    def run(*words):
        done = subprocess.run(
            [str(program), '--endpoint-url', glue.url, *words], capture_output=True, text=True, env=environment,
            timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout
    return run


@pytest.fixture
def start(aws, glue, scheduled):
    "A function that starts a job run with these arguments and returns it, ended"
    def run(arguments=None):
        given = [] if arguments is None else ['--arguments', json.dumps(arguments)]
        return glue.wait(JOB, json.loads(aws('glue', 'start-job-run', '--job-name', JOB, *given))['JobRunId'])
    return run


def content(glue):
    return {
        o['Key']: (o['ETag'], o['LastModified'])
        for o in glue.client('s3').list_objects_v2(Bucket='e2e-output')['Contents']}


@pytest.mark.slow
def test_operator_starts_a_run_without_arguments(glue, outputs, start):
    run = start()
    assert run['JobRunState'] == 'SUCCEEDED', log_of(glue, outputs, run)
    assert METRICS.findall(log_of(glue, outputs, run))[0][2] == '4'


@pytest.mark.slow
def test_operator_runs_an_old_day_again_with_another_file_count(glue, outputs, start, landed, tmp_path):
    run = start({'--PARTITION_DATE': DAY, '--OUTPUT_FILE_COUNT': '5'})
    assert run['JobRunState'] == 'SUCCEEDED', log_of(glue, outputs, run)
    files = files_of(glue, DAY, tmp_path)
    assert len(files) == 5 and oracle.by_key(oracle.rows_of(files)) == expected(landed, DAY).rows


@pytest.mark.slow
def test_operator_tries_a_run_dry(glue, outputs, start):
    before = content(glue)
    run = start({'--DRY_RUN': 'true', '--PARTITION_DATE': DAY, '--REPROCESS': 'true'})
    assert run['JobRunState'] == 'SUCCEEDED', log_of(glue, outputs, run)
    assert METRICS.findall(log_of(glue, outputs, run))[0][2] == '0'
    assert content(glue) == before


@pytest.mark.slow
def test_failed_run_says_why(glue, outputs, start):
    run = start({'--PARTITION_DATE': '2025-10-01'})
    assert (run['JobRunState'], run['ErrorMessage'][:32]) == ('FAILED', 'Exit code 3: nothing has landed ')
    run = start({'--OUTPUT_FILE_COUNT': 'none'})
    assert (run['JobRunState'], run['ErrorMessage'][:34]) == ('FAILED', 'Exit code 2: --OUTPUT_FILE_COUNT m')


@pytest.mark.slow
def test_operator_sees_runs_and_log(aws, outputs, scheduled):
    runs = json.loads(aws('glue', 'get-job-runs', '--job-name', JOB))['JobRuns']
    assert scheduled['Id'] in [r['Id'] for r in runs] and {r['JobRunState'] for r in runs} <= {'SUCCEEDED', 'FAILED'}
    found = aws(
        'logs', 'filter-log-events', '--log-group-name', outputs['metrics_log_group'], '--log-stream-name-prefix',
        scheduled['Id'], '--query', 'events[].message')
    assert [line for line in json.loads(found) if METRICS.search(line)]


@pytest.mark.slow
def test_operator_follows_the_log(aws, outputs, scheduled):
    if aws('--version').startswith('aws-cli/1.'):
        pytest.skip("aws logs tail needs version 2 of the AWS CLI, which PyPI does not have; Debian's awscli is one")
    assert METRICS.search(aws('logs', 'tail', outputs['metrics_log_group'], '--since', '1h', '--format', 'short'))


@pytest.mark.slow
def test_commands_that_terraform_prints_work(aws, glue, outputs, scheduled):
    words = {name: shlex.split(command)[1:] for name, command in outputs['commands'].items()}
    assert aws(*words['runs'])
    run = glue.wait(JOB, json.loads(aws(*words['start']))['JobRunId'])
    assert run['JobRunState'] == 'SUCCEEDED'
    assert words['logs'][:3] == ['logs', 'tail', outputs['metrics_log_group']]
