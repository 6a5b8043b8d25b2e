"""One bundle with four handlers of its own behind mlkit's server, AWS's TorchServe stack, Ray Serve and an image of
one's own: the same requests, the same replies

AWS's software comes from the package index, into the environment that conformance/serving.txt pins. It needs root on
Linux and Java: each server runs in
a network namespace, so that its fixed ports disturb nobody.
"""

import base64
import json
import shutil
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from conformance.host import Network
from conformance.servers import mlkit_serve, own_image, ray_serve, torchserve, until
from test_conformance import environment, here, missing

from mlkit.sagemaker.artifacts.archive import extract_bundle
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.artifacts.check_bundle import check_bundle

BODY = b'{"inputs": [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]]}'


def npy(array):
    out = BytesIO()
    np.save(out, array)
    return out.getvalue()


REQUESTS = {  # name: (body, content type, Accept)
    "JSON": (BODY, "application/json", None),
    "a single sample": (b"[5.1, 3.5, 1.4, 0.2]", "application/json", "*/*"),
    "a charset": (BODY, "application/json; charset=utf-8", "application/json"),
    "CSV, and CSV back": (b"5.1,3.5,1.4,0.2\n6.2,2.9,4.3,1.3\n", "text/csv", "text/csv"),
    "NPY": (npy(np.ones((3, 4), "float32")), "application/x-npy", "application/json"),
    "qualities in Accept": (BODY, "application/json", "application/json;q=0.5, text/csv"),
    "no JSON": (b'{"inputs": [[', "application/json", None),
    "a wrong shape": (b"[[1, 2, 3]]", "application/json", None),
    "an unknown type": (b"<x/>", "text/xml", None),
    "no content type at all": (b"[1, 2, 3, 4]", "json", None),
    "a pickle": (npy(np.array([{}], dtype=object)), "application/x-npy", None),
    "a handler that fails": (b"[[-1, 2, 3, 4]]", "application/json", None),
    "an empty body": (b"", "application/json", None),
    "no UTF-8": (b'["\xff"]', "application/json", None),
}
STATUSES = [200] * 6 + [400, 400, 415, 400, 400, 500, 400, 400]
DIFFERENT = {("AWS TorchServe", "no UTF-8"): 500}  # AWS's software decodes it before any handler is asked


def lacking():
    return missing() or ("" if shutil.which("java") else "needs Java, which TorchServe runs on")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    sys.path.insert(0, str(here / "handlers"))
    try:
        torch.manual_seed(0)
        built = build_bundle(
            __import__("net").Net(), here / "handlers", out=folder / "model.tar.gz", sample=torch.zeros(1, 4)
        )
    finally:
        sys.path.remove(str(here / "handlers"))
    report = check_bundle(built)
    assert report.ok and not report.findings, report
    return built.path


@pytest.fixture(scope="module")
def replies(bundle):
    """`{server: {request: (status, body, content type, further header)}}`"""
    if lacking():
        pytest.skip(lacking())
    folder = bundle.parent
    packages = environment("serving")
    found = {}
    with Network() as network:

        def ask(url, place=None):
            asked = [
                (base64.b64encode(b).decode(), {"Content-Type": c, **({"Accept": a} if a else {})})
                for b, c, a in REQUESTS.values()
            ]
            (folder / "asked.json").write_text(json.dumps(asked))
            inside = ["ip", "netns", "exec", place] if place else []
            done = subprocess.run(
                [*inside, sys.executable, here / "ask.py", url, folder / "asked.json", folder / "replies.json"],
                text=True,
                capture_output=True,
            )
            if done.returncode:
                raise ConnectionError(done.stderr[-500:])
            return {n: reply(*r) for n, r in zip(REQUESTS, json.loads((folder / "replies.json").read_text()))}

        def settled(url, place, p):
            """The replies, as soon as there are any that say the model is there"""

            def ready():
                try:
                    found["now"] = ask(url, place)
                except ConnectionError:
                    return False
                return found["now"]["JSON"][0] == 200

            until(ready, p)
            return found.pop("now")

        with mlkit_serve(bundle, 8099) as p:
            found["mlkit"] = settled("http://127.0.0.1:8099/invocations", None, p)
        for name, start, url in (
            ("AWS TorchServe", torchserve, "http://127.0.0.1:8080/invocations"),
            ("AWS Ray Serve", ray_serve, "http://127.0.0.1:8000/"),
            ("image of one's own", own_image, "http://127.0.0.1:8080/invocations"),
        ):
            place, root = network.places[len(found) - 1], folder / name.split()[1]
            root.mkdir(parents=True)
            with start(extract_bundle(bundle, root / "model"), root, packages, place) as p:
                found[name] = settled(url, place, p)
        assert p.returncode == 0, "the image of one's own does not end well on SIGTERM"
    show(found)
    return found


def reply(status, body, headers):
    """What has to be equal: an error's id is its own"""
    body = base64.b64decode(body)
    if status >= 400:
        try:
            body = json.loads(body)
        except ValueError:
            body = body.decode()
        else:
            assert len(body.pop("request_id")) == 32
    return status, body, headers.get("content-type"), headers.get("x-flowers")


def show(found):
    rows = [
        f"| {name} | "
        + " | ".join(
            f"{found[s][name][0]}"
            + (", same body" if found[s][name] == found["mlkit"][name] else ", DIFFERENT") * (s != "mlkit")
            for s in found
        )
        + " |"
        for name in REQUESTS
    ]
    print("\n" + "\n".join(["| request | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|", *rows]))


def test_our_server_answers(replies):
    assert [r[0] for r in replies["mlkit"].values()] == STATUSES
    status, body, kind, further = replies["mlkit"]["JSON"]
    assert (kind, further) == ("application/json", "2") and {"name", "chance"} == json.loads(body)[0].keys()
    assert "secret" not in str(replies["mlkit"]) and "Traceback" not in str(replies["mlkit"])


@pytest.mark.parametrize("server", ["AWS TorchServe", "AWS Ray Serve", "image of one's own"])
def test_the_same_bundle_answers_the_same(replies, server):
    for name, theirs in replies[server].items():
        if (server, name) in DIFFERENT:
            assert theirs[0] == DIFFERENT[server, name]
        else:
            assert theirs == replies["mlkit"][name], (name, replies["mlkit"][name])
