import signal
import subprocess
from urllib.request import urlopen

import pytest
from helpers import environment, free_port, wait_for

pytest_plugins = ["faults"]


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=5, help="how often test_kill kills the trainer (default: 5)")
    parser.addoption("--screenshots", help="folder for screenshots of the notebook")
    parser.addoption("--load", type=float, default=15, help="seconds that the server is under load (default: 15)")
    parser.addoption("--outputs", action="store_true", help="write what README and tutorials show into them")
    parser.addoption("--long", action="store_true", help="run the tests marked as long, too")


def pytest_configure(config):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets programs in the background ignore it
    config.addinivalue_line("markers", "long(*keys): only run with --long; with keys, only these values of `key`")


def pytest_collection_modifyitems(config, items):
    """Leave out the long tests: CI has other tests of what they test, with fewer variants."""
    if config.getoption("--long"):
        return
    long_items = [item for item in items if _is_long(item)]
    config.hook.pytest_deselected(items=long_items)
    items[:] = [item for item in items if item not in long_items]


def _is_long(item):
    mark = item.get_closest_marker("long")
    return mark is not None and (not mark.args or item.callspec.params["key"] in mark.args)


@pytest.fixture(scope="session")
def moto():
    """Start a moto server and yield its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [environment("v2") / "moto_server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(url, server)
        yield url
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def session(moto, monkeypatch):
    """Return a boto3 session that talks to moto. Its attribute `calls` lists (operation, parameters) of each call."""
    import boto3

    from mlkit.sagemaker.client.target import AWSTarget

    monkeypatch.setattr(AWSTarget, "log_delay", 0.2)  # moto returns all lines at once
    variables = dict(
        AWS_ENDPOINT_URL=moto,
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",
        AWS_SESSION_TOKEN="testing",  # as the keys of a role, which a rehearsed job gets
        AWS_EC2_METADATA_DISABLED="true",
    )
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    urlopen(f"{moto}/moto-api/reset", data=b"").close()
    session = boto3.Session(region_name="us-east-1")
    session.calls = []

    def record(params, model, **kwargs):
        session.calls.append((model.name, params))

    session.events.register("before-parameter-build", record)
    return session


@pytest.fixture(autouse=True)
def default_local_folder(monkeypatch, tmp_path):
    """Keep the jobs and endpoints of a test out of the user's folder."""
    monkeypatch.setenv("MLKIT_LOCAL", str(tmp_path / "default"))


@pytest.fixture(params=["LocalSageMaker", "moto"])
def client(request, tmp_path):
    """Return a SageMaker client: first LocalSageMaker, then boto3's with moto."""
    from mlkit.sagemaker.local.client import LocalSageMaker

    if request.param == "LocalSageMaker":
        return LocalSageMaker(tmp_path / "local")
    return request.getfixturevalue("session").client("sagemaker")
