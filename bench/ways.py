"""What one would pick instead, each as a whole process: `python ways.py WAY LANDING OUT`.

All of them keep the latest version of each chargeback and write Snappy files: ten, `duckdb-stream` one for each thread,
`daft` one, `delta-rs` such of 100 MB. None of them checks, quarantines or audits; `delta-rs` alone commits. Between
versions with the same times DuckDB and chDB take the later path, as the job does; the others any.
"""
import os
import sys
from pathlib import Path

COUNT = 10
LATEST = (
    'partition by chargeback_id order by coalesce(updated_at, event_timestamp) desc nulls last, '
    'event_timestamp desc nulls last, filename desc')


def session(**options):
    from pyspark.sql import SparkSession

    from chargeback_consolidation.spark import find_java
    find_java()
    builder = (
        SparkSession.builder.master('local[*]')
        .config('spark.ui.enabled', 'false')
        .config('spark.ui.showConsoleProgress', 'false'))
    for name, value in options.items(): builder = builder.config(name.replace('_', '.'), value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel('ERROR')
    return spark


def window(frame):
    from pyspark.sql import Window
    from pyspark.sql import functions as F
    order = [F.coalesce('updated_at', 'event_timestamp').desc_nulls_last(), F.col('event_timestamp').desc_nulls_last()]
    return (
        frame.withColumn('place', F.row_number().over(Window.partitionBy('chargeback_id').orderBy(*order)))
        .where('place = 1')
        .drop('place'))


def textbook(landing, out):
    "Read, count, count what has no key, deduplicate, count, repartition, write: the job of the tutorials"
    spark = session(spark_driver_memory='4g', spark_sql_adaptive_enabled='true')
    frame = spark.read.option('mergeSchema', 'true').parquet(landing)
    before = frame.count()
    nulls = frame.where('chargeback_id is null').count()
    unique = window(frame.where('chargeback_id is not null'))
    after = unique.count()
    unique.repartition(COUNT).write.mode('overwrite').option('compression', 'snappy').parquet(out)
    print(before, nulls, after)


def tuned(landing, out):
    "One pass: schema given, one shuffle by key into the ten partitions that are written"
    import pyarrow.parquet as pq
    last = max(Path(landing).glob('*.parquet'), key=lambda p: len(pq.read_schema(p)) if p.stat().st_size else 0)
    spark = session(
        spark_driver_memory='4g', spark_sql_shuffle_partitions=str(COUNT), spark_sql_adaptive_enabled='false',
        spark_sql_files_maxPartitionBytes=str(256 << 20), spark_sql_files_openCostInBytes='65536')
    schema = spark.read.parquet(str(last)).schema
    frame = spark.read.schema(schema).parquet(landing).where('chargeback_id is not null')
    window(frame.repartition(COUNT, 'chargeback_id')).write.mode('overwrite').option('compression', 'snappy').parquet(
        out)


def duck(landing, out):
    "One query into a table, which is written as ten equal files"
    import duckdb
    Path(out).mkdir(parents=True)
    db = duckdb.connect()
    db.execute('set preserve_insertion_order = false')
    source = f"read_parquet('{landing}/*.parquet', union_by_name = true, filename = true)"
    query = (
        f'select * exclude (filename) from {source} where chargeback_id is not null '
        f'qualify row_number() over ({LATEST}) = 1')
    db.execute(f'create temp table latest as {query}')
    total = db.execute('select count(*) from latest').fetchone()[0]
    step = -(-total // COUNT)
    for i in range(COUNT):
        db.execute(
            f"copy (select * from latest where rowid >= {i * step} and rowid < {(i + 1) * step}) to "
            f"'{out}/part-{i}.parquet' (format parquet, compression snappy)"
        )


def duck_one(landing, out):
    "One query, streamed into as many files as there are threads: DuckDB's fastest form"
    import duckdb
    source = f"read_parquet('{landing}/*.parquet', union_by_name = true, filename = true)"
    query = (
        f'select * exclude (filename) from {source} where chargeback_id is not null '
        f'qualify row_number() over ({LATEST}) = 1')
    duckdb.connect().execute(f"copy ({query}) to '{out}' (format parquet, compression snappy, per_thread_output true)")


def polars(landing, out):
    "One lazy query, written in ten slices"
    import polars as pl
    Path(out).mkdir(parents=True)
    frame = pl.scan_parquet(
        f'{landing}/*.parquet', missing_columns='insert', extra_columns='ignore', schema=widest(landing))
    version = pl.coalesce('updated_at', 'event_timestamp')
    latest = (
        frame.filter(pl.col('chargeback_id').is_not_null())
        .sort(version, 'event_timestamp', descending=True, nulls_last=True)
        .unique('chargeback_id', keep='first')
        .collect())
    step = -(-len(latest) // COUNT)
    for i in range(COUNT): latest.slice(i * step, step).write_parquet(f'{out}/part-{i}.parquet', compression='snappy')


def widest(landing):
    import polars as pl
    last = max(Path(landing).glob('*.parquet'), key=lambda p: len(pl.read_parquet_schema(p)))
    return pl.read_parquet_schema(last)


def chdb(landing, out):
    "One query of ClickHouse, written as ten files by the hash of the key. It makes empty structs and lists of nulls"
    import chdb
    Path(out).mkdir(parents=True)
    order = LATEST.partition('order by ')[2].replace('filename', '_file')
    chdb.query(
        f"insert into function file('{out}/part-{{_partition_id}}.parquet', Parquet) "
        f'partition by cityHash64(chargeback_id) % {COUNT} '
        f"select * from file('{landing}/*.parquet', Parquet) where chargeback_id is not null "
        f'order by {order} limit 1 by chargeback_id '
        "settings schema_inference_mode = 'union', output_format_parquet_compression_method = 'snappy'")


def daft(landing, out):
    """Sorted, and the first of each key kept, written as one file: ten times as fast as a window, and right on these
    days, though no page of Daft promises which one stays"""
    import daft
    import pyarrow.parquet as pq
    from daft import col
    from daft.functions import coalesce
    last = max(Path(landing).glob('*.parquet'), key=lambda p: len(pq.read_schema(p)))
    schema = {field.name: daft.DataType.from_arrow_type(field.type) for field in pq.read_schema(last)}
    frame = daft.read_parquet(f'{landing}/*.parquet', schema=schema).where(~col('chargeback_id').is_null())
    version = coalesce(col('updated_at'), col('event_timestamp'))
    frame = frame.sort([version, col('event_timestamp')], desc=True, nulls_first=False)
    frame.drop_duplicates('chargeback_id').write_parquet(out, compression='snappy')


def delta_rs(landing, out):
    "The landing files as a Delta table (of links, so that none is copied), one query of it, another table overwritten"
    from deltalake import DeltaTable, QueryBuilder, convert_to_deltalake, write_deltalake
    raw = Path(out + '-raw')
    raw.mkdir(parents=True)
    for path in Path(landing).glob('*.parquet'): os.link(path, raw / path.name)
    convert_to_deltalake(str(raw))
    order = LATEST.replace(', filename desc', '')
    latest = QueryBuilder().register('landing', DeltaTable(str(raw))).execute(
        f'select * except (place) from (select *, row_number() over ({order}) as place from landing '
        'where chargeback_id is not null) where place = 1')
    write_deltalake(out, latest, mode='overwrite', target_file_size=100 << 20)


WAYS = {
    'textbook': textbook, 'tuned': tuned, 'duckdb': duck, 'duckdb-stream': duck_one, 'polars': polars, 'chdb': chdb,
    'daft': daft, 'delta-rs': delta_rs}

if __name__ == '__main__': WAYS[sys.argv[1]](*sys.argv[2:])
