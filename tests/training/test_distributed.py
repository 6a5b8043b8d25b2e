"""Test that several processes train as one does, end together, and continue from any checkpoint.

They communicate with gloo over the loopback interface.
"""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

child = Path(__file__).parent / "distributed_child.py"


def start(processes, *args, options=(), child=child):
    """Start a program, under torchrun if there are several processes."""
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *options]
        if processes > 1
        else []
    )
    return subprocess.Popen(
        [sys.executable, *launcher, child, *map(str, args)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def train(processes, *args, **kwargs):
    """Run a program to its end, and return what it prints. Raises AssertionError if it fails."""
    process = start(processes, *args, **kwargs)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return printed


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
                assert torch.equal(results[name], t), f"{name} of rank {rank} is not that of rank 0"


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Return the weights and history of a single process: {kind of dataset: tensors}."""
    folder = tmp_path_factory.mktemp("alone")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda kind: train(1, "-", folder / kind, kind), ("tensors", "map")))
    return {kind: load_file(folder / f"{kind}-0") for kind in ("tensors", "map")}


def test_weights_and_history_are_equal_to_those_of_one_process(expected, tmp_path):
    cases = [("tensors", 4), ("map", 2), ("tensors", 2)]
    with ThreadPoolExecutor(2) as pool:
        printed = list(pool.map(lambda case: train(case[1], "-", tmp_path / "-".join(map(str, case)), case[0]), cases))
    for (kind, processes), out in zip(cases, printed):
        check(tmp_path / f"{kind}-{processes}", processes, expected[kind])
        lines = [line.split(",")[0] for line in out.splitlines() if not line.startswith("Tensors in memory")]
        assert lines == ["callback of rank 0", *(f"Epoch {i}/6" for i in range(1, 7))], "only the main process prints"


def test_losses_that_are_not_plain_means(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda n: train(n, tmp_path / str(n), child=child.parent / "distributed_losses.py"), (1, 3)))
    check(tmp_path / "3", 3, load_file(tmp_path / "1-0"))


def test_all_processes_skip_a_batch_that_one_skips(tmp_path):
    skip = child.parent / "distributed_skip.py"
    events = "before_batch", "before_loss", "after_loss"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda n: train(n, tmp_path / str(n), *events, child=skip), (1, 3)))
    check(tmp_path / "3", 3, load_file(tmp_path / "1-0"))
    process = start(2, tmp_path / "late", "before_backward", child=skip)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert (
        "RuntimeError: a SkipBatch was raised where the other processes do not learn of it: with several processes "
        "raise it in before_batch, before_loss, after_loss"
    ) in errors


def test_a_run_continues_with_another_number_of_processes_and_sharding(expected, tmp_path):
    def run_twice(name, first, then):
        half = train(first[0], tmp_path / name, tmp_path / f"{name} half", "tensors", first[1])
        printed = train(then[0], tmp_path / name, tmp_path / f"{name} out", "tensors", then[1])
        assert "Epoch 2/6" in half and "Epoch 3/6" not in half
        assert printed.count("Continuing from ") == 1 and "epoch 3, batch 3, step 7" in printed
        check(tmp_path / f"{name} out", then[0], expected["tensors"], 1e-5 if "fsdp" in (first[1], then[1]) else 1e-6)

    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                run_twice,
                ("sharded then alone", "alone then sharded", "three then two"),
                ((2, "fsdp"), (1, "ddp"), (3, "ddp")),
                ((1, "ddp"), (2, "fsdp"), (2, "ddp")),
            )
        )


def test_the_same_number_of_processes_continues_with_the_same_random_numbers(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                lambda out: train(2, tmp_path / f"checkpoints of {out}", tmp_path / out, "dropout"), ("whole", "half")
            )
        )
    train(2, tmp_path / "checkpoints of half", tmp_path / "out", "dropout")
    check(tmp_path / "out", 2, load_file(tmp_path / "whole-0"), 0)


def test_a_killed_process_ends_all_and_is_named(tmp_path):
    process = start(2, tmp_path / "checkpoints", tmp_path / "out", "tensors", "ddp", 4, 1)
    for line in process.stdout:
        if line.startswith("Epoch 1/"):
            break
    errors = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL) received" in errors
    # Either gloo's error comes first, or torchrun ends the other processes.
    assert "rank 1 of 2 does not answer" in errors or "closing signal SIGTERM" in errors


def test_torchrun_restarts_and_the_run_continues(expected, tmp_path):
    printed = train(
        2, tmp_path / "checkpoints", tmp_path / "out", "tensors", "ddp", 8, 1, options=["--max-restarts", "1"]
    )
    assert printed.count("Continuing from ") == 1
    check(tmp_path / "out", 2, expected["tensors"])


def test_sigterm_saves_and_ends_all(expected, tmp_path):
    process = start(2, tmp_path / "checkpoints", tmp_path / "out", "slow")
    for line in process.stdout:
        if line.startswith("Epoch 1/"):
            break
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode != 0, errors
    assert not (tmp_path / "out-0").exists() and "does not answer" not in errors
    printed = train(1, tmp_path / "checkpoints", tmp_path / "out", "tensors")
    assert "Continuing from " in printed
    check(tmp_path / "out", 1, expected["tensors"])
