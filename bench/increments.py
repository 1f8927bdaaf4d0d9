"""Measure a day that comes in many executions, each a whole process.

    python bench/increments.py [--files 50000] [--rounds 1] [--executions 1,4,24] [--write]

The same day is consolidated in one execution, in 4 and in 24, each of which finds an equal part of the files in order
of their arrival. Prints the total of each, its ratio to the one, the longest execution, where the time went, and how
many bytes were written for each byte that is the day in the end.
"""
import argparse
import json
import shutil
import statistics
from collections import Counter
from pathlib import Path

from bench import ROOT, interruptible, keep, land, measure, ours, settle_disk


def in_order(lake):
    "The landing files of a lake in the order in which they arrived"
    day = Path(lake, 'landing/chargebacks/2025/11/02')
    return sorted(day.glob('*.parquet'), key=lambda file: [int(n) for n in file.stem.split('-')[:0:-1]])


def one_day(lake, executions):
    "Consolidate the day in this many executions: {seconds, longest, written, bytes, stages}"
    out, aside = ROOT / 'build/bench/out', lake / 'aside'
    for folder in (out, out.with_name('_out')): shutil.rmtree(folder, ignore_errors=True)
    files, total, written, stages = in_order(lake), [], 0, Counter()
    day = files[0].parent
    settle_disk(lake)
    aside.mkdir(exist_ok=True)
    try:
        for file in files: file.rename(aside / file.name)
        for k in range(executions):
            for file in files[k * len(files) // executions:(k + 1) * len(files) // executions]:
                (aside / file.name).rename(day / file.name)
            before = {p.name for p in out.rglob('*.parquet')}
            took = measure(ours(lake, out))
            total.append(took.seconds)
            written += sum(p.stat().st_size for p in out.rglob('*.parquet') if p.name not in before)
            report = next(json.loads(line) for line in took.said.splitlines() if line.startswith('{'))
            stages.update(dict(report['stages']))
    finally:
        for file in aside.iterdir(): file.rename(day / file.name)
        aside.rmdir()
    size = sum(p.stat().st_size for p in out.rglob('*.parquet'))
    return {'seconds': sum(total), 'longest': max(total), 'written': written, 'bytes': size, 'stages': dict(stages)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--files', type=int, default=50000)
    parser.add_argument('--rounds', type=int, default=1)
    parser.add_argument('--executions', default='1,4,24')
    parser.add_argument('--write', action='store_true', help='keep the results for the README')
    a = parser.parse_args()
    lake, found = land(a.files), {int(n): [] for n in a.executions.split(',')}
    for round in range(a.rounds):
        for executions in found:
            run = one_day(lake, executions)
            found[executions].append(run)
            print(f'round {round + 1}, {executions:>2} executions: {run["seconds"]:.1f} s', flush=True)
    rows = {n: {key: statistics.median(run[key] for run in runs) for key in ('seconds', 'longest', 'written', 'bytes')}
            for n, runs in found.items()}
    base = next(iter(rows.values()))['seconds']
    print(f'{"executions":>10}{"seconds":>9}{"ratio":>7}{"longest":>9}{"bytes written for one":>23}')
    for n, r in rows.items():
        print(f'{n:>10}{r["seconds"]:>9.1f}{r["seconds"] / base:>7.2f}{r["longest"]:>9.1f}'
              f'{r["written"] / r["bytes"]:>23.2f}')
        told = sorted(found[n][0]['stages'].items(), key=lambda pair: -pair[1])
        print(' ' * 11 + ', '.join(f'{name} {seconds:.1f}' for name, seconds in told if seconds >= 0.1))
    if a.write:
        ways = {str(n): dict(r, stages=found[n][0]['stages']) for n, r in rows.items()}
        keep(f'executions of {a.files}', {'rounds': a.rounds, 'ways': ways})


if __name__ == '__main__':
    with interruptible(): main()
