"A bad argument costs one line on stderr and exit code 2; nothing is touched, and Spark does not even start."
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from days import Lake, chargebacks, tree

from chargeback_consolidation import entry
from chargeback_consolidation.commands.cli import carry_out
from chargeback_consolidation.settings import ARGUMENTS, REQUIRED

SCRIPT = Path(__file__).parents[2] / 'glue_export/consolidate_chargebacks.py'

BAD = {  # for each kind of argument: values that are not of it, and values that are too far out
    'integer': ['ten', '1.5', '1e3', '0x10', '1_0', '²', '0', '-1', '1000000'],
    'number': ['half', '50%', '0,5', 'nan', 'inf', '-0.1', '1.1', '1e9'],
    'flag': ['yes', '1', 'tru', 'falsee'],
    'choice': ['snapy', 'brotli', 'snappy,zstd'],
    'date': [
        '2025-02-30', '2025-13-01', '2025-11-2', '02/11/2025', '20251102', 'yesterday', '2025-11-02T00:00',
        '²025-11-02'],
    'time': [
        '2025-02-30T05:00:00Z', 'noon', '1762052645', '2025-11-03 25:00', '1970-01-01T00:00:00+05:00',
        '9998-12-31T23:00:00-05:00'],
    'name': ['a/b', '..', '.', 'a\nb', 'a\\b'],
    'path': ['ftp://host/x', 's3://', 's3://b ucket/x', 'a\nb', 'file://host/x'],
    'text': ['a\nb'],
    'rules': ['Rules = [ \a ]', 'a\x00b'],
    'totals': ['amount', 'amount by', 'by currency', 'a by b,', 'a by b, a by b', 'a\tby b'],
    'columns': ['a,', ',', 'a,,b', 'a,b,a', 'a\tb', ','.join(f'c{i}' for i in range(17))],
    'column': ['a,b', 'a\tb'],
}


@pytest.fixture
def lake(tmp_path):
    lake = Lake(tmp_path)
    lake.land('a.parquet', chargebacks(['a', 'b']))
    return lake


@pytest.fixture
def refused(lake, capsys):
    "Assert that a command line is refused with one line, which is returned"
    def check(words):
        before = tree(lake.root)
        code = entry.main(words, session=lambda: pytest.fail('Spark was started'))
        out, err = capsys.readouterr()
        assert (code, out) == (2, '') and re.fullmatch(r'[^\n]+\n', err), (code, out, err)
        assert tree(lake.root) == before
        return err
    return check


def without(words, name):
    at = words.index(f'--{name}') if f'--{name}' in words else len(words)
    return words[:at] + words[at + 2:]


NAMES = [a.name for a in ARGUMENTS]


@pytest.mark.parametrize('name', [a.name for a in ARGUMENTS if a.default == REQUIRED])
def test_missing(lake, refused, name):
    assert refused(lake.words(**{name: None})).startswith(f'--{name} is required: ')


@pytest.mark.parametrize('words', [['{}', ''], ['{}', '  '], ['{}=']], ids=['nothing', 'blanks', 'after ='])
@pytest.mark.parametrize('name', NAMES)
def test_empty(lake, refused, name, words):
    assert refused(without(lake.words(), name) + [w.format(f'--{name}') for w in words]).startswith(
        f'--{name} is empty: ')


@pytest.mark.parametrize('name', [a.name for a in ARGUMENTS if a.kind != 'flag'])
def test_no_value(lake, refused, name):
    others = without(lake.words(), name)
    assert refused([*others, f'--{name}']).startswith(f'--{name} has no value: ')
    assert refused([f'--{name}', *others]).startswith(f'--{name} has no value: ')


@pytest.mark.parametrize(('name', 'value'), [
    (a.name, v) for a in ARGUMENTS for v in BAD[a.kind] if (a.kind, v) != ('integer', '0') or a.limits[0] > 0])
def test_wrong_type_or_out_of_range(lake, refused, name, value):
    assert refused([*without(lake.words(), name), f'--{name}={value}']).startswith(f'--{name} ')


@pytest.mark.parametrize('name', NAMES)
def test_misspelt(lake, refused, name):
    for wrong in (name[:-1], name.lower(), name.replace('_', '-'), name.lower().replace('_', '-'), name[0] + name[2:]):
        if wrong != name:
            assert (
                refused([*without(lake.words(), name), f'--{wrong}', '1'])
                == f'--{wrong} is not an argument; did you mean --{name}?\n')


@pytest.mark.parametrize('name', NAMES)
def test_twice(lake, refused, name):
    given = {**dict(zip(lake.words()[::2], lake.words()[1::2], strict=True))}.get(f'--{name}', 'true')
    assert (
        refused([*without(lake.words(), name), f'--{name}', given, f'--{name}={given}'])
        == f'--{name} is given twice: give it once\n')


@pytest.mark.parametrize('words', [
    'investigate trace --output-path x --partition-date 2025-11-02 --chargeback-id --mask',
    'history --partition-date 2025-11-02 --output-path --json', 'land-sample --catalog --files 3',
    'rules try FILE --output-path --partition-date 2025-11-02', 'consolidate --output-path --dry-run'])
def test_the_name_of_an_option_is_no_value_of_another(words, capsys):
    "As where a variable of the shell is empty"
    assert carry_out(words.split()) == 2
    name = re.search(r'(--[a-z-]+) --', words)[1]
    err = capsys.readouterr().err
    assert err.startswith(f'{name} has no value: ') and err.count('\n') == 1


def test_no_name_is_a_prefix_of_another():
    assert not [(a, b) for a in NAMES for b in NAMES if a != b and b.startswith(a)]


@pytest.mark.parametrize(
    ('word', 'says'),
    [
        ('stray', "'stray' has no name"), ('--', "'--' has no name"), ('-x', "'-x' has no name"),
        ('--NONSENSE', '--NONSENSE is not an argument; --help')])
def test_stray_words(lake, refused, word, says):
    assert says in refused([*lake.words(), word])


@pytest.mark.parametrize(('given', 'says'), [
    (dict(EXECUTION_SEQUENCE=5), '--EXECUTION_SEQUENCE 5 is more than --TOTAL_EXECUTIONS 4'),
    (dict(OUTPUT_DATABASE='x'), '--OUTPUT_DATABASE and --OUTPUT_TABLE go together'),
    (dict(OUTPUT_TABLE='x'), '--OUTPUT_DATABASE and --OUTPUT_TABLE go together'),
    (dict(OUTPUT_DATABASE='x', OUTPUT_TABLE='x'), '--OUTPUT_TABLE needs --CATALOG glue'),
    (dict(KMS_KEY_ID='alias/key'), '--KMS_KEY_ID encrypts what is written to S3, and --OUTPUT_PATH is a local folder'),
    (dict(CATALOG='s3://bucket/lake'), "--CATALOG must be 'glue' or a local folder"),
    (dict(PARTITION_DATE=None, EXECUTION_TIME='0001-01-01T00:00:00Z'), '--EXECUTION_TIME'),
    (dict(EXECUTION_TIME='9999-12-31T23:00:00-05:00'), '--EXECUTION_TIME'),
    (dict(EXECUTION_TIME='0001-01-01T00:00:00+05:00'), '--EXECUTION_TIME'),
], ids=str)
def test_values_that_do_not_fit_together(lake, refused, given, says):
    assert says in refused(lake.words(**given))


@pytest.mark.parametrize(
    ('given', 'says'),
    [
        (dict(CATALOG='lak'), r'--CATALOG: the folder .*/lak does not exist'),
        (
            dict(SOURCE_DATABASE='landed'),
            r'--SOURCE_DATABASE: the folder .*/lake/landed does not exist; there is: landing'),
        (
            dict(SOURCE_TABLE='chargeback'),
            r'--SOURCE_TABLE: the folder .*/chargeback does not exist; there is: chargebacks'),
        (dict(CATALOG='file'), r'--CATALOG: the folder .*/file is a file, not a folder'),
        (dict(SOURCE_TABLE='file'), r'--SOURCE_TABLE: the folder .*/lake/landing/file is a file, not a folder'),
        (dict(OUTPUT_PATH='file'), r'--OUTPUT_PATH .*: .*/file is a file, not a folder'),
        (dict(OUTPUT_PATH='file/under/it'), r'--OUTPUT_PATH .*: .*/file is a file, not a folder'),
        (dict(OUTPUT_PATH='lake/landing/chargebacks'), 'lies inside the landing folder'),
        (dict(OUTPUT_PATH='lake/landing/chargebacks/out'), 'lies inside the landing folder'),
        (dict(OUTPUT_PATH='lake/landing/chargebacks/2025/11/02/out'), 'lies inside the landing folder'),
        (dict(OUTPUT_PATH='lake/../link/out'), 'lies inside the landing folder'),
        (dict(OUTPUT_PATH='lake'), 'holds the landing folder .*/lake/landing/chargebacks: choose one beside it'),
        (dict(OUTPUT_PATH='lake/landing'), 'holds the landing folder'),
        (dict(OUTPUT_PATH='above/landing'), 'holds the landing folder'),
        (dict(OUTPUT_PATH='link', ENABLE_PARTITION_FILTER='false'), 'lies inside the landing folder')],
    ids=lambda given: str(given)[:60])
def test_folders_that_are_not_what_they_should_be(lake, refused, monkeypatch, given, says):
    for file in ('file', 'lake/landing/file'):
        (lake.root / file).write_text('I am a file')
    (lake.root / 'link').symlink_to(lake.table)
    (lake.root / 'above').symlink_to(lake.root / 'lake')
    monkeypatch.chdir(lake.root)
    assert re.search(says, refused(lake.words(**given)))


# In processes of their own


def run_script(words, cwd, **options):
    "The exported script, where Spark cannot start"
    env = dict(os.environ, JAVA_HOME='/nonexistent', PYTHONDONTWRITEBYTECODE='1')
    return subprocess.run(
        [sys.executable, SCRIPT, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize(
    'given',
    [
        {}, dict(PARTITION_DATE='2025-02-30'), dict(OUTPUT_FILE_COUNT='0'),
        dict(OUTPUT_PATH='lake/landing/chargebacks/out'), dict(OUTPUT_PATH='lake/landing'), dict(COMPRESSION_CODEC='')],
    ids=str)
def test_a_process_says_one_line(lake, given):
    before = tree(lake.root)
    done = run_script(lake.words(**given) if given else [], lake.root)
    assert done.returncode == 2 and done.stdout == '' and re.fullmatch(r'--[^\n]+\n', done.stderr), done
    assert tree(lake.root) == before


def run_as_nobody(words, folder):
    "(exit code, stdout, stderr) of a run in a forked process without root's privileges: root may write everywhere"
    files = [open(folder / name, 'w+') for name in ('stdout', 'stderr')]
    child = os.fork()
    if not child:
        code = 99
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            sys.stdout, sys.stderr = files
            code = entry.main(words, session=lambda: pytest.fail('Spark was started'))
        finally:
            for file in files:
                file.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, *(file.seek(0) or file.read() for file in files)


@pytest.fixture
def open_lake():
    "A lake that everybody can get at"
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    lake = Lake(folder)
    lake.land('a.parquet', chargebacks(['a', 'b']))
    yield lake
    for closed in folder.rglob('*'):
        if closed.is_dir():
            closed.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize(('closed', 'mode', 'says'), [
    ('out', 0o555, r'--OUTPUT_PATH .*/out: no permission to write in .*/out\n'),
    ('_out', 0o555, r'--LEDGER_PATH .*/_out: no permission to write in .*/_out\n'),
    ('lake/landing/chargebacks', 0o000, r'--SOURCE_TABLE: no permission to read the folder .*/chargebacks\n'),
    ('lake/landing/chargebacks/2025/11/02', 0o000, r'[^\n]*ermission[^\n]*/2025/11/02[^\n]*\n'),
])
def test_no_permission(open_lake, tmp_path, closed, mode, says):
    lake, folder = open_lake, open_lake.root / closed
    folder.mkdir(parents=True, exist_ok=True)
    for place in (lake.output, lake.ledger):
        place.mkdir(exist_ok=True)
        place.chmod(0o777)
    folder.chmod(mode)
    before = tree(lake.root)
    code, out, err = run_as_nobody(lake.words(), tmp_path)
    assert (code, out) == (2, '') and re.fullmatch(says, err), (code, out, err)
    assert tree(lake.root) == before


# Good ones


def test_help_names_every_argument(capsys):
    assert entry.main(['--help']) == 0
    out, err = capsys.readouterr()
    assert err == '' and all(re.search(rf'^  --{name} ', out, re.M) for name in NAMES)
