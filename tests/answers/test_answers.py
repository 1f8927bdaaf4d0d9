"What answers say of days that were reprocessed, of files that nobody can use, and of storage that refuses."
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rich_click as click
from damage import DAY, FOLDER, execute, sound
from days import LENIENT, Lake, chargebacks
from inline import inline

from chargeback_consolidation import entry
from chargeback_consolidation.answers import records
from chargeback_consolidation.answers.answer import picture
from chargeback_consolidation.answers.day import footers, landing_files, landing_times, open_day
from chargeback_consolidation.answers.duplicates import duplicates
from chargeback_consolidation.answers.late_arrivals import late_arrivals
from chargeback_consolidation.answers.parameters import NOTEBOOKS
from chargeback_consolidation.answers.quality_history import every_day, in_percent, outliers, outliers_shown
from chargeback_consolidation.answers.reconcile import reconcile
from chargeback_consolidation.answers.trace import side_by_side, trace
from chargeback_consolidation.commands import cli, days
from chargeback_consolidation.sample.landing import land_sample
from chargeback_consolidation.settings import ARGUMENTS, REQUIRED, RULES
from chargeback_consolidation.store import StoreError

pytestmark = pytest.mark.xdist_group('findings')


@pytest.fixture(scope='module')
def reprocessed(tmp_path_factory, spark):
    "A day that was reprocessed, with a broken file, one that is no Parquet, and a link that leads nowhere"
    root = tmp_path_factory.mktemp('reprocessed')
    sound(root)
    (root/FOLDER/'part-9-0.parquet').write_bytes(b'PAR1 and no more')
    (root/FOLDER/'part-9-1.bin').write_bytes(b'no Parquet at all')
    shutil.copy(root/FOLDER/'part-0-1.parquet', root/FOLDER/'part-9-0.bin')
    (root/FOLDER/'part-9-2.parquet').symlink_to('nowhere.parquet')
    execute(root, '--REPROCESS', 'true', '--WARN_UNREADABLE_RATE', '1')
    return root


def day_of(root): return open_day(f'{root}/out', DAY, catalog=str(root))


def test_after_a_reprocess_nothing_is_called_missing(reprocessed):
    answer = late_arrivals(day_of(reprocessed))
    missed, facts = answer.tables['missed'], dict(answer.facts)
    assert missed['commit'].tolist() == [3] and facts['executions'] == 1
    assert facts['executions reprocessed or rolled back'] == 2
    assert missed.iloc[0][['chargebacks that would be missing', 'chargebacks that would be outdated']].tolist() == [
        0, 0]


def test_what_is_not_in_the_day_is_listed_with_the_cause(reprocessed):
    table = late_arrivals(day_of(reprocessed)).tables['not in the day'].set_index('path')
    states = {path.rsplit('/', 1)[-1]: state for path, state in table['state'].items()}
    assert states == {'part-9-0.parquet': 'set aside', 'part-9-1.bin': 'foreign', 'part-9-2.parquet': 'not a file'}
    assert table.loc['2025/11/02/part-9-2.parquet', 'cause'] == 'it is a link that leads nowhere'
    assert table.loc['2025/11/02/part-9-1.bin', 'cause'].startswith('foreign: ')


def test_what_is_not_parquet_is_not_called_unreadable(reprocessed):
    found = {f.kind: f for f in reconcile(day_of(reprocessed)).findings}
    assert found['foreign'].level == 'ok' and found['foreign'].where == ('2025/11/02/part-9-1.bin',)
    assert found['set aside'].where == ('2025/11/02/part-9-0.parquet',)
    assert found['not a file'].where == ('2025/11/02/part-9-2.parquet',)
    assert (landing_files(day_of(reprocessed))['landed'] > 0).all(), 'no time of 1970'


class Refusing:
    "A client of S3 whose listings are denied"
    def get_paginator(self, name): return self
    def paginate(self, **where):
        from botocore.exceptions import ClientError
        raise ClientError({'Error': {'Code': 'AccessDenied', 'Message': 'no'}}, 'ListObjectsV2')


def test_landing_times_name_what_cannot_be_listed():
    store = type('Store', (), {'client': Refusing()})()
    with pytest.raises(StoreError, match='s3://b/landing cannot be listed: AccessDenied'):
        landing_times(store, ['s3://b/landing'], None, 's3://b/landing')


def test_storage_that_refuses_is_no_damage(reprocessed, monkeypatch):
    "Neither an output file nor a landing file is called unreadable because the storage refuses"
    day = day_of(reprocessed)
    def refuse(*args): raise StoreError('x cannot be read: AccessDenied')
    monkeypatch.setattr(type(day.stores[1]), 'open', refuse)
    with pytest.raises(StoreError): footers(day)
    monkeypatch.undo()
    files = landing_files(day)
    landing = records.read_threaded(day, records.landing_sources(day, files), day.stores)
    monkeypatch.setattr(records, 'read_each', lambda store, entries: ((e, StoreError('no')) for e in entries))
    with pytest.raises(StoreError): records.doubled(day, files, landing.notes)


def test_storage_that_refuses_is_one_line(monkeypatch, capsys):
    def refuse(*args): raise StoreError('s3://bucket/x cannot be listed: AccessDenied')
    monkeypatch.setattr(days, 'day_ledger', refuse)
    with pytest.raises(SystemExit) as end:
        cli.main(['history', '--output-path', 's3://bucket/x', '--partition-date', DAY])
    out, err = capsys.readouterr()
    assert end.value.code == 1 and not out and err == 's3://bucket/x cannot be listed: AccessDenied\n'


def test_a_plot_of_nothing_is_a_sentence():
    shown = picture(None, 'Files over time', empty=True)
    assert '<img' not in shown.html and shown.text == 'nothing to draw: Files over time'


def test_nobody_wins(reprocessed):
    "For a chargeback `won` is a status; the version that stays is kept"
    day = day_of(reprocessed)
    removed = duplicates(day)
    key = next(k for k in (f.keys[0] for f in removed.findings if f.keys))
    answer = trace(day, [key])
    assert 'kept' in set(answer.tables['versions']['outcome'])
    words = [answer.verdict, *(name for name, _ in answer.facts)]
    words += [*removed.tables['statuses'].columns, *removed.tables['removed'].columns]
    assert not any(w in text.split() for text in words for w in ('won', 'winner', 'winning', 'lost'))


# What comes from outside, on pages


EVIL = '<script>alert(1)</script>'


@pytest.fixture(scope='module')
def odd(tmp_path_factory, spark):
    "A day with markup in ids, statuses, merchants and file names"
    root = tmp_path_factory.mktemp('odd')
    folder = root/FOLDER
    land_sample(str(root), files=4, records_per_file=5, payload_bytes=20, truncated_files=0.0, empty_files=0.0,
                zero_row_files=0.0)
    table = pq.read_table(folder/'part-0-0.parquet')
    def put(table, name, values):
        return table.set_column(
            table.schema.get_field_index(name), name, pa.array(values, table.schema.field(name).type))
    n = len(table)
    table = put(table, 'chargeback_id', [EVIL] * n)
    table = put(put(table, 'status', ['<b>$won_{</b>'] * (n - 1) + [EVIL]), 'merchant_id', ['<i>m</i>'] * n)
    pq.write_table(table, folder/'<img src=x onerror=alert(1)>\n\u202e.parquet')
    (folder/'<script>alert(3).parquet').write_bytes(b'broken')
    execute(root, '--MAX_DUPLICATE_RATE', '1')
    return root


@pytest.mark.parametrize(
    'name', ['trace', *(pytest.param(n, marks=pytest.mark.slow) for n in ('reconcile', 'duplicates', 'late_arrivals'))])
def test_everything_from_outside_is_escaped(odd, tmp_path, name):
    "It stays text, on the page of every question"
    words = [name, '--output-path', f'{odd}/out', '--partition-date', DAY, '--runs', str(tmp_path)]
    if name == 'trace': words += ['--chargeback-id', EVIL]
    with pytest.raises(SystemExit) as end: cli.main(['investigate', *words])
    assert end.value.code == 0
    path, = tmp_path.rglob('*.html')
    text = path.read_text()
    assert not any(w in text for w in ('<script', '<img src=x', '<b>$won', '<i>m</i>', '\u202e'))
    assert '&lt;' in text and 'alert(' in text


# Commands


def said(argv, capsys):
    "(exit code, output, error) of a command"
    with pytest.raises(SystemExit) as end: cli.main(argv)
    return end.value.code, *capsys.readouterr()


def test_repair_where_there_is_no_ledger(reprocessed, tmp_path, capsys):
    words = ['repair', '--partition-date', '2025-11-05', '--output-path']
    for path in (tmp_path/'nothing', reprocessed/'out'):
        code, out, err = said([*words, str(path)], capsys)
        assert (code, out) == (2, '')
        assert (
            err
            == f'--output-path {path}: there is no ledger of 2025-11-05 in {path.with_name("_" + path.name)}, and '
               'nothing to repair\n'
        )
    assert not list(tmp_path.iterdir()) and not list(Path(reprocessed).rglob('*day=05*'))
    litter = tmp_path/'out/year=2025/month=11/day=05'/'.part-0.parquet.0123456789ab.staged'
    litter.parent.mkdir(parents=True)
    litter.write_bytes(b'')
    assert said([*words, str(tmp_path / 'out')], capsys)[:2] == (0, 'removed 1 staged files\n'), (
        'what a killed first run left')


HELPED = [
    [], ['consolidate'], ['backfill'], ['investigate'], *(['investigate', p.stem] for p in NOTEBOOKS.glob('*.ipynb')),
    ['land-sample'], ['history'], ['snapshot'], ['repair'], ['warm-up']]


@pytest.mark.parametrize('words', HELPED, ids=' '.join)
def test_help_is_wrapped_at_words(words, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    code, narrow, _ = said([*words, '--help'], capsys)
    assert not code and max(map(len, narrow.splitlines())) <= 80
    monkeypatch.setenv('COLUMNS', '140')
    wide = said([*words, '--help'], capsys)[1]
    assert set(narrow.split()) <= set(wide.split()) | set(re.findall('[─╭╮╰╯│]+', narrow)), 'no word is cut'
    for text in (narrow, wide): assert text.split()[:2 + len(words)] == ['Usage:', 'chargeback-consolidation', *words]
    assert '╭─ Options ─' in narrow and '--help' in narrow, 'one style for all'


@pytest.mark.parametrize('words', HELPED, ids=' '.join)
def test_every_option_is_explained(words):
    command, ctx = cli.commands, click.Context(cli.commands)
    for word in words: command = command.get_command(ctx, word)
    params = [p for p in command.get_params(ctx) if not getattr(p, 'hidden', False)]
    assert params and [p.opts for p in params if len(p.help or '') <= 5] == []


def test_backfill_explains_its_days_like_other_options(capsys):
    out = said(['backfill', '--help'], capsys)[1]
    first = [line.split()[2] for line in out.splitlines() if line.startswith('│ *')]
    assert first[:3] == ['--from', '--to', '--source-database'] and '--partition-date' not in out


@pytest.mark.parametrize('allowed', [True, False])
def test_backfill_counts_the_days_that_are_consolidated(tmp_path, monkeypatch, capsys, allowed):
    "One day of three has landed; the days without data are no failures of it, allowed or not"
    lake = Lake(tmp_path)
    lake.land('a.parquet', chargebacks(['k1', 'k2']))
    monkeypatch.setattr(cli, 'run_job', lambda words, observe, tell: entry.main(words, inline, observe, tell))
    words = [word for word in lake.words(PARTITION_DATE=None, ALLOW_EMPTY=allowed)]
    words = ['--' + word[2:].lower().replace('_', '-') if word.startswith('--') else word for word in words]
    code = cli.carry_out(['backfill', '--from', '2025-11-01', '--to', '2025-11-03', *words])
    out = capsys.readouterr().out
    assert code == (0 if allowed else 3) and '1 of 3 days consolidated, 2 without data' in out
    cli.carry_out(['backfill', '--from', '2025-11-02', '--to', '2025-11-03', *words])
    assert '0 of 2 days consolidated, 1 with nothing new, 1 without data' in capsys.readouterr().out
    lake.land('b.parquet', b'PAR1 and no more')
    cli.carry_out(['backfill', '--from', '2025-11-01', '--to', '2025-11-02', *words])
    assert '0 of 2 days consolidated, 1 without data, 1 failed' in capsys.readouterr().out


def test_the_options_of_consolidate_are_the_arguments_of_the_job():
    options = {p.opts[0]: p for p in cli.consolidate.params}
    assert [cli.option_name(a.name) for a in ARGUMENTS] == list(options)
    for a in ARGUMENTS: assert options[cli.option_name(a.name)].required == (a.default == REQUIRED)


DAY_WORDS = ['--output-path', 'out', '--partition-date', DAY]
JOB_WORDS = (
    '--catalog lake --source-database landing --source-table t --output-path out --output-file-count 3 '
    '--compression-codec zstd').split()


@pytest.mark.parametrize(
    'words, says',
    [
        (['consolidat'], "'consolidat' is not a command; did you mean consolidate?"),
        (['nonsense'], "'nonsense' is not a command; there is backfill, consolidate, expire, "),
        (['--nonsense'], '--nonsense is not an option of chargeback-consolidation; '),
        (
            ['consolidate', *JOB_WORDS, '--parttion-date', DAY],
            '--parttion-date is not an option of consolidate; did you mean --partition-date?'),
        (
            ['consolidate', *JOB_WORDS, '--PARTITON_DATE', DAY],
            '--partiton-date is not an option of consolidate; did you mean --partition-date?'),
        (
            ['consolidate', *JOB_WORDS, '--xyzzy', '1'],
            '--xyzzy is not an option of consolidate; `consolidate --help` lists them'),
        (
            ['consolidate', *JOB_WORDS[2:-2]],
            '--compression-codec is required: How the consolidated files are compressed'),
        (['consolidate', *JOB_WORDS, '--output-file-count', '5'], '--output-file-count is given twice: give it once'),
        (['consolidate', *JOB_WORDS, '--OUTPUT_FILE_COUNT=5'], '--output-file-count is given twice: give it once'),
        (
            ['consolidate', *JOB_WORDS, '--partition-date', '2025-02-30'],
            '--partition-date must be a day of the calendar, written YYYY-MM-DD, not '),
        (['consolidate', *JOB_WORDS, '--max-null-key-rate', '3'], "--max-null-key-rate must be from 0 to 1, not '3'"),
        (['consolidate', *JOB_WORDS, '--dry-run', 'maybe'], "--dry-run must be true or false, not 'maybe'"),
        (['consolidate', *JOB_WORDS, '--partition-date'], '--partition-date has no value: The day to consolidate'),
        (['consolidate', *JOB_WORDS, '--partition-date='], '--partition-date is empty: The day to consolidate'),
        (['consolidate', *JOB_WORDS, 'stray'], "argument 'stray' has no name: write --name value"),
        (
            ['consolidate', *JOB_WORDS, '--execution-sequence', '5'],
            '--EXECUTION_SEQUENCE 5 is more than --TOTAL_EXECUTIONS 4'),
        (['backfill', *JOB_WORDS, '--to', DAY], '--from is required: First day'),
        (['backfill', *JOB_WORDS, '--from', DAY, '--to', '2025-11-01'], '--from 2025-11-02 is after --to 2025-11-01'),
        (
            ['backfill', *JOB_WORDS, '--from', DAY, '--to', DAY, '--partition-date', DAY],
            '--partition-date has no place here: --from and --to say which days'),
        (['history', '--output-path', 'out'], '--partition-date is required: The day'),
        (['history', *DAY_WORDS, '--jsn'], '--jsn is not an option of history; did you mean --json?'),
        (
            ['snapshot', *DAY_WORDS, '--ledger-pth', 'x'],
            '--ledger-pth is not an option of snapshot; did you mean --ledger-path?'),
        (
            ['repair', '--output-path', 's3://lake', '--partition-date', DAY],
            '--ledger-path is required: beside s3://lake '),
        (['investigate', '--output-path', 'out'], 'which investigation? There is duplicates, '),
        (['investigate', 'tracee'], "'tracee' is not an investigation (did you mean trace?)"),
        (
            ['investigate', 'trace', *DAY_WORDS, '--chargback-id', 'x'],
            '--chargback-id is not an option of investigate trace; did you mean --chargeback-id?'),
        (['investigate', 'trace', *DAY_WORDS], '--chargeback-id is required: the chargeback'),
        (
            ['investigate', 'trace', *DAY_WORDS, '--chargeback-id', 'x', '--mask', 'maybe'],
            "--mask must be true or false, not 'maybe'"),
        (
            ['investigate', 'reconcile', *DAY_WORDS, '--fail-on', 'never'],
            "--fail-on must be wrong or look, not 'never'"),
        (['investigate', 'reconcile', *DAY_WORDS, '--again'], '--again has no value: '),
        (['land-sample'], '--catalog is required: Folder of the local catalog'),
        (['land-sample', '--catalog', 'x', '--files', 'many'], "--files must be a whole number, not 'many'"),
        (['land-sample', '--catalog', 'x', '--ties', '2'], 'ties must be a share from 0 to 1'),
        (['land-sample', '--catalog', 'x', '--names', 'flnk'], 'names must be one of plain, flink'),
        (
            ['land-sample', '--catalog', 'x', '--delivry', '1'],
            '--delivry is not an option of land-sample; did you mean --delivery?'),
        (['warm-up', '--now'], '--now is not an option of warm-up; ')],
    ids=lambda o: ' '.join(o)[-60:] if isinstance(o, list) else '')
def test_a_mistake_is_one_line_that_names_the_option_and_the_nearest(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'lake/landing/t').mkdir(parents=True)
    code, out, err = said(words, capsys)
    assert (code, out, len(err.splitlines())) == (2, '', 1) and says in err, err
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['lake', 'landing', 't']


def test_no_words_are_a_question(capsys):
    for words in ([], ['investigate']):
        code, out, err = said(words, capsys)
        assert not code and err == '' and '─ Commands ─' in out


def test_the_demo_says_what_to_do_next(reprocessed):
    "The lines can be pasted"
    root = Path(__file__).parents[2]
    def run(*words): return subprocess.run(words, cwd=root, capture_output=True, text=True)
    plan = run('make', '-n', 'demo', f'OUTPUT={reprocessed}/out').stdout
    says = '\n'.join(line for line in plan.splitlines() if line.startswith("echo '  "))
    lines = [line.strip() for line in run('sh', '-c', says).stdout.splitlines()]
    wanted = ('history', 'snapshot', 'investigate reconcile', 'duckdb')
    assert [w for w in wanted if not any(w in line for line in lines)] == []
    for line in lines:
        if 'investigate' in line: continue
        done = run('sh', '-c', line.replace('.venv/bin', str(Path(sys.executable).parent)))
        assert done.returncode == 0 and done.stdout, (line, done.stderr)


# History

LIMITS = {r.name: (0.0 if r.name in ('null_key', 'unreadable', 'schema_conflict') else 0.2, 0.5) for r in RULES}


def month(days=30, seed=1):
    "An ordinary month: quiet weekends, a few records without a key every day, now and then a broken file"
    rng, dates = np.random.default_rng(seed), pd.date_range('2025-11-01', periods=days)
    files = np.where(dates.weekday >= 5, 400, 1000) + rng.integers(-30, 30, days)
    counts = {'landing files': files, 'records': files * 100, 'rows': files * 95}
    table = pd.DataFrame({'date': dates.strftime('%Y-%m-%d'), **counts})
    for rule, rate in (('duplicate', .05), ('null_key', .0005), ('missing_version', .01), ('outside_day', .001)):
        table[rule] = rng.binomial(table['records'], rate) / table['records']
    rest = dict.fromkeys((r.name for r in RULES if r.name not in table), 0.0)
    return table.assign(**dict(rest, unreadable=rng.binomial(1, .2, days) / files))


@pytest.mark.parametrize('seed', range(5))
def test_an_ordinary_month_looks_ordinary(seed):
    table = month(seed=seed)
    odd = outliers(table, LIMITS)
    assert set(odd['what']) <= {'unreadable'} and not (odd['why'] == 'far from the median').any(), odd
    said, = every_day(table, LIMITS)
    assert said.level == 'ok' and 'WARN_NULL_KEY_RATE, 0 %' in said.text
    table.loc[17, ['landing files', 'records', 'rows']] //= 3
    table.loc[11, 'null_key'] = .02
    odd = outliers(table, LIMITS)
    assert {(d, w) for d, w in zip(odd['date'], odd['what'], strict=True) if w != 'unreadable'} == {
        ('2025-11-18', 'landing files'), ('2025-11-18', 'records'), ('2025-11-18', 'rows'), ('2025-11-12', 'null_key')}


def test_a_rule_that_came_later_is_unknown_before():
    table = month()
    table.loc[:14, 'null_key'] = np.nan
    table.loc[20, 'null_key'] = .02
    odd = outliers(table, LIMITS).query("what == 'null_key'")
    far = odd[odd['why'] == 'far from the median']
    assert far['date'].tolist() == ['2025-11-21'] and .0002 < far['median'].iloc[0] < .001
    assert set(odd['date']) <= set(table['date'][15:])


def test_rates_are_shown_in_percent():
    table = month()
    table.loc[11, 'null_key'] = .02
    shown = outliers_shown(outliers(table, LIMITS)).query("what == 'null_key'").iloc[0]
    assert shown['value'] == '2 %' and shown['median'].endswith(' %') and shown['threshold'] == '0 %'
    assert in_percent(table)['null key, %'][11] == 2 and not {r.name for r in RULES} & set(in_percent(table).columns)


# trace, side by side


def test_versions_side_by_side(tmp_path):
    "What changed from one version to the next is marked, and masked where it identifies; a value that came back, too"
    lake = Lake(tmp_path)
    states = [('open', 'm1', 5), ('won', 'm1', 5), ('open', 'm2', None)]
    for i, (status, merchant, amount) in enumerate(states):
        payload = dict(status=pa.array([status]), merchant_id=pa.array([merchant]))
        payload['amount'] = pa.array([amount], pa.int64())
        lake.land(f'v{i}.parquet', chargebacks(['k'], updated=i, **payload))
    lake.run(session=inline, **LENIENT)
    table = side_by_side(trace(open_day(str(lake.output), DAY), ['k'])).set_index('column')
    assert list(table.columns) == ['version 1', 'version 2', 'version 3, kept']
    assert list(table.loc['status']) == ['open', '* won', '* open']
    assert list(table.loc['merchant_id']) == ['m1', 'm1', '* m2'] and list(table.loc['amount'])[2] == '*'
    assert not any(text.startswith('*') for text in table['version 1'])
    masked = side_by_side(trace(open_day(str(lake.output), DAY, mask=True), ['k']), most=2).set_index('column')
    assert list(masked.columns) == ['version 2', 'version 3, kept'] and 'm2' not in masked.to_string()
    assert masked.loc['merchant_id'].iloc[1].startswith('* id~')
