"""mlkit's server as a process: requests of any content, and a load with everything that can happen during one."""

import http.client
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from importlib import import_module
from io import BytesIO

import numpy as np
import pytest
import torch
from conformance.servers import mlkit_serve, wait_until
from helpers import free_port
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mlkit.model import MyCustomModel
from mlkit.model.saving import save_model
from mlkit.sagemaker.artifacts.bundle import build_bundle

TIMEOUT = 60  # seconds without a reply


def is_ready(port):
    """Return whether the server listens and has loaded its model."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Yield the port of a server with a small model, and its folder; at the end the server must still run."""
    folder = tmp_path_factory.mktemp("fuzzed")
    save_model(MyCustomModel(4, 8, 2), folder / "model", sample=torch.zeros(1, 4))
    port = free_port()
    with mlkit_serve(folder / "model", port) as process:
        wait_until(lambda: is_ready(port), process)
        yield port, folder
        assert process.poll() is None, process.log.read_text()


# Requests of any content


def npy(array, save=np.save):
    out = BytesIO()
    save(out, array)
    return out.getvalue()


CONTENT_TYPES = [
    "application/json",
    "application/jsonlines",
    "text/csv",
    "application/x-npy",
    "application/x-npz",
    "application/x-safetensors",
    "application/octet-stream",
    "text/plain",
    "image/png",
    "*/*",
    "text/*",
    "application/json; charset=utf-16",
    "application/json;q=0.1, text/csv",
]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
keys = st.sampled_from(["inputs", "instances", "x"]) | st.text(max_size=5)
json_values = st.recursive(
    scalars,
    lambda children: st.lists(children, max_size=5) | st.dictionaries(keys, children, max_size=3),
    max_leaves=20,
)
arrays = npst.arrays(
    st.one_of(
        npst.integer_dtypes(),
        npst.floating_dtypes(),
        npst.boolean_dtypes(),
        npst.complex_number_dtypes(),
        npst.unicode_string_dtypes(max_len=3),
    ),
    npst.array_shapes(max_dims=3, max_side=5, min_side=0),
)
samples = st.lists(st.lists(st.floats(allow_nan=False), min_size=4, max_size=4), max_size=3)
bodies = st.one_of(
    st.binary(max_size=200),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")),
    arrays.map(npy),
    arrays.map(lambda array: npy(array, np.savez)),
    samples.map(lambda rows: json.dumps({"inputs": rows}).encode()),
)
latin_1 = st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f")
header_values = st.sampled_from(CONTENT_TYPES) | st.text(latin_1, max_size=30)
# http.client or the server acts on these; a wrong value is not a request at all
TRANSPORT_HEADERS = ("host", "content-length", "transfer-encoding", "connection", "expect", "upgrade")
header_names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).filter(
    lambda name: name not in TRANSPORT_HEADERS
)


@given(bodies, header_values, header_values, st.dictionaries(header_names, header_values, max_size=3))
@example(b"[" * 100_000, "application/json", "*/*", {})
@example(b"[" * 900 + b"]" * 900, "application/json", "*/*", {})
@example(b'{"inputs":' * 400 + b"1" + b"}" * 400, "application/json", "*/*", {})
@example(b"[" + b"1" * 5000 + b"]", "application/json", "*/*", {})
@example(b"[[1e400, -1e400, 1, 1]]", "application/json", "text/csv", {})
@example(
    b'\x93NUMPY\x01\x00v\x00{"descr": "|O", "fortran_order": False, "shape": (3,), }', "application/x-npy", "*/*", {}
)
@example(
    b'\x93NUMPY\x01\x00v\x00{"descr": "<f8", "fortran_order": False, "shape": (9999999999999,), }',
    "application/x-npy",
    "*/*",
    {},
)
@example(b"\xff" * 8 + b"{}", "application/x-safetensors", "*/*", {})
@example(b'1,2,3,"', "text/csv", "text/csv;q=x", {"content-encoding": "gzip"})
@settings(max_examples=600, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_no_request_is_answered_with_a_server_error(server, body, content_type, accept, headers):
    port, folder = server
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    all_headers = headers | {"Content-Type": content_type, "Accept": accept}
    raw_headers = {name: value.encode("latin-1") for name, value in all_headers.items()}
    connection.request("POST", "/invocations", body, raw_headers)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    assert reply.status in (200, 400, 406, 413, 415, 422), (reply.status, content)
    if reply.status != 200 and content.startswith(b"{"):
        assert json.loads(content).keys() == {"error", "stage", "request_id"}
        for leak in (b"Traceback", b"site-packages", str(folder).encode(), b'.py"', b"mlkit/"):
            assert leak not in content, content


@given(st.binary(max_size=300))
@example(b"POST /invocations HTTP/1.1\r\nContent-Length: -1\r\n\r\n")
@example(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n")
@example(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
@example(b"POST /invocations HTTP/9.9\r\n\r\n")
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_bytes_that_are_not_http_do_no_harm(server, data):
    port, _ = server
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        try:
            content = b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionResetError:
            content = b""
    assert b" 500 " not in content.partition(b"\r\n")[0]
    assert b"Traceback" not in content
    assert is_ready(port)


# Load


class Client(threading.Thread):
    """Sends numbers, one request after another, until `stopping` is set. One request in twenty is malformed.

    `answered` has the numbers with a correct reply, `failures` the requests without one.
    """

    MALFORMED = (
        (b"[[1, 2, 3]]", "application/json", 422),
        (b"{", "application/json", 400),
        (b"<x/>", "text/xml", 415),
    )

    def __init__(self, port, first, stopping):
        super().__init__(daemon=True)
        self.port = port
        self.first = first
        self.stopping = stopping
        self.answered = []
        self.failures = []
        self.random = random.Random(first)

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        for number in range(self.first, self.first + 1_000_000):
            body, content_type, expected = f'{{"inputs": [[{number}, 1]]}}'.encode(), "application/json", 200
            if self.random.random() < 0.05:
                body, content_type, expected = self.random.choice(self.MALFORMED)
            try:
                connection.request("POST", "/invocations", body, {"Content-Type": content_type})
                reply = connection.getresponse()
                content = reply.read()
            except (OSError, http.client.HTTPException) as e:
                if not self.stopping.is_set():
                    self.failures.append((number, repr(e)))
                return
            if reply.status == 503 and self.stopping.is_set():
                return
            if reply.status != expected or (expected == 200 and json.loads(content) != [[number * 2, 2]]):
                self.failures.append((number, reply.status, content))
            elif expected == 200:
                self.answered.append(number)


class Flooded(Client):
    """Sends good requests, to the model of `server`; `answered` has their numbers."""

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        expected = None
        while not self.stopping.is_set():
            try:
                connection.request("POST", "/invocations", b"[[1, 2, 3, 4]]", {"Content-Type": "application/json"})
                reply = connection.getresponse()
                content = json.loads(reply.read())
            except (OSError, http.client.HTTPException, ValueError) as e:
                self.failures.append(repr(e))
                return
            expected = expected or content
            # requests that are predicted together may differ in the last bit
            if reply.status != 200 or not np.allclose(content, expected, rtol=0, atol=1e-6):
                self.failures.append((reply.status, content))
            self.answered.append(len(self.answered))


class Flood(Client):
    """Sends malformed requests, `rate` a second; `answered` has their statuses, `said` an error that was answered."""

    TORN = (  # these end the connection
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # of TLS
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    )
    said = ""
    rate = 125

    def run(self):
        started_at = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        while not self.stopping.is_set():
            time.sleep(max(started_at + len(self.answered) / self.rate - time.monotonic(), 0))
            if self.random.random() < 0.02:
                self.answered.append(self.send_torn())
                continue
            body, content_type, expected = self.random.choice(self.MALFORMED)
            connection.request("POST", "/invocations", body, {"Content-Type": content_type})
            reply = connection.getresponse()
            self.said = reply.read().decode()
            self.answered.append(reply.status)
            if reply.status != expected:
                self.failures.append((reply.status, self.said))

    def send_torn(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT) as connection:
            connection.sendall(self.random.choice(self.TORN))
            connection.shutdown(socket.SHUT_WR)
            try:
                reply = b"".join(iter(lambda: connection.recv(65536), b""))
            except ConnectionResetError:
                reply = b""
        if reply and not reply.startswith(b"HTTP/1.1 4"):
            self.failures.append(reply)
        return 400


def send_slowly(port, number, replies):
    """Send a request byte by byte, which takes seconds, and append its raw reply to `replies`."""
    body = f'{{"inputs": [[{number}, 1]]}}'
    head = (
        "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        for byte in (head + body).encode():
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
        replies.append(b"".join(iter(lambda: connection.recv(65536), b"")))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs the signals of Unix")
def test_every_request_under_load_is_answered(tmp_path, request):
    """16 clients send requests, another one sends slowly, the model is loaded again, and the server is stopped."""
    sys.path.insert(0, os.path.dirname(__file__))
    model = import_module("serving_model").Doubled()
    bundle = build_bundle(model, out=tmp_path / "model.tar.gz", sample=torch.zeros(1, 2)).path
    port = free_port()
    stopping = threading.Event()
    slow_replies = []
    with mlkit_serve(
        bundle, port, PREDICTION_LOG=str(tmp_path / "predicted"), SAGEMAKER_MODEL_SERVER_WORKERS="2"
    ) as process:
        wait_until(lambda: is_ready(port), process)
        clients = [Client(port, (i + 1) * 1_000_000, stopping) for i in range(16)]
        slow_client = threading.Thread(target=send_slowly, args=(port, 999_999, slow_replies), daemon=True)
        for thread in (*clients, slow_client):
            thread.start()
        seconds = request.config.getoption("--load")
        time.sleep(seconds / 3)
        process.send_signal(signal.SIGHUP)
        time.sleep(2 * seconds / 3)
        stopping.set()
        process.send_signal(signal.SIGTERM)
        for thread in (*clients, slow_client):
            thread.join(TIMEOUT)
        assert process.wait(TIMEOUT) == 0, process.log.read_text()[-3000:]

    log = process.log.read_text()
    assert log.count("reloaded: the model") == 2, log[-3000:]
    assert "Traceback" not in log, log[-3000:]
    assert not any(client.failures for client in clients), [c.failures[:3] for c in clients if c.failures]
    assert slow_replies, slow_replies
    assert slow_replies[0].endswith(b"[[1999998.0,2.0]]"), slow_replies
    answered = {number for client in clients for number in client.answered}
    predicted = set(map(int, (tmp_path / "predicted").read_text().split()))
    assert answered <= predicted
    assert len(answered) > 1000
    # the warm-up predicts small numbers, and the slow client sends 999,999
    unanswered = {number for number in predicted - answered if number > 999_999}
    assert not unanswered, f"predicted, but not answered: {sorted(unanswered)[:10]}"
    print(f"{len(answered):,} answered in {seconds:g} s")


@pytest.mark.parametrize("key", [3, pytest.param(20, marks=pytest.mark.long)])
def test_malformed_requests_do_not_reach_the_others(server, fault, key):
    """For `key` seconds 8 threads send 125 malformed requests a second each, and 2 clients wait for good answers."""
    port, _ = server
    stopping = threading.Event()
    clients = [Flooded(port, i, stopping) for i in range(2)]
    flood = [Flood(port, i, stopping) for i in range(8)]
    for thread in (*clients, *flood):
        thread.start()
    time.sleep(key)
    stopping.set()
    for thread in (*clients, *flood):
        thread.join(TIMEOUT)
        assert not thread.is_alive()
    n_malformed = sum(len(thread.answered) for thread in flood)
    n_wrong = sum(len(thread.failures) for thread in flood)
    n_good = sum(len(client.answered) for client in clients)
    assert n_good > 0
    print(f"{n_malformed / key:,.0f} malformed requests and {n_good / key:,.0f} good ones a second")
    lost = [failure for client in clients for failure in client.failures]
    assert not lost, lost[:3]
    fault("requests: malformed, next to good ones", n_malformed, n_malformed - n_wrong, len(lost), flood[0].said)
