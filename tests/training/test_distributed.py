"""Test that several processes train as one does, end together, and continue from any checkpoint.

They communicate with gloo over the loopback interface.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import running
from safetensors.torch import load_file

child = Path(__file__).parent / "distributed_child.py"


def start(processes, *args, options=(), child=child, **popen_options):
    """Start a program, under torchrun if there are several processes."""
    launcher = []
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *options]
    return subprocess.Popen(
        [sys.executable, *launcher, child, *map(str, args)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **popen_options,
    )


def train(processes, *args, **kwargs):
    """Run a program to its end, and return what it prints. Raises AssertionError if it fails."""
    process = start(processes, *args, **kwargs)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return printed


# what torch up to 2.10 prints, in pieces, when processes join
GLOO = re.compile(
    r"\[Gloo\] Rank |\d+ is connected to \d+ peer ranks\. |Expected number of connected peer ranks is : \d+"
)


def run_all(run, *arguments):
    """Return `[run(a, b), ...]` for the values a, b of each list in `arguments`; two calls run at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, *arguments))


def check(out, processes, expected, tolerance=1e-6):
    """Assert that every process has the expected weights and history, and all have the same bits."""
    for rank in range(processes):
        results = load_file(f"{out}-{rank}")
        assert results.keys() == expected.keys()
        for name, t in expected.items():
            torch.testing.assert_close(
                results[name], t, rtol=0, atol=tolerance, msg=partial("{} of rank {}: {}".format, name, rank)
            )
        if rank:
            for name, t in load_file(f"{out}-0").items():
                assert torch.equal(results[name], t), f"{name} of rank {rank} differs from rank 0"


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Return the weights and history of a single process: {kind of dataset: tensors}."""
    folder = tmp_path_factory.mktemp("alone")

    def train_alone(kind):
        train(1, "-", folder / kind, kind)
        return load_file(folder / f"{kind}-0")

    kinds = ("tensors", "map")
    return dict(zip(kinds, run_all(train_alone, kinds)))


def test_weights_and_history_are_equal_to_those_of_one_process(expected, tmp_path):
    def train_and_check(kind, processes):
        out = tmp_path / f"{kind}-{processes}"
        printed = train(processes, "-", out, kind)
        check(out, processes, expected[kind])
        printed = GLOO.sub("", printed)
        lines = [
            line.split(",")[0] for line in printed.split("\n") if line and not line.startswith("Tensors in memory")
        ]
        assert lines == ["callback of rank 0", *(f"Epoch {i}/6" for i in range(1, 7))], "only the main process prints"

    run_all(train_and_check, ("tensors", "map", "tensors"), (4, 2, 2))


def test_losses_that_are_not_plain_means(tmp_path):
    def train_losses(processes):
        train(processes, tmp_path / str(processes), child=child.parent / "distributed_losses.py")

    run_all(train_losses, (1, 3))
    check(tmp_path / "3", 3, load_file(tmp_path / "1-0"))


def test_all_processes_skip_a_batch_that_one_skips(tmp_path):
    skip = child.parent / "distributed_skip.py"
    events = "before_batch", "before_loss", "after_loss"

    def train_skipping(processes):
        train(processes, tmp_path / str(processes), *events, child=skip)

    run_all(train_skipping, (1, 3))
    check(tmp_path / "3", 3, load_file(tmp_path / "1-0"))
    process = start(2, tmp_path / "late", "before_backward", child=skip)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert (
        "RuntimeError: a SkipBatch was raised where the other processes do not learn of it: with several processes "
        "raise it in before_batch, before_loss, after_loss"
    ) in errors


def test_a_run_continues_with_another_number_of_processes_and_sharding(expected, tmp_path):
    def run_twice(name, first, second):
        """Train until the child stops at step 7, then continue; each time with (number of processes, sharding)."""
        half = train(first[0], tmp_path / name, tmp_path / f"{name} half", "tensors", first[1])
        printed = train(second[0], tmp_path / name, tmp_path / f"{name} out", "tensors", second[1])
        assert "Epoch 2/6" in half
        assert "Epoch 3/6" not in half
        assert printed.count("Continuing from ") == 1
        assert "epoch 3, batch 3, step 7" in printed
        tolerance = 1e-5 if "fsdp" in (first[1], second[1]) else 1e-6
        check(tmp_path / f"{name} out", second[0], expected["tensors"], tolerance)

    names = ("sharded then alone", "alone then sharded", "three then two")
    first_runs = ((2, "fsdp"), (1, "ddp"), (3, "ddp"))
    second_runs = ((1, "ddp"), (2, "fsdp"), (2, "ddp"))
    run_all(run_twice, names, first_runs, second_runs)


@pytest.mark.long
def test_the_same_number_of_processes_continues_with_the_same_random_numbers(tmp_path):
    def train_dropout(name):
        train(2, tmp_path / f"checkpoints of {name}", tmp_path / name, "dropout")

    run_all(train_dropout, ("whole", "half"))
    train(2, tmp_path / "checkpoints of half", tmp_path / "out", "dropout")
    check(tmp_path / "out", 2, load_file(tmp_path / "whole-0"), 0)


def test_a_killed_process_ends_all_and_is_named(tmp_path, fault):
    process = start(2, tmp_path / "checkpoints", tmp_path / "out", "tensors", "ddp", 4, 1)
    for line in process.stdout:
        if line.startswith("Epoch 1/"):
            break
    errors = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL) received" in errors
    # Either gloo's error comes first, or torchrun ends the other processes.
    assert "rank 1 of 2 does not answer" in errors or "closing signal SIGTERM" in errors
    said = next(line for line in errors.splitlines() if "Signal 9 (SIGKILL) received" in line)
    fault("death: a rank under torchrun, killed", 1, said=said)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_torchrun_restarts_and_the_run_continues(expected, tmp_path, fault, parallel):
    arguments = tmp_path / "checkpoints", tmp_path / "out", "tensors", parallel, 8, 1
    printed = train(2, *arguments, options=["--max-restarts", "1"])
    assert printed.count("Continuing from ") == 1
    check(tmp_path / "out", 2, expected["tensors"], 1e-5 if parallel == "fsdp" else 1e-6)
    said = next(line for line in printed.splitlines() if line.startswith("Continuing from "))
    fault(f"kill: a rank ({parallel}), torchrun restarts it", 1, said=said)


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_all_processes_killed_at_any_moment(tmp_path, fault, parallel):
    """The machine goes away: the agent and both ranks. The run continues to the bits of one that was not killed."""
    train(2, tmp_path / "checkpoints of whole", tmp_path / "whole", "slow", parallel)
    choose = random.Random(0)
    arguments = tmp_path / "checkpoints", tmp_path / "out", "slow", parallel
    n_kills = 0
    while not (tmp_path / "out-0").exists():
        process = start(2, *arguments, start_new_session=True)
        for line in process.stdout:
            if line.startswith("Epoch "):
                break
        time.sleep(choose.uniform(0, 1.5))
        if n_kills < 5 and process.poll() is None:
            for pid in [process.pid, *running(f"{tmp_path / 'checkpoints'}\0{tmp_path / 'out'}")]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            n_kills += 1
        errors = process.communicate(timeout=120)[1]
        assert process.returncode in (0, -signal.SIGKILL), errors
    check(tmp_path / "out", 2, load_file(tmp_path / "whole-0"), 0)
    fault(f"kill: all processes of a run ({parallel}), at any moment", n_kills)


def test_sigterm_saves_and_ends_all(expected, tmp_path):
    process = start(2, tmp_path / "checkpoints", tmp_path / "out", "slow")
    for line in process.stdout:
        if line.startswith("Epoch 1/"):
            break
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode != 0, errors
    assert not (tmp_path / "out-0").exists()
    assert "does not answer" not in errors
    printed = train(1, tmp_path / "checkpoints", tmp_path / "out", "tensors")
    assert "Continuing from " in printed
    check(tmp_path / "out", 1, expected["tensors"])


@pytest.mark.parametrize("key", [7, pytest.param(100, marks=pytest.mark.long)])
def test_a_rank_that_hangs_or_dies_is_named(fault, key):
    """One that hangs is named with its stack, also while it keeps the lock of the interpreter."""
    command = [sys.executable, "-W", "ignore", child.parent / "hang_child.py", str(key), "7"]
    printed = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=True).stdout
    results = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]  # torch 2.8 prints others
    assert len(results) == key
    for row, deaths in (("hang: a rank", ()), ("death: a rank", ("is_killed", "exits"))):
        group = [r for r in results if (r["fault"] in ("is_killed", "exits")) == bool(deaths)]
        named = [r for r in group if "rank 1 of 2 does not answer" in r["note"]]
        if not deaths:
            named = [r for r in named if f"in {r['fault']}" in r["note"]]
        slowest = max(r["seconds"] for r in group)
        unnamed = [r for r in group if r not in named]
        assert not unnamed, unnamed
        said = f"at most {slowest:.1f} s {'later' if deaths else 'after the timeout of the others'}: {group[0]['note']}"
        fault(f"{row}, named{'' if deaths else ' with its stack'}", len(group), len(named), said=said)
