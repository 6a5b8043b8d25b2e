"""Batch transforms that fail, such as with a torn bundle, and what their requests say of data and of errors."""

import gzip
import json
import time

import pytest
import torch

from mlkit.model import MyCustomModel
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.local.store import now
from mlkit.sagemaker.local.transform_jobs import TransformJobs
from mlkit.sagemaker.local.transform_runner import TransformRunner


@pytest.fixture
def local(tmp_path):
    """A local SageMaker whose S3 holds a row of ten numbers under s3://bucket/rows."""
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "a.csv").write_text("0,0,0,0,0,0,0,0,0,0\n")
    local = TransformJobs(tmp_path / "local")
    local.files.send_folder(rows, "s3://bucket/rows")
    return local


def create_model(local, name, archive):
    local.files.put(archive, f"s3://bucket/{name}/model.tar.gz")
    local.create_model(
        ModelName=name,
        ExecutionRoleArn="arn:aws:iam::000000000000:role/local",
        PrimaryContainer=dict(Image="mlkit-local", ModelDataUrl=f"s3://bucket/{name}/model.tar.gz"),
    )


def create_model_with_handlers(local, name, handlers, folder):
    (folder / f"{name}.py").write_text(handlers)
    bundle = build_bundle(
        MyCustomModel(10, 50, 2), folder / f"{name}.py", out=folder / f"{name}.tar.gz", sample=torch.zeros(1, 10)
    )
    create_model(local, name, bundle.path)


def make_request(name, **fields):
    source = dict(S3DataSource=dict(S3DataType="S3Prefix", S3Uri="s3://bucket/rows"))
    request = dict(
        TransformJobName=name,
        ModelName=name,
        TransformInput=dict(DataSource=source, ContentType="text/csv", SplitType="Line"),
        TransformOutput=dict(S3OutputPath=f"s3://bucket/out/{name}", Accept="text/csv", AssembleWith="Line"),
        TransformResources=dict(InstanceType="ml.m5.large", InstanceCount=1),
    )
    return request | fields


def wait(local, name):
    """Wait for the end of a transform and return its description."""
    while local.describe_transform_job(TransformJobName=name)["TransformJobStatus"] in ("InProgress", "Stopping"):
        time.sleep(0.05)
    return local.describe_transform_job(TransformJobName=name)


def failure_of(local, name, **fields):
    """Run a transform with the model of the same name and return why it failed."""
    local.create_transform_job(**make_request(name, **fields))
    description = wait(local, name)
    assert description["TransformJobStatus"] == "Failed", description
    return description["FailureReason"]


def test_a_torn_bundle(local, tmp_path):
    (tmp_path / "torn").write_text("torn")
    create_model(local, "torn", tmp_path / "torn")
    assert "is not a whole gzipped tar archive" in failure_of(local, "torn")


def test_a_server_that_ends_while_it_answers(local, tmp_path):
    handlers = 'def predict_fn(data, model):\n    print("the GPU is gone", flush=True)\n    __import__("os")._exit(3)\n'
    create_model_with_handlers(local, "dies", handlers, tmp_path)
    assert (
        failure_of(local, "dies")
        == "AlgorithmError: a.csv, request 1: the container ended with exit code 3: the GPU is gone"
    )


def test_a_server_that_never_starts(local, tmp_path):
    handlers = 'print("loading", flush=True)\n__import__("time").sleep(60)\n'
    create_model_with_handlers(local, "sleeps", handlers, tmp_path)
    job = dict(TransformJobName="sleeps", TransformJobStatus="InProgress", ModelName="sleeps", CreationTime=now())
    local.transforms.add("sleeps", job)
    TransformRunner(local, "sleeps", startup_timeout=10).run()
    reason = local.transforms.get("sleeps")["FailureReason"]
    assert reason.startswith("AlgorithmError: /ping did not answer 200 in 10 seconds"), reason
    assert "loading" in reason, reason


def test_a_file_that_is_too_large_for_a_request(local, tmp_path):
    (tmp_path / "rows" / "c.csv").write_text("0" * 2**20 + "0")
    bundle = build_bundle(MyCustomModel(10, 50, 2), out=tmp_path / "model.tar.gz", sample=torch.zeros(1, 10))
    create_model(local, "large", bundle.path)
    source = dict(S3DataSource=dict(S3DataType="S3Prefix", S3Uri="s3://bucket/rows/c.csv"))
    whole = dict(DataSource=source, ContentType="text/csv")
    assert (
        failure_of(local, "large", TransformInput=whole, MaxPayloadInMB=1)
        == "ClientError: c.csv has more than 1,048,576 bytes, which is too large for a request (MaxPayloadInMB=1)"
    )


def test_a_manifest_and_a_second_try(local, tmp_path):
    """The files that the manifest lists are transformed, and a request is sent again as often as the request says."""
    for name in ("b", "c"):
        (tmp_path / "rows" / f"{name}.csv").write_text("1,1,1,1,1,1,1,1,1,1\n")
    local.files.send({"list.manifest": b'[{"prefix": "s3://bucket/rows/"}, "a.csv", "c.csv"]'}, "s3://bucket/lists")
    handlers = (
        "calls = []\n"
        "def predict_fn(data, model):\n"
        "    calls.append(data)\n"
        "    if len(calls) % 2:\n"
        "        raise RuntimeError('busy')\n"
        "    return model(data)\n"
    )
    create_model_with_handlers(local, "busy", handlers, tmp_path)
    source = dict(S3DataSource=dict(S3DataType="ManifestFile", S3Uri="s3://bucket/lists/list.manifest"))
    listed = dict(DataSource=source, ContentType="text/csv", SplitType="Line")
    request = make_request("busy", TransformJobName="again", TransformInput=listed)
    local.create_transform_job(**request | dict(ModelClientConfig=dict(InvocationsMaxRetries=2)))
    assert wait(local, "again")["TransformJobStatus"] == "Completed"
    outputs = local.files.path("s3://bucket/out/busy")
    assert sorted(path.name for path in outputs.iterdir()) == ["a.csv.out", "c.csv.out"]


def test_documents_one_by_one(local, tmp_path):
    """A handler that takes one JSON document gets one line at a time, also of a compressed file, and the variables.

    The other files are transformed, too, if one has a record without the part that the model gets.
    """
    documents = [{"id": i, "x": {"value": i / 2}} for i in range(3)]
    lines = "".join(json.dumps(document) + "\n" for document in documents)
    files = {
        "a.jsonl": gzip.compress(lines.encode()),
        "b.jsonl": gzip.compress(b'{"id": 9}'),
        "c.jsonl": gzip.compress(b"\n"),
    }
    local.files.send(files, "s3://bucket/documents")
    handlers = (
        "import json, os\n"
        "def model_fn(model_dir):\n"
        "    return {name: os.environ[name] for name in os.environ if name.startswith('SAGEMAKER_')}\n"
        "def input_fn(body, content_type):\n"
        "    return json.loads(body)\n"
        "def predict_fn(data, model):\n"
        "    return {'twice': 2 * data['value'], 'variables': model}\n"
        "def output_fn(prediction, accept):\n"
        "    return json.dumps(prediction), 'application/json'\n"
    )
    create_model_with_handlers(local, "documents", handlers, tmp_path)
    source = dict(S3DataSource=dict(S3DataType="S3Prefix", S3Uri="s3://bucket/documents"))
    request = make_request(
        "documents",
        BatchStrategy="SingleRecord",
        MaxConcurrentTransforms=2,
        MaxPayloadInMB=4,
        Environment=dict(SAGEMAKER_OWN="yes"),
        TransformInput=dict(
            DataSource=source, ContentType="application/json", SplitType="Line", CompressionType="Gzip"
        ),
        DataProcessing=dict(InputFilter="$.x", JoinSource="Input", OutputFilter="$['id','SageMakerOutput']"),
    )
    local.create_transform_job(**request)
    description = wait(local, "documents")
    reason = "ClientError: b.jsonl, request 1: $.x: "
    assert (description["TransformJobStatus"], description["FailureReason"][: len(reason)]) == ("Failed", reason)
    outputs = local.files.path("s3://bucket/out/documents")
    assert sorted(path.name for path in outputs.iterdir()) == ["a.jsonl.out", "c.jsonl.out"]
    answers = [json.loads(line) for line in (outputs / "a.jsonl.out").read_text().splitlines()]
    assert [(answer["id"], answer["SageMakerOutput"]["twice"]) for answer in answers] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert answers[0]["SageMakerOutput"]["variables"] == {
        "SAGEMAKER_BATCH": "true",
        "SAGEMAKER_BATCH_STRATEGY": "SINGLE_RECORD",
        "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "2",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "4",
        "SAGEMAKER_OWN": "yes",
    }
