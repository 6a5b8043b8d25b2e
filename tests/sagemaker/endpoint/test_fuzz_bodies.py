"""Whatever a client sends is answered or is the client's fault, and costs no more than its length allows."""

import io
import json
import random
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from mlkit.model import MyCustomModel
from mlkit.model.inputs import signature
from mlkit.sagemaker.endpoint import codecs
from mlkit.sagemaker.endpoint.codecs import RequestError, encode
from mlkit.sagemaker.endpoint.handlers import Handlers
from mlkit.training.data.rows import Rows

PEOPLE = [{"age": 39, "city": "Rome", "pay": "low"}, {"age": 50, "city": "Oslo", "pay": "high"}] * 4
TABLE = Rows.fit(PEOPLE, label="pay")


def parquet(columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def image(kind):
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(out, kind)
    return out.getvalue()


def compressed(**arrays):
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


X = torch.tensor([[1.0, 2.0, 3.0, 4.5], [5.0, 6.0, 7.0, 8.0]])
BODIES = {
    "application/json": [b'{"instances": [[1, 2, 3, 4.5], [5e0, 6, 7, 8]]}', b'[[1,2,3,4],["a",null,{"b":true}]]'],
    "application/json; charset=utf-16": [json.dumps(X.tolist()).encode("utf-16")],
    "application/jsonlines": [b"[1, 2, 3, 4]\n\n[5, 6, 7, 8]\n", b'{"features": [1, 2, 3, 4]}\n'],
    "text/csv": [b'1,2,3,4\r\n"5",6,7,8e0\n'],
    "text/csv; header=present": [b"a,b,c,d\n1,2,3,4\n"],
    "application/x-npy": [encode(X, "application/x-npy")[0]],
    "application/x-npz": [encode(X, "application/x-npz")[0], compressed(x=X.numpy())],
    "application/x-safetensors": [encode(X, "application/x-safetensors")[0]],
    "application/x-parquet": [parquet({name: [1.0, 2.0] for name in "abcd"}), parquet({"age": [1], "city": ["Rome"]})],
    "image/png": [image("png")],
    "image/jpeg": [image("jpeg")],
    "application/x-image": [image("gif"), image("tiff"), image("webp")],
    "text/plain": [b"some text"],
}
PIECES = [b"", b"[" * 2000, b'{"a":' * 500, b"9" * 5000, b"1e999", b"-", b"\0" * 9, b"\xff" * 9, b'"', b",", b"\n"]
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF]


def mutate(body, rng):
    """Return a body with a few changes: bits, bytes, pieces, cuts, doublings."""
    body = bytearray(body)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        i = rng.randrange(len(body) + 1)
        j = min(len(body), i + rng.choice([1, 2, 4, 8, 50]))
        kind = rng.randrange(7)
        if kind == 0 and i < len(body):
            body[i] ^= 1 << rng.randrange(8)
        elif kind == 1:
            body[i:j] = bytes([rng.choice(NUMBERS)]) * (j - i)
        elif kind == 2:
            body[i:j] = rng.choice(PIECES)
        elif kind == 3:
            del body[i:]
        elif kind == 4:
            del body[:i]
        elif kind == 5:
            body[i:i] = body[i:j] * rng.choice([1, 3, 30])
        else:
            body[i:j] = rng.randbytes(j - i)
    return bytes(body)


def status_of(handlers, body, content_type, accept=None):
    """Return 200, or the status of the client's mistake; any other error is passed on."""
    try:
        handlers.respond(body, content_type, accept)
    except RequestError as e:
        assert 400 <= e.status < 500
        assert len(str(e)) < 3000
        return e.status
    return 200


class Flexible(nn.Module):
    def forward(self, x):
        return x * 2


def make_handlers():
    with_signature = Handlers(model=MyCustomModel(4, 3, 2), signature=signature(torch.ones(1, 4)))
    table = Handlers(model=lambda x: torch.ones(len(x), 2), description=TABLE)
    return [with_signature, Handlers(model=Flexible()), Handlers(model=MyCustomModel(4, 3, 2)), table]


def fuzz(rounds):
    rng = random.Random(0)  # noqa: S311 -- the same bodies each time
    statuses = set()
    for handlers in make_handlers():
        for content_type, bodies in BODIES.items():
            for body in bodies:
                assert status_of(handlers, body, content_type) in (200, 400, 415, 422)
                for _ in range(rounds):
                    statuses.add(status_of(handlers, mutate(body, rng), content_type))
        types = list(BODIES)
        for content_type in types:  # a body of another type
            for other in types:
                statuses.add(status_of(handlers, BODIES[other][0], content_type))
    return statuses


@pytest.mark.filterwarnings("ignore")
def test_a_changed_body_is_answered_or_refused():
    assert {200, 400, 422} <= fuzz(30) <= {200, 400, 413, 415, 422}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_many_changed_bodies_are_answered_or_refused():
    assert {200, 400, 422} <= fuzz(800) <= {200, 400, 413, 415, 422}


def test_every_flipped_bit_and_every_length_of_an_array():
    handlers = make_handlers()[0]
    for content_type in ("application/x-npy", "application/x-safetensors", "application/x-npz"):
        body = BODIES[content_type][-1]
        for i in range(len(body)):
            changed = bytearray(body)
            changed[i] ^= 1 << i % 8
            assert status_of(handlers, bytes(changed), content_type) in (200, 400, 413, 422)
            assert status_of(handlers, body[:i], content_type) in (400, 422)


HEADER_PIECES = ["application/json", "text/csv", "*/*", ";", ",", "q=", "0.5", '"', "charset", "=", "utf-8", "header"]
HEADER_PIECES += ["punycode", "idna", "*", "/", " ", "\t", "x" * 300, "'", "\\", "%41", "*0*=", "q=1e9", "q=-1", "\r\n"]
HEADER_PIECES += ["\0", "é", "("]


def test_headers_are_answered_or_refused():
    rng = random.Random(1)  # noqa: S311 -- the same ones each time
    handlers = make_handlers()[0]
    for _ in range(1500):
        header = "".join(rng.choices(HEADER_PIECES, k=rng.randrange(1, 9)))
        assert status_of(handlers, b"[[1, 2, 3, 4]]", rng.choice(["application/json", "text/csv", ""]) + header) >= 200
        status_of(handlers, b"[[1, 2, 3, 4]]", "application/json", header)
    for header in ("a/b;" * 20_000, "text/csv," * 20_000, '"' * 100_000, "a/b; x=" + "y" * 10**6):
        assert status_of(handlers, b"[[1, 2, 3, 4]]", header) == 400
        assert status_of(handlers, b"[[1, 2, 3, 4]]", "application/json", header) == 400


def test_nothing_that_a_client_sends_is_kept():
    """The caches of headers are bounded, in number and by the length of a header."""
    handlers = make_handlers()[0]
    import encodings

    known = len(encodings._cache)
    for i in range(300):
        status_of(handlers, b"[[1, 2, 3, 4]]", f"application/json; x={i}", f"text/csv;q=0.{i}")
        status_of(handlers, b"[[1, 2, 3, 4]]", f"application/json; charset=unknown{i}")
        status_of(handlers, b"a", f"application/x-{i}")
    for function in (codecs._parse_content_type, codecs._choose_type, codecs._preferred_type):
        assert function.cache_info().currsize <= function.cache_info().maxsize <= 100
    assert len(encodings._cache) == known


def zeros(shape, count=1):
    """Return an NPZ that declares large arrays of zeros, and is small."""
    header = str({"descr": "<f8", "fortran_order": False, "shape": shape}).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(count):
            with archive.open(f"{i}.npy", "w") as f:
                f.write(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
                for _ in range(8 * int(np.prod(shape)) // 2**20):
                    f.write(bytes(2**20))
    return out.getvalue()


def bombs():
    """Return bodies that would take gigabytes if they were read as they declare it, by content type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    giant = pa.DictionaryArray.from_arrays(pa.array([0] * 10**6, pa.int32()), [b"x" * 10**5])
    column = io.BytesIO()
    pq.write_table(pa.table({"age": giant, "city": giant}), column)
    ones = pa.array(np.ones(2**24, np.int8))
    numbers = io.BytesIO()
    pq.write_table(pa.table({name: ones for name in "abcd"}), numbers)
    tensors = json.dumps(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10**5)}
    ).encode()
    return [
        ("application/x-npz", zeros((2**22, 4))),
        ("application/x-npz", zeros((2**18, 5), 12)),
        ("application/x-npy", zeros((2**20, 4))[:200]),
        ("application/x-parquet", column.getvalue()),
        ("application/x-parquet", numbers.getvalue()),
        ("application/x-safetensors", len(tensors).to_bytes(8, "little") + tensors),
        ("application/json", b"[" + b"[]," * 7_000_000 + b"[]]"),
        ("application/json", b"[" * 10**6),
        ("application/jsonlines", b"[]\n" * 7_000_000),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_small_body_does_not_take_gigabytes(tmp_path):
    """Each is refused, and the process that has read them all has not needed 300 MB more than before."""
    for i, (content_type, body) in enumerate(bombs()):
        (tmp_path / f"{i:02}").write_bytes(content_type.encode() + b"\n" + body)
    program = """
        import re, sys, pathlib, pyarrow.parquet
        sys.path[:0] = sys.argv[2:]
        from test_fuzz_bodies import make_handlers, status_of
        def peak():  # in kB, of this process alone
            return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
        handlers = make_handlers()
        before = peak()
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            content_type, _, body = path.read_bytes().partition(b"\\n")
            for each in handlers[:3]:
                status = status_of(each, body, content_type.decode())
                assert status in (400, 413, 422), (path, status)
            status = status_of(handlers[3], body, content_type.decode())
            assert status in (400, 413, 415, 422), (path, status)
            print(path.name, content_type, len(body), peak() - before, flush=True)
        assert peak() - before < 300_000
    """
    folder = __file__.rpartition("/")[0]
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path), folder]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
