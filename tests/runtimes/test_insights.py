"The METRICS line as operators' queries parse it, and the script's arguments as Glue passes them."
import json
import random
import re

import pytest
import runtimes
from runtimes import RESERVED, as_glue, list_of, orders, words_of

from chargeback_consolidation.report import Report, metrics_line
from chargeback_consolidation.settings import ARGUMENTS, ArgumentError, parse

QUERY = (
    'parse @message "records_processed=*, duplicates_removed=*, output_files=*, duration_seconds=*" '
    'as records, duplicates, files, duration')


def glob_parse(query, message):
    """What the `parse` command of Logs Insights, in its glob mode, extracts from a message: {name: text}, empty
    where the message does not match"""
    field, glob, names = re.fullmatch(r'\s*parse (@\w+) "((?:[^"\\]|\\.)*)" as ([\w, ]+?)\s*', query).groups()
    names = [name.strip() for name in names.split(',')]
    parts = glob.split('*')
    assert field == '@message' and len(parts) == len(names) + 1
    # A `*` takes as little as it can, the last one the rest where nothing follows it.
    pattern = ''.join(
        re.escape(part) + ('' if i == len(names) else '(.*)' if parts[i + 1] == '' and i + 1 == len(names) else '(.*?)')
        for i, part in enumerate(parts))
    found = re.search(pattern, message, re.DOTALL)
    return dict(zip(names, found.groups(), strict=True)) if found else {}


def report(**values): return Report(day='2025-11-02', table='payments.chargebacks', **values)


@pytest.mark.parametrize('message', ['METRICS: {}', '2025-11-03 05:17:00,123 INFO METRICS: {}', '[main] METRICS: {}\n'])
def test_parse_finds_four_numbers_wherever_the_line_stands(message):
    line = metrics_line(
        report(records_processed=1250000, duplicates_removed=1250, output_files=10, duration_seconds=1020.45))
    assert (
        line == 'METRICS: records_processed=1250000, duplicates_removed=1250, output_files=10, duration_seconds=1020.45'
    )
    found = glob_parse(QUERY, message.format(line[len('METRICS: '):]))
    assert {name: float(text) for name, text in found.items()} == {
        'records': 1250000, 'duplicates': 1250, 'files': 10, 'duration': 1020.45}


def test_parse_finds_nothing_in_other_lines():
    assert [
        glob_parse(QUERY, line)
        for line in ('stage index 1.20 s  files 12, records 480', 'METRICS:', 'records_processed=1, output_files=2')
    ] == [{}, {}, {}]


def test_real_run_prints_one_line_with_four_numbers(lake, capsys):
    from days import chargebacks
    lake.land('a.parquet', chargebacks(['a', 'b', 'a'], updated=[1, 2, 3]))
    assert lake.main() == 0
    found = [f for f in (glob_parse(QUERY, line) for line in capsys.readouterr().out.splitlines()) if f]
    assert [(f['records'], f['duplicates'], f['files']) for f in found] == [('3', '1', '2')]
    assert 0 < float(found[0]['duration']) < 600


# Arguments as Glue passes them

WORDS = words_of(
    '/lake', '/out', PARTITION_DATE='2025-11-02', DRY_RUN='true', METRICS_NAMESPACE='ChargebackConsolidation')


def test_order_does_not_matter_with_or_without_glues_own():
    expected = parse(list_of(WORDS))
    assert all(parse(words) == expected for words in orders(WORDS, 300))
    for seed in range(50):
        pairs = random.Random(seed).sample(list(WORDS.items()), len(WORDS))
        assert parse(list_of(dict(pairs))) == expected


@pytest.mark.parametrize('name', RESERVED)
def test_each_of_glues_own_arguments_is_ignored_anywhere(name):
    expected, pairs = parse(list_of(WORDS)), list(WORDS.items())
    for place in range(len(pairs) + 1):
        words = [w for pair in pairs[:place] + [(name, RESERVED[name])] + pairs[place:] for w in pair if w]
        assert parse(words) == expected


@pytest.mark.parametrize('flag', [a.name for a in ARGUMENTS if a.kind == 'flag'])
def test_flags_are_words_not_truth(flag):
    base = {k: v for k, v in WORDS.items() if k != f'--{flag}'}
    for text, value in (('true', True), ('false', False), ('False', False)):
        assert getattr(parse(as_glue({**base, f'--{flag}': text})), flag.lower()) is value
    for text in ('yes', '0', 'none'):
        with pytest.raises(ArgumentError, match=flag): parse(as_glue({**base, f'--{flag}': text}))


REAL = """
import json, runpy, sys
from awsglue.utils import getResolvedOptions
parse = runpy.run_path(sys.argv[1], run_name="script")["parse"]
names, found = sys.argv[2].split(","), []
for words in json.load(sys.stdin):
    options = getResolvedOptions(["script.py"] + words, names)
    found.append([{name: options[name] for name in names}, parse(words).as_arguments()])
print(json.dumps(found))
"""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize('glue', [
    pytest.param(r.glue, marks=pytest.mark.xdist_group(f'runtime {r.glue}'))
    for r in runtimes.RUNTIMES.values() if 'AWSGlueDataplanePython' in r.packages and r.glue != '5.0'])
def test_script_reads_what_the_real_awsglue_reads(glue, tmp_path):
    found, missing = runtimes.present()
    if glue in missing: pytest.skip(f'Glue {glue}: {missing[glue]}')
    try: runtime = runtimes.prepare(runtimes.RUNTIMES[glue])
    except runtimes.Missing as e: pytest.skip(str(e))
    names = ['SOURCE_DATABASE', 'SOURCE_TABLE', 'OUTPUT_FILE_COUNT', 'COMPRESSION_CODEC', 'PARTITION_DATE', 'JOB_NAME']
    lines = orders(WORDS, 60)
    done = runtimes.run_python(
        runtime, ['-c', REAL, runtimes.SCRIPT, ','.join(names)], tmp_path, input=json.dumps(lines))
    assert done.returncode == 0, done.stderr
    expected = {name: {**RESERVED, **WORDS}[f'--{name}'] for name in names}
    for theirs, ours in json.loads(done.stdout):
        assert theirs == expected
        assert {name: ours[name] for name in names if name != 'JOB_NAME'} == {
            name: expected[name] for name in names if name != 'JOB_NAME'}
