"""Where the files of a day are: every way to write a day, on a disk and in the Glue catalog, and what is said when
there is none."""
from datetime import date
from unittest.mock import Mock

import pyarrow as pa
import pytest
from aws import REGION, Proxy, client, environment, moto

from chargeback_consolidation import catalog as catalogs
from chargeback_consolidation.catalog import (
    CatalogError,
    GlueCatalog,
    LocalCatalog,
    day_folders,
    hive_type,
    read_day,
    register,
)
from chargeback_consolidation.sample.lake import run_words
from chargeback_consolidation.settings import ArgumentError, parse
from chargeback_consolidation.store import StoreError

DAY = date(2025, 11, 2)
WORDS = run_words(
    None, source_table='t', output_path='s3://lake/out', partition_date=DAY, output_database='lake',
    output_table='days')


@pytest.fixture(scope='module')
def endpoint():
    with moto() as address: yield address


@pytest.fixture
def glue(endpoint):
    with environment(AWS_ENDPOINT_URL=endpoint, AWS_ENDPOINT_URL_S3=None): yield client('glue', endpoint)


def landed(root, *folders):
    for folder in folders:
        (root / 'landing/t' / folder).mkdir(parents=True)
        (root / 'landing/t' / folder / 'part-0').write_bytes(b'rows')
    catalog = LocalCatalog(str(root))
    return catalog, catalog.table('landing', 't')


HOURS = [f'2025-11-02--{hour:02d}' for hour in range(24)]


@pytest.mark.parametrize(
    'folders',
    [
        ['2025/11/02'], ['2025/11/2'], ['year=2025/month=11/day=2'], ['partition_0=2025/partition_1=11/partition_2=02'],
        ['2025-11-02'], ['2025-11-2'], ['dt=2025-11-02'], ['dt=2025-11-2'], ['date=2025-11-02'], HOURS,
        [f'dt={hour}' for hour in HOURS],
        ['2025/11/02', 'dt=2025-11-02', '2025-11-02--23']])
def test_every_way_to_write_a_day_on_a_disk(tmp_path, folders):
    catalog, table = landed(tmp_path, *folders, '2025-11-01--23', '2025-11-03--00', 'dt=2025-11-20', '2025/11/20')
    found = catalog.partition(table, DAY)
    assert {f.removeprefix(f'{table.location}/') for f in found.locations} == set(folders)
    days = {p.day: p for p in catalog.partitions(table)}
    assert days[DAY] == found and set(days) == {DAY, date(2025, 11, 1), date(2025, 11, 3), date(2025, 11, 20)}


NO_DAYS = [
    '2025-11-02--24', '2025-11-02--7', '2025-11-02-07', 'dt=2025-11-32', '2025-13-01', 'dt=20251102', '2025-11-02x']


@pytest.mark.parametrize('folder', NO_DAYS)
def test_what_is_no_day(folder): assert read_day([folder]) is None


@pytest.mark.parametrize('folder', ['event_date=2025-11-02', 'y=2025/m=11/d=02', 'dt=2025/month=11/day=02'])
def test_a_day_that_is_found_is_read(tmp_path, folder):
    "What has other keys is no day, neither where one is looked for nor where all are"
    catalog, table = landed(tmp_path, folder, '2025/11/03')
    assert [p.day.day for p in catalog.partitions(table)] == [3]
    assert catalog.partition(table, DAY).locations == (f'{table.location}/2025/11/02',)
    assert catalog.nearby(table, DAY) == ['2025/11/03', folder]


def test_the_first_folder_looked_for_is_the_usual_one(tmp_path):
    "It is the one that a message names when nothing has landed"
    catalog, table = landed(tmp_path, '2025/11/09')
    assert catalog.partition(table, DAY).locations == (f'{table.location}/2025/11/02',)
    assert len(set(day_folders(DAY))) == len(day_folders(DAY))


@pytest.mark.parametrize('folders,said', [
    (['2025/11/09', '2025/10/31', '2025/11/03', '2024/11/02'], ['2025/11/03', '2025/10/31', '2025/11/09']),
    (['dt=2025-11-03', 'dt=2025-12-01'], ['dt=2025-11-03', 'dt=2025-12-01']),
    (['2025/11/02', 'dt=2025-11-02', '2025/11/03'], ['2025/11/03']),
    (['20251102', 'hourly/07', '_tmp', '.hidden'], ['20251102', 'hourly/07']),
    (['line\nbreak'], [r'line\nbreak']), ([], [])])
def test_folders_nearby(tmp_path, folders, said):
    (tmp_path / 'landing/t').mkdir(parents=True)
    catalog, table = landed(tmp_path, *folders)
    assert catalog.nearby(table, DAY) == said


def in_glue(glue, name, keys, values=(), location=None):
    "A table in the catalog with partitions of these values"
    location = location or f's3://landing/{name}'
    try: glue.create_database(DatabaseInput={'Name': 'landing'})
    except glue.exceptions.AlreadyExistsException: pass
    keys = [{'Name': k, 'Type': kind} for k, kind in keys]
    glue.create_table(
        DatabaseName='landing',
        TableInput={'Name': name, 'PartitionKeys': keys, 'StorageDescriptor': {'Location': location}})
    for v in values:
        wanted = {'Values': list(v), 'StorageDescriptor': {'Location': f'{location}/{"-".join(v)}'}}
        glue.create_partition(DatabaseName='landing', TableName=name, PartitionInput=wanted)
    catalog = GlueCatalog()
    return catalog, catalog.table('landing', name)


@pytest.mark.parametrize(
    'key,kind,values',
    [
        ('dt', 'string', ['2025-11-02']), ('dt', 'string', ['2025-11-2']), ('date', 'string', ['2025-11-02']),
        ('dt', 'date', ['2025-11-02']), ('partition_0', 'string', HOURS)])
def test_a_key_that_is_a_date_in_the_glue_catalog(glue, key, kind, values):
    name = f'{key}_{kind}_{len(values)}_{len(values[0])}'
    catalog, table = in_glue(glue, name, [(key, kind)], [(v,) for v in (*values, '2025-11-03', '2025-11-20')])
    found = catalog.partition(table, DAY)
    assert found.known and found.locations == tuple(sorted(f's3://landing/{name}/{v}' for v in values))
    assert [p.day.day for p in catalog.partitions(table)] == [2, 3, 20]


def test_other_keys_are_refused_and_the_message_says_which_would_do(glue):
    with pytest.raises(ArgumentError, match=r'partitioned by \(region\): it must be year, month, day, or .* dt, date$'):
        in_glue(glue, 'strange', [('region', 'string')])


@pytest.mark.parametrize('kind', ['int', 'bigint'])
def test_a_day_in_one_number_is_refused(glue, kind):
    with pytest.raises(ArgumentError, match=rf'partitioned by dt of type {kind}: .* must be a string or a date$'):
        in_glue(glue, f'number_{kind}', [('dt', kind)])


def test_flinks_folders_that_no_crawler_has_seen(glue, endpoint):
    s3 = client('s3', endpoint)
    s3.create_bucket(Bucket='uncrawled', CreateBucketConfiguration={'LocationConstraint': REGION})
    for hour in (*HOURS, '2025-11-03--00'): s3.put_object(Bucket='uncrawled', Key=f't/{hour}/part-0', Body=b'rows')
    catalog, table = in_glue(glue, 'uncrawled', [('dt', 'string')], location='s3://uncrawled/t')
    found = catalog.partition(table, DAY)
    assert not found.known and found.locations == tuple(f's3://uncrawled/t/{hour}' for hour in HOURS)
    missing = catalog.partition(table, date(2025, 11, 9))
    assert missing.locations == ('s3://uncrawled/t/2025/11/09',)
    assert catalog.nearby(table, date(2025, 11, 9)) == ['2025-11-03--00', '2025-11-02--00', '2025-11-02--01']


@pytest.mark.parametrize(
    'fault,kind,said', [
        ('400 expired', ArgumentError, '400'), ('403', ArgumentError, 'do not allow it'),
        ('503', StoreError, 'throttling'), ('reset', StoreError, 'cannot be reached')])
def test_a_catalog_that_refuses_is_one_line_before_anything_is_touched(endpoint, fault, kind, said):
    "What may pass is no bad argument"
    with Proxy(endpoint, lambda number, done, path: fault) as proxy, environment(
        AWS_ENDPOINT_URL=proxy.endpoint, AWS_MAX_ATTEMPTS='1'):
        with pytest.raises(kind) as raised: GlueCatalog().table('landing', 't')
    assert str(raised.value).startswith('--' if kind is ArgumentError else 'the Glue catalog refuses get_database')
    assert said in str(raised.value) and '\n' not in str(raised.value) and 'secret' not in str(raised.value)


SCHEMA = catalogs.pa.schema([('chargeback_id', catalogs.pa.string()), ('amount', catalogs.pa.decimal128(18, 2))])
CALLS = ['get_table', 'create_table', 'get_partition', 'create_partition']


@pytest.mark.parametrize('call', CALLS)
def test_registering_fails_in_one_way(glue, endpoint, call, monkeypatch):
    "Whatever the catalog refuses after the commit"
    try: glue.create_database(DatabaseInput={'Name': 'lake'})
    except glue.exceptions.AlreadyExistsException: pass
    from botocore.exceptions import ClientError, EndpointConnectionError
    settings = parse([w if w != 'days' else f'days_{call}' for w in WORDS])
    denied = ClientError({'Error': {'Code': 'AccessDeniedException', 'Message': 'a\nb'}}, call)
    for error in (denied, EndpointConnectionError(endpoint_url='x')):
        catalog = GlueCatalog(client('glue', endpoint))
        monkeypatch.setattr(catalog.client, call, Mock(side_effect=error))
        with pytest.raises(
            CatalogError, match=f'2025-11-02 cannot be made known as a partition of lake.days_{call}: ') as raised:
            register(catalog, settings, SCHEMA, DAY, 's3://lake/out/year=2025/month=11/day=02')
        assert '\n' not in str(raised.value)


def test_registering_twice_and_with_a_new_column(glue):
    settings = parse(WORDS)
    try: glue.create_database(DatabaseInput={'Name': 'lake'})
    except glue.exceptions.AlreadyExistsException: pass
    place = 's3://lake/out/year=2025/month=11/day=02'
    more = SCHEMA.append(catalogs.pa.field('seen', catalogs.pa.timestamp('us')))
    done = [register(GlueCatalog(), settings, schema, DAY, place) for schema in (SCHEMA, SCHEMA, more, more)]
    assert done == [['table', 'partition'], [], ['columns', 'partition'], []]


@pytest.mark.parametrize(('kind', 'hive'), [
    (pa.list_(pa.int32(), 3), 'array<int>'), (pa.large_list(pa.string()), 'array<string>'),
    (pa.duration('us'), 'bigint'), (pa.struct({'due': pa.list_(pa.date32(), 1)}), 'struct<due:array<date>>')])
def test_a_type_in_the_catalog_is_that_of_the_file(kind, hive): assert hive_type(kind) == hive
