"""S3 that throttles, drops and times out: a proxy before moto lets requests of storage, jobs and endpoints fail."""

import io
import os
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from faulty_proxy import FaultyProxy

from mlkit.model import MyCustomModel, save_model
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.client.deployment import deploy
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.sagemaker.storage import S3

ROWS = {
    "throttle": "S3: it throttles (503 SlowDown, 429)",
    "drop the request": "S3: the connection is reset before the request has arrived",
    "drop the reply": "S3: the connection is reset in the middle of a reply",
    "delay": "S3: no reply until the client's timeout",
}
ERRORS = BotoCoreError, ClientError, Boto3Error


@contextmanager
def faulty(moto, kinds=tuple(ROWS), share=0.3, in_a_row=2, seed=0):
    with FaultyProxy(urlsplit(moto).port, kinds, share, in_a_row, seed) as proxy:
        yield proxy


def storage(session, proxy, attempts=8):
    """Return the storage behind a proxy, with a short timeout."""
    config = Config(read_timeout=1, retries=dict(max_attempts=attempts, mode="standard"))
    return S3(session.client("s3", endpoint_url=proxy.url, config=config))


@pytest.mark.parametrize("key", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 8))])
def test_what_is_stored_is_whole(session, moto, tmp_path, fault, key):
    """Each operation gives what it gives without faults, as long as not every attempt of boto3 fails."""
    session.client("s3").create_bucket(Bucket="data")
    contents = {f"part/{i}": os.urandom(1000 * i) for i in range(8)}
    for name, content in contents.items():
        path = tmp_path / "sent" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "large").write_bytes(os.urandom(9 * 2**20))  # it is sent and fetched in parts
    with faulty(moto, seed=key) as proxy:
        s3 = storage(session, proxy)
        s3.send_folder(tmp_path / "sent", "s3://data/folder", io.StringIO())
        s3.send(contents, "s3://data/digest")
        s3.put(tmp_path / "large", "s3://data/large")
        folders = [
            s3.stage("s3://data/folder", tmp_path / "staged"),
            s3.stage("s3://data/digest", tmp_path / "digest"),
        ]
        s3.fetch("s3://data/large", tmp_path / "fetched")
        assert s3.measure("s3://data/folder") == (len(contents), sum(map(len, contents.values())))
        assert s3.keys("s3://data/folder") == sorted(contents)
    n_lost = sum((folder / name).read_bytes() != content for folder in folders for name, content in contents.items())
    n_lost += (tmp_path / "fetched").read_bytes() != (tmp_path / "large").read_bytes()
    for kind, row in ROWS.items():
        fault(row, proxy.counts[kind], lost=n_lost)


@pytest.mark.long("drop the request", "delay")
@pytest.mark.parametrize("key", ROWS)
def test_an_s3_that_never_answers_is_an_error(session, moto, tmp_path, fault, key):
    """Nothing is left that looks like a whole object."""
    client = session.client("s3")
    client.create_bucket(Bucket="data")
    client.put_object(Bucket="data", Key="old", Body=b"x" * 5000)
    with faulty(moto, [key], share=1, in_a_row=1000) as proxy:
        s3 = storage(session, proxy, attempts=2)
        with pytest.raises(ERRORS) as error:
            s3.fetch("s3://data/old", tmp_path / "fetched")
        (tmp_path / "file").write_bytes(b"y" * 5000)
        if key != "drop the reply":  # then the object arrives, and only the reply is lost
            with pytest.raises(ERRORS):
                s3.put(tmp_path / "file", "s3://data/new")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="data")["Contents"]]
    assert keys == ["old"]
    fault(f"{ROWS[key]}, each time", proxy.counts[key], said=str(error.value).replace(proxy.url, "http://..."))


def test_a_job_and_an_endpoint(session, moto, tmp_path, monkeypatch, fault):
    """A job with its data, checkpoints and model in S3, and the endpoint of its model."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3 = session.client("s3")
    s3.create_bucket(Bucket="data")
    rows = "\n".join(f"{i % 2},{i},{-i}" for i in range(40))
    s3.put_object(Bucket="data", Key="rows/part/rows.csv", Body=rows.encode())
    kinds = ("throttle", "drop the request", "drop the reply")
    with faulty(moto, kinds, share=0.4) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        local = LocalSageMaker(tmp_path / "local", s3="boto3")
        job = TrainingJob({"epochs": 2, "output_dim": 2}, channels={"training": "s3://data/rows"}, name="away")
        job = job.run(local).follow(io.StringIO())
        assert job.status == "Completed", job.describe()
        with job.deploy(out=io.StringIO()) as endpoint:
            answers = endpoint.invoke([[1, -1]] * 3)
    fault("S3: all of these, under a job and its endpoint", proxy.counts.total(), lost=3 - len(answers))


@pytest.mark.long
def test_a_deployment(session, moto, tmp_path, monkeypatch, fault):
    """deploy() to SageMaker, which moto stands for: the bundle in S3 is the one that was built."""
    save_model(MyCustomModel(4, 8, 2), tmp_path / "model")
    bundle = build_bundle(tmp_path / "model", out=tmp_path / "model.tar.gz").path
    kinds = ("throttle", "drop the request", "drop the reply")
    with faulty(moto, kinds, share=0.4) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        role = "arn:aws:iam::123456789012:role/job"
        deploy(bundle, boto3.Session(region_name="us-east-1"), "away", role=role, wait=False, check=False)
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    client = session.client("sagemaker")
    (model,) = client.list_models()["Models"]
    uri = client.describe_model(ModelName=model["ModelName"])["PrimaryContainer"]["ModelDataUrl"]
    S3(session.client("s3")).fetch(uri, tmp_path / "sent")
    n_lost = (tmp_path / "sent").read_bytes() != Path(bundle).read_bytes()
    fault("S3: all of these, under deploy()", proxy.counts.total(), lost=int(n_lost))
