"""Endpoints where a notebook cannot go: to SageMaker's API, which moto answers over HTTP; through the death of the
process that made them; with data in S3
"""

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import datetime

import pytest
import torch
from botocore.exceptions import ClientError, ParamValidationError

from mlkit.model import MyCustomModel
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.client.deployment import deploy
from mlkit.sagemaker.client.endpoints import Endpoint
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.client.target import make_target
from mlkit.sagemaker.client.transforms import transform
from mlkit.sagemaker.local.client import LocalSageMaker

ROLE = "arn:aws:iam::123456789012:role/job"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MyCustomModel(4, 8, 2)


@pytest.fixture
def bundle(model, tmp_path):
    return build_bundle(model, out=tmp_path / "model.tar.gz", sample=torch.zeros(1, 4))


def calls(session, *names):
    return [(n, p) for n, p in session.calls if n in names]


def test_what_is_sent_to_sagemaker(session, bundle):
    endpoint = deploy(bundle, session, "iris", role=ROLE, tags={"team": "a"}, out=io.StringIO())
    (_, model), (_, config), (_, made) = calls(session, "CreateModel", "CreateEndpointConfig", "CreateEndpoint")
    container = model["PrimaryContainer"]
    assert (
        container["Image"].endswith("amazonaws.com/ray:serve-ml-sagemaker-cpu-v1.4")
        and container["Environment"] == {}
        and model["ExecutionRoleArn"] == ROLE
    )
    assert container["ModelDataUrl"].startswith("s3://sagemaker-us-east-1-123456789012/mlkit/models/") and container[
        "ModelDataUrl"
    ].endswith("/model.tar.gz")
    (variant,) = config["ProductionVariants"]
    assert (variant["ModelName"], variant["InstanceType"], variant["InitialInstanceCount"]) == (
        model["ModelName"],
        "ml.m5.large",
        1,
    )
    assert (
        made
        == dict(
            EndpointName="iris", EndpointConfigName=config["EndpointConfigName"], Tags=[dict(Key="team", Value="a")]
        )
        and config["Tags"] == made["Tags"]
    )
    assert len(calls(session, "PutObject", "CreateMultipartUpload")) == 1 and endpoint.status == "InService"
    session.calls.clear()
    image = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6-cpu-py312"
    deploy(bundle, session, "other", role=ROLE, image=image, serverless=True, memory=4096, out=io.StringIO())
    (_, model), (_, config) = calls(session, "CreateModel", "CreateEndpointConfig")
    assert model["PrimaryContainer"]["Environment"] == dict(
        SAGEMAKER_PROGRAM="inference.py", SAGEMAKER_SUBMIT_DIRECTORY="/opt/ml/model/code"
    )
    assert (
        config["ProductionVariants"][0]["ServerlessConfig"] == dict(MemorySizeInMB=4096, MaxConcurrency=5)
        and "InstanceType" not in config["ProductionVariants"][0]
    )
    assert not calls(session, "PutObject", "CreateMultipartUpload")  # it is there
    attached = Endpoint.attach("other", session)
    assert (attached.options.serverless, attached.options.memory, attached.options.image, attached.options.role) == (
        True,
        4096,
        image,
        ROLE,
    )
    attached.delete()
    assert [n for n, _ in session.calls if n.startswith("Delete")] == [
        "DeleteEndpoint",
        "DeleteEndpointConfig",
        "DeleteModel",
    ]


def test_what_an_endpoint_is_asked(session, bundle):
    endpoint = deploy(bundle, session, "iris", role=ROLE, check=False, out=io.StringIO())
    session.calls.clear()
    endpoint.invoke(torch.zeros(1, 2), accept="text/csv", CustomAttributes="x")
    assert session.calls[-1] == (
        "InvokeEndpoint",
        dict(
            EndpointName="iris",
            Body=b"[[0.0,0.0]]",
            ContentType="application/json",
            Accept="text/csv",
            CustomAttributes="x",
        ),
    )


def test_a_bundle_that_cannot_work_is_not_sent(session, model, tmp_path):
    (tmp_path / "wrong.py").write_text('def predict_fn(data, model): return model(data)["scores"]\n')
    with pytest.raises(ValueError, match="would not work behind an endpoint"):
        deploy(
            build_bundle(model, tmp_path / "wrong.py", out=tmp_path / "wrong.tar.gz", sample=torch.zeros(1, 4)),
            session,
            role=ROLE,
        )
    with pytest.raises(ValueError, match="which role"):
        deploy(build_bundle(model, out=tmp_path / "model.tar.gz"), session, check=False)
    with pytest.raises(ValueError, match="InstanceType: 'ml.m5.lagre' is no choice"):
        deploy(
            build_bundle(model, out=tmp_path / "model.tar.gz"), session, role=ROLE, check=False, instance="ml.m5.lagre"
        )
    assert not calls(session, "CreateModel", "CreateEndpointConfig", "CreateEndpoint")


def test_the_log_of_an_endpoint(session, bundle):
    endpoint = deploy(bundle, session, "iris", role=ROLE, check=False, out=io.StringIO())
    assert endpoint.logs() == []
    logs = session.client("logs")
    group = "/aws/sagemaker/Endpoints/iris"
    logs.create_log_group(logGroupName=group)
    now = int(time.time() * 1000)
    for machine, times in (("a", (0, 2)), ("b", (1,))):
        logs.create_log_stream(logGroupName=group, logStreamName=f"all/i-{machine}")
        logs.put_log_events(
            logGroupName=group,
            logStreamName=f"all/i-{machine}",
            logEvents=[dict(timestamp=now + t, message=f"line {t}") for t in times],
        )
    assert endpoint.logs() == ["line 0", "line 1", "line 2"]


def test_a_transform_is_sent(session, bundle, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.csv").write_text("0,0,0,0\n")
    transform(bundle, tmp_path / "rows", session, name="rows", role=ROLE, split=True, accept="text/csv")
    ((_, asked),) = calls(session, "CreateTransformJob")
    assert (
        asked["TransformInput"]["SplitType"],
        asked["TransformInput"]["ContentType"],
        asked["TransformOutput"]["AssembleWith"],
        asked["BatchStrategy"],
    ) == ("Line", "text/csv", "Line", "MultiRecord")


def test_the_api_is_the_same(client):
    """What a program sees that asks LocalSageMaker, and one that asks moto with boto3; where moto is faithful"""
    variant = dict(VariantName="all", ModelName="model-0", InstanceType="ml.m5.large", InitialInstanceCount=1)
    for i in range(3):
        arn = client.create_model(
            ModelName=f"model-{i}",
            ExecutionRoleArn=ROLE,
            PrimaryContainer=dict(Image="image", ModelDataUrl="s3://bucket/none.tar.gz"),
        )["ModelArn"]
        assert arn.startswith("arn:aws:sagemaker:us-east-1:") and arn.endswith(f":model/model-{i}")
        assert client.create_endpoint_config(EndpointConfigName=f"config-{i}", ProductionVariants=[variant])[
            "EndpointConfigArn"
        ].endswith(f":endpoint-config/config-{i}")
    assert client.create_endpoint(EndpointName="iris", EndpointConfigName="config-0")["EndpointArn"].endswith(
        ":endpoint/iris"
    )
    about = client.describe_endpoint(EndpointName="iris")
    for key, kind in dict(
        EndpointName=str,
        EndpointArn=str,
        EndpointConfigName=str,
        EndpointStatus=str,
        ProductionVariants=list,
        CreationTime=datetime,
        LastModifiedTime=datetime,
    ).items():
        assert isinstance(about[key], kind), key
    assert about["ProductionVariants"][0]["VariantName"] == "all"
    assert (
        client.describe_endpoint_config(EndpointConfigName="config-1")["ProductionVariants"][0]["InstanceType"]
        == "ml.m5.large"
    )
    assert client.describe_model(ModelName="model-1")["PrimaryContainer"]["ModelDataUrl"] == "s3://bucket/none.tar.gz"
    assert {m["ModelName"] for m in client.list_models()["Models"]} == {f"model-{i}" for i in range(3)}
    assert {e["EndpointName"] for e in client.list_endpoints()["Endpoints"]} == {"iris"}
    client.delete_endpoint(EndpointName="iris")
    client.delete_endpoint_config(EndpointConfigName="config-2")
    client.delete_model(ModelName="model-2")
    while client.list_endpoints()["Endpoints"]:
        time.sleep(0.05)
    for call, wrong in (
        (client.describe_endpoint, dict(EndpointName="iris")),
        (client.describe_endpoint_config, dict(EndpointConfigName="config-2")),
        (client.describe_model, dict(ModelName="model-2")),
        (client.create_endpoint, dict(EndpointName="b", EndpointConfigName="none")),
    ):
        with pytest.raises(ClientError) as failed:
            call(**wrong)
        assert failed.value.response["Error"]["Code"] == "ValidationException", failed.value
    for wrong in ({}, dict(ModelName=3), dict(ModelNam="x")):
        with pytest.raises(ParamValidationError):
            client.describe_model(**wrong)


STARTER = textwrap.dedent("""
    import os, signal, sys
    from mlkit.sagemaker.client.deployment import deploy
    from mlkit.sagemaker.local.client import LocalSageMaker
    deploy(sys.argv[1], LocalSageMaker(sys.argv[2]), 'orphan', wait=False)
    os.kill(os.getpid(), signal.SIGKILL)
""")


def test_an_endpoint_outlives_the_process_that_made_it(bundle, tmp_path):
    local = LocalSageMaker(tmp_path / "local")
    assert subprocess.run([sys.executable, "-c", STARTER, bundle.path, local.root]).returncode == -signal.SIGKILL
    with Endpoint.attach("orphan", local).wait(io.StringIO()) as endpoint:
        assert len(endpoint.invoke(torch.zeros(3, 4))) == 3
    (runner,) = running(f"{local.root}\0folder\0orphan")
    while running(f"{local.root}\0folder\0orphan"):
        time.sleep(0.05)


def test_an_endpoint_whose_process_was_killed_says_so(bundle, tmp_path):
    local = LocalSageMaker(tmp_path / "local")
    endpoint = deploy(bundle, local, "killed", out=io.StringIO())
    for pid in running(f"{local.root}\0folder\0killed"):
        os.kill(pid, signal.SIGKILL)
    while endpoint.status == "InService":
        time.sleep(0.05)
    assert "is gone" in endpoint.describe()["FailureReason"]
    while running(f"{local.root}/endpoints/killed"):
        time.sleep(0.05)  # its containers end with it
    endpoint.delete()
    assert not local.list_endpoints()["Endpoints"] and not local.list_models()["Models"]


def running(text):
    """The processes with a text in their command"""

    def command(pid):
        try:
            with open(f"/proc/{pid}/cmdline") as f:
                return f.read()
        except OSError:
            return ""

    return [int(p) for p in os.listdir("/proc") if p.isdigit() and text in command(p)]


def test_a_job_and_an_endpoint_with_data_in_s3(session, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3 = session.client("s3")
    s3.create_bucket(Bucket="data")
    s3.put_object(
        Bucket="data", Key="rows/part/rows.csv", Body="\n".join(f"{i % 2},{i},{-i}" for i in range(40)).encode()
    )
    local = LocalSageMaker(tmp_path / "local", s3="boto3")
    job = (
        TrainingJob({"epochs": 2, "output_dim": 2}, channels={"training": "s3://data/rows"}, name="away")
        .run(local)
        .follow(io.StringIO())
    )
    assert (
        job.describe()["ModelArtifacts"]["S3ModelArtifacts"]
        == "s3://sagemaker-us-east-1-123456789012/mlkit/jobs/away/output/model.tar.gz"
    )
    keys = {o["Key"] for o in s3.list_objects_v2(Bucket="sagemaker-us-east-1-123456789012")["Contents"]}
    assert (
        "mlkit/jobs/away/output/model.tar.gz" in keys
        and any(k.startswith("mlkit/jobs/away/checkpoints/") for k in keys)
        and not (tmp_path / "local" / "s3").exists()
    )
    with job.deploy(out=io.StringIO()) as endpoint:
        assert torch.tensor(endpoint.invoke([[1, -1]])).allclose(job.model()(torch.tensor([[1.0, -1]])), atol=1e-5)
    with pytest.raises(Exception, match="no S3 objects found under s3://data/none"):
        TrainingJob(channels={"training": "s3://data/none"}, name="missing").run(local).follow(io.StringIO())
    assert repr(make_target(local)) == "this machine"
