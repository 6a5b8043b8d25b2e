"""The list of runs on SageMaker: what it asks for, and what it shows if that is refused."""

import pytest
from botocore.awsrequest import AWSResponse
from click.testing import CliRunner

from mlkit import cli
from mlkit.notebook import runs


class Body:
    """The body of a response that was not sent by a server."""

    def __init__(self, content):
        self.content = content

    def stream(self, **options):
        yield self.content


def answer_with(session, operation, code, times=None):
    """Let SageMaker answer an operation with an error, always or so many times. Return a list of the answers."""
    answers = []

    def respond(request, **kwargs):
        if times is not None and len(answers) >= times:
            return None
        answers.append(code)
        body = Body(b'{"__type": "%s", "message": "User: x is not authorized"}' % code.encode())
        return AWSResponse(request.url, 400, {}, body)

    session.events.register(f"before-send.sagemaker.{operation}", respond)
    return answers


def create_jobs(session, count):
    """Give the account so many jobs, and forget what was called so far."""
    client = session.client("sagemaker")
    for i in range(count):
        client.create_training_job(
            TrainingJobName=f"job-{i:03}",
            RoleArn="arn:aws:iam::123456789012:role/job",
            AlgorithmSpecification={"TrainingImage": "image", "TrainingInputMode": "File"},
            OutputDataConfig={"S3OutputPath": "s3://bucket/jobs"},
            ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
            StoppingCondition={"MaxRuntimeInSeconds": 60},
            HyperParameters={"rate": str((i * 7 % 120) / 100), "epochs": '"3"'},
        )
    session.calls.clear()


def count_calls(session):
    """Return how often List and Describe were called since the last time."""
    names = [name for name, _ in session.calls]
    assert set(names) <= {"ListTrainingJobs", "DescribeTrainingJob"}
    session.calls.clear()
    return names.count("ListTrainingJobs"), names.count("DescribeTrainingJob")


def test_only_what_is_shown_is_asked_for(session, monkeypatch):
    create_jobs(session, 120)
    table = runs(session)
    assert count_calls(session) == (1, 50)
    assert table.rows.position == "1–50 of more than 50 jobs"
    assert table.table().header == ["job", "status", "rate", "started", "duration"]
    assert "the same in all: epochs 3" in table.equal.value
    table.next_button.click()
    table.next_button.click()
    assert (count_calls(session), len(table.jobs), table.rows.position) == ((1, 70), 20, "101–120 of 120 jobs")
    table.previous_button.click()
    assert count_calls(session) == (0, 0)

    # The service finds names and a status.
    table.filter.value = "job-01"
    assert sorted(job.name for job in table.jobs) == [f"job-01{i}" for i in range(10)]
    table.filter.value = "job-01 status=Completed"
    assert (len(table.jobs), count_calls(session)[1]) == (10, 0)

    # A hyperparameter needs all descriptions, each of them once.
    fresh = runs(session)
    fresh.sort("rate")
    assert (fresh.jobs[0].hyperparameters["rate"], fresh.jobs[1].hyperparameters["rate"]) == ("0.0", "0.01")
    fresh.filter.value = "rate>1.18"
    assert [job.hyperparameters["rate"] for job in fresh.jobs] == ["1.19"]
    assert count_calls(session)[1] == 120
    assert len(fresh.to_pandas()) == 1

    assert len(runs(session, limit=110).to_pandas()) == 110
    with pytest.raises(TypeError, match="most"):
        runs(session, most=200)

    # So does the command line.
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    result = CliRunner().invoke(cli.mlkit, ["list", "--target", "sagemaker", "--most", "110"])
    assert result.output.count("Completed") == 110, result.output
    result = CliRunner().invoke(cli.mlkit, ["list", "--target", "sagemaker", "--most", "0"])
    assert "0 is not in the range x>=1" in result.output


def test_a_service_that_throttles_is_asked_again(session):
    create_jobs(session, 3)
    answers = answer_with(session, "DescribeTrainingJob", "ThrottlingException", times=1)
    table = runs(session)
    assert (table.message.value, len(answers)) == ("", 1)
    assert [job.hyperparameters["epochs"] for job in table.jobs] == ['"3"'] * 3


def test_jobs_that_may_not_be_listed(session):
    answer_with(session, "ListTrainingJobs", "AccessDeniedException")
    table = runs(session)
    for text in (repr(table), table.message.value):
        assert "To list jobs these credentials need sagemaker:ListTrainingJobs" in text
        assert "found without" in text
    assert table.rows.position == "no jobs"


def test_jobs_that_may_be_listed_and_not_described(session):
    create_jobs(session, 12)
    answers = answer_with(session, "DescribeTrainingJob", "AccessDeniedException")
    table = runs(session)
    assert len(answers) <= 8
    assert "these credentials need sagemaker:DescribeTrainingJob" in table.message.value
    assert len(table.checkboxes) == 12
    assert table.table().header == ["job", "status", "started", "duration"]
    assert repr(table).count("Completed") == 12
