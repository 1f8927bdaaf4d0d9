"C18, the answers: what rules find on random records is what DuckDB finds, whatever the batches."
from datetime import UTC, datetime

import numpy as np
import pytest
from rule_days import COLUMNS, database, records, rng_of, row_rule, set_rule

from chargeback_consolidation.rule_rows import RuleRows, row_fails
from chargeback_consolidation.rules import Facts, added_all, faults_of, measures_of, tallied, verdict_of
from chargeback_consolidation.rulesets import read_rules

NOW = datetime(2025, 11, 3, 5, tzinfo=UTC)


def facts_of(table, rules, pieces):
    "The `Facts` of a table that comes in so many pieces"
    measures = measures_of(rules)
    edges = np.linspace(0, table.num_rows, pieces + 1).astype(int)
    tallies = []
    for a, b in zip(edges, edges[1:], strict=False):
        rows = RuleRows(table.slice(a, b - a), NOW)
        if rows.count: tallies += tallied(rows, measures, np.array([0]), np.arange(a, b))
    return Facts(added_all(tallies), measures, table.column_names, (table.num_rows, 0, 0, 0))


@pytest.mark.parametrize('seed', range(300))
def test_rows_that_fail(seed):
    rng = rng_of(seed)
    names = sorted(COLUMNS)
    table = records(rng, rng.randrange(1, 60), names)
    asked = [row_rule(rng, names) for _ in range(4)]
    rules = read_rules('Rules = [ ' + ',\n'.join(a.rule for a in asked) + ' ]')
    db, facts = database({'a': table}), facts_of(table, rules, rng.choice([1, 2, 5]))
    for a, rule in zip(asked, rules, strict=True):
        assert not faults_of(rule, table.schema), a.rule
        broken = f'SELECT row FROM records WHERE ({a.about}) AND NOT ({a.right}) ORDER BY row'
        wanted = [row for row, in db.execute(broken).fetchall()]
        about = db.execute(f'SELECT count(*) FROM records WHERE {a.about}').fetchone()[0]
        found = np.flatnonzero(row_fails(RuleRows(table, NOW), rule.tree)).tolist()
        assert found == wanted, a
        verdict = verdict_of(rule, facts, {})
        assert (verdict.count, verdict.whole) == (len(wanted), about), a.rule
        assert verdict.outcome == ('failed' if wanted else 'ok'), a.rule


@pytest.mark.parametrize('seed', range(200))
def test_metrics(seed):
    rng = rng_of(seed)
    names = sorted(COLUMNS)
    table = records(rng, rng.randrange(1, 60), names)
    asked = [set_rule(rng, names) for _ in range(4)]
    rules = read_rules('Rules = [ ' + ',\n'.join(text for text, _, _ in asked) + ' ]')
    db, facts = database({'a': table}), facts_of(table, rules, rng.choice([1, 2, 5]))
    for (text, metric, right), rule in zip(asked, rules, strict=True):
        measured = f'WITH found AS (SELECT {metric} AS m FROM records) SELECT m, {right} FROM found'
        m, held = db.execute(measured).fetchone()
        verdict = verdict_of(rule, facts, {})
        assert list(verdict.value.values()) == ([] if m is None else [pytest.approx(m)]), text
        assert verdict.outcome == ('ok' if held else 'failed'), text


@pytest.mark.parametrize('seed', range(50))
def test_thresholds(seed):
    rng = rng_of(seed)
    names = sorted(COLUMNS)
    table = records(rng, rng.randrange(1, 40), names)
    a = row_rule(rng, ['amount', 'currency'])
    if a.rule.startswith('('): pytest.skip('a rule of several parts has no threshold')
    share = rng.choice(['0.5', '0.9', '1'])
    [rule] = read_rules(f'Rules = [ {a.rule} with threshold >= {share} ]')
    good, about = database({'a': table}).execute(
        f'SELECT count(*) FILTER ({a.right}), count(*) FROM records WHERE {a.about}').fetchone()
    verdict = verdict_of(rule, facts_of(table, [rule], 3), {})
    assert (verdict.outcome == 'ok') == (not about or good / about >= float(share)), rule
