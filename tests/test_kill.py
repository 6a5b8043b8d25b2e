"""A trainer that is killed at any moment, also inside a save, and started again ends with the bits of one that never
was
"""

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
    command = [sys.executable, "-W", "ignore", child, folder, out] + [str(die_at)] * (die_at is not None)
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def live(process, seconds):
    """Let it train for a while after its first step, then SIGKILL it; True when it was killed before it was done"""
    for line in process.stdout:
        if line.strip().isdigit():
            break
    if seconds is not None:
        time.sleep(seconds)
        process.kill()
    errors = process.communicate()[1]
    assert process.returncode in (0, -9), errors
    return process.returncode == -9


def chain(folder, kills, seed):
    """Runs that are killed and resumed until one is done; how many kills it took"""
    rng = random.Random(seed)
    done = 0
    while live(
        start(
            folder / "checkpoints",
            folder / "weights",
            rng.randrange(1, 120) if rng.random() < 0.5 and done < kills else None,
        ),
        rng.uniform(0, 0.3) if done < kills else None,
    ):
        done += 1
    return done


def test_kill_at_any_moment_and_resume(tmp_path, request):
    live(start(tmp_path / "never" / "checkpoints", tmp_path / "weights"), None)
    expected = load_file(tmp_path / "weights")
    wanted = request.config.getoption("--kills")
    killed = 0
    chains = 0
    with ThreadPoolExecutor(2) as pool:
        while killed < wanted:
            folders = [tmp_path / str(chains + i) for i in range(2)]
            for f in folders:
                f.mkdir()
            killed += sum(pool.map(chain, folders, [(wanted - killed + 1) // 2] * 2, [chains, chains + 1]))
            chains += 2
            for f in folders:
                found = load_file(f / "weights")
                assert found.keys() == expected.keys()
                for name, t in expected.items():
                    assert torch.equal(found[name], t), f"{name} differs after {killed} kills"
    print(f"{killed} kills in {chains} chains, each ended with the same bits")
