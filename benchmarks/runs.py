"""Measure how long the list of runs takes with many jobs on this machine: medians of some rounds.

    python benchmarks/runs.py [--jobs 10000] [--rounds 5]

One job runs. The others are records like its own, added to the store as the local SageMaker adds them, with other
names, times, hyperparameters and metrics; the first twenty have a file of metrics as well, which a comparison reads.
The store is in memory if the system allows it: adding jobs waits for the disk, showing them does not.

- show: `runs()` and its first page; with and without what was read before, and after a change
- sort, filter, page: what a click does in the kernel
- compare: ten jobs, in a table and a figure
- list: a page of 100 of `list_training_jobs`, and all pages
"""

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from mlkit.notebook import runs
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.local.client import LocalSageMaker

PROGRAM = """
for n in range(1, 51):
    print(f'[metrics] epoch={n} train_loss={1 / n} valid_loss={1.2 / n} valid_accuracy={1 - 1 / n}')
"""


def seconds(f):
    """Return how long a call of `f` takes."""
    started_at = time.perf_counter()
    f()
    return time.perf_counter() - started_at


def run_one_job(local, folder):
    """Run a job, and return its record in the store."""
    (folder / "train.py").write_text(PROGRAM)
    config = {"learning_rate": 0.01, "hidden_dim": 50, "optimizer": "adam", "epochs": 50, "batch_size": 32, "seed": 0}
    job = TrainingJob(config, folder / "train.py", name="first").run(local)
    with open("/dev/null", "w") as out:
        job.follow(out)
    return local.rows.get("first")


def add_jobs(local, record, count):
    """Add records like that of a job that has run; the newest has the lowest number."""
    rng = random.Random(0)
    for i in range(count - 1, 0, -1):
        name = f"search-20261128-{i:06}-1a2b"
        hours = timedelta(hours=i)
        times = {key: value - hours for key, value in record.items() if key.endswith("Time")}
        hyperparameters = {
            "learning_rate": str(10 ** rng.uniform(-5, -1)),
            "hidden_dim": str(rng.choice([16, 32, 64, 128])),
            "optimizer": rng.choice(["adam", "sgd"]),
            "seed": str(i),
        }
        changes = {
            "TrainingJobName": name,
            "TrainingJobArn": record["TrainingJobArn"].replace("first", name),
            "HyperParameters": record["HyperParameters"] | hyperparameters,
            "FinalMetricDataList": [dict(metric, Value=rng.random()) for metric in record["FinalMetricDataList"]],
        }
        local.rows.add(name, record | times | changes)
        if i <= 20:
            local.folder(name).mkdir()
            shutil.copy(local.folder("first") / "metrics.jsonl", local.folder(name))


def measure(label, f, rounds):
    times = [seconds(f) for _ in range(rounds)]
    print(f"{label}: {1000 * statistics.median(times):.0f} ms (first: {1000 * times[0]:.0f} ms)", flush=True)


def measure_list(local, rounds):
    measure("list: a page of 100", lambda: local.list_training_jobs(MaxResults=100), rounds)

    def list_all():
        pages = local.get_paginator("list_training_jobs").paginate(PaginationConfig={"PageSize": 100})
        return sum(len(page["TrainingJobSummaries"]) for page in pages)

    measure("list: all pages", list_all, rounds)


def measure_runs(local, rounds):
    measure("show", lambda: runs(local), rounds)
    measure("show, nothing read before", lambda: runs(LocalSageMaker(local.root)), rounds)
    table = runs(local)

    def change_and_refresh():
        local.rows.change("first", lambda record: None)
        table.refresh()

    measure("refresh after a change", change_and_refresh, rounds)
    measure("sort by a metric", lambda: table.sort("valid_loss"), rounds)
    measure("sort by a hyperparameter", lambda: table.sort("learning_rate"), rounds)
    measure("next page", lambda: table.show_page(table.rows.page + 1), rounds)

    def filter_jobs():
        table.filter.value = "" if table.filter.value else "search optimizer=adam valid_loss<0.3"

    measure("filter", filter_jobs, rounds)
    table.filter.value = ""
    table.sort("started", descending=True)
    for job in table.jobs[:10]:
        table.checkboxes[job.name].value = True
    measure("compare 10 jobs", lambda: table.compare()._repr_html_(), rounds)
    measure("to pandas", table.to_pandas, rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.path.isdir(memory) else None) as folder:
        folder = Path(folder)
        local = LocalSageMaker(folder / "local")
        record = run_one_job(local, folder)
        print(f"adding {args.jobs:,} jobs: {seconds(lambda: add_jobs(local, record, args.jobs)):.1f} s", flush=True)
        measure_runs(local, args.rounds)
        measure_list(local, args.rounds)


if __name__ == "__main__":
    main()
