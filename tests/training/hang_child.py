"""Let one of two processes hang or die at any step, many times: hang_child.py TRIES AT_ONCE

Prints a line of JSON for each try: what happened, the seconds from the other process's timeout or from the death until
it was named, and the note of the error. torch is imported once, and the processes are forked.
"""

import json
import os
import random
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mlkit.training import train_model
from mlkit.training.distributed import join_processes, rank

TIMEOUT = 4  # seconds that a process waits for the other, once both have begun to train


def sleeps_for_ever():
    time.sleep(10**6)


def waits_for_a_lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def reads_a_pipe():
    os.read(os.pipe()[0], 1)


def computes_for_ever():
    while True:
        pass


def keeps_the_interpreter():
    re.match("(a+)+$", "a" * 64 + "b")


def is_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def exits():
    os._exit(3)


FAULTS = [sleeps_for_ever, waits_for_a_lock, reads_a_pipe, computes_for_ever, keeps_the_interpreter, is_killed, exits]
DEATHS = is_killed, exits


class Fault:
    def __init__(self, fault, step, at):
        self.fault = fault
        self.step = step
        self.at = at

    def before_fit(self, trainer):
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=TIMEOUT))

    def after_step(self, trainer):
        if trainer.step == self.step and rank() == 1:
            os.write(self.at, b"%f" % time.monotonic())
            self.fault()


def train(number, read_end, at, out):
    """Train in one of two processes, and write what the living one is told."""
    choose = random.Random(number)
    fault = FAULTS[number % len(FAULTS)]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    join_processes(timeout=120)
    data = TensorDataset(torch.randn(64, 4), torch.randint(2, (64,)))
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    options = dict(callbacks=[Fault(fault, choose.randrange(1, 30), at)], device="cpu", verbose=False)
    try:
        train_model(model, DataLoader(data, 8), 10, 0.01, **options)
        note = "the run ended"
    except BaseException as e:
        note = "\n".join(getattr(e, "__notes__", [f"no note: {e!r}"]))
    os.close(at)
    at = float(os.read(read_end, 30) or "nan")  # nothing to read: the other process has ended before its fault
    seconds = time.monotonic() - at - (0 if fault in DEATHS else TIMEOUT)
    os.write(out, (json.dumps(dict(fault=fault.__name__, seconds=seconds, note=note)) + "\n").encode())


def start(number, port):
    """Fork two processes, and return their ids."""
    read_end, at = os.pipe()
    pids = []
    for own_rank in range(2):
        pid = os.fork()
        if not pid:
            os.environ |= dict(RANK=str(own_rank), WORLD_SIZE="2", LOCAL_RANK=str(own_rank))
            os.environ |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            with suppress(BaseException):
                train(number, read_end, at, 1)
            os._exit(0)
        pids.append(pid)
    os.close(read_end)
    os.close(at)
    return pids


def main(tries, at_once):
    from helpers import free_port

    for first in range(0, tries, at_once):
        pairs = [start(number, free_port()) for number in range(first, min(first + at_once, tries))]
        for living, other in pairs:
            os.waitpid(living, 0)
            os.kill(other, signal.SIGKILL)
            os.waitpid(other, 0)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(__file__)))
    main(int(sys.argv[1]), int(sys.argv[2]))
