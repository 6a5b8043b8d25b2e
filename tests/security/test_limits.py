"""What a file or a request declares of itself costs nothing: neither its nesting nor the sizes in its headers.

The limits of the server are tested in its notebooks, and what a small body may unpack to in tests/sagemaker/endpoint.
"""

import gzip
import io
import json
import socket
import struct
import subprocess
import sys
import tarfile
import textwrap
import warnings
import zlib
from pathlib import Path

import pytest
import torch

from mlkit.files import read_own_json
from mlkit.model import MyCustomModel, load_model, save_model
from mlkit.sagemaker.artifacts.archive import BundleError, extract_bundle
from mlkit.sagemaker.endpoint.defaults import default_model_fn
from mlkit.sagemaker.job.container import Container
from mlkit.sagemaker.local.model_router import ModelRouter
from mlkit.sagemaker.storage import Files, read_manifest
from mlkit.training.checkpoint import _fingerprint, read_checkpoint, read_latest, write_checkpoint
from mlkit.training.data import Images, Rows, read_channel, read_table
from mlkit.training.history import load_history

DEEP = {"lists": "[" * 100_000, "objects": '{"a":' * 100_000, "of mlkit": '{"mlkit": "1", "model": ' + "[" * 100_000}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_json_that_is_nested_deeply(tmp_path, text):
    """Each file of JSON that is read from a model, a checkpoint, a channel or a container is damaged then."""
    model = save_model(MyCustomModel(2, 3, 2), tmp_path / "model", sample=torch.zeros(1, 2))
    for name in ("model.json", "rows.json", "images.json"):
        (model / name).write_text(text)
    config = tmp_path / "container" / "input" / "config"
    config.mkdir(parents=True)
    (config / "hyperparameters.json").write_text(text)
    reads = {
        "load_model": lambda: load_model(model),
        "default_model_fn": lambda: default_model_fn(model),
        "Rows.load": lambda: Rows.load(model),
        "Images.load": lambda: Images.load(model),
        "load_history": lambda: load_history(model / "model.json"),
        "manifest": lambda: read_manifest("s3://bucket/x.manifest", text.encode()),
        "container": lambda: Container.from_env({}, tmp_path / "container"),
    }
    for suffix in (".json", ".jsonl"):
        folder = tmp_path / suffix
        folder.mkdir()
        (folder / f"rows{suffix}").write_text(text)
        reads |= {f"{read.__name__} {suffix}": lambda r=read, f=folder: r(f) for read in (read_channel, read_table)}
    if "mlkit" in text:
        reads["read_own_json"] = lambda: read_own_json(model / "model.json")
    for name, read in reads.items():
        with pytest.raises((ValueError, OSError)):
            read()
            pytest.fail(name)


@pytest.mark.parametrize("name", ["state.json", "manifest.json"])
def test_a_checkpoint_that_is_nested_deeply(tmp_path, name):
    """It is damaged, and so the one before is read."""
    good = write_checkpoint({"weight": torch.ones(2)}, tmp_path, 1)
    path = write_checkpoint({"weight": torch.zeros(2)}, tmp_path, 2)
    (path / name).write_text(DEEP["lists"])
    if name == "state.json":
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["files"][name] = _fingerprint(path / name)
        (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError):
        read_checkpoint(path)
    with pytest.warns(UserWarning, match="damaged"):
        assert read_latest(tmp_path)[1] == good


def png(width, height):
    """Return the beginning of a PNG of any size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def npy(shape):
    header = str({"descr": "<f8", "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header


def safetensors(size, shape=(2**40,)):
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 2**42]}}).encode()
    return size.to_bytes(8, "little") + header


def tar(name, size=0, pax=None, zeros=0):
    """Return an archive whose only member declares any size."""
    out = io.BytesIO()
    info = tarfile.TarInfo(name)
    info.size = size
    info.pax_headers = pax or {}
    out.write(info.tobuf(tarfile.PAX_FORMAT))
    return gzip.compress(out.getvalue() + bytes(10240 + zeros), 1)


LIARS = {
    "a.npy": npy((2**50,)),
    "b.npy": npy((2**31, 4)),
    "c.npy": npy((2**33,)) + bytes(64),
    "model.safetensors": safetensors(2**60),
    "d.safetensors": safetensors(2**31),
    "e.safetensors": safetensors(90),
    "f.parquet": b"PAR1" + bytes(20) + (2**31 - 1).to_bytes(4, "little") + b"PAR1",
    "g.png": png(2**31 - 1, 2**31 - 1),
    "h.png": png(60_000, 60_000),
}
ARCHIVES = {
    "size": tar("x", 2**40),
    "header": tar("x", pax={"comment": "x" * 2**25}),
    "zeros": tar("x", 2**27, zeros=2**27),
}


def read_liars(folder):
    """Read each file as whoever reads such files does. Each is refused."""
    for name in LIARS:
        for read in (read_channel, read_table, Images.fit):
            try:
                read(folder / name)
                raise AssertionError(f"{name} was read")
            except (ValueError, RuntimeError, OSError):
                pass
    model = save_model(MyCustomModel(2, 3, 2), folder / "model", sample=torch.zeros(1, 2))
    (model / "model.safetensors").write_bytes(LIARS["d.safetensors"])
    for read in (load_model, default_model_fn):
        with pytest.raises(ValueError):
            read(model)
    for name, content in ARCHIVES.items():
        (folder / f"{name}.tar.gz").write_bytes(content)
        with pytest.raises(BundleError):
            extract_bundle(folder / f"{name}.tar.gz", folder / "unpacked", max_bytes=2**20)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_files_that_declare_more_than_they_have(tmp_path):
    """All of them are refused by a process that needs 300 MB more than before at most."""
    for name, content in LIARS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(content)
    program = """
        import pathlib, re, sys
        sys.path[:0] = [sys.argv[2]]
        import pyarrow.parquet, PIL.Image
        from test_limits import read_liars
        def peak():  # in kB, of this process alone
            return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
        before = peak()
        read_liars(pathlib.Path(sys.argv[1]))
        assert peak() - before < 300_000, peak() - before
    """
    folder = str(Path(__file__).parent)
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path), folder]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("length", ["-1", "x", "1" * 30, "9999999999", "٣", "1.5", ""])
def test_the_length_of_a_request_to_an_endpoint_with_many_models(tmp_path, length):
    router = ModelRouter("s3://bucket/x", Files(tmp_path / "s3"), tmp_path / "models")
    try:
        with socket.create_connection(("127.0.0.1", router.port), timeout=60) as connection:
            connection.sendall(f"POST /invocations HTTP/1.1\r\nContent-Length: {length}\r\n\r\nabc".encode())
            assert connection.recv(1000).split(b" ")[1] == b"413"
    finally:
        router.close()
