"""Test that a trainer killed at any moment, even inside a save, resumes to the bits of an uninterrupted run."""

import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file

child = Path(__file__).parent / "kill_child.py"


def start(folder, out, die_at=None):
    """Start a training run. It kills itself at call number `die_at` of the functions that write a checkpoint."""
    command = [sys.executable, "-W", "ignore", child, folder, out]
    if die_at is not None:
        command.append(str(die_at))
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run_until_killed(process, seconds=None):
    """Kill a run `seconds` after its first step; return whether it was killed, by this function or by itself."""
    for line in process.stdout:
        if line.strip().isdigit():
            break
    if seconds is not None:
        time.sleep(seconds)
        process.kill()
    errors = process.communicate()[1]
    assert process.returncode in (0, -9), errors
    return process.returncode == -9


def resume_until_done(folder, max_kills, seed):
    """Start runs until one reaches its end, kill at most `max_kills` of them, and return the number of kills."""
    rng = random.Random(seed)
    kills = 0
    while True:
        inside_save = rng.random() < 0.5 and kills < max_kills
        process = start(folder / "checkpoints", folder / "weights", rng.randrange(1, 120) if inside_save else None)
        if not run_until_killed(process, rng.uniform(0, 0.3) if kills < max_kills else None):
            return kills
        kills += 1


def test_kill_at_any_moment_and_resume(tmp_path, request, fault):
    run_until_killed(start(tmp_path / "uninterrupted" / "checkpoints", tmp_path / "weights"))
    expected = load_file(tmp_path / "weights")
    required_kills = request.config.getoption("--kills")
    kills = 0
    chains = 0
    n_lost = 0
    with ThreadPoolExecutor(2) as pool:
        while kills < required_kills:
            folders = [tmp_path / str(chains + i) for i in range(2)]
            for folder in folders:
                folder.mkdir()
            max_kills = (required_kills - kills + 1) // 2
            seeds = [chains, chains + 1]
            kills_of_chains = pool.map(resume_until_done, folders, [max_kills] * 2, seeds)
            kills += sum(kills_of_chains)
            chains += 2
            for folder in folders:
                weights = load_file(folder / "weights")
                assert weights.keys() == expected.keys()
                n_lost += any(not torch.equal(weights[name], tensor) for name, tensor in expected.items())
    fault("kill: the trainer, at any moment, also inside a save", kills, lost=n_lost)
