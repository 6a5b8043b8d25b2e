"""Every member of every operation that LocalSageMaker has: performed, kept or refused, as its table says."""

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError

from mlkit.sagemaker.api import service
from mlkit.sagemaker.local import members
from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.sagemaker.local.runtime import LocalRuntime
from mlkit.sagemaker.local.scaling import LocalScaling
from mlkit.sagemaker.local.training_jobs import _first_description
from mlkit.sagemaker.local.tuning_plan import job_request
from mlkit.sagemaker.storage import open_files

CLIENTS = {
    "sagemaker": LocalSageMaker,
    "sagemaker-runtime": LocalRuntime,
    "application-autoscaling": LocalScaling,
}
ROLE = "arn:aws:iam::123456789012:role/job"
VARIANT = dict(VariantName="all", ModelName="iris", InstanceType="ml.m5.large", InitialInstanceCount=1)
REQUIRED = {  # what the rules about several members need in a request
    "CreateModel": dict(PrimaryContainer={}),
    "CreateEndpointConfig": dict(
        ProductionVariants=[VARIANT], ShadowProductionVariants=[VARIANT | dict(VariantName="shadow")]
    ),
    "CreateTransformJob": dict(TransformInput=dict(ContentType="text/csv")),
}


def shape_of(operation):
    api = next(api for api in CLIENTS if operation in service(api).operation_names)
    return service(api).operation_model(operation).input_shape


def leaves(shape, path=()):
    """Yield the path of each leaf of a structure; the members of a list of structures are its own."""
    for name, member in shape.members.items():
        structure = member.member if member.type_name == "list" else member
        if structure.type_name == "structure" and structure.members:
            yield from leaves(structure, (*path, name))
        else:
            yield (*path, name), member


def value_of(shape, n=0):
    """Return a value that a shape allows; `n` selects one of several."""
    if shape.type_name == "string":
        choices = shape.metadata.get("enum") or ["/opt/ml/a"]
        return choices[n % len(choices)]
    if shape.type_name == "list":
        return [value_of(shape.member, n)]
    if shape.type_name == "structure":
        return {name: value_of(member, n) for name, member in shape.members.items()}
    if shape.type_name == "map":
        return {"a": value_of(shape.value, n)}
    return {"boolean": True, "blob": b"1", "timestamp": 1.0}.get(shape.type_name, 1)


def request_with(operation, path, value):
    """Return the part of a request that has one leaf."""
    shape = shape_of(operation)
    shapes = []
    for name in path:
        shape = shape.members[name]
        shapes.append(shape)
        shape = shape.member if shape.type_name == "list" and shape.member.type_name == "structure" else shape
    for name, shape in reversed(list(zip(path, shapes, strict=True))):
        is_list = shape.type_name == "list" and not isinstance(value, list)
        value = {name: [value] if is_list else value}
    return value


def treatment_of(operation, path):
    """Return the treatment of a leaf: its own, or that of the whole structure that has it."""
    treatment = members._OPERATIONS[operation]
    for name in path:
        treatment = treatment[name]
        if not isinstance(treatment, dict):
            return treatment
    raise AssertionError(f"{operation} {path}: no treatment")


def merge(fields, more):
    """Return the members of both, at each depth; a list has one entry."""
    merged = dict(fields)
    for name, value in more.items():
        before = merged.get(name)
        if isinstance(before, dict):
            merged[name] = merge(before, value)
        elif isinstance(before, list) and before and isinstance(before[0], dict):
            merged[name] = [merge(before[0], value[0])]
        else:
            merged[name] = value
    return merged


def test_each_operation_has_a_table():
    """No operation of either client is without one, and the tables are of operations that exist."""
    operations = {
        operation
        for api, client in CLIENTS.items()
        for operation in service(api).operation_names
        if hasattr(client, xform_name(operation))
    }
    assert operations == members._OPERATIONS.keys()


@pytest.mark.parametrize("operation", members._OPERATIONS)
def test_each_leaf_is_performed_kept_or_refused(operation):
    """A request with the leaf alone is refused exactly if the table says so, and the refusal names the leaf."""
    n_leaves = 0
    for path, shape in leaves(shape_of(operation)):
        treatment = treatment_of(operation, path)
        request = merge(REQUIRED.get(operation, {}), request_with(operation, path, value_of(shape)))
        reasons = list(members.refusals(operation, request))
        n_leaves += 1
        if treatment.name == "refused":
            assert reasons and path[0] in reasons[0], (path, reasons)
        elif treatment.is_accepted(value_of(shape)):
            assert not reasons, (path, reasons)
        for n in range(len(shape.metadata.get("enum", ()))):  # each choice: performed, or refused by its value
            value = value_of(shape, n)
            request = merge(REQUIRED.get(operation, {}), request_with(operation, path, value))
            assert bool(list(members.refusals(operation, request))) == (not treatment.is_accepted(value)), (path, value)
    assert n_leaves == len(list(leaves(shape_of(operation))))


def test_a_new_member_is_refused(monkeypatch):
    """A member that botocore has and the table has not, at any depth, is refused by name."""
    table = members._OPERATIONS["CreateTrainingJob"]
    monkeypatch.delitem(table["ResourceConfig"], "VolumeSizeInGB")
    monkeypatch.delitem(table, "InfraCheckConfig")
    request = dict(InfraCheckConfig=dict(EnableInfraCheck=True), ResourceConfig=dict(VolumeSizeInGB=1))
    assert list(members.refusals("CreateTrainingJob", request)) == [
        "InfraCheckConfig: this version of mlkit does not have it in its table",
        "ResourceConfig.VolumeSizeInGB: this version of mlkit does not have it in its table",
    ]


def kept_members(operation):
    """Return a request with all leaves that are kept, and with those that they are next to."""
    request = {}
    for path, shape in leaves(shape_of(operation)):
        if treatment_of(operation, path).name == "kept":
            request = merge(request, request_with(operation, path, value_of(shape)))
    return request


def assert_shown(kept, description, path=""):
    for name, value in kept.items():
        assert name in description, f"{path}.{name}"
        if isinstance(value, dict):
            assert_shown(value, description[name], f"{path}.{name}")
        elif isinstance(value, list) and isinstance(value[0], dict):
            assert_shown(value[0], description[name][0], f"{path}.{name}")
        else:
            assert description[name] == value, f"{path}.{name}"


@pytest.fixture
def local(tmp_path):
    return LocalSageMaker(tmp_path / "local")


@pytest.fixture
def accepts_all(monkeypatch):
    """Leave out the check of botocore: the values of these tests have the right types only."""
    from mlkit.sagemaker.local import hosting

    monkeypatch.setattr(hosting, "check_local_request", lambda *arguments: None)
    # the requests have all members, more than SageMaker allows together
    monkeypatch.setattr(hosting, "_refuse", lambda *arguments: None)


@pytest.mark.parametrize("kind", ["Model", "EndpointConfig"])
def test_what_is_kept_is_described(local, accepts_all, kind):
    """A Describe operation shows each kept member again; ListTags has the tags."""
    kept = kept_members(f"Create{kind}")
    local.table("Model").add("all", dict(ModelName="all", CreationTime=members_time()))
    request = merge(kept, dict(ModelName="iris") if kind == "Model" else dict(EndpointConfigName="iris"))
    if kind == "EndpointConfig":
        for name in ("ProductionVariants", "ShadowProductionVariants"):
            request[name] = [request[name][0] | dict(VariantName=name, ModelName="all")]
        request["AsyncInferenceConfig"]["OutputConfig"]["S3OutputPath"] = "s3://bucket/out"
    arn = getattr(local, xform_name(f"Create{kind}"))(**request)[f"{kind}Arn"]
    tags = kept.pop("Tags")
    assert_shown(kept, getattr(local, xform_name(f"Describe{kind}"))(**{f"{kind}Name": "iris"}))
    assert local.list_tags(ResourceArn=arn)["Tags"] == tags


def test_what_is_kept_of_a_training_job_is_described(local):
    """All but tags and session chaining, which SageMaker does not show either."""
    kept = kept_members("CreateTrainingJob")
    preferred = dict(ResourceConfig=dict(InstancePreferences=[dict(InstanceType="ml.m5.large")]))
    record = _first_description(
        merge(merge(kept, preferred), dict(TrainingJobName="iris")), "arn:aws:sagemaker:::training-job/iris"
    )
    local.rows.add("iris", record)
    description = local.describe_training_job(TrainingJobName="iris")
    del kept["Tags"], kept["SessionChainingConfig"]
    assert_shown(kept, description)


def test_what_is_kept_of_a_tuning_job_is_described(local):
    """All but tags, from either kind of definition; the training jobs of trials get what a definition has."""
    kept = kept_members("CreateHyperParameterTuningJob")
    config = dict(
        Strategy="Random",
        HyperParameterTuningJobObjective=dict(Type="Minimize", MetricName="loss"),
        ResourceLimits=dict(MaxNumberOfTrainingJobs=1, MaxParallelTrainingJobs=1),
    )
    for member in ("TrainingJobDefinition", "TrainingJobDefinitions"):
        own = {name: value for name, value in kept.items() if name == member}
        record = own | dict(
            HyperParameterTuningJobName="iris",
            HyperParameterTuningJobConfig=config,
            HyperParameterTuningJobStatus="Completed",
            CreationTime=members_time(),
            Trials=[],
            Local={},
        )
        local.tunings.add("iris", record)
        assert_shown(own, local.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="iris"))
        local.tunings.remove("iris")
        definition = own[member][0] if isinstance(own[member], list) else own[member]
        job = job_request(record, "loss", {}, ["iris-000"])
        assert definition.keys() - {"HyperParameterTuningResourceConfig"} <= job.keys()


def test_what_is_kept_of_an_endpoint_is_described(local, accepts_all):
    """DescribeEndpoint shows what the config says of each variant, and how the endpoint was deployed."""
    kept = kept_members("CreateEndpointConfig")
    config = merge(kept, REQUIRED["CreateEndpointConfig"] | dict(EndpointConfigName="iris"))
    local.table("EndpointConfig").add("iris", config | dict(CreationTime=members_time()))
    deployment = dict(BlueGreenUpdatePolicy=dict(TerminationWaitInSeconds=1))
    local.create_endpoint(EndpointName="iris", EndpointConfigName="iris", DeploymentConfig=deployment)
    description = local.describe_endpoint(EndpointName="iris")
    assert description["LastDeploymentConfig"] == deployment
    shown = ("ManagedInstanceScaling", "RoutingConfig", "CapacityReservationConfig", "AcceleratorPartitionLayouts")
    for kind in ("ProductionVariants", "ShadowProductionVariants"):
        (variant,) = config[kind]
        assert_shown({name: variant[name] for name in shown}, description[kind][0])
    assert_shown({name: kept[name] for name in ("MetricsConfig", "CrossRegionTrafficConfig")}, description)
    assert "Tags" not in description and "Local" not in description
    local.delete_endpoint(EndpointName="iris")


def members_time():
    from mlkit.sagemaker.local.store import now

    return now()


def test_a_bucket_that_does_not_exist(session):
    """With S3 itself, an output of a bucket that does not exist is refused, and none is made."""
    session.client("s3").create_bucket(Bucket="jobs")
    files = open_files("boto3", None)
    files.client = session.client("s3")
    files.check_output("s3://jobs/output/deep")
    with pytest.raises(ValueError, match="no bucket 'none'"):
        files.check_output("s3://none/output")
    assert [bucket["Name"] for bucket in files.client.list_buckets()["Buckets"]] == ["jobs"]


def test_refusals_are_errors_of_the_api(local):
    """Several members are named at once, in an error with the code that a request with wrong values has."""
    variant = VARIANT | dict(CoreDumpConfig=dict(DestinationS3Uri="s3://bucket/dumps"))
    explainer = dict(ClarifyExplainerConfig=dict(ShapConfig=dict(ShapBaselineConfig=dict(ShapBaseline="0,0"))))
    with pytest.raises(ClientError) as error:
        local.create_endpoint_config(EndpointConfigName="iris", ProductionVariants=[variant], ExplainerConfig=explainer)
    assert error.value.response["Error"]["Code"] == "ValidationException"
    message = error.value.response["Error"]["Message"]
    assert message.startswith("not rehearsed here: ")
    assert "ProductionVariants[0].CoreDumpConfig: core dumps are not uploaded on this machine" in message
    assert "ExplainerConfig: answers are explained by SageMaker only" in message
    assert local.list_endpoint_configs()["EndpointConfigs"] == []
