"What makes a large day bearable gives what the plain way would give."
import os
import platform
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chargeback_consolidation.copying import batch_rows, slot_parts
from chargeback_consolidation.inventory import Source, Sources
from chargeback_consolidation.landing import UNCOUNTED, note_row, read_notes
from chargeback_consolidation.layout import Piece, Slot
from chargeback_consolidation.parquet import dictionary_columns, open_writer
from chargeback_consolidation.spark import MALLOC, collect, malloc_settings, run_tasks, spark_settings
from chargeback_consolidation.store import FileEntry
from chargeback_consolidation.versions import path_ranks


@given(st.lists(st.text(max_size=3)))
def test_ranks_follow_the_order_of_paths(paths):
    order = sorted(set(paths))
    assert path_ranks(paths).tolist() == [order.index(path) for path in paths]


def test_a_source_is_the_same_whenever_it_is_asked_for():
    new = {3: FileEntry('a.parquet', 7, 'x'), 4: FileEntry('/elsewhere/b.parquet', 8, 'y')}
    own = {1 << 30: Source(1 << 30, '/out/c.parquet', 9, '', '/out/_ledger/c')}
    sources = Sources('/landing', new, own)
    assert len(sources) == 3 and list(sources) == [3, 4, 1 << 30] and 5 not in sources
    assert dict(sources) == {3: Source(3, '/landing/a.parquet', 7, 'x', ''),
                             4: Source(4, '/elsewhere/b.parquet', 8, 'y', ''), **own}


def test_parts_can_be_asked_for_again():
    sources = Sources('/landing', {0: FileEntry('a.parquet', 7, 'x')}, {})
    parts = slot_parts([Slot(None, [Piece(0, 0, 2)]), Slot(1 << 30, [])], sources, {0: 1}, {})
    assert list(parts) == [0]
    for _ in range(2): assert [(p.source.path, p.take, p.aside) for p in parts[0]] == [('/landing/a.parquet', 2, 1)]


def test_notes_come_back_and_share_what_is_equal():
    text = '\u20ac' * 300
    notes = {
        i: UNCOUNTED._replace(rows=i, schema=0, counts={'null_key': i % 2}, cause=text, first_event=i, totals=[[2, []]])
        for i in range(1000)}
    row = note_row(notes, [pa.schema([('a', pa.int64())]).serialize().to_pybytes()])
    [packed] = row.column(row.schema.get_field_index('note')).to_pylist()
    found = read_notes([packed])
    assert {i: note._replace(schema=0) for i, note in found.items()} == notes
    assert len({id(note.counts) for note in found.values()}) == 2
    assert len({id(note.schema) for note in found.values()}) == 1 and len(packed) < 50_000


@pytest.mark.parametrize(('rows', 'own', 'most'), [(400_000, True, 100_000), (400_000, False, 8192), (7, True, 7)])
def test_how_much_of_a_row_group_is_read_at_a_time(tmp_path, rows, own, most):
    "A quarter of 64 MB of what we wrote; of what landed no more than is surely small"
    pq.write_table(pa.table({'a': np.arange(rows)}), tmp_path / 'a.parquet', row_group_size=rows)
    assert batch_rows(pq.ParquetFile(tmp_path / 'a.parquet').metadata.row_group(0), own) == most


def test_a_dictionary_is_for_values_that_repeat(tmp_path):
    "However deeply they are nested; also where a column's name has a dot, or hardly a value is there to judge by"
    n = 1000
    def card(i): return {'bin': str(i), 'country': 'DE', 'seen': [{'at': datetime(2025, 11, 2), 'by': str(i)}]}
    table = pa.table({
        'id': [str(i) for i in range(n)], 'status': ['won', 'lost'] * (n // 2), 'card': [card(i) for i in range(n)],
        'card.id': [str(i) for i in range(n)], 'none': pa.nulls(n),
        'sparse': [['x'] if i == 3 else [] for i in range(n)],
        'pairs': pa.array([[('k', str(i))] for i in range(n)], pa.map_(pa.string(), pa.string())),
        'two': pa.array([[i, i + 1] for i in range(n)], pa.list_(pa.int64(), 2))})
    table = pa.concat_tables([table.slice(0, 0), table])
    with open_writer(tmp_path / 'a.parquet', table, 'snappy') as writer: writer.write_table(table)
    group = pq.ParquetFile(tmp_path / 'a.parquet').metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    found = {column.path_in_schema for column in columns if column.has_dictionary_page}
    either = {'none', 'two.list.element'}   # nothing to keep, and what Arrow may compare or not
    assert found - either == {
        'status', 'card.country', 'card.seen.list.element.at', 'sparse.list.element', 'pairs.key_value.key'}
    assert set(dictionary_columns(table)) >= found
    assert pq.read_table(tmp_path / 'a.parquet').equals(table)


def test_workers_keep_freed_memory_at_hand_unless_the_user_says_otherwise(spark, monkeypatch):
    wanted = {'spark.executorEnv.GLIBC_TUNABLES': MALLOC}
    at_work = set(collect(run_tasks(spark, [1, 2], lambda share: [os.environ.get('GLIBC_TUNABLES')])))
    assert malloc_settings() in ({}, wanted) and at_work == {malloc_settings() and MALLOC or None}
    for known, settings in ((('glibc', '2.36'), wanted), (('glibc', '2.26'), {}), (('', ''), {})):
        monkeypatch.setattr(platform, 'libc_ver', lambda known=known: known)
        assert malloc_settings() == settings
    monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.malloc.arena_max=1')
    monkeypatch.setattr(platform, 'libc_ver', lambda: ('glibc', '2.36'))
    assert spark_settings(1, '1g', '')['spark.executorEnv.GLIBC_TUNABLES'] == 'glibc.malloc.arena_max=1'
