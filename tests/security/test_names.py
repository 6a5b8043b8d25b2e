"""A name leads nowhere: whatever is sent, listed or unpacked, nothing outside of its folder is read or written."""

import http.client
import io
import json
import os
import shutil
import tarfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from botocore import exceptions as botocore_exceptions
from botocore import xform_name
from botocore.exceptions import ClientError, ParamValidationError
from conformance.servers import mlkit_serve, wait_until
from helpers import free_port

from mlkit.cli import main
from mlkit.model import MyCustomModel, save_model
from mlkit.sagemaker.api import service
from mlkit.sagemaker.artifacts.archive import BundleError, extract_bundle
from mlkit.sagemaker.artifacts.files import SourceError
from mlkit.sagemaker.artifacts.remote_source import fetch_source
from mlkit.sagemaker.client import Sweep
from mlkit.sagemaker.client.variants import model_archives
from mlkit.sagemaker.local import hosting, members, training_jobs, transform_jobs, tuning_jobs
from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.sagemaker.local.metric_files import _extracted
from mlkit.sagemaker.local.model_router import ModelMissing, ModelRouter
from mlkit.sagemaker.local.runtime import LocalRuntime
from mlkit.sagemaker.local.scaling import LocalScaling
from mlkit.sagemaker.storage import S3, Files, stage_manifest

CANARY = "the canary"
CLIENTS = {"sagemaker": LocalSageMaker, "sagemaker-runtime": LocalRuntime, "application-autoscaling": LocalScaling}
NAMES = [
    "..",
    ".",
    "../planted",
    "../../planted",
    "a/../../planted",
    "/planted",
    "a\\..\\..\\planted",
    "a\0",
    "~/planted",
]
NAMES += ["%2e%2e/planted", "．．/planted", "a\n../planted", "-rf", "$HOME", "x" * 300]
URIS = [
    "s3://bucket/../planted",
    "s3://../planted",
    "s3://bucket/../../planted",
    "s3:////planted",
    "s3://bucket/a/../..",
]
# for which processes are started
RUN = ["../../planted", "/planted", "s3://bucket/../../planted", "s3://bucket/..\\..\\planted"]
URIS += ["s3://bucket/../../../planted", "s3://bucket/\0", "file:///planted", "s3://bucket/..\\..\\planted"]

ROLE = "arn:aws:iam::123456789012:role/job"
RESOURCES = dict(InstanceType="ml.m5.large", InstanceCount=1, VolumeSizeInGB=1)
SOURCE = dict(S3DataSource=dict(S3DataType="S3Prefix", S3Uri="s3://bucket/data"))
ALGORITHM = dict(TrainingImage="image", TrainingInputMode="File", ContainerEntrypoint=["true"])
JOB = dict(
    RoleArn=ROLE,
    AlgorithmSpecification=ALGORITHM,
    OutputDataConfig=dict(S3OutputPath="s3://bucket/out"),
    ResourceConfig=RESOURCES,
    StoppingCondition=dict(MaxRuntimeInSeconds=60),
    InputDataConfig=[dict(ChannelName="train", DataSource=SOURCE)],
    CheckpointConfig=dict(S3Uri="s3://bucket/checkpoints", LocalPath="/opt/ml/checkpoints"),
    TensorBoardOutputConfig=dict(S3OutputPath="s3://bucket/board", LocalPath="/opt/ml/board"),
)
VARIANT = dict(VariantName="all", ModelName="model", InstanceType="ml.m5.large", InitialInstanceCount=1)
TUNING = dict(
    Strategy="Random",
    HyperParameterTuningJobObjective=dict(Type="Minimize", MetricName="loss"),
    ResourceLimits=dict(MaxNumberOfTrainingJobs=1, MaxParallelTrainingJobs=1),
    ParameterRanges=dict(CategoricalParameterRanges=[dict(Name="lr", Values=["1"])]),
)
TUNED = {name: value for name, value in JOB.items() if name != "TensorBoardOutputConfig"} | dict(
    AlgorithmSpecification=dict(
        TrainingImage="image", TrainingInputMode="File", MetricDefinitions=[dict(Name="loss", Regex="loss=(.*)")]
    ),
    StaticHyperParameters=dict(sagemaker_program="train.py", sagemaker_submit_directory="s3://bucket/data"),
)
TUNINGS = "HyperParameterTuningJobSummaries"
# Requests that are accepted as they are
REQUESTS = {
    "CreateTrainingJob": JOB | dict(TrainingJobName="job"),
    "CreateModel": dict(ModelName="model", PrimaryContainer=dict(ModelDataUrl="s3://bucket/model.tar.gz", Image="i")),
    "CreateEndpointConfig": dict(EndpointConfigName="config", ProductionVariants=[VARIANT]),
    "CreateTransformJob": dict(
        TransformJobName="transform",
        ModelName="model",
        TransformInput=dict(DataSource=SOURCE, ContentType="text/csv"),
        TransformOutput=dict(S3OutputPath="s3://bucket/out"),
        TransformResources=dict(InstanceType="ml.m5.large", InstanceCount=1),
    ),
    "CreateHyperParameterTuningJob": dict(
        HyperParameterTuningJobName="tuning", HyperParameterTuningJobConfig=TUNING, TrainingJobDefinition=TUNED
    ),
    "CreateEndpoint": dict(EndpointName="endpoint", EndpointConfigName="config"),
    "UpdateEndpoint": dict(EndpointName="endpoint", EndpointConfigName="config"),
}


@pytest.fixture
def outer(tmp_path, monkeypatch):
    """A folder with the canary on each level above the objects of S3, and on the level of the root."""
    local = tmp_path / "a" / "local"
    for folder in (tmp_path, tmp_path / "a", local, local / "s3"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "planted").write_text(CANARY)
    (tmp_path / "a" / "program.py").write_text("print('a program')\n")
    (tmp_path / "a" / "data").mkdir()
    (local / "s3" / "bucket" / "data").mkdir(parents=True)
    (local / "s3" / "bucket" / "data" / "x.csv").write_text("1")
    monkeypatch.setenv("MLKIT_LOCAL", str(local))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path, local)
    yield tmp_path
    assert snapshot(tmp_path, local) == before
    for path in local.rglob("*"):
        assert path.name == "planted" or not path.is_file() or CANARY.encode() not in path.read_bytes(), path
    assert {path.name for path in local.iterdir()} <= KNOWN, "something is in the root that nobody has asked for"


KNOWN = {"planted", "s3", "jobs", "models", "configs", "endpoints", "transforms", "tunings", "jobs.db", "reserve"}
KNOWN |= {"jobs.db-wal", "jobs.db-shm", "channels", "sources", "notifications"}


def snapshot(folder, without):
    """Return the files under a folder, but not those under `without`."""
    paths = [path for path in folder.rglob("*") if not path.is_relative_to(without)]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def strings(shape, path=(), depth=0):
    """Yield the path of each text in a structure that is not one of a few words."""
    for name, member in shape.members.items():
        inner = member.member if member.type_name == "list" else member
        if inner.type_name == "structure" and depth < 6:
            yield from strings(inner, (*path, (name, member.type_name)), depth + 1)
        elif inner.type_name == "string" and not inner.metadata.get("enum"):
            yield (*path, (name, member.type_name))
        elif inner.type_name == "map":
            yield (*path, (name, "map"))


def changed(request, path, value):
    """Return a request in which the text at a path is another one."""
    (name, kind), *rest = path
    if rest:
        inner = request.get(name) or {}
        before = inner[0] if isinstance(inner, list) else inner
        part = changed(before, rest, value)
        return request | {name: [part] if kind == "list" else part}
    return request | {name: [value] if kind == "list" else {value: value} if kind == "map" else value}


def minimal(operation):
    """Return a request with the names that an operation requires."""
    api = next(api for api in CLIENTS if operation in service(api).operation_names)
    shape = service(api).operation_model(operation).input_shape
    request = {name: "iris" for name in shape.required_members if shape.members[name].type_name == "string"}
    return api, shape, request | REQUESTS.get(operation, {})


def wait_until_ended(local):
    while any(
        job[f"{kind}JobStatus"] in ("InProgress", "Stopping")
        for kind, jobs in (
            ("Training", local.list_training_jobs(MaxResults=100)["TrainingJobSummaries"]),
            ("Transform", local.list_transform_jobs(MaxResults=100)["TransformJobSummaries"]),
            ("HyperParameterTuning", local.list_hyper_parameter_tuning_jobs(MaxResults=100)[TUNINGS]),
        )
        for job in jobs
    ):
        time.sleep(0.05)


REFUSALS = (ClientError, ParamValidationError, ValueError, NotImplementedError)
NAMED = ("TrainingJob", "Model", "Endpoint", "EndpointConfig", "TransformJob", "HyperParameterTuningJob")


def renamed(request, operation, number):
    """Return a request for a resource with another name, since each name is used once."""
    name = f"{operation.removeprefix('Create')}Name"
    return request | {name: f"n-{number}"} if operation.removeprefix("Create") in NAMED else request


def accepted_texts(local, operation, patch):
    """Yield the path and the name of each text that leads out and is accepted in an otherwise good request.

    No process is started for it.
    """
    api, shape, request = minimal(operation)
    client = local if api == "sagemaker" else CLIENTS[api](local)
    for module in (training_jobs, transform_jobs, tuning_jobs, hosting):
        patch.setattr(module, "start_locked", lambda lock, *arguments: os.close(lock))
    if operation in REQUESTS:
        getattr(client, xform_name(operation))(**renamed(request, operation, "good"))
    for i, path in enumerate(strings(shape)):
        for j, name in enumerate(NAMES + URIS):
            try:
                trial = changed(renamed(request, operation, f"{i}-{j}"), path, name)
                getattr(client, xform_name(operation))(**trial)
                yield path, name
            except REFUSALS:
                continue


# of texts, and of URIs that are not read or written here, or only when the job runs
FREE = set(
    "HyperParameters TrainingImage ContainerEntrypoint ContainerArguments Environment ContentType Accept Image Regex "
    "KmsKeyId VolumeKmsKeyId ProfilingParameters NameContains S3Uri S3OutputPath StaticHyperParameters Value Key "
    "ModelDataUrl MetricsEndpointPath Name Values AlarmName".split()
)
STARTED = {"CreateTrainingJob", "CreateTransformJob"}
OTHERS = sorted({*members._OPERATIONS} - REQUESTS.keys())


def describe_endpoint(local, name, operation):
    """Return the description of an endpoint, whatever its status is."""
    return local._describe("Endpoint", dict(EndpointName=name))


@pytest.mark.parametrize("operation", REQUESTS)
def test_a_name_is_not_accepted(outer, operation, monkeypatch, request):
    """Each text that the API knows leads out. What is accepted is no name; the process of a job is started with it."""
    local = LocalSageMaker()
    local.create_model(**REQUESTS["CreateModel"])
    together = {}  # one request with all that is accepted, for each name
    with monkeypatch.context() as patch:
        if operation.endswith("Endpoint"):
            local.create_endpoint_config(**REQUESTS["CreateEndpointConfig"])
        if operation == "UpdateEndpoint":
            patch.setattr(hosting, "start_locked", lambda lock, *arguments: os.close(lock))
            local.create_endpoint(**REQUESTS["CreateEndpoint"])
            local.table("Endpoint").change("endpoint", lambda record: record.update(Local={}))  # as its process does
            patch.setattr(hosting.Hosting, "_updatable_endpoint", describe_endpoint)
        for path, name in accepted_texts(local, operation, patch):
            assert path[-1][0] in FREE or (path[-1][0], name) == ("ChannelName", "-rf"), (path, name)
            together[name] = changed(together.get(name, REQUESTS[operation]), path, name)
    if operation in STARTED:
        for number, name in enumerate(RUN if request.config.getoption("--long") else RUN[:1]):
            with suppress(*REFUSALS):
                getattr(local, xform_name(operation))(**renamed(together[name], operation, f"all-{number}"))
        wait_until_ended(local)


def test_a_name_of_something_that_may_exist(outer, monkeypatch):
    """The other operations find nothing by such a name."""
    local = LocalSageMaker()
    for operation in OTHERS:
        accepted = list(accepted_texts(local, operation, monkeypatch))
        assert {path[-1][0] for path, name in accepted} <= {"NameContains"}, (operation, accepted)


def test_the_command_line(outer, capsys, request):
    """A name that an argument has; files that an argument names are the user's own choice."""
    for name in NAMES if request.config.getoption("--long") else NAMES[::3]:
        for arguments in (
            ["follow", name],
            ["stop", name],
            ["run", "a/program.py", "--name", name],
            ["run", "a/program.py", f"--channel={name}=a/data", *(["--name", ".."] if name == "-rf" else [])],
            ["deploy", "a/none.tar.gz", "--name", name],
            ["invoke", name, "planted"],
            ["replay", name],
            ["list", "--contains", name],
        ):
            code = main(arguments)
            assert code or arguments[0] == "list", arguments
    assert CANARY not in str(capsys.readouterr())


# Objects in S3


class Bucket:
    """A client of S3 with one bucket, whose owner has chosen the keys: an S3 of its own has no rule for them."""

    exceptions = botocore_exceptions

    def __init__(self, keys):
        self.keys = keys

    def get_paginator(self, operation):
        return self

    def paginate(self, Bucket, Prefix):
        entries = [dict(Key=Prefix + key, Size=1) for key in self.keys]
        return [dict(Contents=entries)]

    def download_file(self, bucket, key, path):
        Path(path).write_text(key)

    def get_object(self, Bucket, Key):
        return dict(Body=io.BytesIO(json.dumps([dict(prefix="s3://bucket/data/"), *self.keys]).encode()))


@pytest.mark.parametrize("key", [*NAMES, "a/../../../planted", "a//../..//planted", "data/../../x/../planted"])
def test_keys_that_a_listing_returns(outer, key):
    storage = S3(Bucket([key]))
    for number, read in enumerate((storage.stage, storage.get, lambda *a: stage_manifest(storage, *a))):
        folder = outer / "a" / "local" / "jobs" / f"folder-{number}"
        folder.parent.mkdir(exist_ok=True)
        if read == storage.get:
            folder.mkdir()
        with suppress(ValueError, OSError):
            read("s3://bucket/data", folder)
        written = [path for path in folder.parent.rglob("*") if not path.is_dir()]
        assert all(path.resolve().is_relative_to(folder) for path in written), written
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("uri", URIS)
def test_uris_of_the_folder_that_stands_for_s3(outer, uri):
    files = Files(outer / "a" / "local" / "s3")
    upload = outer / "a" / "local" / "jobs"
    upload.mkdir()
    (upload / "file").write_text("uploaded")
    reads = [files.keys, files.measure, files.check_output]
    reads += [lambda uri: files.open(uri).read(), lambda uri: files.fetch(uri, upload / "fetched")]
    writes = [lambda uri: files.put(upload / "file", uri), files.remove]
    writes += [lambda uri: files.send({"x": b"1"}, uri), lambda uri: files.send_folder(upload, uri, io.StringIO())]
    for call in reads + writes:
        with suppress(ValueError, OSError):
            assert CANARY not in str(call(uri))


def nothing(config):
    return 0.0


def test_names_of_sweeps_and_of_models_behind_one_endpoint(outer):
    for name in NAMES:
        with suppress(ValueError):
            (key,) = model_archives({name: outer / "planted"})
            assert not {"/", "\\", "\0"} & set(key) and key != "..", name
        if name != "-rf":
            with pytest.raises(ValueError):
                Sweep(nothing, {"x": [1]}, config={"x": 1}, metric="loss", name=name, folder=outer / "a" / "sweeps")


def test_names_of_models(outer):
    """TargetModel of an endpoint with many models"""
    router = ModelRouter("s3://bucket/data", Files(outer / "a" / "local" / "s3"), outer / "a" / "local" / "endpoints")
    try:
        for name in NAMES + URIS:
            with pytest.raises((ModelMissing, OSError)):
                router.invoke(name, b"1", {})
    finally:
        router.close()


# Archives


def members_of_an_archive():
    """Yield the kind and a member, with its content, that must not be unpacked."""
    for name in NAMES[:-3]:
        yield "file", tarfile.TarInfo(name), b"written"
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        for target in ("planted", "../planted", "/planted", "x"):
            link = tarfile.TarInfo("link")
            link.type, link.linkname = kind, target
            yield "link", link, b""
    for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        device = tarfile.TarInfo("device")
        device.type, device.devmajor, device.devminor = kind, 1, 5
        yield "device", device, b""
    folder = tarfile.TarInfo("../planted-folder")
    folder.type = tarfile.DIRTYPE
    yield "folder", folder, b""


@pytest.mark.parametrize("number", range(len(list(members_of_an_archive()))))
def test_members_of_an_archive(outer, number):
    """As the model of an endpoint, as a source, and as the output of a job"""
    kind, member, content = list(members_of_an_archive())[number]
    path = outer / "a" / "local" / "s3" / "bucket" / "x.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for info, data in ((tarfile.TarInfo("x"), b"x"), (member, content), (tarfile.TarInfo("link/y"), b"y")):
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    for error, unpack in ((BundleError, extract_bundle), (SourceError, fetch_source)):
        folder = outer / "a" / "local" / "jobs" / "unpacked"
        folder.parent.mkdir(exist_ok=True)
        try:
            unpack(path, folder)
        except error:
            assert not folder.exists()
        else:
            assert kind == "file" and folder.is_dir(), member.name
            shutil.rmtree(folder)
    temporary = outer / "a" / "local" / "jobs" / "metrics"
    temporary.mkdir()
    for info, extracted in _extracted(path, temporary):
        assert extracted.resolve().is_relative_to(temporary), info


@pytest.mark.parametrize(
    "name", ["../metrics.csv", "../../events.out.tfevents.0", "/metrics.csv", "..", "a/../../metrics.csv"]
)
def test_files_with_metrics_of_an_archive(outer, name):
    path = outer / "a" / "local" / "x.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"1"))
    temporary = outer / "a" / "local" / "jobs"
    temporary.mkdir()
    for member, extracted in _extracted(path, temporary):
        assert extracted.resolve().is_relative_to(temporary), member
    path.unlink()


# HTTP

TARGETS = [
    "/../../../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/models/../../etc/passwd",
    "/models/..%2f..%2fplanted",
]
TARGETS += ["//etc/passwd", "/invocations/../planted", "/static/..\\planted", "/models/%00", "/ping/../../planted"]
TARGETS += [
    "file:///etc/passwd",
    "http://127.0.0.1/planted",
    "*",
    "/metrics/..;/planted",
    "/." + "/.." * 50 + "/etc/passwd",
]


@pytest.mark.parametrize("many", [False, True])
def test_paths_of_the_server(tmp_path, many, monkeypatch):
    (tmp_path / "planted").write_text(CANARY)
    save_model(MyCustomModel(4, 3, 2), tmp_path / "model", sample=torch.zeros(1, 4))
    if many:
        monkeypatch.setenv("SAGEMAKER_MULTI_MODEL", "true")
    port = free_port()
    with mlkit_serve(tmp_path / "model", port) as process:
        wait_until(lambda: status(port, "GET", "/ping")[0] == 200, process)
        before = snapshot(tmp_path, tmp_path / "none")
        for target in TARGETS:
            for method in ("GET", "POST", "DELETE", "PUT"):
                code, body = status(port, method, target)
                assert code in (400, 404, 405), (method, target, code)
                assert CANARY.encode() not in body and b"root:" not in body
        if many:
            for name in NAMES:
                body = json.dumps(dict(model_name=name, url=str(tmp_path / "none"))).encode()
                assert status(port, "POST", "/models", body)[0] in (400, 404)
        assert process.poll() is None
        after = snapshot(tmp_path, tmp_path / "none")
    assert after.keys() == before.keys()


def status(port, method, target, body=b""):
    """Return the status and the body of an answer to a request whose target is sent as it is; 0 if there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()
