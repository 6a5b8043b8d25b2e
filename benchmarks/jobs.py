"""Measure what a job on this machine costs in addition to its training: medians of paired runs.

    python benchmarks/jobs.py [--rounds 5]

- launch: from TrainingJob.run() to the first training step of the program. It is compared with `python -c "import
  torch"` from start to end, and with a program without mlkit up to its first step. Most of a first step is torch
  loading its compiler for the first optimizer. A process that has imported torch takes a third of a second to end
- import: of mlkit.sagemaker.client.jobs, compared with starting Python
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
class StopAtFirstStep:
    def after_step(self, trainer):
        print('first step at', time.time(), flush=True)
        trainer.stop('measured')

@entry_point
def main(container: Container):
    x = torch.randn(64, 4)
    loader = DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch_size=32)
    model = MyCustomModel(4, 8, 2)
    train_model(model, loader, epochs=1, learning_rate=.01, callbacks=[StopAtFirstStep()], verbose=False)

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
    """Return how long a call of `f` takes."""
    started_at = time.perf_counter()
    f()
    return time.perf_counter() - started_at


def run_python(code):
    """Return how many seconds a fresh Python process takes to run `code`."""
    return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True))


def wait(job):
    while job.status == "InProgress":
        time.sleep(0.05)


def launch(local, folder, name):
    """Return the seconds from the launch of a job to the first step of its program."""
    job = TrainingJob(source=folder / "first.py", name=name)
    started_at = time.time()
    job.run(local)
    wait(job)
    line = next((line for line in job.logs() if line.startswith("first step at")), None)
    if line is None:
        raise RuntimeError("\n".join(job.logs()))
    return float(line.split()[-1]) - started_at


def measure_launch(local, folder, rounds):
    (folder / "first.py").write_text(PROGRAM)
    launch(local, folder, "launch-warm-up")
    import_pairs = []
    step_pairs = []
    for i in range(rounds):
        import_torch = run_python("import torch")
        step = run_python(STEP)
        job = launch(local, folder, f"launch-{i}")
        import_pairs.append((import_torch, job))
        step_pairs.append((step, job))
    print_difference("launch to first step", "Python and torch", import_pairs, "at most 1 s more")
    print_difference("launch to first step", "one step without mlkit", step_pairs)


def measure_import(rounds):
    pairs = [(run_python("pass"), run_python("import mlkit.sagemaker.client.jobs")) for _ in range(rounds)]
    print_difference("import mlkit.sagemaker.client.jobs", "Python", pairs, "at most 0.35 s more")


def measure_list(local, rounds):
    """Measure a page of 100 jobs; they are copies of the record of an earlier job."""
    for i in range(100):
        name = f"many-{i}"
        local.rows.add(name, local.rows.get("launch-0") | {"TrainingJobName": name})
    times = [seconds(lambda: local.list_training_jobs(MaxResults=100)) for _ in range(rounds)]
    print(f"100 jobs listed: {statistics.median(times):.3f} s")


def measure_channel(local, folder, rounds):
    gigabyte = folder / "gigabyte"
    gigabyte.mkdir()
    for i in range(10):
        with open(gigabyte / f"{i}.bin", "wb") as f:
            os.posix_fallocate(f.fileno(), 0, 10**8)
    (folder / "staged.py").write_text('print("1 GB is staged")\n')
    times = [stage(local, folder / "staged.py", gigabyte, f"staged-{i}") for i in range(rounds)]
    print(f"1 GB staged: {statistics.median(times):.3f} s")


def stage(local, program, data, name):
    """Run a job with a channel, and return the seconds that it is in the status Downloading."""
    job = TrainingJob(source=program, channels={"training": data}, name=name)
    job.run(local)
    wait(job)
    transitions = {t["Status"]: t for t in job.describe()["SecondaryStatusTransitions"]}
    downloading = transitions["Downloading"]
    return (downloading["EndTime"] - downloading["StartTime"]).total_seconds()


def print_difference(label, baseline, pairs, aim=None):
    """Print the medians of pairs (seconds of the baseline, seconds), and of the differences."""
    baseline_seconds = statistics.median(a for a, _ in pairs)
    median_seconds = statistics.median(b for _, b in pairs)
    difference = statistics.median(b - a for a, b in pairs)
    note = f" (aim: {aim})" if aim else ""
    print(
        f"{label}: {median_seconds:.2f} s; {baseline}: {baseline_seconds:.2f} s; {difference:.2f} s more{note}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        local = LocalSageMaker(folder / "local")
        measure_launch(local, folder, rounds)
        measure_import(rounds)
        measure_list(local, rounds)
        measure_channel(local, folder, rounds)


if __name__ == "__main__":
    main()
