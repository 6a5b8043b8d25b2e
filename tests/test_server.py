"""mlkit's server as a process of its own: whatever is sent to it, and under a load with all that can happen to it"""

import http.client
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from io import BytesIO

import numpy as np
import pytest
import torch
from conformance.servers import mlkit_serve, until
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mlkit.model import MyCustomModel
from mlkit.model.saving import save_model
from mlkit.sagemaker.artifacts.bundle import build_bundle

HANG = 60  # seconds without a reply


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def ready(port):
    """Is the server there, and has it loaded?"""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The port of a server with a small model, and its folder"""
    folder = tmp_path_factory.mktemp("fuzzed")
    save_model(MyCustomModel(4, 8, 2), folder / "model", sample=torch.zeros(1, 4))
    port = free_port()
    with mlkit_serve(folder / "model", port) as p:
        until(lambda: ready(port), p)
        yield port, folder, p
        assert p.poll() is None, p.log.read_text()


def npy(array, save=np.save):
    out = BytesIO()
    save(out, array)
    return out.getvalue()


TYPES = [
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
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda c: (
        st.lists(c, max_size=5)
        | st.dictionaries(st.sampled_from(["inputs", "instances", "x"]) | st.text(max_size=5), c, max_size=3)
    ),
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
bodies = st.one_of(
    st.binary(max_size=200),
    plain.map(lambda v: json.dumps(v).encode()),
    st.text(max_size=80).map(lambda t: t.encode("utf-8", "surrogatepass")),
    arrays.map(npy),
    arrays.map(lambda a: npy(a, np.savez)),
    st.lists(st.lists(st.floats(allow_nan=False), min_size=4, max_size=4), max_size=3).map(
        lambda v: json.dumps({"inputs": v}).encode()
    ),
)
texts = st.sampled_from(TYPES) | st.text(
    st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30
)
names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).filter(
    lambda n: n not in ("host", "content-length", "transfer-encoding", "connection", "expect", "upgrade")
)


@given(bodies, texts, texts, st.dictionaries(names, texts, max_size=3))
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
def test_nothing_that_is_sent_is_an_error_of_the_server(server, body, kind, accept, headers):
    port, folder, _ = server
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG)
    connection.request(
        "POST",
        "/invocations",
        body,
        {k: v.encode("latin-1") for k, v in (headers | {"Content-Type": kind, "Accept": accept}).items()},
    )
    reply = connection.getresponse()
    said = reply.read()
    connection.close()
    assert reply.status in (200, 400, 406, 413, 415, 422), (reply.status, said)
    if reply.status != 200 and said.startswith(b"{"):
        assert json.loads(said).keys() == {"error", "stage", "request_id"}
        for leak in (b"Traceback", b"site-packages", str(folder).encode(), b'.py"', b"mlkit/"):
            assert leak not in said, said


@given(st.binary(max_size=300))
@example(b"POST /invocations HTTP/1.1\r\nContent-Length: -1\r\n\r\n")
@example(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n")
@example(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
@example(b"POST /invocations HTTP/9.9\r\n\r\n")
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_what_is_no_http_harms_nobody(server, sent):
    port, folder, p = server
    with socket.create_connection(("127.0.0.1", port), timeout=HANG) as s:
        s.sendall(sent)
        s.shutdown(socket.SHUT_WR)
        try:
            said = b"".join(iter(lambda: s.recv(65536), b""))
        except ConnectionResetError:
            said = b""
    assert b" 500 " not in said.partition(b"\r\n")[0] and b"Traceback" not in said
    assert ready(port)


class Client(threading.Thread):
    """Asks about numbers of its own, one after another, until it is told to end; `wrong` has what was lost, mixed up or
    ill said
    """

    def __init__(self, port, first, stopping):
        super().__init__(daemon=True)
        self.port = port
        self.stopping = stopping
        self.numbers = iter(range(first, first + 1_000_000))
        self.answered = []
        self.wrong = []
        self.random = random.Random(first)

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG)
        for number in self.numbers:
            bad = self.random.random() < 0.05
            body, expected = (
                self.random.choice([(b"[[1, 2, 3]]", 422), (b"{", 400), (b"<x/>", 415)])
                if bad
                else (f'{{"inputs": [[{number}, 1]]}}'.encode(), 200)
            )
            try:
                connection.request(
                    "POST",
                    "/invocations",
                    body,
                    {"Content-Type": "text/xml" if expected == 415 else "application/json"},
                )
                reply = connection.getresponse()
                said = reply.read()
            except (OSError, http.client.HTTPException) as e:
                if not self.stopping.is_set():
                    self.wrong.append((number, repr(e)))
                return
            if reply.status == 503 and self.stopping.is_set():
                return
            if reply.status != expected or (not bad and json.loads(said) != [[number * 2, 2]]):
                self.wrong.append((number, reply.status, said))
            elif not bad:
                self.answered.append(number)


def slowly(port, number, replies):
    """A client that takes seconds to send a request"""
    body = f'{{"inputs": [[{number}, 1]]}}'.encode()
    with socket.create_connection(("127.0.0.1", port), timeout=HANG) as s:
        for c in (
            "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
            f"{len(body)}\r\nConnection: close\r\n\r\n"
        ).encode() + body:
            s.sendall(bytes([c]))
            time.sleep(0.05)
        replies.append(b"".join(iter(lambda: s.recv(65536), b"")))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs the signals of Unix")
def test_a_minute_of_load(tmp_path, request):
    """16 clients, one request in twenty is wrong, one client is slow, the model is loaded again, and in the end the
    server is stopped
    """
    sys.path.insert(0, os.path.dirname(__file__))
    model = __import__("serving_model").Doubled()
    bundle = build_bundle(model, out=tmp_path / "model.tar.gz", sample=torch.zeros(1, 2)).path
    port = free_port()
    stopping = threading.Event()
    slow = []
    with mlkit_serve(bundle, port, SEEN=str(tmp_path / "seen"), SAGEMAKER_MODEL_SERVER_WORKERS="2") as p:
        until(lambda: ready(port), p)
        clients = [Client(port, (i + 1) * 1_000_000, stopping) for i in range(16)]
        slower = threading.Thread(target=slowly, args=(port, 999_999, slow), daemon=True)
        for t in (*clients, slower):
            t.start()
        seconds = request.config.getoption("--load")
        time.sleep(seconds / 3)
        p.send_signal(signal.SIGHUP)
        time.sleep(2 * seconds / 3)
        stopping.set()
        p.send_signal(signal.SIGTERM)
        for t in (*clients, slower):
            t.join(HANG)
        assert p.wait(HANG) == 0, p.log.read_text()[-3000:]
    log = p.log.read_text()
    assert log.count("reloaded: the model") == 2 and "Traceback" not in log, log[-3000:]
    answered = [n for c in clients for n in c.answered]
    assert not any(c.wrong for c in clients), [c.wrong[:3] for c in clients if c.wrong]
    assert slow and slow[0].endswith(b"[[1999998.0,2.0]]"), slow
    seen = list(map(int, (tmp_path / "seen").read_text().split()))
    assert set(answered) <= set(seen) and len(answered) > 1000
    lost = set(seen) - set(answered) - {0, 999_999}
    assert not lost, f"predicted, and not answered: {sorted(lost)[:10]}"
    print(f"{len(answered):,} answered in {seconds:g} s")
