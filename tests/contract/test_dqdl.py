"C18, the language: what is read prints in one form and reads back; a mistake is one line that says where it is."
import re

import pytest
from dqdl_texts import READ, REFUSED, random_text

from chargeback_consolidation.dqdl import RulesError, rule_text, ruleset_text
from chargeback_consolidation.rulesets import read_rules


@pytest.mark.parametrize('text', READ)
def test_read_and_printed(text):
    rules = read_rules(f'Rules = [ {text} ]')
    printed = ruleset_text(rules)
    assert rule_text(rules[0]) == (READ[text] or text)
    assert read_rules(printed) == rules and ruleset_text(read_rules(printed)) == printed


@pytest.mark.parametrize('text', REFUSED)
def test_refused(text):
    with pytest.raises(RulesError) as e:
        read_rules(text)
    assert REFUSED[text] in str(e.value)
    assert re.match(r'^line \d+, column \d+: [^\n]+$', str(e.value))


def test_default_labels_and_variables():
    rules = read_rules("""Metadata = { "Version": "1.0" }
        DataSources = { "Primary": "a", "AdditionalDataSources": [ "b" ] }
        codes = ["x", "y"]   one = "z"
        DefaultLabels = ["level"="warn", "team"="risk"]
        Rules = [ ColumnValues "a" in $codes, ColumnValues "b" = $one labels=["level"="fail"] ]""")
    assert [rule.level for rule in rules] == ['warn', 'fail']
    assert [rule_text(rule) for rule in rules] == [
        'ColumnValues "a" in ["x", "y"] labels=["level"="warn", "team"="risk"]',
        'ColumnValues "b" = "z" labels=["level"="fail", "team"="risk"]']


def test_random_texts_give_only_clean_errors():
    read = 0
    for seed in range(5000):
        try: rules = read_rules(random_text(seed))
        except RulesError as e: assert re.match(r'^line \d+, column \d+: [^\n]+$', str(e)), (seed, str(e))
        else:
            read += 1
            assert read_rules(ruleset_text(rules)) == rules, seed
    assert read > 100, 'hardly any text could be read'


def test_backslashes_before_a_quote_that_nobody_closes_cost_no_time():
    "Two in a row are one, and there is one way to read them"
    for many in (40, 41, 100_000):
        with pytest.raises(RulesError, match='a quote that nobody closes'):
            read_rules('Rules = [ ColumnValues "a" in ["' + '\\' * many)
    [rule] = read_rules(r'Rules = [ ColumnValues "a" in ["a\\", "b\"", "c\d", "e\"] ]')
    assert [v.data for v in rule.tree.condition.values] == ['a\\', 'b"', 'c\\d', 'e\\']
