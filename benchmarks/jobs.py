"""What a job on this machine costs beside its training: paired runs, medians.

    python benchmarks/jobs.py [--rounds 5]

- launch: from TrainingJob.run() to the program's first training step, over `python -c 'import torch'` from its start to
its end;
  and over a program without mlkit, from its start to the end of its first step. torch loads its compiler for the first optimizer,
  which is most of what a first step takes; and ending a process that has torch takes a third of a second
- import: of mlkit.sagemaker.client.jobs, over starting Python
- list: a page of 100 jobs, of 100
- channel: staging a folder of 1 GB
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.local.client import LocalSageMaker

PROGRAM = """
import time
import torch
from mlkit.model import MyCustomModel
from mlkit.sagemaker_entry import Container, entry_point
from mlkit.training import train_model
from torch.utils.data import DataLoader, TensorDataset
class First:
    def after_step(self, trainer): print('first step at', time.time(), flush=True); trainer.stop('measured')
@entry_point
def main(container: Container):
    x = torch.randn(64, 4)
    train_model(MyCustomModel(4, 8, 2), DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch_size=32), epochs=1, learning_rate=.01, callbacks=[First()], verbose=False)
if __name__ == '__main__': main()
"""

STEP = """
import os
import torch
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
optimizer = torch.optim.Adam(model.parameters())
torch.nn.functional.cross_entropy(model(torch.randn(32, 4)), torch.zeros(32).long()).backward()
optimizer.step()
os._exit(0)
"""


def seconds(f):
    began = time.perf_counter()
    f()
    return time.perf_counter() - began


def python(code):
    return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True))


def launch(local, folder, number):
    """Seconds from the launch to the first step"""
    job = TrainingJob(source=folder / "first.py", name=f"launch-{number}")
    began = time.time()
    job.run(local)
    while job.status == "InProgress":
        time.sleep(0.05)
    line = next((line for line in job.logs() if line.startswith("first step at")), None)
    if line is None:
        raise RuntimeError("\n".join(job.logs()))
    return float(line.split()[-1]) - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = range(parser.parse_args().rounds)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        local = LocalSageMaker(folder / "local")
        (folder / "first.py").write_text(PROGRAM)
        launch(local, folder, "warm-up")
        runs = [(python("import torch"), python(STEP), launch(local, folder, i)) for i in rounds]
        show(
            "launch to first step",
            "Python and torch",
            [(bare, launched) for bare, _, launched in runs],
            "at most 1 s more",
        )
        show("launch to first step", "one step without mlkit", [(step, launched) for _, step, launched in runs])
        pairs = [(python("pass"), python("import mlkit.sagemaker.client.jobs")) for _ in rounds]
        show("import mlkit.sagemaker.client.jobs", "Python", pairs, "at most 0.35 s more")
        for i in range(100):
            local.rows.add(f"many-{i}", local.rows.get("launch-0") | {"TrainingJobName": f"many-{i}"})
        print(
            "100 jobs listed: "
            f"{statistics.median(seconds(lambda: local.list_training_jobs(MaxResults=100)) for _ in rounds):.3f} s"
        )
        (folder / "gigabyte").mkdir()
        for i in range(10):
            with open(folder / "gigabyte" / f"{i}.bin", "wb") as f:
                os.posix_fallocate(f.fileno(), 0, 10**8)
        (folder / "look.py").write_text('print("1 GB is there")\n')

        def staged(i):
            job = TrainingJob(
                source=folder / "look.py", channels={"training": folder / "gigabyte"}, name=f"staged-{i}"
            ).run(local)
            while job.status == "InProgress":
                time.sleep(0.05)
            transitions = {t["Status"]: t for t in job.describe()["SecondaryStatusTransitions"]}
            return (transitions["Downloading"]["EndTime"] - transitions["Downloading"]["StartTime"]).total_seconds()

        print(f"1 GB staged: {statistics.median(map(staged, rounds)):.3f} s")


def show(what, over, pairs, aim=None):
    print(
        (
            f"{what}: {statistics.median(b for _, b in pairs):.2f} s; {over}: "
            f"{statistics.median(a for a, _ in pairs):.2f} s; {statistics.median(b - a for a, b in pairs):.2f} s more"
        )
        + f" (aim: {aim})" * bool(aim),
        flush=True,
    )


if __name__ == "__main__":
    main()
