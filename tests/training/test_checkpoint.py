"""Test checkpoints on a full disk, at the end of the process, and damaged anywhere."""

import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from mlkit.training.checkpoint import Checkpoints, list_checkpoints, read_checkpoint, read_latest

child = Path(__file__).parent / "checkpoint_child.py"


def run_child(command, folder):
    return subprocess.run(
        [sys.executable, "-W", "always", child, command, folder], text=True, capture_output=True, timeout=120
    )


def test_saves_are_completed_while_python_shuts_down(tmp_path):
    """The write in progress is completed, and a thread that is still training can save as well."""
    process = run_child("shutdown", tmp_path)
    assert process.stderr == ""
    assert [read_checkpoint(f)["x"].sum().item() for f in list_checkpoints(tmp_path)] == [1e6, 1e6]


def test_a_full_disk_is_a_warning(tmp_path, fault):
    process = run_child("full", tmp_path)
    assert process.returncode == 0, process.stderr
    assert "no checkpoint of step 2: " in process.stderr
    assert "File too large" in process.stderr
    # The checkpoints before and after it exist, and nothing of the failed one is left.
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-000000001", "step-000000003"]
    said = next(line for line in process.stderr.splitlines() if "no checkpoint of step 2: " in line)
    fault("full disk: a checkpoint", 1, said=said.rpartition("Warning: ")[2])


@pytest.mark.parametrize("key", [200, pytest.param(3000, marks=pytest.mark.long)])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, fault, key):
    """A flipped bit or a torn end in any file of the newest one: it is read as it was written, or the one before is."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(dict(x=torch.full((40,), float(step)), epoch=step, text="abc"), step, patient=True)
    checkpoints.wait()
    older, newest = list_checkpoints(tmp_path)
    contents = {path: path.read_bytes() for path in sorted(newest.iterdir())}
    choose = random.Random(0)
    n_tries = dict.fromkeys(("a flipped bit in a", "a torn"), 0)
    n_lost = dict.fromkeys(n_tries, 0)
    said = dict.fromkeys(n_tries, "")
    for _ in range(key):
        kind = choose.choice(list(n_tries))
        path, content = choose.choice(list(contents.items()))
        position = choose.randrange(len(content))
        flipped = content[:position] + bytes([content[position] ^ 1 << choose.randrange(8)]) + content[position + 1 :]
        path.write_bytes(content[:position] if kind == "a torn" else flipped)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            state, read = read_latest(tmp_path)
        path.write_bytes(content)
        expected = 2 if read == newest else 1
        is_right = state["x"].tolist() == [expected] * 40 and (state["epoch"], state["text"]) == (expected, "abc")
        n_tries[kind] += 1
        n_lost[kind] += not is_right or (read == older and not caught)
        said[kind] = str(caught[0].message) if caught else said[kind]
    for kind in n_tries:
        sentence = said[kind]
        fault(f"damage: {kind} checkpoint", n_tries[kind], lost=n_lost[kind], said=sentence)
