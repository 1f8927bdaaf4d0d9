"""Random records, and random rules in DQDL beside what they mean in SQL.

The SQL comes with the rule and not from it: what the package reads, checks and answers is answered by DuckDB.
"""
import random
from collections import namedtuple
from decimal import Decimal

import duckdb
import pyarrow as pa

Asked = namedtuple('Asked', 'rule about right')
Asked.__doc__ = """A rule about rows.
rule: its text. about: SQL that is true where it looks. right: SQL that is true where a row is right."""

NOW = "TIMESTAMPTZ '2025-11-03 05:00:00+00'"
COLUMNS = {
    'amount': (pa.decimal128(18, 2), ['-1.00', '0.00', '0.01', '12.50', '99999999.99', '12.49']),
    'stream offset': (pa.int64(), [-3, 0, 1, 7, 2**62, -2**63]),
    'small': (pa.int8(), [-128, 0, 1, 5, 127]),
    'score': (pa.float64(), [-0.5, 0.0, 0.1, 0.25, 1e300]),
    'currency': (pa.string(), ['EUR', 'USD', '', '  ', 'BRL', 'ä€']),
    'code': (pa.string(), ['10.4', '2025-11-02', 'x1', 'X1', '123', 'true']),
    'flag': (pa.bool_(), [True, False]),
    'due': (pa.date32(), ['2025-10-31', '2025-11-02', '2025-11-03', '1969-12-31']),
    'seen': (pa.timestamp('us', 'UTC'), ['2025-11-02T00:00:00', '2025-11-02T23:59:59.999999', '2025-11-03T05:00:00',
                                         '2025-11-01T05:00:00'])}


def column(rng, name, n):
    kind, values = COLUMNS[name]
    found = [None if rng.random() < 0.15 else rng.choice(values) for _ in range(n)]
    if pa.types.is_decimal(kind): found = [v and Decimal(v) for v in found]
    text = pa.types.is_date(kind) or pa.types.is_timestamp(kind)
    return pa.array(found, pa.string()).cast(pa.timestamp('us') if text and kind != pa.date32() else kind).cast(
        kind) if text else pa.array(found, kind)


def sql_name(name): return f'"{name}"'


def literal(rng, name):
    "A literal for a column as DQDL and as SQL have it"
    kind, values = COLUMNS[name]
    value = rng.choice(values)
    if pa.types.is_floating(kind):
        value = value if abs(value) < 10 else 5
        return f'{value:f}', f'{value}::DOUBLE'
    if pa.types.is_integer(kind):
        value = max(-2**63 + 1, value)
        return (str(value), str(value)) if rng.random() < 0.8 else (f'{value}.5', f'{value}.5')
    if pa.types.is_decimal(kind):
        value = rng.choice([value, '0.005', '12.495', '7'])
        return value, value
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        if rng.random() < 0.3: return '(now() - 26 hours)', f'({NOW} - INTERVAL 26 HOURS)'
        day = rng.choice(['2025-11-02', '2025-11-03'])
        return f'"{day}"', f"TIMESTAMPTZ '{day} 00:00:00+00'"
    text = str(value).lower() if kind == pa.bool_() else value
    return f'"{text}"', f"'{text}'"


def compared(rng, name):
    "A condition of ColumnValues, and what it means"
    kind, _ = COLUMNS[name]
    text = kind in (pa.string(), pa.bool_())
    col = f'{sql_name(name)}::VARCHAR' if kind == pa.bool_() else sql_name(name)
    if kind == pa.date32(): col = f"({sql_name(name)}::TIMESTAMP AT TIME ZONE 'UTC')"
    word = rng.choice(['=', '!=', 'in', 'not in'] + ([] if text else ['>', '>=', '<', '<=', 'between', 'not between']))
    (a, x), (b, y) = literal(rng, name), literal(rng, name)
    null = rng.random() < 0.3
    if word in ('in', 'not in'):
        extra = ['NULL'] * null + (['EMPTY'] if kind == pa.string() and rng.random() < 0.3 else [])
        sql = f'{col} IN ({x}, {y}' + (", '')" if 'EMPTY' in extra else ')')
        right = f'coalesce({sql}, {null})' if word == 'in' else f'coalesce(NOT ({sql}), {not null})'
        return f'{word} [{", ".join([a, b] + extra)}]', right
    if 'between' in word:
        sign = 'NOT ' if 'not' in word else ''
        return f'{word} {a} and {b}', f'coalesce({sign}({col} > {x} AND {col} < {y}), false)'
    if word in ('=', '!=') and null: return f'{word} NULL', f'{col} IS {"NOT " if word == "!=" else ""}NULL'
    return f'{word} {a}', f'coalesce({col} {word} {x}, {word == "!="})'


def filtered(rng):
    "A `where`, which both sides read as it is; it may be empty"
    if rng.random() < 0.6: return '', 'true'
    some = ['amount > 0', "currency = 'EUR'", "currency <> 'EUR'", 'small in (1, 5)', 'small not in (1, 5)',
            'code is null', 'not (flag = true)', 'amount >= 12.5 or currency is not null',
            'not small = 1 and score < 0.2', "due > '2025-11-01'"]
    text = rng.choice(some)
    return f' where "{text}"', f'coalesce({text}, false)'


def row_rule(rng, names):
    "An `Asked`"
    if rng.random() < 0.15:
        parts = [row_rule(rng, names) for _ in range(rng.choice([2, 3]))]
        word = rng.choice(['and', 'or'])
        right = f' {word} '.join(f'(NOT ({p.about}) OR ({p.right}))' for p in parts)
        return Asked(f' {word} '.join(f'({p.rule})' for p in parts), 'true', right)
    name = rng.choice(names)
    where, about = filtered(rng)
    kind = rng.choice(['complete', 'values', 'values', 'values', 'length', 'pattern', 'type'])
    text = COLUMNS[name][0] == pa.string()
    if kind == 'complete': return Asked(f'IsComplete "{name}"{where}', about, f'{sql_name(name)} IS NOT NULL')
    if kind == 'length' and text:
        sign, n = rng.choice(['=', '>', '<=', '!=']), rng.randrange(6)
        return Asked(f'ColumnLength "{name}" {sign} {n}{where}', about, f'coalesce(length("{name}"), 0) {sign} {n}')
    if kind == 'pattern' and text:
        pattern, sign = rng.choice(['[A-Z]+', '[a-z0-9]*', '.', '']), rng.choice(['', 'not '])
        sql = f"regexp_full_match({sql_name(name)}, '{pattern}')"
        return Asked(f'ColumnValues "{name}" {sign}matches "{pattern}"{where}', about, f'coalesce({sign}{sql}, false)')
    if kind == 'type' and text:
        col = sql_name(name)
        number = f"TRY_CAST({col} AS INTEGER) IS NOT NULL AND {col} NOT LIKE '%.%' AND {col} <> 'true'"
        right = f'({col} IS NULL OR ({number}))'
        return Asked(f'ColumnDataType "{name}" = "Integer"{where}', about, right)
    condition, right = compared(rng, name)
    return Asked(f'ColumnValues "{name}" {condition}{where}', about, right)


def set_rule(rng, names):
    "(text of a rule about all rows, SQL of its metric over the rows, SQL of what it asks of `m`)"
    numbers = [n for n in names if n in ('amount', 'small')]
    sign, (where, about) = rng.choice(['>', '>=', '<', '<=', '=', '!=']), filtered(rng)
    kind = rng.choice(['RowCount', 'Completeness', 'Mean', 'Sum', 'StandardDeviation'])
    if kind == 'RowCount' or (kind in ('Mean', 'Sum', 'StandardDeviation') and not numbers):
        n = rng.randrange(60)
        return f'RowCount {sign} {n}{where}', f'count(*) FILTER ({about})', f'm {sign} {n}'
    if kind == 'Completeness':
        name, share = rng.choice(names), rng.choice(['0.5', '0.85', '1', '0.9'])
        sql = f'count("{name}") FILTER ({about}) / nullif(count(*) FILTER ({about}), 0)'
        return f'Completeness "{name}" {sign} {share}{where}', sql, f'coalesce(m {sign} {share}, true)'
    name, n = rng.choice(numbers), rng.choice(['-10', '3.25', '1000000'])
    sign = rng.choice(['>', '<'])
    function = {'Mean': 'avg', 'Sum': 'sum', 'StandardDeviation': 'stddev_pop'}[kind]
    return (f'{kind} "{name}" {sign} {n}{where}', f'{function}("{name}"::DOUBLE) FILTER ({about})',
            f'coalesce(m {sign} {n}, true)')


def records(rng, n, names, first=0):
    return pa.table({name: column(rng, name, n) for name in names})


def database(tables):
    "A connection with the rows of {path: table} as `records`, columns by name, with path and row"
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    landed = [t.append_column('path', pa.array([path] * t.num_rows, pa.string())).append_column(
        'row', pa.array(range(t.num_rows), pa.int32())) for path, t in tables.items()]
    db.register('landed', pa.concat_tables(landed, promote_options='default'))
    db.execute('CREATE TABLE records AS SELECT * FROM landed')
    return db


def rng_of(seed): return random.Random(seed)
