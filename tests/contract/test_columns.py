"""C17: which columns are key, versions and event is the user's to say. Any days with any of them, beside DuckDB, and
what a day remembers of it.

CHARGEBACK_DAYS is the number of days (48), CHARGEBACK_SEED where their sequence begins (0).
"""
import json
import os
import random
from collections import namedtuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from days import DAY, LENIENT, NOON, Lake, chargebacks, tree
from inline import inline
from oracle import columns, rows

from chargeback_consolidation import inventory, landing, ledger, repair
from chargeback_consolidation.answers.day import open_day
from chargeback_consolidation.answers.duplicates import duplicates
from chargeback_consolidation.answers.late_arrivals import late_arrivals
from chargeback_consolidation.answers.reconcile import reconcile
from chargeback_consolidation.answers.trace import trace
from chargeback_consolidation.commands.cli import main
from chargeback_consolidation.commands.rules import DECIDING, TABLE, as_before
from chargeback_consolidation.settings import ArgumentError, Columns, parse

DAYS, SEED = int(os.environ.get('CHARGEBACK_DAYS', 48)), int(os.environ.get('CHARGEBACK_SEED', 0))
PARTS = [None, '', 'a', 'b', 'a|b', 'a\\', '\\', '|', 'a\\|b', 'ä']
KEYS = {
    'scheme': (pa.string(), PARTS), 'case no': (pa.string(), PARTS), 'merchant': (pa.int32(), [None, 1, 2]),
    'bin': (pa.binary(), [None, b'', b'a', b'|'])}
TIMES = [pa.timestamp('us'), pa.timestamp('ns', 'UTC'), pa.timestamp('s'), pa.date32(), pa.int64()]
PERIODS = {'s': 10**9, 'ms': 10**6, 'us': 1000, 'ns': 1}

Shape = namedtuple('Shape', 'columns kinds')
Shape.__doc__ = 'Which columns decide in a random day. kinds: {column of times: its type}'


def shape_of(rng):
    key = tuple(rng.sample(sorted(KEYS), rng.choice([1, 2, 2, 3])))
    version = tuple(f'v{i}' for i in range(rng.randrange(1, 5)))
    event = rng.choice([version[-1], version[0], 'opened'])
    return Shape(Columns(key, version, event), {name: rng.choice(TIMES) for name in {*version, event}})


def moment(rng, kind):
    "A time of this type: one of few, so that many are equal"
    if pa.types.is_date(kind): return NOON // 86400 // 10**9 + rng.randrange(-1, 2)
    period = PERIODS[kind.unit] if pa.types.is_timestamp(kind) else 1000
    return NOON // period + rng.choice([0, 0, 1, 2, 1000])


def landing_table(rng, shape, number):
    "A file of the day, not always with all of its version columns"
    n, found = rng.randrange(0, 25), {}
    for name in shape.columns.key:
        kind, some = KEYS[name]
        found[name] = pa.array(rng.choices(some, k=n), kind)
    for name, kind in shape.kinds.items():
        if number and rng.random() < 0.2: continue
        times = [None if rng.random() < 0.3 else moment(rng, kind) for _ in range(n)]
        found[name] = pa.array(times, pa.int32() if pa.types.is_date(kind) else pa.int64()).cast(kind)
    return pa.table({**found, 'stamp': pa.array([1000 * number + i for i in range(n)], pa.int64())})


def nanoseconds(found, name, kind, n):
    "A column of times as DuckDB may compare it with another: text of nanoseconds since 1970"
    values = found.get(name, [None] * n)
    if pa.types.is_date(kind): values = [v if v is None else v.toordinal() - 719163 for v in values]
    factor = 86400 * 10**9 if pa.types.is_date(kind) else 1000 if pa.types.is_integer(kind) else 1
    return [None if v is None else str(v * factor) for v in values]


def wanted(lake, shape, paths):
    "({key: row that wins}, rows without a key), found by DuckDB"
    every, told = [], []
    for path in paths:
        found = columns(lake.table / path)
        here = rows(found)
        for i, row in enumerate(here):
            key = tuple(found[name][i] for name in shape.columns.key)
            told.append((path, i, len(every), None if any(v in (None, '', b'') for v in key) else repr(key)))
            every.append(row)
        for name in shape.columns.version:
            times = nanoseconds(found, name, shape.kinds[name], len(here))
            told[len(told) - len(here):] = [a + (t,) for a, t in zip(told[len(told) - len(here):], times, strict=True)]
    names = shape.columns.version
    from_on = [', '.join(f'{v}::HUGEINT' for v in names[i:]) for i in range(len(names))]
    order = [f'coalesce({some}, NULL) DESC NULLS LAST' for some in from_on]
    texts = [pa.string(), pa.int32(), pa.int32(), pa.string(), *[pa.string()] * len(names)]
    table = pa.table(
        [pa.array(c, kind) for c, kind in zip(list(zip(*told, strict=True)) or [()] * len(texts), texts, strict=True)],
        names=['path', 'row', 'place', 'key', *names])
    with duckdb.connect() as db:
        db.register('landed', table)
        best = db.sql(
            f'SELECT key, place FROM landed WHERE key IS NOT NULL QUALIFY row_number() OVER (PARTITION BY key '
            f'ORDER BY {", ".join(order)}, path DESC, row DESC) = 1').fetchall()
        keyless = db.sql('SELECT place FROM landed WHERE key IS NULL').fetchall()
    return sorted(map(repr, (sorted(every[at], key=str) for _, at in best))), sorted(
        repr(sorted(every[at], key=str)) for at, in keyless)


def held(paths, named=str):
    "The rows of consolidated or quarantined files. named: what to make of the names of columns"
    found = [row for path in paths for row in rows(columns(path))]
    own = ('_landing_file', '_landing_row', '_quarantine_reason')
    return sorted(repr(sorted(((named(n), v) for n, v in row if n not in own), key=str)) for row in found)


def words(shape):
    found = dict(KEY_COLUMNS=','.join(shape.columns.key), VERSION_COLUMNS=', '.join(shape.columns.version))
    return found if shape.columns.event == shape.columns.version[-1] else dict(found, EVENT_COLUMN=shape.columns.event)


def one_day(folder, seed, split):
    "Land and execute a random day; the bytes of its rows. split: seed of how it falls into executions"
    rng, parting = random.Random(seed), random.Random(split)
    lake, shape = Lake(folder), shape_of(rng)
    tables = {f'2025/11/02/{number}.parquet': landing_table(rng, shape, number) for number in range(5)}
    when = {path: parting.randrange(3) for path in tables}
    when['2025/11/02/0.parquet'] = 0
    landed = []
    for execution in sorted(set(when.values())):
        for path, table in tables.items():
            if when[path] != execution: continue
            lake.land(path, table, row_group_size=parting.choice([4, 1000]))
            landed.append(path)
        report = lake.run(session=inline, OUTPUT_FILE_COUNT=parting.randrange(1, 4), **LENIENT, **words(shape),
                          MAX_OUTSIDE_DAY_RATE=1, MAX_MISSING_VERSION_RATE=1)
        best, keyless = wanted(lake, shape, landed)
        assert held(lake.files()) == best and held(lake.quarantine()) == keyless
        assert not report.set_aside and report.rows_after == len(best)
    day = open_day(str(lake.output), '2025-11-02')
    assert day.columns == shape.columns and reconcile(day).level == 'ok', reconcile(day).findings
    if seed % 5 == 0: assert late_arrivals(day).level == 'ok' and duplicates(day).level in ('ok', 'warn')
    return best


@pytest.mark.parametrize('part', range(4))
def test_c17_random_days(part, tmp_path, monkeypatch):
    if part % 2: monkeypatch.setattr(inventory, 'SMALL', 100)
    if part > 1: monkeypatch.setattr(landing, 'CHUNK', 5)
    for seed in range(SEED + part, SEED + DAYS, 4):
        one, other = (one_day(tmp_path / f'{seed}-{split}', seed, split) for split in range(2))
        assert one == other, 'the day depends on how it fell into executions'


def spelled(rng, name): return rng.choice([str, str.lower, str.upper, str.swapcase, str.title])(name)


def as_landed(lake, tables, when, shape, totals, named=str):
    """What was told of the executions in which these tables are consolidated, and what the day and its quarantine hold.
    named: what to make of the names in arguments"""
    reports = []
    for execution in sorted(set(when.values())):
        for path, table in tables.items():
            if when[path] == execution: lake.land(path, table)
        asked = {argument: named(text) for argument, text in {**words(shape), **totals}.items()}
        reports.append(lake.run(session=inline, OUTPUT_FILE_COUNT=2, **LENIENT, **asked,
                                MAX_OUTSIDE_DAY_RATE=1, MAX_MISSING_VERSION_RATE=1))
    told = [(r.rows_after, r.duplicates_removed, r.quarantined, r.set_aside, repr(r.totals).lower(),
             {f['rule']: f['count'] for f in r.findings}) for r in reports]
    day = open_day(str(lake.output), '2025-11-02')
    assert reconcile(day).level == 'ok', reconcile(day).findings
    return told, held(lake.files(), str.lower), held(lake.quarantine(), str.lower)


@pytest.mark.parametrize('part', range(2))
def test_c17_files_may_write_their_columns_in_any_case(part, tmp_path):
    "A day whose files write all of their columns in any case is the day whose files do not, money included"
    for seed in range(SEED + part, SEED + DAYS // 2, 2):
        rng, parting = random.Random(seed), random.Random(seed)
        shape, tables = shape_of(rng), {}
        for number in range(4):
            table = landing_table(rng, shape, number)
            marks = pa.array(rng.choices(['x', 'y', None], k=len(table)), pa.string())
            tables[f'2025/11/02/{number}.parquet'] = table.append_column('mark', marks)
        when = {path: parting.randrange(3) for path in tables}
        other = {
            path: t.rename_columns([spelled(parting, name) for name in t.column_names]) for path, t in tables.items()}
        totals = dict(CONTROL_TOTALS='stamp by mark') if seed % 2 else {}
        one = as_landed(Lake(tmp_path / f'{seed}-plain'), tables, when, shape, totals)
        two = as_landed(Lake(tmp_path / f'{seed}-spelled'), other, when, shape, totals)
        three = as_landed(
            Lake(tmp_path / f'{seed}-asked'), other, when, shape, totals, lambda text, rng=parting: spelled(rng, text))
        assert one == two == three


def test_c17_an_event_that_is_a_version_in_another_case(tmp_path):
    lake = Lake(tmp_path)
    lake.land('a.parquet', chargebacks(['a', 'a'], [5, 1]))
    report = lake.run(session=inline, VERSION_COLUMNS='updated_at', EVENT_COLUMN='Updated_At', **LENIENT)
    [path] = lake.files()
    assert report.rows_after == 1 and {f['rule']: f['count'] for f in report.findings}['missing_version'] == 0
    assert pq.ParquetFile(path).read()['updated_at'].cast(pa.int64()).to_pylist() == [NOON // 1000 + 5]


@pytest.mark.parametrize('name', ['chargeback_id.source', 'updated_at.note', 'amount.note'])
def test_c17_a_column_whose_name_has_a_point(tmp_path, name):
    "It is no part of the column that its name begins with, neither where that decides nor where a rule is about it"
    lake = Lake(tmp_path)
    lake.land('a.parquet', chargebacks(['a'], 1, amount=pa.array([1]), **{name: pa.array(['x'])}))
    for _ in range(2):      # from landing, and from what was consolidated
        report = lake.run(session=inline, RULES='Rules = [ ColumnValues "amount" > 0 ]', REPROCESS=False, **LENIENT)
        lake.land('b.parquet', chargebacks(['b'], 1, amount=pa.array([1])))
    assert not report.set_aside and report.rows_after == 2


def contents(lake): return {path: digest for path, (_, digest) in tree(lake.root).items()}


BY_SCHEME = dict(KEY_COLUMNS='scheme,chargeback_id')


def schemes(keys, names, updated=1): return chargebacks(keys, updated, scheme=pa.array(names))


def test_c17_the_same_id_of_two_schemes(tmp_path):
    lake = Lake(tmp_path)
    lake.land('a.parquet', schemes(['1', '1', '1', '2'], ['visa', 'mc', 'visa', None], [1, 2, 3, 4]))
    report = lake.run(session=inline, **BY_SCHEME, MAX_NULL_KEY_RATE=1, OUTPUT_FILE_COUNT=1)
    pairs = pq.ParquetFile(lake.files()[0]).read().select(['scheme', 'chargeback_id']).to_pylist()
    assert sorted(tuple(pair.values()) for pair in pairs) == [('mc', '1'), ('visa', '1')]
    assert report.duplicates_removed == 1 and report.quarantined == 1
    assert '1 of 4 records have no scheme or chargeback_id (25.00%)' in report.warnings
    rule = 'Rules = [ IsPrimaryKey "chargeback_id" "scheme" labels=["level"="warn"] ]'
    lake.land('b.parquet', schemes(['3'], ['mc']))
    assert lake.run(session=inline, **BY_SCHEME, RULES=rule).rules[0]['outcome'] == 'ok'
    with pytest.raises(ArgumentError, match='is known of the key only, which is chargeback_id'):
        lake.run(session=inline, RULES=rule)


def test_c17_a_day_remembers_its_columns(tmp_path, capsys):
    lake = Lake(tmp_path)
    lake.land('a.parquet', schemes(['1', '1'], ['visa', 'mc']))
    assert lake.run(session=inline, **BY_SCHEME).rows_after == 2
    lake.land('b.parquet', schemes(['2'], ['mc']))
    before = contents(lake)
    for arguments, name, then in [
            ({}, 'KEY_COLUMNS chargeback_id', 'scheme,chargeback_id'),
            (dict(BY_SCHEME, DRY_RUN=True, VERSION_COLUMNS='updated_at'), 'VERSION_COLUMNS updated_at',
             'updated_at,event_timestamp'),
            (dict(BY_SCHEME, EVENT_COLUMN='updated_at'), 'EVENT_COLUMN updated_at', 'event_timestamp')]:
        assert lake.main(**arguments) == 2
        assert capsys.readouterr().err.strip() == (
            f'--{name}: 2025-11-02 was consolidated with {then} (commit 1): give that, or reprocess the day with '
            '--REPROCESS true')
        assert contents(lake) == before
    assert lake.run(session=inline, **BY_SCHEME).rows_after == 3
    other = dict(VERSION_COLUMNS='event_timestamp')
    assert lake.run(session=inline, **other, REPROCESS=True).rows_after == 2
    lake.land('c.parquet', schemes(['3'], ['mc']))
    assert lake.run(session=inline, **other).rows_after == 3
    with pytest.raises(ArgumentError, match='--KEY_COLUMNS scheme,chargeback_id: 2025-11-02 was consolidated with '
                                            'chargeback_id'): lake.run(session=inline, **BY_SCHEME)


def test_c17_history_says_what_decides(tmp_path, typed):
    lake = Lake(tmp_path)
    lake.land('a.parquet', chargebacks(['1', '1'], 1, scheme=pa.array(['visa', 'mc']), n=pa.array([5, 707])))
    lake.run(session=inline, **BY_SCHEME, CONTROL_TOTALS='n by scheme')
    day = '--output-path', lake.output, '--partition-date', DAY
    code, told, _ = typed('history', *day)
    words = ' '.join(told.split())
    assert code == 0 and 'decided by key scheme, chargeback_id; the latest by updated_at, event_timestamp' in words
    assert 'n by scheme' in words and '707' in words
    [commit] = map(json.loads, typed('history', *day, '--json')[1].splitlines())
    assert commit['columns'] == {
        'key': ['scheme', 'chargeback_id'], 'version': ['updated_at', 'event_timestamp'], 'event': 'event_timestamp'}


def records(lake): return [json.loads(p.read_text()) for p in sorted(lake.ledger.rglob('0*.json'))]


def test_c17_a_record_says_only_what_is_special(tmp_path):
    "An earlier version of the job reads the records of those who choose nothing"
    for name, arguments, told in [('plain', {}, None), ('said', dict(KEY_COLUMNS='chargeback_id'), None), (
            'own', BY_SCHEME, {'key': ['scheme', 'chargeback_id'], 'version': ['updated_at', 'event_timestamp'],
                               'event': 'event_timestamp'})]:
        lake = Lake(tmp_path / name)
        lake.land('a.parquet', schemes(['1'], ['visa']))
        lake.run(session=inline, **arguments)
        [record] = records(lake)
        assert record.get('columns') == told
        again = ledger.read_commit(json.dumps(record).encode())
        assert again.columns == parse(lake.words(**arguments)).columns


def test_c17_repair_and_going_back_keep_them(tmp_path):
    from chargeback_consolidation.commands.going_back import release_day, roll_back
    from chargeback_consolidation.store import store_for
    lake = Lake(tmp_path)
    for name in 'ab':
        lake.land(f'{name}.parquet', schemes([name, name], ['visa', 'mc']))
        lake.run(session=inline, **BY_SCHEME, KEEP_SUPERSEDED_HOURS=1)
    day = open_day(str(lake.output), '2025-11-02')
    book = ledger.Ledger(store_for(str(lake.output)), str(lake.output), day.day)
    roll_back(book, 1, 'aaaaaaaa')
    release_day(book, 'bbbbbbbb')
    repair.repair(book, 'cccccccc')
    assert {tuple(r['columns']['key']) for r in records(lake)} == {('scheme', 'chargeback_id')}
    assert lake.run(session=inline, **BY_SCHEME).rows_after == 4


def test_c17_a_day_without_a_version(tmp_path, capsys):
    lake = Lake(tmp_path)
    lake.land('a.parquet', chargebacks(['a']))
    assert lake.main(VERSION_COLUMNS='revision,opened') == 4
    assert 'no file has a column revision or opened, so nothing tells which version' in capsys.readouterr().err
    assert lake.run(session=inline, VERSION_COLUMNS='revision,event_timestamp').rows_after == 1


def test_c17_a_file_without_a_part_of_the_key(tmp_path):
    lake = Lake(tmp_path)
    lake.land('a.parquet', schemes(['a'], ['mc']))
    lake.land('b.parquet', chargebacks(['b'], sheme=pa.array(['mc'])))
    lake.land('c.parquet', chargebacks(['c'], scheme=pa.array([1.5])))
    report = lake.run(session=inline, **BY_SCHEME, MAX_SCHEMA_CONFLICT_RATE=1, MAX_UNREADABLE_RATE=1)
    assert [cause for _, _, cause in report.set_aside] == [
        'there is no column scheme (there is sheme)',
        'column scheme is double: a key must be text, an integer or binary']


def test_c17_an_event_of_its_own(tmp_path):
    "The event decides which records are of another day, the versions do not"
    lake = Lake(tmp_path)
    opened = pa.array([NOON // 1000, NOON // 1000 - 86400 * 10**6, None], pa.timestamp('us'))
    lake.land('a.parquet', chargebacks(['a', 'b', 'c'], 1, [86400 * 10**6] * 3, opened=opened))
    report = lake.run(session=inline, EVENT_COLUMN='opened')
    assert {f['rule']: f['count'] for f in report.findings}['outside_day'] == 1
    assert any('have an opened outside the day' in text for text in report.warnings)


@pytest.mark.parametrize(('arguments', 'told'), [
    (dict(KEY_COLUMNS='a,,b'), '--KEY_COLUMNS must be names of columns with one comma between'),
    (dict(KEY_COLUMNS='a,b,a'), '--KEY_COLUMNS names a column twice'),
    (dict(VERSION_COLUMNS=','.join(f'v{i}' for i in range(17))), '--VERSION_COLUMNS must be at most 16 columns'),
    (dict(EVENT_COLUMN='a,b'), '--EVENT_COLUMN must be the name of one column'),
    (dict(KEY_COLUMNS='a\tb'), '--KEY_COLUMNS has a control character'),
    (dict(KEY_COLUMNS='a,updated_at'), '--KEY_COLUMNS and --VERSION_COLUMNS both name updated_at')])
def test_c17_bad_arguments(tmp_path, arguments, told):
    with pytest.raises(ArgumentError) as e: parse(Lake(tmp_path).words(**arguments))
    assert str(e.value).startswith(told) and '\n' not in str(e.value)


def test_c17_investigations_follow(tmp_path):
    lake = Lake(tmp_path)
    lake.land('a.parquet', schemes(['1', '1', '2|x'], ['visa', 'mc', 'mc'], [1, 2, 3]))
    lake.land('b.parquet', schemes(['1', '1'], ['visa', 'visa'], [5, None]))
    lake.run(session=inline, **BY_SCHEME, OUTPUT_FILE_COUNT=1)
    day = open_day(str(lake.output), '2025-11-02', mask=False)
    answer = trace(day, ['visa|1'])
    shown = answer.tables['versions']
    assert answer.level == 'ok' and shown['scheme|chargeback_id'].tolist() == ['visa|1'] * 3
    assert shown['outcome'].tolist() == ['kept', 'older updated_at', 'no updated_at, and its event_timestamp is older']
    assert trace(day, ['mc|2\\|x']).level == 'ok' and trace(day, ['mc|x']).level == 'warn'
    masked = open_day(str(lake.output), '2025-11-02', mask=True)
    assert 'visa|1' not in str(trace(masked, ['visa|1'])._repr_mimebundle_())
    assert '1' not in masked.mask.frame(shown)['scheme|chargeback_id'][0][:3]
    [path] = lake.files()
    table = pq.ParquetFile(path).read()
    old = pa.concat_tables([pq.ParquetFile(lake.table / '2025/11/02/a.parquet').read().slice(0, 1), table.slice(1)])
    pq.write_table(old.cast(table.schema), path)
    findings = reconcile(open_day(str(lake.output), '2025-11-02')).findings
    assert {'older version', 'row changed'} <= {f.kind for f in findings}


def test_c17_a_day_that_nobody_consolidated(tmp_path):
    "Investigations know the columns from another day"
    lake = Lake(tmp_path)
    lake.land('a.parquet', schemes(['1'], ['visa']))
    lake.run(session=inline, **BY_SCHEME, EVENT_COLUMN='updated_at')
    lake.land('2025/11/03/a.parquet', schemes(['1'], ['visa']))
    day = open_day(str(lake.output), '2025-11-03')
    assert day.columns == Columns(('scheme', 'chargeback_id'), ('updated_at', 'event_timestamp'), 'updated_at')


@pytest.mark.parametrize('again', [{}, dict(REPROCESS=True)])
@pytest.mark.parametrize(('arguments', 'told'), [
    (dict(BY_SCHEME, VERSION_COLUMNS='revised_att,occurred_at'),
     '--VERSION_COLUMNS revised_att: no file of 2025-11-02 has such a column; did you mean revised_at?'),
    (dict(BY_SCHEME, VERSION_COLUMNS='revised_at,occured_at'),
     '--VERSION_COLUMNS occured_at: no file of 2025-11-02 has such a column; did you mean occurred_at?'),
    (dict(BY_SCHEME, VERSION_COLUMNS='revised_at', EVENT_COLUMN='occured_at'),
     '--EVENT_COLUMN occured_at: no file of 2025-11-02 has such a column; did you mean occurred_at?'),
    (dict(KEY_COLUMNS='schem,chargeback_id', VERSION_COLUMNS='revised_at'),
     ('--KEY_COLUMNS schem,chargeback_id: there is no column schem (there is scheme) in any of the 2 landing files '
      'of 2025-11-02: say which columns tell one chargeback from another'))])
def test_c17_a_misspelt_name_never_decides(tmp_path, capsys, arguments, told, again):
    "Nor does it look as if files were broken"
    lake = Lake(tmp_path)
    for name in 'ab':
        table = schemes([name], ['visa']).rename_columns(['chargeback_id', 'revised_at', 'occurred_at', 'scheme'])
        lake.land(f'{name}.parquet', table)
    if again: lake.run(session=inline, **BY_SCHEME, VERSION_COLUMNS='revised_at,occurred_at')
    assert lake.main(**arguments, **again) == 2
    assert capsys.readouterr().err.strip() == told
    assert len(records(lake)) == len(again)


@pytest.mark.parametrize(('arguments', 'told'), [
    (dict(VERSION_COLUMNS='updated_at,updated_ts', EVENT_COLUMN='at'),
     ['no file of 2025-11-02 has the column updated_ts of VERSION_COLUMNS: did you mean updated_at?']),
    (dict(VERSION_COLUMNS='updated_at', EVENT_COLUMN='updatedat'),
     ['no file of 2025-11-02 has the column updatedat of EVENT_COLUMN: did you mean updated_at?']),
    (dict(VERSION_COLUMNS='updated_at,due', EVENT_COLUMN='at'), [])])
def test_c17_a_column_that_is_like_one_in_use_is_told(tmp_path, arguments, told):
    "It may be misspelt, or a day that lacks it"
    lake = Lake(tmp_path)
    lake.land('a.parquet', schemes(['a'], ['visa']).rename_columns(['chargeback_id', 'updated_at', 'at', 'scheme']))
    report = lake.run(session=inline, KEY_COLUMNS='scheme,chargeback_id', **arguments)
    assert (report.status, report.rows_after) == ('done', 1)
    assert [w for w in report.warnings if 'did you mean' in w] == told


def test_c17_files_that_lack_different_parts_of_the_key(tmp_path, capsys):
    "Each part is there, so no name is wrong: the files are"
    lake = Lake(tmp_path)
    both = schemes(['a'], ['visa'])
    for name, lacks in (('a', 'scheme'), ('b', 'chargeback_id')): lake.land(f'{name}.parquet', both.drop([lacks]))
    assert lake.main(**BY_SCHEME) == 4
    assert 'columns that fit no common schema' in capsys.readouterr().err


@pytest.mark.parametrize('lenient', [{}, LENIENT])
def test_c17_a_misspelt_key_among_broken_files(tmp_path, capsys, lenient):
    "They are broken whatever the name of the key, and the others are not"
    lake = Lake(tmp_path)
    for name in 'ab': lake.land(f'{name}.parquet', schemes([name], ['visa']))
    lake.land('c.parquet', b'')
    lake.land('d.parquet', b'PAR1 no more')
    assert lake.main(KEY_COLUMNS='chargback_id', VERSION_COLUMNS='updated_at', **lenient) == 2
    assert capsys.readouterr().err.strip() == (
        '--KEY_COLUMNS chargback_id: there is no column chargback_id (there is chargeback_id) in any of the 2 landing '
        'files of 2025-11-02 that can be read: say which columns tell one chargeback from another')
    assert not lake.files() and lake.main(KEY_COLUMNS='chargeback_id', VERSION_COLUMNS='updated_at', **LENIENT) == 0


def test_c17_half_a_key_is_no_key(tmp_path):
    lake = Lake(tmp_path)
    lake.land('a.parquet', schemes(['a|b'], ['visa']))
    lake.run(session=inline, **BY_SCHEME)
    day = open_day(str(lake.output), '2025-11-02')
    for key in ('a', 'visa,a', 'visa|a|b'):
        with pytest.raises(ArgumentError, match=r'the key of this day is scheme\|chargeback_id: give its parts'):
            trace(day, [key])
    assert trace(day, ['visa|a\\|b']).level == 'ok'


def test_c17_rules_try_takes_the_columns_of_the_day(tmp_path, capsys):
    lake = Lake(tmp_path)
    lake.land('a.parquet', schemes(['1', '1'], ['visa', 'mc']))
    lake.run(session=inline, **BY_SCHEME)
    (tmp_path / 'r.dqdl').write_text('Rules = [ IsPrimaryKey "scheme" "chargeback_id" ]')
    words = ['rules', 'try', tmp_path / 'r.dqdl', '--catalog', tmp_path / 'lake', '--source-database', 'landing',
             '--source-table', 'chargebacks', '--output-path', lake.output, '--partition-date', '2025-11-02']
    words = list(map(str, words))
    with pytest.raises(SystemExit) as end: main(words)
    assert not end.value.code, capsys.readouterr()
    with pytest.raises(SystemExit) as end: main([*words, '--key-columns', 'chargeback_id'])
    assert end.value.code == 2 and 'which is chargeback_id' in capsys.readouterr().err, 'what is said is what counts'
    alone = [*words[:3], *words[-4:]]       # the ledger knows which table it was
    with pytest.raises(SystemExit) as end: main(alone)
    assert not end.value.code, capsys.readouterr()
    lake.land('2025/11/03/a.parquet', schemes(['1', '1'], ['visa', 'mc']))
    with pytest.raises(SystemExit) as end: main([*alone[:-1], '2025-11-03'])    # as does another day
    said = capsys.readouterr()
    assert not end.value.code and '2 records of 2025-11-03' in said.out, said
    with pytest.raises(SystemExit) as end: main([*alone[:-1], '2025-11-04'])
    assert end.value.code == 3 and 'nothing has landed for 2025-11-04' in capsys.readouterr().err


def test_c17_rules_try_without_a_ledger(tmp_path, capsys):
    "It is the folder that is wrong, or a day that nobody has consolidated: not a missing option"
    (tmp_path / 'r.dqdl').write_text('Rules = [ RowCount > 0 ]')
    words = ['rules', 'try', str(tmp_path / 'r.dqdl'), '--output-path', str(tmp_path / 'none')]
    with pytest.raises(SystemExit) as end: main([*words, '--partition-date', '2025-11-02'])
    assert (end.value.code, capsys.readouterr().err) == (2, (
        f'--output-path {tmp_path}/none: its ledger, {tmp_path}/_none, holds no day: are both the right folders? For a '
        'day that no execution has seen, say where it lands with --catalog, --source-database, --source-table\n'))
    given = dict.fromkeys((*TABLE, *DECIDING), None)
    given.update(OUTPUT_PATH=str(tmp_path / 'none'), SOURCE_DATABASE='landing', SOURCE_TABLE='chargebacks')
    assert as_before(given)['CATALOG'] == 'glue', 'rules can be tried before the first execution'


def test_c17_rules_try_beside_a_damaged_record(tmp_path):
    "Of another day, which nobody asks for"
    lake = Lake(tmp_path)
    lake.land('a.parquet', schemes(['1'], ['visa']))
    lake.run(session=inline, **BY_SCHEME)
    [record] = lake.ledger.rglob('000001.json')
    record.write_bytes(record.read_bytes()[:50])
    given = dict.fromkeys((*TABLE, *DECIDING), None)
    given.update(OUTPUT_PATH=str(lake.output), PARTITION_DATE='2025-11-03', SOURCE_DATABASE='landing',
                 SOURCE_TABLE='chargebacks')
    assert as_before(given)['KEY_COLUMNS'] == 'chargeback_id'


def test_c21_totals_that_a_run_drops_are_told(tmp_path):
    lake = Lake(tmp_path)
    table = schemes(['1'], ['visa']).append_column('amount', pa.array([1]))
    lake.land('a.parquet', table)
    lake.run(session=inline, CONTROL_TOTALS='amount by scheme')
    lake.land('b.parquet', table)
    assert any('commit 1 kept control totals, amount by scheme, and this run does not' in w
               for w in lake.run(session=inline).warnings)


def test_c17_a_late_file_without_the_key_is_a_bad_file(tmp_path):
    "The columns of a day that is there are right: such a file is set aside as ever, and blocks nothing"
    lake = Lake(tmp_path)
    lake.land('a.parquet', schemes(['1'], ['visa']))
    lake.run(session=inline, **BY_SCHEME)
    lake.land('b.parquet', chargebacks(['2']))
    assert lake.main(**BY_SCHEME) == 4
    assert lake.run(session=inline, **BY_SCHEME, MAX_SCHEMA_CONFLICT_RATE=1, MAX_UNREADABLE_RATE=1).rows_after == 1
    lake.land('c.parquet', schemes(['3'], ['visa']))
    assert lake.run(session=inline, **BY_SCHEME).rows_after == 2
