"""The metrics of a job: of its log or its files, on this machine and on SageMaker, whose answers are made here."""

import datetime
import types

import boto3
import pytest
from botocore.exceptions import ClientError

from mlkit.notebook.watch import Watch, find_job
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.local.client import LocalSageMaker

HUGGING_FACE = [
    "{'loss': 1.5, 'grad_norm': 2.0, 'epoch': 0.5}",
    "12:30:45 100% of v1.2.3",
    "{'eval_loss': 0.5, 'eval_f1': 0.25, 'epoch': 1.0}",
    "{'train_runtime': 12.5, 'train_loss': 1.0, 'epoch': 1.0}",
]
POINTS = [{"loss": 1.5, "grad_norm": 2.0, "epoch": 0.5}, {"eval_loss": 0.5, "eval_f1": 0.25, "epoch": 1.0}]


def run(folder, program, name):
    """Return a job that has run a program on this machine."""
    (folder / f"{name}.py").write_text(program)
    job = TrainingJob(source=folder / f"{name}.py", name=name).run(LocalSageMaker(folder / "local"))
    with open(folder / "out", "w") as out:
        return job.follow(out=out)


def test_the_log_of_a_job_on_this_machine(tmp_path):
    job = run(tmp_path, f"print({chr(10).join(HUGGING_FACE)!r})", "dicts")
    assert job.metric_points() == POINTS
    assert job.metrics() == {name: [p[name] for p in POINTS if name in p] for p in POINTS for name in p}
    record = job.target.client.rows.get("dicts")
    assert record["LastMetrics"] == POINTS[0] | POINTS[1]
    assert "LastMetrics" not in job.describe(), "it is not of SageMaker's"
    assert "FinalMetricDataList" not in job.describe(), "the request defines none of them"
    watch = Watch(job)
    watch.poll()
    assert watch.curves.metric_points("train_loss") == [(0.5, 1.5)]
    assert watch.curves.other_metrics == ["grad_norm", "valid_f1"]


def test_the_files_of_a_job_on_this_machine(tmp_path):
    program = """
import os
with open(os.path.join(os.environ["SM_OUTPUT_DATA_DIR"], "log.csv"), "w") as f:
    f.write("step,loss,val_loss\\n10,0.5,\\n20,0.25,0.75\\n")
print("12:30:45 100% of v1.2.3")
"""
    job = run(tmp_path, program, "table")
    assert job.metric_points() == [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25, "val_loss": 0.75}]
    assert job.metrics() == {"step": [10, 20], "loss": [0.5, 0.25], "val_loss": [0.75]}
    assert job.target.client.rows.get("table")["LastMetrics"] == {"step": 20, "loss": 0.25, "val_loss": 0.75}
    watch = Watch(job)
    watch.poll()
    assert (watch.curves.x_name, watch.curves.metric_points("valid_loss")) == ("step", [(20, 0.75)])


@pytest.fixture
def sagemaker():
    """A boto3 session whose operations answer as `answers` says, and the requests that they got."""
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    answers = {}
    requests = []

    def answer(model, params, **_):
        requests.append((model.name, params["body"]))
        response = answers[model.name]
        status = 400 if "Error" in response else 200
        return types.SimpleNamespace(status_code=status), response

    session.events.register("before-call", answer)
    return types.SimpleNamespace(session=session, answers=answers, requests=requests)


def started(sagemaker, lines, **fields):
    """Return a job of SageMaker's, and let it have these lines in its log."""
    now = datetime.datetime.now(datetime.UTC)
    sagemaker.answers |= {
        "DescribeTrainingJob": {
            "TrainingJobName": "job",
            "TrainingJobStatus": "InProgress",
            "TrainingStartTime": now - datetime.timedelta(minutes=5),
            "CreationTime": now - datetime.timedelta(minutes=6),
            "AlgorithmSpecification": {},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
            "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
            **fields,
        },
        "DescribeLogStreams": {"logStreams": [{"logStreamName": "job/algo-1-123"}]},
        "GetLogEvents": {
            "events": [{"timestamp": i, "message": line} for i, line in enumerate(lines)],
            "nextForwardToken": "end",
        },
    }
    return TrainingJob.attach("job", sagemaker.session)


def test_the_log_of_a_job_on_sagemaker(sagemaker):
    job = started(sagemaker, HUGGING_FACE)
    events = sagemaker.answers["GetLogEvents"]["events"]

    def pages():
        yield {"events": events, "nextForwardToken": "end"}
        while True:
            yield {"events": [], "nextForwardToken": "end"}

    log = pages()
    sagemaker.session.events.register_first("before-call.cloudwatch-logs.GetLogEvents", lambda **_: (OK, next(log)))
    assert job.metric_points() == POINTS


OK = types.SimpleNamespace(status_code=200)
DENIED = {"Error": {"Code": "AccessDenied", "Message": "no permission"}}


def test_files_that_may_not_be_read_are_named_and_the_last_values_remain(sagemaker):
    final = [{"MetricName": "loss", "Value": 0.5, "Timestamp": datetime.datetime.now(datetime.UTC)}]
    checkpoints = {"S3Uri": "s3://bucket/checkpoints"}
    job = started(sagemaker, [], FinalMetricDataList=final, CheckpointConfig=checkpoints)
    sagemaker.answers["ListObjectsV2"] = DENIED
    assert job.metric_points() == [{"loss": 0.5}]
    assert job.metrics() == {"loss": [0.5]}
    watch = Watch(job)
    watch.poll()
    note = "files with metrics under s3://bucket/checkpoints: these credentials may not read it"
    assert watch.metrics_note == note
    assert note in repr(watch)


NOT_FOUND = {"Error": {"Code": "ValidationException", "Message": "Requested resource not found."}}


def test_a_name_that_no_job_on_sagemaker_has(sagemaker):
    now = datetime.datetime.now(datetime.UTC)
    summary = {"TrainingJobName": "iris-20260102", "TrainingJobStatus": "Completed", "CreationTime": now}
    sagemaker.answers |= {
        "DescribeTrainingJob": NOT_FOUND,
        "ListTrainingJobs": {"TrainingJobSummaries": [summary]},
    }
    message = "training job 'iris-20260103' not found on SageMaker in us-east-1: did you mean 'iris-20260102'?"
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        find_job("iris-20260103", sagemaker.session)
    lists = [body for name, body in sagemaker.requests if name == "ListTrainingJobs"]
    assert [b'"NameContains": "iris"' in body for body in lists] == [False, True]


def test_credentials_that_may_not_list_jobs_get_the_plain_error(sagemaker):
    sagemaker.answers |= {"DescribeTrainingJob": NOT_FOUND, "ListTrainingJobs": DENIED}
    with pytest.raises(ClientError, match="Requested resource not found"):
        find_job("iris", sagemaker.session)
