"Every stage notebook runs from top to bottom, with its checks. They share a process, and so one JVM."
from pathlib import Path

import pytest
from nbdev.config import get_config
from nbdev.test import test_nb as run_notebook

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(
    o
    for o in (ROOT / 'nbs').rglob('*.ipynb')
    if 'investigations' not in o.parts and '.ipynb_checkpoints' not in o.parts)


LONG = 'guide/interactive', 'answers/request', 'studio/workbench', 'studio/show'    # a JVM or kernels of their own


def parameters():
    for path in NOTEBOOKS:
        name = path.relative_to(ROOT / 'nbs').with_suffix('').as_posix()
        yield pytest.param(path, id=name, marks=pytest.mark.slow if name in LONG else ())


@pytest.mark.xdist_group('notebooks')
@pytest.mark.parametrize('path', parameters())
def test_notebook(path, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv('IN_TEST', '1')  # as nbdev sets it, but only for now
    monkeypatch.syspath_prepend(ROOT)
    passed, _ = run_notebook(path, skip_flags=get_config().tst_flags.split())
    assert passed, capfd.readouterr().err
