"""Measure sweeps over a function: what early stopping saves, what a trial costs, and Optuna and others on the same.

    python benchmarks/sweeps.py asha [--tables digits cancer] [--seeds 3] [--real]
    python benchmarks/sweeps.py optuna [--seeds 3] [--trials 20]
    python benchmarks/sweeps.py peers --python PYTHON [--seeds 3]
    python benchmarks/sweeps.py overhead [--trials 10]

- asha: strategy="hyperband" against 27 trials in full, for a small network on three tables: what it finds in as many
  trials, and after how many epochs it is as good as the best in full, with at most 81 trials. Trials of one number have
  the same hyperparameters. Curves are trained once in full, and the halving is performed on them; --real runs the sweep
  in processes, too, and compares each trial's curve with that in full
- optuna: Optuna alone, in one process, and the sweep with strategy="bayesian": seconds, and the best value
- peers: Ray Tune's and Syne Tune's asynchronous successive halving, and ours: seconds, epochs, and the best value.
  PYTHON has the packages of benchmarks/peers_sweeps.txt
- overhead: on this machine, the seconds of a training job and of the same job as a trial of a sweep; and the seconds
  of a trial of a function that does nothing
"""

import argparse
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the network is small, and all contestants run one trial at a time

import sweep_task
from sweep_task import EPOCHS, SEARCH, TABLES, TRIALS

from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.client.sweeps import Sweep
from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.sagemaker.local.function_sweeps import Budget, FunctionSweep
from mlkit.sagemaker.search.space import make_space, with_parameters
from mlkit.sagemaker.search.stopping import Halving
from mlkit.sagemaker.search.strategy import suggest
from mlkit.sagemaker.search.trials import Trial, best_trial
from mlkit.text import Table

METRIC = "valid_loss"
HALVINGS = Halving(1, EPOCHS), Halving(3, EPOCHS), Halving(3, EPOCHS, reduction=2)
MOST_TRIALS = 81  # until one is as good as the best of all in full


def make_sweep(folder, table, name, function=sweep_task.train, **options):
    config = sweep_task.first_config(folder, table)
    options = {"minimize": True, "budget": Budget(trials=TRIALS), "folder": Path(folder) / "sweeps", **options}
    return FunctionSweep(function, make_space(config, SEARCH), config, METRIC, name=name, **options)


def run_sweep(*args, **options):
    """Return a sweep that has ended, and its seconds."""
    sweep = make_sweep(*args, **options)
    started_at = time.perf_counter()
    sweep.start()
    sweep.wait()
    seconds = time.perf_counter() - started_at
    failed = [trial.reason for trial in sweep.trials() if trial.state == "failed"]
    if failed or sweep.status != "Completed":
        raise RuntimeError(f"{sweep}: {failed}")
    return sweep, seconds


def total_epochs(trials):
    return sum(len(trial.curve) for trial in trials)


# What early stopping saves


class WholeTrials:
    """The trials of a random search, each trained in full when it is asked for."""

    def __init__(self, folder, table, seed):
        self.config = sweep_task.first_config(folder, table)
        self.space = make_space(self.config, SEARCH)
        self.seed = seed
        self.trials = []

    def __getitem__(self, number):
        while len(self.trials) <= number:
            parameters = suggest(self.space, "random", len(self.trials), self.trials, self.seed, minimize=True)
            history = sweep_task.train_whole(with_parameters(self.config, parameters))
            self.trials.append(Trial(len(self.trials), parameters, "completed", history[METRIC]))
        return self.trials[number]


def halve(whole, halving, limit, target=None):
    """Return the trials that the halving makes of these, one at a time, until one is as good as the target."""
    trials = []
    while True:
        trial = halving.promoted(trials, minimize=True)
        if trial is None and len(trials) == limit:
            trial = halving.finalist(trials, minimize=True)
            if trial is None:
                return trials
        if trial is None:
            trial = Trial(len(trials), whole[len(trials)].parameters)
            trials.append(trial)
        rung = halving.next_rung(trial)
        trial.curve = whole[trial.number].curve[:rung]
        trial.state = "completed" if rung == halving.max_epochs else "paused"
        if target is not None and best_trial(trials, True).value <= target:
            return trials


def measure_asha(folder, tables, seeds, is_real):
    rows = []
    for table in tables:
        for seed in range(seeds):
            whole = WholeTrials(folder, table, seed)
            full = [whole[number] for number in range(TRIALS)]
            for halving in HALVINGS:
                rows.append([table, seed, _name(halving), *compare(whole, full, halving)])
            if is_real and seed == 0:
                check_real(folder, table, whole)
            print(f"{table} {seed}: done", file=sys.stderr)
    header = ["table", "seed", "halving", "best in full", "best of as many", "epochs", "share", "trial"]
    print(Table([*header, "trials until as good", "epochs", "share"], rows))
    for halving in HALVINGS:
        shares = [row[-1] for row in rows if row[2] == _name(halving)]
        print(
            f"{_name(halving)}: for the same best a median of {statistics.median(shares):.2f} of the epochs, "
            f"{min(shares):.2f} to {max(shares):.2f}"
        )


def _name(halving):
    return f"from {halving.min_epochs}, 1 of {halving.reduction}"


def compare(whole, full, halving):
    """Return what the halving finds in as many trials, and how many it takes until it is as good as all in full."""
    best = best_trial(full, True)
    trials = halve(whole, halving, TRIALS)
    best_of_halving = best_trial(trials, True)
    which = "the same" if best_of_halving.number == best.number else "another"
    until = halve(whole, halving, MOST_TRIALS, target=best.value)
    epochs = total_epochs(until)
    share = epochs / total_epochs(full)
    is_as_good = best_trial(until, True).value <= best.value
    return (
        best.value,
        best_of_halving.value,
        total_epochs(trials),
        total_epochs(trials) / total_epochs(full),
        which,
        len(until) if is_as_good else f"not in {len(until)}",
        epochs,
        share if is_as_good else math.inf,
    )


def check_real(folder, table, whole):
    """Run the sweep in processes, with pauses and promotions, and compare it with the trials in full."""
    halving = Halving(1, EPOCHS)
    sweep, seconds = run_sweep(folder, table, f"real-{table}", strategy="hyperband", halving=halving)
    trials = sweep.trials()
    expected = halve(whole, halving, TRIALS)
    exact = sum(trial.curve == whole[trial.number].curve[: len(trial.curve)] for trial in trials)
    same = [len(trial.curve) for trial in trials] == [len(trial.curve) for trial in expected]
    print(
        f"{table}: {len(trials)} trials in processes, {total_epochs(trials)} epochs, {seconds:.0f} s; {exact} curves "
        f"are bit for bit those in full; {'the same' if same else 'OTHER'} promotions",
        flush=True,
    )


# Optuna alone


def run_optuna(folder, table, seed, trials):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial):
        changes = {
            "lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True),
            "width": trial.suggest_int("width", 4, 128, log=True),
            "dropout": trial.suggest_float("dropout", 0.0, 0.6),
            "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1.0, log=True),
        }
        return sweep_task.train_whole(sweep_task.first_config(folder, table) | changes)[METRIC][-1]

    path = Path(folder) / f"optuna-{table}-{seed}.db"
    study = optuna.create_study(storage=f"sqlite:///{path}", sampler=optuna.samplers.TPESampler(seed=seed))
    started_at = time.perf_counter()
    study.optimize(objective, n_trials=trials)
    return time.perf_counter() - started_at, study.best_value


def measure_optuna(folder, tables, seeds, trials):
    rows = []
    for table in tables:
        for seed in range(seeds):
            seconds, best = run_optuna(folder, table, seed, trials)
            row = [table, seed, seconds, best]
            for parallel in (1, 2):
                options = dict(seed=seed, parallel=parallel, budget=Budget(trials=trials))
                name = f"optuna-{table}-{seed}-{parallel}"
                sweep, seconds = run_sweep(folder, table, name, sweep_task.train_whole, **options)
                row += [seconds, best_trial(sweep.trials(), True).value]
            rows.append(row)
            print(Table(["table", "seed", "Optuna s", "best", "mlkit s", "best", "two at once s", "best"], rows))


# Others


def measure_peers(folder, tables, seeds, python):
    rows = []
    for table in tables:
        for seed in range(seeds):
            options = dict(strategy="hyperband", halving=Halving(1, EPOCHS), seed=seed)
            sweep, seconds = run_sweep(folder, table, f"peers-{table}-{seed}", **options)
            trials = sweep.trials()
            rows.append([table, seed, "mlkit", seconds, total_epochs(trials), best_trial(trials, True).value])
            for peer in ("ray", "syne"):
                command = [python, str(Path(__file__).with_name("peers_sweeps.py")), peer, folder, table, str(seed)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                result = json.loads(output.splitlines()[-1])
                rows.append([table, seed, peer, result["seconds"], result["epochs"], result["best"]])
            print(Table(["table", "seed", "by", "seconds", "epochs", "best"], rows), flush=True)


# What a trial costs


def nothing(config):
    return config["lr"]


def measure_function_overhead(folder, trials):
    totals = {}
    for n in (2, 1, trials + 1):  # the first warms up
        options = dict(strategy="random", budget=Budget(trials=n))
        _, totals[n] = run_sweep(folder, "digits", f"nothing-{n}", nothing, **options)
    started_at = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    python = time.perf_counter() - started_at
    trial = (totals[trials + 1] - totals[1]) / trials
    print(f"a trial of a function that does nothing: {trial:.2f} s; Python with NumPy: {python:.2f} s")


PROGRAM = """
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
print(f"valid_loss={parser.parse_args().lr}")
"""


def measure_job_overhead(folder, trials):
    """Compare the trials of a tuning job, one at a time, with training jobs of the same program."""
    source = Path(folder) / "job"
    source.mkdir()
    (source / "train.py").write_text(PROGRAM)
    local = LocalSageMaker(Path(folder) / "local")
    seconds = []
    for _ in range(trials):
        started_at = time.perf_counter()
        TrainingJob(source=source / "train.py").run(local).follow(io.StringIO())
        seconds.append(time.perf_counter() - started_at)
    job = statistics.median(seconds)
    totals = {}
    for n in (1, trials + 1):  # what the tuning job takes once is in both
        started_at = time.perf_counter()
        sweep = Sweep(TrainingJob(source=source / "train.py"), {"lr": (0.1, 1.0)}, strategy="random", trials=n)
        sweep.run(local)
        while sweep.status == "InProgress":
            time.sleep(0.05)
        totals[n] = time.perf_counter() - started_at
    trial = (totals[trials + 1] - totals[1]) / trials
    print(f"a training job: {job:.2f} s; as a trial: {trial:.2f} s, {trial - job:+.2f} s")
    print(f"a sweep with one trial: {totals[1]:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["asha", "optuna", "peers", "overhead"])
    parser.add_argument("--tables", nargs="*", default=TABLES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sweep_task.write_tables(folder)
        if options.what == "asha":
            measure_asha(folder, options.tables, options.seeds, options.real)
        elif options.what == "optuna":
            measure_optuna(folder, options.tables, options.seeds, options.trials)
        elif options.what == "peers":
            measure_peers(folder, options.tables, options.seeds, options.python)
        else:
            measure_function_overhead(folder, options.trials)
            measure_job_overhead(folder, options.trials)


if __name__ == "__main__":
    main()
