"""Every command of OPERATIONS.md is run, in the order of the page, in the shell that the page sets up.

Ours run for real, on a small lake. There is no AWS account here, so `aws` and `terraform` are stand-ins that check
every word (`stand_ins`), and Glue is the exported script in a process.
"""
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from chargeback_consolidation.sample.landing import land_sample

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'OPERATIONS.md').read_text()
FENCE = re.compile(r'^( *)```(\w*)\n(.*?)^ *```$', re.M | re.S)
BLOCKS = [re.sub(f'^{indent}', '', text, flags=re.M) for indent, kind, text in FENCE.findall(PAGE) if kind == 'sh']
SET_UP, *BLOCKS = BLOCKS
WORDS = ('aws', 'tf', 'terraform', 'chargeback-consolidation', 'make', 'mkdir', 'grep')
INLINE = [
    c for c in dict.fromkeys(re.findall(r'`([^`\n]+)`', FENCE.sub('', PAGE))) if c.split()[0] in WORDS and ' ' in c]
DAY = 'year=2025/month=11/day=02'
LONG = re.compile(r'start-job-run|chargeback-consolidation (consolidate|backfill|investigate)')
QUICK = re.compile(r'.*aws s3 rm|chargeback-consolidation investigate trace')

pytestmark = [pytest.mark.xdist_group('operations'), pytest.mark.timeout(900)]


class Desk:
    "Where an operator sits: a project's folder, a lake in it, a shell"

    def __init__(self, folder):
        self.folder, self.lake, self.runs = folder, folder / 'lake', folder / 'runs.jsonl'
        (folder / 'bin').mkdir(parents=True)
        for name in ('aws', 'terraform', 'make'):
            (folder / 'bin' / name).write_text(
                f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/support/stand_ins.py {name} "$@"\n'
            )
            (folder / 'bin' / name).chmod(0o755)
        (folder / 'glue_export').symlink_to(ROOT / 'glue_export')
        (folder / '.venv').symlink_to(Path(sys.executable).parents[1])
        (folder / 'payments.tfvars').write_text(
            'source_database = "payments"\nsource_table = "chargebacks"\nlanding_bucket = "acme-landing"\n'
            'output_bucket = "acme-lake"\n'
        )
        (folder / 'payments.dqdl').write_text('Rules = [ IsComplete "merchant_id" ]')
        land_sample(
            str(self.lake), files=12, records_per_file=20, payload_bytes=30, truncated_files=0.0, empty_files=0.0,
            null_keys=0.008, workers=1)
        path = next(self.lake.rglob('part-0-0.parquet'))
        self.key = pq.ParquetFile(path).read()['chargeback_id'][0].as_py()

    def shell(self, text):
        "What a command of the page does, after the page's own set-up"
        environment = dict(
            os.environ, PATH=f"{self.folder / 'bin'}:{os.environ['PATH']}", REAL_PATH=os.environ['PATH'],
            RUNS=str(self.runs), COLUMNS='80')
        return subprocess.run(
            ['bash', '-euo', 'pipefail', '-c', SET_UP.replace('cb-94cdabe7fb7c9ee9', self.key) + text], cwd=self.folder,
            env=environment, capture_output=True, text=True, timeout=300)

    def type(self, text):
        "As `shell`; nothing may go wrong, and nobody sees a traceback"
        done = self.shell(text)
        said = f'{text}\n{done.stdout}{done.stderr}'
        assert done.returncode == 0 and 'Traceback' not in said, said
        return done.stdout

    def ended(self):
        "The job runs that were started: (arguments, exit code, stdout)"
        return [json.loads(line)[:3] for line in self.runs.read_text().splitlines()] if self.runs.exists() else []

    def go_back(self):
        "Let ledger and quarantine lie where earlier versions had them"
        for name in ('_ledger', '_quarantine'):
            (self.lake / 'consolidated/_chargebacks' / name).rename(self.lake / 'consolidated/chargebacks' / name)


@pytest.fixture(scope='module')
def desk(tmp_path_factory):
    "The desk of an operator whose day has been consolidated once"
    desk = Desk(tmp_path_factory.mktemp('desk') / 'project')
    desk.type("""aws glue start-job-run --job-name $JOB --arguments '{"--PARTITION_DATE":"2025-11-02"}'""")
    assert [code for _, code, _ in desk.ended()] == [0]
    return desk


def test_the_page_has_what_is_to_be_run():
    assert 'ID=cb-94cdabe7fb7c9ee9' in SET_UP and len(BLOCKS) >= 15 and len(INLINE) >= 25
    for text in BLOCKS + INLINE: assert '...' not in text, text


def commands(texts):
    "Parameters of them; a quick run takes the first of a kind, and of those that start a job or an investigation two"
    known = set()
    for number, text in enumerate(texts):
        kind = tuple(text.split()[:3])
        quick = QUICK.match(text) or not LONG.search(text) and kind not in known
        known.add(kind)
        name = str(number) if '\n' in text else text
        yield pytest.param(text, id=name, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize('block', commands(BLOCKS))
def test_each_block_runs_as_it_stands(desk, block):
    before = len(desk.ended())
    if 'aws s3 mv' in block:
        desk.go_back()
        refused = desk.shell('chargeback-consolidation history --output-path $OUT --partition-date $DAY')
        assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    desk.type(block)
    for arguments, code, said in desk.ended()[before:]:
        assert code == (0 if arguments else 3), (
            arguments, code, said)  # without arguments: yesterday, for which nothing has landed
        assert 'METRICS: ' in said
    assert desk.lake.joinpath('consolidated/_chargebacks/_ledger', DAY).exists() and {
        p.name for p in desk.lake.joinpath('consolidated/chargebacks').iterdir()} == {'year=2025'}


@pytest.mark.parametrize('command', commands(INLINE))
def test_each_command_in_a_sentence_runs_as_it_stands(desk, command):
    if any(command in block for block in BLOCKS): pytest.skip('it is in a block as well')
    if command.startswith('mkdir'):
        desk.go_back()
        shutil.rmtree(desk.lake / 'consolidated/_chargebacks')
    desk.type(command)


def test_after_all_that_the_day_is_right_and_the_masked_reports_name_nobody(desk):
    desk.type('chargeback-consolidation investigate reconcile --output-path $OUT --partition-date $DAY --fail-on wrong')
    assert (desk.folder / 'runs/trace').is_dir()
    assert (
        desk.type(next(line for line in '\n'.join(BLOCKS).splitlines() if line.startswith('grep')))
        == 'no report names it\n')


@pytest.mark.parametrize(
    ('command', 'says'),
    [
        ('aws glue start-job-run --jobname x', '--jobname'), ('aws glue start-jobrun --job-name x', 'start-jobrun'),
        ('aws glue start-job-run', 'JobName'), ("aws glue get-job --job-name x --query 'a['", ''),
        ('aws s3 rm lake', '--recursive'), ('aws logs tail x --sinse 1h', '--sinse'),
        ('tf output -raw output_pat', 'output_pat'), ('tf apply -var workers=4', 'workers'),
        ('tf apply -var-file=none.tfvars', 'none.tfvars'), ('make packag', 'packag'),
        ('chargeback-consolidation history --output-pth $OUT', '--output-path')])
def test_a_command_that_is_wrong_would_be_seen(desk, command, says):
    done = desk.shell(command)
    assert done.returncode and says in done.stderr, done


def test_every_alarm_and_every_exit_code_has_its_command():
    alarms = set(
        re.findall(r'alarm_name += "\$\{var.name\}-([a-z-]+)"', (ROOT / 'glue_export/terraform/alerts.tf').read_text()))
    alarms |= set(re.findall(
        r'^    ([a-z]+-?[a-z-]*) = \{\n      metric', (ROOT / 'glue_export/terraform/alerts.tf').read_text(), re.M))
    rows = {row.split('|')[1].strip(' `'): row for row in PAGE.splitlines() if row.startswith('| `')}
    assert len(alarms) >= 7 and alarms <= set(rows), alarms - set(rows)
    codes = {
        row.split('|')[2].strip()
        for row in PAGE.splitlines()
        if re.match(r'^\| [A-Z, ]+ \| \d', row)
        and re.search(r'\| [^|]*`(aws|tf|chargeback-consolidation) [^|]*\|$', row)}
    assert codes == {'0', '1', '2', '3', '4', '5', '6', '143'}


def test_links_within_the_page_and_to_files_lead_somewhere():
    heads = {re.sub(r'[^\w -]', '', head.lower()).replace(' ', '-') for head in re.findall(r'^#+ (.+)$', PAGE, re.M)}
    for target in re.findall(r'\]\(([^)]+)\)', FENCE.sub('', PAGE)):
        path, _, place = target.partition('#')
        if path: assert (ROOT / path).exists(), target
        else: assert place in heads, target
    assert '](OPERATIONS.md)' in (ROOT / 'README.md').read_text()[:2500]


def test_words_of_the_page_are_shell(tmp_path):
    for text in [SET_UP, *BLOCKS, *INLINE]:
        done = subprocess.run(['bash', '-n', '-c', text], capture_output=True, text=True)
        assert done.returncode == 0, (text, done.stderr)
    assert all(shlex.split(command) for command in INLINE)
