"""Run the tests with other versions of Python and of what mlkit needs, and write down what came out.

    python .ci/versions.py [ROW...] [--parts notebooks tests wheel] [--workers 2]
    python .ci/versions.py --table

A row of `ROWS` is a Python and the versions that pip has to take; of everything else pip takes the newest that fits.
The parts:

- notebooks: nbdev_test, in an environment with all extras
- tests: the folders of tests/ that need no browser, in the same environment
- wheel: the built wheel alone in an empty environment; its training program runs in another folder, and the model that
  it has saved is loaded there

The results are kept in .ci/versions.json, from which `--table` makes the table of the README. The environments are in
.venv-versions, some 8 GB each if torch comes with CUDA. Pythons are looked up as `python3.12` on PATH and with pyenv.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / ".ci" / "versions.json"
ENVIRONMENTS = ROOT / ".venv-versions"
PARTS = ("notebooks", "tests", "wheel")
# without those that need a browser, a kernel or moto
TEST_FOLDERS = ("tests/training", "tests/sagemaker/job", "tests/sagemaker/endpoint", "tests/sagemaker/artifacts")
SHOWN = ("Python", "torch", "numpy", "safetensors", "pandas", "ray", "sagemaker")  # in the table

WHEEL_JOB = """
import json, os, subprocess, sys
from pathlib import Path

import torch

x = torch.randn(200, 10)
rows = torch.cat([(x.sum(1) > 0).float()[:, None], x], 1).tolist()
Path("training").mkdir()
Path("training/data.csv").write_text("".join(",".join(map(str, row)) + "\\n" for row in rows))
arguments = "--input_dim 10 --hidden_dim 50 --output_dim 2 --epochs 10 --learning_rate 0.001".split()
folders = dict(SM_CHANNEL_TRAINING="training", SM_MODEL_DIR="model", SM_OUTPUT_DATA_DIR="output")
command = [sys.executable, "-m", "mlkit.sagemaker_entry", *arguments]
subprocess.run(command, env=os.environ | folders, check=True)

import mlkit
from mlkit.model import load_model

assert "site-packages" in mlkit.__file__, mlkit.__file__
assert load_model("model")(x).shape == (200, 2)
"""


@dataclass
class Row:
    """Versions to test with."""

    name: str
    title: str
    python: str
    pins: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()  # in addition to all extras


ROWS = (
    Row("lowest", "the lowest versions of `setup.py`", "3.11", ("torch==2.6.0", "numpy==1.24.4", "safetensors==0.4.0")),
    Row("studio", "SageMaker Studio", "3.12", ("torch==2.8.0", "numpy==1.26.4")),
    Row("ray", "AWS's Ray Serve image", "3.13", ("torch==2.10.0", "ray==2.57.0"), ("ray[serve]",)),
    Row("newest", "the newest of everything", "3.13"),
)


def find_python(version: str) -> str:
    """Return the program of a Python. Raises SystemExit if there is none."""
    if path := shutil.which(f"python{version}"):
        if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:  # pyenv has programs that only fail
            return path
    for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")):
        return str(path)
    raise SystemExit(f"no Python {version} on PATH or under pyenv")


def create(folder: Path, python: str, pins: tuple[str, ...], packages: list[str]) -> Path:
    """Create an environment with packages, unless it has them, and return its Python."""
    program = folder / "bin" / "python"
    contents = "\n".join([python, *pins, *packages])
    done = folder / "done"
    if done.exists() and done.read_text() == contents:
        return program
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([find_python(python), "-m", "venv", folder], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins))
    pip = [program, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--upgrade", "pip"], check=True)  # the pip of an old Python takes long to choose versions
    subprocess.run([*pip, "-c", constraints, *packages], check=True, cwd=ROOT)
    done.write_text(contents)
    return program


def environment_of(python: Path) -> dict[str, str]:
    """Return the variables of an activated environment, in which Jupyter finds its own kernels only."""
    prefix = python.parent.parent
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables["PATH"] = f"{python.parent}:{os.environ['PATH']}"
    variables["JUPYTER_PATH"] = str(prefix / "share/jupyter")
    return variables


def run_notebooks(python: Path, workers: int) -> dict:
    code = f"import sys; sys.path.insert(0, 'tests'); import run; print('notebooks', *run.run_notebooks({workers}))"
    output = run(python, ["-c", code])
    counts = re.search(r"^notebooks (\d+) (\d+)$", output, re.M)
    if counts is None:
        raise RuntimeError(f"the notebooks did not run to the end:\n{output[-3000:]}")
    return {"passed": int(counts[1]), "failed": int(counts[2])}


def run_tests(python: Path, workers: int) -> dict:
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "-n", str(workers), "--dist", "loadfile"]
    output = run(python, [*arguments, *TEST_FOLDERS])
    last = output.strip().splitlines()[-1]
    counts = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    if "passed" not in counts:
        raise RuntimeError(f"the tests did not run to the end:\n{output[-3000:]}")
    failed = counts.get("failed", 0) + counts.get("error", 0)
    return {"passed": counts["passed"], "failed": failed, "skipped": counts.get("skipped", 0)}


def run(python: Path, arguments: list) -> str:
    """Run a program of an environment in the repository; show what it prints, and return that."""
    command = [python, *arguments]
    variables = environment_of(python)
    process = subprocess.Popen(
        command, cwd=ROOT, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    process.wait()
    return "".join(lines)


def run_wheel(row: Row) -> dict:
    """Install the wheel without extras into an empty environment, and run a job from it."""
    folder = ENVIRONMENTS / f"{row.name}-wheel"
    shutil.rmtree(folder, ignore_errors=True)
    python = create(folder, row.python, row.pins, [str(build_wheel())])
    with tempfile.TemporaryDirectory() as empty:
        process = subprocess.run([python, "-c", WHEEL_JOB], cwd=empty, env=environment_of(python))
    versions = versions_of(python)
    shutil.rmtree(folder)
    return {"passed": int(process.returncode == 0), "failed": int(process.returncode != 0), "versions": versions}


def build_wheel() -> Path:
    """Build the wheel, and return its path."""
    folder = ENVIRONMENTS / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "-w", folder]
    subprocess.run([*pip, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def versions_of(python: Path) -> dict[str, str]:
    """Return the versions of an environment that the table shows."""
    code = (
        "import importlib.metadata as m, json, platform\n"
        "versions = {'Python': platform.python_version()} | {d.name: d.version for d in m.distributions()}\n"
        "print(json.dumps(versions))"
    )
    output = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    versions = json.loads(output)
    return {name: versions[name] for name in SHOWN if name in versions}


def test_row(row: Row, parts: list[str], workers: int) -> None:
    """Run the parts of a row, and write each result into the file as soon as it is there."""
    if {"notebooks", "tests"} & set(parts):
        python = create(ENVIRONMENTS / row.name, row.python, row.pins, ["-e", ".[dev]", *row.packages])
        record(row, versions=versions_of(python))
    if "notebooks" in parts:
        record(row, notebooks=run_notebooks(python, workers))
    if "tests" in parts:
        record(row, tests=run_tests(python, workers))
    if "wheel" in parts:
        record(row, wheel=run_wheel(row))


def record(row: Row, **results: dict) -> None:
    """Write results of a row into the file, with the date."""
    table = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for part, result in results.items():
        table.setdefault(row.name, {})[part] = result | {"date": date.today().isoformat()}
    RESULTS.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def table() -> str:
    """Return the results as a table in Markdown."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = ["| versions | notebooks | tests | wheel alone, a job |", "|---|---|---|---|"]
    for row in ROWS:
        if result := results.get(row.name):
            versions = result.get("versions", {})
            cells = [describe_versions(row, result), *(describe(result.get(part), versions) for part in PARTS)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def describe_versions(row: Row, result: dict) -> str:
    versions = result.get("versions") or result["wheel"]["versions"]
    names = [f"{name} {versions[name]}" for name in SHOWN if name in versions]
    return f"{row.title}: {', '.join(names)}"


def describe(result: dict | None, versions: dict[str, str]) -> str:
    """Return the text of a cell. versions: of the row, which a wheel's own environment may not have."""
    if result is None:
        return "not run"
    counts = [f"{result[kind]} {kind}" for kind in ("passed", "failed", "skipped") if result.get(kind)]
    others = [f"{name} {v}" for name, v in result.get("versions", {}).items() if versions.get(name, v) != v]
    return f"{', '.join([*counts, *others])} ({result['date']})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(row.name for row in ROWS)}; default: all")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes; default: one for each core")
    parser.add_argument("--table", action="store_true", help="print the table of earlier results, and run nothing")
    args = parser.parse_args()
    rows = {row.name: row for row in ROWS}
    if unknown := set(args.rows) - set(rows):
        parser.error(f"unknown rows: {', '.join(sorted(unknown))}")
    for name in [] if args.table else args.rows or rows:
        test_row(rows[name], args.parts, args.workers)
    print(table())


if __name__ == "__main__":
    main()
