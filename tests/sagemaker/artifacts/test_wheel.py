"""The wheel, in an environment that has nothing else."""

import os
import subprocess
import sys
import venv
from zipfile import ZipFile

import pytest
from helpers import REPOSITORY

import mlkit
from mlkit.distribution import install_command
from mlkit.sagemaker.artifacts.wheel import build_wheel

root = REPOSITORY
package = root / "mlkit"
modules = {path.relative_to(root).as_posix() for path in package.rglob("*.py")}


def run(*command, **options):
    """Run a command and return its output. Fails with that output if the command does."""
    process = subprocess.run(list(map(str, command)), text=True, capture_output=True, **options)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def environ():
    """Return the variables of this process, without variables that would lead to its packages or to a job."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV") and not k.startswith("SM_")}


@pytest.fixture(scope="module")
def built_wheel(tmp_path_factory):
    """The wheel that a release has, built from the repository through an sdist: an old build/ adds nothing to it."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--outdir", folder, root)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(built_wheel, tmp_path_factory):
    """The Python of a new environment with the built wheel and only what it requires, under this project's pins."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "-c", root / "constraints.txt", built_wheel)
    return python


def test_the_built_wheel_holds_every_module_of_every_package(built_wheel):
    names = set(ZipFile(built_wheel).namelist())
    assert {name for name in names if name.endswith(".py")} == modules
    assert built_wheel.name == f"mlkit_sagemaker-{mlkit.__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def sent_wheel(tmp_path_factory):
    """The wheel that goes with a job and into an image, built from the running package."""
    return build_wheel(tmp_path_factory.mktemp("sent"))


def test_the_wheel_of_a_job_holds_every_module_of_every_package(sent_wheel):
    with ZipFile(sent_wheel) as archive:
        assert {name for name in archive.namelist() if name.endswith(".py")} == modules - {"mlkit/_modidx.py"}
        for name in modules - {"mlkit/_modidx.py"}:
            assert archive.read(name) == (root / name).read_bytes(), name


@pytest.mark.parametrize("unpack", [False, True], ids=["on the path as a file", "unpacked"])
def test_the_wheel_of_a_job_runs_without_the_repository(sent_wheel, tmp_path, unpack):
    """A job has the wheel itself on PYTHONPATH; pip unpacks it into an image."""
    path = sent_wheel
    if unpack:
        path = tmp_path / "unpacked"
        ZipFile(sent_wheel).extractall(path)
    env = environ() | {"PYTHONPATH": str(path)}
    (tmp_path / "empty").mkdir()
    output = run(sys.executable, "-m", "mlkit.sagemaker_entry", "--help", cwd=tmp_path / "empty", env=env)
    assert "--learning_rate" in output
    file = run(sys.executable, "-c", "import mlkit; print(mlkit.__file__)", cwd=tmp_path / "empty", env=env)
    assert file.strip() == str(path / "mlkit" / "__init__.py")


def test_the_entry_point_needs_only_the_core_requirements(python, tmp_path):
    assert "--learning_rate" in run(python, "-m", "mlkit.sagemaker_entry", "--help", cwd=tmp_path, env=environ())
    installed = run(python, "-m", "pip", "list", "--format=freeze")
    assert "torch==" in installed
    for other in ("fastcore", "nbdev", "boto3", "matplotlib", "ipywidgets"):
        assert f"\n{other}==" not in f"\n{installed}"


def test_the_wheel_trains_and_saves(python, tmp_path):
    (tmp_path / "data" / "training").mkdir(parents=True)
    rows = "".join(f"{i % 2},{i % 2 * 2 - 1},{i % 3}\n" for i in range(40))
    (tmp_path / "data" / "training" / "rows.csv").write_text(rows)
    output = run(python, "-m", "mlkit.sagemaker_entry", "--epochs", "2", cwd=tmp_path, env=environ())
    assert "[metrics] epoch=2 train_loss=" in output
    assert sorted(f.name for f in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors", "rows.json"]


def test_a_check_needs_only_the_core_requirements(python, tmp_path):
    """The clean process finds the installed mlkit; a note says that comparing requirements needs another package."""
    (tmp_path / "train.py").write_text("import no_such_package\n")
    (tmp_path / "requirements.txt").write_text("numpy\n")
    program = "from mlkit.sagemaker.artifacts.check_job import check; print(check('train.py'))"
    output = run(python, "-c", program, cwd=tmp_path, env=environ())
    assert "train.py:1: there is no module 'no_such_package'" in output
    assert install_command("check") in output


def test_the_command_says_which_extra_the_demo_needs(python, tmp_path):
    command = [python.parent / "mlkit", "demo"]
    process = subprocess.run(command, text=True, capture_output=True, cwd=tmp_path, env=environ())
    assert process.returncode == 1
    assert install_command("demo") in process.stderr, process.stderr
