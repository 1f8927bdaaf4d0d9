"""The job against S3 and the Glue catalog, over HTTP: same result as on a disk, few requests, and faults that leave
no trace (C2, C10, C15)."""
import json
import os
import shutil
import tempfile
import threading
import time
from types import SimpleNamespace

import pytest
from aws import SERVER, Held, Proxy, client, seeded
from matrices import record
from world import DAY, S3World

from chargeback_consolidation import entry, job, state
from chargeback_consolidation.answers.day import open_day
from chargeback_consolidation.answers.reconcile import reconcile
from chargeback_consolidation.inventory import Fetched
from chargeback_consolidation.s3 import S3Store
from chargeback_consolidation.settings import ArgumentError, parse
from chargeback_consolidation.spark import TaskFailed
from chargeback_consolidation.store import StoreError

SEEDS, GROUPS = 50, 25
OUTPUTS = 3     # the files that a run of the world writes: a landing file that two of them share is read twice
WITH_SPARK = 0, 5, 10   # a task waits before it asks again


def test_same_as_the_local_store_and_registered(cloud_day, spark, endpoint):
    cloud, _, after, copy = cloud_day
    world = copy()
    glue = client('glue', endpoint)
    glue.create_database(DatabaseInput={'Name': 'lake'})
    more = ['--OUTPUT_DATABASE', 'lake', '--OUTPUT_TABLE', 'consolidated', '--METRICS_NAMESPACE', 'Chargebacks']
    landing = {o['Key']: o['ETag'] for o in client('s3', endpoint).list_objects_v2(Bucket=cloud.landing)['Contents']}
    def session(): return spark
    with world.environment(): assert entry.main(world.arguments(*more), session) == 0
    assert world.listed() == after and world.orphans() == []
    table = glue.get_table(DatabaseName='lake', Name='consolidated')['Table']
    assert [k['Name'] for k in table['PartitionKeys']] == ['year', 'month', 'day'] and table['StorageDescriptor'][
        'Location'] == world.output + '/'
    partition = glue.get_partition(DatabaseName='lake', TableName='consolidated', PartitionValues=DAY.split('-'))[
        'Partition']
    assert partition['StorageDescriptor']['Location'] == f'{world.output}/year=2025/month=11/day=02/'
    names = {m['MetricName'] for m in client('cloudwatch', endpoint).list_metrics(Namespace='Chargebacks')['Metrics']}
    assert {'RecordsProcessed', 'DuplicatesRemoved', 'UnreadableFiles', 'DurationSeconds', 'Succeeded'} <= names
    assert landing == {
        o['Key']: o['ETag'] for o in client('s3', endpoint).list_objects_v2(Bucket=cloud.landing)['Contents']}
    glue.delete_partition(DatabaseName='lake', TableName='consolidated', PartitionValues=DAY.split('-'))
    with world.environment():
        assert entry.main(world.arguments(*more), session) == 0  # nothing new, but the catalog is repaired
    assert glue.get_partition(DatabaseName='lake', TableName='consolidated', PartitionValues=DAY.split('-'))


def test_c19_a_table_with_a_log_is_registered_as_a_delta_table(cloud_day, session, endpoint):
    "One that was a table of Parquet files becomes one; days need no partition then"
    world, glue = cloud_day[3](), client('glue', endpoint)
    glue.create_database(DatabaseInput={'Name': 'delta'})
    more = ['--OUTPUT_DATABASE', 'delta', '--OUTPUT_TABLE', 'consolidated']
    def told(): return glue.get_table(DatabaseName='delta', Name='consolidated')['Table']
    with world.environment(): assert entry.main(world.arguments(*more), session) == 0
    before = told()
    assert before['Parameters'] == {'classification': 'parquet', 'EXTERNAL': 'TRUE'}
    with world.environment(): assert entry.main(world.arguments(*more, '--DELTA_LOG', 'true'), session) == 0
    table = told()
    assert table['Parameters'] == {
        'classification': 'delta', 'EXTERNAL': 'TRUE', 'table_type': 'DELTA', 'spark.sql.sources.provider': 'delta'}
    assert table['StorageDescriptor'] == before['StorageDescriptor'] and world.logged() == cloud_day[2]
    glue.delete_table(DatabaseName='delta', Name='consolidated')
    with world.environment(): assert entry.main(world.arguments(*more), session) == 0     # its log is there
    assert told()['Parameters']['table_type'] == 'DELTA'
    assert glue.get_partitions(DatabaseName='delta', TableName='consolidated')['Partitions'] == []


@pytest.mark.parametrize(
    'names,types,values',
    [
        (('year', 'month', 'day'), 'string', ('2025', '11', '02')),
        (('year', 'month', 'day'), 'int', ('2025', '11', '2')),
        (('year', 'month', 'day'), 'string', ('2025', '11', '2')),
        (('partition_0', 'partition_1', 'partition_2'), 'string', ('2025', '11', '02'))])
def test_c2_partition_styles_in_the_glue_catalog(cloud_day, session, endpoint, names, types, values):
    cloud, _, after, copy = cloud_day
    glue, name = client('glue', endpoint), f'styles_{types}_{names[0]}_{values[2]}'
    location = f's3://{cloud.landing}/landing/chargebacks'
    glue.create_table(
        DatabaseName='landing',
        TableInput={
            'Name': name, 'PartitionKeys': [{'Name': n, 'Type': types} for n in names],
            'StorageDescriptor': {'Location': location}})
    glue.create_partition(
        DatabaseName='landing', TableName=name,
        PartitionInput={'Values': list(values), 'StorageDescriptor': {'Location': f'{location}/2025/11/02'}})
    with cloud.environment():
        settings = parse([*cloud.arguments()[:2], '--SOURCE_TABLE', name, *cloud.arguments()[4:]])
        table, (partition,) = entry.plan_runs(settings)
    assert partition.known and partition.locations == (f'{location}/2025/11/02',)


def test_c2_a_day_that_no_crawler_has_seen(cloud_day, session, endpoint):
    cloud, _, after, copy = cloud_day
    location = f's3://{cloud.landing}/landing/chargebacks'
    keys = [{'Name': f'partition_{i}', 'Type': 'string'} for i in range(3)]
    client('glue', endpoint).create_table(
        DatabaseName='landing',
        TableInput={'Name': 'uncrawled', 'PartitionKeys': keys, 'StorageDescriptor': {'Location': location}})
    world = copy()
    client('s3', endpoint).put_object(
        Bucket=world.bucket, Key='_chargebacks/_ledger/source-table', Body=b'landing.uncrawled')  # renamed
    with world.environment():
        settings = parse([*world.arguments()[:2], '--SOURCE_TABLE', 'uncrawled', *world.arguments()[4:]])
        table, (partition,) = entry.plan_runs(settings)
        report = job.consolidate(state.start_run(settings, table, partition, session))
    assert not partition.known and any('has the crawler run?' in w for w in report.warnings) and world.listed() == after


@pytest.mark.parametrize(
    'change,argument',
    [(('SOURCE_DATABASE', 'nowhere'), '--SOURCE_DATABASE'), (('SOURCE_TABLE', 'nothing'), '--SOURCE_TABLE')])
def test_c1_what_the_glue_catalog_lacks_is_a_bad_argument(cloud_day, change, argument, capsys):
    cloud = cloud_day[0]
    words = cloud.arguments()
    words[words.index('--' + change[0]) + 1] = change[1]
    with cloud.environment(): assert entry.main(words, None) == 2
    said = capsys.readouterr()
    assert said.err.startswith(argument) and change[1] in said.err and said.err.count('\n') == 1 and said.out == ''


def test_requests_are_few(cloud_day, spark, endpoint):
    "One GET for a landing file, one LIST for 1,000 of them, no HEAD; nothing is written to the landing zone"
    cloud, _, after, copy = cloud_day
    world = copy()
    with Proxy(endpoint) as proxy:
        with world.environment(proxy.endpoint):
            job.consolidate(world.start(lambda: spark, state.quiet, '--REPROCESS', 'true'))
    under, files = f'/{cloud.landing}', 12
    assert proxy.count('GET', under=under) == files
    assert proxy.count('LIST', under=under) == 1
    assert {done for done, path in proxy.requests if path.startswith(under)} <= {'GET', 'LIST'}
    assert world.listed() == after
    record('requests', gets=proxy.count('GET', under=under), lists=1, files=files)


def listed_in_pages(run, size=5):
    "A run whose landing zone answers with some objects at a time"
    def ask_for_few(params, **kwargs): params['MaxKeys'] = size
    run.stores[0].client.meta.events.register('provide-client-params.s3.ListObjectsV2', ask_for_few)
    return run


@pytest.mark.parametrize('words, starts', [([], True), (['--REPROCESS', 'true'], False)])
def test_spark_starts_beside_the_listing_once_there_is_work(cloud_day, session, endpoint, words, starts):
    "But not for a run that what is listed may still refuse"
    cloud, _, after, copy = cloud_day
    world, started, pages, beside = copy(), threading.Event(), [], []

    def start():
        started.set()
        return session()

    def wait(done, path):
        if done == 'LIST' and path.startswith(f'/{cloud.landing}'): pages.append(path)
        if len(pages) == 3 and not beside: beside.append(started.wait(10 if starts else 0.5))
    with Held(endpoint, wait) as proxy:
        with world.environment(proxy.endpoint):
            job.consolidate(listed_in_pages(world.start(start, state.quiet, *words)))
    assert beside == [starts] and started.is_set() and len(pages) == 3 and world.listed() == after


def test_spark_does_not_start_for_a_day_that_is_held(cloud_day):
    world = cloud_day[3]()
    with world.environment():
        run = listed_in_pages(world.start(None, state.quiet))
        assert len(state.list_day(run, SimpleNamespace(held=2), ()).files) == 12


def test_a_listing_ends_with_what_it_is_for(cloud_day, endpoint):
    "If Spark cannot be started nobody needs the other pages"
    cloud, _, _, copy = cloud_day
    world, started, ended, pages = copy(), threading.Event(), threading.Event(), []

    def start():
        started.set()
        raise TaskFailed('Spark could not be started: no Java')

    def wait(done, path):
        if done == 'LIST' and path.startswith(f'/{cloud.landing}'): pages.append(path)
        if len(pages) > 7: ended.wait(10)       # the first ones hold nothing that is Parquet by its name
    with Held(endpoint, wait) as proxy:
        with world.environment(proxy.endpoint):
            with pytest.raises(TaskFailed, match='no Java'):
                state.list_day(listed_in_pages(world.start(start, state.quiet), 1), None, ())
        ended.set()
        time.sleep(1)
    assert started.is_set() and len(pages) <= 8     # of more than twelve


def test_a_listing_that_fails_while_spark_starts_is_one_line(cloud_day, session, endpoint):
    cloud, before, _, copy = cloud_day
    world, started, pages = copy(), threading.Event(), []

    def start():
        started.set()
        return session()

    def deny(number, done, path):
        if done == 'LIST' and path.startswith(f'/{cloud.landing}'): pages.append(path)
        return '403' if len(pages) == 3 and started.wait(10) else None
    with Proxy(endpoint, deny) as proxy:
        with world.environment(proxy.endpoint):
            run = listed_in_pages(world.start(start, state.quiet))
            with pytest.raises(StoreError, match='cannot be listed: AccessDenied'): job.consolidate(run)
    assert started.is_set() and world.listed() == before


def test_where_nothing_is_new_spark_does_not_start(cloud_day, session, endpoint):
    cloud, _, after, copy = cloud_day
    world = copy()
    with world.environment():
        job.consolidate(world.start(session, state.quiet))
        report = job.consolidate(listed_in_pages(world.start(None, state.quiet)))
    assert report.status == 'nothing new' and world.listed() == after


def spoil_nothing(folder): return 0


def spoil_all(folder):
    shutil.rmtree(folder)
    return 12


def spoil_some(folder):
    "The bytes of the last file are cut, and the place of another is not whole: how many must be fetched again"
    for data in folder.glob('*.data'): os.truncate(data, data.stat().st_size - 7)
    [place] = list(folder.glob('*.places'))[:1]
    os.truncate(place, place.stat().st_size - 7)    # it was the place of the file that is cut
    return len(list(folder.glob('*.data')))


@pytest.mark.parametrize('spoil', [spoil_nothing, spoil_all, spoil_some])
def test_what_was_fetched_is_used_or_fetched_again(cloud_day, session, endpoint, spoil, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    cloud, _, after, copy = cloud_day
    world, again = copy(), []

    def observe(stage, seconds, facts):
        if stage != 'index': return
        [folder] = tmp_path.glob('chargeback-fetched-*')
        assert len(Fetched(folder.name[len('chargeback-fetched-'):]).find()) == 12
        again.append(spoil(folder))
    with Proxy(endpoint) as proxy:
        with world.environment(proxy.endpoint):
            job.consolidate(world.start(session, observe, '--REPROCESS', 'true'))
    gets = proxy.count('GET', under=f'/{cloud.landing}')
    assert 12 + again[0] <= gets <= 12 + again[0] + bool(again[0]) * (OUTPUTS - 1)
    assert world.listed() == after and list(tmp_path.iterdir()) == []


def test_a_file_and_what_belongs_to_it_arrive_beside_each_other(cloud_day, session, endpoint):
    "The last bytes of a file and its lineage: each is passed on once the other is there, rows set aside before both"
    cloud, _, after, copy = cloud_day
    world, sent, told, alone = copy(), {}, threading.Condition(), []

    def wait(done, path):
        kind, _, slot = path.rpartition('/')[2].partition('.')[0].partition('-')
        if done not in ('PUT', 'UPLOAD_PART') or kind not in ('part', 'rows'): return
        with told:
            there = sent.setdefault(slot, {})
            there.setdefault((done, kind), len(there))
            told.notify_all()
            both = [('PUT', 'part'), ('UPLOAD_PART', 'part')]
            if kind == 'part' and not told.wait_for(lambda: all(key in there for key in both), 10): alone.append(path)
    with Held(endpoint, wait) as proxy:
        with world.environment(proxy.endpoint):
            job.consolidate(world.start(session, state.quiet, '--REPROCESS', 'true'))
    assert world.listed() == after and alone == [] and len(sent) == OUTPUTS
    aside = [there for there in sent.values() if ('UPLOAD_PART', 'rows') in there]
    assert aside and all(there['UPLOAD_PART', 'rows'] < there['PUT', 'part'] for there in aside)


def test_an_index_that_fails_leaves_nothing_of_what_it_fetched(cloud_day, session, endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    cloud, _, _, copy = cloud_day
    world, fetched = copy(), []

    def deny(number, done, path):
        if done != 'GET' or not path.startswith(f'/{cloud.landing}'): return None
        fetched.append(path)
        return '403' if len(fetched) > 8 else None
    with Proxy(endpoint, deny) as proxy:
        with world.environment(proxy.endpoint), pytest.raises(StoreError, match='AccessDenied'):
            job.consolidate(world.start(session, state.quiet, '--REPROCESS', 'true'))
    assert len(fetched) > 8 and list(tmp_path.iterdir()) == []


def test_a_dry_run_keeps_nothing(cloud_day, session, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    monkeypatch.setattr(Fetched, 'append', None)
    world = cloud_day[3]()
    with world.environment(): report = job.consolidate(world.start(session, state.quiet, '--DRY_RUN', 'true'))
    assert report.records_processed and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'group', [pytest.param(g, marks=pytest.mark.slow if g else ()) for g in range(GROUPS)])
def test_ten_per_cent_of_requests_fail(cloud_day, session, endpoint, group, request, hasty):
    "Whatever fails, the run ends right or with a clear message; the next one ends right; nothing is left over"
    spark = request.getfixturevalue('spark') if group in WITH_SPARK else None
    cloud, _, after, copy = cloud_day
    for seed in range(group, SEEDS, GROUPS):
        world, failed = copy(), ''
        if seed % 2: world.extra = ('--DELTA_LOG', 'true')
        with Proxy(endpoint, seeded(seed, 0.1)) as proxy:
            with world.environment(proxy.endpoint):
                try: world_run(world, (lambda: spark) if seed in WITH_SPARK else session)
                except Exception as e:
                    failed = str(e)
                    assert failed.strip(), f'seed {seed}: no message'
        if failed: world.run(session)
        assert world.listed() == world.asked() == after, f'seed {seed}'
        if seed % 2: assert world.logged() == after, f'seed {seed}'
        world.repair()
        assert world.orphans() == [], f'seed {seed}'
        record('faults', seed=seed, faults=dict(proxy.faults), requests=len(proxy.requests), failed=bool(failed),
               log=bool(seed % 2))


def world_run(world, session): return job.consolidate(world.start(session))


def first_faults():
    "Of each kind of request, and of each kind of fault; a quick run takes a lost answer where it matters most"
    quick = [('PUT', 'lost'), ('COMPLETE', 'lost'), ('UPLOAD_PART', '503'), ('GET', 'reset')]
    for what in ('PUT', 'CREATE_UPLOAD', 'UPLOAD_PART', 'COMPLETE', 'DELETE', 'LIST', 'GET'):
        for kind in ('503', 'reset', 'lost'):
            yield pytest.param(
                what, kind, id=f'{what}-{kind}', marks=() if (what, kind) in quick else pytest.mark.slow)


@pytest.mark.parametrize('what, kind', first_faults())
def test_the_first_request_of_a_kind_fails(cloud_day, session, endpoint, what, kind, hasty):
    "Above all a commit whose answer is lost: it happened, and the run knows"
    cloud, _, after, copy = cloud_day
    world, seen = copy(), []
    def fault(number, done, path):
        if done == what and (what != 'PUT' or path.endswith('.json')): seen.append(path)
        return kind if len(seen) == 1 and done == what and seen[-1] == path else None
    with Proxy(endpoint, fault) as proxy:
        with world.environment(proxy.endpoint): report = world_run(world, session)
    assert proxy.faults[kind] >= 1 and report.status == 'done' and report.commit == 2
    assert world.listed() == after
    world.repair()
    assert world.orphans() == []


def test_an_endpoint_without_conditional_writes_is_refused(endpoint):
    "It would let two runs commit the same number"
    if SERVER == 'ceph': pytest.skip('Ceph checks the signature of the header that the proxy takes away')
    client('s3', endpoint).create_bucket(
        Bucket='careless', CreateBucketConfiguration={'LocationConstraint': 'eu-west-1'})
    class Careless(Proxy):
        pass
    with Proxy(endpoint) as proxy:
        handler = proxy.server.RequestHandlerClass
        forward = handler.forward
        def ignoring(self, body):
            del self.headers['If-None-Match']
            return forward(self, body)
        handler.forward = ignoring
        store = S3Store()
        store.place = (proxy.endpoint, 'eu-west-1')
        with pytest.raises(StoreError, match='ignores If-None-Match'): store.probe('s3://careless/_ledger')


def test_an_object_that_changes_is_not_taken(cloud_day, session, endpoint):
    "If-Match: a landing object rewritten between listing and reading is set aside, and the next run takes it"
    cloud, _, after, copy = cloud_day
    world, s3 = copy(), client('s3', endpoint)
    with world.environment(): taken = {t.path for t in world.ledger().taken(world.ledger().head())}
    objects = s3.list_objects_v2(Bucket=cloud.landing)['Contents']
    key = next(o['Key'] for o in objects if o['Size'] > 3000 and o['Key'][len('landing/chargebacks/'):] not in taken)
    body = s3.get_object(Bucket=cloud.landing, Key=key)['Body'].read()
    def observe(stage, seconds, facts):
        if stage == 'look': s3.put_object(Bucket=cloud.landing, Key=key, Body=body + b'PAR1')
    try:
        with world.environment(): report = job.consolidate(world.start(session, observe))
        assert [(p, rule) for p, rule, _ in report.set_aside if key.endswith(p)] == [
            (key[len('landing/chargebacks/') :], 'changed')]
        assert (
            'changed since it was listed'
            in dict((p, c) for p, _, c in report.set_aside)[key[len('landing/chargebacks/') :]])
    finally: s3.put_object(Bucket=cloud.landing, Key=key, Body=body)
    world.run(session)
    assert world.listed() == after


def test_a_table_that_cannot_be_made_known_is_unfinished(cloud_day, session, endpoint, monkeypatch):
    "The store that refuses after the commit is no failure of the run"
    world, glue = cloud_day[3](), client('glue', endpoint)
    glue.create_database(DatabaseInput={'Name': 'unknown'})
    def refused(ledger): raise StoreError('s3://lake/_delta_log cannot be listed: SlowDown')
    monkeypatch.setattr(job, 'has_log', refused)
    more = ['--OUTPUT_DATABASE', 'unknown', '--OUTPUT_TABLE', 'consolidated']
    with world.environment(): report, error = entry.run_day(world.start(session, state.quiet, *more))
    assert report.status == 'unfinished' and isinstance(error, job.AftermathFailed)
    assert 'the day is not registered: s3://lake/_delta_log cannot be listed: SlowDown' in report.message


def test_a_partition_that_lies_elsewhere(cloud_day, session, endpoint):
    "The catalog says where a day lies; below the table's location or not"
    cloud, _, after, copy = cloud_day
    world, s3, glue = copy(), client('s3', endpoint), client('glue', endpoint)
    s3.create_bucket(Bucket='archive', CreateBucketConfiguration={'LocationConstraint': 'eu-west-1'})
    for o in s3.list_objects_v2(Bucket=cloud.landing)['Contents']:
        s3.copy_object(Bucket='archive', Key='old/' + o['Key'], CopySource={'Bucket': cloud.landing, 'Key': o['Key']})
    [known] = glue.get_partitions(DatabaseName='landing', TableName='chargebacks')['Partitions']
    key = dict(DatabaseName='landing', TableName='chargebacks', PartitionValueList=known['Values'])
    def move(location):
        wanted = {'Values': known['Values'], 'StorageDescriptor': {'Location': location}}
        glue.update_partition(PartitionInput=wanted, **key)
    inside = known['StorageDescriptor']['Location']
    move(inside.replace(f's3://{cloud.landing}/', 's3://archive/old/'))
    try:
        with world.environment(): report = job.consolidate(world.start(session))
        with world.environment(): taken = world.ledger().taken(world.ledger().head())
        with world.environment(): verdict = reconcile(open_day(world.output, DAY))
    finally: move(inside)
    assert world.listed() == after and report.rows_after == len(after)
    assert any(t.path.startswith('s3://archive/old/landing/') and t.commit == report.commit for t in taken)
    assert report.set_aside == () or all(a.path.startswith('s3://archive/') for a in report.set_aside)
    known = {'landing file gone', 'unreadable file'}    # the first half was taken where it no longer is
    assert not [f for f in verdict.findings if f.level == 'fail' and f.kind not in known]


def test_kms_and_credentials(cloud_day, session, endpoint):
    "SSE-KMS is asked for with every write, and no credential ever reaches a log or the ledger"
    if SERVER == 'ceph': pytest.skip('Ceph refuses SSE-KMS over plain HTTP')
    cloud, _, after, copy = cloud_day
    world = copy()
    with world.environment():
        job.consolidate(world.start(session, state.quiet, '--KMS_KEY_ID', 'alias/chargebacks'))
        ledger = world.ledger()
        head = ledger.head()
    written = client('s3', endpoint).head_object(
        Bucket=world.bucket, Key=ledger.path(head.files[0].path)[len(f's3://{world.bucket}/') :])
    assert written['ServerSideEncryption'] == 'aws:kms' and written['SSEKMSKeyId'].endswith('alias/chargebacks')
    assert 'testing' not in json.dumps(head.__dict__)


def test_a_catalog_that_refuses_is_one_line(endpoint):
    with pytest.raises(ArgumentError, match='SOURCE_DATABASE'):
        world = S3World(endpoint, 'none')
        world.catalog = []
        with world.environment():
            entry.plan_runs(parse([w if w != 'landing' else 'elsewhere' for w in world.arguments()]))
