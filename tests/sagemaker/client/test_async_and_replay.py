"""Asynchronous requests and captured data on SageMaker: what is sent, and what is read from S3."""

import io
import json
from base64 import b64encode
from datetime import UTC, datetime

import pytest
import torch

from mlkit.sagemaker.api import api_error, check_request
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.client.endpoints import Endpoint, EndpointFailed, InvocationFailed
from mlkit.sagemaker.client.polling import Interval
from mlkit.sagemaker.client.target import AWSTarget

HANDLERS = """
def model_fn(model_dir):
    return ["setosa", "versicolor"]


def input_fn(data, content_type):
    return float(data.decode() if isinstance(data, bytes) else data)


def predict_fn(x, names):
    return {"length": x * 1.0000001, "label": names[x > 2.5]}
"""


class FakeRuntime:
    """Accepts InvokeEndpointAsync requests that SageMaker accepts."""

    def __init__(self):
        self.requests = []

    def invoke_endpoint_async(self, **request):
        check_request("InvokeEndpointAsync", request, "sagemaker-runtime")
        self.requests.append(request)
        places = dict(OutputLocation="s3://bucket/out/1.out", FailureLocation="s3://bucket/failed/1-error.out")
        return dict(InferenceId="id-1") | places


@pytest.fixture
def endpoint(session, monkeypatch):
    """Return an endpoint of SageMaker whose S3 is moto's."""
    monkeypatch.setattr(AWSTarget, "bucket", "s3://bucket/mlkit")
    monkeypatch.setattr(AWSTarget, "create_bucket", lambda self: None)
    monkeypatch.setattr(AWSTarget, "log_interval", Interval(0.01, 0.02))
    monkeypatch.setattr(AWSTarget, "status_interval", Interval(0.01, 0.01))
    session.client("s3").create_bucket(Bucket="bucket")
    endpoint = Endpoint("iris", session)
    endpoint.target.runtime = FakeRuntime()
    endpoint.describe = lambda: dict(EndpointStatus="InService")
    return endpoint


def put(endpoint, uri, body, **options):
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    endpoint.target.files.client.put_object(Bucket=bucket, Key=key, Body=body, **options)


def test_the_input_is_uploaded_and_the_output_is_read(endpoint):
    answer = endpoint.invoke_async([[1, 2]], RequestTTLSeconds=60, InvocationTimeoutSeconds=30, InferenceId="id-1")
    (request,) = endpoint.target.runtime.requests
    assert request["ContentType"] == "application/json"
    assert (request["RequestTTLSeconds"], request["InvocationTimeoutSeconds"]) == (60, 30)
    assert request["InputLocation"].startswith("s3://bucket/mlkit/asynchronous/inputs/")
    with endpoint.target.files.open(request["InputLocation"]) as f:
        assert json.load(f) == [[1, 2]]
    assert not answer.done
    with pytest.raises(TimeoutError, match="async_answer"):
        answer.result(timeout=0.05, out=io.StringIO())
    put(endpoint, answer.output, b"[0.5]")
    assert answer.done
    assert answer.result() == [0.5]


def test_an_output_has_the_content_type_that_s3_knows(endpoint):
    answer = endpoint.invoke_async("s3://bucket/in/row.csv", "text/csv", accept="text/csv")
    assert endpoint.target.runtime.requests[0]["InputLocation"] == "s3://bucket/in/row.csv"
    put(endpoint, answer.output, b"\x89PNG", ContentType="image/png")
    assert answer.result() == b"\x89PNG"
    put(endpoint, answer.output, b"1,2\n", ContentType="binary/octet-stream")  # then it is what was asked for
    assert torch.as_tensor(answer.result()).tolist() == [[1, 2]]


def test_a_failure_is_raised_with_its_text(endpoint):
    answer = endpoint.invoke_async(b"x", "text/plain")
    put(endpoint, answer.failure, b'Received client error (400) from all with message "{"error": "too short"}"')
    with pytest.raises(InvocationFailed, match="iris answered 400: too short") as error:
        answer.result()
    assert error.value.status == 400
    put(endpoint, answer.failure, b"the request has expired")
    with pytest.raises(InvocationFailed, match="iris: the request has expired") as error:
        answer.result()
    assert error.value.status is None


def test_an_object_that_may_not_be_listed_is_not_there_yet(endpoint, monkeypatch):
    """Credentials without s3:ListBucket are denied an object that does not exist."""

    def deny(**arguments):
        raise api_error("AccessDenied", "Access Denied", "GetObject", "sagemaker", 403)

    answer = endpoint.invoke_async(b"x", "text/plain")
    monkeypatch.setattr(endpoint.target.files.client, "get_object", deny)
    assert not answer.done


def test_an_endpoint_that_fails_ends_the_wait(endpoint):
    answer = endpoint.invoke_async(b"x", "text/plain")
    endpoint.describe = lambda: dict(EndpointStatus="Failed", FailureReason="no capacity")
    with pytest.raises(EndpointFailed, match="no capacity"):
        answer.result()
    put(endpoint, answer.output, b"1")  # but an answer that is there is read
    assert answer.result() == 1


def line(i, data, answer, encoding="JSON", answer_type="application/json"):
    return dict(
        captureData=dict(
            endpointInput=dict(observedContentType="text/plain", mode="INPUT", data=data, encoding=encoding),
            endpointOutput=dict(
                observedContentType=answer_type,
                mode="OUTPUT",
                data=b64encode(answer.encode()).decode(),
                encoding="BASE64",
            ),
        ),
        eventMetadata=dict(eventId=f"event-{i}", inferenceTime=f"2026-11-28T0{i}:30:05Z"),
        eventVersion="0",
    )


def test_what_sagemaker_has_captured_is_replayed(endpoint, tmp_path):
    """Files of several hours, in SageMaker's places and encodings; each other file there is left alone."""
    lines = [
        line(1, "1.5", '{"length": 1.5, "label": "setosa"}'),
        line(2, b64encode(b"4.7").decode(), '{"length": 4.7, "label": "virginica"}', encoding="BASE64"),
        line(3, "2.0", '{"length": 2.5, "label": "setosa"}'),
        line(4, "2.0", "2.0,setosa\n", answer_type="text/csv; charset=utf-8"),
    ]
    for i, record in enumerate(lines, 1):
        uri = f"s3://bucket/captured/iris/all/2026/11/28/0{i}/30-05-1-{i}.jsonl"
        put(endpoint, uri, json.dumps(record).encode() + b"\n")
    put(endpoint, "s3://bucket/captured/iris/all/.s3_write_check", b"x")
    endpoint.describe = lambda: dict(DataCaptureConfig=dict(DestinationS3Uri="s3://bucket/captured/"))
    requests = list(endpoint.captured())
    assert [r.event_id for r in requests] == [f"event-{i}" for i in (1, 2, 3, 4)]
    assert requests[1].body == b"4.7"
    since, until = datetime(2026, 11, 28, 2, tzinfo=UTC), datetime(2026, 11, 28, 3, tzinfo=UTC)
    assert [r.event_id for r in endpoint.captured(since, until)] == ["event-2"]

    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text(HANDLERS)
    bundle = build_bundle(tmp_path / "code", tmp_path / "code" / "inference.py", out=tmp_path / "model.tar.gz")
    put(endpoint, "s3://bucket/new/model.tar.gz", (tmp_path / "model.tar.gz").read_bytes())
    changes = endpoint.replay("s3://bucket/new/model.tar.gz", out=io.StringIO())
    assert [[row[0], *row[2:4]] for row in changes.rows] == [
        ["event-2", "value label", "virginica"],
        ["event-3", "number length", 2.5],
        ["event-4", "status", 200],
    ], changes
    assert bundle.path.exists() and changes.note.startswith("3 of 4 answers change")


def test_a_damaged_line_is_named(endpoint):
    put(endpoint, "s3://bucket/captured/iris/all/2026/11/28/01/a.jsonl", b"{}\n")
    endpoint.describe = lambda: dict(DataCaptureConfig=dict(DestinationS3Uri="s3://bucket/captured"))
    with pytest.raises(ValueError, match="2026/11/28/01/a.jsonl, line 1: not a record of captured data"):
        list(endpoint.captured())


def test_an_asynchronous_endpoint_scales_from_zero(endpoint, session):
    """The policy of the queue's length, and one with an alarm that starts the first instance."""
    variant = dict(VariantName="all", CurrentInstanceCount=1)
    endpoint.describe = lambda: dict(AsyncInferenceConfig={"OutputConfig": {}}, ProductionVariants=[variant])
    endpoint.scale(0, 4)
    assert [name for name, _ in session.calls if name.startswith(("Register", "PutS", "PutM"))] == [
        "RegisterScalableTarget",
        "PutScalingPolicy",
        "PutScalingPolicy",
        "PutMetricAlarm",
    ]
    (alarm,) = session.client("cloudwatch").describe_alarms()["MetricAlarms"]
    assert alarm["MetricName"] == "HasBacklogWithoutCapacity"
    assert "first-instance" in alarm["AlarmActions"][0]
    endpoint.scale(None)
    assert session.client("cloudwatch").describe_alarms()["MetricAlarms"] == []
