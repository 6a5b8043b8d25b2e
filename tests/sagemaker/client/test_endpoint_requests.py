"""Nothing is lost: each field that SageMaker describes is in an update, and each field of the API can be said.

The fields come from botocore's own model of the API. SageMaker is a boto3 client whose answers are generated from it,
and whose requests boto3 validates before they would be sent.
"""

import copy
import dataclasses
import io
import itertools
import re

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError

from mlkit.sagemaker.api import service
from mlkit.sagemaker.client import endpoint_requests
from mlkit.sagemaker.client.endpoint_requests import Machines, config_request, endpoint_request, model_request
from mlkit.sagemaker.client.endpoints import Endpoint
from mlkit.sagemaker.client.options import described_request, make_options
from mlkit.sagemaker.client.target import AWSTarget, make_target
from mlkit.sagemaker.client.transforms import TransformOptions, transform
from mlkit.sagemaker.local.client import LocalSageMaker

# Fields that exclude each other: in each variation, the fields on the left are missing.
MODELS = {
    "archive": ("Containers", "ModelDataSource"),
    "folder": ("Containers", "ModelDataUrl"),
    "pipeline of archives": ("PrimaryContainer", "ModelDataSource"),
    "pipeline of folders": ("PrimaryContainer", "ModelDataUrl"),
}
MACHINES = {
    "instance": {"InstancePools", "ServerlessConfig"},
    "pools": {"InstanceType", "ServerlessConfig"},
    "serverless": {"InstanceType", "InstancePools"},
}
POLICIES = {"blue-green": {"RollingUpdatePolicy"}, "rolling": {"BlueGreenUpdatePolicy"}}
# Texts that fit the patterns of the API; the first one that fits is taken.
TEXTS = (
    *("a", "s3://b/c", "text/csv", "/metrics", "1", "mig-1g.10gb", "arn:aws:iam::123456789012:role/job"),
    "arn:aws:sns:us-east-1:123456789012:a",
    *(f"arn:aws:sagemaker:us-east-1:123456789012:{kind}/a" for kind in ("model", "endpoint-config", "endpoint")),
)


def without(model="archive", machines="instance", policy="blue-green"):
    """Return the fields that a variation leaves out, by structure."""
    container, data = MODELS[model]
    return {
        "CreateModelInput": {container},
        "DescribeModelOutput": {container},
        "ContainerDefinition": {data},
        "ProductionVariant": MACHINES[machines],
        "DeploymentConfig": POLICIES[policy],
    }


def sample(shape, missing, parents=()):
    """Return a value of a shape with every field of every structure."""
    kind = shape.type_name
    limits = shape.metadata
    if kind == "structure":
        names = [name for name in shape.members if name not in missing.get(shape.name, ())]
        return {name: sample(shape.members[name], missing) for name in names}
    if kind == "list":
        return [sample(shape.member, missing)]
    if kind == "map":
        return {"A": "1"}
    if kind == "boolean":
        return True
    if kind in ("integer", "long", "float", "double"):
        return max(limits.get("min", 1), 1)
    if kind == "timestamp":
        return "2026-01-01"
    if limits.get("enum"):
        return limits["enum"][0]
    pattern = limits.get("pattern", ".*").replace(r"\p{L}", "a-z").replace(r"\p{Z}", " ").replace(r"\p{N}", "0-9")
    return next(t for t in TEXTS if re.fullmatch(pattern, t) and len(t) >= limits.get("min", 0))


def leaves(shape, path="", structures=()):
    """Yield the path of each leaf; `[]` is an entry of a list."""
    if shape.type_name == "structure" and shape.members and shape.name not in structures:
        for name, member in shape.members.items():
            yield from leaves(member, f"{path}.{name}" if path else name, (*structures, shape.name))
    elif shape.type_name == "list" and shape.member.type_name == "structure":
        yield from leaves(shape.member, f"{path}[]", structures)
    else:
        yield path


def leaves_of(operation):
    return set(leaves(service().operation_model(operation).input_shape))


def flat(value, path=""):
    """Return the leaves of a request by their paths."""
    if isinstance(value, dict) and value:
        parts = [flat(v, f"{path}.{k}" if path else k) for k, v in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        parts = [flat(v, f"{path}[{i}]") for i, v in enumerate(value)]
    else:
        return {path: value}
    return {k: v for part in parts for k, v in part.items()}


class FakeSageMaker:
    """A boto3 session whose client answers with the descriptions of one endpoint; `requests` has what was sent."""

    region_name = "us-east-1"
    sagemaker = None  # the client, which takes some time to make
    current = None  # the instance that it belongs to now

    def __init__(self, missing):
        self.requests = {}
        self.answers = {
            name: sample(service().operation_model(name).output_shape, missing)
            for name in ("DescribeModel", "DescribeEndpointConfig", "DescribeEndpoint")
        }
        config = self.answers["DescribeEndpointConfig"]
        endpoint = self.answers["DescribeEndpoint"]
        for description in (config, endpoint):
            (variant,) = description["ProductionVariants"]
            description["ProductionVariants"] = [
                copy.deepcopy(variant) | {"VariantName": name} for name in ("first", "second")
            ]
            description["ShadowProductionVariants"][0]["VariantName"] = "shadow"
        for variant in config["ProductionVariants"] + config["ShadowProductionVariants"]:
            variant["ModelName"] = f"model-{variant['VariantName']}"
        endpoint |= {"EndpointName": "prod", "EndpointStatus": "InService", "EndpointConfigName": "prod-config"}
        endpoint.pop("FailureReason")
        tags = [{"Key": "aws:cloudformation:stack-name", "Value": "s"}, {"Key": "team", "Value": "a"}]
        self.answers["ListTags"] = {"Tags": tags}
        self.answers["ListEndpointConfigs"] = {"EndpointConfigs": []}

    def client(self, name, region_name=None):
        assert name == "sagemaker"
        FakeSageMaker.current = self
        if self.sagemaker is None:
            FakeSageMaker.sagemaker = boto3.Session("key", "secret", region_name=self.region_name).client(name)
            self.sagemaker.meta.events.register("provide-client-params", record_request)
            self.sagemaker.meta.events.register("before-call", answer_request)
        return self.sagemaker

    def created(self):
        """Return the requests of a model, a configuration and an endpoint that would be described in this way."""
        names = {"CreateModel": "DescribeModel", "CreateEndpointConfig": "DescribeEndpointConfig"}
        return {
            operation: described_request(operation, self.answers[describe]) | {"Tags": [{"Key": "team", "Value": "a"}]}
            for operation, describe in names.items()
        }


def record_request(params, model, **_):
    FakeSageMaker.current.requests[model.name] = copy.deepcopy(params)


def answer_request(model, **_):
    """Answer a request that boto3 has found valid."""
    answer = FakeSageMaker.current.answers.get(model.name, {})
    if isinstance(answer, ClientError):
        raise answer
    return AWSResponse("https://test", 200, {}, None), copy.deepcopy(answer)


@pytest.fixture
def update(monkeypatch):
    """Return a function that updates an endpoint by its name, and returns what was sent."""
    monkeypatch.setattr(AWSTarget, "bucket", "s3://bucket/mlkit")
    # the endpoint has every field of the API, more than SageMaker allows together
    monkeypatch.setattr(endpoint_requests, "_require", lambda errors, n_before=0: None)

    def run(sagemaker, bundle=None, **options):
        Endpoint.attach("prod", sagemaker).update(bundle, wait=False, out=io.StringIO(), **options)
        return sagemaker.requests

    return run


ALL_VARIATIONS = [
    *((model, "instance", "blue-green") for model in MODELS),
    *(("archive", machines, "rolling") for machines in MACHINES),
]


@pytest.mark.parametrize("variation", ALL_VARIATIONS, ids="-".join)
def test_an_update_keeps_every_field_that_is_described(variation, update):
    sagemaker = FakeSageMaker(without(*variation))
    sent = update(sagemaker, tags={"team": "b"})
    expected = sagemaker.created()
    expected["CreateModel"] |= {"ModelName": sent["CreateModel"]["ModelName"]}
    config = expected["CreateEndpointConfig"]
    config["EndpointConfigName"] = sent["CreateEndpointConfig"]["EndpointConfigName"]
    config["ProductionVariants"][0]["ModelName"] = sent["CreateModel"]["ModelName"]
    for request in expected.values():
        request["Tags"] = [{"Key": "team", "Value": "b"}]
    assert sent["CreateModel"] == expected["CreateModel"]
    assert sent["CreateEndpointConfig"] == config
    assert sent["UpdateEndpoint"] == {
        "EndpointName": "prod",
        "EndpointConfigName": config["EndpointConfigName"],
        "RetainDeploymentConfig": True,
    }
    assert sent["AddTags"]["Tags"] == [{"Key": "team", "Value": "b"}]


def test_what_only_a_description_has_is_left_out():
    left_out = {}
    for operation in ("Model", "EndpointConfig"):
        described = leaves(service().operation_model(f"Describe{operation}").output_shape)
        left_out[operation] = set(described) - leaves_of(f"Create{operation}")
    recommended = {path for path in left_out["Model"] if path.startswith("DeploymentRecommendation.")}
    assert left_out["Model"] - recommended == {"ModelArn", "CreationTime"}
    assert left_out["EndpointConfig"] == {"EndpointConfigArn", "CreationTime"}


def test_another_bundle_changes_where_the_model_is_and_nothing_else(update):
    before = FakeSageMaker(without())
    expected = flat(before.created())
    # The container is that of a bundle: no package, no folder of models.
    container = before.answers["DescribeModel"]["PrimaryContainer"]
    for name in ("ModelPackageName", "InferenceSpecificationName"):
        del container[name], expected[f"CreateModel.PrimaryContainer.{name}"]
    sent = flat(update(before, "s3://bucket/new.tar.gz"))
    changed = {path for path, value in expected.items() if sent.get(path) != value}
    assert changed == {
        "CreateModel.ModelName",
        "CreateModel.PrimaryContainer.ModelDataUrl",
        "CreateEndpointConfig.EndpointConfigName",
        "CreateEndpointConfig.ProductionVariants[0].ModelName",
    }
    assert sent["CreateModel.PrimaryContainer.ModelDataUrl"] == "s3://bucket/new.tar.gz"


def test_a_model_that_is_described_in_both_forms_is_made_in_one(update):
    """SageMaker describes an archive by ModelDataUrl and by ModelDataSource, and takes one of them."""
    sagemaker = FakeSageMaker(without("folder"))
    sagemaker.answers["DescribeModel"]["PrimaryContainer"]["ModelDataUrl"] = "s3://b/c"
    container = update(sagemaker, environment={"B": "2"})["CreateModel"]["PrimaryContainer"]
    assert container["ModelDataSource"] == sagemaker.answers["DescribeModel"]["PrimaryContainer"]["ModelDataSource"]
    assert "ModelDataUrl" not in container
    assert container["Environment"] == {"A": "1", "B": "2"}


def test_a_model_that_stays_is_not_made_again(update):
    sent = update(FakeSageMaker(without()), count=3)
    assert "CreateModel" not in sent
    first, second = sent["CreateEndpointConfig"]["ProductionVariants"]
    assert (first["ModelName"], first["InitialInstanceCount"]) == ("model-first", 3)
    assert second["InitialInstanceCount"] == 1


def test_what_was_scaled_stays_scaled(update):
    sagemaker = FakeSageMaker(without())
    first, second = sagemaker.answers["DescribeEndpoint"]["ProductionVariants"]
    first |= {"DesiredInstanceCount": 7, "DesiredWeight": 0.25}
    second["DesiredInstanceCount"] = 0  # scaled in; no configuration can begin with it
    sagemaker.answers["DescribeEndpoint"]["ShadowProductionVariants"][0]["DesiredInstanceCount"] = 5
    sagemaker.answers["DescribeEndpoint"]["DataCaptureConfig"]["CurrentSamplingPercentage"] = 42
    config = update(sagemaker)["CreateEndpointConfig"]
    first, second = config["ProductionVariants"]
    assert (first["InitialInstanceCount"], first["InitialVariantWeight"]) == (7, 0.25)
    assert second["InitialInstanceCount"] == 1
    assert config["ShadowProductionVariants"][0]["InitialInstanceCount"] == 5
    assert config["DataCaptureConfig"]["InitialSamplingPercentage"] == 42

    sagemaker = FakeSageMaker(without(machines="serverless"))
    sagemaker.answers["DescribeEndpoint"]["ProductionVariants"][0]["DesiredServerlessConfig"]["MaxConcurrency"] = 9
    variant = update(sagemaker)["CreateEndpointConfig"]["ProductionVariants"][0]
    assert variant["ServerlessConfig"]["MaxConcurrency"] == 9


def test_the_variant_that_gets_the_bundle_is_chosen_by_its_name(update):
    sagemaker = FakeSageMaker(without())
    for name in ("ModelPackageName", "InferenceSpecificationName"):
        del sagemaker.answers["DescribeModel"]["PrimaryContainer"][name]
    config = update(sagemaker, "s3://bucket/new.tar.gz", variant="shadow")["CreateEndpointConfig"]
    assert [v["ModelName"] for v in config["ProductionVariants"]] == ["model-first", "model-second"]
    assert config["ShadowProductionVariants"][0]["ModelName"] == sagemaker.requests["CreateModel"]["ModelName"]
    with pytest.raises(ValueError, match="has no variant 'shadw'; did you mean 'shadow'"):
        update(sagemaker, variant="shadw")


# A value for each option of an update that writes into a request, and what else has to be passed with it.
VALUES = {
    "instance": "ml.c5.large",
    "count": 5,
    "image": "registry.example.com/other:1",
    "private_registry": False,
    "registry_credentials": "arn:aws:lambda:us-east-1:123456789012:function:b",
    "role": "arn:aws:iam::123456789012:role/other",
    "environment": {"B": "2"},
    "tags": {"team": "b"},
    "subnets": ["subnet-2"],
    "security_groups": ["sg-2"],
    "network_isolation": False,
    "kms_key": "other-key",
    "ami": "al2-ami-sagemaker-inference-gpu-3-1",
    "startup": 900,
    "download": 900,
    "volume": 99,
    "routing": "RANDOM",
    "capture": "s3://bucket/other",
    "capture_percent": 42,
    "asynchronous": {"output": "s3://d/e"},
    "memory": 2048,
    "concurrency": 17,
    "provisioned": 3,
    "rollout": {"kind": "canary", "percent": 10, "alarms": ["errors"]},
}
# They have tests of their own.
ALONE = {"variant", "bucket", "more", "serverless", "weights", "shadow", "shadow_percent", "models"}


def test_every_option_of_an_endpoint_has_a_test():
    assert {f.name for f in dataclasses.fields(Machines)} == set(VALUES) | ALONE


@pytest.mark.parametrize("name", VALUES)
def test_an_option_changes_what_it_names_and_nothing_else(name, update):
    machines = "serverless" if name in ("memory", "concurrency", "provisioned") else "instance"
    before = flat(update(FakeSageMaker(without(machines=machines))))
    model = flat({"CreateModel": FakeSageMaker(without(machines=machines)).created()["CreateModel"]})
    after = flat(update(FakeSageMaker(without(machines=machines)), **{name: VALUES[name]}))
    before |= model
    if not any(path.startswith("CreateModel.") for path in after):  # the model stays
        after |= model
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    (option,) = (f for f in dataclasses.fields(Machines) if f.name == name)
    variant = "CreateEndpointConfig.ProductionVariants[0]."
    paths = [path.replace("ProductionVariant.", variant) for path in option.metadata["request"]]
    names = {"CreateModel.ModelName", "CreateEndpointConfig.ProductionVariants[0].ModelName"}
    names |= {"CreateEndpointConfig.EndpointConfigName", "UpdateEndpoint.EndpointConfigName"}
    if name == "rollout":
        names |= {"UpdateEndpoint.RetainDeploymentConfig"}  # the former one is not retained
    calls = {path for path in changed if path.startswith(("AddTags", "DeleteEndpoint", "ListEndpointConfigs"))}
    others = {path for path in changed - names - calls if not path.startswith(tuple(paths))}
    assert not others
    assert changed - names - calls, "the option has changed nothing"


def test_a_serverless_endpoint_becomes_machines_and_back(update):
    sent = update(FakeSageMaker(without(machines="serverless")), serverless=False, instance="ml.m5.large", count=2)
    variant = sent["CreateEndpointConfig"]["ProductionVariants"][0]
    assert "ServerlessConfig" not in variant
    assert (variant["InstanceType"], variant["InitialInstanceCount"]) == ("ml.m5.large", 2)
    sent = update(FakeSageMaker(without()), serverless=True)
    variant = sent["CreateEndpointConfig"]["ProductionVariants"][0]
    assert not {"InstanceType", "InitialInstanceCount"} & set(variant)
    assert variant["ServerlessConfig"] == {"MemorySizeInMB": 2048, "MaxConcurrency": 5}


def test_more_changes_any_field_of_an_update(update):
    sagemaker = FakeSageMaker(without())
    variants = [{"VariantName": "second", "VolumeSizeInGB": 77}]
    more = {
        "CreateEndpointConfig": {"ProductionVariants": variants, "ExplainerConfig": None},
        "CreateModel": {"InferenceExecutionConfig": None},
        "UpdateEndpoint": {"RetainDeploymentConfig": None},
    }
    sent = update(sagemaker, more=more)
    first, second = sent["CreateEndpointConfig"]["ProductionVariants"]
    assert (first["VolumeSizeInGB"], second["VolumeSizeInGB"]) == (1, 77)
    assert second["ModelName"] == "model-second"
    assert "ExplainerConfig" not in sent["CreateEndpointConfig"]
    assert "InferenceExecutionConfig" not in sent["CreateModel"]
    assert "RetainDeploymentConfig" not in sent["UpdateEndpoint"]
    with pytest.raises(ValueError, match="the update is of 'prod'"):
        update(sagemaker, more={"UpdateEndpoint": {"EndpointName": "other"}})


def test_tags_that_cannot_be_read_are_not_lost_in_silence(update):
    sagemaker = FakeSageMaker(without())
    error = {"Error": {"Code": "AccessDeniedException", "Message": "not allowed to perform sagemaker:ListTags"}}
    sagemaker.answers["ListTags"] = ClientError(error, "ListTags")
    with pytest.raises(ValueError, match="allow sagemaker:ListTags, or pass tags="):
        update(sagemaker)
    assert "CreateEndpointConfig" not in sagemaker.requests
    sent = update(sagemaker, tags={"team": "b"})
    assert sent["CreateEndpointConfig"]["Tags"] == [{"Key": "team", "Value": "b"}]


# The leaves of the API. In a few structures one field excludes another, so several requests have all of them.


@pytest.fixture
def local(tmp_path):
    return make_target(LocalSageMaker(tmp_path / "local"))


def leaves_in(value):
    return {re.sub(r"\[\d+\]", "[]", path) for path in flat(value)}


def requests_with_more(operation, target):
    """Yield the requests that `more` makes, with every field of an operation."""
    for model, machines, policy in itertools.product(MODELS, MACHINES, POLICIES):
        missing = without(model, machines, policy)
        fields = sample(service().operation_model(operation).input_shape, missing)
        removed = {name: None for name in missing["CreateModelInput"] if operation == "CreateModel"}
        if model == "folder" and operation == "CreateModel":
            fields["PrimaryContainer"] |= {"ModelDataUrl": None}
        if operation == "CreateEndpointConfig":
            for variant in fields["ProductionVariants"]:
                variant |= {"VariantName": "all"} | dict.fromkeys(MACHINES[machines])
        options = {"more": {operation: fields | removed}}
        if operation == "CreateTransformJob":
            yield transform_request(options, target)
            return
        options = make_options(Machines, options, "an endpoint")
        if operation == "CreateModel":
            yield model_request("iris", "s3://bucket/model.tar.gz", target, options)
        elif operation == "CreateEndpointConfig":
            yield config_request("iris", target, options)
        else:
            yield endpoint_request("iris", "iris", options)


def transform_request(options, target):
    from mlkit.sagemaker.client.transforms import _transform_request

    return _transform_request("rows", "m", "s3://b/rows", target, make_options(TransformOptions, options, "transform"))


# Leaves that botocore's model has, and options name: the others are `more`.
@pytest.mark.parametrize(
    "operation, number",
    [("CreateModel", 66), ("CreateEndpointConfig", 111), ("CreateEndpoint", 19), ("CreateTransformJob", 33)],
)
def test_every_leaf_of_a_request_can_be_said(operation, number, local):
    said = set().union(*(leaves_in(request) for request in requests_with_more(operation, local)))
    expected = leaves_of(operation)
    assert len(expected) >= number
    said = {path.removesuffix(".A") for path in said}  # an entry of a map
    assert expected <= said, sorted(expected - said)


@pytest.mark.parametrize("operation", ["CreateModel", "CreateEndpointConfig", "CreateEndpoint", "CreateTransformJob"])
def test_every_path_of_an_option_exists(operation):
    cls = TransformOptions if operation == "CreateTransformJob" else Machines
    paths = named_leaves(operation, cls)
    assert paths
    parts = [path.split(".") for path in leaves_of(operation)]
    structures = {".".join(names[:n]) for names in parts for n in range(1, len(names))}
    lists = {path.rpartition("[].")[0] for path in leaves_of(operation)}
    for path in paths:
        assert path in leaves_of(operation) | structures | lists, path


def named_leaves(operation, cls):
    """Return the paths of a request that options name."""
    paths = {path for f in dataclasses.fields(cls) for path in f.metadata["request"]}
    paths = {path.replace("ProductionVariant.", "CreateEndpointConfig.ProductionVariants[].") for path in paths}
    return {path.removeprefix(f"{operation}.") for path in paths if path.startswith(f"{operation}.")}


def test_a_transform_sends_key_and_tags(monkeypatch):
    monkeypatch.setattr(AWSTarget, "bucket", "s3://bucket/mlkit")
    monkeypatch.setattr(AWSTarget, "defaults", {})
    sagemaker = FakeSageMaker(without())
    options = dict(
        role="arn:aws:iam::123456789012:role/job",
        kms_key="key",
        tags={"team": "a"},
        image="registry.example.com/image:1",
    )
    transform("s3://bucket/model.tar.gz", "s3://bucket/rows", sagemaker, "rows", content_type="text/csv", **options)
    request = sagemaker.requests["CreateTransformJob"]
    assert request["TransformResources"]["VolumeKmsKeyId"] == "key"
    assert request["TransformOutput"]["KmsKeyId"] == "key"
    assert request["Tags"] == sagemaker.requests["CreateModel"]["Tags"] == [{"Key": "team", "Value": "a"}]
