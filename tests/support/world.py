"""A day in two halves, in a local folder or in S3, for the tests that kill, race and disturb runs.

The first half is committed in three files; the second half has landed and is what the disturbed runs are about.
Execution two writes other files for all three slots, so it publishes three and deletes three.
"""
import os
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from aws import REGION, client, environment, place, upload
from deltalake import DeltaTable

from chargeback_consolidation import entry, job, state
from chargeback_consolidation.ledger import MANIFEST_NAME, Ledger, number_of, snapshot
from chargeback_consolidation.repair import repair
from chargeback_consolidation.sample.lake import run_words
from chargeback_consolidation.sample.landing import land_sample
from chargeback_consolidation.settings import parse
from chargeback_consolidation.store import store_for

DAY, SAMPLE = (
    '2025-11-02',
    dict(
        files=12, records_per_file=10, payload_bytes=30, versions=0.2, null_keys=0.05, truncated_files=0.0,
        empty_files=0.0, deliveries=2))
COLUMNS = ['chargeback_id', 'updated_at', 'status']
RATES = [word for rule in ('DUPLICATE', 'NULL_KEY', 'UNREADABLE') for word in (f'--MAX_{rule}_RATE', '1')]


def land(folder, delivery): land_sample(str(folder), delivery=delivery, workers=1, **SAMPLE)


class World:
    "What a scenario runs in: the job's arguments, and what a reader sees"
    stores, extra = {}, ()      # extra: arguments that all its runs get

    def arguments(self, *more):
        return [
            *run_words(None, output_path=self.output, partition_date=DAY), *RATES, *self.catalog, *self.extra, *more]

    def start(self, session, observe=state.quiet, *more):
        "A run, not yet started"
        settings = parse(self.arguments(*more))
        table, (partition,) = entry.plan_runs(settings)
        return state.start_run(settings, table, partition, session, observe)

    def run(self, session, observe=state.quiet, *more):
        with self.environment(): return job.consolidate(self.start(session, observe, *more))

    def ledger(self):
        "The day's ledger. Its store is the same for one address: a client of S3 takes longer to make than a request"
        settings = parse(self.arguments())
        at = type(self), os.environ.get('AWS_ENDPOINT_URL'), os.environ.get('AWS_ENDPOINT_URL_S3')
        if at not in self.stores: self.stores[at] = store_for(self.output)
        return Ledger(self.stores[at], self.output, settings.partition_date, settings.ledger_path)

    def keys(self, entries):
        "How often each row is in these files: a row is known by key, version and status"
        found, store = Counter(), self.ledger().store
        for listed in entries:
            with store.open(listed) as f:
                table = pq.read_table(pa.BufferReader(f.read()), columns=COLUMNS)
            found.update(tuple(row.values()) for row in table.to_pylist())
        return found

    def listed(self):
        "The rows that a reader finds who lists the partition"
        with self.environment(): return self.keys(self.ledger().visible())

    def asked(self):
        "The rows that a reader finds who asks the ledger"
        with self.environment(): return self.keys(snapshot(self.ledger())[1])

    def logged(self):
        "The rows that a reader finds who reads the Delta log"
        table = DeltaTable(self.output, storage_options=self.storage).to_pyarrow_table()
        return Counter(zip(*(table[c].to_pylist() for c in COLUMNS), strict=True))

    def like(self, other):
        "This world, with the runs of another"
        self.extra = other.extra
        return self

    def orphans(self):
        "What lies about that the last commit does not name"
        with self.environment():
            ledger = self.ledger()
            head, store = ledger.head(), ledger.store
            named = {ledger.path(f.path) for f in head.files + head.quarantine}
            lineage = {ledger.path(f.lineage) for f in head.files}
            manifests = {ledger.path(ledger.load(n).manifest) for n in ledger.numbers()}
            files = [
                e.path
                for folder in (ledger.partition, ledger.quarantine)
                for e in store.list(folder)
                if e.path not in named and not e.path.rsplit('/', 1)[-1].startswith('.')]
            files += [
                e.path for e in store.list(ledger.folder) if number_of(e.path) is not None and e.path not in lineage]
            files += [
                e.path
                for e in store.list(ledger.folder)
                if MANIFEST_NAME.match(e.path.rsplit('/', 1)[-1]) and e.path not in manifests]
            return files + [
                path
                for folder in (ledger.partition, ledger.quarantine, ledger.folder)
                for path, _ in store.staged(folder)]

    def repair(self):
        with self.environment(): return repair(self.ledger(), 'abad1dea')


class LocalWorld(World):
    def __init__(self, root):
        self.root, self.output, self.catalog = Path(root), str(Path(root, 'out')), ['--CATALOG', str(root)]

    storage = None

    def environment(self): return environment()
    def land(self, delivery): land(self.root, delivery)

    def copy(self, root):
        shutil.copytree(self.root, root)
        return LocalWorld(root).like(self)


class S3World(World):
    "Its landing lies in one bucket for all copies; each copy has an output bucket of its own"

    def __init__(self, endpoint, name, landing='landing-zone', folder=None):
        self.endpoint, self.bucket, self.landing, self.folder, self.catalog = endpoint, name, landing, folder, []
        self.output = f's3://{name}/chargebacks'

    @property
    def storage(self):
        return {
            'AWS_ENDPOINT_URL': str(self.endpoint), 'AWS_ALLOW_HTTP': 'true', 'AWS_REGION': REGION,
            'AWS_ACCESS_KEY_ID': 'testing', 'AWS_SECRET_ACCESS_KEY': 'testing'}

    def environment(self, endpoint=None): return environment(**place(endpoint or self.endpoint))

    def create(self):
        client('s3', self.endpoint).create_bucket(
            Bucket=self.landing, CreateBucketConfiguration={'LocationConstraint': 'eu-west-1'})
        upload(self.endpoint, self.folder, self.bucket)
        glue, location = client('glue', self.endpoint), f's3://{self.landing}/landing/chargebacks'
        glue.create_database(DatabaseInput={'Name': 'landing'})
        keys = [{'Name': f'partition_{i}', 'Type': 'string'} for i in range(3)]
        glue.create_table(
            DatabaseName='landing',
            TableInput={'Name': 'chargebacks', 'PartitionKeys': keys, 'StorageDescriptor': {'Location': location}})
        glue.create_partition(
            DatabaseName='landing', TableName='chargebacks',
            PartitionInput={
                'Values': DAY.split('-'), 'StorageDescriptor': {'Location': f'{location}/{DAY.replace("-", "/")}'}})
        return self

    def land(self, delivery):
        land(self.folder, delivery)
        s3 = client('s3', self.endpoint)
        there = {o['Key'] for o in s3.list_objects_v2(Bucket=self.landing).get('Contents', ())}
        for path in sorted(self.folder.rglob('*')):
            key = path.relative_to(self.folder).as_posix()
            if path.is_file() and key not in there: s3.put_object(Bucket=self.landing, Key=key, Body=path.read_bytes())

    def copy(self, name):
        s3 = client('s3', self.endpoint)
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={'LocationConstraint': 'eu-west-1'})
        for o in s3.list_objects_v2(Bucket=self.bucket).get('Contents', ()):
            s3.copy_object(Bucket=name, Key=o['Key'], CopySource={'Bucket': self.bucket, 'Key': o['Key']})
        return S3World(self.endpoint, name, self.landing, self.folder).like(self)


def prepared(world, session):
    "`world` with the first half committed and the second landed, the rows before, and the rows of an undisturbed day"
    world.land(1)
    world.run(session)
    world.land(2)
    return world, world.listed()
