"""C16: whoever reads the root of the table, in whatever way, gets its rows and nothing else.

The lake has what could get in between: days in several executions, rows without a key, broken files, and a run that
was killed before it committed.
"""
import os
import re
import shutil
import subprocess
from datetime import date
from pathlib import Path

import duckdb
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from days import LENIENT, Lake, chargebacks, tree

from chargeback_consolidation import delta, entry
from chargeback_consolidation.ledger import Ledger, snapshot
from chargeback_consolidation.settings import parse
from chargeback_consolidation.store import store_for

DAYS = ['2025-11-02', '2025-11-03', '2025-12-01']
ROWS = 'SELECT chargeback_id, place FROM '


@pytest.fixture(scope='module')
def lake(spark, tmp_path_factory):
    "Three days in two executions each, with quarantined rows and a broken file"
    lake = Lake(tmp_path_factory.mktemp('reading'))
    for number, day in enumerate(DAYS):
        folder = day.replace('-', '/')
        lake.land(f'{folder}/broken.parquet', b'PAR1 no more')
        for execution in range(2):
            keys = [f'cb-{number}-{i}' for i in range(40 * execution, 40 * execution + 50)] + [None] * 3
            lake.land(
                f'{folder}/part-{execution}.parquet', chargebacks(keys, place=pa.array(range(len(keys)), pa.int64())))
            lake.run(lambda: spark, PARTITION_DATE=day, **LENIENT)
    return lake


def place_of(root): return Ledger(store_for(str(root)), str(root), date(2025, 11, 2)).home


def expected(root):
    "The rows of the table, as the ledger names its files"
    found = []
    for day in DAYS:
        _, files = snapshot(Ledger(store_for(str(root)), str(root), date.fromisoformat(day)))
        for file in files: found += pq.ParquetFile(file.path).read(columns=['chargeback_id', 'place']).to_pylist()
    return sorted((row['chargeback_id'], row['place']) for row in found)


def query(words): return lambda root, spark: duckdb.sql(ROWS + words.format(root)).fetchall()


def pairs(table): return zip(table['chargeback_id'].to_pylist(), table['place'].to_pylist(), strict=True)


def of_spark(frame): return [tuple(row) for row in frame.select('chargeback_id', 'place').collect()]


def every_file(root):
    return pa.concat_tables(
        [pq.ParquetFile(Path(folder, name)).read() for folder, _, names in os.walk(root) for name in names])


WAYS = {
    'duckdb, the root': query("read_parquet('{}')"),
    'duckdb, every file below': query("read_parquet('{}/**/*.parquet')"),
    'duckdb, the days': query("read_parquet('{}/year=*/month=*/day=*/*.parquet', hive_partitioning = true)"),
    'polars, the root': lambda root, spark: pairs(polars.scan_parquet(root).collect().to_arrow()),
    'polars, every file below': lambda root, spark: pairs(polars.read_parquet(f'{root}/**/*.parquet').to_arrow()),
    'duckdb, the years': query("read_parquet('{}/year=*/**/*.parquet', hive_partitioning = true)"),
    'polars, the years': lambda root, spark: pairs(
        polars.scan_parquet(f'{root}/year=*/**/*.parquet', hive_partitioning=True).collect().to_arrow()),
    'pandas': lambda root, spark: pairs(pa.Table.from_pandas(pd.read_parquet(root))),
    'pyarrow.dataset': lambda root, spark: pairs(pyarrow.dataset.dataset(root, partitioning='hive').to_table()),
    'pyarrow.dataset, no format known': lambda root, spark: pairs(
        pyarrow.dataset.dataset(root, format='parquet').to_table()),
    'pyarrow.parquet': lambda root, spark: pairs(pq.read_table(root)),
    'Spark': lambda root, spark: of_spark(spark.read.parquet(root)),
    'Spark, every file below': lambda root, spark: of_spark(
        spark.read.option('recursiveFileLookup', 'true').parquet(root)),
    'Spark, the days': lambda root, spark: of_spark(spark.read.parquet(f'{root}/year=*/month=*/day=*')),
    'glob': lambda root, spark: pairs(
        pa.concat_tables(pq.ParquetFile(p).read() for p in Path(root).rglob('*.parquet'))),
    'every file there is, hidden ones too': lambda root, spark: pairs(every_file(root))}


@pytest.mark.parametrize('way', WAYS)
def test_every_way_of_reading_the_root_gives_the_table(lake, spark, way):
    rows = expected(lake.output)
    assert len(rows) == 90 * len(DAYS) and len(lake.quarantine()) > 0
    assert sorted(WAYS[way](str(lake.output), spark)) == rows


BY_YEAR_OR_NAME = [way for way in WAYS if way.endswith(('days', 'years')) or way in (
    'pandas', 'pyarrow.dataset', 'pyarrow.parquet', 'Spark')]       # the last ones pass over what begins with _


@pytest.fixture(scope='module')
def logged(lake, spark, tmp_path_factory):
    "A copy of the lake with a Delta log, and a checkpoint in it, which is a Parquet file"
    copy = Lake(shutil.copytree(lake.root, tmp_path_factory.mktemp('logged') / 'copy'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta, 'CHECKPOINT_EVERY', 1)
        for day in DAYS: copy.run(lambda: spark, PARTITION_DATE=day, DELTA_LOG=True, REPROCESS=True, **LENIENT)
    assert list(copy.output.glob('_delta_log/*.checkpoint.parquet'))
    return copy


@pytest.mark.parametrize('way', BY_YEAR_OR_NAME)
def test_with_a_delta_log_in_the_root(logged, spark, way):
    "Ways that begin at the years, and those that pass over names with an underscore"
    assert sorted(WAYS[way](str(logged.output), spark)) == expected(logged.output)


@pytest.mark.parametrize('way', WAYS)
def test_what_a_killed_run_staged_is_read_by_nobody(lake, spark, tmp_path, way):
    root = shutil.copytree(lake.root, tmp_path / 'copy') / 'out'
    sink = Ledger(store_for(str(root)), str(root), date(2025, 11, 2)).store.stage(
        f'{root}/year=2025/month=11/day=02/part-00000-c000003-0badcafe.parquet')
    sink.write(b'PAR1, cut')
    assert sorted(WAYS[way](str(root), spark)) == expected(root)


def test_below_the_root_lie_only_years(lake, tmp_path):
    assert {p.name for p in lake.output.iterdir()} == {'year=2025'}
    assert {p.name for p in lake.root.iterdir()} == {'lake', 'out', '_out'} and {
        p.name for p in lake.ledger.iterdir()} == {'_ledger', '_quarantine', '_staged'}
    assert place_of(lake.output) == str(lake.ledger)


# The ledger elsewhere


def test_a_ledger_path_of_ones_own(spark, tmp_path, typed):
    lake = Lake(tmp_path / 'here')
    home = tmp_path / 'there/ledger of chargebacks'
    for execution in range(2):
        lake.land(f'{execution}.parquet', chargebacks(['a', 'b', f'c{execution}', None]))
        report = lake.run(lambda: spark, LEDGER_PATH=home, **LENIENT)
    assert report.rows_after == 4 and report.arguments['LEDGER_PATH'] == str(home)
    assert {p.name for p in lake.root.iterdir()} == {'lake', 'out'} and {p.name for p in home.iterdir()} == {
        '_ledger', '_quarantine', '_staged'}
    assert lake.run(lambda: spark, LEDGER_PATH=home).status == 'nothing new'
    words = ['--output-path', str(lake.output), '--partition-date', DAYS[0], '--ledger-path', str(home)]
    for command in (['snapshot'], ['history'], ['repair'], ['investigate', 'reconcile']):
        runs = ['--runs', str(tmp_path / 'runs')] if command[0] == 'investigate' else []
        code, out, err = typed(*command, *words, *runs)
        assert code == 0, (command, err)
    code, out, err = typed('snapshot', *words[:-2])
    assert code == 2 and 'there is no ledger in' in err and str(lake.root / '_out') in err


@pytest.mark.parametrize(('given', 'says'), [
    (dict(OUTPUT_PATH='s3://lake'), '--LEDGER_PATH is required: beside s3://lake there is no place for it'),
    (dict(OUTPUT_PATH='/'), '--LEDGER_PATH is required: beside / '),
    (dict(OUTPUT_PATH='/a/out', LEDGER_PATH='/a/out'), 'must not lie in each other'),
    (dict(OUTPUT_PATH='/a/out', LEDGER_PATH='/a/out/ledger'), 'must not lie in each other'),
    (dict(OUTPUT_PATH='/a/out', LEDGER_PATH='/a'), 'must not lie in each other'),
    (dict(OUTPUT_PATH='/a/out', LEDGER_PATH='/'), 'must not lie in each other'),
    (dict(OUTPUT_PATH='s3://lake/out', LEDGER_PATH='s3://lake'), 'must not lie in each other'),
    (dict(OUTPUT_PATH='s3://lake', LEDGER_PATH='s3://lake/ledger'), 'must not lie in each other'),
    (dict(OUTPUT_PATH='s3://lake/out', LEDGER_PATH='/a'), 'must both be local or both on s3://'),
    (dict(OUTPUT_PATH='/a/out', LEDGER_PATH='s3://lake'), 'must both be local or both on s3://'),
    (dict(LEDGER_PATH='lake/landing/chargebacks/ledger'), '--LEDGER_PATH .* lies inside the landing folder'),
    (dict(LEDGER_PATH='link/ledger'), 'must not lie in each other'),
    (dict(LEDGER_PATH='lake/file'), '--LEDGER_PATH .*/lake/file is a file, not a folder'),
], ids=str)
def test_places_that_do_not_go_together(tmp_path, monkeypatch, capsys, given, says):
    lake = Lake(tmp_path)
    lake.land('a.parquet', chargebacks(['a']))
    lake.output.mkdir()
    (tmp_path / 'link').symlink_to(lake.output)
    (tmp_path / 'lake/file').write_text('I am a file')
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    assert lake.main(**given) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ('', 1) and re.search(says, err), err
    assert tree(tmp_path) == before


def test_different_buckets_and_names_of_folders():
    def places(output, ledger=None):
        words = Lake.words(Lake('/tmp'), OUTPUT_PATH=output, LEDGER_PATH=ledger)
        settings = parse(words)
        return settings.output_path, settings.ledger_path
    assert places('s3://lake/a/chargebacks/') == ('s3://lake/a/chargebacks', 's3://lake/a/_chargebacks')
    assert places('s3://lake/chargebacks') == ('s3://lake/chargebacks', 's3://lake/_chargebacks')
    assert places('s3://lake', 's3://ledgers') == ('s3://lake', 's3://ledgers')
    assert places('/out') == ('/out', '/_out') and places('/a/b/_c') == ('/a/b/_c', '/a/b/__c')
    assert places('/a/out', '/a/out2') == ('/a/out', '/a/out2')


# A table of an earlier version


@pytest.fixture
def old(lake, tmp_path):
    "A lake whose ledger and quarantine lie in the table's own folder"
    root = shutil.copytree(lake.root, tmp_path / 'old lake')
    for part in ('_ledger', '_quarantine'): (root / '_out' / part).rename(root / 'out' / part)
    shutil.rmtree(root / '_out')
    return Lake(root)


@pytest.mark.parametrize('left', [('_ledger', '_quarantine'), ('_ledger',), ('_quarantine',)], ids=' and '.join)
def test_a_table_of_an_earlier_version_is_never_a_new_one(old, capsys, typed, monkeypatch, left):
    monkeypatch.chdir(old.root)
    for part in {'_ledger', '_quarantine'} - {*left}: shutil.rmtree(old.output / part)
    old.land('2025/11/02/new.parquet', chargebacks(['new']))
    old.land('2025/12/24/first.parquet', chargebacks(['first']))
    before = tree(old.root)
    for words in (
        dict(), dict(REPROCESS='true'), dict(DRY_RUN='true'), dict(PARTITION_DATE='2025-12-24'),
        dict(ENABLE_PARTITION_FILTER='false'), dict(LEDGER_PATH=old.root / 'elsewhere')):
        assert old.main(**words) == 2
        out, err = capsys.readouterr()
        assert out == '' and len(err.splitlines()) == 1 and ' and '.join(left) in err and 'mv ' in err
    for command in ('snapshot', 'history', 'repair', 'investigate reconcile'):
        code, out, err = typed(*command.split(), '--output-path', old.output, '--partition-date', DAYS[0])
        assert (code, out, len(err.splitlines())) == (2, '', 1) and 'mv ' in err, (command, out, err)
    assert tree(old.root) == before


def test_the_words_of_the_error_move_it(old, lake, spark, capsys):
    assert old.main() == 2
    words = capsys.readouterr().err.partition('no run is on, ')[2]
    subprocess.run(words, shell=True, check=True)
    for day in DAYS: assert old.run(lambda: spark, PARTITION_DATE=day, **LENIENT).status == 'nothing new'
    old.land('2025/11/02/new.parquet', chargebacks(['new'], place=pa.array([7], pa.int64())))
    report = old.run(lambda: spark, **LENIENT)
    assert (report.rows_before, report.rows_after) == (90, 91)
    assert expected(old.output) == sorted(expected(lake.output) + [('new', 7)])
    assert {p.name for p in old.output.iterdir()} == {'year=2025'}
    assert entry.main(old.words()) == 0


def test_c16_a_changed_ledger_path_is_noticed(tmp_path, capsys):
    "For a day that is there, and for a new one"
    lake = Lake(tmp_path)
    lake.land('a.parquet', chargebacks(['a']))
    lake.land('2025/11/03/a.parquet', chargebacks(['a']))
    assert lake.main() == 0
    before = tree(tmp_path)
    for day in ('2025-11-02', '2025-11-03'):
        assert lake.main(LEDGER_PATH=tmp_path / 'other', PARTITION_DATE=day) == 2
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 1 and told[0].startswith(f'--LEDGER_PATH {tmp_path}/other knows no day, though')
    assert tree(tmp_path) == before
    assert lake.main(PARTITION_DATE='2025-11-03', MAX_OUTSIDE_DAY_RATE=1) == 0
    assert lake.main(OUTPUT_PATH=tmp_path / 'more', LEDGER_PATH=tmp_path / 'other') == 0
