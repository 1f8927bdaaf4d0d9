"""What files with the same columns have in common is worked out once: never for files that differ, once for those of
any writer that do not."""
import traceback

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from days import encode
from hypothesis import given
from hypothesis import strategies as st

from chargeback_consolidation.deciding import Shapes, make_shape, schema_bytes, struct_end
from chargeback_consolidation.parquet import WholeFile, open_parquet
from chargeback_consolidation.store import attempt

KINDS = [
    pa.string(), pa.large_string(), pa.binary(), pa.int32(), pa.int64(), pa.decimal128(9, 2), pa.date32(), pa.bool_(),
    pa.timestamp('us'), pa.timestamp('us', 'UTC'), pa.timestamp('ns'), pa.list_(pa.int64()),
    pa.struct([('x', pa.int64())]), pa.struct([('y', pa.int64())]), pa.map_(pa.string(), pa.int64()),
    pa.struct([('x', pa.list_(pa.timestamp('ns')))]), pa.dictionary(pa.int32(), pa.string())]
COLUMNS = st.dictionaries(st.sampled_from(['updated_at', 'event_timestamp', 'a', 'b', 'ä']), st.sampled_from(KINDS))
METADATA = st.sampled_from([
    {}, {'org.apache.spark.version': '3.0.1'}, {'org.apache.spark.version': '3.5.6'},
    {'org.apache.spark.version': '3.5.6', 'org.apache.spark.legacyINT96': ''}])


@st.composite
def file_of(draw, kinds, key):
    "The bytes of a Parquet file with these columns, as one writer or another makes them"
    rows = draw(st.integers(0, 3))
    schema = pa.schema({'chargeback_id': key, **kinds}, metadata=draw(METADATA))
    table = pa.table([pa.nulls(rows, f.type) for f in schema], schema=schema)
    return encode(
        table, use_deprecated_int96_timestamps=draw(st.booleans()), store_schema=draw(st.booleans()),
        version=draw(st.sampled_from(['1.0', '2.6'])), use_compliant_nested_type=draw(st.booleans()))


@st.composite
def days(draw):
    "Some files, many with the same columns: (their bytes, the columns that rules name)"
    kinds = draw(st.lists(COLUMNS, min_size=1, max_size=2))
    def one():
        key = draw(st.sampled_from([pa.string(), pa.string(), pa.int64()]))
        return draw(file_of(draw(st.sampled_from(kinds)), key)), draw(st.sampled_from([(), ('a',)]))
    return [one() for _ in range(draw(st.integers(2, 6)))]


def opened(content): return open_parquet(content, kind=WholeFile)


def told(shape):
    "A shape, or why there is none, to be compared"
    return str(shape) if isinstance(shape, Exception) else [part.serialize() if hasattr(part, 'serialize') else part
                                                            for part in shape]


@given(days())
def test_what_files_have_in_common_is_what_each_of_them_has(day):
    shapes = Shapes()
    for content, asked in day + day:
        parquet = opened(content)
        assert told(attempt(shapes.of, parquet, content, asked)) == told(attempt(make_shape, parquet, asked))


TABLE = pa.table({
    'chargeback_id': ['a', 'b'], 'amount': pa.array(['1.5', None]).cast(pa.decimal128(9, 2)), 'flags': [[True], None],
    'holder': [{'bin': '1', 'names': ['x']}, {'bin': None, 'names': None}],
    **{f'count {n}': pa.array([n, None], pa.int8()) for n in range(12)}})


def by_arrow(table, path, spark): pq.write_table(table, path, row_group_size=1)


def by_duckdb(table, path, spark): duckdb.from_arrow(table).write_parquet(str(path))


def by_polars(table, path, spark): polars.from_arrow(table).write_parquet(path)


def by_spark(table, path, spark):
    kinds = ['string', 'decimal(9,2)', 'array<boolean>', 'struct<bin:string,names:array<string>>'] + ['tinyint'] * 12
    schema = ', '.join(f'`{name}` {kind}' for name, kind in zip(table.column_names, kinds, strict=True))
    rows = [tuple(row.values()) for row in table.to_pylist()]
    spark.createDataFrame(rows, schema).coalesce(1).write.parquet(f'{path}.d')
    [written] = path.with_name(path.name + '.d').glob('*.parquet')
    written.rename(path)


@pytest.mark.parametrize('write', [by_arrow, by_duckdb, by_polars, by_spark])
def test_files_of_one_writer_are_asked_once(write, tmp_path, spark):
    "Whatever their rows, and though their columns differ from those of others"
    shapes = Shapes()
    for n in range(4):
        write(pa.concat_tables([TABLE] * n + [TABLE.slice(0, 1)]), tmp_path / f'{n}.parquet', spark)
        content = (tmp_path / f'{n}.parquet').read_bytes()
        shapes.of(opened(content), content)
    assert len(shapes.schemas) == len(shapes.found) == 1
    names = ['cardholder' if name == 'holder' else name for name in TABLE.column_names]
    write(TABLE.rename_columns(names), tmp_path / 'other.parquet', spark)
    content = (tmp_path / 'other.parquet').read_bytes()
    assert shapes.of(opened(content), content).schema.names == names


def parts_of(content):
    "What comes before a file's footer; the footer's version, its schema without the field's head, and the rest"
    begin = len(content) - 8 - int.from_bytes(content[-8:-4], 'little')
    version, schema = (struct_end(content, begin, last) for last in (1, 2))
    return content[:begin], content[begin:version], content[version + 1:schema], content[schema:-8]


def test_a_footer_that_begins_as_others_and_reads_otherwise():
    "Of two schemas in a footer Arrow takes the second one"
    one = encode(TABLE, store_schema=False)
    other = encode(pa.table({'a': [1, 2], 'chargeback_id': ['x', 'y']}), store_schema=False)
    data, version, schema, rest = parts_of(other)
    footer = b''.join([version, b'\x19', parts_of(one)[2], b'\x09\x04', schema, rest])
    both = data + footer + len(footer).to_bytes(4, 'little') + b'PAR1'
    for contents in ([one, both, other], [both, one, other]):
        shapes = Shapes()
        for content in contents:
            parquet = opened(content)
            assert told(shapes.of(parquet, content)) == told(make_shape(parquet))
    assert opened(both).schema_arrow.names == ['a', 'chargeback_id']


def test_files_that_do_not_fit_are_not_held():
    "The exception is the same for all, and what led to it would hold on to each of them"
    shapes, content = Shapes(), encode(TABLE.drop(['chargeback_id']))
    def frames():
        fault = attempt(shapes.of, opened(content), content)
        return len(list(traceback.walk_tb(fault.__traceback__)))
    assert len({frames() for _ in range(5)} - {frames()}) <= 1 and frames() < 6


@pytest.mark.parametrize('damage', [
    lambda footer: b'', lambda footer: footer[:20], lambda footer: b'\xff' * 40, lambda footer: b'\x1c' * 5000,
    lambda footer: b'\x19\xfc' + b'\xff' * 9])
def test_a_footer_that_cannot_be_read_is_no_key(damage):
    "Whatever stands there, an exception comes of it at once, and nothing is remembered"
    content, known = encode(TABLE), []
    size = int.from_bytes(content[-8:-4], 'little')
    footer = damage(content[-8 - size:-8])
    broken = content[:-8 - size] + footer + len(footer).to_bytes(4, 'little') + b'PAR1'
    assert isinstance(attempt(schema_bytes, broken, known), Exception) and known == []
