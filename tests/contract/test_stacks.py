"""Small files that are read as one give what each of them gives by itself, or are read by themselves."""
from datetime import date
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from days import encode
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chargeback_consolidation import copying, landing, stacks
from chargeback_consolidation.inventory import Source
from chargeback_consolidation.parquet import WholeFile, open_parquet
from chargeback_consolidation.stacks import MOST_FRAMES, Frame, Frames, Stack, by_halves, in_stacks, struct_end
from chargeback_consolidation.store import attempt, store_for

VALUES = {
    pa.string(): st.text(max_size=5), pa.binary(): st.binary(max_size=5), pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127), pa.int64(): st.integers(-2**63, 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False), pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.decimal128(9, 2): st.decimals(-9999999, 9999999, places=2),
    pa.date32(): st.integers(-9999, 9999), pa.timestamp('us'): st.integers(-2**50, 2**50),
    pa.timestamp('ns', 'UTC'): st.integers(0, 2**50).map(lambda micros: micros * 1000),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from('abc'),
    pa.list_(pa.int64()): st.lists(st.integers(0, 9), max_size=3),
    pa.struct([('x', pa.string()), ('y', pa.list_(pa.int8()))]): st.fixed_dictionaries(
        {'x': st.none() | st.text(max_size=3), 'y': st.none() | st.lists(st.integers(0, 9), max_size=2)}),
    pa.map_(pa.string(), pa.int64()): st.lists(st.tuples(st.sampled_from('ab'), st.integers(0, 9)), max_size=2)}
NAMES = 'chargeback_id', 'a', 'b.c', 'ä', 'e'
WAYS = st.fixed_dictionaries({
    'version': st.sampled_from(['1.0', '2.6']), 'data_page_version': st.sampled_from(['1.0', '2.0']),
    'use_dictionary': st.booleans(), 'write_statistics': st.booleans(), 'store_schema': st.booleans(),
    'use_deprecated_int96_timestamps': st.booleans(), 'write_page_index': st.booleans(),
    'write_page_checksum': st.booleans(), 'compression': st.sampled_from(['snappy', 'gzip', 'zstd', 'brotli', 'none']),
    'data_page_size': st.sampled_from([1, 1 << 20]), 'write_batch_size': st.sampled_from([1, 1024])})


@st.composite
def alike(draw):
    "Files with the same columns, written in one way: their bytes"
    kinds = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=5))
    schema = pa.schema([pa.field(name, kind, draw(st.booleans())) for name, kind in zip(NAMES, kinds, strict=False)])
    way, files = draw(WAYS), []
    for _ in range(draw(st.integers(2, 5))):
        rows = draw(st.integers(0, 6))
        columns = [
            pa.array(draw(st.lists((st.none() | VALUES[f.type]) if f.nullable else VALUES[f.type],
                                   min_size=rows, max_size=rows)), f.type) for f in schema]
        table = pa.Table.from_arrays(columns, schema=schema)
        files.append(encode(table, row_group_size=draw(st.integers(1, 6)), **way))
    return files


def by_itself(content, unit='us', leaves=None):
    parquet = open_parquet(content, unit, WholeFile)
    table = parquet.read(use_threads=False) if leaves is None else parquet.read_leaves(leaves)
    if table.num_rows != parquet.metadata.num_rows: raise ValueError('rows')
    return table


def stacked(files, unit='us', leaves=None):
    "(The rows of files that are read as one, how many each of them has)"
    stack = Stack(Frame(stacks.footer_of(files[0])), files)
    return stack.read(unit, leaves), stack.rows


def same(table, parts):
    "True if a table has the rows of others, whatever the dictionaries and the pieces that its columns are in"
    def plain(rows): return rows.cast(pa.schema([
        f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in rows.schema]))
    expected = pa.concat_tables(map(plain, parts)).combine_chunks()
    found = plain(table).combine_chunks()
    return found.equals(expected, check_metadata=True)


@settings(deadline=None)
@given(alike(), st.data())
def test_a_stack_has_the_rows_of_its_files(files, data):
    assume(any(pq.ParquetFile(pa.BufferReader(file)).metadata.num_rows for file in files))
    frame = Frames().of(files[0])
    together = [file for file in files if frame.fits(stacks.footer_of(file))]
    each = [attempt(by_itself, file) for file in together]
    if any(isinstance(found, Exception) for found in each):     # pyarrow writes empty pages and cannot read them
        assert isinstance(attempt(stacked, together), Exception)
        return
    if frame.lists is None:
        assert isinstance(attempt(stacked, together), ValueError)
    else:
        table, rows = stacked(together)
        assert same(table, each) and rows == [found.num_rows for found in each]
    flat = [leaf for leaf, alone in enumerate(frame.flat) if alone]
    assume(flat)
    leaves = data.draw(st.lists(st.sampled_from(flat), min_size=1, unique=True))
    assert same(stacked(together, 'ns', leaves)[0], [by_itself(file, 'ns', leaves) for file in together])


def test_files_of_one_writer_are_alike():
    "Whatever is in them; so a day is read in stacks"
    frames = Frames()
    tables = [pa.table({'chargeback_id': [str(n)] * n, 'flags': [[n]] * n}) for n in range(1, 40)]
    assert len({frames.of(encode(table)) for table in tables}) == 1


TABLE = pa.table({
    'chargeback_id': [f'cb-{n}' for n in range(8)], 'amount': pa.array([Decimal(n) for n in range(8)]),
    'status': ['open', 'won'] * 4, 'flags': [[1], None, [], [2, 3]] * 2, 'note': [None, 'x' * 40] * 4})


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 3), st.integers(0, 10**6), st.integers(0, 255), st.booleans(), st.booleans())
def test_damage_is_seen_or_changes_nothing(at, place, byte, dictionary, two_groups):
    "A byte of a file is another: the stack refuses, or has the rows from before, or those that its files have now"
    how = dict(use_dictionary=dictionary, row_group_size=4 if two_groups else 8)
    files = [encode(TABLE.slice(n), **how) for n in (0, 1, 2, 3, 0)]
    before = [by_itself(file) for file in files]
    damaged = bytearray(files[at])
    damaged[place % len(damaged)] = byte
    files[at] = bytes(damaged)
    frame = Frame(stacks.footer_of(files[0]))
    footer = attempt(stacks.footer_of, files[at])
    assume(isinstance(footer, bytes) and frame.fits(footer))
    found = attempt(stacked, files)
    if isinstance(found, Exception) or same(found[0], before): return
    now = [attempt(by_itself, file) for file in files]
    assert not isinstance(now[at], Exception) and same(found[0], now)


def footer_parts(content):
    "What comes before a file's footer; and the footer, cut behind the fields with these numbers"
    footer = stacks.footer_of(content)
    ends = [0] + [struct_end(footer, 0, last) for last in (2, 3, 4)] + [len(footer)]
    return content[:len(content) - 8 - len(footer)], [footer[a:b] for a, b in pairwise(ends)]


def with_footer(data, footer): return data + footer + len(footer).to_bytes(4, 'little') + b'PAR1'


def test_more_values_than_rows_do_not_move_those_of_others():
    "A page has five values of which the footer tells four. By itself such a file is cut; honest ones keep their rows"
    four, five = (
        encode(pa.table({'chargeback_id': ['a', 'b', 'a', 'b', 'a'][:n], 'x': list(range(n))})) for n in (4, 5))
    frame = Frame(stacks.footer_of(four))
    for leaf in (0, 1):
        group = open_parquet(five, kind=WholeFile).metadata.row_group(0)
        data, (begin, _, groups, end) = footer_parts(five)
        chunk = group.column(leaf)
        # the number of values stands behind the codec, that of rows at the end of the group: from five to four
        told = b'\x15\x02\x16\x0a\x16' + stacks.as_varint(2 * chunk.total_uncompressed_size)
        assert groups.count(told) == 1
        lying = groups.replace(told, told.replace(b'\x16\x0a', b'\x16\x08', 1))
        other = b'\x15\x02\x16\x0a\x16' + stacks.as_varint(2 * group.column(1 - leaf).total_uncompressed_size)
        lying = lying.replace(other, other.replace(b'\x16\x0a', b'\x16\x08', 1))
        rows = b'\x16' + stacks.as_varint(2 * group.total_byte_size) + b'\x16\x0a'
        assert lying.count(rows) == 1
        lying = lying.replace(rows, rows[:-1] + b'\x08')
        liar = with_footer(data, b''.join([begin, b'\x16\x08', lying, end]))
        assert by_itself(liar).num_rows == 4
        assert frame.fits(stacks.footer_of(liar))
        found = attempt(stacked, [four, liar, four])
        assert isinstance(found, Exception), found
        assert isinstance(attempt(stacked, [four, liar], 'us', [leaf]), Exception)


PLAIN = dict(compression='none', use_dictionary=False, write_statistics=False)


def page_of(amounts):
    "A page with these numbers"
    content = encode(pa.table({'amount': pa.array(amounts, pa.int64())}), **PLAIN)
    chunk = open_parquet(content).metadata.row_group(0).column(0)
    return content[chunk.data_page_offset:chunk.data_page_offset + chunk.total_compressed_size]


def lying(keys, amounts):
    "A file that tells of as many amounts as of keys, and has others"
    honest = encode(pa.table({'chargeback_id': keys, 'amount': pa.array([7] * len(keys), pa.int64())}), **PLAIN)
    chunk = open_parquet(honest).metadata.row_group(0).column(1)
    data, (begin, rows, groups, end) = footer_parts(honest)
    page, begins = page_of(amounts), chunk.data_page_offset
    def told(unpacked, size):
        numbers = [stacks.as_varint(2 * number) for number in (unpacked, size, begins)]
        return b'\x16' + numbers[0] + b'\x16' + numbers[1] + b'\x26' + numbers[2]
    true = told(chunk.total_uncompressed_size, chunk.total_compressed_size)
    assert groups.count(true) == 1
    footer = b''.join([begin, rows, groups.replace(true, told(len(page), len(page))), end])
    return with_footer(data[:begins] + page, footer)


def test_files_that_lie_in_opposite_ways_do_not_move_those_between():
    "One amount too many in one file, one too few in the other: in all there are as many as told"
    def honest(n): return encode(pa.table({'chargeback_id': list('abcd'), 'amount': [n, n + 1, n + 2, n + 3]}), **PLAIN)
    many, few = lying(list('efgh'), [1, 2, 3, 4, 666]), lying(list('ijkl'), [1, 2, 3])
    assert by_itself(many)['amount'].to_pylist() == [1, 2, 3, 4]
    for files in ([many, honest(10), few], [few, honest(10), many], [many, honest(10)], [honest(10), few],
                  [honest(10), many], [few, honest(10)], [few, many]):
        assert isinstance(attempt(stacked, files), Exception)
    assert same(stacked([honest(0), honest(10)])[0], [by_itself(honest(0)), by_itself(honest(10))])


def test_a_list_that_goes_on_in_the_next_file():
    "Its values would be those of another file's row"
    files = [encode(pa.table({'flags': flags})) for flags in ([[1], [2, 3]], [[4], None, []])]
    stack = Stack(Frame(stacks.footer_of(files[0])), files)
    assert stack.read('us')['flags'].to_pylist() == [[1], [2, 3], [4], None, []]
    for moved in ([[1], [2, 3, 4], [5], None, []], [[1], [2], [3, 4], None, []], [[1], [2], [4], None, []]):
        with pytest.raises(ValueError, match='not within its file'): stack.check_lists(pa.table({'flags': moved}))


@pytest.mark.parametrize('name', ['chargeback_id', 'amount'])
def test_a_value_that_looks_like_the_place_of_a_column(name):
    "A note is in the statistics of its column, before the columns behind it; whoever writes it chooses its bytes"
    def noted(note): return encode(
        pa.table({'note': pa.array([note] * 3, pa.binary()), 'other': ['x', 'y', 'z'], 'chargeback_id': ['a', 'b', 'c'],
                  'fee': [90, 91, 92], 'amount': [1, 2, 3]}), compression='none', use_dictionary=False)
    size = begin = 300
    for _ in range(4):
        told = b''.join([b'\x16\x06\x16', stacks.as_varint(2 * size), b'\x16', stacks.as_varint(2 * size), b'\x26',
                         stacks.as_varint(2 * begin)])
        victim = noted(b'\x19\x18' + bytes([len(name)]) + name.encode() + b'\x15\x00' + told)
        chunk = open_parquet(victim).metadata.row_group(0).column(1 if name == 'chargeback_id' else 3)
        size, begin = chunk.total_compressed_size, chunk.data_page_offset
    files = [noted(b'n'), victim, noted(b'm')]
    found = attempt(stacked, files)
    assert isinstance(found, Exception) or same(found[0], map(by_itself, files))


def test_a_footer_that_tells_of_no_rows():
    "Where its column chunks have some: by itself such a file is refused"
    honest = encode(TABLE, **PLAIN)
    data, (begin, rows, groups, end) = footer_parts(honest)
    size = open_parquet(honest).metadata.row_group(0).total_byte_size
    true = b'\x16' + stacks.as_varint(2 * size) + b'\x16\x10'
    assert groups.count(true) == 1
    liar = with_footer(data, b''.join([begin, b'\x16\x00', groups.replace(true, true[:-1] + b'\x00'), end]))
    assert isinstance(attempt(stacked, [honest, liar]), ValueError)


@pytest.mark.parametrize('footer', [
    b'\x15\x02\x19' + kind + stacks.as_varint(2**62) + b'\x00' for kind in (b'\xf1', b'\xf3', b'\xf7', b'\xf8', b'\xfc')
] + [b'\x15' + b'\xff' * 4_000_000, b'\x19\xfc' + b'\xff' * 4_000_000])
def test_a_footer_that_would_take_for_ever(footer):
    "It is left to pyarrow, which refuses it"
    assert Frames().of(with_footer(b'PAR1', footer)) is None


def test_what_may_be_much_in_memory_is_read_in_small_stacks(monkeypatch):
    "A text that repeats is there once in a file"
    files = [encode(pa.table({'chargeback_id': [str(n)] * 1000, 'note': ['x' * 20000] * 1000})) for n in range(8)]
    assert len(files[0]) < 20000
    frame, sizes = Frame(stacks.footer_of(files[0])), []
    monkeypatch.setattr(stacks, 'WORST_BYTES', 64 << 20)
    for some, found in by_halves(lambda some: Stack(frame, some).file(), frame, files):
        assert found is not None
        sizes.append(len(some))
    assert sum(sizes) == 8 and max(sizes) == 2
    monkeypatch.setattr(stacks, 'WORST_BYTES', 1 << 20)
    assert [found for _, found in by_halves(lambda some: Stack(frame, some).file(), frame, files)] == [None] * 8


def test_files_without_row_groups_are_no_reason_to_read_others_alone():
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, TABLE.schema).close()
    frames = Frames()
    assert {frames.of(sink.getvalue().to_pybytes()) for _ in range(50)} == {None}
    assert frames.of(encode(TABLE)) is not None


def test_stacks_of_no_use_are_given_up():
    frames = Frames()
    frame = frames.of(encode(TABLE))
    def refuse(files): raise ValueError('no')
    assert [found for _, found in by_halves(refuse, frame, list(range(9)))] == [None] * 9
    assert frames.of(encode(TABLE)) is None


@pytest.mark.parametrize('twist', [
    lambda groups, other: groups + groups[1:],                               # more groups than are told of
    lambda groups, other: groups[:1] + bytes([groups[1] + 16]) + groups[2:],      # fewer
    lambda groups, other: groups + b'\x09\x08' + groups[1:],                  # and once more, as a field of its own
    lambda groups, other: groups + b'\x09\x08' + other[1:]])
def test_a_footer_that_misleads_moves_nobody(twist):
    "Row groups that are told of twice, or not at all"
    honest, other = encode(TABLE), encode(TABLE.slice(0, 4))
    data, (begin, rows, groups, end) = footer_parts(honest)
    liar = with_footer(data, b''.join([begin, rows, twist(groups, footer_parts(other)[1][2]), end]))
    frame = Frame(stacks.footer_of(honest))
    assert isinstance(attempt(Stack, frame, [honest, liar, honest]), Exception)
    assert isinstance(attempt(Stack, frame, [honest, honest, liar]), Exception)
    assert same(stacked([honest, other, honest])[0], map(by_itself, [honest, other, honest]))


def test_a_mark_cannot_be_guessed():
    "It is another in each process, and without it nothing is believed"
    honest = encode(TABLE)
    data, (begin, rows, groups, end) = footer_parts(honest)
    for number in (1, stacks.MARK - 1):
        many = b'\x19' + bytes([groups[1] + 16]) + groups[2:] + stacks.mark_bytes(number)
        liar = with_footer(data, b''.join([begin, rows, many, end]))
        assert isinstance(attempt(stacked, [honest, liar, honest]), Exception)


def test_files_that_differ_in_their_ends_are_read_by_themselves():
    "A writer may note in the footer what is true of one file alone: no frame for each of thousands"
    frames = Frames()
    found = [frames.of(encode(TABLE.replace_schema_metadata({'batch': str(n)}))) for n in range(100)]
    assert found.count(None) == 100 - MOST_FRAMES and len(frames.known) == MOST_FRAMES


def test_who_goes_with_whom():
    one, other = encode(TABLE), encode(TABLE.drop(['note']))
    files = {1: one, 2: other, 3: one, 4: ValueError('gone'), 5: None, 6: b'', 7: other, 8: one, 9: one[:-1]}
    found = [(bool(frame), items) for frame, items in in_stacks(files, files.get, Frames())]
    assert found == [(False, [4]), (False, [5]), (False, [6]), (False, [9]), (True, [1, 3, 8]), (True, [2, 7])]


def test_few_files_are_held_at_once(monkeypatch):
    monkeypatch.setattr(stacks, 'STACKED_BYTES', 3 * len(encode(TABLE)))
    held = []

    def coming():
        for n in range(10):
            held.append(n)
            yield n
    sizes = []
    for _, items in in_stacks(coming(), lambda n: encode(TABLE), Frames()):
        sizes.append(len(held) - items[0])
    assert max(sizes) <= 3 and len(held) == 10


def day_of(tmp_path, contents):
    "(The sources of files on the disk, the stores to read them from)"
    sources = []
    for n, content in enumerate(contents):
        path = tmp_path / f'{n:03}.parquet'
        path.write_bytes(content)
        sources.append(path)
    store = store_for(str(tmp_path))
    entries = {entry.path: entry for entry in store.list(str(tmp_path))}
    return [Source(n, str(path), entries[str(path)].size, entries[str(path)].etag, '')
            for n, path in enumerate(sources)], (store, store)


NOON = 1762084800 * 10**6


def records(file, rows=5, **more):
    return pa.table({
        'chargeback_id': [f'{file}-{row}' for row in range(rows)],
        'updated_at': pa.array(np.arange(rows) + NOON, pa.timestamp('us')),
        'event_timestamp': pa.array(np.arange(rows) + NOON, pa.timestamp('us')), **more})


def opened_files(monkeypatch):
    "Counts the files that pyarrow opens from now on"
    count, true = [], WholeFile.__init__

    def init(self, *args, **options):
        count.append(1)
        true(self, *args, **options)
    monkeypatch.setattr(WholeFile, '__init__', init)
    return count


def test_a_day_is_read_in_stacks(tmp_path, monkeypatch):
    "A hundred files are not opened a hundred times, neither for the index nor for the copy"
    sources, stores = day_of(tmp_path, [encode(records(n)) for n in range(100)])
    count = opened_files(monkeypatch)
    *batches, notes = landing.read_index(sources, stores, date(2025, 11, 2))
    assert len(count) < 10 and sum(batch.num_rows for batch in batches) == 500
    count.clear()
    none = np.zeros(0, np.int32)
    files = [(copying.Part(source, 0, 5, 0, none), stores[0].read(landing.listed(source))) for source in sources]
    reader = copying.PartReader(copying.Fit(records(0).schema), 'us', stores[1],
                                copying.Sieve(records(0).schema), Frames())
    found = [rows for _, _, rows in reader.each(files)]
    assert len(count) < 10 and sum(rows.kept for rows in found) == 500


def test_one_damaged_file_does_not_have_all_read_alone(tmp_path, monkeypatch):
    contents = [encode(records(n)) for n in range(100)]
    contents[50] = contents[50][:30] + b'\xff' * 10 + contents[50][40:]
    sources, stores = day_of(tmp_path, contents)
    count = opened_files(monkeypatch)
    *batches, notes = landing.read_index(sources, stores, date(2025, 11, 2))
    assert len(count) < 60 and sum(batch.num_rows for batch in batches) == 495


@pytest.mark.parametrize('odd', [
    b'', b'PAR1', encode(records(7))[:-9], encode(pa.table({'other': [1]})),
    encode(records(7), use_deprecated_int96_timestamps=True), encode(records(7, rows=0))])
def test_an_odd_file_among_others_is_told_as_by_itself(tmp_path, odd, monkeypatch):
    "The index says the same of each file, whoever is read with it"
    contents = [encode(records(n, rows=n % 4)) for n in range(20)]
    contents[7] = odd
    whole = bytearray(contents[11])
    whole[40:44] = b'\xff' * 4      # in a page of the key, which is found out only when it is read
    contents[11] = bytes(whole)
    sources, stores = day_of(tmp_path, contents)

    def told():
        *batches, notes = landing.read_index(sources, stores, date(2025, 11, 2))
        rows = pa.Table.from_batches(batches).sort_by([('source', 'ascending'), ('position', 'ascending')])
        found = landing.read_notes(landing.field_of(notes, 'note').to_pylist())
        return rows.to_pylist(), {id: str(note) for id, note in found.items()}
    together = told()
    monkeypatch.setattr(stacks, 'MOST_FRAMES', 0)
    count = opened_files(monkeypatch)
    assert told() == together and len(count) >= 17
