"""Handlers that end, block or freeze more than their request, in a server process of one or two workers."""

import http.client
import json
import sys

import pytest
import torch
from conformance.servers import mlkit_serve, wait_until
from helpers import free_port

from mlkit.model import MyCustomModel
from mlkit.model.saving import save_model

# The first number of a request says what happens to it.
HANDLERS = """
import asyncio, ctypes, re, sys, time

def predict_fn(data, model):
    number = int(data[0, 0])
    print("predicting", number)
    if number == 1:
        sys.exit(3)
    elif number == 2:
        raise KeyboardInterrupt
    elif number == 3:
        time.sleep(1000)
    elif number == 4:
        re.match("(a+)+$", "a" * 64 + "b")  # it keeps the lock of the interpreter for years
    elif number == 5:
        ctypes.CDLL(None).pthread_exit(None)
    return data
"""
TIMEOUT = 30  # seconds without a reply


def send(port, number):
    """Return the status of a reply, the exception in its place, or None if the server has ended."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        body = None if number is None else json.dumps([[number, 0, 0, 0]])
        connection.request("GET" if body is None else "POST", "/invocations" if body else "/ping", body)
        reply = connection.getresponse()
        content = reply.read()
        if reply.status >= 400 and body:
            assert json.loads(content).keys() == {"error", "stage", "request_id"}, content
        return reply.status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("health")
    save_model(MyCustomModel(4, 8, 2), folder / "model", sample=torch.zeros(1, 4))
    (folder / "model" / "code").mkdir()
    (folder / "model" / "code" / "inference.py").write_text(HANDLERS)
    return folder / "model"


@pytest.mark.skipif(sys.platform != "linux", reason="one of the handlers ends its thread with a function of glibc")
@pytest.mark.parametrize(
    ("number", "workers", "statuses"),
    [
        pytest.param(3, 2, (500, 504), id="hangs"),
        pytest.param(4, 1, (None,), id="keeps the interpreter"),
        pytest.param(5, 1, (500, 504), id="ends its thread"),
    ],
)
def test_a_server_that_cannot_answer_ends(model, tmp_path, number, workers, statuses, fault):
    port = free_port()
    env = dict(SAGEMAKER_MODEL_SERVER_TIMEOUT="1.5", SAGEMAKER_MODEL_SERVER_WORKERS=str(workers))
    bundle = tmp_path / "model"
    bundle.symlink_to(model)
    with mlkit_serve(bundle, port, **env) as process:
        wait_until(lambda: send(port, None) == 200, process)
        # An error of one request, whatever it is, is not one of the next
        assert [send(port, n) for n in (0, 1, 0, 2, 0)] == [200, 500, 200, 500, 200]
        assert send(port, number) in statuses
        # While /ping says 200, another worker answers; then it does not say so any more
        while (ping := send(port, None)) == 200:
            assert send(port, 0) in (200, 500, 503, 504)
        assert ping in (None, 500, 503)
        assert process.wait(TIMEOUT) == 1
        log = process.log.read_text()
    assert f"predicting {number}\n" in log  # print is not buffered
    assert "SystemExit: 3" in log
    assert ("has not returned after 1.5 seconds: this server ends" in log) or "Timeout (" in log, log
    said = next((line for line in log.splitlines() if "this server ends" in line or "Timeout (" in line), "")
    fault("hang: a handler hangs, keeps the interpreter or ends its thread", 1, said=said)
