import socket
import subprocess
from urllib.request import urlopen

import pytest


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=40, help="how often test_kill kills the trainer (default: 40)")
    parser.addoption("--screenshots", help="a folder for pictures of the notebook")
    parser.addoption("--load", type=float, default=60, help="how many seconds the server is under load (default: 60)")


@pytest.fixture(scope="session")
def moto():
    """The address of a moto server"""
    from test_conformance import environment, wait_for

    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    server = subprocess.Popen(
        [environment("v2") / "moto_server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def session(moto, monkeypatch):
    """A boto3 session whose calls go to moto, and those calls"""
    import boto3

    from mlkit.sagemaker.client.target import AWSTarget

    monkeypatch.setattr(AWSTarget, "settle", 0.2)  # moto has all lines at once
    for name, value in dict(
        AWS_ENDPOINT_URL=moto,
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",
        AWS_EC2_METADATA_DISABLED="true",
    ).items():
        monkeypatch.setenv(name, value)
    urlopen(f"{moto}/moto-api/reset", data=b"").close()
    session = boto3.Session(region_name="us-east-1")
    session.calls = []
    session.events.register(
        "before-parameter-build", lambda params, model, **_: session.calls.append((model.name, params))
    )
    return session


@pytest.fixture(autouse=True)
def own_place(monkeypatch, tmp_path):
    monkeypatch.setenv("MLKIT_LOCAL", str(tmp_path / "default"))


@pytest.fixture(params=["LocalSageMaker", "moto"])
def client(request, tmp_path):
    from mlkit.sagemaker.local.client import LocalSageMaker

    return (
        LocalSageMaker(tmp_path / "local")
        if request.param == "LocalSageMaker"
        else request.getfixturevalue("session").client("sagemaker")
    )
