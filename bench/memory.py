"""Days whose landing files are small and whose records are not, or the other way round: time and memory of whole
runs.

    python bench/memory.py [--only repeated,thin,cut,many]

repeated: 920 files of 75 KB, a text of 20 KB the same in all records of a file. thin: 30 million records of two
columns in 60 files. cut: one file of 1.1 GB into 1 and into 10 output files. many: one small file into 3,000 output
files.
"""
import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'bench')]
from bench import interruptible, measure, ours, settle_disk  # noqa: E402

NOON = 1762084800000000


def land(name, tables, **options):
    "A lake of one day with these tables as files"
    lake = ROOT / 'build/bench' / name
    day = lake / 'landing/chargebacks/2025/11/02'
    if (lake / 'complete').exists(): return lake
    shutil.rmtree(lake, ignore_errors=True)
    day.mkdir(parents=True)
    for i, table in enumerate(tables): pq.write_table(table, day / f'part-{i:05d}.parquet', **options)
    (lake / 'complete').touch()
    return lake


def records(first, n, **more):
    keys = pa.array(np.arange(first, first + n)).cast(pa.string())
    return pa.table({'chargeback_id': keys, 'event_timestamp': pa.array(np.full(n, NOON), pa.timestamp('us')), **more})


def random_texts(rng, n, size):
    data = rng.integers(97, 123, n * size, np.uint8).tobytes()
    return pa.array([data[i * size:(i + 1) * size].decode() for i in range(n)])


def repeated():
    rng = np.random.default_rng(1)
    for i in range(920):
        texts = random_texts(rng, 1, 20_000)[0]
        payload = random_texts(rng, 100, 500)
        yield records(100 * i, 100, evidence=pa.array([texts.as_py()] * 100), payload=payload)


def thin():
    for i in range(60): yield records(500_000 * i, 500_000)


def cut():
    rng = np.random.default_rng(2)
    yield records(0, 550_000, payload=random_texts(rng, 550_000, 2_000))


def many(): yield records(0, 30_000)


def run(lake, count):
    "(seconds, peak bytes) of a run into `count` files"
    out = ROOT / 'build/bench/out'
    for folder in (out, out.with_name('_out')): shutil.rmtree(folder, ignore_errors=True)
    settle_disk(lake)
    words = ours(lake, out)
    words[words.index('--OUTPUT_FILE_COUNT') + 1] = str(count)
    took = measure(words)
    written = len(list(out.glob('year=*/month=*/day=*/*.parquet')))
    assert written == count, f'{written} files instead of {count}'
    return took.seconds, took.peak


CASES = {
    'repeated': (repeated, {}, (10,)), 'thin': (thin, {}, (10,)),
    'cut': (cut, {'compression': 'none', 'row_group_size': 50_000}, (1, 10)), 'many': (many, {}, (3000,))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', default=','.join(CASES))
    for name in parser.parse_args().only.split(','):
        tables, options, counts = CASES[name]
        lake = land(name, tables(), **options)
        size = sum(p.stat().st_size for p in lake.rglob('*.parquet'))
        for count in counts:
            seconds, peak = run(lake, count)
            print(
                f'{name:<9} {size / 1e6:>7,.0f} MB into {count:>5,} files: {seconds:>6.1f} s, {peak / 1e9:.2f} GB',
                flush=True)


if __name__ == '__main__':
    with interruptible(): main()
