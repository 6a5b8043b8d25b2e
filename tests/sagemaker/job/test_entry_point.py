"""Programs that end in every way, each in a process, and what SageMaker sees of them"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from textwrap import dedent, indent

import pytest

HEAD = """
import os, sys, time, torch
from dataclasses import dataclass
from mlkit.sagemaker_entry import Container, entry_point
from mlkit.training.distributed import join_processes, rank, world_size

@dataclass
class Config:
    epochs: int = 10
    processes: int = 1

@entry_point
def main(config: Config, container: Container):
"""


@dataclass
class Result:
    code: int
    failure: str  # the first line of the failure file; empty without a file
    stdout: str
    stderr: str


@pytest.fixture
def run_program(tmp_path):
    """A function that runs a train.py whose main function has a body, with arguments and variables"""

    def run(body, *args, **variables):
        (tmp_path / "train.py").write_text(f"{HEAD}{indent(dedent(body), '    ')}\nmain()\n", encoding="utf-8")
        environ = {k: v for k, v in os.environ.items() if not k.startswith("SM_")}
        environ |= dict(SM_OUTPUT_DIR=str(tmp_path / "output"), PYTHONPATH=os.pathsep.join(sys.path)) | variables
        process = subprocess.run(
            [sys.executable, tmp_path / "train.py", *args], env=environ, text=True, capture_output=True, cwd=tmp_path
        )
        failure_file = tmp_path / "output" / "failure"
        failure = failure_file.read_text().splitlines()[0] if failure_file.exists() else ""
        return Result(process.returncode, failure, process.stdout.strip(), process.stderr)

    return run


@pytest.mark.parametrize(
    "body, code, failure, stdout",
    [
        ("print(config.epochs)", 0, "", "3"),
        ("config.epohcs", 1, "AttributeError: 'Config' object has no attribute 'epohcs'", ""),
        ("sys.exit(7)", 7, "SystemExit: 7", ""),
        ("sys.exit('no data')", 1, "SystemExit: no data", ""),
        ("raise KeyboardInterrupt", 130, "", ""),
        ("import sklaern", 1, "ModuleNotFoundError: No module named 'sklaern'", ""),
    ],
)
def test_exit_code_and_failure_file(run_program, body, code, failure, stdout):
    result = run_program(body, "--epochs", "3")
    reported = result.failure.partition(". Did you mean")[0]  # Python 3.12 suggests a name
    assert (result.code, reported, result.stdout) == (code, failure, stdout), result.stderr


def test_wrong_hyperparameter_fails_the_job(run_program):
    result = run_program("pass", "--epochs", "ten")
    assert result.code == 1
    assert result.failure == "ValueError: hyperparameter 'epochs': expected int, got 'ten' (from --epochs)"


def test_hyperparameters_come_from_the_variable(run_program):
    result = run_program("print(config.epochs)", SM_HPS='{"epochs": "4"}')
    assert (result.code, result.failure, result.stdout) == (0, "", "4")


def test_argument_takes_precedence_with_a_warning(run_program):
    result = run_program("print(config.epochs)", "--epochs", "3", SM_HPS='{"epochs": "4"}')
    assert (result.code, result.failure, result.stdout) == (0, "", "3")
    assert "hyperparameter 'epochs' is given twice: '3' (from --epochs) is used" in result.stderr


TWO_PROCESSES = """
join_processes(60)
sys.stderr.write(f"{rank()} of {world_size()}\\n")
"""


def test_two_processes(run_program):
    result = run_program(TWO_PROCESSES, "--processes", "2")
    assert sorted(re.findall(r"^\d of 2$", result.stderr, re.M)) == ["0 of 2", "1 of 2"], result.stderr


@pytest.mark.parametrize(
    "body, code, failure",
    [
        (
            TWO_PROCESSES + 'if rank() == 1: raise ValueError("sample 3 has no label")\ntorch.distributed.barrier()',
            1,
            "ValueError: sample 3 has no label",
        ),
        ('if os.environ["RANK"] == "1": sys.exit(7)\ntime.sleep(60)', 7, "SystemExit: 7"),
        (
            'if os.environ["RANK"] == "1": os.kill(os.getpid(), 9)\ntime.sleep(60)',
            137,
            "rank 1 of 2 was killed by SIGKILL",
        ),
    ],
)
def test_the_reason_is_that_of_the_process_that_failed_first(run_program, body, code, failure, fault):
    result = run_program(body, "--processes", "2")
    assert result.code == code, result.stderr
    assert result.failure.startswith(failure), result.failure
    fault("death: a rank of a job, with an error, an exit code or SIGKILL", 1, said=result.failure.splitlines()[0])
