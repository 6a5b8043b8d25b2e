"""Jobs where a notebook cannot go: to SageMaker's API, which moto answers over HTTP; through the death of the process
that started them; twenty at once

moto comes from the environment that conformance/v2.txt pins.
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
import torch
from botocore.exceptions import ClientError, EndpointConnectionError, ParamValidationError
from helpers import CONFORMANCE, REPOSITORY, assert_types, environment

from mlkit.notebook import launcher, monitor
from mlkit.notebook.runs import runs
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.client.results import JobFailed
from mlkit.sagemaker.client.target import AWSTarget
from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.sagemaker.local.host import namespaces as host_namespaces

HERE = Path(__file__).parent
ROLE = "arn:aws:iam::123456789012:role/job"
LOG_GROUP = "/aws/sagemaker/TrainingJobs"


@pytest.fixture
def folder(tmp_path):
    """A folder with a program in src, and one file of data in training"""
    for name in ("src", "training"):
        (tmp_path / name).mkdir()
    (tmp_path / "src" / "train.py").write_text('print("hello")\n')
    (tmp_path / "training" / "rows.csv").write_text("0,1,2\n1,3,4\n")
    return tmp_path


def uploaded(session):
    """Names of the files that were written to S3 since the last call"""
    keys = [p["Key"].rpartition("/")[2] for n, p in session.calls if n in ("PutObject", "CreateMultipartUpload")]
    session.calls.clear()
    return keys


# What goes to SageMaker


def test_what_is_sent_to_sagemaker(session, folder):
    s3 = session.client("s3")
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="other/rows.csv", Body=b"1,2\n")
    session.calls.clear()
    job = TrainingJob(
        {"epochs": 3},
        folder / "src",
        {"training": folder / "training", "other": "s3://bucket/other"},
        role=ROLE,
        spot=True,
        max_run=60,
        name="first",
    )
    request = job.request(session)
    job.run(session)
    assert next(p for n, p in session.calls if n == "CreateTrainingJob") == request
    code_uri = request["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"]
    assert code_uri.startswith("s3://sagemaker-us-east-1-123456789012/mlkit/code/")
    assert request["AlgorithmSpecification"]["TrainingImage"].endswith("-sagemaker")
    assert uploaded(session) == ["train.py", "mlkit_sagemaker-0.0.1-py3-none-any.whl", "mlkit_start.py", "rows.csv"]
    assert job.status == "Completed"
    assert TrainingJob.attach("first", session).hyperparameters == {"epochs": "3"}


def test_the_launcher_asks_before_it_costs_money(session, folder):
    job = TrainingJob({"epochs": 3}, folder / "src", {"training": folder / "training"}, role=ROLE)
    form = launcher(job, session=session)
    form.target.value = "sagemaker"
    form.hosts.value = 2
    form.show_request()
    form.launch_button.click()
    assert "&quot;InstanceCount&quot;: 2" in form.request_text.value, form.message.value
    assert "This costs money" in form.question.text.value, form.message.value
    assert not form.message.value
    assert "CreateTrainingJob" not in [n for n, _ in session.calls]
    form.question.yes_button.click()
    form.question.yes_button.click()
    assert form.wait().monitor.wait(60).watch.status == "Completed", form.message.value
    assert [n for n, _ in session.calls].count("CreateTrainingJob") == 1
    table = runs(session)
    assert [j.name for j in table.jobs] == [form.job.name]
    assert table.compare().rows[0][0] == form.job.name
    assert monitor(form.job.name, session).watch.status == "Completed"


def test_files_that_s3_has_are_not_sent_again(session, folder):
    def run():
        TrainingJob({"epochs": 3}, folder / "src", {"training": folder / "training"}, role=ROLE).run(session)
        return uploaded(session)

    run()
    assert run() == []
    # A large file is sent in parts, and then S3's own digest is not an MD5.
    (folder / "training" / "large.bin").write_bytes(bytes(9 * 2**20))
    assert run() == ["large.bin"]
    assert run() == []
    (folder / "training" / "large.bin").write_bytes(bytes(9 * 2**20 - 1) + b"1")
    assert run() == ["large.bin"]
    (folder / "training" / "more.csv").write_text("1,2,3\n")
    (folder / "src" / "train.py").write_text('print("other")\n')
    assert run() == ["train.py", "mlkit_sagemaker-0.0.1-py3-none-any.whl", "mlkit_start.py", "more.csv"]


def test_large_data_in_s3_are_streamed(session, folder):
    """moto reports the size of an object as this test says: 6 GB are not put into it"""
    s3 = session.client("s3")
    s3.create_bucket(Bucket="data")
    for name in "ab":
        s3.put_object(Bucket="data", Key=f"rows/{name}.csv", Body=b"1,2\n")
    job = TrainingJob(source=folder / "src", channels={"training": "s3://data/rows"}, role=ROLE)
    assert job.explain(session).rows[0][2:4] == [2, "8 B"]
    assert "InputMode" not in job.request(session)["InputDataConfig"][1]

    def enlarge(parsed, **_):
        for entry in parsed.get("Contents", ()):
            if entry["Key"].startswith("rows/"):
                entry["Size"] = 3 * 2**30 + 1

    session.events.register("after-call.s3.ListObjectsV2", enlarge)
    assert job.request(session)["InputDataConfig"][1]["InputMode"] == "FastFile"
    assert "streamed from S3" in job.explain(session).rows[0][4]


def test_a_program_that_reads_s3_itself(session, folder, monkeypatch):
    """AWS's s3torchconnector asks moto, from the job's process; the same program reads a folder that stands for S3"""
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3 = session.client("s3")
    s3.create_bucket(Bucket="data")
    for key in ("rows/a/1.csv", "rows/b/2.csv", "rows-of-others/3.csv"):
        s3.put_object(Bucket="data", Key=key, Body="\n".join(f"{i % 2},{i},{-i}" for i in range(20)).encode())
    (folder / "src" / "train.py").write_text(
        "from mlkit.sagemaker.job.container import Container\nfrom mlkit.sagemaker.job.objects import open_objects\n"
        'channel = Container.from_env().channel("training")\n'
        'print("found", type(channel).__name__, [(name, len(text)) for name, text in open_objects(channel)])\n'
    )
    local = LocalSageMaker(folder / "local", s3="boto3")

    def logs_of(target, channel, config=None, source=None):
        job = TrainingJob(config, source, {"training": channel}, input_mode="s3torchconnector")
        return job.run(target).follow(io.StringIO()).logs()

    from_s3 = logs_of(local, "s3://data/rows", source=folder / "src")
    assert "found str [('a/1.csv', 158), ('b/2.csv', 158)]" in from_s3
    assert "found str [('rows.csv', 12)]" in logs_of(local, folder / "training", source=folder / "src")
    from_folder = logs_of(LocalSageMaker(folder / "other"), folder / "training", source=folder / "src")
    assert any("Path [('rows.csv', 12)]" in line for line in from_folder)
    builtin = logs_of(local, "s3://data/rows", config={"epochs": 1})
    assert any("40 samples of shape (2,)" in line for line in builtin)

    job = TrainingJob(
        source=folder / "src", channels={"training": "s3://data/rows"}, role=ROLE, input_mode="s3torchconnector"
    )
    request = job.request(session)
    assert [c["ChannelName"] for c in request["InputDataConfig"]] == ["code"]
    assert request["Environment"]["SM_CHANNEL_TRAINING"] == "s3://data/rows"
    assert job.explain(session).rows[0][4] == "s3torchconnector: as input_mode says"


def test_a_role_is_needed(session, folder):
    with pytest.raises(ValueError, match="which role should the job have"):
        TrainingJob(source=folder / "src").run(session)
    assert not uploaded(session)


# Its log


def create_streams(logs, name):
    """Create the log streams of a job on two hosts, and return a function that writes lines of one host"""
    logs.create_log_group(logGroupName=LOG_GROUP)
    now = int(time.time() * 1000)
    for host in (1, 2):
        logs.create_log_stream(logGroupName=LOG_GROUP, logStreamName=f"{name}/algo-{host}-1700000000")

    def put_lines(host, lines):  # lines: {milliseconds: text}
        logs.put_log_events(
            logGroupName=LOG_GROUP,
            logStreamName=f"{name}/algo-{host}-1700000000",
            logEvents=[dict(timestamp=now + milliseconds, message=text) for milliseconds, text in lines.items()],
        )

    return put_lines


def test_the_log_comes_in_order_once_and_from_all_hosts(session, folder):
    job = TrainingJob(source=folder / "src", role=ROLE, hosts=2, name="talking").run(session)
    assert list(job.target.lines("talking", {})) == []
    put_lines = create_streams(session.client("logs"), "talking")
    put_lines(1, {t: f"line {t}" for t in (0, 2, 4)})
    put_lines(2, {t: f"line {t}" for t in (1, 3)})
    positions = {}
    assert list(job.target.lines("talking", positions)) == [(f"algo-{t % 2 + 1}", f"line {t}") for t in range(5)]
    assert list(job.target.lines("talking", positions)) == []
    put_lines(2, {5: "line 5"})
    assert list(job.target.lines("talking", positions)) == [("algo-2", "line 5")]

    def add_definitions(parsed, **_):  # moto forgets them
        definitions = [dict(Name="line", Regex="line ([0-9]+)")]
        parsed["AlgorithmSpecification"].update(MetricDefinitions=definitions)

    job.target.client.meta.events.register("after-call.sagemaker.DescribeTrainingJob", add_definitions)
    assert job.metrics() == {"line": [0, 1, 2, 3, 4, 5]}
    out = io.StringIO()
    job.follow(out, interval=0.01)
    assert "[algo-1] line 4\n" in out.getvalue()
    assert out.getvalue().count("line ") == 6


def test_following_survives_network_errors_and_waits_for_late_lines(session, folder, monkeypatch):
    """A connection that fails between two streams loses no line and repeats none; lines that CloudWatch gets after the
    end are shown
    """
    monkeypatch.setattr(AWSTarget, "log_delay", 3)
    job = TrainingJob(source=folder / "src", role=ROLE, hosts=2, name="late").run(session)
    put_lines = create_streams(session.client("logs"), "late")
    put_lines(1, {1: "line 1"})
    put_lines(2, {2: "line 2"})
    failures = []

    def fail(params, **_):
        if "algo-2" in str(params["body"]) and len(failures) < 2:
            failures.append(1)
            raise EndpointConnectionError(endpoint_url="nowhere")

    session.events.register("before-call.cloudwatch-logs.GetLogEvents", fail)
    out = io.StringIO()
    following = threading.Thread(target=job.follow, args=(out,), kwargs=dict(interval=0.05))
    following.start()
    while "line 2" not in out.getvalue():
        time.sleep(0.01)
    put_lines(1, {3: "the last words"})
    following.join(60)
    output = out.getvalue().splitlines()
    assert len(failures) == 2
    lines = [line for line in output if line.startswith("[algo-")]
    assert lines == ["[algo-1] line 1", "[algo-2] line 2", "[algo-1] the last words"]
    assert sum("does not answer (Could not connect to the endpoint URL" in line for line in output) == 1, output


def test_the_model_comes_back(session, folder):
    job = TrainingJob(source=folder / "src", role=ROLE, name="made").run(session)
    bucket, _, key = job.describe()["ModelArtifacts"]["S3ModelArtifacts"][5:].partition("/")
    with tarfile.open(folder / "model.tar.gz", "w:gz") as tar:
        tar.add(folder / "src" / "train.py", "weights")
    session.client("s3").upload_file(str(folder / "model.tar.gz"), bucket, key)
    assert (job.fetch(folder / "model") / "weights").read_text() == 'print("hello")\n'


# The same API, twice


def test_the_api_is_the_same(client, tmp_path):
    """A program sees the same from LocalSageMaker and from moto with boto3, as far as moto is faithful"""
    (tmp_path / "none.py").write_text("")
    job = TrainingJob(source=tmp_path / "none.py", name="x", tags={"a": "b"})
    request = job.request(LocalSageMaker(tmp_path / "requests"))
    del request["InputDataConfig"]
    for i in range(12):
        arn = client.create_training_job(**request | dict(TrainingJobName=f"job-{i:02}"))["TrainingJobArn"]
        assert arn.startswith("arn:aws:sagemaker:us-east-1:")
        assert arn.endswith(f":training-job/job-{i:02}")

    description = client.describe_training_job(TrainingJobName="job-03")
    assert_types(
        description,
        TrainingJobArn=str,
        TrainingJobStatus=str,
        SecondaryStatus=str,
        SecondaryStatusTransitions=list,
        CreationTime=datetime,
        LastModifiedTime=datetime,
        HyperParameters=dict,
    )
    assert description["ResourceConfig"] == request["ResourceConfig"]
    assert description["OutputDataConfig"] == request["OutputDataConfig"]

    pages = []
    token = {}
    while True:
        page = client.list_training_jobs(MaxResults=5, SortBy="Name", SortOrder="Ascending", **token)
        pages.append([j["TrainingJobName"] for j in page["TrainingJobSummaries"]])
        if "NextToken" not in page:
            break
        token = {"NextToken": page["NextToken"]}
    assert pages == [[f"job-{i:02}" for i in numbers] for numbers in (range(5), range(5, 10), range(10, 12))]
    named = client.list_training_jobs(NameContains="-07")["TrainingJobSummaries"]
    assert [j["TrainingJobName"] for j in named] == ["job-07"]

    with pytest.raises(ClientError) as failure:
        client.describe_training_job(TrainingJobName="nobody")
    assert failure.value.response["Error"]["Code"] == "ValidationException"
    for wrong in (dict(TrainingJobName=3), {}, dict(TrainingJobNam="x")):
        with pytest.raises(ParamValidationError):
            client.describe_training_job(**wrong)
    assert issubclass(client.exceptions.ResourceInUse, ClientError)


# Jobs on this machine


def test_a_job_outlives_the_process_that_started_it(tmp_path, fault):
    (tmp_path / "slow.py").write_text('import time\nfor i in range(20): print("step", i, flush=True); time.sleep(.1)\n')
    starter = subprocess.run([sys.executable, HERE / "orphan_job.py", tmp_path / "slow.py", tmp_path / "local"])
    assert starter.returncode == -signal.SIGKILL
    out = io.StringIO()
    job = TrainingJob.attach("orphan", LocalSageMaker(tmp_path / "local"))
    assert job.status == "InProgress"
    job.follow(out)
    assert job.status == "Completed"
    n_lost = sum(f"step {i}\n" not in out.getvalue() for i in range(20))
    fault("kill: the process that started a job", 1, lost=n_lost)


def test_twenty_jobs_at_once(tmp_path):
    (tmp_path / "part.py").write_text(
        textwrap.dedent("""
        import json, os, pathlib
        ml = pathlib.Path(os.environ.get('SM_MODEL_DIR', '/opt/ml/model')).parent
        number = json.loads((ml/'input/config/hyperparameters.json').read_text())['number']
        (ml/'model'/'number').write_text(number)
        print(f'[metrics] epoch={number}')
    """)
    )
    local = LocalSageMaker(tmp_path / "local")
    jobs = [TrainingJob({"number": i}, tmp_path / "part.py", name=f"part-{i}").run(local) for i in range(20)]
    for i, job in enumerate(jobs):
        job.follow(io.StringIO())
        assert (job.fetch(tmp_path / f"{i}") / "number").read_text() == str(i)
        assert job.metrics() == {"epoch": [i]}
    assert len(local.list_training_jobs(MaxResults=100, StatusEquals="Completed")["TrainingJobSummaries"]) == 20


@pytest.mark.parametrize("namespaces", ["yes", pytest.param("no", marks=pytest.mark.long)])
def test_a_spot_job_that_is_interrupted_ends_with_the_same_bits(tmp_path, monkeypatch, namespaces):
    """Interrupted twice, in namespaces if the system has them, and by variables alone"""
    monkeypatch.setenv("MLKIT_NAMESPACES", namespaces)
    program = HERE / "paused_training.py"
    local = LocalSageMaker(tmp_path / "local")
    whole = TrainingJob(source=program, name="whole").run(local).follow(io.StringIO())
    job = TrainingJob({"pause": 0.05}, program, spot=True, max_run=600, name="spot").run(local)
    for step in (8, 20):
        while f"step {step}" not in "\n".join(job.logs()):
            time.sleep(0.02)
        local.interrupt("spot")
    job.follow(io.StringIO())
    assert job.status == "Completed"
    assert [t["Status"] for t in job.describe()["SecondaryStatusTransitions"]].count("Interrupted") == 2
    assert len(re.findall(r"from \S*checkpoints/step-\d+", "\n".join(job.logs()))) == 2  # continued twice
    weights = job.model().state_dict()
    for name, weight in whole.model().state_dict().items():
        assert torch.equal(weights[name], weight), name


@pytest.mark.parametrize("namespaces", ["yes", pytest.param("no", marks=pytest.mark.long)])
def test_two_hosts_find_the_weights_of_one(tmp_path, monkeypatch, namespaces):
    monkeypatch.setenv("MLKIT_NAMESPACES", namespaces)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    channels = {"training": (x, (x.sum(1) > 0).long())}

    def weights(hosts):
        job = TrainingJob({"epochs": 2}, channels=channels, hosts=hosts).run(LocalSageMaker(tmp_path))
        return job.follow(io.StringIO()).model().state_dict()

    both = weights(hosts=2)
    for name, weight in weights(hosts=1).items():
        torch.testing.assert_close(both[name], weight, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "kilobytes", [2000, 5000, *(pytest.param(n, marks=pytest.mark.long) for n in range(1200, 12000, 300))]
)
def test_a_full_disk_is_reported(tmp_path, kilobytes):
    """The disk with the folder of the local SageMaker is full before the program starts, or when it writes the model"""
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("needs root on Linux, for a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        (tmp_path / "large.py").write_text(
            'import os, pathlib\n(pathlib.Path(os.environ.get("SM_MODEL_DIR", '
            '"/opt/ml/model"))/"weights").write_bytes(os.urandom(10**7))\n'
        )
        job = TrainingJob(source=tmp_path / "large.py", name="large").run(LocalSageMaker(disk))
        with pytest.raises(JobFailed, match="the disk that has .* is full; mlkit local clean, or in Python"):
            job.follow(io.StringIO())
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_host_has_the_memory_of_its_instance_type_on_request(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(
        'try: bytearray(5*2**30); print("five GiB")\nexcept MemoryError: print("less")\n'
    )
    local = LocalSageMaker(tmp_path / "local")
    for limits, line in (("no", "five GiB"), ("yes", "less")):
        monkeypatch.setenv("MLKIT_LIMITS", limits)
        job = TrainingJob(source=tmp_path, instance="ml.t3.medium", name=f"limits-{limits}").run(local)
        assert job.follow(io.StringIO()).logs() == [line]


# Mistakes


WRONG_OPTIONS = {
    "name": (dict(name="my_job"), "TrainingJobName: 'my_job' does not fit the pattern"),
    "long": (dict(name="a" * 64), "TrainingJobName: 64 characters, at most 63"),
    "instance": (dict(instance="ml.m5.lagre"), "did you mean 'ml.m5.large'"),
    "hosts": (dict(hosts=0), "InstanceCount: 0, at least 1 is needed"),
    "spot": (
        dict(spot=True, max_run=100, max_wait=10),
        "MaxWaitTimeInSeconds: 10 seconds are less than MaxRuntimeInSeconds, 100",
    ),
    "warm spot": (dict(spot=True, keep_alive=60), "there are no warm pools for spot jobs"),
    "weeks": (dict(max_run=29 * 86400), "28 days"),
    "output": (dict(output="bucket/x"), "S3OutputPath"),
    "checkpoints": (dict(checkpoints="/data"), "CheckpointConfig.S3Uri"),
    "role": (dict(role="my role"), "role"),
    "metric": (dict(metrics=[dict(Name="loss", Regex="loss=[0-9")]), "is not a regular expression"),
    "group": (dict(metrics=[dict(Name="loss", Regex="loss=")]), "has no group"),
    "many metrics": (dict(metrics=[f"m{i}" for i in range(41)]), "at most 40"),
    "environment": (dict(environment={"A-B": "1"}), "the name 'A-B'"),
    "tags": (dict(tags={str(i): "x" for i in range(51)}), "Tags: 51 entries, at most 50"),
    "vpc": (dict(subnets=["subnet-1"]), "SecurityGroupIds"),
    "retries": (dict(retries=99), "MaximumRetryAttempts: 99, at most 30"),
    "many": (dict(name="a_b", hosts=0), "InstanceCount"),
}


@pytest.mark.parametrize("options, message", WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
def test_a_wrong_option_is_named_before_anything_is_sent(options, message, session, tmp_path):
    (tmp_path / "train.py").write_text("")
    job = TrainingJob(source=tmp_path, **dict(role=ROLE) | options)
    with pytest.raises(ValueError) as failure:
        job.run(session)
    assert message in str(failure.value)
    assert "CreateTrainingJob" not in [n for n, _ in session.calls]
    assert not uploaded(session)


WRONG_CONFIGS = {
    "count": ({str(i): 1 for i in range(101)}, "100"),
    "length": ({"note": "x" * 2501}, "2,500"),
    "name": ({"x" * 257: 1}, "256"),
    "kind": ([1], "expected a dataclass or a dict"),
}


@pytest.mark.parametrize("config, message", WRONG_CONFIGS.values(), ids=WRONG_CONFIGS)
def test_hyperparameters_that_sagemaker_would_refuse(config, message, tmp_path):
    (tmp_path / "train.py").write_text("")
    with pytest.raises((ValueError, TypeError)) as failure:
        TrainingJob(config, tmp_path).request(LocalSageMaker(tmp_path / "local"))
    assert message in str(failure.value)


def test_sources_and_channels_that_do_not_exist(session, tmp_path):
    cases = {
        "none": lambda: TrainingJob(source=tmp_path / "none"),
        "channel 'training': there is no folder": lambda: TrainingJob(
            channels={"training": tmp_path / "nothing"}, role=ROLE
        ).run(session),
        "channel 'training'": lambda: TrainingJob(channels={"training": 3}),
        "did you mean 'source'": lambda: TrainingJob(sauce="x"),
        "a boto3 session": lambda: TrainingJob().run("sagemaker"),
    }
    for message, start in cases.items():
        with pytest.raises((ValueError, TypeError, OSError)) as failure:
            start()
        assert message in str(failure.value)
    assert not uploaded(session)


# AWS's SDK


def test_a_job_as_the_sdk_has_it(session, folder, tmp_path, monkeypatch):
    """to_model_trainer, under the real SDK; its request then runs here with AWS's drivers, and with code and data in
    moto's S3
    """
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    (folder / "src" / "train.py").write_text(
        'import json, os\nprint(json.loads(open("/opt/ml/input/config/hyperparameters.json").read()), '
        'os.environ["GREETING"], os.getpid(), sorted(os.listdir("/opt/ml/input/data/training")))\n'
    )
    process = subprocess.run(
        [
            environment("v3") / "python",
            CONFORMANCE / "trainer_v3.py",
            folder / "src",
            folder / "training",
            tmp_path / "out.json",
        ],
        text=True,
        capture_output=True,
        env=os.environ | dict(SAGEMAKER_VALIDATE_ROLE="false", PYTHONPATH=str(REPOSITORY), HOME=str(tmp_path)),
    )
    assert not process.returncode, process.stderr[-3000:]
    output = json.loads((tmp_path / "out.json").read_text())
    assert output["missing"] == []  # places in the SDK's trainer that the SDK does not have
    for name, requests in output["requests"].items():
        ours, sdks = requests["ours"], requests["sdks"]
        # The SDK adds further members, and sends code in three more channels.
        for key in ours.keys() - {"TrainingJobName", "AlgorithmSpecification", "InputDataConfig"}:
            if isinstance(ours[key], dict):
                assert ours[key].items() <= sdks[key].items(), (name, key, ours[key], sdks[key])
            else:
                assert ours[key] == sdks[key], (name, key)
        for key in ("MetricDefinitions", "TrainingImage"):
            assert ours["AlgorithmSpecification"][key] == sdks["AlgorithmSpecification"][key], (name, key)
        channels = {entry["ChannelName"]: entry for entry in sdks["InputDataConfig"]}
        assert channels.keys() - {"files"} == {"code", "training", "sm_drivers"}
        for entry in ours["InputDataConfig"][1:] if name == "rare" else ():
            assert channels[entry["ChannelName"]] == entry
    if not host_namespaces():
        pytest.skip("needs namespaces: AWS's drivers know no other place than /opt/ml")
    local = LocalSageMaker(tmp_path / "local", s3="boto3")
    request = output["requests"]["plain"]["sdks"]
    local.create_training_job(**request)
    log = TrainingJob.attach(request["TrainingJobName"], local).follow(io.StringIO()).logs()
    line = next(line for line in log if line.startswith("{") and " hello " in line)
    assert "'epochs': '2'" in line, log
    assert "['rows.csv']" in line, log


CONFIG = """
SchemaVersion: '1.0'
SageMaker:
  PythonSDK: {Modules: {Session: {DefaultS3Bucket: company, DefaultS3ObjectKeyPrefix: team}}}
  TrainingJob:
    RoleArn: arn:aws:iam::123456789012:role/admin
    EnableNetworkIsolation: true
    VpcConfig: {Subnets: [subnet-1], SecurityGroupIds: [sg-1]}
    OutputDataConfig: {KmsKeyId: admin-key}
    ResourceConfig: {VolumeKmsKeyId: admin-key}
    Environment: {A: admin, B: admin}
  Model: {ExecutionRoleArn: 'arn:aws:iam::123456789012:role/model', EnableNetworkIsolation: true}
  EndpointConfig: {KmsKeyId: admin-key}
"""


def test_defaults_that_administrators_have_set(session, folder, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    variables = dict(
        PYTHONPATH=str(REPOSITORY), HOME=str(tmp_path), SAGEMAKER_USER_CONFIG_OVERRIDE=str(tmp_path / "config.yaml")
    )
    process = subprocess.run(
        [environment("v3") / "python", CONFORMANCE / "defaults_v3.py", folder / "src", tmp_path / "out.json"],
        text=True,
        capture_output=True,
        env=os.environ | variables,
    )
    assert not process.returncode, process.stderr[-3000:]
    plain, custom, model, config = json.loads((tmp_path / "out.json").read_text())
    assert plain["RoleArn"] == ROLE.replace("job", "admin")
    assert plain["EnableNetworkIsolation"] is True
    assert plain["VpcConfig"]["Subnets"] == ["subnet-1"]
    assert plain["OutputDataConfig"] == dict(S3OutputPath="s3://company/team/jobs", KmsKeyId="admin-key")
    assert plain["ResourceConfig"]["VolumeKmsKeyId"] == "admin-key"
    assert plain["Environment"]["A"] == "admin"
    assert plain["Environment"]["PYTHONPATH"].startswith("/opt/ml")
    # The user's own options win.
    assert custom["RoleArn"] == ROLE.replace("job", "own")
    assert custom["OutputDataConfig"]["KmsKeyId"] == "own"
    assert custom["ResourceConfig"]["VolumeKmsKeyId"] == "own"
    assert custom["Environment"]["A"] == "admin"
    assert custom["Environment"]["B"] == "own"
    assert model["EnableNetworkIsolation"]
    assert config["KmsKeyId"] == "admin-key"
