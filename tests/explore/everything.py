"""Explore all scenarios on both stores, for a time: a table, and as the last line how many schedules were played.

    python tests/explore/everything.py [--minutes 12] [--keep FILE]
"""
import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from days_in_memory import in_memory  # noqa: E402
from mutants import MUTANTS, mutated  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: E402
from rich.table import Table  # noqa: E402
from scenarios import SCENARIOS  # noqa: E402
from search import explore  # noqa: E402

STORES = [('local', 404), ('s3', 404), ('s3', 500)]
TURNS, FAULTS = 3, 1


def job_of(number, store, gone, seconds):
    with in_memory(store, gone) as day:
        found = explore(SCENARIOS[number], day, TURNS, FAULTS, seconds)
    told = found.violation and found.violation.told()
    return dict(found._asdict(), scenario=SCENARIOS[number].name, store=store, gone=gone, violation=told)


def mutant_of(number):
    mutant = MUTANTS[number]
    scenario = next(s for s in SCENARIOS if s.name == mutant.where.scenario)
    with in_memory(mutant.where.store, mutant.where.gone) as day, mutated(mutant):
        found = explore(scenario, day, mutant.where.turns, mutant.where.faults)
    return dict(found._asdict(), name=mutant.name, scenario=scenario.name, store=mutant.where.store,
                violation=found.violation and found.violation.told())


def played(pool, work, tasks, words, console):
    "The results of tasks, in their order, with a bar meanwhile"
    columns = SpinnerColumn(), TextColumn(words), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        line = bar.add_task(words, total=len(tasks))
        futures = [pool.submit(work, *task) for task in tasks]
        for _ in as_completed(futures): bar.advance(line)
    return [f.result() for f in futures]


def shown(rows, console):
    table = Table('scenario', 'store')
    for name in ('schedules', 'folded', 'states', 'all turns to', 'left'): table.add_column(name, justify='right')
    for r in rows:
        store = r['store'] + (f', gone is a {r["gone"]}' if r['gone'] != 404 else '')
        table.add_row(r['scenario'], store, f'{r["schedules"]:,}', f'{r["folded"]:,}', f'{r["states"]:,}',
                      str(r['complete']), f'{r["left"]:,}')
    console.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--minutes', type=float, default=12, help='time to spend on schedules (12)')
    parser.add_argument('--keep', metavar='FILE', help='keep the results as JSON')
    a = parser.parse_args()
    console, workers = Console(), os.cpu_count() or 2
    tasks = [(i, store, gone) for store, gone in STORES for i in range(len(SCENARIOS))]
    seconds = a.minutes * 60 * workers / len(tasks)
    with ProcessPoolExecutor(workers) as pool:
        mutants = played(pool, mutant_of, [(i,) for i in range(len(MUTANTS))], 'faults of the protocol', console)
        rows = played(pool, job_of, [(*task, seconds) for task in tasks], 'scenarios', console)
    shown(rows, console)
    if a.keep: Path(a.keep).write_text(json.dumps({'scenarios': rows, 'mutants': mutants}, indent=1) + '\n')
    for r in rows:
        if r['violation']: print(f'\n{r["scenario"]}, {r["store"]}:\n{r["violation"]}')
    missed = [m['name'] for m in mutants if not m['violation']]
    for name in missed: print(f'not found: {name}')
    violations = sum(bool(r['violation']) for r in rows)
    print(f'{len(mutants) - len(missed)} of {len(mutants)} faults of the protocol found')
    print(f'{sum(r["schedules"] for r in rows):,} distinct schedules, {violations} violations')
    return 1 if violations or missed else 0


if __name__ == '__main__': sys.exit(main())
