"""Measure the job beside what one would pick instead, on this machine, in one go, whole processes, in turn.

    python bench/bench.py [--files 12500] [--rounds 5] [--ways ours,bare,...] [--narrow|--wide] [--write]
    python bench/bench.py --files 500000 --payload 150 --output-files 100 --rounds 1 --ways ours    # 50 million records

`bare` is our script with quality, audit, ledger and commit taken out; `late` is our script on a last 1 % of the
files, after the others. DuckDB is measured in its fastest form, one query streamed into a file a thread, and writing
ten equal files as the job does; chDB, Daft and delta-rs in an environment of their own, made once from
bench/requirements.txt. `--narrow` and `--wide` are days of another shape: nine columns, one of them a long text, and
sixty columns of short values.
`ruled` is our script with eight rules on four columns, in DQDL; `logged` is it with a Delta log, `totals`
with control totals, `amount by currency`.

Prints medians, ratios to ours, peak memory of the process tree and output sizes. `--write` keeps them in
bench/results.json, from which the README's table and plot are made. The day is generated once for each size and kept
under build/bench. Before each run its files are read once and what waits for the disk is written, so that every way
finds the same, whatever the one before left behind.
"""
import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
WAYS = (
    'ours', 'bare', 'duckdb-stream', 'duckdb', 'daft', 'polars', 'delta-rs', 'chdb', 'late', 'tuned', 'textbook')
APART = 'daft', 'delta-rs', 'chdb'     # ways with libraries that nothing else here needs
NARROW = (
    'chargeback_id', 'merchant_id', 'amount', 'currency', 'reason_code', 'status', 'evidence', 'event_timestamp',
    'updated_at')
RULES = """Rules = [
    ColumnValues "amount" > 0 labels=["level"="quarantine"],
    ColumnValues "amount" < 10000000,
    Mean "amount" between 1 and 1000000,
    IsComplete "merchant_id",
    ColumnLength "merchant_id" between 1 and 40,
    ColumnValues "currency" matches "[A-Z]{3}" with threshold > 0.9,
    Completeness "reason_code" > 0.5,
    RowCount > 1000
]"""
EXTRAS = {'ruled': ['--RULES', RULES], 'logged': ['--DELTA_LOG', 'true'],
          'totals': ['--CONTROL_TOTALS', 'amount by currency']}


def land(files, payload=None):
    """A day without broken files (Spark's reader would stop at them), as a catalog folder. payload: bytes of a record's
    long text, if not as many as usual"""
    from chargeback_consolidation.sample.landing import land_sample
    folder = ROOT / 'build/bench' / (f'{files}-{payload}' if payload else str(files))
    if not (folder / 'complete').exists():
        more = {'payload_bytes': payload} if payload else {}
        land_sample(str(folder), files=files, truncated_files=0.0, empty_files=0.0, deliveries=100, **more)
        (folder / 'complete').touch()
    return folder


def reshaped(files, shape):
    "The same day, each file rewritten by the function `shape`, as a catalog folder"
    folder = ROOT / 'build/bench' / f'{files}-{shape.__name__}'
    if (folder / 'complete').exists(): return folder
    sources = list((land(files) / 'landing/chargebacks/2025/11/02').glob('*.parquet'))
    target = folder / 'landing/chargebacks/2025/11/02'
    target.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool: list(pool.map(shape, sources, [target] * len(sources), chunksize=100))
    (folder / 'complete').touch()
    return folder


def narrow(source, target):
    "Nine columns, and 640 characters of evidence in each record"
    table, chance = pq.read_table(source, columns=list(NARROW)), random.Random(source.name)
    texts = [chance.randbytes(320).hex() for _ in range(table.num_rows)]
    table = table.set_column(table.column_names.index('evidence'), 'evidence', pa.array(texts, pa.string()))
    pq.write_table(table, target / source.name, use_deprecated_int96_timestamps=True)


def wide(source, target):
    "Sixty columns of short values: nine without the evidence, and codes, counts, shares and flags"
    table, chance = pq.read_table(source, columns=[c for c in NARROW if c != 'evidence']), random.Random(source.name)
    kinds = (
        ('code', pa.string(), lambda: f'{chance.randrange(400):03}'),
        ('count', pa.int64(), lambda: chance.randrange(10**6)),
        ('share', pa.float64(), chance.random), ('flag', pa.bool_(), lambda: chance.random() < 0.1))
    for i in range(60 - table.num_columns):
        name, kind, value = kinds[i % 4]
        table = table.append_column(f'{name}_{i}', pa.array([value() for _ in range(table.num_rows)], kind))
    pq.write_table(table, target / source.name)


def others_python():
    "The Python that has the libraries of `APART`, in an environment that is made the first time"
    folder, wanted = ROOT / 'build/bench/venv', ROOT / 'bench/requirements.txt'
    made = folder / wanted.name
    if not made.exists() or made.read_text() != wanted.read_text():
        subprocess.run([sys.executable, '-m', 'venv', '--clear', folder], check=True)
        subprocess.run([folder / 'bin/pip', 'install', '--quiet', '-r', wanted], check=True)
        shutil.copy(wanted, made)
    return folder / 'bin/python'


@contextmanager
def without_last(lake, share=0.01):
    "Meanwhile the last of the landing files are elsewhere"
    day, aside = Path(lake, 'landing/chargebacks/2025/11/02'), Path(lake, 'aside')
    aside.mkdir(exist_ok=True)

    def put_back():
        for file in aside.iterdir(): file.rename(day / file.name)
    put_back()      # what a run that was killed left there
    files = sorted(
        day.glob('*.parquet'), key=lambda file: [int(number) for number in file.stem.split('-')[:0:-1]]
    )  # part-SUBTASK-NUMBER
    for file in files[-max(1, round(share * len(files))):]: file.rename(aside / file.name)
    try: yield
    finally:
        put_back()
        aside.rmdir()


def ours(lake, out, outputs=10):
    from chargeback_consolidation.sample.lake import run_words
    words = run_words(lake, output_path=out, output_file_count=outputs, compression_codec='snappy')
    return [sys.executable, ROOT / 'glue_export/consolidate_chargebacks.py', *words]


def command(way, lake, out, outputs=10):
    words = ours(lake, out, outputs)
    if way in EXTRAS: return words + EXTRAS[way]
    if way == 'bare': return [words[0], ROOT / 'bench/bare.py', *words[2:]]
    if way in ('ours', 'late'): return words
    python = others_python() if way in APART else sys.executable
    return [python, ROOT / 'bench/ways.py', way, Path(lake, 'landing/chargebacks/2025/11/02'), out]


Measured = namedtuple('Measured', 'seconds peak cpu said')
Measured.__doc__ = """A command as a whole process.
peak: bytes of memory of its process tree. cpu: seconds of processor time of the tree, short of what each process took
since the last look, a quarter of a second at most. said: to stdout and stderr"""


def used(process):
    """(resident bytes of a process tree, {process: seconds of processor time}). Pages that its processes share count
    in each; to tell them apart costs half a core."""
    memory, cpu = 0, {}
    for p in [process] + process.children(recursive=True):
        try: memory, cpu[p] = memory + p.memory_info().rss, sum(p.cpu_times()[:2])
        except psutil.Error: pass
    return memory, cpu


def measure(words):
    "What a command takes, `Measured`; SystemExit if it fails"
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    start, peak, cpu = time.perf_counter(), 0, {}
    with open(ROOT / 'build/bench/said', 'w+') as said:
        run = subprocess.Popen([str(w) for w in words], stdout=said, stderr=subprocess.STDOUT, env=environment)
        tree = psutil.Process(run.pid)
        while run.poll() is None:
            with suppress(psutil.Error):
                now, more = used(tree)
                peak = max(peak, now)
                cpu.update(more)
            try: run.wait(0.25)
            except subprocess.TimeoutExpired: pass
        seconds = time.perf_counter() - start
        said.seek(0)
        text = said.read()
    if run.returncode: raise SystemExit(f'{words[1]} failed ({run.returncode}):\n{text[-2000:]}')
    return Measured(seconds, peak, sum(cpu.values()), text)


def settle_disk(lake):
    "Write out what the run before left to be written, and bring the files of a lake into the page cache"
    os.sync()
    for path in Path(lake).rglob('*.parquet'): path.read_bytes()


def one(way, lake, outputs=10):
    "A measured run of a way over a lake, its output written anew"
    out = ROOT / 'build/bench/out'
    for name in ('out', '_out', 'out-raw'): shutil.rmtree(out.with_name(name), ignore_errors=True)
    if way == 'late':
        with without_last(lake): measure(ours(lake, out, outputs))
    settle_disk(lake)
    took = measure(command(way, lake, out, outputs))
    size = sum(p.stat().st_size for p in out.rglob('*.parquet'))
    stages = next((json.loads(line)['stages'] for line in took.said.splitlines() if line.startswith('{')), [])
    return {'seconds': took.seconds, 'peak': took.peak, 'cpu': took.cpu, 'bytes': size, 'stages': dict(stages)}


def middle(runs):
    "The medians of some runs, of each stage as well"
    numbers = {key: statistics.median(run[key] for run in runs) for key in ('seconds', 'peak', 'cpu', 'bytes')}
    stages = {name: statistics.median(run['stages'][name] for run in runs) for name in runs[0]['stages']}
    return dict(numbers, rounds=len(runs), **({'stages': stages} if stages else {}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--files', type=int, default=12500)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--ways', default=','.join(WAYS))
    parser.add_argument('--narrow', action='store_true', help='a day of nine columns, one of them a long text')
    parser.add_argument('--wide', action='store_true', help='a day of sixty columns of short values')
    parser.add_argument('--payload', type=int, help="bytes of a record's long text: 150 make files of 25 KB")
    parser.add_argument('--output-files', type=int, default=10, help='how many the job writes')
    parser.add_argument('--write', action='store_true', help='keep the results for the README')
    a = parser.parse_args()
    shape = narrow if a.narrow else wide if a.wide else None
    lake = reshaped(a.files, shape) if shape else land(a.files, a.payload)
    found = {way: [] for way in a.ways.split(',')}
    for round in range(a.rounds):
        for way in found:
            found[way].append(one(way, lake, a.output_files))
            print(
                f'round {round + 1} {way:<14}{found[way][-1]["seconds"]:>8.1f} s {found[way][-1]["peak"] / 1e6:>8.0f} '
                'MB',
                flush=True)
    rows = {way: middle(runs) for way, runs in found.items()}
    base = rows.get('ours', next(iter(rows.values())))
    print(
        f'\n{a.files:,} files, medians of {a.rounds} rounds\n'
        f'{"way":<14}{"seconds":>9}{"of ours":>9}{"CPU s":>9}{"peak MB":>9}{"out MB":>9}{"files/s":>9}{"MB/s":>9} '
        '(a core)'
    )
    cores = os.cpu_count()
    landed = sum(p.stat().st_size for p in Path(lake, 'landing').rglob('*.parquet')) / 1e6
    for way, r in rows.items():
        print(
            f'{way:<14}{r["seconds"]:>9.1f}{r["seconds"] / base["seconds"]:>9.2f}'
            f'{r["cpu"]:>9.1f}{r["peak"] / 1e6:>9.0f}{r["bytes"] / 1e6:>9.0f}'
            f'{a.files / r["seconds"] / cores:>9.0f}{landed / r["seconds"] / cores:>9.1f}'
        )
    for way, r in rows.items():
        stages = r.get('stages', {}).items()
        if stages: print(f'{way}: ' + ', '.join(f'{name} {seconds:.1f}' for name, seconds in stages))
    if a.write:
        name = f'payload {a.payload}, {a.files}' if a.payload else lake.name
        keep(name, {'rounds': a.rounds, 'ways': rows})


@contextmanager
def interruptible():
    "Ctrl-C ends a measurement in one line, and what it had started"
    try: yield
    except KeyboardInterrupt:
        started = psutil.Process().children(recursive=True)
        for process in started:
            with suppress(psutil.Error): process.kill()     # it may have heard of it, too
        psutil.wait_procs(started, 10)
        print('stopped: nothing is kept', file=sys.stderr)
        sys.exit(130)


def keep(name, value):
    "Keep a result for the README and the notebooks, with the date and the shape of this machine"
    path, memory = ROOT / 'bench/results.json', round(psutil.virtual_memory().total / 2**30)
    results = json.loads(path.read_text()) if path.exists() else {}
    results[name] = {
        'date': str(date.today()),
        'machine': f'{os.cpu_count()} cores, {memory} GB, Python {platform.python_version()}', **value}
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + '\n')


if __name__ == '__main__':
    with interruptible(): main()
