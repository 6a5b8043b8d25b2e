"""Many bundles behind one endpoint of this machine: each answers for itself, before and after others took its place."""

import io
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlkit.sagemaker.artifacts.archive import write_archive
from mlkit.sagemaker.client.deployment import deploy
from mlkit.sagemaker.client.endpoint_requests import Machines, model_request
from mlkit.sagemaker.client.endpoints import Endpoint
from mlkit.sagemaker.client.target import AWSTarget
from mlkit.sagemaker.local.client import LocalSageMaker

# Each bundle has these names, with another constant in each.
INFERENCE = """
import json
import utils
from model import Model

def model_fn(model_dir):
    return Model()

def input_fn(data, content_type):
    return json.loads(data)

def predict_fn(data, model):
    from late import LATE  # imported with the first request
    return [data, model.constant, utils.CONSTANT, LATE]

def output_fn(prediction, accept):
    return json.dumps(prediction), "application/json"
"""
MODEL = "from utils import CONSTANT\n\nclass Model:\n    constant = CONSTANT\n"


def write_bundle(path, constant):
    """Write the handlers of a model; an archive without mlkit itself is written in no time."""
    files = {
        "code/inference.py": INFERENCE,
        "code/model.py": MODEL,
        "code/utils.py": f"CONSTANT = {constant}\n",
        "code/late.py": f"LATE = {constant}\n",
    }
    write_archive({name: text.encode() for name, text in files.items()}, path)
    return path


@pytest.fixture
def local(tmp_path):
    return LocalSageMaker(tmp_path / "local")


def serve_many(local, tmp_path, n_models, n_loaded, n_requests):
    """Ask many models in an order in which they are loaded and unloaded all the time, several at a time."""
    bundles = {f"model-{i}": write_bundle(tmp_path / f"{i}.tar.gz", i) for i in range(n_models)}
    environment = {"MLKIT_MAX_MODELS": str(n_loaded)}
    with deploy(models=bundles, target=local, name="many", environment=environment, out=io.StringIO()) as endpoint:
        assert endpoint.models() == sorted(bundles)

        def ask(i):
            number = i * 7 % n_models
            return endpoint.invoke([i], "application/json", model=f"model-{number}"), [[i], number, number, number]

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(ask, range(n_requests)))
        assert all(answer == expected for answer, expected in answers)

        added = write_bundle(tmp_path / "added.tar.gz", 1000)
        endpoint.add_model("added", added)
        assert endpoint.invoke([0], "application/json", model="added") == [[0], 1000, 1000, 1000]
        with pytest.raises(ValueError, match="there is a model 'added' already"):
            endpoint.add_model("added", added)
        with pytest.raises(Exception, match="TargetModel 'none.tar.gz': there is no archive s3://"):
            endpoint.invoke([0], "application/json", model="none")
        with pytest.raises(Exception, match="TargetModel: expected one, because the endpoint has many models"):
            endpoint.invoke([0], "application/json")
        attached = Endpoint.attach("many", local)
        assert attached.invoke([5], "application/json", model="model-1") == [[5], 1, 1, 1]
        assert "added" in attached.models()
    assert local.list_models()["Models"] == []


def test_each_of_many_models_answers_for_itself(local, tmp_path):
    serve_many(local, tmp_path, n_models=4, n_loaded=2, n_requests=12)


@pytest.mark.long
def test_a_hundred_models_with_room_for_ten(local, tmp_path):
    serve_many(local, tmp_path, n_models=100, n_loaded=10, n_requests=150)


def test_an_image_that_serves_one_model_is_refused(session, monkeypatch):
    monkeypatch.setattr(AWSTarget, "defaults", {})
    target = AWSTarget(session, "arn:aws:iam::123456789012:role/job", "s3://bucket")
    with pytest.raises(ValueError, match="/ray:.* serves one model: pass image="):
        model_request("iris", "s3://bucket/many/", target, Machines(models={"a": "a.tar.gz"}))
    options = Machines(models={"a": "a.tar.gz"}, image="pytorch-inference:2.6")
    container = model_request("iris", "s3://bucket/many/", target, options)["PrimaryContainer"]
    assert (container["Mode"], container["ModelDataUrl"]) == ("MultiModel", "s3://bucket/many/")
    assert "ModelDataSource" not in container


def test_names_and_options_that_cannot_be(local, tmp_path):
    bundle = write_bundle(tmp_path / "a.tar.gz", 1)
    for options, message in (
        ({"models": {"../a": bundle}}, "expected a name of letters"),
        ({"models": {"a": tmp_path / "none.tar.gz"}}, "there is no bundle"),
        ({"models": {"a": bundle}, "bundle": bundle}, "leave out bundle and shadow"),
        ({"models": {"a": bundle}, "serverless": True}, "has one model for each variant, and this one has many"),
        ({"bundle": bundle, "serverless": True, "memory": 1500}, "expected 1024, 2048, 3072, 4096, 5120 or 6144"),
        ({"bundle": bundle, "serverless": True, "instance": "ml.g5.xlarge"}, "no machines, and no GPUs"),
        ({"bundle": bundle, "serverless": True, "capture": "s3://bucket/x"}, "are not captured"),
        ({"bundle": bundle, "serverless": True, "network_isolation": True}, "cannot be isolated"),
        (
            {"bundle": bundle, "serverless": True, "subnets": ["subnet-1"], "security_groups": ["sg-1"]},
            "cannot be in a VPC",
        ),
        ({"bundle": bundle, "serverless": True, "shadow": bundle}, "no shadow variant"),
        ({"bundle": {"a": bundle, "b": bundle}, "shadow": bundle}, "one shadow variant next to one"),
        ({"bundle": {"a": bundle, "b": bundle}, "serverless": True}, "a serverless endpoint has one"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            deploy(target=local, name="none", out=io.StringIO(), **options)
    assert local.list_models()["Models"] == local.list_endpoint_configs()["EndpointConfigs"] == []
