"""An asynchronous endpoint whose processes are killed: each request has one output or one failure."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from helpers import running

from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.local.client import LocalSageMaker

TOPIC = "arn:aws:sns:us-east-1:000000000000:{}"
HANDLERS = """
import time


def model_fn(model_dir):
    return None


def input_fn(data, content_type):
    return int(data)


def predict_fn(number, model):
    time.sleep(0.01)
    if number % 10 == 7:
        raise RuntimeError(f"{number} is not liked")
    return 2 * number


def output_fn(prediction, accept):
    return str(prediction), "text/plain"
"""


@pytest.fixture
def local(tmp_path):
    """Return a LocalSageMaker with the asynchronous endpoint `numbers`."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text(HANDLERS)
    bundle = build_bundle(tmp_path / "code", tmp_path / "code" / "inference.py", out=tmp_path / "model.tar.gz")
    local = LocalSageMaker(tmp_path / "local")
    local.files.put(bundle.path, "s3://bucket/model.tar.gz")
    container = dict(Image="mlkit-local", ModelDataUrl="s3://bucket/model.tar.gz")
    role = "arn:aws:iam::000000000000:role/local"
    local.create_model(ModelName="numbers", ExecutionRoleArn=role, PrimaryContainer=container)
    variant = dict(VariantName="all", ModelName="numbers", InstanceType="ml.m5.large", InitialInstanceCount=1)
    topics = dict(SuccessTopic=TOPIC.format("done"), ErrorTopic=TOPIC.format("failed"))
    places = dict(S3OutputPath="s3://bucket/out", S3FailurePath="s3://bucket/failed")
    local.create_endpoint_config(
        EndpointConfigName="numbers",
        ProductionVariants=[variant],
        AsyncInferenceConfig=dict(OutputConfig=dict(NotificationConfig=topics, **places)),
    )
    local.create_endpoint(EndpointName="numbers", EndpointConfigName="numbers")
    waiter = local.get_waiter("endpoint_in_service")
    waiter.wait(EndpointName="numbers", WaiterConfig=dict(Delay=0.1, MaxAttempts=1000))
    yield local
    local.delete_endpoint(EndpointName="numbers")
    while local.list_endpoints()["Endpoints"]:
        time.sleep(0.05)


def objects(local, folder):
    """Return the names of the objects in a folder of the bucket."""
    return {key.rpartition("/")[2] for key in local.files.keys(f"s3://bucket/{folder}")}


def kill(local, process):
    """Kill the container of the endpoint, or the process that runs it. Return how many processes it was."""
    pids = running(f"mlkit.sagemaker.local.endpoint_runner\0{local.root}")
    if process == "container":
        children = [Path(f"/proc/{pid}/task/{pid}/children").read_text().split() for pid in pids]
        servers = running("mlkit.cli\0serve")
        pids = [int(pid) for group in children for pid in group if int(pid) in servers]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return len(pids)


@pytest.mark.parametrize("key", [pytest.param(150), pytest.param(1000, marks=pytest.mark.long)])
def test_each_request_has_one_output_or_one_failure(local, key, fault):
    """Some wait, some are in the container, and some are about to be stored when their process is killed."""
    n_kills = dict(container=0, endpoint=0)
    answers = []
    for number in range(key):
        request = dict(EndpointName="numbers", Body=str(number), ContentType="text/plain")
        answers.append(local.runtime.invoke_endpoint_async(**request))
        if number % 75 == 74:
            process = ("container", "endpoint")[number // 75 % 2]
            n_kills[process] += kill(local, process)
    deadline = time.monotonic() + 600
    while len(objects(local, "out")) + len(objects(local, "failed")) < key and time.monotonic() < deadline:
        assert local.describe_endpoint(EndpointName="numbers")["EndpointStatus"] == "InService"
        time.sleep(0.2)
    assert min(n_kills.values()) > 0, n_kills

    outputs, failures = objects(local, "out"), objects(local, "failed")
    n_lost = 0
    said = ""
    for number, answer in enumerate(answers):
        names = [answer[place].rpartition("/")[2] for place in ("OutputLocation", "FailureLocation")]
        n_lost += (names[0] in outputs) + (names[1] in failures) != 1
        if names[0] in outputs:
            with local.files.open(answer["OutputLocation"]) as f:
                assert int(f.read()) == 2 * number
            continue
        text = local.files.path(answer["FailureLocation"]).read_text()
        was_killed = "ended before it answered, 3 times" in text
        assert (number % 10 == 7 and "(500)" in text) or was_killed, (number, text)
        said = text if was_killed else said
    for process, n in n_kills.items():
        fault(f"kill: the {process} of an asynchronous endpoint", n, lost=n_lost, said=said)

    # Notifications are sent at least once for each, by the topic that says how it ended.
    for topic, n in (("done", len(outputs)), ("failed", len(failures))):
        path = local.root / "notifications" / f"{TOPIC.format(topic).replace(':', '_')}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len({line["inferenceId"] for line in lines}) == n


@pytest.mark.parametrize("moment", ["while it runs", "before it starts again"])
def test_a_damaged_queue_fails_the_endpoint(local, moment):
    queue = local.endpoint_folder("numbers") / "queue.db"
    if moment == "before it starts again":
        kill(local, "endpoint")
    queue.write_bytes(b"?" * 8192)
    deadline = time.monotonic() + 120
    while local.describe_endpoint(EndpointName="numbers")["EndpointStatus"] != "Failed":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    reason = local.describe_endpoint(EndpointName="numbers")["FailureReason"]
    assert "queue.db, the queue of an asynchronous endpoint, is damaged" in reason and "create it again" in reason
    with pytest.raises(ClientError, match="is Failed, not InService"):
        local.runtime.invoke_endpoint_async(EndpointName="numbers", Body="1", ContentType="text/plain")
