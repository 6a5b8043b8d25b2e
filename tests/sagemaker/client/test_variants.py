"""Endpoints with several variants, a shadow, and updates in steps, on this machine."""

import io
import threading
import time

import pytest
import torch

from mlkit.model import MyCustomModel
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.client.deployment import deploy
from mlkit.sagemaker.client.endpoints import Endpoint, EndpointFailed, InvocationFailed
from mlkit.sagemaker.local import runtime
from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.sagemaker.local.fleet import Replies
from mlkit.sagemaker.local.server_process import send_request

ROLE = "arn:aws:iam::123456789012:role/job"
HANDLERS = """
def model_fn(model_dir):
    return {constant}

def input_fn(data, content_type):
    if data.strip() == b"error" and {constant} > 2:
        raise RuntimeError("the new model fails")
    return data

def predict_fn(data, model):
    return [model]

def output_fn(prediction, accept):
    return str(prediction[0]), "application/json"
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Return bundles whose models answer with 1, 2 and 3; the third fails for the body `error`."""
    folder = tmp_path_factory.mktemp("bundles")
    paths = []
    for constant in (1, 2, 3):
        source = folder / str(constant)
        source.mkdir()
        (source / "inference.py").write_text(HANDLERS.format(constant=constant))
        out = folder / f"{constant}.tar.gz"
        paths.append(
            build_bundle(MyCustomModel(1, 1, 1), source / "inference.py", out=out, sample=torch.zeros(1, 1)).path
        )
    return paths


@pytest.fixture
def local(tmp_path):
    return LocalSageMaker(tmp_path / "local")


def ask(endpoint, **arguments):
    return endpoint.invoke(b"x", "application/octet-stream", **arguments)


def shadow_replies(local, name):
    """Return what the shadow's container has answered."""
    runtime._shadows.flush(60)
    (ports,) = local.table("Endpoint").get(name)["Local"]["shadows"].values()
    return Replies.from_metrics(send_request(ports[0], "GET", "/metrics").read().decode())


def test_weights_share_the_requests_and_one_variant_can_be_named(local, bundles):
    first, second, third = bundles
    with deploy({"a": first, "b": second}, local, "pair", weights={"a": 3, "b": 1}, out=io.StringIO()) as endpoint:
        assert endpoint.weights() == {"a": 3.0, "b": 1.0}
        assert [ask(endpoint, variant=name) for name in "abab"] == [1, 2, 1, 2]
        runtime._random.seed(0)
        answers = [ask(endpoint) for _ in range(200)]
        assert 120 < answers.count(1) < 180 and answers.count(1) + answers.count(2) == 200
        assert endpoint.weights(a=0, b=1) == {"a": 0.0, "b": 1.0}
        assert {ask(endpoint) for _ in range(20)} == {2}
        with pytest.raises(ValueError, match="the endpoint has no variant 'c'"):
            endpoint.weights(c=1)

        # an update of one variant leaves the other, and the weights that were changed
        endpoint.update({"b": third}, out=io.StringIO())
        assert endpoint.weights() == {"a": 0.0, "b": 1.0}
        assert (ask(endpoint, variant="a"), ask(endpoint, variant="b")) == (1, 3)
        # a variant is added, and another one ends
        endpoint.update({"a": None, "c": second}, weights={"c": 9}, out=io.StringIO())
        assert endpoint.weights() == {"b": 1.0, "c": 9.0}
        models = [model["ModelName"] for model in local.list_models(MaxResults=100)["Models"]]
        assert len(models) == 2, "the models of former configurations are deleted"
    assert local.list_models()["Models"] == []


@pytest.mark.long
def test_a_shadow_gets_copies_and_an_update_that_fails_goes_back(local, bundles):
    first, second, third = bundles
    with deploy(first, local, "steps", shadow=second, out=io.StringIO()) as endpoint:
        assert {ask(endpoint) for _ in range(10)} == {1}
        assert shadow_replies(local, "steps").total == 10
        # one that hangs is not waited for
        assert local.describe_endpoint(EndpointName="steps")["ShadowProductionVariants"][0]["VariantName"] == "shadow"
        endpoint.update(shadow="", count=2, out=io.StringIO())
        description = local.describe_endpoint(EndpointName="steps")
        assert "ShadowProductionVariants" not in description
        assert description["ProductionVariants"][0]["CurrentInstanceCount"] == 2

        # a canary whose answers are errors: the requests go back
        rollout = {"kind": "canary", "percent": 50, "wait": 30, "alarms": ["errors"]}
        failure = []

        def update():
            try:
                endpoint.update(third, rollout=rollout, out=io.StringIO())
            except EndpointFailed as e:
                failure.append(e.reason)

        thread = threading.Thread(target=update)
        thread.start()
        statuses = set()
        errors = 0
        while thread.is_alive():
            statuses.add(endpoint.status)
            try:
                assert endpoint.invoke(b"error", "application/octet-stream") == 1
            except InvocationFailed as e:
                assert e.status == 500
                errors += 1
            time.sleep(0.05)
        thread.join()
        assert errors and "alarm errors: " in failure[0] and "were 5xx" in failure[0]
        assert {"Updating", "RollingBack"} <= statuses
        assert {ask(endpoint) for _ in range(20)} == {1}
        description = local.describe_endpoint(EndpointName="steps")
        assert description["EndpointStatus"] == "InService" and "PendingDeploymentSummary" not in description

        # the same in batches, without errors
        endpoint.update(third, rollout={"kind": "rolling", "percent": 50, "wait": 1}, out=io.StringIO())
        assert {ask(endpoint) for _ in range(20)} == {3}


def test_instances_follow_the_requests(local, bundles):
    with deploy(bundles[0], local, "busy", out=io.StringIO()) as endpoint:
        for numbers, message in (((0, 2, 1), "only an asynchronous endpoint"), ((1, 2), "expected target=")):
            with pytest.raises(ValueError, match=message):
                endpoint.scale(*numbers)
        endpoint.scale(1, 2, target=1, cooldown=0)
        (policy,) = local.scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
        assert policy["PolicyName"] == "busy-all"

        def instances():
            (variant,) = endpoint.describe()["ProductionVariants"]
            return variant["CurrentInstanceCount"], variant["DesiredInstanceCount"]

        assert instances() == (1, 1)
        while instances() != (2, 2):
            assert ask(endpoint) == 1  # no request is lost meanwhile
        # a later update keeps what was scaled
        assert endpoint.status in ("InService", "Updating")
        endpoint.scale(None)
        assert local.scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []


def test_scaling_on_sagemaker_is_two_requests(session):
    sagemaker = session.client("sagemaker")
    sagemaker.create_model(ModelName="iris", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": "image"})
    variant = {"VariantName": "all", "ModelName": "iris", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    variant["InitialVariantWeight"] = 1.0
    sagemaker.create_endpoint_config(EndpointConfigName="iris", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="iris", EndpointConfigName="iris")
    endpoint = Endpoint("iris", session)
    endpoint.scale(1, 4, target=100)
    scaling = session.client("application-autoscaling")
    (target,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (target["ResourceId"], target["MinCapacity"], target["MaxCapacity"]) == ("endpoint/iris/variant/all", 1, 4)
    (policy,) = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    assert policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 100
    endpoint.scale(None)
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []
