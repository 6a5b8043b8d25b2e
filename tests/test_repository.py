"""What must hold of the repository as a whole: notebooks, package, README and layers agree"""

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
    """A tool of this environment, as its users start it; its output is shown when it fails"""
    done = subprocess.run(
        args,
        cwd=cwd,
        text=True,
        capture_output=True,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def exported_modules():
    """Each exported module with its notebook, in the order of the notebooks"""
    for f in sorted((root / "nbs").rglob("*.ipynb")):
        source = "\n".join("".join(c["source"]) for c in json.loads(f.read_text(encoding="utf-8"))["cells"])
        if m := re.search(r"^#\| default_exp ([\w.]+)", source, re.M):
            yield m[1], f


@pytest.fixture
def copy(tmp_path):
    """The tracked files, and those git does not ignore, in a folder of their own"""
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=root).split("\0")
    for name in names:
        if name and (root / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tmp_path / name)
    return tmp_path


def test_clean_and_export_change_nothing(copy):
    before = {f.relative_to(copy) for d in ("nbs", "mlkit") for f in (copy / d).rglob("*") if f.is_file()}
    run("nbdev_clean", cwd=copy)
    run("nbdev_export", cwd=copy)
    after = {
        f.relative_to(copy)
        for d in ("nbs", "mlkit")
        for f in (copy / d).rglob("*")
        if f.is_file() and "__pycache__" not in f.parts
    }
    _, changed, _ = filecmp.cmpfiles(root, copy, sorted(map(str, before & after)), shallow=False)
    assert not changed, f"run nbdev_clean and nbdev_export, and commit: {changed}"
    assert before == after, f"run nbdev_export, and commit: {before ^ after}"


def test_readme_is_the_rendering_of_the_index_notebook(copy):
    run(sys.executable, ".ci/docs.py", "readme", cwd=copy)
    assert (copy / "README.md").read_text() == (root / "README.md").read_text(), "run make readme, and commit README.md"


def test_layers():
    assert "Contracts: 4 kept, 0 broken" in run("lint-imports", "--no-cache", cwd=root)


def test_every_module_is_exported_from_the_folder_of_its_layer():
    folders = {"0_model": "model", "1_training": "training", "2_sagemaker": "sagemaker", "3_notebook": "notebook"}
    for module, notebook in exported_modules():
        layer = notebook.relative_to(root / "nbs").parts[0]
        assert module.split(".")[0] == folders.get(layer, module), (module, notebook)


def test_every_module_has_a_notebook():
    modules = {f"mlkit/{m.replace('.', '/')}.py" for m, _ in exported_modules()}
    for f in (root / "mlkit").rglob("*.py"):
        name = f.relative_to(root).as_posix()
        assert (
            name in modules
            or name == "mlkit/_modidx.py"
            or (f.name == "__init__.py" and len(f.read_text().splitlines()) <= 1)
        ), name


def test_model_and_training_layers_do_not_speak_of_sagemaker():
    for f in [*(root / "mlkit" / "model").rglob("*.py"), *(root / "mlkit" / "training").rglob("*.py")]:
        assert not re.search(r"\bSM_|/opt/ml|\bAWS\b", f.read_text(encoding="utf-8")), f
