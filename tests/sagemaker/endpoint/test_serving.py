"""One bundle with four custom handlers behind mlkit's server, AWS's TorchServe stack, Ray Serve and a custom image:
the same requests get the same replies.

AWS's software comes from the package index, into the environment that conformance/serving.txt pins. The test needs root
on Linux, and Java: each server runs in a network namespace, so that its fixed ports disturb no other program.
"""

import base64
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO

import numpy as np
import pytest
import torch
from conformance.host import Network
from conformance.servers import mlkit_serve, own_image, ray_serve, torchserve, wait_until
from helpers import CONFORMANCE, environment, missing

from mlkit.sagemaker.artifacts.archive import extract_bundle
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.artifacts.check_bundle import check_bundle

BODY = b'{"inputs": [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]]}'


def npy(array):
    out = BytesIO()
    np.save(out, array)
    return out.getvalue()


@dataclass
class Case:
    """A request, and the status that each server answers it with."""

    name: str
    status: int
    body: bytes
    content_type: str
    accept: str | None = None


JSON = "application/json"
CASES = [
    Case("JSON", 200, BODY, JSON),
    Case("a single sample", 200, b"[5.1, 3.5, 1.4, 0.2]", JSON, "*/*"),
    Case("a charset", 200, BODY, "application/json; charset=utf-8", JSON),
    Case("CSV, and CSV back", 200, b"5.1,3.5,1.4,0.2\n6.2,2.9,4.3,1.3\n", "text/csv", "text/csv"),
    Case("NPY", 200, npy(np.ones((3, 4), "float32")), "application/x-npy", JSON),
    Case("qualities in Accept", 200, BODY, JSON, "application/json;q=0.5, text/csv"),
    Case("malformed JSON", 400, b'{"inputs": [[', JSON),
    Case("a wrong shape", 400, b"[[1, 2, 3]]", JSON),
    Case("an unknown type", 415, b"<x/>", "text/xml"),
    Case("not a content type", 400, b"[1, 2, 3, 4]", "json"),
    Case("a pickle", 400, npy(np.array([{}], dtype=object)), "application/x-npy"),
    Case("a handler that fails", 500, b"[[-1, 2, 3, 4]]", JSON),
    Case("an empty body", 400, b"", JSON),
    Case("not UTF-8", 400, b'["\xff"]', JSON),
]
# AWS's software decodes the body before it calls a handler
OTHER_STATUSES = {("AWS TorchServe", "not UTF-8"): 500}
SERVERS = {  # how to start each server next to mlkit's own, and where it listens
    "AWS TorchServe": (torchserve, "http://127.0.0.1:8080/invocations"),
    "AWS Ray Serve": (ray_serve, "http://127.0.0.1:8000/"),
    "custom image": (own_image, "http://127.0.0.1:8080/invocations"),
}


def skip_reason():
    """Return why this test cannot run here, or an empty text."""
    return missing() or ("" if shutil.which("java") else "needs Java, which TorchServe runs on")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    handlers = CONFORMANCE / "handlers"
    sys.path.insert(0, str(handlers))
    try:
        torch.manual_seed(0)
        model = import_module("net").Net()
        built = build_bundle(model, handlers, out=folder / "model.tar.gz", sample=torch.zeros(1, 4))
    finally:
        sys.path.remove(str(handlers))
    report = check_bundle(built)
    assert report.ok, report
    assert not report.findings, report
    return built.path


@pytest.fixture(scope="module")
def replies(bundle):
    """Return {server: {name of the case: (status, body, content type, X-Flowers header)}}."""
    if skip_reason():
        pytest.skip(skip_reason())
    folder = bundle.parent
    packages = environment("serving")
    replies = {}
    with mlkit_serve(bundle, 8099) as process:
        replies["mlkit"] = send_when_ready("http://127.0.0.1:8099/invocations", None, process, folder)
    with Network() as network:
        for namespace, (name, (start, url)) in zip(network.places, SERVERS.items()):
            root = folder / name.split()[1]
            root.mkdir(parents=True)
            with start(extract_bundle(bundle, root / "model"), root, packages, namespace) as process:
                replies[name] = send_when_ready(url, namespace, process, folder)
            if name == "custom image":
                assert process.returncode == 0, "the custom image does not end with 0 on SIGTERM"
    print_replies(replies)
    return replies


def send_when_ready(url, namespace, process, folder):
    """Send all cases, again and again until the first of them is answered with 200, and return the replies by name."""
    replies = {}

    def is_ready():
        try:
            replies.update(send_all(url, namespace, folder))
        except ConnectionError:
            return False
        return replies["JSON"][0] == 200

    wait_until(is_ready, process)
    return replies


def send_all(url, namespace, folder):
    """Send all cases from a network namespace, and return the replies by name. Raises ConnectionError."""
    requests = []
    for case in CASES:
        headers = {"Content-Type": case.content_type}
        if case.accept:
            headers["Accept"] = case.accept
        requests.append((base64.b64encode(case.body).decode(), headers))
    requests_file = folder / "requests.json"
    replies_file = folder / "replies.json"
    requests_file.write_text(json.dumps(requests))
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    command = [*prefix, sys.executable, CONFORMANCE / "ask.py", url, requests_file, replies_file]
    run = subprocess.run(command, text=True, capture_output=True)
    if run.returncode:
        raise ConnectionError(run.stderr[-500:])
    raw_replies = json.loads(replies_file.read_text())
    return {case.name: comparable_reply(*reply) for case, reply in zip(CASES, raw_replies)}


def comparable_reply(status, body, headers):
    """Return what has to be equal in the replies of all servers; the id of an error is different in each."""
    body = base64.b64decode(body)
    if status >= 400:
        try:
            body = json.loads(body)
        except ValueError:
            body = body.decode()
        else:
            assert len(body.pop("request_id")) == 32
    return status, body, headers.get("content-type"), headers.get("x-flowers")


def print_replies(replies):
    """Print a Markdown table of the statuses, and whether the body is the same as from mlkit's server."""
    print("\n| request | " + " | ".join(replies) + " |")
    print("|---" * (len(replies) + 1) + "|")
    for case in CASES:
        cells = [str(replies["mlkit"][case.name][0])]
        for server in SERVERS:
            is_equal = replies[server][case.name] == replies["mlkit"][case.name]
            cells.append(f"{replies[server][case.name][0]}, {'same body' if is_equal else 'DIFFERENT'}")
        print(f"| {case.name} | " + " | ".join(cells) + " |")


def test_mlkit_answers(replies):
    for case in CASES:
        assert replies["mlkit"][case.name][0] == case.status, case.name
    status, body, content_type, flowers = replies["mlkit"]["JSON"]
    assert (content_type, flowers) == ("application/json", "2")
    assert json.loads(body)[0].keys() == {"name", "probability"}
    assert "secret" not in str(replies["mlkit"])
    assert "Traceback" not in str(replies["mlkit"])


@pytest.mark.parametrize("server", SERVERS)
def test_the_same_bundle_answers_the_same(replies, server):
    for name, reply in replies[server].items():
        if (server, name) in OTHER_STATUSES:
            assert reply[0] == OTHER_STATUSES[server, name]
        else:
            assert reply == replies["mlkit"][name], (name, replies["mlkit"][name])
