"""The wheel, in an environment that has nothing else"""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

root = Path(__file__).parent.parent


def run(*args, **kwargs):
    done = subprocess.run(list(map(str, args)), text=True, capture_output=True, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of a new environment with the built wheel and only what it requires, under this project's pins"""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, root)
    venv.create(folder / "env", with_pip=True)
    run(
        folder / "env" / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "-c",
        root / "constraints.txt",
        next(folder.glob("*.whl")),
    )
    return folder / "env" / "bin" / "python"


def environ():
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV") and not k.startswith("SM_")}


def test_the_entry_point_needs_only_the_core_requirements(python, tmp_path):
    assert "--learning_rate" in run(python, "-m", "mlkit.sagemaker_entry", "--help", cwd=tmp_path, env=environ())
    installed = run(python, "-m", "pip", "list", "--format=freeze")
    assert "torch==" in installed
    for other in ("fastcore", "nbdev", "boto3", "matplotlib", "ipywidgets"):
        assert f"\n{other}==" not in f"\n{installed}"


def test_the_wheel_trains_and_saves(python, tmp_path):
    (tmp_path / "data" / "training").mkdir(parents=True)
    (tmp_path / "data" / "training" / "rows.csv").write_text(
        "".join(f"{i % 2},{i % 2 * 2 - 1},{i % 3}\n" for i in range(40))
    )
    out = run(python, "-m", "mlkit.sagemaker_entry", "--epochs", "2", cwd=tmp_path, env=environ())
    assert "[metrics] epoch=2 train_loss=" in out
    assert sorted(f.name for f in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors"]


def test_the_command_says_which_extra_the_demo_needs(python, tmp_path):
    done = subprocess.run(
        [python.parent / "mlkit", "demo"], text=True, capture_output=True, cwd=tmp_path, env=environ()
    )
    assert done.returncode == 1 and "pip install 'mlkit[demo]'" in done.stderr, done.stderr
