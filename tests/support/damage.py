"A generated day in two executions, sound or damaged in four ways that somebody would want to find out about."
import shutil
from collections import namedtuple
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chargeback_consolidation import entry, state
from chargeback_consolidation.ledger import read_commit
from chargeback_consolidation.sample.lake import run_words
from chargeback_consolidation.sample.landing import land_sample
from chargeback_consolidation.settings import parse

DAY, FOLDER = '2025-11-02', 'landing/chargebacks/2025/11/02'
SAMPLE = dict(
    files=40, records_per_file=50, payload_bytes=60, deliveries=2, versions=0.1, version_lag=0.1, ties=0.01,
    redelivered_records=0.01, null_keys=0.01, redelivered_files=0.0, truncated_files=0.0, empty_files=0.0,
    zero_row_files=0.0)

Damage = namedtuple('Damage', 'gone doubled twin waiting newcomers newer short removed lost_with_gone')
Damage.__doc__ = """What was done. gone: the landing file deleted. doubled, twin: a landing file and the one it
copies. waiting: landed after the last execution, with chargebacks that are new (newcomers) and newer versions of
others (newer). short: the output file that lost rows; removed: their keys. lost_with_gone: a key of the day from the
deleted file."""


def execute(root, *more):
    words = run_words(root, partition_date=DAY, max_null_key_rate=1, max_unreadable_rate=1)
    entry.run_all(parse([*words, *more]), observe=state.quiet, tell=lambda report: None)


def sound(root):
    "A day in two executions; between them a landing file came a second time"
    land_sample(str(root), delivery=1, **SAMPLE)
    execute(root)
    land_sample(str(root), delivery=2, **SAMPLE)
    shutil.copy(root/FOLDER/'part-1-2.parquet', root/FOLDER/'part-7-0.parquet')
    execute(root)


def head(root):
    return read_commit(sorted(Path(root, '_out/_ledger/year=2025/month=11/day=02').glob('*.json'))[-1].read_bytes())


def damaged(root):
    "Damage a sound day; what was done"
    landing, out = root/FOLDER, root/'out'
    gone = landing/'part-2-3.parquet'
    gone_keys = set(pq.read_table(gone)['chargeback_id'].to_pylist())
    elsewhere = {
        k for p in landing.glob('*.parquet') if p != gone for k in pq.read_table(p)['chargeback_id'].to_pylist()}
    only_there = sorted(k for k in gone_keys - elsewhere if k)
    base = pq.read_table(landing/'part-0-0.parquet')
    keys = base['chargeback_id'].to_pylist()
    base = base.take(pa.array([i for i, k in enumerate(keys) if k and keys.index(k) == i]))
    newest = pa.scalar(4102444800000000, pa.timestamp('us', 'UTC')).cast(base.schema.field('updated_at').type)
    rows = base.slice(0, 8)
    keys = rows['chargeback_id'].to_pylist()
    newcomers, newer = [f'cb-new-{i}' for i in range(5)], keys[5:]
    rows = rows.set_column(rows.schema.get_field_index('chargeback_id'), 'chargeback_id', pa.array(newcomers + newer))
    rows = rows.set_column(
        rows.schema.get_field_index('updated_at'), 'updated_at',
        pa.array([newest.as_py()] * 8, base.schema.field('updated_at').type))
    pq.write_table(rows, landing/'part-8-0.parquet')
    short = out/head(root).files[1].path
    table = pq.ParquetFile(short).read()
    taken_out = [i for i, k in enumerate(table['chargeback_id'].to_pylist()) if k not in gone_keys and k not in newer][
        10:15]
    removed = [table['chargeback_id'][i].as_py() for i in taken_out]
    pq.write_table(table.take(pa.array(sorted(set(range(len(table))) - set(taken_out)))), short, compression='zstd')
    gone.unlink()
    name = lambda p: p.relative_to(root/'landing/chargebacks').as_posix()
    return Damage(
        name(gone), '2025/11/02/part-7-0.parquet', '2025/11/02/part-1-2.parquet', '2025/11/02/part-8-0.parquet',
        newcomers, newer, short.relative_to(out).as_posix(), removed, only_there[0])
