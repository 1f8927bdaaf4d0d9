"""What pyarrow alone takes for each landing file, one after the other, what the job takes, and what a start costs.
And what a late execution takes for the rows that the day has already, beside what hashes of their keys would save.

    python bench/floor.py [--files 2500] [--rounds 3] [--narrow|--wide] [--write]

One thread, CPU milliseconds a file, the files in the page cache. Nothing is decided by what pyarrow does here alone,
no row is left out, counted or traced: it reads the bytes, opens them, reads the columns that decide or all of them,
joins some files to a table, and writes that. The start is that of whole processes: Python, its imports, Spark, and a
first task on each core that imports what a task needs. Rows of the day are those of a file that the job's copy wrote;
the hashes are eight bytes for each of them, which are read and looked for among a hundredth as many.
"""
import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'bench')]
DAY, JOINED, GROUP = date(2025, 11, 2), 25, 800      # files in a table, and in a row group
START = """
import chargeback_consolidation.entry
from chargeback_consolidation.spark import collect, get_spark, run_tasks
def work(share):
    import chargeback_consolidation.copying
    return [share]
spark = get_spark()
collect(run_tasks(spark, range(spark.sparkContext.defaultParallelism), work))
"""


def read(path):
    with open(path, 'rb', buffering=0) as file: return file.read()


def alone(paths, folder):
    "What pyarrow takes for each step, of files with the same columns: {step: CPU milliseconds a file}"
    from chargeback_consolidation.parquet import WholeFile, leaves_named, open_parquet, open_writer
    from chargeback_consolidation.settings import COLUMNS
    found = {}

    def timed(step, work):
        began = time.process_time()
        result = work()
        found[step] = time.process_time() - began
        return result
    data = timed('read', lambda: [read(path) for path in paths])
    opened = timed('open', lambda: [open_parquet(d, kind=WholeFile) for d in data])
    names = dict.fromkeys((*COLUMNS.key, *COLUMNS.version, COLUMNS.event))
    leaves = leaves_named(opened[0], names)
    timed('columns that decide', lambda: [file.read_leaves(leaves) for file in opened])
    tables = timed('all columns', lambda: [file.read(use_threads=False) for file in opened])

    def joined():
        return [pa.concat_tables(tables[i:i + JOINED]).combine_chunks() for i in range(0, len(tables), JOINED)]

    def written():
        with open(Path(folder, 'alone.parquet'), 'wb') as file, open_writer(file, blocks[0], 'snappy') as writer:
            for i in range(0, len(blocks), GROUP // JOINED):
                group = pa.concat_tables(blocks[i:i + GROUP // JOINED])
                writer.write_table(group, row_group_size=group.num_rows)
    blocks = timed('join', joined)
    timed('write', written)
    return {step: seconds / len(paths) * 1000 for step, seconds in found.items()}


def job(paths, folder):
    "What index and copy of the job take: {step: CPU milliseconds a file}"
    from chargeback_consolidation import copying, landing, schema, versions
    from chargeback_consolidation.inventory import Source
    from chargeback_consolidation.layout import CONSOLIDATED, SlotPaths
    from chargeback_consolidation.store import store_for
    store = store_for(folder)
    entries = {entry.path: entry for entry in store.list(os.path.dirname(paths[0]))}
    sources = [Source(i, path, entries[path].size, entries[path].etag, '') for i, path in enumerate(paths)]
    began = time.process_time()
    bundles = [bundle for _, bundle in versions.scatter(landing.read_index(sources, (store, store), DAY), 1)]
    index = time.process_time() - began

    rows = pa.concat_tables([versions.unpack(bundle) for bundle in bundles])
    notes = landing.read_notes([text for bundle in bundles for text in versions.notes_in(bundle)])
    there = versions.integers(rows['position']) >= 0
    [batch] = rows.filter(versions.arrow_array(there)).combine_chunks().to_batches()
    lost, _ = versions.gather([versions.losers(batch, versions.path_ranks(paths))])
    day, unit, _ = schema.common_schema(notes)
    none = np.zeros(0, np.int32)

    def part(source):
        drop, aside = lost.get(source.id, none), landing.kept_out(notes[source.id])
        return copying.Part(source, 0, notes[source.id].rows - aside - len(drop), aside, drop)
    parts = [part(source) for source in sources]
    to = SlotPaths(*(f'{folder}/{name}.parquet' for name in SlotPaths._fields))
    began = time.process_time()
    copied = copying.copy_slot(
        parts, day, unit, to, 'snappy', copying.LastRead((store, store)), os.path.dirname(paths[0]))
    copy = time.process_time() - began
    assert copied.file.rows == sum(part.take for part in parts)
    store.publish(to.file, copied.file.token)
    found = {'the index of the job': index, 'the copy of the job': copy}
    own = Source(CONSOLIDATED, to.file, copied.file.bytes, '', to.lineage)
    return {step: seconds / len(paths) * 1000 for step, seconds in found.items()}, once_more(own, store)


def once_more(own, store):
    "What a later execution takes for the rows of the day's own file: {step: CPU seconds a million rows}"
    from chargeback_consolidation import landing, versions

    def timed(work):
        began = time.process_time()
        return work(), time.process_time() - began
    batches, index = timed(lambda: list(landing.read_index([own], (store, store), DAY)))
    bundles, scatter = timed(lambda: [bundle for _, bundle in versions.scatter(batches, 1)])
    kept, sift = timed(lambda: list(versions.sift(bundles)))
    assert [versions.unpack(bundle).num_rows for bundle in kept] == [1]     # its note: no row has a contender

    hashes = np.concatenate([versions.integers(batch['hash']) for batch in batches if not batch['hash'].null_count])
    path, late = Path(own.path).with_name('hashes'), np.sort(hashes[::100])
    hashes.tofile(path)
    found, compare = timed(lambda: np.isin(np.fromfile(path, np.int64), late))
    assert found.sum() == len(late)
    steps = {'index': index, 'scatter and sift': scatter + sift, 'hashes': compare}
    return {step: seconds / len(hashes) * 1e6 for step, seconds in steps.items()}


def main():
    from bench import keep, land, measure, narrow, reshaped, settle_disk, wide
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--files', type=int, default=2500)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--narrow', action='store_true', help="as bench.py's")
    parser.add_argument('--wide', action='store_true', help="as bench.py's")
    parser.add_argument('--write', action='store_true', help='keep the results for the notebook')
    a = parser.parse_args()
    shape = narrow if a.narrow else wide if a.wide else None
    lake = reshaped(a.files, shape) if shape else land(a.files)
    settle_disk(lake)
    paths = sorted(map(str, Path(lake, 'landing/chargebacks/2025/11/02').glob('*.parquet')))
    schemas = {path: str(pq.read_schema(path)) for path in paths}
    [(most, _)] = Counter(schemas.values()).most_common(1)
    alike = [path for path in paths if schemas[path] == most]   # to be joined without more ado
    pa.set_cpu_count(1)
    rounds = []
    for _ in range(a.rounds + 1):   # the first to import and warm up
        with tempfile.TemporaryDirectory() as folder:
            passes, rows = job(paths, folder)
            rounds.append(({**alone(alike, folder), **passes}, rows))
    found, own = ({step: statistics.median(r[i][step] for r in rounds[1:]) for step in rounds[0][i]} for i in (0, 1))
    start = statistics.median(measure([sys.executable, '-c', START])[0] for _ in range(a.rounds))
    for step, took in found.items(): print(f'{step:<22}{took:>8.3f} ms a file')
    for step, took in own.items(): print(f'{step:<22}{took:>8.3f} s a million rows of the day')
    print(f'{"start":<22}{start:>8.2f} s')
    if a.write:
        name = f'floor-{shape.__name__}' if shape else 'floor'
        keep(name, {'files': len(paths), 'rounds': a.rounds, 'steps': found, 'own': own, 'start': start})


if __name__ == '__main__':
    from bench import interruptible
    with interruptible(): main()
