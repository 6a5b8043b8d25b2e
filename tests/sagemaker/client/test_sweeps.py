"""Sweeps where a notebook cannot go: to SageMaker's API, which moto answers; through the trials of a tuning job there;
and on this machine, with every strategy"""

import io
import textwrap
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from helpers import assert_types

from mlkit.sagemaker.api import check_request
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.client.results import JobFailed
from mlkit.sagemaker.client.sweeps import Sweep, TuningRun
from mlkit.sagemaker.client.tuning_request import read_parameter
from mlkit.sagemaker.local.client import LocalSageMaker

ROLE = "arn:aws:iam::123456789012:role/job"

# A program that knows nothing of mlkit: its loss is least at lr=0.01, and lower with every epoch.
PROGRAM = """
    import argparse, os, time
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0)
    args = parser.parse_args()
    if args.lr > 1:
        raise ValueError("no label in rows.csv")
    for epoch in range(args.epochs):
        loss = abs(args.lr - 0.01) + args.width / 100 + 1 / (epoch + 1)
        print(f"[metrics] epoch={epoch + 1} valid_loss={loss:.6g}", flush=True)
        time.sleep(args.seconds)
    open(os.environ["SM_MODEL_DIR"] + "/weights.txt", "w").write(str(args.lr))
"""


@dataclass
class Config:
    epochs: int = 3
    lr: float = field(default=0.1, metadata=dict(range=(1e-4, 1.0), log=True))
    width: int = 8
    seconds: float = 0.0


@pytest.fixture
def folder(tmp_path):
    """A folder with a program in src, and one file of data in training"""
    for name in ("src", "training"):
        (tmp_path / name).mkdir()
    (tmp_path / "src" / "train.py").write_text(textwrap.dedent(PROGRAM))
    (tmp_path / "training" / "rows.csv").write_text("0,1,2\n1,3,4\n")
    return tmp_path


# What goes to SageMaker


def test_what_is_sent_to_sagemaker(session, folder):
    job = TrainingJob(
        Config(),
        folder / "src",
        {"training": folder / "training"},
        role=ROLE,
        spot=True,
        max_run=60,
        environment={"LEVEL": "1"},
        subnets=["subnet-1"],
        security_groups=["sg-1"],
        tags={"team": "a"},
    )
    sweep = Sweep(job, metric="valid_loss", early_stopping=True, name="first")
    request = sweep.request(session)
    session.calls.clear()
    sweep.run(session)
    names = [name for name, _ in session.calls]
    assert next(p for n, p in session.calls if n == "CreateHyperParameterTuningJob") == request
    keys = [p["Key"].rpartition("/")[2] for n, p in session.calls if n == "PutObject"]
    assert keys == ["train.py", "mlkit_sagemaker-0.0.1-py3-none-any.whl", "mlkit_start.py", "rows.csv"]
    assert names.index("CreateHyperParameterTuningJob") > names.index("PutObject"), "the program is there before"
    check_request("CreateHyperParameterTuningJob", request)
    alone = job.request(session)
    definition = request["TrainingJobDefinition"]
    for member in ("InputDataConfig", "VpcConfig", "StoppingCondition", "ResourceConfig", "EnableManagedSpotTraining"):
        assert definition[member] == alone[member], member
    assert definition["Environment"].items() > alone["Environment"].items()
    assert request["Tags"] == alone["Tags"]
    description = sweep.backend.describe()
    assert description["HyperParameterTuningJobConfig"] == request["HyperParameterTuningJobConfig"]
    attached = Sweep.attach("first", session)
    assert (attached.metric, attached.minimize, attached.space) == ("valid_loss", True, sweep.space)
    assert attached.plan.early_stopping


def test_nothing_is_sent_of_a_sweep_that_sagemaker_would_refuse(session, folder):
    def refused(expected, job_options=None, **options):
        job = TrainingJob(Config(), folder / "src", {"training": folder / "training"}, role=ROLE, **job_options or {})
        with pytest.raises(ValueError, match=expected):
            Sweep(job, **options).run(session)
        written = [name for name, _ in session.calls if name.startswith(("Create", "Put"))]
        assert not written, written

    refused("SageMaker does not count the epochs of a sweep", epochs=30)
    refused("at most 32 are allowed", name="a" * 33)
    refused("MaxWaitTimeInSeconds", job_options=dict(more={"StoppingCondition": {"MaxWaitTimeInSeconds": 5}}))
    refused("TensorBoardOutputConfig: it comes from tensorboard", job_options=dict(tensorboard="s3://bucket/tb"))
    refused("warm_start:\nolder: ", warm_start=["older"])
    refused("at most 48 are allowed", job_options=dict(environment={f"N{i}": "1" for i in range(48)}))
    refused("valid min value: 120", max_runtime=100)


class FakeSageMaker:
    """Stands for boto3's client, with the trials of one tuning job."""

    def __init__(self, summaries):
        self.summaries = summaries

    def describe_hyper_parameter_tuning_job(self, **request):
        definition = dict(AlgorithmSpecification=dict(MetricDefinitions=[dict(Name="loss", Regex="loss: ([0-9.]+)")]))
        return dict(HyperParameterTuningJobStatus="InProgress", TrainingJobDefinition=definition)

    def get_paginator(self, operation):
        assert operation == "list_training_jobs_for_hyper_parameter_tuning_job"
        half = len(self.summaries) // 2
        pages = [dict(TrainingJobSummaries=part) for part in (self.summaries[:half], self.summaries[half:])]
        return SimpleNamespace(paginate=lambda **request: pages)


class FakeTarget:
    """Stands for SageMaker: logs are lists of lines, and it counts how often each was read."""

    def __init__(self, summaries, logs):
        self.client = FakeSageMaker(summaries)
        self.logs = logs
        self.reads = []

    def lines(self, name, positions):
        self.reads.append(name)
        begin = positions.get(name, 0)
        positions[name] = len(self.logs.get(name, []))
        yield from (("algo-1", line) for line in self.logs.get(name, [])[begin:])


def summary(number, status, value=None, **fields):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    job = dict(
        TrainingJobName=f"sweep-{number:03d}-1a2b3c4d",
        TrainingJobStatus=status,
        TunedHyperParameters={"lr": f"0.{number}", "kind": '"adam"'},
        TrainingStartTime=at,
        TrainingEndTime=at + timedelta(seconds=9),
    )
    if value is not None:
        job["FinalHyperParameterTuningJobObjectiveMetric"] = dict(MetricName="loss", Value=value)
    return job | fields


def test_the_trials_of_a_tuning_job_of_sagemaker():
    """States, values and curves are read from the list of jobs and their logs; a log that is complete is read once."""
    summaries = [
        summary(1, "Completed", 0.2),
        summary(2, "Stopped", 0.7),
        summary(3, "Failed", FailureReason="AlgorithmError: ValueError: no label"),
        summary(4, "Completed", 0.4),  # its metric is not in the log
        summary(5, "Completed"),  # it has no metric at all
        summary(6, "InProgress"),
    ]
    logs = {
        "sweep-001-1a2b3c4d": ["epoch 1 loss: 0.5", "epoch 2 loss: 0.2"],
        "sweep-002-1a2b3c4d": ["loss: 0.7"],
        "sweep-006-1a2b3c4d": ["epoch 1 loss: 0.9"],
    }
    target = FakeTarget(summaries, logs)
    run = TuningRun(target, "sweep", "loss", lambda name, text: read_parameter(text, name, {}, {}))
    trials = run.trials()
    assert [trial.number for trial in trials] == list(range(6))
    assert [trial.state for trial in trials] == ["completed", "stopped", "failed", "completed", "failed", "running"]
    assert [trial.value for trial in trials] == [0.2, 0.7, None, 0.4, None, 0.9]
    assert trials[0].curve == [0.5, 0.2]
    assert trials[0].parameters == {"lr": 0.1, "kind": "adam"}
    assert (trials[2].reason, trials[4].reason) == (
        "AlgorithmError: ValueError: no label",
        "the job has not reported loss",
    )
    assert trials[0].seconds == 9
    target.reads.clear()
    logs["sweep-006-1a2b3c4d"].append("epoch 2 loss: 0.8")
    assert run.trials()[5].curve == [0.9, 0.8]
    assert target.reads == ["sweep-006-1a2b3c4d"], "only of the job that runs"


def test_the_epochs_of_a_spot_trial_that_was_interrupted_count_once():
    logs = {"sweep-001-1a2b3c4d": ["epoch 1 loss: 0.5", "epoch 2 loss: 0.4", "epoch 2 loss: 0.4", "epoch 3 loss: 0.3"]}
    run = TuningRun(FakeTarget([summary(1, "Completed", 0.3)], logs), "sweep", "loss", lambda name, text: text)
    assert run.trials()[0].curve == [0.5, 0.4, 0.3]


# On this machine


def test_a_sweep_from_its_start_to_its_best_job(folder):
    local = LocalSageMaker(folder / "local")
    job = TrainingJob(Config(), folder / "src", {"training": folder / "training"})
    sweep = Sweep(job, {"lr": [0.5, 0.01, 2.0]}, strategy="grid", parallel=2, name="grid")
    shown = io.StringIO()
    assert sweep.run(local).follow(shown) is sweep
    assert sweep.status == "Completed"
    assert [(trial.parameters["lr"], trial.state) for trial in sweep.trials()] == [
        (0.5, "completed"),
        (0.01, "completed"),
        (2.0, "failed"),
    ]
    assert "ValueError: no label in rows.csv" in sweep.trials()[2].reason
    assert "completed: trial 1: valid_loss 0.4133, lr=0.01" in shown.getvalue()
    assert "completed, best" in shown.getvalue()
    assert sweep.best_config() == Config(lr=0.01)
    best = sweep.best_job()
    assert best.status == "Completed"
    assert (best.fetch(folder / "model") / "weights.txt").read_text() == "0.01"
    assert best.options.entry == "train.py"
    frame = sweep.to_pandas()
    assert list(frame["valid_loss"])[:2] == [trial.value for trial in sweep.trials()[:2]]
    assert frame["seconds"].notna().all()
    attached = Sweep.attach("grid", local)
    assert attached.trials() == sweep.trials()
    assert attached.best_config()["lr"] == 0.01 and attached.best_config()["epochs"] == 3
    assert_types(attached.best_config(), lr=float, epochs=int)
    warm = Sweep(job, {"lr": (1e-3, 0.5)}, trials=1, name="warm", warm_start=sweep)
    assert warm.request(local)["WarmStartConfig"]["WarmStartType"] == "IdenticalDataAndAlgorithm"
    with pytest.raises(ValueError, match="warm_start:\nother: "):
        Sweep(job, {"lr": (1e-3, 0.5)}, warm_start=["other"]).request(local)


@pytest.mark.long
def test_a_sweep_whose_trials_all_fail_says_why(folder):
    local = LocalSageMaker(folder / "local")
    sweep = Sweep(TrainingJob(Config(), folder / "src"), {"lr": (2.0, 3.0)}, strategy="random", parallel=2)
    with pytest.raises(JobFailed, match="no label in rows.csv"):
        sweep.run(local).wait(120)
    assert len(sweep.trials()) < 20
    with pytest.raises(ValueError, match="no label in rows.csv"):
        sweep.best_trial()


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["bayesian", "random", "grid", "hyperband"])
def test_every_strategy(folder, strategy):
    local = LocalSageMaker(folder / "local")
    search = {"lr": [0.01, 0.1, 0.5, 0.9]} if strategy == "grid" else {"lr": (1e-3, 0.9)}
    job = TrainingJob(Config(), folder / "src")
    sweep = Sweep(job, search, trials=4, strategy=strategy, parallel=2).run(local).wait(300)
    assert sweep.status == "Completed"
    trials = sweep.trials()
    assert len(trials) == 4
    assert sweep.best_trial().value == min(trial.value for trial in trials if len(trial.curve) == 3)
    assert Sweep(job, search, trials=4, strategy=strategy, parallel=1).run(local).wait(300).status == "Completed"


@pytest.mark.long
def test_a_budget_of_epochs_and_a_stop(folder):
    local = LocalSageMaker(folder / "local")
    job = TrainingJob(Config(seconds=0.2), folder / "src")
    budget = Sweep(job, {"lr": (1e-3, 0.9)}, epochs=7).run(local).wait(300)
    assert budget.status == "Completed"
    assert 7 <= sum(len(trial.curve) for trial in budget.trials()) <= 9
    endless = Sweep(TrainingJob(Config(seconds=60.0), folder / "src"), {"lr": (1e-3, 0.9)}, trials=5).run(local)
    with pytest.raises(TimeoutError, match="has not ended after 0 seconds"):
        endless.wait(0)
    endless.stop()
    assert endless.wait(300).status == "Stopped"
    assert all(trial.has_ended for trial in endless.trials())
