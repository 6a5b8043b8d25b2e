"""Updates of an endpoint on this machine: no request is lost, and resources that are no longer used are deleted."""

import io
import threading
import time

import pytest
import torch

from mlkit.model import MyCustomModel
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.client.endpoints import Endpoint, EndpointFailed
from mlkit.sagemaker.local.client import LocalSageMaker

X = torch.arange(4.0)[None]


@pytest.fixture
def local(tmp_path):
    return LocalSageMaker(tmp_path / "local")


class Bundle:
    """A bundle, and what its model answers to X."""

    def __init__(self, path, handlers="", seed=0):
        torch.manual_seed(seed)
        model = MyCustomModel(4, 8, 2)
        source = path.with_suffix(".py")
        source.write_text(handlers or "def predict_fn(data, model):\n    return model(data).softmax(1)\n")
        self.archive = build_bundle(model, source, out=path.with_suffix(".tar.gz"), sample=torch.zeros(1, 4))
        self.answer = model.eval()(X).softmax(1)

    def has_answered(self, answer):
        return torch.tensor(answer).allclose(self.answer, atol=1e-5)


@pytest.fixture
def first(tmp_path):
    return Bundle(tmp_path / "first")


@pytest.fixture
def second(tmp_path):
    return Bundle(tmp_path / "second", seed=1)


@pytest.fixture
def broken(tmp_path):
    return Bundle(tmp_path / "broken", 'def model_fn(model_dir):\n    raise KeyError("vocabulary")\n')


@pytest.fixture
def endpoint(local, first):
    return Endpoint.create(first.archive, local, "iris", out=io.StringIO())


def counts(local):
    """How many configurations and models there are"""
    return len(local.list_endpoint_configs()["EndpointConfigs"]), len(local.list_models()["Models"])


class InterruptedOutput(io.StringIO):
    """Ctrl-C as soon as the update is shown"""

    def write(self, text):
        if "Updating" in text:
            raise KeyboardInterrupt
        return super().write(text)


def test_an_update_loses_no_request(local, endpoint, first, second):
    answers = []
    stopped = threading.Event()

    def keep_invoking():
        client = Endpoint("iris", local)
        while not stopped.is_set():
            answers.append(client.invoke(X))

    threads = [threading.Thread(target=keep_invoking) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(answers) < 10:
        time.sleep(0.01)
    endpoint.update(second.archive, out=io.StringIO())
    enough = len(answers) + 50
    while len(answers) < enough and all(thread.is_alive() for thread in threads):
        time.sleep(0.01)
    stopped.set()
    for thread in threads:
        thread.join()
    assert len(answers) >= enough
    assert first.has_answered(answers[0])
    assert second.has_answered(answers[-1])
    assert all(first.has_answered(answer) or second.has_answered(answer) for answer in answers)
    assert counts(local) == (1, 1)
    endpoint.delete()


def test_an_update_continues_without_its_caller(local, endpoint, second):
    """What the endpoint had before is deleted by the next wait, update or delete, once the new one is in service."""
    out = InterruptedOutput()
    endpoint.update(second.archive, out=out)
    assert "iris continues without you: Endpoint.attach('iris').wait() shows it again" in out.getvalue()
    # An update that is refused deletes what it has made, and changes no option.
    with pytest.raises(Exception, match="it is Updating"):
        endpoint.update(second.archive, instance="ml.m5.xlarge")
    assert endpoint.options.instance == "ml.m5.large"
    assert counts(local) == (2, 2)
    assert Endpoint.attach("iris", local).status == "Updating"
    endpoint.wait(io.StringIO())
    assert counts(local) == (1, 1)
    assert second.has_answered(endpoint.invoke(X))
    endpoint.update(second.archive, wait=False).wait(io.StringIO())
    assert counts(local) == (1, 1)
    endpoint.delete()


def test_an_update_that_fails_changes_nothing(local, endpoint, first, broken):
    with pytest.raises(EndpointFailed, match="vocabulary"):
        endpoint.update(broken.archive, instance="ml.m5.xlarge", out=io.StringIO())
    assert counts(local) == (1, 1)
    assert endpoint.options.instance == "ml.m5.large"
    assert first.has_answered(endpoint.invoke(X))
    # Without the wait that made it, the failed configuration stays until the next update or delete.
    with pytest.raises(EndpointFailed, match="vocabulary"):
        endpoint.update(broken.archive, wait=False).wait(io.StringIO())
    assert counts(local) == (2, 2)
    endpoint.delete()
    assert counts(local) == (0, 0)


def test_a_name_is_free_when_the_former_endpoint_is_deleted(local, endpoint, first):
    endpoint.delete()
    out = io.StringIO()
    again = Endpoint.create(first.archive, local, "iris", out=out)
    assert again.status == "InService"
    assert "waiting until the former endpoint is deleted" in out.getvalue()
    assert counts(local) == (1, 1)
    again.delete()
    while local.list_endpoints()["Endpoints"]:
        time.sleep(0.05)
    assert repr(endpoint) == "Endpoint iris: deleted, this machine, 1 x ml.m5.large"
    assert counts(local) == (0, 0)


def test_an_endpoint_that_fails_can_only_be_deleted(local, first, broken):
    with pytest.raises(EndpointFailed) as failure:
        Endpoint.create(broken.archive, local, "never", out=io.StringIO())
    assert "KeyError" in failure.value.reason
    assert any("Traceback" in line for line in failure.value.log), failure.value.log
    with pytest.raises(ValueError, match="delete it, and deploy again"):
        Endpoint.attach("never", local).update(first.archive)
    Endpoint.attach("never", local).delete()
    assert counts(local) == (0, 0)
