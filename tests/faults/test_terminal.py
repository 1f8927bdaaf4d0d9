"The command as a person sees it: on a pty."
import fcntl
import io
import itertools
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
from pyspark import SparkContext
from rich.console import Console

from chargeback_consolidation.commands import terminal

pytestmark = pytest.mark.xdist_group('terminal')    # what its tests share is made once
CLI = Path(sys.executable).parent / 'chargeback-consolidation'
WORDS = (
    '--catalog lake --source-database landing --source-table chargebacks --output-path lake/out --output-file-count 3 '
    '--compression-codec zstd --partition-date 2025-11-02').split()


def on_a_terminal(folder, columns, *words):
    "Exit code of a command on a pty, and what it showed"
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ('COLUMNS', 'LINES')} | {
        'TERM': 'xterm-256color'}
    started = subprocess.Popen([CLI, *words], cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b''
    while True:
        try: part = os.read(master, 4096)
        except OSError: break      # nobody holds the other end any more
        if not part: break
        shown += part
    os.close(master)
    return started.wait(60), shown.decode()


@pytest.mark.timeout(200)
@pytest.mark.parametrize('columns, executions', [
    (80, '1'), *(pytest.param(c, '1234', marks=pytest.mark.slow) for c in (80, 120))])
def test_four_executions_at_a_terminal(tmp_path, columns, executions):
    sample = '--files 40 --deliveries 4 --truncated-files 0 --empty-files 0'.split()
    sample += '--catalog lake --partition-date 2025-11-02'.split()
    for k in executions:
        assert on_a_terminal(tmp_path, columns, 'land-sample', *sample, '--delivery', k)[0] == 0
        code, shown = on_a_terminal(tmp_path, columns, 'consolidate', *WORDS, '--execution-sequence', k)
        assert code == 0, shown
        for word in ('Traceback', '_jsc', 'METRICS', '{"'): assert word not in shown, shown
        assert '8/8' in shown and 'tasks' in shown, shown


def test_a_spark_that_is_starting_has_no_tasks(monkeypatch):
    monkeypatch.setattr(SparkContext, '_active_spark_context', SparkContext.__new__(SparkContext))
    assert terminal.tasks_done() == (0, 0)


def test_the_bar_outlives_a_spark_that_cannot_be_asked(monkeypatch):
    asked, console = [], Console(file=io.StringIO(), force_terminal=True, width=80)
    def tasks():
        asked.append(time.monotonic())
        if len(asked) == 1: raise ConnectionRefusedError
        return 3, 7
    monkeypatch.setattr(terminal, 'tasks_done', tasks)
    until = time.monotonic() + 20
    with terminal.shown(console):
        while '3/7' not in console.file.getvalue() and time.monotonic() < until: time.sleep(0.05)
    assert '3/7' in console.file.getvalue() and len(asked) > 1


# A session: the commands of README and OPERATIONS, as somebody types them at a terminal of 80 columns

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r'^```sh\n(.*?)^```$', re.M | re.S)
PIECE = re.compile(r'\x1b\[([0-9;?]*)([A-Za-z])|\x1b\][^\x07]*\x07|\x1b[()][A-Z0-9]|([\r\n])|([^\x1b\r\n]+)')


def screen(text):
    "The lines that stand on the terminal in the end, bars that were drawn and erased left out"
    lines, row, column = [''], 0, 0
    for number, kind, move, words in (m.groups() for m in PIECE.finditer(text)):
        if kind == 'A': row = max(0, row - int(number or 1))
        elif kind == 'K': lines[row] = '' if number == '2' else lines[row][:column]
        elif move == '\r': column = 0
        elif move == '\n':
            row += 1
            if row == len(lines): lines.append('')
        elif words:
            lines[row] = lines[row].ljust(column)[:column] + words + lines[row][column + len(words):]
            column += len(words)
    return [line.rstrip() for line in lines if line.strip()]


def typed(page):
    "The commands of a page that need nothing but a lake, each as words"
    text = ''.join(FENCE.findall((ROOT / page).read_text())).replace('\\\n', ' ')
    text = (
        text.replace('$OUT', 'lake/consolidated/chargebacks')
        .replace('$DAY', '2025-11-02')
        .replace('$ID', 'cb-94cdabe7fb7c9ee9'))
    lines = [
        line.partition(' # ')[0]
        for line in text.splitlines()
        if line.startswith('chargeback-consolidation') and '$(' not in line and '$N' not in line
    ]
    return [shlex.split(line)[1:] for line in dict.fromkeys(line.strip() for line in lines)]


class Session:
    "A folder with a lake in it, and a terminal of 80 columns"

    def __init__(self, folder):
        self.folder = folder

    def type(self, *words):
        "Exit code and lines of a command; no traceback, no JSON, no METRICS. `shown` is all that was drawn"
        code, shown = on_a_terminal(self.folder, 80, *words)
        self.shown = shown
        for word in ('Traceback', 'METRICS: ', '{"'): assert word not in shown, shown
        return code, screen(shown)


@pytest.fixture(scope='module')
def session(tmp_path_factory):
    session = Session(tmp_path_factory.mktemp('session'))
    sample = '--catalog lake --files 40 --truncated-files 0 --empty-files 0'.split()
    code, lines = session.type('land-sample', *sample)
    assert code == 0 and 'landed 40 files' in lines[-1] and 'lake/landing/chargebacks/2025/11/02' in lines[-1]
    code, lines = session.type(
        'consolidate', *[w if w != 'lake/out' else 'lake/consolidated/chargebacks' for w in WORDS])
    assert code == 0 and any(line.split()[:2] == ['consolidated', 'now'] for line in lines)
    assert '8/8' in session.shown and 'tasks' in session.shown, session.shown
    return session


def commands():
    "The commands of our pages; a quick run types the first of each kind"
    known = set()
    for words in typed('README.md') + [w for w in typed('OPERATIONS.md') if w not in typed('README.md')]:
        yield pytest.param(words, id=' '.join(words)[:50], marks=pytest.mark.slow if words[0] in known else ())
        known.add(words[0])


@pytest.mark.timeout(300)
@pytest.mark.parametrize('words', commands())
def test_what_the_pages_say_works_at_a_terminal(session, words):
    code, lines = session.type(*words)
    assert code == 0 and ''.join(lines), lines


@pytest.mark.timeout(100)
@pytest.mark.parametrize('columns', [40, *(pytest.param(c, marks=pytest.mark.slow) for c in (60, 80, 100))])
def test_history_at_any_width(session, columns):
    "Every figure of `history --json` is there, whole"
    day = ['--output-path', 'lake/consolidated/chargebacks', '--partition-date', '2025-11-02']
    code, shown = on_a_terminal(session.folder, columns, 'history', *day)
    facts = [json.loads(line) for line in subprocess.run(
        [CLI, 'history', *day, '--json'], cwd=session.folder, capture_output=True, check=True).stdout.splitlines()]
    assert code == 0 and '…' not in shown
    for report in facts:
        for name in ('records_processed', 'rows_after', 'duplicates_removed'): assert f'{report[name]:,}' in shown
        assert report['at'][:16] in shown


@pytest.mark.timeout(200)
def test_rules_are_tried_at_a_terminal(session):
    "Each column is there, no word is cut, and what a run would do is not called published"
    (session.folder / 'r.dqdl').write_text('Rules = [ RowCount < 7, ColumnValues "currency" in ["EUR"] ]')
    words = [w if w != 'lake/out' else 'lake/consolidated/chargebacks' for w in WORDS]
    words = [w for w in words if w not in ('--output-file-count', '3', '--compression-codec', 'zstd')]
    code, lines = session.type('rules', 'try', 'r.dqdl', *words)
    said = ' '.join(' '.join(lines).split())
    assert code == 4 and 'ColumnValues "currency" in ["EUR"]' in said and '…' not in said
    assert 'nothing is published' not in said and 'a run would stop: RowCount < 7' in said
    assert re.search(r'2025/11/02/part-\S+parquet row \d+', said)
    code, lines = session.type('rules', 'try', '--help')
    assert code == 0 and 'WARN_' not in ''.join(lines).upper().replace('-', '_')
    for word in ('--delta-log', '--metrics-namespace', '--output-table', '--allow-empty'):
        assert not any(word in line for line in lines)


@pytest.mark.timeout(200)
def test_three_incidents_at_a_terminal(session):
    """A wrong argument, a missing day, broken files: each says in words what it is, in one line at the end, and
    leaves the day as it was"""
    words = [w if w != 'lake/out' else 'lake/consolidated/chargebacks' for w in WORDS]
    day = ['--output-path', 'lake/consolidated/chargebacks', '--partition-date', '2025-11-02']
    before = session.type('snapshot', *day)
    code, lines = session.type('consolidate', *words, '--output-file-cuont', '3')
    assert (code, lines) == (
        2, ['--output-file-cuont is not an option of consolidate; did you mean', '--output-file-count?'])
    code, lines = session.type('consolidate', *words[:-1], '2025-10-01')
    said = ' '.join(lines)      # wrapped at words
    assert (
        code == 3 and lines[0].startswith('nothing has landed for 2025-10-01: ')
        and 'The nearest that have: 2025/11/02.' in said and said.count('nothing has landed') == 1), lines
    broken = session.folder / 'lake/landing/chargebacks/2025/11/02/part-9-0.parquet'
    broken.write_bytes(b'PAR1 and no more')
    code, lines = session.type('consolidate', *words)
    assert (
        code == 4
        and '2025/11/02/part-9-0.parquet' in ' '.join(lines[-6:])
        and '--max-unreadable-rate' in ' '.join(lines[-6:])), lines
    assert any(line.startswith('set aside 2025/11/02/part-9-0.parquet: unreadable: ') for line in lines)
    broken.unlink()
    assert session.type('snapshot', *day) == before


def test_make_help_fits(tmp_path):
    shown = subprocess.run(['make', 'help'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 'make studio' in shown and 'PORT=8888' in shown
    assert max(map(len, shown.splitlines())) <= 80


class Hasty(threading.Event):
    "An event whose waits are short, so that a second has hundreds of turns of the bar"
    def wait(self, timeout=None): return super().wait(timeout and timeout / 300)


@pytest.mark.parametrize('again', range(8))
def test_no_bar_stays_and_no_stage_is_erased(monkeypatch, again):
    "A run that prints while the bars are drawn by another thread, and Spark has tasks and has none by turns"
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=40)
    turns = itertools.cycle([(0, 0), (3, 7)])
    monkeypatch.setattr(terminal, 'tasks_done', lambda: next(turns))
    monkeypatch.setattr(threading, 'Event', Hasty)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with terminal.shown(console) as observe:
            for i in range(150):
                observe('copy', i, {})
                time.sleep(0.001)
    finally: sys.setswitchinterval(before)
    assert screen(console.file.getvalue()) == [f'copy     {i:>8.2f} s' for i in range(150)]


def test_what_is_said_on_stderr_comes_after_the_bar(capsys):
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with terminal.shown(console):
        print('nothing is published: ' + 'x' * 100, file=sys.stderr)
        assert capsys.readouterr().err == ''
    assert capsys.readouterr().err == 'nothing is published: ' + 'x' * 100 + '\n'


FIGURES = [('1 rollback', '160,069,123', '1,234,567', 'words of some length')] * 2
HEADS = ('#', ' records', ' rows', 'first')


@pytest.mark.parametrize('width', [20, 40, 54, 80, None], ids=lambda w: f'{w} columns' if w else 'a pipe')
def test_a_figure_is_never_cut(width):
    console = Console(file=io.StringIO(), width=width, force_terminal=width is not None, color_system=None)
    terminal.print_grid(console, 'a day of /a/path/that/is/longer/than/the/terminal/is', HEADS, FIGURES * 2)
    shown = console.file.getvalue()
    assert '…' not in shown and '/a/path/that/is/longer/than/the/terminal/is' in shown
    for figure in FIGURES[0]: assert shown.count(figure) == 4
    if width == 80: assert max(map(len, shown.splitlines())) <= 80
