"""Run the sweep of benchmarks/sweep_task.py by Ray Tune or Syne Tune, and print what it took as JSON.

    PYTHON benchmarks/peers_sweeps.py ray|syne FOLDER TABLE SEED

PYTHON is one with the packages of benchmarks/peers_sweeps.txt, and mlkit, which trains. Both search by their own
asynchronous successive halving: 27 trials of at most 27 epochs, one at a time.
"""

import json
import os
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import sweep_task

METRIC = "valid_loss"


def run_ray(folder, table, seed):
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_raylet_start_wait_time_s"] = "300"  # on a busy machine
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    class Report:
        def after_epoch(self, trainer):
            tune.report({METRIC: trainer.last_metrics[METRIC]})

    def trainable(config):
        sweep_task.fit(config, [Report()])

    environment = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", runtime_env={"env_vars": environment})
    space = sweep_task.first_config(folder, table) | {
        "lr": tune.loguniform(1e-4, 1e-1),
        "width": tune.lograndint(4, 129),
        "dropout": tune.uniform(0.0, 0.6),
        "weight_decay": tune.loguniform(1e-6, 1.0),
    }
    scheduler = ASHAScheduler(max_t=sweep_task.EPOCHS, grace_period=1, reduction_factor=3)
    options = dict(num_samples=sweep_task.TRIALS, max_concurrent_trials=1, scheduler=scheduler)
    from ray.tune.search.basic_variant import BasicVariantGenerator

    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=METRIC, mode="min", search_alg=BasicVariantGenerator(random_state=seed), **options
        ),
        run_config=tune.RunConfig(storage_path=str(Path(folder) / "ray"), verbose=0),
    )
    results = tuner.fit()
    epochs = sum(result.metrics["training_iteration"] for result in results)
    return epochs, min(result.metrics[METRIC] for result in results)


def run_syne(folder, table, seed):
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import lograndint, loguniform, uniform
    from syne_tune.experiments import load_experiment
    from syne_tune.optimizer.baselines import ASHA

    space = {
        "lr": loguniform(1e-4, 1e-1),
        "width": lograndint(4, 128),
        "dropout": uniform(0.0, 0.6),
        "weight_decay": loguniform(1e-6, 1.0),
        "data": sweep_task.first_config(folder, table)["data"],
    }
    scheduler = ASHA(space, metric=METRIC, time_attr="epoch", max_t=sweep_task.EPOCHS, random_seed=seed)
    tuner = Tuner(
        trial_backend=LocalBackend(entry_point=__file__),
        scheduler=scheduler,
        stop_criterion=StoppingCriterion(max_num_trials_started=sweep_task.TRIALS),
        n_workers=1,
        sleep_time=0.1,
        print_update_interval=10**6,
    )
    tuner.run()
    results = load_experiment(tuner.name).results
    last = results.sort_values("epoch").groupby("trial_id").last()
    return int(last["epoch"].sum()), float(last[METRIC].min())


def train_for_syne(arguments):
    """Train as a trial of Syne Tune, which starts this file with the hyperparameters."""
    from syne_tune import Reporter

    parser = ArgumentParser()
    for name in ("lr", "dropout", "weight_decay"):
        parser.add_argument(f"--{name}", type=float)
    parser.add_argument("--width", type=int)
    parser.add_argument("--data")
    options, _ = parser.parse_known_args(arguments)
    reporter = Reporter()

    class Report:
        def after_epoch(self, trainer):
            reporter(epoch=trainer.epoch, **{METRIC: trainer.last_metrics[METRIC]})

    sweep_task.fit(vars(options), [Report()])


def main(peer, folder, table, seed):
    started_at = time.perf_counter()
    epochs, best = {"ray": run_ray, "syne": run_syne}[peer](folder, table, int(seed))
    print(json.dumps(dict(seconds=time.perf_counter() - started_at, epochs=epochs, best=best)))


if __name__ == "__main__":
    if sys.argv[1].startswith("--"):
        train_for_syne(sys.argv[1:])
    else:
        main(*sys.argv[1:])
