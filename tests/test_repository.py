"What must hold of the repository as a whole: notebooks, package, README and layers agree"
import configparser
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).parent.parent


def run(*args, cwd):
    "A tool of this environment, as its users start it; its output is shown when it fails"
    done = subprocess.run(args, cwd=cwd, text=True, capture_output=True, env=os.environ | {'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def exported_modules():
    "Each module and its notebook, in the notebooks' order"
    for f in sorted((root/'nbs').glob('*.ipynb')):
        source = '\n'.join(''.join(c['source']) for c in json.loads(f.read_text(encoding='utf-8'))['cells'])
        if m := re.search(r'^#\| default_exp (\w+)', source, re.M): yield m[1], f


@pytest.fixture
def copy(tmp_path):
    "The tracked files, and those git does not ignore, in a folder of their own"
    names = run('git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard', cwd=root).split('\0')
    for name in names:
        if name and (root/name).is_file():
            (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root/name, tmp_path/name)
    return tmp_path


def test_clean_and_export_change_nothing(copy):
    before = {f.relative_to(copy) for d in ('nbs', 'mlkit') for f in (copy/d).rglob('*') if f.is_file()}
    run('nbdev_clean', cwd=copy)
    run('nbdev_export', cwd=copy)
    after = {f.relative_to(copy) for d in ('nbs', 'mlkit') for f in (copy/d).rglob('*') if f.is_file() and '__pycache__' not in f.parts}
    _, changed, _ = filecmp.cmpfiles(root, copy, sorted(map(str, before & after)), shallow=False)
    assert not changed, f'run nbdev_clean and nbdev_export, and commit: {changed}'
    assert before == after, f'run nbdev_export, and commit: {before ^ after}'


def test_readme_is_the_rendering_of_the_index_notebook(copy):
    run(sys.executable, '.ci/docs.py', 'readme', cwd=copy)
    assert (copy/'README.md').read_text() == (root/'README.md').read_text(), 'run make readme, and commit README.md'


def test_layers():
    assert 'Contracts: 3 kept, 0 broken' in run('lint-imports', '--no-cache', cwd=root)


def test_layers_are_in_the_order_of_the_notebooks_numbers():
    cfg = configparser.ConfigParser()
    cfg.read(root/'.importlinter')
    assert cfg['importlinter:contract:layers']['layers'].split() == [m for m, _ in exported_modules()][::-1]


def test_model_and_training_layers_do_not_speak_of_sagemaker():
    for module, notebook in exported_modules():
        if notebook.name < '20':
            text = (root/'mlkit'/f'{module}.py').read_text(encoding='utf-8')
            assert not re.search(r'\bSM_|/opt/ml|\bAWS\b', text), module


def test_every_module_can_be_read_at_a_sitting():
    for module, _ in exported_modules():
        assert len((root/'mlkit'/f'{module}.py').read_text(encoding='utf-8').splitlines()) <= 400, module
