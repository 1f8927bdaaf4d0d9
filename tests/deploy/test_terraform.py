"The deployment: what Terraform makes of the module against a moto server, and what the job then finds."
import hashlib
import json
import re
import shutil
import subprocess
from fnmatch import fnmatchcase

import permissions
import pytest
from terraform_stack import MODULE, ROOT, Missing, Moto, Stack

from chargeback_consolidation.report import Report, metric_data, metrics_line, total_lines
from chargeback_consolidation.settings import COLUMNS, Columns, parse

pytestmark = pytest.mark.xdist_group('terraform')

JOB = 'chargebacks-test'
VARIABLES = {
    'name': JOB, 'source_database': 'payments', 'source_table': 'chargebacks', 'landing_bucket': 'test-landing',
    'output_bucket': 'test-output', 'script_bucket': 'test-script', 'create_buckets': ['output'],
    'output_database': 'lake', 'output_table': 'consolidated', 'delta_log': True, 'keep_superseded_hours': 24,
    'thresholds': {'MAX_DUPLICATE_RATE': 0.4, 'WARN_DUPLICATE_RATE': 0.3}, 'extra_arguments': {'--ALLOW_EMPTY': 'true'},
    'alarm_emails': ['payments-data@example.com'], 'tags': {'team': 'payments'}}


@pytest.fixture(scope='module')
def moto():
    with Moto() as server: yield server


@pytest.fixture(scope='module')
def stack(moto, tmp_path_factory):
    "The module, initialised and applied once; `stack.first` is what the first apply did"
    try: stack = Stack(tmp_path_factory.mktemp('deployment'), moto.url).init()
    except Missing as e: pytest.skip(str(e))
    for bucket in ('test-landing', 'test-script'):
        moto.client('s3').create_bucket(Bucket=bucket, CreateBucketConfiguration={'LocationConstraint': 'eu-central-1'})
    stack.first = stack.apply(**VARIABLES)
    return stack


@pytest.fixture(scope='module')
def outputs(stack): return stack.outputs()


def as_words(arguments):
    "Job arguments as Glue gives them to the script"
    return [word for pair in arguments.items() for word in pair]


def test_module_is_formatted_and_valid(stack):
    stack.run('validate')
    code, files = stack.run('fmt', '-check', '-recursive', str(MODULE), expect=None)
    assert (code, files.strip()) == (0, '')


@pytest.mark.slow
def test_plan_after_apply_finds_no_drift(stack):
    assert stack.first == (len([a for a in stack.addresses() if not a.startswith('data.')]), 0, 0)
    assert stack.plan() == {}


@pytest.mark.slow
def test_second_apply_changes_nothing(stack):
    assert stack.apply() == (0, 0, 0)


@pytest.mark.slow
def test_package_is_uploaded_for_studio_and_the_job_does_without(stack, outputs):
    folder = stack.folder.parent / 'dist'
    assert outputs['studio'] == {'zip': None, 'wheel': None}
    folder.mkdir()
    names = ['chargeback_consolidation-0.1.0.zip', 'chargeback_consolidation-0.1.0-py3-none-any.whl']
    for name in names: (folder / name).write_text(name)
    try: planned = stack.plan('-refresh=false')
    finally: shutil.rmtree(folder)
    hashes = [hashlib.sha256(name.encode()).hexdigest()[:12] for name in names]
    assert {
        address: after['key'].removeprefix('glue/chargeback-consolidation/')
        for address, (actions, after) in planned.items()} == {
        f'aws_s3_object.upload["{names[0]}"]': f'chargeback_consolidation-0.1.0-{hashes[0]}.zip',
        f'aws_s3_object.upload["{names[1]}"]': f'{hashes[1]}/{names[1]}'}


def test_script_is_uploaded_under_the_hash_of_its_content(stack, outputs, moto):
    bucket, key = re.fullmatch(r's3://([^/]+)/(glue/.+-[0-9a-f]{12}\.py)', outputs['script_location']).groups()
    found = moto.client('s3').get_object(Bucket=bucket, Key=key)
    assert found['Body'].read() == stack.script.read_bytes()
    assert found['SSEKMSKeyId'] == outputs['kms_key_arn']


def test_job_is_small_never_runs_beside_itself_and_waits_for_its_turn(stack, moto):
    job = moto.client('glue').get_job(JobName=JOB)['Job']
    assert (job['GlueVersion'], job['WorkerType'], job['NumberOfWorkers'], job['ExecutionClass']) == (
        '5.1', 'G.1X', 2, 'STANDARD')
    assert job['ExecutionProperty']['MaxConcurrentRuns'] == 1
    assert job['JobRunQueuingEnabled'] is True
    assert (job['Timeout'], job['MaxRetries'], job['Command']['Name']) == (60, 1, 'glueetl')
    assert '--additional-python-modules' not in job['DefaultArguments']


def test_each_execution_of_the_day_has_its_schedule(moto, outputs):
    scheduler, seen = moto.client('scheduler'), []
    for name in outputs['schedule_names']:
        schedule = scheduler.get_schedule(Name=name, GroupName=outputs['schedule_group'])
        target = schedule['Target']
        assert target['Arn'] == 'arn:aws:scheduler:::aws-sdk:glue:startJobRun'
        assert target['RoleArn'].endswith(f'role/{JOB}-scheduler')
        assert target['DeadLetterConfig']['Arn'].endswith(f':{JOB}-not-started')
        assert (schedule['State'], schedule['ScheduleExpressionTimezone'], schedule['FlexibleTimeWindow']['Mode']) == (
            'ENABLED', 'UTC', 'OFF')
        seen.append((schedule['ScheduleExpression'], json.loads(target['Input'])))
    assert seen == [
        (
            f'cron(0 {hour} * * ? *)',
            {
                'JobName': JOB,
                'Arguments': {
                    '--EXECUTION_SEQUENCE': str(i + 1), '--TOTAL_EXECUTIONS': '4',
                    '--EXECUTION_TIME': '<aws.scheduler.scheduled-time>'}})
        for i, hour in enumerate((1, 7, 13, 19))]


def test_scheduled_run_gets_arguments_that_the_job_accepts(moto, outputs):
    glue = moto.client('glue')
    schedule = moto.client('scheduler').get_schedule(
        Name=outputs['schedule_names'][2], GroupName=outputs['schedule_group'])
    request = json.loads(schedule['Target']['Input'].replace('<aws.scheduler.scheduled-time>', '2025-11-03T13:00:00Z'))
    run = glue.get_job_run(JobName=JOB, RunId=glue.start_job_run(**request)['JobRunId'])['JobRun']
    settings = parse(as_words({
        **glue.get_job(JobName=JOB)['Job']['DefaultArguments'], **request['Arguments'], '--JOB_NAME': JOB,
        '--JOB_RUN_ID': run['Id']}))
    assert (settings.execution_sequence, settings.total_executions, str(settings.partition_date)) == (
        3, 4, '2025-11-02')
    assert (settings.source_database, settings.source_table, settings.output_path) == (
        'payments', 'chargebacks', outputs['output_path'])
    assert settings.ledger_path == outputs['ledger_path'] == 's3://test-output/consolidated/_chargebacks'
    own = outputs['job_arguments'].split()
    typed = parse([w.upper().replace('-', '_').replace('__', '--', 1) if w.startswith('--') else w for w in own])
    assert [getattr(typed, w[2:].replace('-', '_')) for w in own[::2]] == [
        getattr(settings, w[2:].replace('-', '_')) for w in own[::2]]
    assert outputs['landing_path'] == 's3://test-landing/landing/chargebacks'
    assert (settings.output_database, settings.output_table, settings.kms_key_id) == (
        'lake', 'consolidated', outputs['kms_key_arn'])
    assert (settings.max_duplicate_rate, settings.warn_duplicate_rate, settings.allow_empty) == (0.4, 0.3, True)
    assert settings.delta_log and settings.keep_superseded_hours == 24
    assert settings.metrics_namespace == outputs['metrics_namespace']


def statements(moto, role, policy):
    return moto.client('iam').get_role_policy(RoleName=role, PolicyName=policy)['PolicyDocument']['Statement']


def listed(value): return value if isinstance(value, list) else [value]


def is_allowed(policy, action, resource, **context):
    "Whether statements allow a request, as IAM reckons for the few operators that the module uses"
    for s in policy:
        if action not in listed(s['Action']) or not any(fnmatchcase(resource, r) for r in listed(s['Resource'])):
            continue
        met = True
        for operator, keys in s.get('Condition', {}).items():
            for key, values in keys.items():
                value = context.get(key)
                met &= (
                    operator.endswith('IfExists')
                    if value is None
                    else any(fnmatchcase(value, v) for v in listed(values)))
        if met: return True
    return False


LANDING, OUTPUT, SCRIPT, GLUE = (
    'arn:aws:s3:::test-landing', 'arn:aws:s3:::test-output', 'arn:aws:s3:::test-script',
    'arn:aws:glue:eu-central-1:123456789012')
LOGS = f'arn:aws:logs:eu-central-1:123456789012:log-group:/aws-glue/jobs/{JOB}-role/{JOB}-job'


@pytest.mark.parametrize(
    'expected, action, resource, context',
    [
        (True, 's3:GetObject', f'{LANDING}/landing/chargebacks/2025/11/02/a.parquet', {}),
        (True, 's3:ListBucket', LANDING, {'s3:prefix': 'landing/chargebacks/2025/11/02/'}),
        (False, 's3:ListBucket', LANDING, {}), (False, 's3:ListBucket', OUTPUT, {}),
        (False, 's3:ListBucket', LANDING, {'s3:prefix': 'landing/'}),
        (False, 's3:GetObject', f'{LANDING}/landing/chargebacks-secret/a.parquet', {}),
        (False, 's3:PutObject', f'{LANDING}/landing/chargebacks/a.parquet', {}),
        (False, 's3:DeleteObject', f'{LANDING}/landing/chargebacks/a.parquet', {}),
        (True, 's3:PutObject', f'{OUTPUT}/consolidated/chargebacks/year=2025/month=11/day=02/part-1.parquet', {}),
        (True, 's3:PutObject', f'{OUTPUT}/consolidated/_chargebacks/_ledger/x.json', {}),
        (True, 's3:DeleteObject', f'{OUTPUT}/consolidated/_chargebacks/_quarantine/x.parquet', {}),
        (True, 's3:AbortMultipartUpload', f'{OUTPUT}/consolidated/chargebacks/x', {}),
        (True, 's3:ListBucketMultipartUploads', OUTPUT, {}), (False, 's3:ListBucket', OUTPUT, {'s3:prefix': 'other/'}),
        (True, 's3:ListBucket', OUTPUT, {'s3:prefix': 'consolidated/_chargebacks/_ledger/'}),
        (False, 's3:PutObject', f'{OUTPUT}/consolidated/other/x', {}),
        (False, 's3:PutObject', f'{OUTPUT}/consolidated/_other/x', {}),
        (False, 's3:DeleteObjectVersion', f'{OUTPUT}/consolidated/chargebacks/x', {}),
        (True, 's3:GetObject', f'{SCRIPT}/glue/chargeback-consolidation/consolidate_chargebacks-0123456789ab.py', {}),
        (False, 's3:PutObject', f'{SCRIPT}/glue/chargeback-consolidation/consolidate_chargebacks-0123456789ab.py', {}),
        (True, 'glue:GetPartitions', f'{GLUE}:table/payments/chargebacks', {}),
        (False, 'glue:GetTable', f'{GLUE}:table/payments/customers', {}),
        (False, 'glue:UpdateTable', f'{GLUE}:table/payments/chargebacks', {}),
        (True, 'glue:GetDatabase', f'{GLUE}:database/lake', {}),
        (False, 'glue:GetDatabase', f'{GLUE}:database/other', {}),
        (True, 'glue:CreateTable', f'{GLUE}:table/lake/consolidated', {}),
        (True, 'glue:UpdatePartition', f'{GLUE}:table/lake/consolidated', {}),
        (False, 'glue:DeleteTable', f'{GLUE}:table/lake/consolidated', {}),
        (False, 'glue:CreateTable', f'{GLUE}:table/lake/other', {}),
        (True, 'logs:PutLogEvents', f'{LOGS}/output:log-stream:jr_1', {}),
        (
            False, 'logs:PutLogEvents',
            'arn:aws:logs:eu-central-1:123456789012:log-group:/aws-glue/jobs/output:log-stream:jr_1', {}),
        (True, 'cloudwatch:PutMetricData', '*', {'cloudwatch:namespace': 'ChargebackConsolidation'}),
        (False, 'cloudwatch:PutMetricData', '*', {'cloudwatch:namespace': 'Other'}),
        (False, 'glue:StartJobRun', f'{GLUE}:job/{JOB}', {})])
def test_job_may_do_what_it_needs_and_no_more(stack, moto, expected, action, resource, context):
    assert is_allowed(statements(moto, f'{JOB}-job', 'consolidate'), action, resource, **context) is expected


# What the role may do and the recorded runs do not, with the reason.
NOT_SEEN = {
    'logs:CreateLogGroup': 'Glue writes the log as the job', 'logs:CreateLogStream': 'Glue writes the log as the job',
    'logs:PutLogEvents': 'Glue writes the log as the job', 'logs:AssociateKmsKey': 'Glue encrypts the log as the job',
    'glue:GetSecurityConfiguration': 'Glue looks its encryption up as the job',
    'kms:Encrypt': 'Glue encrypts logs and temporary files as the job',
    'kms:DescribeKey': 'Glue looks the key up as the job'}


@pytest.fixture(scope='module')
def recorded(session, outputs, tmp_path_factory):
    "What first, late, reprocessing and failing runs, `repair`, `snapshot`, `history` and an investigation ask of AWS"
    return permissions.record(session, outputs['kms_key_arn'], tmp_path_factory.mktemp('recorded'))


def test_every_call_is_allowed_by_a_statement_for_its_resource(stack, moto, recorded):
    policy = statements(moto, f'{JOB}-job', 'consolidate')
    needs = {need for call in recorded for need in call.needs}
    assert (
        len(needs) > 30
        and [n for n in sorted(needs) if not is_allowed(policy, n.action, n.resource, **dict(n.context))] == [])


def test_every_permission_is_used_or_has_its_reason(stack, moto, recorded):
    granted = {action for s in statements(moto, f'{JOB}-job', 'consolidate') for action in listed(s['Action'])}
    used = {need.action for call in recorded for need in call.needs}
    assert sorted(granted - used) == sorted(NOT_SEEN)


def test_a_missing_permission_would_be_seen(stack, moto, recorded):
    "The check of the two tests above: take any action away that is used, and a call is refused"
    policy = statements(moto, f'{JOB}-job', 'consolidate')
    needs = {need for call in recorded for need in call.needs}
    for action in {need.action for need in needs}:
        less = [dict(s, Action=[a for a in listed(s['Action']) if a != action]) for s in policy]
        assert not all(is_allowed(less, n.action, n.resource, **dict(n.context)) for n in needs), action


def test_scheduler_may_start_this_job_and_keep_what_failed(stack, moto):
    found = [
        (listed(s['Action']), listed(s['Resource'])) for s in statements(moto, f'{JOB}-scheduler', 'start-job-run')]
    assert found == [
        (['glue:StartJobRun'], [f'{GLUE}:job/{JOB}']),
        (['sqs:SendMessage'], [f'arn:aws:sqs:eu-central-1:123456789012:{JOB}-not-started'])]
    trust = moto.client('iam').get_role(RoleName=f'{JOB}-scheduler')['Role']['AssumeRolePolicyDocument']['Statement'][0]
    assert trust['Condition']['ArnEquals'] == {
        'aws:SourceArn': f'arn:aws:scheduler:eu-central-1:123456789012:schedule-group/{JOB}'}


def test_alarms_and_dashboard_watch_metrics_that_the_job_puts(moto, outputs):
    watch = moto.client('cloudwatch')
    findings = tuple({'rule': rule, 'rate': 0.0} for rule in ('duplicate', 'null_key'))
    put = {(m['MetricName'], *[tuple(sorted(d.items())) for d in m['Dimensions']])
           for m in metric_data(Report(day='2025-11-02', table='payments.chargebacks', findings=findings))}
    alarms = {a['AlarmName']: a for a in watch.describe_alarms()['MetricAlarms']}
    assert set(alarms) == {
        f'{JOB}-{n}'
        for n in (
            'no-run-in-time', 'not-started', 'unreadable-files', 'schema-conflicts', 'duplicate-rate', 'null-key-rate',
            'duration', 'rules-failed', 'rules-warned')}
    own = [a for a in alarms.values() if a['Namespace'] == outputs['metrics_namespace']]
    assert (
        len(own) == 8 and {(a['MetricName'], *[tuple(sorted(d.items())) for d in a['Dimensions']]) for a in own} <= put)
    assert all(a['AlarmActions'] == [outputs['alarm_topic_arn']] for a in alarms.values())
    assert alarms[f'{JOB}-duplicate-rate']['Threshold'] == 0.3
    late = alarms[f'{JOB}-no-run-in-time']
    assert (late['MetricName'], late['Period'] * late['EvaluationPeriods'], late['TreatMissingData']) == (
        'Succeeded', 8 * 3600, 'breaching')
    widgets = json.loads(watch.get_dashboard(DashboardName=outputs['dashboard_name'])['DashboardBody'])['widgets']
    assert {m[1] for w in widgets if w['type'] == 'metric' for m in w['properties']['metrics']} <= {
        name for name, *_ in put}


def test_failed_run_is_told(moto, outputs):
    events = moto.client('events')
    pattern = json.loads(events.describe_rule(Name=f'{JOB}-failed-run')['EventPattern'])
    assert pattern == {'source': ['aws.glue'], 'detail-type': ['Glue Job State Change'],
                       'detail': {'jobName': [JOB], 'state': ['FAILED', 'TIMEOUT', 'STOPPED']}}
    target = events.list_targets_by_rule(Rule=f'{JOB}-failed-run')['Targets'][0]
    assert target['Arn'] == outputs['alarm_topic_arn']
    message = target['InputTransformer']['InputTemplate']
    assert set(re.findall('<([a-z]+)>', message)) == set(target['InputTransformer']['InputPathsMap'])
    assert isinstance(json.loads(re.sub('<[a-z]+>', 'x', message)), str)


def test_saved_query_finds_the_four_numbers_in_the_right_log_group(moto, outputs):
    query = moto.client('logs').describe_query_definitions(queryDefinitionNamePrefix=JOB)['queryDefinitions'][0]
    assert query['logGroupNames'] == [outputs['metrics_log_group']] == [f'/aws-glue/jobs/{JOB}-role/{JOB}-job/output']
    glob, names = re.search(r'parse @message "([^"]+)" as ([a-z, ]+)$', query['queryString'], re.MULTILINE).groups()
    pattern = '(.*?)'.join(map(re.escape, glob.split('*'))) + '$'
    line = metrics_line(Report(
        day='2025-11-02', table='payments.chargebacks', records_processed=1250000, duplicates_removed=1250,
        output_files=10, duration_seconds=1020.45))
    assert dict(zip(names.split(', '), re.search(pattern.replace('(.*?)$', '(.*)$'), line).groups(), strict=True)) == {
        'records': '1250000', 'duplicates': '1250', 'files': '10', 'duration': '1020.45'}
    assert re.search(re.search('like /(.+)/', query['queryString']).group(1), line)


def test_logs_are_kept_for_a_year_and_encrypted(moto, outputs):
    groups = {
        g['logGroupName']: g
        for g in moto.client('logs').describe_log_groups(logGroupNamePrefix=f'/aws-glue/jobs/{JOB}')['logGroups']}
    assert set(groups) == set(outputs['log_groups'].values())
    assert {(g['retentionInDays'], g['kmsKeyId']) for g in groups.values()} == {(365, outputs['kms_key_arn'])}
    assert moto.client('kms').get_key_rotation_status(KeyId=outputs['kms_key_arn'])['KeyRotationEnabled']


def test_created_bucket_is_private_encrypted_versioned_and_tidied(moto, outputs, stack):
    s3 = moto.client('s3')
    rule = s3.get_bucket_encryption(Bucket='test-output')['ServerSideEncryptionConfiguration']['Rules'][0]
    assert rule['ApplyServerSideEncryptionByDefault'] == {
        'SSEAlgorithm': 'aws:kms', 'KMSMasterKeyID': outputs['kms_key_arn']}
    assert all(s3.get_public_access_block(Bucket='test-output')['PublicAccessBlockConfiguration'].values())
    assert s3.get_bucket_versioning(Bucket='test-output')['Status'] == 'Enabled'
    refused = json.loads(s3.get_bucket_policy(Bucket='test-output')['Policy'])['Statement'][0]
    assert (refused['Effect'], refused['Condition']) == ('Deny', {'Bool': {'aws:SecureTransport': 'false'}})
    rules = {r['ID']: r for r in s3.get_bucket_lifecycle_configuration(Bucket='test-output')['Rules']}
    assert rules['abort-incomplete-uploads']['AbortIncompleteMultipartUpload'] == {'DaysAfterInitiation': 14}
    assert rules['expire-quarantine']['Filter'] == {'Prefix': 'consolidated/_chargebacks/_quarantine/'}
    assert rules['expire-quarantine']['Expiration']['Days'] == 90
    assert rules['remove-old-versions']['NoncurrentVersionExpiration']['NoncurrentDays'] == 7


@pytest.mark.slow
def test_buckets_that_exist_are_left_alone_unless_asked(stack):
    bucket = 'aws_s3_bucket_lifecycle_configuration.this'
    assert bucket + '["test-output"]' in stack.addresses() and bucket + '["test-landing"]' not in stack.addresses()
    asked = stack.plan('-refresh=false', output_bucket='test-script', create_buckets=[], manage_output_lifecycle=True)
    assert [r['id'] for r in asked[bucket + '["test-script"]'][1]['rule']] == [
        'abort-incomplete-uploads', 'expire-quarantine']


@pytest.mark.slow
def test_rules_are_uploaded_by_hash_and_the_job_gets_them(stack, tmp_path):
    path = tmp_path / 'payments.dqdl'
    path.write_text('Rules = [ ColumnValues "amount" > 0 labels=["level"="quarantine"] ]\n')
    planned = stack.plan('-refresh=false', rules_path=str(path))
    _, job = planned['aws_glue_job.this']
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    location = job['default_arguments']['--RULES']
    assert re.fullmatch(rf's3://test-script/glue/.+/payments-{digest}\.dqdl', location)
    assert any(after.get('source') == str(path) for _, after in planned.values())
    parse(as_words(job['default_arguments']))


def test_c17_columns_reach_the_job(stack):
    planned = stack.plan('-refresh=false', key_columns=['scheme', 'case'], version_columns=['revised_at'])
    _, job = planned['aws_glue_job.this']
    given = parse(as_words(job['default_arguments'])).columns
    assert given == Columns(('scheme', 'case'), ('revised_at',), 'revised_at')
    planned = stack.plan('-refresh=false', event_column='opened')
    _, job = planned['aws_glue_job.this']
    assert parse(as_words(job['default_arguments'])).columns == COLUMNS._replace(event='opened')


def test_control_totals_reach_the_job(stack):
    planned = stack.plan('-refresh=false', control_totals=['amount by currency', 'fee by scheme'])
    _, job = planned['aws_glue_job.this']
    assert parse(as_words(job['default_arguments'])).control_totals == 'amount by currency, fee by scheme'
    _, board = planned['aws_cloudwatch_dashboard.this']
    widgets = json.loads(board['dashboard_body'])['widgets']
    places = [(w['x'], w['y'], w['width'], w['height']) for w in widgets]
    cells = [(i, j) for x, y, width, height in places for i in range(x, x + width) for j in range(y, y + height)]
    assert len(set(cells)) == len(cells), 'widgets lie on each other'
    query = widgets[-1]['properties']['query']
    glob, names = re.search(r'parse @message "([^"]+)" as ([a-z, ]+)$', query, re.MULTILINE).groups()
    money = {'total': 'amount by currency', 'value': 'EUR, "x"', 'before': '0', 'landed': '12.50', 'after': '10',
             'duplicates': '2.50', 'quarantined': '0'}
    [line] = total_lines(Report('2025-11-02', 'payments.chargebacks', totals=(money,)))
    found = re.search('(.*?)'.join(map(re.escape, glob.split('*'))) + '$', line).groups()
    assert dict(zip(names.split(', '), found, strict=True)) == dict(
        day='2025-11-02', sum='amount by currency', value=repr('EUR, "x"'), before='0', landed='12.50', after='10',
        duplicates='2.50', quarantined='0')


@pytest.mark.slow
def test_old_glue_gets_its_log_group_and_a_pyarrow(stack, tmp_path):
    libraries = [
        str(tmp_path / name)
        for name in ('chargeback_consolidation.zip', 'chargeback_consolidation-1.0-py3-none-any.whl')]
    for path in libraries: open(path, 'w').close()
    planned = stack.plan('-refresh=false', glue_version='4.0', library_paths=libraries)
    _, job = planned['aws_glue_job.this']
    arguments = job['default_arguments']
    assert re.fullmatch(
        r'pyarrow==10\.0\.0,s3://test-script/glue/.+/[0-9a-f]{12}/chargeback_consolidation-1\.0-py3-none-any\.whl',
        arguments['--additional-python-modules'])
    assert re.fullmatch(
        r's3://test-script/glue/.+/chargeback_consolidation-[0-9a-f]{12}\.zip', arguments['--extra-py-files'])
    assert arguments['--enable-continuous-cloudwatch-log'] == 'true'
    assert planned['aws_cloudwatch_log_group.job["continuous"]'][1]['name'] == f'/aws-glue/jobs/logs-v2-{JOB}'
    assert planned['aws_cloudwatch_query_definition.metrics'][1]['log_group_names'] == [f'/aws-glue/jobs/logs-v2-{JOB}']
    parse(as_words(arguments))


BAD = {
    'name': 'Bad Name', 'library_paths': ['x.jar'], 'landing_prefix': '/landing', 'output_prefix': 'a/*',
    'script_prefix': '', 'create_buckets': ['all'], 'abort_incomplete_uploads_days': 1, 'quarantine_days': 0,
    'noncurrent_version_days': 0.5, 'kms_key_arn': 'alias/x', 'glue_version': '2.0', 'worker_type': 'Z.1X',
    'number_of_workers': 1, 'execution_class': 'SPOT', 'timeout_minutes': 4000, 'max_retries': -1,
    'output_file_count': 0, 'compression_codec': 'brotli', 'thresholds': {'MAX_DUPLICATE_RATE': 2},
    'metrics_namespace': 'AWS/Glue', 'extra_arguments': {'ALLOW_EMPTY': 'true'}, 'schedules': ['rate(6 hours)'],
    'max_hours_between_runs': 0, 'max_duration_minutes': 0, 'keep_superseded_hours': -1}


def test_bad_variables_are_refused_by_name(stack):
    said = stack.refusal(**BAD)
    assert [name for name in BAD if f'{name} must ' not in said] == []


@pytest.mark.slow
def test_variables_that_do_not_go_together_are_refused(stack):
    said = stack.refusal(execution_class='FLEX', worker_type='G.4X', output_table=None)
    assert 'FLEX needs worker_type G.1X or G.2X' in said and 'give both or neither' in said


@pytest.mark.slow
def test_new_script_is_a_new_object_and_changes_the_job(stack, moto, outputs):
    stack.script.write_text(stack.script.read_text() + '\n')
    assert stack.apply() == (1, 1, 1)
    location = moto.client('glue').get_job(JobName=JOB)['Job']['Command']['ScriptLocation']
    assert location == stack.outputs()['script_location'] != outputs['script_location']


@pytest.mark.slow
def test_destroy_leaves_nothing(stack, moto):
    stack.destroy()
    assert stack.addresses() == []
    assert moto.client('glue').list_jobs()['JobNames'] == moto.client('scheduler').list_schedules()['Schedules'] == []
    assert [b['Name'] for b in moto.client('s3').list_buckets()['Buckets']] == ['test-landing', 'test-script']


def test_checkov_finds_nothing_and_each_skip_has_its_reason():
    if not (shutil.which('sh') and (ROOT / '.venv-checkov/bin/checkov').exists()):
        pytest.skip('checkov is not installed: tests/deploy/terraform/checkov.sh installs it')
    done = subprocess.run(
        [ROOT / 'tests/deploy/terraform/checkov.sh', '--output', 'json'], capture_output=True, text=True)
    result = json.loads(done.stdout[done.stdout.index('{'):])
    assert done.returncode == 0 and result['summary']['failed'] == 0 and result['summary']['parsing_errors'] == 0, (
        done.stdout)
    assert result['summary']['passed'] > 100
    skips = [line for file in MODULE.glob('*.tf') for line in file.read_text().splitlines() if 'checkov:skip' in line]
    assert skips and all(re.search(r'#checkov:skip=CKV2?_AWS_\d+:\w.{20,}', line) for line in skips)
