"""DataLoader workers on a machine with little room: a real /dev/shm that is too small, in a mount namespace"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

here = Path(__file__).parent


def missing():
    if sys.platform != "linux" or os.geteuid() or not shutil.which("unshare"):
        return "needs root on Linux and the program unshare, to make a small /dev/shm"
    if len(os.sched_getaffinity(0)) < 2:
        return "needs two cores"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        return "mount namespaces are not allowed here"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "")


def run(what, size):
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
            what,
        ],
        text=True,
        capture_output=True,
    )


def test_what_torch_does_alone():
    done = run("load", "2m")
    assert done.returncode and (
        "Bus error" in done.stderr or "No space left" in done.stderr or "shared memory" in done.stderr
    ), done.stderr[-2000:]


@pytest.mark.parametrize(
    "size, said",
    [
        ("8m", "num_workers=2 is lowered to 1: the batches on their way need 9 MB in /dev/shm, where 8 MB are free"),
        ("2m", "num_workers=2 is lowered to 0: "),
    ],
)
def test_fewer_workers_where_there_is_little_room(size, said):
    done = run("train", size)
    assert done.returncode == 0, done.stderr[-2000:]
    assert said in done.stdout and "loss" in done.stdout, done.stdout


def test_nothing_is_lowered_where_there_is_room():
    done = run("train", "100m")
    assert done.returncode == 0 and "lowered" not in done.stdout, done.stdout + done.stderr[-2000:]


def test_workers_of_many_processes_outlive_the_launchers_sigterm(tmp_path):
    """A last checkpoint needs no batch from a worker that the same signal has ended"""
    (tmp_path / "train.py").write_text("""
import os, time, torch
from dataclasses import dataclass
from torch import nn
from torch.utils.data import DataLoader, Dataset
from mlkit.sagemaker_entry import Container, entry_point
from mlkit.training import train_model
class Slow(Dataset):
    def __len__(self): return 400
    def __getitem__(self, i): time.sleep(.02); return torch.zeros(3), i % 2
class Say:
    def after_step(self, trainer): os.write(1, b'step %d\\n' % trainer.step)
@dataclass
class Config:
    processes: int = 2
@entry_point
def main(config: Config, container: Container):
    train_model(nn.Linear(3, 2), DataLoader(Slow(), 8, num_workers=1), 1, 1e-3, verbose=False, checkpoints=container.checkpoint_dir, callbacks=[Say()])
if __name__ == '__main__': main()
""")
    env = {k: v for k, v in os.environ.items() if not k.startswith("SM_")} | dict(
        SM_OUTPUT_DIR=str(tmp_path / "output"), MLKIT_CHECKPOINT_DIR=str(tmp_path / "checkpoints")
    )
    with subprocess.Popen(
        [sys.executable, "train.py"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        said = []
        for line in job.stdout:
            said.append(line)
            if line == "step 3\n" and len([s for s in said if s == line]) == 1:
                job.terminate()  # a second one would end it at once
    assert job.returncode == 143, "".join(said)
    assert list((tmp_path / "checkpoints").glob("step-*")) and not (tmp_path / "output" / "failure").exists(), "".join(
        said
    )
