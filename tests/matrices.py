"What the fault tests have shown, one line for each case, for the table in the README. CHARGEBACK_MATRICES names the file; without it nothing is kept."
import json
import os


def record(matrix, **case):
    path = os.environ.get('CHARGEBACK_MATRICES')
    if path:
        with open(path, 'a') as f: f.write(json.dumps(dict(case, matrix=matrix), sort_keys=True) + '\n')
