"""Signals that reach a trainer together with its workers, as a terminal, torchrun, systemd and Slurm send them"""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from mlkit.training.checkpoint import read_latest

program = """
import sys, time, torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from mlkit.training.trainer import Trainer
class Slow(Dataset):
    def __init__(self, seconds): self.seconds = seconds
    def __len__(self): return 48
    def __getitem__(self, i):
        time.sleep(self.seconds)
        return torch.full((3,), i/48) + torch.rand(3), i % 2
class Stream(IterableDataset):
    def __init__(self, *args): self.data = Slow(*args)
    def __iter__(self): return (self.data[i] for i in range(48))
class Say:
    rank_zero_only = True
    def after_step(self, trainer): print('step', trainer.step, flush=True)
    def before_validate(self, trainer): print('validation', flush=True)
if __name__ == '__main__':
    folder,workers,context,seconds,valid = sys.argv[1],int(sys.argv[2]),sys.argv[3],float(sys.argv[4]),float(sys.argv[5])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(.5), nn.Linear(8, 2))
    make = lambda seconds: DataLoader(Slow(seconds), 4, shuffle=True, num_workers=workers, multiprocessing_context=None if context == '-' else context)
    if context == 'stream': make = lambda seconds: DataLoader(Stream(seconds), 4, num_workers=workers)
    trainer = Trainer(model, make(seconds), torch.optim.Adam(model.parameters(), .01), nn.CrossEntropyLoss(), make(valid), accumulate=2,
                      checkpoints=folder, grace=6, callbacks=[Say()])
    print('stopped', trainer.fit(2).stopped, flush=True)
"""


def start(tmp_path, *args, processes=1):
    """The program in a session, and so a process group, of its own"""
    (tmp_path / "train.py").write_text(program)
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *launcher, tmp_path / "train.py", *map(str, args)],
        start_new_session=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def send(process, number, after):
    """Send a signal to all of the program's processes once it has said `after`; what it says from there"""
    for line in process.stdout:
        if line.startswith(after):
            break
    else:
        raise AssertionError(f"it ended before {after}")
    time.sleep(0.1)
    os.killpg(process.pid, number)
    return process.communicate(timeout=60)[0]


def alike(a, b):
    """Two folders' last checkpoints have the same weights, losses and metrics"""
    a, _ = read_latest(a)
    b, _ = read_latest(b)
    assert (a["epoch"], a["batch"], a["step"]) == (b["epoch"], b["batch"], b["step"])
    assert all(torch.equal(v, b["model"][n]) for n, v in a["model"].items()) and torch.equal(a["steps"], b["steps"])
    assert [{k: v for k, v in e.items() if k != "seconds"} for e in a["history"]] == [
        {k: v for k, v in e.items() if k != "seconds"} for e in b["history"]
    ]


@pytest.mark.parametrize("context, number", [("-", signal.SIGTERM), ("spawn", signal.SIGINT)])
def test_workers_and_trainer_hear_it_together(tmp_path, context, number):
    process = start(tmp_path, tmp_path / "checkpoints", 2, context, 0.02, 0)
    said = send(process, number, "step 2")
    assert process.returncode == (143 if number == signal.SIGTERM else 0), said
    assert "Traceback" not in said and ("stopped Ctrl-C" in said) == (number == signal.SIGINT), said
    state, _ = read_latest(tmp_path / "checkpoints")
    assert 2 <= state["step"] < 6 and state["batch"] == 2 * state["step"], said


def test_the_checkpoint_comes_before_a_validation_and_goes_on_to_the_same_bits(tmp_path):
    process = start(tmp_path, tmp_path / "checkpoints", 2, "-", 0, 0.6)  # some 14 seconds of validation, 6 of grace
    said = send(process, signal.SIGTERM, "validation")
    assert process.returncode == 143 and "Traceback" not in said, said
    state, _ = read_latest(tmp_path / "checkpoints")
    assert (state["epoch"], state["batch"], state["step"], len(state["history"])) == (0, 12, 6, 0)
    for folder in ("checkpoints", "whole"):
        process = start(tmp_path, tmp_path / folder, 2, "-", 0, 0)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == 0 and ("epoch 1, batch 13, step 6" in said) == (folder == "checkpoints"), said
    alike(tmp_path / "checkpoints", tmp_path / "whole")


@pytest.mark.parametrize(
    "context, after, seconds, valid",
    [
        ("-", "step 2", 0.05, 0),
        ("-", "validation", 0, 0.4),
        ("stream", "step 2", 0.05, 0),
        ("stream", "validation", 0, 0.4),
    ],
)
def test_many_processes_and_their_workers(tmp_path, context, after, seconds, valid):
    process = start(tmp_path, tmp_path / "checkpoints", 1, context, seconds, valid, processes=2)
    said = send(process, signal.SIGTERM, after)
    assert process.returncode and "exited unexpectedly" not in said and "does not answer" not in said, said
    state, _ = read_latest(tmp_path / "checkpoints")
    assert (state["epoch"], state["batch"]) == (0, 12 if after == "validation" else 2 * state["step"]) and state[
        "step"
    ] >= 2, said
