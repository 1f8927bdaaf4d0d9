"""What a day of 50 million records in 500,000 files asks of the driver: the job's own planning, over synthetic
entries.

    python bench/scale.py [--files 500000] [--records 100] [--output-files 100] [--write]

Nothing is read or written but the ledger's records. The listing, the notes on files, the losers, the layout, the
pieces as Spark gets them, the manifest and the commit record are the real ones, of real size. Prints seconds and the
peak memory of Python and JVM after each step.
"""
import argparse
import os
import resource
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'bench')]
DAY = date(2025, 11, 2)


class Listing:
    "A store whose landing folder holds `count` files, as a listing tells them"

    def __init__(self, count): self.count = count

    def list(self, folder, recursive=True):
        from chargeback_consolidation.store import FileEntry
        return [
            FileEntry(
                f'{folder}/chargebacks-{i:012d}-{i * 2654435761 % 2**32:08x}.parquet', 75000 + i % 997,
                f'{i * 11400714819323198485 % 2**128:032x}')
            for i in range(self.count)]


def index_of(spark, files, records, lost):
    "An index as `build_index` returns it: a note on each file, and `lost` contenders in pairs"
    import pyarrow as pa
    import pyarrow.parquet as pq

    from chargeback_consolidation.deciding import index_schema
    from chargeback_consolidation.landing import UNCOUNTED, field_of, note_row, read_notes
    from chargeback_consolidation.parquet import open_parquet
    from chargeback_consolidation.sample.records import schema
    from chargeback_consolidation.settings import COLUMNS
    from chargeback_consolidation.versions import Index, pack
    sink = pa.BufferOutputStream()
    pq.write_table(schema().empty_table(), sink)
    parquet = open_parquet(sink.getvalue().to_pybytes())
    packed = parquet.schema_arrow.serialize().to_pybytes()

    def noted(ids):
        notes = {
            i: UNCOUNTED._replace(
                rows=records, bytes=records * 800, schema=0, first_event=1762041600000000 + i * 172800,
                digest=i * 11400714819323198485 % 2**64)
            for i in ids}
        yield field_of(note_row(notes, [packed]), 'note')[0].as_py()

    def contenders(bucket, buckets=200):
        pair = np.arange(bucket, lost // 2, buckets)
        ids, none = np.concatenate([pair, pair + lost // 2]), pa.nulls(2 * len(pair))
        columns = {
            'source': ids * 7919 % files, 'position': ids // files % records, 'key': np.tile(pair, 2),
            'hash': np.tile(pair, 2)}
        index = index_schema(COLUMNS)
        columns.update({name: ids * name.endswith(' us') for name in index.names if ' ' in name})
        arrays = [
            pa.array(columns[f.name]).cast(f.type) if f.name in columns else none.cast(f.type) for f in index]
        yield pack(pa.RecordBatch.from_arrays(arrays, schema=index))

    return Index(
        read_notes(spark.sparkContext.range(0, files, 1, 16).mapPartitions(noted).collect()),
        spark.sparkContext.range(0, 200, 1, 200).flatMap(contenders))


def main():
    from bench import keep, used
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--files', type=int, default=500_000)
    parser.add_argument('--records', type=int, default=100, help='in a file')
    parser.add_argument('--output-files', type=int, default=100)
    parser.add_argument('--lost', type=float, default=0.02, help='share of records that are contenders')
    parser.add_argument('--write', action='store_true', help='keep the results for the notebook')
    a = parser.parse_args()

    from chargeback_consolidation import job
    from chargeback_consolidation.catalog import Partition, Table
    from chargeback_consolidation.copying import slot_shares
    from chargeback_consolidation.inventory import Sources, take_inventory
    from chargeback_consolidation.ledger import Settled
    from chargeback_consolidation.parquet import write_lineage
    from chargeback_consolidation.plan import decide
    from chargeback_consolidation.sample.lake import run_words
    from chargeback_consolidation.settings import parse
    from chargeback_consolidation.spark import collect, get_spark, run_tasks
    from chargeback_consolidation.state import State, start_run
    from chargeback_consolidation.writer import Copied, WrittenFile
    temporary = tempfile.TemporaryDirectory()
    folder = temporary.name
    settings = parse(run_words(
        folder, output_file_count=a.output_files, compression_codec='snappy', partition_date=DAY))
    table, partition = (
        Table('landing.chargebacks', 's3://landing/chargebacks'),
        Partition(DAY, ('s3://landing/chargebacks/2025/11/02',)))
    steps, last = [], time.perf_counter()

    def step(name):
        nonlocal last
        now, python, whole = (
            time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, used(psutil.Process())[0])
        steps.append({'step': name, 'seconds': now - last, 'python': python, 'tree': whole})
        print(
            f'{name:<12}{now - last:>8.1f} s   peak of Python {python / 1e6:>6.0f} MB   all processes now '
            f'{whole / 1e6:>6.0f} MB',
            flush=True)
        last = time.perf_counter()

    spark = get_spark()
    step('start')
    run = start_run(settings, table, partition, get_spark)
    run.ledger.store.probe(run.ledger.folder)
    inventory = take_inventory(Listing(a.files), table.location, partition.locations)
    new = dict(enumerate(inventory.files))
    sources = Sources(table.location, new, {})
    state = State(None, Settled(), (), inventory, new, sources, (), (), False, True)
    step('listing')
    index = index_of(spark, a.files, a.records, int(a.files * a.records * a.lost))
    step('notes')
    plan = decide(run, state, index, {})
    step('decide')
    shares = run_tasks(spark, slot_shares(job.slot_parts(plan.slots, sources, {}, plan.lost), {}, 64),
                       lambda share: [len(share)])
    written, tasks = sum(collect(shares)), shares.getNumPartitions()
    step('shares')
    rows = a.files * a.records
    per_slot = rows // len(plan.slots)
    slot = np.arange(per_slot)
    kept = np.random.default_rng(1).random(per_slot) > a.lost / 2
    lineage = len(write_lineage((slot // a.records)[kept].astype(np.int32), (slot % a.records)[kept].astype(np.int32)))
    def copied(i):
        paths = job.slot_paths(DAY, i, 1, run.name)
        file = WrittenFile(run.ledger.path(paths.file), per_slot, 65_000_000, '.token', 5, 2**63 + i,
                           run.ledger.path(paths.lineage))
        return Copied(file)
    slots = {i: copied(i) for i in range(len(plan.slots))}
    commit = job.commit_of(run, state, plan, job.Written(slots, {}))
    manifest = os.path.getsize(f'{folder}/_out/{commit.manifest}')
    record = len(commit.data())
    step('commit')
    assert written == len(plan.slots) and sum(p.take for s in plan.slots for p in s.pieces) == rows - sum(
        map(len, plan.lost.values()))
    print(
        f'manifest {manifest / 1e6:.1f} MB, commit record {record / 1e3:.0f} kB, lineage '
        f'{lineage * len(plan.slots) / 1e6:.1f} MB in {len(plan.slots)} files; '
        f'{tasks} copy tasks')
    if a.write:
        keep(
            'scale',
            {
                'files': a.files, 'records': rows, 'output_files': len(plan.slots), 'manifest': manifest,
                'record': record, 'lineage': lineage * len(plan.slots), 'tasks': tasks, 'steps': steps})
    temporary.cleanup()


if __name__ == '__main__':
    from bench import interruptible
    with interruptible(): main()
