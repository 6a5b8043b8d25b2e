"""Test signals that a trainer and its workers receive together.

A terminal, torchrun, systemd and Slurm send them this way.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mlkit.training.checkpoint import read_latest

child = Path(__file__).parent / "signals_child.py"


def start(*args, processes=1):
    """Start the program in a new session, and so in a new process group."""
    launcher = []
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *launcher, child, *map(str, args)],
        start_new_session=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def send(process, number, after):
    """Send a signal to all processes of the program after it has printed `after`, and return what it prints then."""
    for line in process.stdout:
        if line.startswith(after):
            break
    else:
        raise AssertionError(f"the program ended before it printed {after!r}")
    time.sleep(0.1)
    os.killpg(process.pid, number)
    return process.communicate(timeout=60)[0]


def assert_same_checkpoint(a, b):
    """Assert that the last checkpoints of two folders have the same weights, losses and metrics."""
    a, _ = read_latest(a)
    b, _ = read_latest(b)
    assert (a["epoch"], a["batch"], a["step"]) == (b["epoch"], b["batch"], b["step"])
    assert all(torch.equal(v, b["model"][n]) for n, v in a["model"].items())
    assert torch.equal(a["steps"], b["steps"])
    assert metrics_of(a) == metrics_of(b)


def metrics_of(state):
    """Return the metrics of each epoch in a checkpoint, without its duration."""
    return [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in state["history"]]


@pytest.mark.parametrize("context, number", [("-", signal.SIGTERM), ("spawn", signal.SIGINT)])
def test_workers_and_trainer_receive_a_signal_together(tmp_path, context, number):
    process = start(tmp_path / "checkpoints", 2, context, 0.02, 0)
    output = send(process, number, "step 2")
    assert process.returncode == (143 if number == signal.SIGTERM else 0), output
    assert "Traceback" not in output, output
    assert ("stopped Ctrl-C" in output) == (number == signal.SIGINT), output
    state, _ = read_latest(tmp_path / "checkpoints")
    assert 2 <= state["step"] < 6, output
    assert state["batch"] == 2 * state["step"], output


def test_the_checkpoint_before_a_validation_continues_to_the_same_bits(tmp_path):
    process = start(tmp_path / "checkpoints", 2, "-", 0, 0.6)  # validation takes 14 seconds, the grace period is 6
    output = send(process, signal.SIGTERM, "validation")
    assert process.returncode == 143, output
    assert "Traceback" not in output, output
    state, _ = read_latest(tmp_path / "checkpoints")
    assert (state["epoch"], state["batch"], state["step"], len(state["history"])) == (0, 12, 6, 0)
    for folder in ("checkpoints", "whole"):
        process = start(tmp_path / folder, 2, "-", 0, 0)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 0, output
        assert ("epoch 1, batch 13, step 6" in output) == (folder == "checkpoints"), output
    assert_same_checkpoint(tmp_path / "checkpoints", tmp_path / "whole")


@pytest.mark.parametrize(
    "context, after, seconds, valid",
    [
        ("-", "step 2", 0.05, 0),
        pytest.param("-", "validation", 0, 0.4, marks=pytest.mark.long),
        pytest.param("stream", "step 2", 0.05, 0, marks=pytest.mark.long),
        ("stream", "validation", 0, 0.4),
    ],
)
def test_many_processes_and_their_workers(tmp_path, context, after, seconds, valid):
    process = start(tmp_path / "checkpoints", 1, context, seconds, valid, processes=2)
    output = send(process, signal.SIGTERM, after)
    assert process.returncode, output
    assert "exited unexpectedly" not in output, output
    assert "does not answer" not in output, output
    state, _ = read_latest(tmp_path / "checkpoints")
    assert state["epoch"] == 0, output
    assert state["batch"] == (12 if after == "validation" else 2 * state["step"]), output
    assert state["step"] >= 2, output
