"""What the job asks of AWS, in the words of IAM: every request of real runs, recorded on its way to moto."""
import json
import re
from collections import namedtuple
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from aws import Proxy, client, environment, moto, operation, place
from world import DAY, S3World

from chargeback_consolidation import entry
from chargeback_consolidation.commands import cli

ACCOUNT, REGION = '123456789012', 'eu-central-1'
NAMES = {'landing': 'payments'}     # as the tests' world calls the source database, and as the deployment does

Call = namedtuple('Call', 'name needs')
Need = namedtuple('Need', 'action resource context')
Need.__doc__ = 'A permission that a request takes. context: ((condition key, value), ...)'

WRITES = 's3:PutObject'
OF_OBJECT = {
    'GET': 's3:GetObject', 'HEAD': 's3:GetObject', 'PUT': WRITES, 'CREATE_UPLOAD': WRITES, 'UPLOAD_PART': WRITES,
    'COMPLETE': WRITES, 'ABORT': 's3:AbortMultipartUpload', 'LIST_PARTS': 's3:ListMultipartUploadParts'}
OF_KEY = {
    'GET': 'kms:Decrypt', 'PUT': 'kms:GenerateDataKey', 'CREATE_UPLOAD': 'kms:GenerateDataKey',
    'UPLOAD_PART': 'kms:Decrypt', 'COMPLETE': 'kms:Decrypt'}


def need(action, resource, **context):
    return Need(action, resource, tuple((k.replace('_', ':', 1), v) for k, v in context.items()))


def s3_needs(method, path, body, key):
    "The permissions of a request to S3"
    url, done = urlsplit(path), operation(method, path)
    bucket, _, name = unquote(url.path).lstrip('/').partition('/')
    arn, query = f'arn:aws:s3:::{bucket}', parse_qs(url.query, keep_blank_values=True)
    if done == 'LIST':
        return [need('s3:ListBucket', arn, **({'s3_prefix': query['prefix'][0]} if 'prefix' in query else {}))]
    if done == 'LIST_UPLOADS': return [need('s3:ListBucketMultipartUploads', arn)]
    if done == 'DELETE':
        return [need('s3:DeleteObject', f'{arn}/{k}') for k in re.findall('<Key>(.*?)</Key>', body.decode())]
    needs = [need(OF_OBJECT[done], f'{arn}/{name}')]
    if 'output' in bucket and done in OF_KEY: needs.append(need(OF_KEY[done], key))
    return needs


def glue_needs(name, request):
    "The permissions of a request to the catalog: one each for the catalog, the database and the table"
    arn, database = f'arn:aws:glue:{REGION}:{ACCOUNT}', request.get('DatabaseName') or request.get('Name')
    table = request.get('TableName') or request.get('TableInput', request).get('Name')
    database = NAMES.get(database, database)
    resources = [f'{arn}:catalog', f'{arn}:database/{database}']
    if name != 'GetDatabase': resources.append(f'{arn}:table/{database}/{table}')
    return [need(f'glue:{name}', resource) for resource in resources]


class Recorder(Proxy):
    "A proxy that knows what each request takes"

    def __init__(self, target, key, **more):
        super().__init__(target, **more)
        self.key, self.calls = key, []

    def heard(self, method, path, headers, body):
        target = headers.get('X-Amz-Target', '')
        if target.startswith('AWSGlue.'): self.calls.append(Call(target, glue_needs(target[8:], json.loads(body))))
        elif b'PutMetricData' in body or 'PutMetricData' in path + target:
            spaces = re.findall(rb'ChargebackConsolidation', body)
            self.calls.append(
                Call('PutMetricData', [need('cloudwatch:PutMetricData', '*', cloudwatch_namespace=spaces[0].decode())]))
        else: self.calls.append(Call(operation(method, path), s3_needs(method, path, body, self.key)))


def new_column(world):
    "A landing file with a column that no other has, so that the registered table changes"
    columns = {'chargeback_id': ['late-1'], 'updated_at': [1], 'event_timestamp': [1], 'note': ['new']}
    old = pq.read_schema(sorted(world.folder.rglob('*.parquet'))[0])
    for name in ('updated_at', 'event_timestamp'):
        columns[name] = pa.array([1762041600000000], pa.timestamp('us')).cast(old.field(name).type)
    path = world.folder / f'landing/chargebacks/{DAY.replace("-", "/")}/late-note.parquet'
    pq.write_table(pa.table(columns), path)
    s3 = client('s3', world.endpoint)
    s3.put_object(Bucket=world.landing, Key=path.relative_to(world.folder).as_posix(), Body=path.read_bytes())


def ask(*words):
    "A command of the library"
    assert cli.carry_out(list(words)) in (None, 0), words


def record(session, key, folder):
    "The `Call`s of everything that is done with a deployed job, by a role or by a person"
    passed = []
    def fault(number, done, path):
        if done == 'COMPLETE': passed.append(done)
        return '503' if passed == ['COMPLETE'] and done == 'COMPLETE' else None  # publishing looks for the upload then
    with moto() as address, Recorder(address, key, fault=fault) as recorder:
        world = S3World(address, 'test-output', landing='test-landing', folder=folder / 'landing').create()
        world.output = 's3://test-output/consolidated/chargebacks'
        client('glue', address).create_database(DatabaseInput={'Name': 'lake'})
        more = [
            '--OUTPUT_DATABASE', 'lake', '--OUTPUT_TABLE', 'consolidated', '--METRICS_NAMESPACE',
            'ChargebackConsolidation', '--KMS_KEY_ID', key]
        def run(*words):
            with environment(**place(recorder.endpoint)):
                assert entry.main(world.arguments(*more, *words), session) == 0
        world.land(1)
        run()
        world.land(2)
        new_column(world)
        run()
        run('--REPROCESS', 'true')
        run()
        with world.environment():
            with world.ledger().store.stage(f'{world.ledger().partition}/part-00000-c000004-00000000.parquet') as sink:
                sink.write(b'x')
        day = ['--output-path', world.output, '--partition-date', DAY]
        with environment(**place(recorder.endpoint)):
            ask('repair', *day)
            ask('snapshot', *day)
            ask('history', *day)
            ask('investigate', 'reconcile', *day, '--runs', str(folder / 'runs'))
        return recorder.calls
