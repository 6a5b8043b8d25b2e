"""Jobs where a notebook cannot go: to SageMaker's API, which moto answers over HTTP; through the death of the process
that started them; twenty at once

moto comes from the environment that conformance/v2.txt pins.
"""

import io
import json
import os
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
from test_conformance import environment

from mlkit.notebook import launcher, monitor
from mlkit.notebook.runs import runs
from mlkit.sagemaker.client.jobs import JobFailed, TrainingJob
from mlkit.sagemaker.client.target import AWSTarget
from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.sagemaker.local.host import namespaces as host_namespaces

ROLE = "arn:aws:iam::123456789012:role/job"


@pytest.fixture
def folder(tmp_path):
    for name in ("src", "training"):
        (tmp_path / name).mkdir()
    (tmp_path / "src" / "train.py").write_text('print("hello")\n')
    (tmp_path / "training" / "rows.csv").write_text("0,1,2\n1,3,4\n")
    return tmp_path


def sent(session):
    """Keys that were written to S3 since the last time"""
    found = [p["Key"].rpartition("/")[2] for n, p in session.calls if n in ("PutObject", "CreateMultipartUpload")]
    session.calls.clear()
    return found


def test_what_is_sent_to_sagemaker(session, folder):
    job = TrainingJob(
        {"epochs": 3},
        folder / "src",
        {"training": folder / "training", "other": "s3://bucket/other"},
        role=ROLE,
        spot=True,
        max_run=60,
        name="first",
    )
    asked = job.request(session)
    job.run(session)
    assert next(p for n, p in session.calls if n == "CreateTrainingJob") == asked
    assert asked["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"].startswith(
        "s3://sagemaker-us-east-1-123456789012/mlkit/code/"
    )
    assert asked["AlgorithmSpecification"]["TrainingImage"].endswith("-sagemaker")
    assert sent(session) == ["train.py", "mlkit_sagemaker-0.0.1-py3-none-any.whl", "mlkit_start.py", "rows.csv"]
    assert job.status == "Completed" and TrainingJob.attach("first", session).hyperparameters == {"epochs": "3"}


def test_the_launcher_asks_before_it_costs_money(session, folder):
    form = launcher(
        TrainingJob({"epochs": 3}, folder / "src", {"training": folder / "training"}, role=ROLE), session=session
    )
    form.target.value, form.hosts.value = "sagemaker", 2
    form.show_request()
    form.launch_button.click()
    assert (
        "&quot;InstanceCount&quot;: 2" in form.request_text.value
        and "This costs money" in form.question_text.value
        and not form.note.value
    ), form.note.value
    assert "CreateTrainingJob" not in [n for n, _ in session.calls]
    form.yes.click()
    form.yes.click()
    assert form.wait().monitor.wait(60).watch.status == "Completed", form.note.value
    assert [n for n, _ in session.calls].count("CreateTrainingJob") == 1
    found = runs(session)
    assert [j["TrainingJobName"] for j in found.jobs] == [form.job.name]
    assert monitor(form.job.name, session).watch.status == "Completed" and found.compare().rows[0][0] == form.job.name


def test_what_is_there_is_not_sent_again(session, folder):
    def start():
        return TrainingJob({"epochs": 3}, folder / "src", {"training": folder / "training"}, role=ROLE).run(session)

    start()
    sent(session)
    start()
    assert sent(session) == []
    # goes in parts, and then S3's own digest is no MD5
    (folder / "training" / "large.bin").write_bytes(bytes(9 * 2**20))
    start()
    assert sent(session) == ["large.bin"]
    start()
    assert sent(session) == []
    (folder / "training" / "large.bin").write_bytes(bytes(9 * 2**20 - 1) + b"1")
    start()
    assert sent(session) == ["large.bin"]
    (folder / "training" / "more.csv").write_text("1,2,3\n")
    (folder / "src" / "train.py").write_text('print("other")\n')
    start()
    assert sent(session) == ["train.py", "mlkit_sagemaker-0.0.1-py3-none-any.whl", "mlkit_start.py", "more.csv"]


def test_large_data_in_s3_are_streamed(session, folder):
    """moto says how large an object is; 6 GB are not put into it"""
    s3 = session.client("s3")
    s3.create_bucket(Bucket="data")
    for name in "ab":
        s3.put_object(Bucket="data", Key=f"rows/{name}.csv", Body=b"1,2\n")
    job = TrainingJob(source=folder / "src", channels={"training": "s3://data/rows"}, role=ROLE)
    assert (
        job.explain(session).rows[0][2:4] == [2, "8 B"]
        and "InputMode" not in job.request(session)["InputDataConfig"][1]
    )
    session.events.register(
        "after-call.s3.ListObjectsV2",
        lambda parsed, **_: [
            o.update(Size=3 * 2**30 + 1) for o in parsed.get("Contents", ()) if o["Key"].startswith("rows/")
        ],
    )
    assert (
        job.request(session)["InputDataConfig"][1]["InputMode"] == "FastFile"
        and "streamed from S3" in job.explain(session).rows[0][4]
    )


def test_a_program_that_reads_s3_itself(session, folder, monkeypatch):
    """AWS's s3torchconnector asks moto, from the job's process; with a folder for S3 the same program reads that"""
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

    def run(target, where, **options):
        return (
            TrainingJob(
                options.pop("config", None),
                options.pop("source", None),
                {"training": where},
                input_mode="s3torchconnector",
            )
            .run(target)
            .follow(io.StringIO())
        )

    assert (
        "found str [('a/1.csv', 158), ('b/2.csv', 158)]" in run(local, "s3://data/rows", source=folder / "src").logs()
    )
    assert "found str [('rows.csv', 12)]" in run(local, folder / "training", source=folder / "src").logs()
    assert any(
        "Path [('rows.csv', 12)]" in line
        for line in run(LocalSageMaker(folder / "other"), folder / "training", source=folder / "src").logs()
    )
    assert any("40 samples of shape (2,)" in line for line in run(local, "s3://data/rows", config={"epochs": 1}).logs())
    job = TrainingJob(
        source=folder / "src", channels={"training": "s3://data/rows"}, role=ROLE, input_mode="s3torchconnector"
    )
    asked = job.request(session)
    assert [c["ChannelName"] for c in asked["InputDataConfig"]] == ["code"] and asked["Environment"][
        "SM_CHANNEL_TRAINING"
    ] == "s3://data/rows"
    assert job.explain(session).rows[0][4] == "s3torchconnector: as was asked for"


def test_the_role_is_asked_for(session, folder):
    with pytest.raises(ValueError, match="which role shall the job have"):
        TrainingJob(source=folder / "src").run(session)
    assert not sent(session)


def test_the_log_comes_in_order_once_and_from_all_hosts(session, folder):
    job = TrainingJob(source=folder / "src", role=ROLE, hosts=2, name="talking").run(session)
    assert list(job.target.lines("talking", {})) == []
    logs = session.client("logs")
    group = "/aws/sagemaker/TrainingJobs"
    logs.create_log_group(logGroupName=group)
    now = int(time.time() * 1000)
    seen = {}
    for host in (1, 2):
        logs.create_log_stream(logGroupName=group, logStreamName=f"talking/algo-{host}-1700000000")

    def say(host, *times):
        logs.put_log_events(
            logGroupName=group,
            logStreamName=f"talking/algo-{host}-1700000000",
            logEvents=[dict(timestamp=now + t, message=f"line {t}") for t in times],
        )

    say(1, 0, 2, 4)
    say(2, 1, 3)
    assert list(job.target.lines("talking", seen)) == [(f"algo-{t % 2 + 1}", f"line {t}") for t in range(5)]
    assert list(job.target.lines("talking", seen)) == []
    say(2, 5)
    assert list(job.target.lines("talking", seen)) == [("algo-2", "line 5")]
    job.target.client.meta.events.register(
        "after-call.sagemaker.DescribeTrainingJob",
        lambda parsed, **_: parsed["AlgorithmSpecification"].update(
            MetricDefinitions=[dict(Name="line", Regex="line ([0-9]+)")]
        ),
    )  # moto forgets them
    assert job.metrics() == {"line": [0, 1, 2, 3, 4, 5]}
    out = io.StringIO()
    job.follow(out, every=0.01)
    assert "[algo-1] line 4\n" in out.getvalue() and out.getvalue().count("line ") == 6


def test_following_outlasts_the_network_and_hears_the_last_words(session, folder, monkeypatch):
    """A connection that fails between two streams loses no line and repeats none; what CloudWatch gets after the end is
    shown, too
    """
    monkeypatch.setattr(AWSTarget, "settle", 3)
    job = TrainingJob(source=folder / "src", role=ROLE, hosts=2, name="late").run(session)
    logs = session.client("logs")
    group = "/aws/sagemaker/TrainingJobs"
    failures = []
    logs.create_log_group(logGroupName=group)
    now = int(time.time() * 1000)
    for host in (1, 2):
        logs.create_log_stream(logGroupName=group, logStreamName=f"late/algo-{host}-17")
        logs.put_log_events(
            logGroupName=group,
            logStreamName=f"late/algo-{host}-17",
            logEvents=[dict(timestamp=now + host, message=f"line {host}")],
        )

    def fail(params, **_):
        if "algo-2" in str(params["body"]) and len(failures) < 2:
            failures.append(1)
            raise EndpointConnectionError(endpoint_url="nowhere")

    session.events.register("before-call.cloudwatch-logs.GetLogEvents", fail)
    out = io.StringIO()
    following = threading.Thread(target=job.follow, args=(out,), kwargs=dict(every=0.05))
    following.start()
    while "line 2" not in out.getvalue():
        time.sleep(0.01)
    logs.put_log_events(
        logGroupName=group,
        logStreamName="late/algo-1-17",
        logEvents=[dict(timestamp=now + 3, message="the last words")],
    )
    following.join(60)
    said = [line for line in out.getvalue().splitlines() if "algo-" in line or "does not answer" in line]
    assert len(failures) == 2 and [s for s in said if "does not" not in s] == [
        "[algo-1] line 1",
        "[algo-2] line 2",
        "[algo-1] the last words",
    ], said
    assert sum("does not answer (Could not connect to the endpoint URL" in s for s in said) == 1


def test_the_model_comes_back(session, folder):
    job = TrainingJob(source=folder / "src", role=ROLE, name="made").run(session)
    bucket, _, key = job.describe()["ModelArtifacts"]["S3ModelArtifacts"][5:].partition("/")
    with tarfile.open(folder / "model.tar.gz", "w:gz") as tar:
        tar.add(folder / "src" / "train.py", "weights")
    session.client("s3").upload_file(str(folder / "model.tar.gz"), bucket, key)
    assert (job.fetch(folder / "model") / "weights").read_text() == 'print("hello")\n'


def test_the_api_is_the_same(client, tmp_path):
    """What a program sees that asks LocalSageMaker, and one that asks moto with boto3; where moto is faithful"""
    (tmp_path / "none.py").write_text("")
    asked = TrainingJob(source=tmp_path / "none.py", name="x", tags={"a": "b"}).request(
        LocalSageMaker(tmp_path / "requests")
    )
    del asked["InputDataConfig"]
    for i in range(12):
        arn = client.create_training_job(**asked | dict(TrainingJobName=f"job-{i:02}"))["TrainingJobArn"]
        assert arn.startswith("arn:aws:sagemaker:us-east-1:") and arn.endswith(f":training-job/job-{i:02}")
    about = client.describe_training_job(TrainingJobName="job-03")
    for key, kind in dict(
        TrainingJobArn=str,
        TrainingJobStatus=str,
        SecondaryStatus=str,
        SecondaryStatusTransitions=list,
        CreationTime=datetime,
        LastModifiedTime=datetime,
        HyperParameters=dict,
    ).items():
        assert isinstance(about[key], kind), key
    assert about["ResourceConfig"] == asked["ResourceConfig"] and about["OutputDataConfig"] == asked["OutputDataConfig"]
    names = []
    token = {}
    while True:
        page = client.list_training_jobs(MaxResults=5, SortBy="Name", SortOrder="Ascending", **token)
        names.append([j["TrainingJobName"] for j in page["TrainingJobSummaries"]])
        if "NextToken" not in page:
            break
        token = {"NextToken": page["NextToken"]}
    assert names == [[f"job-{i:02}" for i in part] for part in (range(5), range(5, 10), range(10, 12))]
    assert [j["TrainingJobName"] for j in client.list_training_jobs(NameContains="-07")["TrainingJobSummaries"]] == [
        "job-07"
    ]
    with pytest.raises(ClientError) as failed:
        client.describe_training_job(TrainingJobName="nobody")
    assert failed.value.response["Error"]["Code"] == "ValidationException"
    for wrong in (dict(TrainingJobName=3), {}, dict(TrainingJobNam="x")):
        with pytest.raises(ParamValidationError):
            client.describe_training_job(**wrong)
    assert issubclass(client.exceptions.ResourceInUse, ClientError)


STARTER = textwrap.dedent("""
    import os, signal, sys
    from mlkit.sagemaker.client.jobs import TrainingJob
    from mlkit.sagemaker.local.client import LocalSageMaker
    TrainingJob(source=sys.argv[1], name='orphan').run(LocalSageMaker(sys.argv[2]))
    os.kill(os.getpid(), signal.SIGKILL)
""")


def test_a_job_outlives_the_process_that_started_it(tmp_path):
    (tmp_path / "slow.py").write_text('import time\nfor i in range(20): print("step", i, flush=True); time.sleep(.1)\n')
    started = subprocess.run([sys.executable, "-c", STARTER, tmp_path / "slow.py", tmp_path / "local"])
    assert started.returncode == -signal.SIGKILL
    out = io.StringIO()
    job = TrainingJob.attach("orphan", LocalSageMaker(tmp_path / "local"))
    assert job.status == "InProgress"
    job.follow(out)
    assert job.status == "Completed" and "step 19\n" in out.getvalue()


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
        assert (job.fetch(tmp_path / f"{i}") / "number").read_text() == str(i) and job.metrics() == {"epoch": [i]}
    assert len(local.list_training_jobs(MaxResults=100, StatusEquals="Completed")["TrainingJobSummaries"]) == 20


PROGRAM = textwrap.dedent("""
    from dataclasses import dataclass
    import time
    import torch
    from mlkit.model import MyCustomModel
    from mlkit.model.saving import save_model
    from mlkit.sagemaker_entry import Container, entry_point
    from mlkit.training import train_model
    from torch.utils.data import DataLoader, TensorDataset

    @dataclass
    class Config:
        pause: float = 0. # seconds a step

    @entry_point
    def main(config: Config, container: Container):
        torch.manual_seed(0)
        x = torch.randn(64, 4)
        class Slow:
            def after_step(self, trainer): time.sleep(config.pause); print(f'step {trainer.step}', flush=True)
        model = MyCustomModel(4, 8, 2)
        train_model(model, DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch_size=16, shuffle=True), epochs=10, learning_rate=.01, callbacks=[Slow()],
                    checkpoints=container.checkpoint_dir, save_every=1, seed=0)
        save_model(model, container.model_dir)

    if __name__ == '__main__': main()
""")


@pytest.mark.parametrize("namespaces", ["yes", "no"])
def test_a_spot_job_that_is_interrupted_ends_with_the_same_bits(tmp_path, monkeypatch, namespaces):
    """Twice interrupted, in namespaces where there are some, and by variables alone"""
    monkeypatch.setenv("MLKIT_NAMESPACES", namespaces)
    (tmp_path / "train.py").write_text(PROGRAM)
    local = LocalSageMaker(tmp_path / "local")
    whole = TrainingJob(source=tmp_path / "train.py", name="whole").run(local).follow(io.StringIO())
    job = TrainingJob({"pause": 0.05}, tmp_path / "train.py", spot=True, max_run=600, name="spot").run(local)
    for step in (8, 20):
        while f"step {step}" not in "\n".join(job.logs()):
            time.sleep(0.02)
        local.interrupt("spot")
    job.follow(io.StringIO())
    assert [t["Status"] for t in job.describe()["SecondaryStatusTransitions"]].count(
        "Interrupted"
    ) == 2 and job.status == "Completed"
    assert "\n".join(job.logs()).count("Going on from") == 2
    for name, t in whole.model().state_dict().items():
        assert torch.equal(job.model().state_dict()[name], t)


@pytest.mark.parametrize("namespaces", ["yes", "no"])
def test_two_hosts(tmp_path, monkeypatch, namespaces):
    monkeypatch.setenv("MLKIT_NAMESPACES", namespaces)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    job = (
        TrainingJob({"epochs": 2}, channels={"training": (x, (x.sum(1) > 0).long())}, hosts=2)
        .run(LocalSageMaker(tmp_path))
        .follow(io.StringIO())
    )
    alone = (
        TrainingJob({"epochs": 2}, channels={"training": (x, (x.sum(1) > 0).long())})
        .run(LocalSageMaker(tmp_path))
        .follow(io.StringIO())
    )
    for name, t in alone.model().state_dict().items():
        torch.testing.assert_close(job.model().state_dict()[name], t, atol=1e-5, rtol=0)


def test_a_full_disk_is_said(tmp_path):
    """The folder of the local SageMaker lies on a disk of 2 MB"""
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("needs root on Linux, for a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        (tmp_path / "large.py").write_text(
            'import os, pathlib\n(pathlib.Path(os.environ.get("SM_MODEL_DIR", '
            '"/opt/ml/model"))/"weights").write_bytes(os.urandom(10**7))\n'
        )
        job = TrainingJob(source=tmp_path / "large.py", name="large").run(LocalSageMaker(disk))
        with pytest.raises(JobFailed, match="the disk that has .* is full; mlkit local clean frees"):
            job.follow(io.StringIO())
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize(
    "options, said",
    {
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
        "role": (dict(role="me"), "RoleArn"),
        "metric": (dict(metrics=[dict(Name="loss", Regex="loss=[0-9")]), "is not a regular expression"),
        "group": (dict(metrics=[dict(Name="loss", Regex="loss=")]), "has no group"),
        "many metrics": (dict(metrics=[f"m{i}" for i in range(41)]), "at most 40"),
        "environment": (dict(environment={"A-B": "1"}), "the name 'A-B'"),
        "tags": (dict(tags={str(i): "x" for i in range(51)}), "Tags: 51 entries, at most 50"),
        "vpc": (dict(subnets=["subnet-1"]), "SecurityGroupIds"),
        "retries": (dict(retries=99), "MaximumRetryAttempts: 99, at most 30"),
        "many": (dict(name="a_b", hosts=0), "InstanceCount"),
    }.values(),
)
def test_a_mistake_of_each_kind_is_named_before_anything_is_sent(options, said, session, tmp_path):
    (tmp_path / "train.py").write_text("")
    job = TrainingJob(source=tmp_path, **dict(role=ROLE) | options)
    with pytest.raises(ValueError) as failed:
        job.run(session)
    assert (
        said in str(failed.value) and not sent(session) and not [n for n, _ in session.calls if n.startswith("Create")]
    ), failed.value


@pytest.mark.parametrize(
    "config, said",
    [
        ({str(i): 1 for i in range(101)}, "100"),
        ({"note": "x" * 2501}, "2,500"),
        ({"x" * 257: 1}, "256"),
        ([1], "expected a dataclass or a dict"),
    ],
    ids=["count", "length", "name", "kind"],
)
def test_hyperparameters_that_sagemaker_would_refuse(config, said, tmp_path):
    (tmp_path / "train.py").write_text("")
    with pytest.raises((ValueError, TypeError)) as failed:
        TrainingJob(config, tmp_path).request(LocalSageMaker(tmp_path / "local"))
    assert said in str(failed.value), failed.value


def test_sources_and_channels_that_are_not_there(session, tmp_path):
    for job, said in (
        (lambda: TrainingJob(source=tmp_path / "none"), "none"),
        (
            lambda: TrainingJob(channels={"training": tmp_path / "nothing"}, role=ROLE).run(session),
            "channel 'training': there is no folder",
        ),
        (lambda: TrainingJob(channels={"training": 3}), "channel 'training'"),
        (lambda: TrainingJob(sauce="x"), "did you mean 'source'"),
        (lambda: TrainingJob().run("sagemaker"), "a boto3 session"),
    ):
        with pytest.raises((ValueError, TypeError, OSError)) as failed:
            job()
        assert said in str(failed.value), failed.value
    assert not sent(session)


def test_a_host_has_the_memory_of_its_type_of_machine_if_asked(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(
        'try: bytearray(5*2**30); print("five GiB")\nexcept MemoryError: print("less")\n'
    )
    said = {}
    for limits in ("no", "yes"):
        monkeypatch.setenv("MLKIT_LIMITS", limits)
        said[limits] = (
            TrainingJob(source=tmp_path, instance="ml.t3.medium", name=f"limits-{limits}")
            .run(LocalSageMaker(tmp_path / "local"))
            .follow(io.StringIO())
            .logs()
        )
    assert said == {"no": ["five GiB"], "yes": ["less"]}


def test_a_job_as_the_sdk_has_it(session, folder, tmp_path, monkeypatch):
    """to_model_trainer, under the real SDK; its request then runs here with AWS's drivers, and with code and data in
    moto's S3
    """
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    (folder / "src" / "train.py").write_text(
        'import json, os\nprint(json.loads(open("/opt/ml/input/config/hyperparameters.json").read()), '
        'os.environ["GREETING"], os.getpid(), sorted(os.listdir("/opt/ml/input/data/training")))\n'
    )
    root = Path(__file__).parent
    done = subprocess.run(
        [
            environment("v3") / "python",
            root / "conformance" / "trainer_v3.py",
            folder / "src",
            folder / "training",
            tmp_path / "out.json",
        ],
        text=True,
        capture_output=True,
        env=os.environ | dict(SAGEMAKER_VALIDATE_ROLE="false", PYTHONPATH=str(root.parent), HOME=str(tmp_path)),
    )
    assert not done.returncode, done.stderr[-3000:]
    own, sdk = json.loads((tmp_path / "out.json").read_text()).values()
    for key in (
        "RoleArn",
        "HyperParameters",
        "ResourceConfig",
        "StoppingCondition",
        "OutputDataConfig",
        "CheckpointConfig",
        "Environment",
        "Tags",
        "VpcConfig",
        "EnableManagedSpotTraining",
        "EnableNetworkIsolation",
        "RetryStrategy",
    ):
        assert own[key].items() <= sdk[key].items() if isinstance(own[key], dict) else sdk[key] == own[key], (
            key,
            sdk[key],
            own[key],
        )
    assert (
        sdk["AlgorithmSpecification"]["MetricDefinitions"] == own["AlgorithmSpecification"]["MetricDefinitions"]
        and sdk["AlgorithmSpecification"]["TrainingImage"] == own["AlgorithmSpecification"]["TrainingImage"]
    )
    assert {c["ChannelName"] for c in sdk["InputDataConfig"]} == {"code", "training", "sm_drivers"}
    if not host_namespaces():
        pytest.skip("needs namespaces: AWS's drivers know of no other place than /opt/ml")
    local = LocalSageMaker(tmp_path / "local", s3="boto3")
    local.create_training_job(**sdk)
    log = TrainingJob.attach(sdk["TrainingJobName"], local).follow(io.StringIO()).logs()
    said = next(line for line in log if line.startswith("{") and " hello " in line)
    assert "'epochs': '2'" in said and "['rows.csv']" in said, log


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


def test_what_the_administrators_have_set(session, folder, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    root = Path(__file__).parent
    done = subprocess.run(
        [environment("v3") / "python", root / "conformance" / "defaults_v3.py", folder / "src", tmp_path / "out.json"],
        text=True,
        capture_output=True,
        env=os.environ
        | dict(
            PYTHONPATH=str(root.parent),
            HOME=str(tmp_path),
            SAGEMAKER_USER_CONFIG_OVERRIDE=str(tmp_path / "config.yaml"),
        ),
    )
    assert not done.returncode, done.stderr[-3000:]
    plain, own, model, config = json.loads((tmp_path / "out.json").read_text())
    assert (
        plain["RoleArn"],
        plain["EnableNetworkIsolation"],
        plain["VpcConfig"]["Subnets"],
        plain["OutputDataConfig"],
    ) == (
        ROLE.replace("job", "admin"),
        True,
        ["subnet-1"],
        dict(S3OutputPath="s3://company/team/jobs", KmsKeyId="admin-key"),
    )
    assert (
        plain["ResourceConfig"]["VolumeKmsKeyId"] == "admin-key"
        and plain["Environment"]["A"] == "admin"
        and plain["Environment"]["PYTHONPATH"].startswith("/opt/ml")
    )
    assert (
        own["RoleArn"],
        own["OutputDataConfig"]["KmsKeyId"],
        own["ResourceConfig"]["VolumeKmsKeyId"],
        own["Environment"]["A"],
        own["Environment"]["B"],
    ) == (ROLE.replace("job", "own"), "own", "own", "admin", "own")
    assert model["EnableNetworkIsolation"] and config["KmsKeyId"] == "admin-key"
