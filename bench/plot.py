"Draw what bench/results.json holds, for the README: python bench/plot.py"
import json
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
NAMES = {
    'ours': 'this job', 'duckdb-stream': 'DuckDB, streamed', 'duckdb': 'DuckDB, ten files', 'polars': 'Polars',
    'daft': 'Daft, one file', 'chdb': 'chDB, ten files', 'delta-rs': 'delta-rs', 'tuned': 'Spark, tuned',
    'textbook': 'textbook Glue job'}


def bars(axis, rows, field, scale, title, digits):
    "Horizontal bars of one field, ours in colour, the value at the end of each"
    values = [rows[way][field] / scale for way in rows]
    found = axis.barh(
        [NAMES[way] for way in rows],
        values,
        color=['#c2410c' if way == 'ours' else '#94a3b8' for way in rows],
        height=0.65,
    )
    axis.bar_label(found, fmt=f'%.{digits}f', padding=3, fontsize=8)
    axis.set_title(title, fontsize=9, loc='left')
    axis.invert_yaxis()
    axis.set_xlim(0, 1.18 * max(values))
    axis.tick_params(labelsize=8, length=0)
    axis.set_xticks([])
    for side in axis.spines.values(): side.set_visible(False)


def draw(results, path):
    "A row of time and memory for each size"
    sizes = sorted((name for name in results if name.isdigit()), key=int)
    figure, axes = plt.subplots(
        len(sizes), 2, figsize=(8.4, 0.55 + 1.55 * len(sizes)), layout='constrained', squeeze=False)
    for (time, memory), size in zip(axes, sizes, strict=True):
        ways = results[size]['ways']
        rows = {way: ways[way] for way in sorted(NAMES.keys() & ways, key=lambda way: ways[way]['seconds'])}
        ours = rows['ours']['seconds']
        records = f'{int(size) * 100 / 1e6:g} M records in {int(size):,} files'
        bars(time, rows, 'seconds', ours, f'{records}: time, this job = 1', 2)
        bars(memory, rows, 'peak', 1e9, 'peak memory, GB', 1)
        memory.set_yticks([])
    figure.savefig(path, dpi=110, metadata={'Software': None})
    plt.close(figure)


if __name__ == '__main__': draw(json.loads((ROOT / 'bench/results.json').read_text()), ROOT / 'nbs/images/speed.png')
