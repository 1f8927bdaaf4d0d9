"""Every type that Arrow writes to Parquet, and pairs of nested schemas: values come out as they went in, or the file
is set aside by name (C8)."""
import datetime
import os
import random
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from days import LENIENT, Lake, chargebacks
from inline import inline

N = 40
PAIRS = int(os.environ.get('CHARGEBACK_PAIRS', 180))
GROUPS = 6


def counted(kind): return pa.array(range(N), kind)
def stamps(unit, zone=None): return pa.array(range(N), pa.timestamp(unit, zone))
def nan(bits, kind, number): return pa.Array.from_buffers(kind, N, [None, pa.py_buffer(np.full(N, number, bits))])


KINDS = {
    **{
        str(kind): counted(kind)
        for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.float32(), pa.float64())
    },
    'uint32': pa.array([2**32 - 1 - i for i in range(N)], pa.uint32()),
    'uint64': pa.array([2**64 - 1 - i for i in range(N)], pa.uint64()),
    'half': pa.array(np.arange(N, dtype=np.float16)),
    'bool': pa.array([i % 2 == 0 for i in range(N)]),
    'nan with payload': nan(np.uint32, pa.float32(), 0x7FA00001),
    'double nan with payload': nan(np.uint64, pa.float64(), 0x7FF4000000000001),
    'date32': counted(pa.int32()).cast(pa.date32()),
    'date64': pa.array([i * 86400000 for i in range(N)], pa.int64()).cast(pa.date64()),
    'time32 s': counted(pa.int32()).cast(pa.time32('s')),
    'time32 ms': counted(pa.int32()).cast(pa.time32('ms')),
    'time64 us': counted(pa.int64()).cast(pa.time64('us')),
    'time64 ns': counted(pa.int64()).cast(pa.time64('ns')),
    **{
        f'timestamp {unit} {zone}': stamps(unit, zone)
        for unit in ('s', 'ms', 'us', 'ns')
        for zone in (None, 'UTC', 'Asia/Kolkata', '+05:30')},
    'duration': counted(pa.duration('us')),
    'string': pa.array([str(i) for i in range(N)]),
    **{str(kind): pa.array([str(i) * 9 for i in range(N)], kind) for kind in (pa.large_string(), pa.string_view())},
    **{
        str(kind): pa.array([bytes([i]) * 20 for i in range(N)], kind)
        for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(20))},
    'decimal128(9, 2)': pa.array([Decimal(i) / 100 for i in range(N)], pa.decimal128(9, 2)),
    'decimal128(38, 0)': pa.array([Decimal(i) for i in range(N)], pa.decimal128(38, 0)),
    'decimal256(70, 0)': pa.array([Decimal(10) ** 60 + i for i in range(N)], pa.decimal256(70, 0)),
    'decimal32': pa.array([Decimal(i) for i in range(N)], pa.decimal32(5, 0)),
    'decimal64': pa.array([Decimal(i) / 10 for i in range(N)], pa.decimal64(12, 1)),
    'dictionary': pa.array(['a', 'b'] * (N // 2)).dictionary_encode(),
    'null': pa.nulls(N),
    'uuid': pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([uuid.UUID(int=i).bytes for i in range(N)], pa.binary(16))),
    'json': pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": %d}' % i for i in range(N)])),
    'list': pa.array([list(range(i % 4)) if i % 5 else None for i in range(N)]),
    'large list': pa.array([list(range(i % 4)) for i in range(N)], pa.large_list(pa.int64())),
    'fixed list': pa.array([[i, i + 1] for i in range(N)], pa.list_(pa.int16(), 2)),
    'map': pa.array([[('k', i)] for i in range(N)], pa.map_(pa.string(), pa.int32())),
    'struct': pa.array(
        [{'a': i, 'b': None} if i % 3 else None for i in range(N)], pa.struct([('a', pa.int8()), ('b', pa.string())])),
    'list of structs with times': pa.array(
        [[{'t': datetime.datetime(2025, 1, 1)}] * (i % 3) for i in range(N)],
        pa.list_(pa.struct([('t', pa.timestamp('us', 'Europe/Berlin'))]))),
    'struct of dictionary': pa.StructArray.from_arrays([pa.array(['x', 'y'] * (N // 2)).dictionary_encode()], ['d']),
    'list of large strings': pa.array([['x'] * (i % 3) for i in range(N)], pa.list_(pa.large_string())),
}


def raw(array):
    "The values of a column, told apart to the last bit"
    if isinstance(array, pa.ChunkedArray): return [v for chunk in array.chunks for v in raw(chunk)]
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType): return raw(array.storage)
    if pa.types.is_dictionary(kind): return raw(array.cast(kind.value_type))
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind) or pa.types.is_time(kind):
        return [(kind.unit, v) for v in array.cast(pa.int64() if kind.bit_width == 64 else pa.int32()).to_pylist()]
    if pa.types.is_floating(kind):
        bits = np.frombuffer(array.buffers()[1], {16: np.uint16, 32: np.uint32, 64: np.uint64}[kind.bit_width])[
            array.offset : array.offset + len(array)]
        return [None if v is None else int(b) for v, b in zip(array.to_pylist(), bits, strict=True)]
    return array.to_pylist()


def unit_widened(values):
    "Parquet has no seconds: they come out as milliseconds"
    return [
        ('ms', v and v[1] * 1000) if isinstance(v, tuple) and v[0] == 's' and v[1] is not None else v for v in values]


@pytest.mark.parametrize('name', KINDS)
def test_values_of_every_type(tmp_path, name):
    "In three executions, of which the last rewrites a file of the second; nothing is set aside"
    lake, column = Lake(tmp_path), KINDS[name]
    keys = [f'k{i:02d}' for i in range(N)]
    for a, b in ((0, 15), (15, 30), (30, N)):
        lake.land(f'{a}.parquet', chargebacks(keys[a:b], updated=1, v=column.slice(a, b - a)))
        assert lake.run(session=inline, **LENIENT).set_aside == ()
    table = pa.concat_tables([pq.ParquetFile(p).read() for p in lake.files()])
    found = dict(zip(table['chargeback_id'].to_pylist(), raw(table['v']), strict=True))
    landed = [
        raw(pq.ParquetFile(p).read()['v'])
        for p in sorted((lake.table / '2025/11/02').glob('*'), key=lambda p: int(p.stem))]
    assert [found[k] for k in keys] == unit_widened([v for part in landed for v in part])


# Pairs of nested schemas


LEAVES = [
    pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.binary(), pa.bool_(),
    pa.date32(), pa.timestamp('us'), pa.timestamp('ms'), pa.timestamp('us', 'UTC'), pa.decimal128(9, 2),
    pa.decimal128(18, 4), pa.large_string(), pa.null()]


def some_type(chance, depth):
    kind = chance.random()
    if depth == 0 or kind < 0.4: return chance.choice(LEAVES)
    if kind < 0.7:
        return pa.struct([some_field(chance, name, depth - 1) for name in chance.sample('abcdE', chance.randint(1, 4))])
    if kind < 0.9: return pa.list_(some_field(chance, 'element', depth - 1))
    return pa.map_(pa.string(), some_type(chance, depth - 1))


def some_field(chance, name, depth):
    kind = some_type(chance, depth)
    return pa.field(name, kind, nullable=pa.types.is_null(kind) or chance.random() < 0.8)


WIDER = {
    pa.int8(): pa.int32(), pa.int16(): pa.int64(), pa.int32(): pa.int64(), pa.float32(): pa.float64(),
    pa.decimal128(9, 2): pa.decimal128(18, 4), pa.string(): pa.large_string(), pa.null(): pa.string()}


def changed(chance, kind):
    "A type that is often wider, sometimes another, sometimes lacks or gains fields"
    t = pa.types
    if chance.random() < 0.04: return chance.choice(LEAVES)
    if t.is_struct(kind):
        fields = [f.with_type(changed(chance, f.type)) for f in kind if chance.random() < 0.85]
        fields += [some_field(chance, 'new', 1)] * (chance.random() < 0.4 or not fields)
        chance.shuffle(fields)
        return pa.struct([f.with_nullable(f.nullable or t.is_null(f.type)) for f in fields])
    if t.is_list(kind):
        element = kind.value_field.with_type(changed(chance, kind.value_type))
        return pa.list_(element.with_nullable(element.nullable or t.is_null(element.type)))
    if t.is_map(kind): return pa.map_(pa.string(), changed(chance, kind.item_type))
    return WIDER.get(kind, kind) if chance.random() < 0.4 else kind


def some_value(chance, kind, nullable=True):
    t = pa.types
    if t.is_null(kind) or nullable and chance.random() < 0.2: return None
    if t.is_struct(kind): return {f.name: some_value(chance, f.type, f.nullable) for f in kind}
    if t.is_list(kind):
        return [some_value(chance, kind.value_type, kind.value_field.nullable) for _ in range(chance.randint(0, 3))]
    if t.is_map(kind): return [(f'k{i}', some_value(chance, kind.item_type)) for i in range(chance.randint(0, 2))]
    if t.is_integer(kind): return chance.choice([0, 1, -1, 2**(kind.bit_width - 1) - 1, -2**(kind.bit_width - 1)])
    if t.is_floating(kind): return chance.choice([0.0, -0.0, 1.5, float('inf'), 0.25])
    if t.is_decimal(kind):
        return Decimal(chance.randint(-(10**kind.precision) + 1, 10**kind.precision - 1)).scaleb(-kind.scale)
    if t.is_boolean(kind): return chance.random() < 0.5
    if t.is_date(kind): return datetime.date(2025, 1, 1) + datetime.timedelta(chance.randint(-20000, 9000))
    if t.is_timestamp(kind):
        return datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC if kind.tz else None) + datetime.timedelta(
            seconds=chance.randint(-(10**9), 10**9))
    return 'é' * chance.randint(0, 3) if 'string' in str(kind) else os.urandom(chance.randint(0, 3))


def seen(value):
    "A value without what a schema adds: fields that are null"
    if isinstance(value, dict): return {k.lower(): seen(v) for k, v in value.items() if seen(v) is not None}
    if isinstance(value, list): return [seen(v) for v in value]
    if isinstance(value, tuple): return tuple(map(seen, value))
    return value.replace(tzinfo=None) if isinstance(value, datetime.datetime) else value


@pytest.mark.parametrize('group', range(GROUPS))
def test_pairs_of_nested_schemas(tmp_path, group):
    fitted = 0
    for seed in range(group, PAIRS, GROUPS):
        chance, lake, wanted = random.Random(seed), Lake(tmp_path / str(seed)), {}
        first = some_field(chance, 'v', 3)
        second = first.with_type(changed(chance, first.type))
        fields = [first, second.with_nullable(second.nullable or pa.types.is_null(second.type))]
        for name, field in zip('ab', fields, strict=True):
            values = [some_value(chance, field.type, field.nullable) for _ in range(8)]
            if chance.random() < 0.1 and name == 'b': continue
            keys = [f'{name}{i}' for i in range(8)]
            table = chargebacks(keys, updated=1).append_column(field, pa.array(values, field.type))
            lake.land(f'{name}.parquet', table)
            wanted.update({key: seen(v) for key, v in zip(keys, values, strict=True)})
        lake.land('c.parquet', chargebacks(['c0'], updated=1))
        report = lake.run(session=inline, MAX_SCHEMA_CONFLICT_RATE=1, OUTPUT_FILE_COUNT=1, **LENIENT)
        aside = {a.path[-9] for a in report.set_aside}
        assert all(a.rule == 'schema' and 'v' in a.cause for a in report.set_aside), (seed, report.set_aside)
        rows = [row for p in lake.files() for row in pq.ParquetFile(p).read().to_pylist()]
        found = {row['chargeback_id']: seen(row.get('v')) for row in rows}
        assert found == {'c0': None, **{k: v for k, v in wanted.items() if k[0] not in aside}}, seed
        fitted += not aside
    assert fitted > PAIRS // GROUPS // 3
