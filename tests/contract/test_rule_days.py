"""C18 in the job: random days with random rules, in random executions, beside DuckDB: verdicts, counts, rows set aside.

CHARGEBACK_DAYS is the number of days (200), CHARGEBACK_SEED where their sequence begins (0).
"""
import os
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from days import LENIENT, Lake
from inline import inline
from rule_days import COLUMNS, database, records, rng_of, row_rule, set_rule

from chargeback_consolidation.dqdl import rule_text
from chargeback_consolidation.rulesets import read_rules

DAYS, SEED = int(os.environ.get('CHARGEBACK_DAYS', 200)), int(os.environ.get('CHARGEBACK_SEED', 0))
DAY = datetime(2025, 11, 2)
WINNERS = """SELECT stamp FROM kept QUALIFY row_number() OVER (PARTITION BY chargeback_id ORDER BY
    coalesce(updated_at, event_timestamp) DESC NULLS LAST, event_timestamp DESC NULLS LAST, path DESC, row DESC) = 1"""


def landing_table(rng, n, first, names):
    "A landing file: keys and moments of which many are equal, a stamp that no other row has, and columns for rules"
    moments = [DAY + timedelta(hours=12, microseconds=i) for i in range(4)] + [None]
    moment = pa.timestamp('us')
    found = {
        'chargeback_id': pa.array([rng.choice(['', None, *'abcdefghijkl']) for _ in range(n)], pa.string()),
        'updated_at': pa.array([rng.choice(moments) for _ in range(n)], moment),
        'event_timestamp': pa.array([rng.choice(moments[:4]) for _ in range(n)], moment),
        'stamp': pa.array(range(first, first + n), pa.int64())}
    more = records(rng, n, names)
    return pa.table({**found, **{name: more[name] for name in names}})


def random_rules(rng, names):
    "(text of a rule, Asked or what `set_rule` gives, level) of up to five rules; no level stops a run"
    found = []
    for _ in range(rng.randrange(1, 6)):
        level = rng.choice(['warn', 'quarantine'])
        asked = row_rule(rng, names) if level == 'quarantine' or rng.random() < 0.5 else set_rule(rng, names)
        if level == 'quarantine' and 'now()' in asked[0]: level = 'warn'
        text = f'({asked[0]})' if ') and (' in asked[0] or ') or (' in asked[0] else asked[0]
        found.append((f'{text} labels=["level"="{level}"]', asked, level))
    return found


def check_verdicts(report, rules, db):
    "The verdicts of an execution; db: its records"
    for verdict, (text, asked, level) in zip(report.rules, rules, strict=True):
        assert verdict['level'] == level, text
        if isinstance(asked, tuple) and hasattr(asked, 'about'):
            bad, about = db.execute(
                f'SELECT count(*) FILTER (NOT ({asked.right})), count(*) FROM records WHERE {asked.about}').fetchone()
            found = verdict['count'], verdict['whole'], verdict['outcome']
            assert found == (bad, about, 'failed' if bad else 'ok'), text
            broken = f'SELECT path, min(row) FROM records WHERE ({asked.about}) AND NOT ({asked.right}) GROUP BY path'
            assert verdict['first'] == db.execute(broken + ' ORDER BY path LIMIT 3').fetchall(), text
        else:
            _, metric, right = asked
            measured = f'WITH found AS (SELECT {metric} AS m FROM records) SELECT m, {right} FROM found'
            m, held = db.execute(measured).fetchone()
            assert verdict['outcome'] == ('ok' if held else 'failed'), text
            assert list(verdict['value'].values()) == ([] if m is None else [pytest.approx(m)]), text


def check_day(lake, rules, db):
    "The day after its executions, and its quarantine"
    reason = ''.join(
        f"WHEN ({asked.about}) AND NOT ({asked.right}) THEN '{quoted(text)}' "
        for text, asked, level in rules if level == 'quarantine')
    db.execute(f"""CREATE TABLE judged AS SELECT *, CASE WHEN coalesce(chargeback_id, '') = '' THEN 'missing key'
        {reason} END AS reason FROM records""")
    db.execute('CREATE VIEW kept AS SELECT * FROM judged WHERE reason IS NULL')
    written = [row for file in lake.files() for row in pq.ParquetFile(file).read(['stamp'])['stamp'].to_pylist()]
    assert sorted(written) == sorted(stamp for stamp, in db.execute(WINNERS).fetchall())
    aside = [row for file in lake.quarantine() for row in pq.ParquetFile(file).read().to_pylist()]
    found = sorted((r['_landing_file'], r['_landing_row'], r['_quarantine_reason'], r['stamp']) for r in aside)
    assert found == db.execute(
        'SELECT path, row, reason, stamp FROM judged WHERE reason IS NOT NULL ORDER BY path, row').fetchall()
    return len(written), len(aside)


def quoted(text):
    "A rule as reports quote it, in SQL"
    [rule] = read_rules(f'Rules = [ {text} ]')
    return rule_text(rule).replace("'", "''")


def one_day(folder, seed, split):
    "Land and execute a random day; its rows and those set aside. split: seed of how it falls into executions"
    rng, parting = rng_of(seed), rng_of(split)
    names = sorted(rng.sample(sorted(COLUMNS), 5) + ['amount', 'currency', 'small', 'code', 'flag', 'score', 'due'])
    names = list(dict.fromkeys(names))
    lake, tables = Lake(folder), {}
    for number in range(rng.randrange(1, 6)):
        tables[f'2025/11/02/{number}.parquet'] = landing_table(rng, rng.randrange(0, 30), 100 * number, names)
    rules = random_rules(rng, names)
    text = 'Rules = [ ' + ',\n'.join(text for text, _, _ in rules) + ' ]'
    when = {path: parting.randrange(3) for path in tables}
    for execution in sorted(set(when.values())):
        now = {path: table for path, table in tables.items() if when[path] == execution}
        for path, table in now.items(): lake.land(path, table)
        report = lake.run(session=inline, RULES=text, EXECUTION_TIME='2025-11-03T05:00:00Z', **LENIENT)
        check_verdicts(report, rules, database(now))
        assert report.rows_before + report.records_processed == (
            report.rows_after + report.duplicates_removed + report.quarantined)
    return check_day(lake, rules, database(tables))


@pytest.mark.parametrize('part', [pytest.param(i, marks=pytest.mark.slow if i else ()) for i in range(10)])
def test_random_days(part, tmp_path):
    aside = 0
    for seed in range(SEED + part, SEED + DAYS, 10):
        rows = {one_day(tmp_path / f'{seed}-{split}', seed, split) for split in range(2)}
        assert len(rows) == 1, 'the day depends on how it fell into executions'
        aside += rows.pop()[1]
    assert aside
