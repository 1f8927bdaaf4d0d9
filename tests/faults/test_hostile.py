"""Input that is broken, odd or hostile: each file is set aside by name with its cause, or read rightly; none is
missing from the counts (C6, C8)."""
import os
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matrices import record

from chargeback_consolidation import entry, job, state
from chargeback_consolidation.sample.lake import run_words
from chargeback_consolidation.sample.landing import land_sample
from chargeback_consolidation.settings import parse
from chargeback_consolidation.spark import find_java

FUZZED = int(os.environ.get('CHARGEBACK_FUZZED', 5000))
LENIENT = [
    word for rule in ('DUPLICATE', 'NULL_KEY', 'UNREADABLE', 'SCHEMA_CONFLICT') for word in (f'--MAX_{rule}_RATE', '1')]


class Lake:
    def __init__(self, root):
        self.root, self.day = Path(root), Path(root, 'landing/chargebacks/2025/11/02')
        self.day.mkdir(parents=True)

    def put(self, name, data):
        path = self.day / name
        if isinstance(data, pa.Table): pq.write_table(data, path)
        else: path.write_bytes(data)
        return path

    def run(self, spark, observe=state.quiet, *more):
        settings = parse([*run_words(self.root), *LENIENT, *more])
        table, (partition,) = entry.plan_runs(settings)
        return job.consolidate(state.start_run(settings, table, partition, lambda: spark, observe))

    def rows(self):
        return pa.concat_tables(
            [pq.ParquetFile(p).read() for p in sorted((self.root / 'out').glob('year=*/month=*/day=*/*.parquet'))])


@pytest.fixture
def lake(tmp_path): return Lake(tmp_path)


def good(*ids, **columns):
    return pa.table(
        {'chargeback_id': list(ids), 'updated_at': pa.array(range(len(ids)), pa.timestamp('us')), **columns})


def mutate(data, chance):
    "A file with some bytes changed, cut, inserted or removed, mostly in its footer"
    b, kind = bytearray(data), chance.random()
    footer = int.from_bytes(b[-8:-4], 'little')
    if kind < 0.45:
        for _ in range(chance.choice([1, 1, 2, 4, 16])):
            b[len(b) - 8 - chance.randrange(footer)] = chance.randrange(256)
    elif kind < 0.8:
        for _ in range(chance.choice([1, 2, 4, 16])): b[chance.randrange(len(b))] = chance.randrange(256)
    elif kind < 0.85: del b[chance.randrange(len(b)):]
    elif kind < 0.9: b[(at := chance.randrange(len(b))):at] = chance.randbytes(chance.randrange(1, 50))
    elif kind < 0.95: del b[(at := chance.randrange(len(b))):at + chance.randrange(1, 50)]
    else: b[-8:-4] = chance.randrange(2**32).to_bytes(4, 'little')
    return bytes(b)


@pytest.mark.parametrize('seed,timestamps,compression', [
    pytest.param(1, 'us', 'snappy', marks=pytest.mark.slow), (2, 'int96', 'none')])
def test_c6_mutated_files(tmp_path, spark, seed, timestamps, compression):
    land_sample(
        str(tmp_path / 'seed'), files=8, records_per_file=6, payload_bytes=40, truncated_files=0.0, empty_files=0.0,
        timestamps=timestamps, compression=compression)
    originals = [p.read_bytes() for p in sorted((tmp_path / 'seed').rglob('part-*.parquet'))]
    lake, chance = Lake(tmp_path / 'lake'), random.Random(seed)
    for i in range(FUZZED // 2): lake.put(f'part-{i:05}.parquet', mutate(chance.choice(originals), chance))
    report = lake.run(spark)
    named = {path for path, _, _ in report.set_aside}
    assert report.files_listed == FUZZED // 2 == report.files_taken + len(named) and all(
        cause for _, _, cause in report.set_aside)
    assert report.records_processed == report.rows_after + report.duplicates_removed + report.quarantined
    assert len(named) > FUZZED // 10 and report.files_taken > FUZZED // 50, (
        'the mutations are too strong or too weak to show anything')
    assert lake.rows().num_rows == report.rows_after
    record('fuzz', seed=seed, files=FUZZED // 2, named=len(named))


def encrypted():
    import pyarrow.parquet.encryption as pe

    class Client(pe.KmsClient):
        def wrap_key(self, key, master): return key
        def unwrap_key(self, key, master): return key
    properties = pe.CryptoFactory(lambda config: Client()).file_encryption_properties(
        pe.KmsConnectionConfig(), pe.EncryptionConfiguration(footer_key='k', column_keys={'k': ['chargeback_id']}))
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, good('x').schema, encryption_properties=properties) as writer:
        writer.write_table(good('x'))
    return sink.getvalue().to_pybytes()


def whole(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


BROKEN = {
    'empty': lambda: b'', 'one-byte': lambda: b'P', 'magic-only': lambda: b'PAR1PAR1',
    'garbage': lambda: bytes(range(256)) * 40, 'wrong-magic': lambda: whole(good('x'))[:-4] + b'PARX',
    'truncated': lambda: whole(good('x'))[:-20], 'huge-footer': lambda: whole(good('x'))[:-8] + b'\xff\xff\xff\x7fPAR1',
    'csv': lambda: b'chargeback_id,amount\nx,1\n', 'encrypted': encrypted}


@pytest.mark.parametrize('kind', list(BROKEN))
def test_c6_a_broken_file_is_named_and_the_rest_is_done(lake, spark, kind):
    lake.put('part-a.parquet', good('cb-1', 'cb-2'))
    lake.put('part-b.parquet', BROKEN[kind]())
    report = lake.run(spark)
    assert [(path, rule) for path, rule, _ in report.set_aside] == [('2025/11/02/part-b.parquet', 'unreadable')]
    assert sorted(lake.rows()['chargeback_id'].to_pylist()) == ['cb-1', 'cb-2'] and report.unreadable_files == 1
    (lake.day / 'part-b.parquet').unlink()
    lake.put('part-b.parquet', good('cb-3'))
    assert lake.run(spark).set_aside == () and lake.rows().num_rows == 3, 'what could not be read is tried again'


CONFLICTS = {
    'key-missing': pa.table({'amount': [1]}), 'key-is-float': pa.table({'chargeback_id': [1.5]}),
    'version-is-text': pa.table({'chargeback_id': ['x'], 'updated_at': ['today']}),
    'text-for-number': good('x', amount=['1']), 'number-for-struct': good('x', amount=pa.array([{'a': 1}])),
    'key-is-number': pa.table({'chargeback_id': [7]})}


@pytest.mark.parametrize('kind', list(CONFLICTS))
def test_c8_a_column_that_changes_its_type_in_mid_day(lake, spark, kind):
    lake.put('part-a.parquet', good('cb-1', amount=[1]))
    lake.put('part-b.parquet', good('cb-2', amount=[2]))
    lake.put('part-0.parquet', CONFLICTS[kind])
    report = lake.run(spark)
    assert [(path, rule) for path, rule, _ in report.set_aside] == [
        ('2025/11/02/part-0.parquet', 'schema')] and 'column' in report.set_aside[0][2]
    assert report.schema_conflicts == 1 and sorted(lake.rows()['chargeback_id'].to_pylist()) == ['cb-1', 'cb-2']


@pytest.mark.parametrize('columns', [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_columns(lake, spark, columns):
    wide = good('cb-1', 'cb-2', **{f'c{i}': np.arange(2) for i in range(columns)})
    lake.put('part-a.parquet', wide)
    lake.put('part-b.parquet', good('cb-3', c7=[7]))
    lake.run(spark)
    rows = lake.rows().sort_by('chargeback_id')
    assert (
        rows.num_columns == wide.num_columns
        and rows['c7'].to_pylist() == [0, 1, 7]
        and rows[f'c{columns - 1}'].to_pylist() == [0, 1, None])


def test_very_long_strings(lake, spark):
    long = 'x' * (40 << 20)
    lake.put('part-a.parquet', good('cb-1', 'cb-2', evidence=[long, None]))
    lake.put('part-b.parquet', good('cb-' + 'k' * 70_000, evidence=['short']))
    lake.run(spark)
    rows = {r['chargeback_id']: r['evidence'] for r in lake.rows().to_pylist()}
    assert rows['cb-1'] == long and rows['cb-2'] is None and rows['cb-' + 'k' * 70_000] == 'short'


@pytest.mark.parametrize('stage', ['look', 'decide'])
@pytest.mark.parametrize('change', ['rewritten', 'deleted'])
def test_a_landing_file_that_changes_while_the_run_reads(lake, spark, stage, change):
    """Before the index it is set aside as changed, and the next run takes what is there then. Before the copy the
    run looks again by itself: what was rewritten is another file, which is not blamed for what the first one was."""
    lake.put('part-a.parquet', good('cb-1'))
    path, once = lake.put('part-b.parquet', good('cb-2', 'cb-3')), []
    def observe(name, seconds, facts):
        if name != stage or once: return
        once.append(name)
        path.unlink()
        if change == 'rewritten': lake.put('part-b.parquet', good('cb-4'))
    report = lake.run(spark, observe)
    aside = {p: rule for p, rule, _ in report.set_aside}
    if stage == 'look' or change == 'deleted' and aside: assert aside == {'2025/11/02/part-b.parquet': 'changed'}
    taken = stage == 'decide' and change == 'rewritten'
    assert lake.rows()['chargeback_id'].to_pylist() == (['cb-1', 'cb-4'] if taken else ['cb-1'])
    lake.run(spark)
    assert sorted(lake.rows()['chargeback_id'].to_pylist()) == (['cb-1', 'cb-4'] if change == 'rewritten' else ['cb-1'])


def test_java_is_found_or_asked_for(monkeypatch):
    "No Java and no packaged one: a line that says what to do"
    monkeypatch.delenv('JAVA_HOME', raising=False)
    monkeypatch.setattr('shutil.which', lambda name: None)
    monkeypatch.setattr('importlib.import_module', lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(RuntimeError, match='Java 17'): find_java()
