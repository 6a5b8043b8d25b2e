"""Two bundles behind mlkit's server, AWS's TorchServe stack, Ray Serve and a custom image: the same requests get the
same replies. One has four custom handlers, the other a table's description and no handlers.

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
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conformance.host import Network
from conformance.servers import mlkit_serve, own_image, ray_serve, torchserve, wait_until
from helpers import CONFORMANCE, environment, missing

from mlkit.model import save_model
from mlkit.model.tabular import TabularModel
from mlkit.sagemaker.artifacts.archive import extract_bundle
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.artifacts.check_bundle import check_bundle
from mlkit.training.data.rows import Rows

BODY = b'{"inputs": [[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]]}'


def npy(array):
    out = BytesIO()
    np.save(out, array)
    return out.getvalue()


def parquet(table):
    out = BytesIO()
    pq.write_table(table, out)
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
PEOPLE = [
    {"age": 39, "job": "clerk", "since": "2021-03-05", "income": "low"},
    {"age": None, "job": "nurse", "since": "2019-12-31", "income": "high"},
    {"age": 51.5, "job": "clerk", "since": "2020-02-29", "income": "high"},
    {"age": 28, "job": "Köchin", "since": "2018-07-14", "income": "low"},
]
FEATURES = [{name: value for name, value in row.items() if name != "income"} for row in PEOPLE]
CSV_ROWS = "\n".join(",".join("" if v is None else str(v) for v in row.values()) for row in FEATURES)
TABLE_CASES = [
    Case("records", 200, json.dumps(FEATURES).encode(), JSON),
    Case("instances", 200, json.dumps({"instances": FEATURES}).encode(), JSON),
    Case("rows", 200, json.dumps([list(row.values()) for row in FEATURES]).encode(), JSON),
    Case("JSON Lines", 200, "\n".join(map(json.dumps, FEATURES)).encode(), "application/jsonlines"),
    Case("CSV", 200, CSV_ROWS.encode(), "text/csv", JSON),
    Case("CSV with a header", 200, f"age,job,since\n{CSV_ROWS}\n".encode(), "text/csv", JSON),
    Case("CSV with a BOM", 200, f"\ufeff{CSV_ROWS}".replace("\n", "\r\n").encode(), "text/csv; charset=utf-8", JSON),
    Case("Parquet", 200, parquet(pa.Table.from_pylist(FEATURES)), "application/x-parquet", JSON),
    Case("CSV back", 200, CSV_ROWS.encode(), "text/csv", "text/csv"),
    Case("an unknown category", 200, b'[[40, "pilot", null]]', JSON),
    Case("text for a number", 422, b'[{"age": "old", "job": "clerk", "since": null}]', JSON),
    Case("a wrong name", 422, b'[{"agee": 40, "job": "clerk", "since": null}]', JSON),
]
SAME_ROWS = [case.name for case in TABLE_CASES[:8]]
# AWS's software decodes the body before it calls a handler
OTHER_STATUSES = {
    ("AWS TorchServe", "not UTF-8"): 500,
    # the environment has no pyarrow, and neither have AWS's containers: the bundle's requirements have to name it
    ("AWS TorchServe", "Parquet"): 415,
    ("AWS Ray Serve", "Parquet"): 415,
}
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
    assert ["predicted one by one" in finding.what for finding in report.findings] == [True], report
    return built.path


@pytest.fixture(scope="module")
def table_bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    torch.manual_seed(0)
    rows = Rows.fit(PEOPLE, label="income")
    model = TabularModel(**rows.model_arguments())
    save_model(model, folder / "model", sample=rows.encode(PEOPLE[:1]), rows=rows)
    return build_bundle(folder / "model", out=folder / "model.tar.gz").path


@pytest.fixture(scope="module")
def replies(bundle):
    """Return {server: {name of the case: (status, body, content type, X-Flowers header)}}."""
    return collect_replies(bundle, CASES, SERVERS)


@pytest.fixture(scope="module")
def table_replies(table_bundle):
    """Return the same for the bundle of a table. The custom image runs mlkit's own server, so it is left out."""
    return collect_replies(table_bundle, TABLE_CASES, ["AWS TorchServe", "AWS Ray Serve"])


def collect_replies(bundle, cases, servers):
    if skip_reason():
        pytest.skip(skip_reason())
    folder = bundle.parent
    packages = environment("serving")
    replies = {}
    with mlkit_serve(bundle, 8099) as process:
        replies["mlkit"] = send_when_ready(cases, "http://127.0.0.1:8099/invocations", None, process, folder)
    with Network() as network:
        for namespace, name in zip(network.places, servers):
            start, url = SERVERS[name]
            root = folder / name.split()[1]
            root.mkdir(parents=True)
            with start(extract_bundle(bundle, root / "model"), root, packages, namespace) as process:
                replies[name] = send_when_ready(cases, url, namespace, process, folder)
            if name == "custom image":
                assert process.returncode == 0, "the custom image does not end with 0 on SIGTERM"
    print_replies(replies)
    return replies


def send_when_ready(cases, url, namespace, process, folder):
    """Send all cases, again and again until the first of them is answered with 200, and return the replies by name."""
    replies = {}

    def is_ready():
        try:
            replies.update(send_all(cases, url, namespace, folder))
        except ConnectionError:
            return False
        return replies[cases[0].name][0] == 200

    wait_until(is_ready, process)
    return replies


def send_all(cases, url, namespace, folder):
    """Send all cases from a network namespace, and return the replies by name. Raises ConnectionError."""
    requests = []
    for case in cases:
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
    return {case.name: comparable_reply(*reply) for case, reply in zip(cases, raw_replies)}


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
    for name, reply in replies["mlkit"].items():
        cells = [str(reply[0])]
        for server in replies.keys() - {"mlkit"}:
            is_equal = replies[server][name] == reply
            cells.append(f"{replies[server][name][0]}, {'same body' if is_equal else 'DIFFERENT'}")
        print(f"| {name} | " + " | ".join(cells) + " |")


def test_mlkit_answers(replies):
    for case in CASES:
        assert replies["mlkit"][case.name][0] == case.status, case.name
    status, body, content_type, flowers = replies["mlkit"]["JSON"]
    assert (content_type, flowers) == ("application/json", "2")
    assert json.loads(body)[0].keys() == {"name", "probability"}
    assert "secret" not in str(replies["mlkit"])
    assert "Traceback" not in str(replies["mlkit"])


def assert_same(replies, server):
    for name, reply in replies[server].items():
        if (server, name) in OTHER_STATUSES:
            assert reply[0] == OTHER_STATUSES[server, name]
        else:
            assert reply == replies["mlkit"][name], (name, replies["mlkit"][name])


@pytest.mark.parametrize("server", SERVERS)
def test_the_same_bundle_answers_the_same(replies, server):
    assert_same(replies, server)


def test_a_table_is_answered_in_its_words(table_replies):
    for case in TABLE_CASES:
        assert table_replies["mlkit"][case.name][0] == case.status, (case.name, table_replies["mlkit"][case.name])
    first = table_replies["mlkit"]["records"]
    assert [answer.keys() for answer in json.loads(first[1])] == [{"label", "probability", "probabilities"}] * len(
        PEOPLE
    )
    for name in SAME_ROWS:
        assert json.loads(table_replies["mlkit"][name][1]) == json.loads(first[1]), name


@pytest.mark.parametrize("server", ["AWS TorchServe", "AWS Ray Serve"])
def test_a_table_is_answered_the_same(table_replies, server):
    assert_same(table_replies, server)
    assert "needs pyarrow" in table_replies[server]["Parquet"][1]["error"]
