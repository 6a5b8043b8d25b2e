"""Test DataLoader workers on a machine with little shared memory, and when their process ends.

The small /dev/shm is mounted in a mount namespace.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

here = Path(__file__).parent


def unmet_requirement():
    """Return why this machine cannot run the tests with a small /dev/shm, or None if it can."""
    if sys.platform != "linux" or os.geteuid() or not shutil.which("unshare"):
        return "needs root on Linux and the program unshare, to mount a small /dev/shm"
    if len(os.sched_getaffinity(0)) < 2:
        return "needs two cores"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        return "mount namespaces are not allowed here"
    return None


needs_small_memory = pytest.mark.skipif(bool(unmet_requirement()), reason=unmet_requirement() or "")


def run_child(command, size):
    """Run workers_child.py with a /dev/shm of `size`."""
    shell = 'mount -t tmpfs -o size="$1" tmpfs /dev/shm && shift && exec "$@"'
    return subprocess.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            shell,
            "sh",
            size,
            sys.executable,
            here / "workers_child.py",
            command,
        ],
        text=True,
        capture_output=True,
    )


@needs_small_memory
def test_torch_alone_dies_of_too_little_memory():
    process = run_child("load", "2m")
    assert process.returncode, process.stderr[-2000:]
    errors = process.stderr
    assert "Bus error" in errors or "No space left" in errors or "shared memory" in errors, errors[-2000:]


@needs_small_memory
@pytest.mark.parametrize(
    "size, message",
    [
        ("8m", "num_workers=2 is lowered to 1: the batches in flight need 9 MB in /dev/shm, but only 8 MB are free"),
        ("2m", "num_workers=2 is lowered to 0: "),
    ],
)
def test_fewer_workers_with_little_memory(size, message):
    process = run_child("train", size)
    assert process.returncode == 0, process.stderr[-2000:]
    assert message in process.stdout, process.stdout
    assert "loss" in process.stdout, process.stdout


@needs_small_memory
def test_nothing_is_lowered_with_enough_memory():
    process = run_child("train", "100m")
    assert process.returncode == 0, process.stdout + process.stderr[-2000:]
    assert "lowered" not in process.stdout, process.stdout + process.stderr[-2000:]


def test_a_process_with_workers_ends():
    """This holds even if torch does not end its workers, as during the shutdown of the interpreter."""
    process = subprocess.run(
        [sys.executable, here / "workers_child.py", "exit"], timeout=60, text=True, capture_output=True
    )
    assert process.stdout == "first batch 0\n", process.stderr[-2000:]


@needs_small_memory
def test_workers_of_several_processes_survive_the_launchers_sigterm(tmp_path):
    """The last checkpoint needs no batch from a worker, since the same signal may have ended it."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("SM_")} | dict(
        SM_OUTPUT_DIR=str(tmp_path / "output"), MLKIT_CHECKPOINT_DIR=str(tmp_path / "checkpoints")
    )
    with subprocess.Popen(
        [sys.executable, here / "workers_job.py"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as job:
        lines = []
        for line in job.stdout:
            lines.append(line)
            if line == "step 3\n" and len([s for s in lines if s == line]) == 1:
                job.terminate()  # only once: a second SIGTERM ends the job without a checkpoint
    output = "".join(lines)
    assert job.returncode == 143, output
    assert list((tmp_path / "checkpoints").glob("step-*")), output
    assert not (tmp_path / "output" / "failure").exists(), output
