"""Endpoints and batch transforms beyond a notebook.

What is sent to SageMaker's API, which moto answers over HTTP; the death of the process that created an endpoint; data
in S3.
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
from helpers import assert_types, running

from mlkit.model import MyCustomModel
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.client.deployment import deploy
from mlkit.sagemaker.client.endpoints import Endpoint
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.client.target import make_target
from mlkit.sagemaker.client.transforms import transform
from mlkit.sagemaker.local.client import LocalSageMaker

ROLE = "arn:aws:iam::123456789012:role/job"
PYTORCH_IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.6-cpu-py312"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MyCustomModel(4, 8, 2)


@pytest.fixture
def bundle(model, tmp_path):
    return build_bundle(model, out=tmp_path / "model.tar.gz", sample=torch.zeros(1, 4))


def calls(session, *operations):
    """Return the calls of some operations that a session has made: (operation, parameters)."""
    return [(operation, parameters) for operation, parameters in session.calls if operation in operations]


def wait_until_ended(text):
    while running(text):
        time.sleep(0.05)


def test_what_is_sent_to_sagemaker(session, bundle):
    endpoint = deploy(bundle, session, "iris", role=ROLE, tags={"team": "a"}, out=io.StringIO())
    (_, model), (_, config), (_, request) = calls(session, "CreateModel", "CreateEndpointConfig", "CreateEndpoint")
    tags = [dict(Key="team", Value="a")]

    assert model["ExecutionRoleArn"] == ROLE
    container = model["PrimaryContainer"]
    assert container["Image"].endswith("amazonaws.com/ray:serve-ml-sagemaker-cpu-v1.4")
    assert container["Environment"] == {}
    assert container["ModelDataUrl"].startswith("s3://sagemaker-us-east-1-123456789012/mlkit/models/")
    assert container["ModelDataUrl"].endswith("/model.tar.gz")

    assert config["Tags"] == tags
    (variant,) = config["ProductionVariants"]
    assert variant["ModelName"] == model["ModelName"]
    assert variant["InstanceType"] == "ml.m5.large"
    assert variant["InitialInstanceCount"] == 1

    assert request == dict(EndpointName="iris", EndpointConfigName=config["EndpointConfigName"], Tags=tags)
    assert len(calls(session, "PutObject", "CreateMultipartUpload")) == 1
    assert endpoint.status == "InService"


def test_a_serverless_endpoint_on_another_image(session, bundle):
    deploy(bundle, session, "iris", role=ROLE, out=io.StringIO())
    session.calls.clear()
    deploy(bundle, session, "other", role=ROLE, image=PYTORCH_IMAGE, serverless=True, memory=4096, out=io.StringIO())
    (_, model), (_, config) = calls(session, "CreateModel", "CreateEndpointConfig")
    assert model["PrimaryContainer"]["Environment"] == dict(
        SAGEMAKER_PROGRAM="inference.py", SAGEMAKER_SUBMIT_DIRECTORY="/opt/ml/model/code"
    )
    (variant,) = config["ProductionVariants"]
    assert variant["ServerlessConfig"] == dict(MemorySizeInMB=4096, MaxConcurrency=5)
    assert "InstanceType" not in variant
    assert not calls(session, "PutObject", "CreateMultipartUpload")  # S3 has the bundle already

    endpoint = Endpoint.attach("other", session)
    assert endpoint.options.serverless is True
    assert endpoint.options.memory == 4096
    assert endpoint.options.image == PYTORCH_IMAGE
    assert endpoint.options.role == ROLE

    endpoint.delete()
    deletions = [operation for operation, _ in session.calls if operation.startswith("Delete")]
    assert deletions == ["DeleteEndpoint", "DeleteEndpointConfig", "DeleteModel"]


def test_the_request_of_an_invocation(session, bundle):
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
    with pytest.raises(ValueError, match="InstanceType: 'ml.m5.lagre' is not a valid value"):
        deploy(
            build_bundle(model, out=tmp_path / "model.tar.gz"), session, role=ROLE, check=False, instance="ml.m5.lagre"
        )
    assert not calls(session, "CreateModel", "CreateEndpointConfig", "CreateEndpoint")


def test_the_log_of_an_endpoint(session, bundle):
    """The lines of all instances, in the order of their times."""
    endpoint = deploy(bundle, session, "iris", role=ROLE, check=False, out=io.StringIO())
    assert endpoint.logs() == []
    logs = session.client("logs")
    group = "/aws/sagemaker/Endpoints/iris"
    logs.create_log_group(logGroupName=group)
    now = int(time.time() * 1000)
    for instance, times in (("a", (0, 2)), ("b", (1,))):
        stream = f"all/i-{instance}"
        logs.create_log_stream(logGroupName=group, logStreamName=stream)
        events = [dict(timestamp=now + t, message=f"line {t}") for t in times]
        logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)
    assert endpoint.logs() == ["line 0", "line 1", "line 2"]


def test_the_request_of_a_transform(session, bundle, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.csv").write_text("0,0,0,0\n")
    transform(bundle, tmp_path / "rows", session, name="rows", role=ROLE, split=True, accept="text/csv")
    ((_, request),) = calls(session, "CreateTransformJob")
    assert request["TransformInput"]["SplitType"] == "Line"
    assert request["TransformInput"]["ContentType"] == "text/csv"
    assert request["TransformOutput"]["AssembleWith"] == "Line"
    assert request["BatchStrategy"] == "MultiRecord"


# The tests below run with LocalSageMaker and with boto3's client of moto: a program sees no difference, as far as moto
# is faithful.


@pytest.fixture
def resources(client):
    """A client with three models, three endpoint configs and an endpoint, and the ARNs of these by name."""
    arns = {}
    variant = dict(VariantName="all", ModelName="model-0", InstanceType="ml.m5.large", InitialInstanceCount=1)
    for i in range(3):
        container = dict(Image="image", ModelDataUrl="s3://bucket/none.tar.gz")
        response = client.create_model(ModelName=f"model-{i}", ExecutionRoleArn=ROLE, PrimaryContainer=container)
        arns[f"model-{i}"] = response["ModelArn"]
        response = client.create_endpoint_config(EndpointConfigName=f"config-{i}", ProductionVariants=[variant])
        arns[f"config-{i}"] = response["EndpointConfigArn"]
    arns["iris"] = client.create_endpoint(EndpointName="iris", EndpointConfigName="config-0")["EndpointArn"]
    return client, arns


def test_the_api_creates_and_describes_as_sagemaker_does(resources):
    client, arns = resources
    for i in range(3):
        assert arns[f"model-{i}"].startswith("arn:aws:sagemaker:us-east-1:")
        assert arns[f"model-{i}"].endswith(f":model/model-{i}")
        assert arns[f"config-{i}"].endswith(f":endpoint-config/config-{i}")
    assert arns["iris"].endswith(":endpoint/iris")

    description = client.describe_endpoint(EndpointName="iris")
    assert_types(
        description,
        EndpointName=str,
        EndpointArn=str,
        EndpointConfigName=str,
        EndpointStatus=str,
        ProductionVariants=list,
        CreationTime=datetime,
        LastModifiedTime=datetime,
    )
    assert description["ProductionVariants"][0]["VariantName"] == "all"
    config = client.describe_endpoint_config(EndpointConfigName="config-1")
    assert config["ProductionVariants"][0]["InstanceType"] == "ml.m5.large"
    model = client.describe_model(ModelName="model-1")
    assert model["PrimaryContainer"]["ModelDataUrl"] == "s3://bucket/none.tar.gz"


def test_the_api_lists_and_deletes_as_sagemaker_does(resources):
    client, _ = resources
    assert {model["ModelName"] for model in client.list_models()["Models"]} == {f"model-{i}" for i in range(3)}
    assert {endpoint["EndpointName"] for endpoint in client.list_endpoints()["Endpoints"]} == {"iris"}
    client.delete_endpoint(EndpointName="iris")
    client.delete_endpoint_config(EndpointConfigName="config-2")
    client.delete_model(ModelName="model-2")
    while client.list_endpoints()["Endpoints"]:
        time.sleep(0.05)
    for operation, request in (
        (client.describe_endpoint, dict(EndpointName="iris")),
        (client.describe_endpoint_config, dict(EndpointConfigName="config-2")),
        (client.describe_model, dict(ModelName="model-2")),
        (client.create_endpoint, dict(EndpointName="b", EndpointConfigName="none")),
    ):
        with pytest.raises(ClientError) as error_info:
            operation(**request)
        assert error_info.value.response["Error"]["Code"] == "ValidationException", error_info.value


@pytest.mark.parametrize("request_", [{}, dict(ModelName=3), dict(ModelNam="x")], ids=["missing", "type", "misspelt"])
def test_the_api_validates_as_boto3_does(client, request_):
    with pytest.raises(ParamValidationError):
        client.describe_model(**request_)


# A process that deploys an endpoint and is killed. Arguments: bundle, folder of the local SageMaker.
DEPLOY_AND_DIE = textwrap.dedent("""
    import os, signal, sys
    from mlkit.sagemaker.client.deployment import deploy
    from mlkit.sagemaker.local.client import LocalSageMaker
    deploy(sys.argv[1], LocalSageMaker(sys.argv[2]), "orphan", wait=False)
    os.kill(os.getpid(), signal.SIGKILL)
""")


def test_an_endpoint_outlives_the_process_that_created_it(bundle, tmp_path, fault):
    local = LocalSageMaker(tmp_path / "local")
    creator = subprocess.run([sys.executable, "-c", DEPLOY_AND_DIE, bundle.path, local.root])
    assert creator.returncode == -signal.SIGKILL
    with Endpoint.attach("orphan", local).wait(io.StringIO()) as endpoint:
        assert len(endpoint.invoke(torch.zeros(3, 4))) == 3
        fault("kill: the process that deployed an endpoint", 1)
    assert len(running(f"{local.root}\0folder\0orphan")) == 1
    wait_until_ended(f"{local.root}\0folder\0orphan")


def test_an_endpoint_whose_process_was_killed_reports_it(bundle, tmp_path, fault):
    local = LocalSageMaker(tmp_path / "local")
    endpoint = deploy(bundle, local, "killed", out=io.StringIO())
    for pid in running(f"{local.root}\0folder\0killed"):
        os.kill(pid, signal.SIGKILL)
    while endpoint.status == "InService":
        time.sleep(0.05)
    reason = endpoint.describe()["FailureReason"]
    assert "has died" in reason
    fault("kill: the server of an endpoint and the process that runs it", 1, said=reason)
    wait_until_ended(f"{local.root}/endpoints/killed")  # its containers end with it
    endpoint.delete()
    assert not local.list_endpoints()["Endpoints"]
    assert not local.list_models()["Models"]


@pytest.fixture
def local_with_s3(session, tmp_path, monkeypatch):
    """A local SageMaker on S3 itself, and an S3 client; `s3://data/rows` has rows of a label and two numbers."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3 = session.client("s3")
    s3.create_bucket(Bucket="data")
    rows = "\n".join(f"{i % 2},{i},{-i}" for i in range(40))
    s3.put_object(Bucket="data", Key="rows/part/rows.csv", Body=rows.encode())
    return LocalSageMaker(tmp_path / "local", s3="boto3"), s3


def test_a_job_and_an_endpoint_with_data_in_s3(local_with_s3, tmp_path):
    local, s3 = local_with_s3
    bucket = "sagemaker-us-east-1-123456789012"
    job = TrainingJob({"epochs": 2, "output_dim": 2}, channels={"training": "s3://data/rows"}, name="away")
    job = job.run(local).follow(io.StringIO())
    artifacts = job.describe()["ModelArtifacts"]["S3ModelArtifacts"]
    assert artifacts == f"s3://{bucket}/mlkit/jobs/away/output/model.tar.gz"

    keys = {s3_object["Key"] for s3_object in s3.list_objects_v2(Bucket=bucket)["Contents"]}
    assert "mlkit/jobs/away/output/model.tar.gz" in keys
    assert any(key.startswith("mlkit/jobs/away/checkpoints/") for key in keys)
    assert not (tmp_path / "local" / "s3").exists()

    with job.deploy(out=io.StringIO()) as endpoint:
        answer = endpoint.invoke([[1, -1]])[0]
    probabilities = torch.tensor(list(answer["probabilities"].values()))
    assert probabilities.allclose(job.model()(torch.tensor([[1.0, -1]])).softmax(1)[0], atol=1e-5)
    assert repr(make_target(local)) == "this machine"


def test_a_job_whose_data_are_not_in_s3(local_with_s3):
    local, _ = local_with_s3
    with pytest.raises(Exception, match="no S3 objects found under s3://data/none"):
        TrainingJob(channels={"training": "s3://data/none"}, name="missing").run(local).follow(io.StringIO())
