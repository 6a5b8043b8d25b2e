"""Tuning jobs of LocalSageMaker: killed at any moment, paused and promoted bit for bit, failures told apart."""

import json
import os
import random
import re
import signal
import subprocess
import tarfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from botocore.exceptions import ClientError
from helpers import CONFORMANCE, environment, running
from safetensors.torch import load

from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.sagemaker.local.service import RUNNING_STATUSES
from mlkit.sagemaker.local.store import RecordTable, now
from mlkit.sagemaker.local.tuning_jobs import TUNING_JOB
from mlkit.sagemaker.local.tuning_plan import PAUSE_VARIABLE
from mlkit.sagemaker.local.tuning_runner import TuningRunner
from mlkit.sagemaker.search.strategy import import_optuna

METRIC = "valid_loss"
HYPERBAND = dict(Strategy="Hyperband", StrategyConfig=dict(HyperbandStrategyConfig=dict(MinResource=1, MaxResource=9)))


def make_request(name="iris", trials=6, parallel=1, checkpoints=True, definition=None, **config):
    """Return a request whose program is train.py in the channel `code`. config: of HyperParameterTuningJobConfig."""
    source = dict(S3DataSource=dict(S3DataType="S3Prefix", S3Uri="s3://bucket/code"))
    job = dict(
        StaticHyperParameters=dict(
            epochs="9", sagemaker_program="train.py", sagemaker_submit_directory="/opt/ml/input/data/code"
        ),
        AlgorithmSpecification=dict(
            TrainingImage="training",
            TrainingInputMode="File",
            MetricDefinitions=[dict(Name=METRIC, Regex=r"valid_loss=(\S+)")],
        ),
        RoleArn="arn:aws:iam::123456789012:role/job",
        InputDataConfig=[dict(ChannelName="code", DataSource=source)],
        OutputDataConfig=dict(S3OutputPath="s3://bucket/jobs"),
        ResourceConfig=dict(InstanceType="ml.m5.large", InstanceCount=1, VolumeSizeInGB=30),
        StoppingCondition=dict(MaxRuntimeInSeconds=600),
        RetryStrategy=dict(MaximumRetryAttempts=30),
    )
    if checkpoints:
        job["CheckpointConfig"] = dict(S3Uri="s3://bucket/checkpoints")
    return dict(
        HyperParameterTuningJobName=name,
        HyperParameterTuningJobConfig=dict(
            Strategy="Random",
            HyperParameterTuningJobObjective=dict(Type="Minimize", MetricName=METRIC),
            ResourceLimits=dict(MaxNumberOfTrainingJobs=trials, MaxParallelTrainingJobs=parallel),
            ParameterRanges=range_of_lr("Logarithmic"),
            RandomSeed=1,
        )
        | config,
        TrainingJobDefinition=job | (definition or {}),
    )


def range_of_lr(scale):
    return dict(ContinuousParameterRanges=[dict(Name="lr", MinValue="0.001", MaxValue="1", ScalingType=scale)])


def table_of(local, name="iris"):
    return [(t.number, t.parameters, t.state, t.curve, t.reason) for t in local.tuning_trials(name)]


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the product catches it."""


class CrashingTable(RecordTable):
    """A table of which each change is preceded and followed by a moment at which the process may die."""

    service = None

    def change(self, name, update):
        self.service.moment()
        record = super().change(name, update)
        self.service.moment()
        return record


class SimulatedJobs(LocalSageMaker):
    """Tuning jobs whose training jobs train an epoch each time they are described, and whose process can die.

    The training jobs are in memory, and live on when the process dies, as those of a machine do.
    """

    crash_at = None  # moment
    n_moments = 0
    epochs = 9  # of a trial
    stop_after = None  # epochs of all trials, after which the user stops the tuning job
    knows_pauses = True  # whether the program stops by itself after MLKIT_PAUSE_EPOCH

    def __init__(self, root):
        super().__init__(root)
        self.jobs = {}
        self.checkpoints = {}  # epochs by place
        self.trained = []  # (place, epoch), of all epochs that were trained
        self.seen_again = set()  # jobs that have not trained on since a process died
        self.rows = self.jobs

    @property
    def tunings(self):
        table = CrashingTable(self.root / "jobs.db", "tunings")
        table.service = self
        return table

    def moment(self):
        self.n_moments += 1
        if self.n_moments == self.crash_at:
            self.seen_again = set(self.jobs)
            raise Killed

    def _start_tuner(self, name, lock):
        os.close(lock)

    def _is_running(self, kind, name):
        return True

    def check_training_job(self, request):
        pass

    def start_training_job(self, request, **fields):
        self.moment()
        name = request["TrainingJobName"]
        assert name not in self.jobs, f"{name} was started twice"
        self.jobs[name] = request | fields | dict(TrainingJobStatus="InProgress", CreationTime=now())
        self.folder(name).mkdir(parents=True)
        self.moment()

    def describe_training_job(self, TrainingJobName):
        job = self.jobs[TrainingJobName]
        if TrainingJobName in self.seen_again:
            self.seen_again.remove(TrainingJobName)
        elif job["TrainingJobStatus"] == "Stopping":
            self.end(job, "Stopped")
        elif job["TrainingJobStatus"] == "InProgress":
            self.train(job)
        return dict(job)

    def train(self, job):
        """Train an epoch from the checkpoint."""
        name = job["TrainingJobName"]
        place = job.get("CheckpointConfig", {}).get("S3Uri", name)
        epoch = self.checkpoints.get(place, 0) + 1
        self.checkpoints[place] = epoch
        self.trained.append((place, epoch))
        if len(self.trained) == self.stop_after:
            stopping = dict(HyperParameterTuningJobStatus="Stopping")
            RecordTable(self.root / "jobs.db", "tunings").change("iris", lambda record: record.update(stopping))
        value = float(job["HyperParameters"]["lr"]) + 0.1 / epoch
        with open(self.folder(name) / "metrics.jsonl", "a") as f:
            for metric, number in {"epoch": epoch, METRIC: value}.items():
                f.write(json.dumps(dict(MetricName=metric, Value=number, Line=epoch)) + "\n")
        if epoch == self.epochs:
            self.end(job, "Completed")
        elif self.knows_pauses and str(epoch) == job.get("Environment", {}).get(PAUSE_VARIABLE):
            self.end(job, "Stopped")

    def end(self, job, status):
        job |= dict(TrainingJobStatus=status, SecondaryStatus=status, TrainingEndTime=now())

    def stop_training_job(self, TrainingJobName):
        self.moment()
        if self.jobs[TrainingJobName]["TrainingJobStatus"] == "InProgress":
            self.jobs[TrainingJobName]["TrainingJobStatus"] = "Stopping"
        self.moment()


@pytest.fixture(autouse=True, scope="module")
def quiet_optuna():
    logging = import_optuna().logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    yield
    logging.set_verbosity(verbosity)


def simulate(root, request, crash_at=None, **options):
    """Run a tuning job; kill its process at a moment, and start another. Return the service."""
    service = SimulatedJobs(root)
    vars(service).update(options)
    service.create_hyper_parameter_tuning_job(**request)
    name = request["HyperParameterTuningJobName"]
    service.n_moments = 0
    service.crash_at = crash_at
    while True:
        with suppress(Killed):
            runner = TuningRunner(service, name)
            runner.interval = 0
            runner.limit = request["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxParallelTrainingJobs"]
            runner.run()
            return service
        assert service.n_moments == crash_at


SIMULATIONS = {
    "random": (make_request(parallel=2), {}),
    "grid": (
        make_request(
            Strategy="Grid",
            ParameterRanges=dict(CategoricalParameterRanges=[dict(Name="lr", Values=["0.5", "0.1", "0.3"])]),
            ResourceLimits=dict(MaxParallelTrainingJobs=1),
        ),
        {},
    ),
    "bayesian": (make_request(Strategy="Bayesian", trials=12), {}),
    "early stopping": (
        make_request(TrainingJobEarlyStoppingType="Auto", trials=12, ParameterRanges=range_of_lr("Linear")),
        {},
    ),
    "hyperband": (make_request(trials=9, **HYPERBAND), {}),
    "hyperband of a program that does not pause": (make_request(trials=9, **HYPERBAND), dict(knows_pauses=False)),
    "hyperband without checkpoints": (make_request(trials=9, checkpoints=False, **HYPERBAND), {}),
    "stopped": (make_request(), dict(stop_after=12)),
    "stopped hyperband": (make_request(trials=9, **HYPERBAND), dict(stop_after=6)),
    "target": (make_request(TuningJobCompletionCriteria=dict(TargetObjectiveMetricValue=0.13)), {}),
}


SHORT = ("random", "hyperband", "hyperband without checkpoints", "stopped hyperband")


@pytest.mark.parametrize(
    "kind", [kind if kind in SHORT else pytest.param(kind, marks=pytest.mark.long) for kind in SIMULATIONS]
)
def test_killed_at_each_moment(tmp_path, kind, request):
    """Whatever the process was about to do, another one comes to the same trials, and trains no epoch twice."""
    tuning_request, options = SIMULATIONS[kind]
    whole = simulate(tmp_path / "whole", tuning_request, **options)
    table = table_of(whole)
    check_result(whole, kind)
    moments = range(1, whole.n_moments + 1)
    if not request.config.getoption("--long"):
        moments = random.Random(0).sample(moments, 1)
    for moment in moments:
        service = simulate(tmp_path / str(moment), tuning_request, moment, **options)
        assert table_of(service) == table, moment
        assert len(service.trained) == len(set(service.trained)), f"an epoch was trained twice, moment {moment}"
        assert service.jobs.keys() == {
            name for trial in service.tunings.get("iris")["Trials"] for name in trial["jobs"]
        }


MOST_EPOCHS = {"early stopping": 0.95, "hyperband": 0.5, "hyperband without checkpoints": 0.7}


def check_result(service, kind):
    """Check that the best trial was trained to its end, and that the strategy has saved as many epochs as it can."""
    description = service.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="iris")
    trials = service.tuning_trials("iris")
    if "stopped" in kind:
        assert description["HyperParameterTuningJobStatus"] == "Stopped"
        assert all(trial.has_ended for trial in trials) and len(service.trained) < 20
        return
    assert description["HyperParameterTuningJobStatus"] == "Completed", description
    limits = description["HyperParameterTuningJobConfig"]["ResourceLimits"]
    assert kind == "target" or len(trials) == limits.get("MaxNumberOfTrainingJobs", 3)
    best = min(trials, key=lambda trial: trial.curve[-1])
    assert description["BestTrainingJob"]["TrainingJobName"] == best.job
    assert len(best.curve) == 9
    assert {trial.state for trial in trials} <= {"completed", "stopped"}
    share = len(service.trained) / (9 * len(trials))
    assert share == 1 if kind in ("random", "grid", "bayesian") else share < MOST_EPOCHS.get(kind, 1.01), share
    for trial in trials:
        lr = float(trial.parameters["lr"])
        assert trial.curve == [lr + 0.1 / epoch for epoch in range(1, len(trial.curve) + 1)]


# A program that trains an epoch in 50 ms, and continues from its checkpoint.
PROGRAM = """
import json, pathlib, time
h = json.load(open("/opt/ml/input/config/hyperparameters.json"))
path = pathlib.Path("/opt/ml/checkpoints/epoch")
first = int(path.read_text()) + 1 if path.exists() else 1
for epoch in range(first, int(h["epochs"]) + 1):
    time.sleep(0.05)
    print(f"[metrics] epoch={epoch} valid_loss={float(h['lr']) + 0.1 / epoch}", flush=True)
    path.write_text(str(epoch))
"""


@pytest.fixture
def local(tmp_path, monkeypatch):
    """Return a LocalSageMaker whose S3 has the program; end the processes of its tuning jobs afterwards."""
    monkeypatch.setenv("MLKIT_GRACE", "1")  # seconds from SIGTERM to SIGKILL
    local = LocalSageMaker(tmp_path / "local")
    put_program(local, PROGRAM)
    yield local
    for description in local.tunings.all():
        name = description["HyperParameterTuningJobName"]
        if description["HyperParameterTuningJobStatus"] in RUNNING_STATUSES:
            with suppress(ClientError):
                local.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
            wait(local, name)


def put_program(local, text):
    path = local.root / "train.py"
    path.write_text(text)
    local.files.put(path, "s3://bucket/code/train.py")


def wait(local, name="iris", interval=0.1):
    while True:
        description = local.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        if description["HyperParameterTuningJobStatus"] not in RUNNING_STATUSES:
            return description
        time.sleep(interval)


def kill(pids):
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def processes_of(local, module):
    """Return the processes of a module that work in the folder of LocalSageMaker."""
    return running(f"mlkit.sagemaker.local.{module}\0{local.root}")


def run_with_kills(local, request, seed, interval):
    """Run a tuning job, and kill its process or one of a training job at random; return how many were killed."""
    choose = random.Random(seed)
    local.create_hyper_parameter_tuning_job(**request)
    killed = dict(tuning_runner=0, job_runner=0)
    name = request["HyperParameterTuningJobName"]
    while True:
        description = local.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        if description["HyperParameterTuningJobStatus"] not in RUNNING_STATUSES:
            return killed
        module = choose.choice(list(killed))
        pids = processes_of(local, module)
        if pids:
            kill([choose.choice(pids)])
            killed[module] += 1
        time.sleep(choose.uniform(*interval))


@pytest.mark.parametrize("trials", [2, pytest.param(30, marks=pytest.mark.long)])
def test_killed_at_random(tmp_path, local, trials, fault):
    """Trials whose process, or whose tuning job's process, is killed come to the table of a run that nobody kills."""
    request = make_request(trials=trials, parallel=2)
    whole = simulate(tmp_path / "whole", request)
    killed = run_with_kills(local, request, trials, (0.5, 3))
    description = wait(local)
    assert description["HyperParameterTuningJobStatus"] == "Completed", description
    n_lost = sum(trial not in table_of(local) for trial in table_of(whole))
    assert len(table_of(local)) == len(table_of(whole))
    for module, n in killed.items():
        if n:
            fault(f"kill: a sweep of jobs, its {module}", n, lost=n_lost)
    assert all(killed.values()) or trials < 30
    trials = local.tunings.get("iris")["Trials"]
    names = [name for trial in trials for name in trial["jobs"]]
    assert sorted(names) == sorted(job["TrainingJobName"] for job in local.rows.all())
    assert description["TrainingJobStatusCounters"]["Completed"] == len(trials)


TRAINING = (Path(__file__).parent / "tuned_training.py").read_text()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_promoted_trial_is_one_that_was_never_paused(local, processes):
    """Paused after its first epoch, the better trial has the weights of a job that trains all at once."""
    put_program(local, TRAINING)
    static = make_request()["TrainingJobDefinition"]["StaticHyperParameters"]
    definition = dict(StaticHyperParameters=static | dict(epochs="3", processes=str(processes)))
    resources = dict(StrategyConfig=dict(HyperbandStrategyConfig=dict(MinResource=1, MaxResource=3)))
    request = make_request(trials=2, parallel=2, definition=definition, Strategy="Hyperband", **resources)
    local.create_hyper_parameter_tuning_job(**request)
    description = wait(local)
    assert description["HyperParameterTuningJobStatus"] == "Completed", description
    trials = local.tuning_trials("iris")
    best = min(trials, key=lambda trial: trial.curve[-1])
    assert description["BestTrainingJob"]["TrainingJobName"] == best.job
    assert sorted(len(trial.curve) for trial in trials) == [1, 3]
    jobs = local.tunings.get("iris")["Trials"][best.number]["jobs"]
    statuses = [local.describe_training_job(TrainingJobName=name)["TrainingJobStatus"] for name in jobs]
    assert statuses == ["Stopped", "Completed"]

    # Each epoch was trained once.
    lines = "".join(log.read_text() for name in jobs for log in local.logs(name)).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("[metrics]")] == [f"epoch={e}" for e in (1, 2, 3)]

    whole = {
        name: value
        for name, value in local.describe_training_job(TrainingJobName=jobs[-1]).items()
        if name in ("HyperParameters", "AlgorithmSpecification", "RoleArn", "InputDataConfig", "OutputDataConfig")
        or name in ("ResourceConfig", "StoppingCondition")
    }
    local.create_training_job(TrainingJobName="whole", **whole)
    while local.describe_training_job(TrainingJobName="whole")["TrainingJobStatus"] == "InProgress":
        time.sleep(0.1)
    assert read_curve(local, "whole") == best.curve
    weights = read_weights(local, "whole")
    for name, weight in read_weights(local, best.job).items():
        assert torch.equal(weight, weights[name]), name


def read_curve(local, name):
    lines = [line for log in local.logs(name) for line in log.read_text().splitlines()]
    return [float(line.split("valid_loss=")[1]) for line in lines if "valid_loss=" in line]


def read_weights(local, name):
    uri = local.describe_training_job(TrainingJobName=name)["ModelArtifacts"]["S3ModelArtifacts"]
    with tarfile.open(local.files.path(uri)) as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith(".safetensors"))
        return load(archive.extractfile(member).read())


FAILING = """
import json, os, signal
h = json.load(open("/opt/ml/input/config/hyperparameters.json"))
kind = h["kind"]
if kind == "fails":
    raise ValueError("no label")
if kind == "silent":
    raise SystemExit
if kind == "diverges":
    print("[metrics] epoch=1 valid_loss=nan")
else:
    print("[metrics] epoch=1 valid_loss=0.5", flush=True)
if kind == "sleeps":
    import time
    time.sleep(60)
"""


def failing_request(*kinds, **config):
    values = dict(CategoricalParameterRanges=[dict(Name="kind", Values=list(kinds))])
    limits = dict(MaxParallelTrainingJobs=2)
    return make_request(Strategy="Grid", ParameterRanges=values, ResourceLimits=limits, **config)


def test_a_trial_that_fails_is_told_from_one_that_is_bad(local):
    """A program that fails, one that prints no metric, and one that diverges; and the counters of each."""
    put_program(local, FAILING)
    local.create_hyper_parameter_tuning_job(**failing_request("works", "fails", "silent", "diverges"))
    description = wait(local)
    assert description["HyperParameterTuningJobStatus"] == "Completed", description
    counters = dict(Completed=3, InProgress=0, RetryableError=0, NonRetryableError=1, Stopped=0)
    assert description["TrainingJobStatusCounters"] == counters
    assert description["ObjectiveStatusCounters"] == dict(Succeeded=1, Pending=0, Failed=3)
    works, fails, silent, diverges = local.tuning_trials("iris")
    assert (works.state, works.value) == ("completed", 0.5)
    assert fails.state == "failed"
    assert "ValueError: no label" in fails.reason
    assert silent.state == "failed"
    assert silent.reason == "the log has no value of 'valid_loss', as MetricDefinitions describes it"
    assert (diverges.state, diverges.value, diverges.reason) == ("completed", None, "")
    assert description["BestTrainingJob"]["TrainingJobName"] == works.job


def test_all_fail(local):
    """The first three trials are enough to see it, and the reason is that of the program."""
    put_program(local, FAILING.replace('h["kind"]', '"fails"'))
    local.create_hyper_parameter_tuning_job(**make_request(trials=100, parallel=2))
    description = wait(local)
    assert description["HyperParameterTuningJobStatus"] == "Failed"
    assert "the first 3 trials have failed, and none succeeded: AlgorithmError" in description["FailureReason"]
    assert "ValueError: no label" in description["FailureReason"]
    assert len(local.tuning_trials("iris")) <= 5
    assert "BestTrainingJob" not in description


@pytest.mark.long
def test_a_job_that_dies_again_and_again(local, fault):
    """After as many tries as RetryStrategy says, the trial has failed, and the others have not."""
    put_program(local, FAILING)
    request = failing_request("sleeps", "works", definition=dict(RetryStrategy=dict(MaximumRetryAttempts=1)))
    local.create_hyper_parameter_tuning_job(**request)
    killed = set()
    while (trial := (local.tunings.get("iris")["Trials"] or [None])[0]) is None or trial["state"] == "running":
        name = trial and trial["jobs"][-1]
        if name and name not in killed and (pids := running(f"job_runner\0{local.root}\0folder\0{name}")):
            kill(pids)
            killed.add(name)
        time.sleep(0.05)
    description = wait(local)
    sleeps, works = local.tuning_trials("iris")
    assert len(killed) == 2
    assert sleeps.state == "failed"
    assert sleeps.reason == "InternalServerError: the process that ran the job on this machine has died"
    assert description["TrainingJobStatusCounters"]["RetryableError"] == 1
    assert (description["HyperParameterTuningJobStatus"], works.state) == ("Completed", "completed")
    fault("kill: a job of a sweep, more often than it is repeated", len(killed), said=sleeps.reason)


def test_stop_and_list_and_delete(local):
    """The operations, as a client uses them: stop while trials run, filter, sort, page, tag, delete and clean."""
    put_program(local, FAILING.replace('h["kind"]', '"sleeps"'))
    arn = local.create_hyper_parameter_tuning_job(**make_request(parallel=50), Tags=[dict(Key="team", Value="a")])
    with pytest.raises(ClientError, match="ResourceInUse"):
        local.create_hyper_parameter_tuning_job(**make_request())
    with pytest.raises(ClientError, match="is in status InProgress: stop it first"):
        local.delete_hyper_parameter_tuning_job(HyperParameterTuningJobName="iris")
    while sum(len(trial.curve) for trial in local.tuning_trials("iris")) < min(len(os.sched_getaffinity(0)), 6):
        time.sleep(0.1)
    with pytest.raises(ValueError, match="iris: .*still running|iris-001"):
        local.clean(everything=True)
    first = local.tuning_trials("iris")[0].job
    with pytest.raises(ValueError, match="belongs to a tuning job that runs"):
        local.clean(first)
    job = local.describe_training_job(TrainingJobName=first)
    assert job["TuningJobArn"] == arn["HyperParameterTuningJobArn"]
    assert job["HyperParameters"]["_tuning_objective_metric"] == METRIC
    assert local.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"] == [dict(Key="team", Value="a")]
    local.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="iris")
    description = wait(local)
    assert description["HyperParameterTuningJobStatus"] == "Stopped"
    trials = local.tuning_trials("iris")
    assert len(trials) == min(len(os.sched_getaffinity(0)), 6)  # at the same time, of 50 that the request allows
    assert {(trial.state, trial.reason) for trial in trials} == {("stopped", "the tuning job was stopped")}
    with pytest.raises(ClientError, match="is in status Stopped"):
        local.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName="iris")

    (summary,) = local.list_hyper_parameter_tuning_jobs(StatusEquals="Stopped")["HyperParameterTuningJobSummaries"]
    assert (summary["Strategy"], summary["TrainingJobStatusCounters"]["Stopped"]) == ("Random", len(trials))
    assert local.list_tags(ResourceArn=arn["HyperParameterTuningJobArn"])["Tags"] == [dict(Key="team", Value="a")]
    pages = local.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job").paginate(
        HyperParameterTuningJobName="iris", PaginationConfig=dict(PageSize=1), SortBy="FinalObjectiveMetricValue"
    )
    assert {s["TrainingJobName"] for page in pages for s in page["TrainingJobSummaries"]} == {t.job for t in trials}
    local.clean()
    assert local.list_hyper_parameter_tuning_jobs()["HyperParameterTuningJobSummaries"] == []
    assert not list((local.root / "tunings").iterdir())
    for operation in ("describe", "stop", "delete"):
        with pytest.raises(ClientError, match="ResourceNotFound"):
            getattr(local, f"{operation}_hyper_parameter_tuning_job")(HyperParameterTuningJobName="iris")


def test_what_is_refused(local):
    """By SageMaker's rules, by what this machine does not have, and by the request for the training jobs."""
    several = make_request()
    config = several["HyperParameterTuningJobConfig"]
    own = dict(
        TuningObjective=config.pop("HyperParameterTuningJobObjective"),
        HyperParameterRanges=config.pop("ParameterRanges"),
    )
    definition = several.pop("TrainingJobDefinition") | own
    several["TrainingJobDefinitions"] = [definition | dict(DefinitionName=name) for name in "ab"]
    for request, text in [
        (make_request(Strategy="Grid"), "CategoricalParameterRanges only"),
        (several, "TrainingJobDefinitions: 2 of them"),
        (make_request() | dict(Autotune=dict(Mode="Enabled")), "not rehearsed here: Autotune.Mode"),
        (make_request(definition=dict(CheckpointConfig=dict(S3Uri="s3://b/c", LocalPath="/x"))), "LocalPath: '/x'"),
        (make_request(definition=dict(StoppingCondition=dict(MaxRuntimeInSeconds=10**9))), "at most 2,419,200"),
        (
            make_request()
            | dict(
                WarmStartConfig=dict(
                    WarmStartType="TransferLearning",
                    ParentHyperParameterTuningJobs=[dict(HyperParameterTuningJobName="none")],
                )
            ),
            "Could not find the hyperparameter tuning job 'none'",
        ),
    ]:
        with pytest.raises(ClientError, match=re.escape(text)):
            local.create_hyper_parameter_tuning_job(**request)
    assert local.tunings.all() == []
    assert not running(f"tuning_runner\0{local.root}")


def test_warm_start(tmp_path):
    """The trials of a parent are what a Bayesian search begins with, and its best trial may be the overall best."""
    service = SimulatedJobs(tmp_path / "local")
    parents = dict(ParentHyperParameterTuningJobs=[dict(HyperParameterTuningJobName="parent")])
    best = {}
    for name, more in {
        "parent": {},
        "cold": {},
        "warm": dict(WarmStartConfig=parents | dict(WarmStartType="IdenticalDataAndAlgorithm")),
    }.items():
        seed = 1 if name == "parent" else 2
        service.create_hyper_parameter_tuning_job(
            **make_request(name, trials=12 if name == "parent" else 3, Strategy="Bayesian", RandomSeed=seed), **more
        )
        runner = TuningRunner(service, name)
        runner.interval = 0
        runner.run()
        best[name] = service.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    assert table_of(service, "warm")[0][1] != table_of(service, "cold")[0][1]
    summaries = [best[name]["BestTrainingJob"] for name in ("parent", "warm")]
    overall = min(summaries, key=lambda s: s["FinalHyperParameterTuningJobObjectiveMetric"]["Value"])
    assert best["warm"]["OverallBestTrainingJob"] == overall
    assert "OverallBestTrainingJob" not in best["cold"]


ARGUMENTS = """
import argparse, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.add_argument("--lr", type=float)
parser.add_argument("--width", type=int)
parser.add_argument("--text")
parser.add_argument("--optimizer", choices=["adam", "sgd"])
args = parser.parse_args()
assert args.text == "a b" and os.environ["COLOUR"] == "red", (args, os.environ)
for epoch in range(args.epochs):
    print(f"valid_loss={args.lr + args.width + 1 / (epoch + 1):.6f};", flush=True)
pathlib.Path(os.environ["SM_MODEL_DIR"], "model.txt").write_text(args.optimizer)
"""


@pytest.mark.long
@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_tuner_of_the_sdk(tmp_path, session, version):
    """The request that AWS's SDK sends, with its code in S3, runs here without a change."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text(ARGUMENTS)
    (source / "requirements.txt").write_text("numpy\n")
    session.client("s3").create_bucket(Bucket="jobs")
    variables = dict(
        AWS_DEFAULT_REGION="us-east-1", AWS_REGION="us-east-1", SAGEMAKER_VALIDATE_ROLE="false", HOME=str(tmp_path)
    )
    out = tmp_path / "requests.json"
    command = [environment(version) / "python", CONFORMANCE / f"tuner_{version}.py", source, out]
    process = subprocess.run(command, cwd=tmp_path, env=os.environ | variables, text=True, capture_output=True)
    assert out.exists(), process.stderr[-3000:]
    (request,) = json.loads(out.read_text())
    local = LocalSageMaker(tmp_path / "local", s3="boto3")
    local.create_hyper_parameter_tuning_job(**request)
    name = request["HyperParameterTuningJobName"]
    description = wait(local, name)
    log = (local.tuning_folder(name) / "runner.log").read_text()
    assert description["HyperParameterTuningJobStatus"] == "Completed", log
    trials = local.tuning_trials(name)
    assert [trial.state for trial in trials] == ["completed"] * 3
    best = min(trials, key=lambda trial: trial.value)
    assert description["BestTrainingJob"]["TrainingJobName"] == best.job
    assert best.value == pytest.approx(best.parameters["lr"] + best.parameters["width"] + 0.5, abs=1e-5)
    names = {trial.parameters["optimizer"] for trial in trials}
    assert names <= ({'"adam"', '"sgd"'} if version == "v2" else {"adam", "sgd"})
