"""What the fault tests have shown, one line for each case that held.

CHARGEBACK_MATRICES names the file that a test run adds its cases to; without it nothing is kept. `python
tests/support/matrices.py FILE` makes the README's table of it, in nbs/evidence.json.
"""
import json
import os
import sys
from collections import Counter
from itertools import product
from pathlib import Path

STORES = {'local': 'a local disk', 's3': 'S3'}
RIGHT = 'next run equal to the undisturbed one'


def record(matrix, **case):
    path = os.environ.get('CHARGEBACK_MATRICES')
    if path:
        with open(path, 'a') as f: f.write(json.dumps(dict(case, matrix=matrix), sort_keys=True) + '\n')


def summary(cases):
    "Rows (what was done, cases, result) of a list of cases"
    rows, of = [], {m: [c for c in cases if c['matrix'] == m] for m in ('kills', 'races', 'faults', 'fuzz', 'requests')}
    for (store, name), log in product(STORES.items(), (False, True)):
        where = f'on {name}' + (', a Delta log kept' if log else '')
        def cases_of(matrix, store=store, log=log):
            return [c for c in of[matrix] if c['store'] == store and c.get('log', False) == log]
        kills = cases_of('kills')
        twice = sum(1 for c in kills if c['then'])
        if kills:
            phases = len({c['phase'] for c in kills})
            what = f'SIGKILL to the whole process tree at {phases} phases of a run, {where}'
            seen = '; through the log they saw the day of one commit' if log else ''
            rows.append((
                f'{what}; {twice} of them killed a second time', len(kills) + twice,
                f'{RIGHT}; readers never saw less than the last commit{seen}; no orphan after `repair`'))
        pairs = [c for c in cases_of('races') if c['second']]
        same = ', and so through the log' if log else ''
        what = f'two runs interleaved at pairs of phases, {where}'
        if pairs: rows.append((what, len(pairs), f'one consistent day, equal to the reference{same}'))
        four = [c for c in cases_of('races') if not c['second']]
        if four: rows.append((f'four runs started at once, {where}', len(four), 'the same'))
    for log in (False, True):
        faults, kinds = [c for c in of['faults'] if c.get('log', False) == log], Counter()
        if not faults: continue
        for c in faults: kinds.update(c['faults'])
        words = ', '.join(f'{n} {kind}' for kind, n in sorted(kinds.items()))
        done, runs = sum(not c['failed'] for c in faults), len(faults)
        rows.append((
            f'10 % of S3 requests made to fail{", a Delta log kept" if log else ""}, seeded ({words})', runs,
            f'{done} runs completed, {runs - done} failed cleanly; then the result was right'))
    if of['fuzz']:
        named = sum(c['named'] for c in of['fuzz'])
        rows.append((
            'mutated Parquet files', sum(c['files'] for c in of['fuzz']),
            f'{named} set aside by name with the cause, the others read; no crash, none missing'))
    for c in of['requests'][:1]:
        rows.append((
            f'the requests of a run over {c["files"]} landing objects, counted', 1,
            f'{c["gets"]} GETs, {c["lists"]} LIST, no HEAD'))
    return rows


if __name__ == '__main__':
    cases = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    unique = list({json.dumps(c, sort_keys=True): c for c in cases}.values())
    Path(__file__).parents[2].joinpath('nbs/evidence.json').write_text(json.dumps(summary(unique), indent=1) + '\n')
