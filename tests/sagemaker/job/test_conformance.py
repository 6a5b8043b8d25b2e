"""Run the entry point under AWS's own software, by each launch path of SDK v2, SDK v3 and bare requests.

The packages come from the package index, into virtual environments that are kept for the next run. The real SDKs send
their requests over HTTP to moto, whose S3 holds the code and the data. Needs root on Linux, for namespaces.
"""

import inspect
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import test_hyperparameters as spellings
import torch
from conformance.host import Network, run_job
from helpers import CONFORMANCE, REPOSITORY, environment, missing, wait_for
from hypothesis import Phase, given, settings
from safetensors.torch import load_file

from mlkit.sagemaker.artifacts import starter
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.client.sweeps import Sweep
from mlkit.sagemaker.client.target import make_target
from mlkit.sagemaker.job.hyperparameters import check_hyperparameters, read_config
from mlkit.sagemaker.local.client import LocalSageMaker

PATHS = {
    "SDK v3, entry_script": "script",
    'SDK v3, command="exec python train.py"': "exec",
    "SDK v3, Torchrun()": "torchrun",
    "SDK v2, estimator (train)": "estimator",
    "bare CreateTrainingJob": "bare",
}
# The user's program is process 1. With the other paths AWS's software is, and it does not forward SIGTERM.
PATHS_WITH_SIGTERM = {"exec", "bare"}
HYPERPARAMETERS = dict(
    epochs=3,
    learning_rate=0.05,
    on=True,
    off=False,
    nothing=None,
    numbers=[1, 2],
    counts={"a": 1, "b": 2},
    words=["x y", "é"],
    text='$(touch /tmp/x) "q" \\ ; & | > é',
    digits="007",
    b="single",
)
COLUMNS = ("hyperparameters", "failure text", "exit code", "SIGTERM", "resume", "2 processes", "2 hosts")


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "")


@dataclass
class Jobs:
    """What the tests need to run jobs; `run(name, mode="", label="", **kwargs)` returns a `conformance.host.Run`."""

    run: Callable
    requests: dict[str, dict]  # by name, such as "script-1-2": path, hosts, processes
    s3: Path  # the objects of S3, in <bucket>/<key>


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Record the requests of every launch path, and yield a `Jobs` that runs them as SageMaker does."""
    folder = tmp_path_factory.mktemp("conformance")
    with ThreadPoolExecutor() as pool:
        container, v2, v3 = pool.map(environment, ("container", "v2", "v3"))
    install_mlkit(container)
    write_rows(folder / "training")
    with Network() as network:
        url = f"http://{network.addresses[2]}:5000"
        aws = dict(
            AWS_ENDPOINT_URL=url,
            S3_ENDPOINT_URL=url,
            AWS_ACCESS_KEY_ID="testing",
            AWS_SECRET_ACCESS_KEY="testing",
            AWS_DEFAULT_REGION="us-east-1",
            AWS_REGION="us-east-1",
            AWS_EC2_METADATA_DISABLED="true",
            SAGEMAKER_VALIDATE_ROLE="false",
            HOME=str(folder),
            PYTHONUNBUFFERED="1",
        )
        with start_moto(v2 / "moto_server", network.places[2], url):
            requests = {}
            for python, script in ((v2 / "python", "request_v2.py"), (v3 / "python", "request_v3.py")):
                out = folder / f"{script}.json"
                record_requests(python, script, folder / "training", out, os.environ | aws)
                command = [v2 / "python", CONFORMANCE / "download.py", out, folder / "s3"]
                subprocess.run(command, env=os.environ | aws, check=True)
                for request in json.loads(out.read_text()):
                    path, hosts, processes = request["TrainingJobName"].split("-")[:3]
                    requests[f"{path}-{hosts}-{processes}"] = request
            variables = aws | dict(
                PATH=f"{container}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                SAGEMAKER_TRAINING_MODULE="sagemaker_pytorch_container.training:main",
            )

            def run(name, mode="", label="", **kwargs):
                run_folder = folder / "runs" / f"{name}-{mode}{label}"
                return run_job(
                    requests[name], folder / "s3", run_folder, network, variables | dict(MODE=mode), **kwargs
                )

            yield Jobs(run, requests, folder / "s3")


def install_mlkit(programs):
    """Install the package of this repository into a virtual environment."""
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--force-reinstall", REPOSITORY], check=True, capture_output=True)


def write_rows(folder):
    """Write the training data: 256 rows of a label and four features."""
    folder.mkdir()
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    with open(folder / "rows.csv", "w") as f:
        for row in x:
            features = ",".join(f"{value:.4f}" for value in row.tolist())
            f.write(f"{int(row.sum() > 0)},{features}\n")


@contextmanager
def start_moto(program, namespace, url):
    """Run moto in a network namespace."""
    moto = subprocess.Popen(
        ["ip", "netns", "exec", namespace, program, "-H", "0.0.0.0", "-p", "5000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(url, moto)
        yield
    finally:
        moto.terminate()
        moto.wait()


def record_requests(python, script, data, out, env):
    """Run one of the scripts that send requests with an SDK and record them in the file `out`."""
    arguments = [CONFORMANCE / "source", data, json.dumps(HYPERPARAMETERS), out]
    process = subprocess.run([python, CONFORMANCE / script, *arguments], env=env, text=True, capture_output=True)
    assert not process.returncode, process.stderr[-3000:]


RESULTS = {}  # launch path -> {column of the table: text}


def record(key, column, text):
    """Record a cell of the table of results."""
    RESULTS.setdefault(key, {})[column] = text


@pytest.fixture(scope="module", autouse=True)
def table(tmp_path_factory):
    """Print the table of results after the tests, and write it to conformance.md."""
    yield
    lines = ["| launch path | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for path, key in PATHS.items():
        cells = [RESULTS.get(key, {}).get(column, "not tested") for column in COLUMNS]
        lines.append(f"| {path} | " + " | ".join(cells) + " |")
    print("\n".join(["", *lines]))
    (tmp_path_factory.getbasetemp() / "conformance.md").write_text("\n".join(lines) + "\n")


def read_config_file(root):
    """Return the hyperparameters that the program received, without the number of processes."""
    config = json.loads((root / "output" / "data" / "config.json").read_text())
    del config["processes"]
    return config


def read_weights(run):
    return load_file(run.roots[0] / "model" / "model.safetensors")


def damage_newest_checkpoint(folder):
    """Cut the largest file of the newest checkpoint in half, as a write does that was interrupted."""
    newest = max(folder.glob("step-*"))
    largest = max(newest.iterdir(), key=lambda f: f.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("key", PATHS.values(), ids=list(PATHS))
class TestPath:
    weights = {}  # launch path -> weights of one process on one host

    def test_a_job_gets_its_hyperparameters_and_writes_a_model(self, jobs, key):
        run = jobs.run(f"{key}-1-1")
        assert run.codes == [0], run.log[-3000:]
        assert not run.failure
        assert read_config_file(run.roots[0]) == HYPERPARAMETERS
        assert "[metrics] epoch=3" in run.log
        assert "is given twice" not in run.log
        self.weights[key] = read_weights(run)
        record(key, "hyperparameters", f"all {len(HYPERPARAMETERS)} equal")

    def test_the_failure_text_is_the_users_exception(self, jobs, key):
        run = jobs.run(f"{key}-1-1", "error")
        assert run.failure.startswith("ValueError: sample 3 has no label\n"), run.failure
        assert 'train.py", line' in run.failure
        assert run.codes == [1]
        record(key, "failure text", "type and message first")

    def test_the_exit_code_is_the_users(self, jobs, key):
        run = jobs.run(f"{key}-1-1", "exit")
        assert run.failure.startswith("SystemExit: 7"), run.failure
        assert run.codes == [1 if key in ("estimator", "torchrun") else 7], run.log[-3000:]
        record(key, "exit code", f"{run.codes[0]}" + ("" if run.codes == [7] else ", AWS's software replaces 7"))

    @pytest.mark.long("script", "torchrun", "estimator")
    def test_a_stopped_job_continues_from_its_checkpoint(self, jobs, key, tmp_path):
        gets_sigterm = key in PATHS_WITH_SIGTERM
        run = jobs.run(f"{key}-1-1", "slow", stop_at="[metrics] epoch=2", grace=20 if gets_sigterm else 1)
        assert run.left_by_itself == gets_sigterm, run.log[-3000:]
        if gets_sigterm:
            assert run.codes == [143]
            assert not run.failure
        record(key, "SIGTERM", "checkpoint written, exit 143" if gets_sigterm else "not forwarded to the program")
        checkpoints = run.roots[0] / "checkpoints"
        damage_newest_checkpoint(checkpoints)
        resumed = jobs.run(f"{key}-1-1", "slow", label="again", checkpoints=checkpoints)
        assert resumed.codes == [0], resumed.log[-3000:]
        assert "passed over a damaged checkpoint" in resumed.log
        assert "Continuing from" in resumed.log
        assert "[metrics] epoch=1 " not in resumed.log
        weights = read_weights(resumed)
        for name, tensor in self.weights[key].items():
            assert torch.equal(weights[name], tensor)
        record(key, "resume", "same bits, despite a damaged checkpoint")

    @pytest.mark.long("script", "exec", "torchrun")
    def test_two_processes(self, jobs, key):
        gets_sigterm = key in PATHS_WITH_SIGTERM
        run = jobs.run(f"{key}-1-2")
        assert run.codes == [0], run.log[-3000:]
        weights = read_weights(run)
        for name, tensor in self.weights[key].items():
            assert torch.allclose(weights[name], tensor, atol=1e-5)
        failed = jobs.run(f"{key}-1-2", "error")
        assert failed.failure.startswith("ValueError: sample 3 has no label\n"), failed.failure
        assert failed.codes == [1]
        if key != "torchrun":
            killed = jobs.run(f"{key}-1-2", "killed")
            assert killed.failure.startswith("rank 1 of 2 was killed by SIGKILL: "), killed.failure
        if gets_sigterm:
            stopped = jobs.run(f"{key}-1-2", "slow", stop_at="[metrics] epoch=1", grace=20)
            assert stopped.left_by_itself, stopped.log[-3000:]
            assert stopped.codes == [143], stopped.log[-3000:]
            assert not stopped.failure, stopped.log[-3000:]
        text = "same weights; the failing rank's text"
        record(key, "2 processes", text + ("; SIGTERM reaches both" if gets_sigterm else ""))

    @pytest.mark.long("script", "exec", "torchrun")
    def test_two_hosts(self, jobs, key):
        run = jobs.run(f"{key}-2-1")
        assert run.codes == [0, 0], run.log[-3000:]
        weights = read_weights(run)
        for name, tensor in self.weights[key].items():
            assert torch.allclose(weights[name], tensor, atol=1e-5)
        failed = jobs.run(f"{key}-2-1", "error")
        assert all(failed.codes)
        text = (failed.roots[1] / "output" / "failure").read_text()
        assert text.startswith("ValueError: sample 3 has no label\n"), text
        record(key, "2 hosts", "same weights; the failing host's text")


# What a program finds under mlkit's starter is compared with what it finds under AWS's software, variable by variable.
# Here is each that differs, and why. One that AWS's software does not set at all has to be one of its other generation.
_OTHER_FOLDER = "the program is where SDK v3 has it; /opt/ml/code, where SDK v2 has it, is a link to there"
_OWN_CHANNELS = "a channel of the launcher itself: a program of SDK v2 has none, and may read all that there are"
_SHELL = "of the shell in which SDK v3 starts the program"
_ELASTIC = "another in each run of torch's elastic agent"
DIFFERENCES = {
    "estimator": {
        "working directory": _OTHER_FOLDER,
        "PYTHONPATH": "has mlkit and the program, and what the user has set; there all of sys.path",
        "SM_MODULE_DIR": "the folder of the program; there the archive in S3 that it came from",
        "SM_TRAINING_ENV.module_dir": "the same",
    },
    "script": {
        "SM_CHANNELS": _OWN_CHANNELS,
        "SM_CHANNEL_CODE": _OWN_CHANNELS,
        "SM_CHANNEL_SM_DRIVERS": _OWN_CHANNELS,
        "SM_INPUT_DATA_CONFIG": _OWN_CHANNELS,
        "SM_TRAINING_ENV.channel_input_dirs": _OWN_CHANNELS,
        "SM_TRAINING_ENV.input_data_config": _OWN_CHANNELS,
        "PWD": _SHELL,
        "OLDPWD": _SHELL,
        "SHLVL": _SHELL,
        "_": _SHELL,
    },
}
DIFFERENCES["torchrun"] = DIFFERENCES["script"] | {
    "SM_DISTRIBUTED_CONFIG": "the settings of a driver that is not here",
    "SM_DISTRIBUTED_DRIVER_DIR": "the folder of a driver that is not here",
    "MASTER_ADDR": "the processes are on one host, and meet at its loopback address",
    "MASTER_PORT": _ELASTIC,
    "TORCHELASTIC_ERROR_FILE": _ELASTIC,
    "TORCHELASTIC_RUN_ID": "the name of the job; there a random one",
    "ROLE_NAME": "the name that torch's agent gives to all processes; torchrun's command has another default",
    "MLKIT_LAUNCHER": "the process whose end is the end of a program with an entry_point",
}


def starter_request(jobs, key):
    """Return a request of mlkit for the program of another request, in its spelling, with its name."""
    source = jobs.s3 / "jobs" / "with-starter"
    if not source.exists():
        shutil.copytree(jobs.s3 / "jobs" / "code", source)
        (source / "mlkit_start.py").write_text(inspect.getsource(starter))
    request = json.loads(json.dumps(jobs.requests["bare-1-1"]))
    for channel in request["InputDataConfig"]:
        if channel["ChannelName"] == "code":
            channel["DataSource"]["S3DataSource"]["S3Uri"] = "s3://jobs/with-starter"
    request["AlgorithmSpecification"]["ContainerEntrypoint"] = ["python", "/opt/ml/input/data/code/mlkit_start.py"]
    request["AlgorithmSpecification"]["ContainerArguments"] = ["train.py"]
    values = HYPERPARAMETERS | ({} if key == "torchrun" else dict(processes=1))
    texts = {k: starter.quote(v) if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    environment = {
        "estimator": {},
        "script": {"MLKIT_SPELLING": "v3"},
        "torchrun": {"MLKIT_SPELLING": "v3", "MLKIT_PROCESSES": "2"},
    }
    return request | dict(HyperParameters=texts, Environment=environment[key])


def read_report(run):
    """Return the arguments of a program, and the values of its variables and of the members of SM_TRAINING_ENV."""
    files = sorted((run.roots[0] / "output" / "data").glob("*.json"))
    assert files, run.log[-3000:]
    report = json.loads(files[-1].read_text())
    values = {name: json_value(text) for name, text in report["environ"].items()}
    values |= {f"SM_TRAINING_ENV.{name}": value for name, value in values.pop("SM_TRAINING_ENV").items()}
    return report["argv"], values | {"working directory": report["cwd"]}


def json_value(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


VARIABLES = {}  # name of a request -> the variables that its program found


@pytest.mark.long("torchrun")
@pytest.mark.parametrize("key", DIFFERENCES)
def test_a_program_cannot_tell_the_starter_from_awss_software(jobs, key, tmp_path_factory):
    name = {"estimator": "estimator-1-1", "script": "script-1-1", "torchrun": "torchrun-1-2"}[key]
    jobs.requests["starter"] = starter_request(jobs, key) | dict(TrainingJobName=jobs.requests[name]["TrainingJobName"])
    argv, ours = read_report(jobs.run("starter", "report", label=key))
    for request in {name, "estimator-1-1", "script-1-1"} - VARIABLES.keys():
        VARIABLES[request] = read_report(jobs.run(request, "report"))
    awss_argv, awss = VARIABLES[name]
    assert argv == awss_argv
    of_aws = {variable for _, variables in VARIABLES.values() for variable in variables}
    missing = object()
    differences = {v for v in awss if ours.get(v, missing) != awss[v]} | (ours.keys() - of_aws)
    assert differences == DIFFERENCES[key].keys()
    lines = [f"{v}: {'equal' if v not in differences else DIFFERENCES[key][v]}" for v in sorted(awss)]
    lines += [
        f"{v}: of the other generation of AWS's software" for v in sorted(ours.keys() - awss.keys() - differences)
    ]
    lines += [f"{v}: {DIFFERENCES[key][v]}" for v in sorted(differences - awss.keys())]
    (tmp_path_factory.getbasetemp() / f"variables-{key}.txt").write_text("\n".join(lines) + "\n")


def test_the_starter_reports_the_end_of_the_traceback(jobs):
    """The launcher of SDK v2 reports the lines with the error, those of SDK v3 an error of their own."""
    jobs.requests["starter"] = starter_request(jobs, "estimator")
    run = jobs.run("starter", "raise")
    assert run.codes == [1]
    assert run.failure.startswith("KeyError: 'labels'\n"), run.failure
    assert 'train.py", line' in run.failure
    assert "KeyError" in jobs.run("estimator-1-1", "raise").failure


@pytest.mark.parametrize("key", ["script", "exec", "torchrun", "bare"])
def test_the_local_sagemaker_runs_the_same_requests(jobs, key, tmp_path, monkeypatch):
    """LocalSageMaker runs the requests with AWS's unmodified drivers."""
    (tmp_path / "s3").symlink_to(jobs.s3)
    for name in ("PYTHONPATH", "MODE"):
        monkeypatch.delenv(name, raising=False)
    local = LocalSageMaker(tmp_path)
    request = jobs.requests[f"{key}-1-1"] | dict(CheckpointConfig=dict(S3Uri=f"s3://jobs/local/{key}"))
    local.create_training_job(**request)
    name = request["TrainingJobName"]
    description = local.describe_training_job(TrainingJobName=name)
    while description["TrainingJobStatus"] == "InProgress":
        time.sleep(0.1)
        description = local.describe_training_job(TrainingJobName=name)
    log = local.logs(name)[0].read_text()
    assert description["TrainingJobStatus"] == "Completed", description.get("FailureReason", "") + log[-2000:]
    assert read_config_file(local.folder(name) / "algo-1") == HYPERPARAMETERS
    assert "[metrics] epoch=3" in log
    assert local.files.path(description["ModelArtifacts"]["S3ModelArtifacts"]).is_file()


# A trial of a sweep. A tuning job has no command: AWS's `train` starts the program that the hyperparameters name.


@pytest.fixture
def trials(jobs, tmp_path):
    """Return a function that adds the request of a sweep's trial to `jobs.requests`, as SageMaker would make it."""
    (tmp_path / "s3").symlink_to(jobs.s3)
    local = LocalSageMaker(tmp_path, s3="folder")

    def add(sweep, parameters, name="sweep-001-1a2b3c4d"):
        request = sweep.request(local)
        sweep.job._send_files(make_target(local))
        trial = dict(request["TrainingJobDefinition"])
        metric = request["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["MetricName"]
        hyperparameters = trial.pop("StaticHyperParameters") | parameters | {"_tuning_objective_metric": metric}
        jobs.requests[name] = trial | dict(TrainingJobName=name, HyperParameters=hyperparameters)
        return name

    return add


def sweep_of_source(search, **options):
    """Return a sweep of the program that all launch paths run."""
    job = TrainingJob(HYPERPARAMETERS | dict(processes=1), CONFORMANCE / "source", **options)
    return Sweep(job, search, "train_loss")


def test_awss_train_runs_a_trial_of_a_sweep(jobs, trials, tmp_path):
    """Every hyperparameter arrives, a fixed one and one that is searched."""
    data = tmp_path / "rows"
    write_rows(data)
    search = {
        "learning_rate": (1e-3, 1e-1),
        "on": [True, False],
        "nothing": [None, 3],
        "digits": ["007", "true", "1e5"],
    }
    sweep = sweep_of_source(search, channels={"training": data})
    ranges = sweep.request()["HyperParameterTuningJobConfig"]["ParameterRanges"]["CategoricalParameterRanges"]
    texts = {entry["Name"]: entry["Values"] for entry in ranges}
    parameters = {"learning_rate": "0.02", "on": texts["on"][1], "nothing": texts["nothing"][1]}
    name = trials(sweep, parameters | {"digits": texts["digits"][1]})
    run = jobs.run(name)
    assert run.codes == [0], run.log[-3000:]
    values = dict(learning_rate=0.02, on=False, nothing=3, digits="true")
    assert read_config_file(run.roots[0]) == HYPERPARAMETERS | values
    assert "[metrics] epoch=3" in run.log
    assert read_weights(run)


@pytest.mark.long
def test_a_trial_finds_what_its_job_finds(jobs, trials, tmp_path):
    """Arguments and variables are those of the same job by itself, but for where the program is."""
    data = tmp_path / "rows"
    write_rows(data)
    sweep = sweep_of_source({"learning_rate": (1e-3, 1e-1)}, channels={"training": data}, environment={"LEVEL": "1"})
    name = trials(sweep, {"learning_rate": "0.05"})
    argv, trial = read_report(jobs.run(name, "report"))
    jobs.requests["alone"] = sweep.job.request(LocalSageMaker(tmp_path)) | dict(TrainingJobName=name)
    alone_argv, alone = read_report(jobs.run("alone", "report"))
    assert argv == alone_argv
    assert trial["LEVEL"] == 1
    differences = {v for v in trial.keys() | alone.keys() if trial.get(v) != alone.get(v)}
    of_awss_toolkit = {v for v in differences if v.startswith(("SM_HP_", "SAGEMAKER_", "NCCL_", "LD_"))}
    places = {"PYTHONPATH", "working directory", "SM_SOURCE_DIR", "MLKIT_CHECKPOINT_DIR", "PWD", "PATH"}
    frameworks = {"SM_FRAMEWORK_PARAMS", "SM_TRAINING_ENV.additional_framework_parameters"}
    assert differences - of_awss_toolkit - places - frameworks == set()
    failed = jobs.run(name, "error")
    assert failed.failure.startswith("ValueError: sample 3 has no label\n"), failed.failure
    assert failed.codes == [1]


@pytest.mark.long
def test_a_trial_continues_from_its_own_checkpoint(jobs, trials, tmp_path):
    """AWS's `train` does not pass SIGTERM on, so a stopped trial has the checkpoint of its last epoch."""
    data = tmp_path / "rows"
    write_rows(data)
    sweep = sweep_of_source({"learning_rate": (1e-3, 1e-1)}, channels={"training": data})
    parameters = {"learning_rate": "0.05"}
    whole = jobs.run(trials(sweep, parameters, "sweep-001-00000000"))
    stopped = jobs.run(trials(sweep, parameters, "sweep-001-11111111"), "slow", stop_at="[metrics] epoch=2", grace=1)
    assert not stopped.left_by_itself
    checkpoints = stopped.roots[0] / "checkpoints"
    assert [folder.name for folder in checkpoints.iterdir()] == ["trial-001"]
    resumed = jobs.run(trials(sweep, parameters, "sweep-001-22222222"), checkpoints=checkpoints)
    assert resumed.codes == [0], resumed.log[-3000:]
    assert "Continuing from" in resumed.log
    assert "[metrics] epoch=1 " not in resumed.log
    for name, tensor in read_weights(whole).items():
        assert torch.equal(read_weights(resumed)[name], tensor)
    other = jobs.run(trials(sweep, parameters, "sweep-002-33333333"), checkpoints=checkpoints)
    assert "Continuing from" not in other.log


@pytest.mark.long
@pytest.mark.parametrize("program", ["built-in", "script", "two processes"])
def test_awss_train_runs_a_trial_of_any_program(jobs, trials, tmp_path, program):
    data = tmp_path / "rows"
    write_rows(data)
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "run.sh").write_text('echo "$@"; test "$SM_HP_WIDTH" = 8 && touch "$SM_MODEL_DIR/model.safetensors"\n')
    if program == "built-in":
        sweep = Sweep(
            TrainingJob({"epochs": 2}, channels={"train": data}), {"learning_rate": (1e-3, 1e-1)}, "train_loss"
        )
        name = trials(sweep, {"learning_rate": "0.02"})
    elif program == "script":
        job = TrainingJob({"width": 8}, folder, entry="run.sh")
        name = trials(Sweep(job, {"width": [8, 16]}, "loss"), {"width": "8"})
    else:
        job = TrainingJob(HYPERPARAMETERS, CONFORMANCE / "source", {"training": data}, processes=2)
        name = trials(Sweep(job, {"learning_rate": (1e-3, 1e-1)}, "train_loss"), {"learning_rate": "0.02"})
    run = jobs.run(name, label=program)
    assert run.codes == [0], run.log[-3000:]
    assert (run.roots[0] / "model" / "model.safetensors").exists()
    if program == "script":
        assert "--width 8" in run.log


@pytest.mark.parametrize("software", spellings.DIALECTS)
def test_the_models_spell_hyperparameters_as_the_software_does(software, tmp_path):
    model, quoted = spellings.DIALECTS[software]
    cases = []

    @given(spellings.configs)
    @settings(max_examples=300, database=None, derandomize=True, phases=[Phase.generate], deadline=None)
    def collect(config):
        try:
            request = spellings.to_request(config, quoted)
            # SDK v3's software would pass hyperparameters that fail this check to a shell, which would run them.
            check_hyperparameters(request, "api" if software == "v2" else "v3")
        except ValueError:
            return
        cases.append((config, request))

    collect()
    assert len(cases) > 50
    requests = [request for _, request in cases]
    invalid_in_v3 = dict(whole="0", text="it's")
    python = environment("container" if software == "v2" else "v3") / "python"
    packages = next((python.parent.parent / "lib").glob("python3*")) / "site-packages"
    (tmp_path / "requests.json").write_text(json.dumps([*requests, invalid_in_v3]))
    subprocess.run(
        [python, CONFORMANCE / "spell.py", software, packages, tmp_path / "requests.json", tmp_path / "out.json"],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    *results, last = json.loads((tmp_path / "out.json").read_text())
    for (config, request), (argv, values) in zip(cases, results, strict=True):
        assert repr((argv, values)) == repr(model(request)), request
        assert repr(read_config(spellings.Config, argv, spellings.ChainMap(values, request))) == repr(config)
    assert isinstance(last, str) == (software == "v3")
