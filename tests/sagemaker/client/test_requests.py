"""Everything that CreateTrainingJob can say: by an option, or by `more`; and nothing of it is lost by a resume."""

import dataclasses
import json
import re

import pytest
from botocore.validate import ParamValidator

from mlkit.cli import main
from mlkit.sagemaker.api import _matches, service
from mlkit.sagemaker.client.endpoint_requests import Machines
from mlkit.sagemaker.client.job_options import JOB_ARGUMENTS
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.client.options import WORDS, merge_more, take_words
from mlkit.sagemaker.client.transforms import TransformOptions
from mlkit.sagemaker.local.client import LocalSageMaker

OPERATION = "CreateTrainingJob"
SHAPE = service().operation_model(OPERATION).input_shape
ROLE = "arn:aws:iam::123456789012:role/job"

# For patterns: the first that fits is the value of a text.
TEXTS = [
    *("a", "s3://bucket/key", ROLE, "fs-0123456789abcdef0", "aa", "2", "key-1234", "subnet-1", "ml.m5.large", "8K"),
    "123456789012.dkr.ecr.us-east-1.amazonaws.com/training:latest",
    *(
        f"arn:aws:sagemaker:us-east-1:123456789012:{resource}"
        for resource in (
            *("training-plan/reserved", "mlflow-tracking-server/runs", "mlflow-app/app-ABCDEFGHIJKL"),
            *("model-package-group/group", "model-package/group/1", "hub-content/hub/DataSet/rows/1.0.0"),
            *("hub-content/hub/Model/net/1.0.0", "hub-content/hub/JsonDoc/judge/1.0.0", "algorithm/own"),
        )
    ),
    "arn:aws:lambda:us-east-1:123456789012:function:password",
]


def leaves(shape, path=""):
    """Yield the path of each leaf and its shape; the entries of a list are []."""
    if shape.type_name == "structure" and shape.members:
        for name, member in shape.members.items():
            yield from leaves(member, f"{path}.{name}" if path else name)
    elif shape.type_name == "list" and shape.member.type_name == "structure":
        yield from leaves(shape.member, f"{path}[]")
    else:
        yield path, shape


LEAVES = dict(leaves(SHAPE))


def sample(shape):
    """Return a value that a shape allows."""
    kind = shape.type_name
    limits = shape.metadata
    if kind == "structure":
        return {name: sample(member) for name, member in shape.members.items()}
    if kind == "list":
        return [sample(shape.member)]
    if kind == "map":
        return {sample(shape.key): sample(shape.value)}
    if kind == "boolean":
        return True
    if kind in ("integer", "long"):
        return max(limits.get("min", 1), 1)
    if limits.get("enum"):
        return limits["enum"][0]
    if shape.name == "MetricRegex":
        return "(a)"
    least = limits.get("min", 0)
    fits = [t for t in TEXTS if len(t) >= least and _matches(limits.get("pattern", ".*"), t)]
    assert fits, f"add a text for {shape.name}, {limits}"
    return fits[0]


def nested(path, value):
    for name in reversed(path.split(".")):
        value = {name.removesuffix("[]"): [value] if name.endswith("[]") else value}
    return value


def paths_in(shape, value, path=""):
    """Yield the leaves that a value has."""
    if shape.type_name == "structure" and shape.members:
        for name, member in value.items():
            yield from paths_in(shape.members[name], member, f"{path}.{name}" if path else name)
    elif shape.type_name == "list" and shape.member.type_name == "structure":
        for entry in value:
            yield from paths_in(shape.member, entry, f"{path}[]")
    else:
        yield path


@pytest.fixture
def source(tmp_path):
    (tmp_path / "train.py").write_text("")
    return tmp_path / "train.py"


def test_every_leaf_can_be_said_by_more(source, tmp_path):
    """Each is in the request, and boto3 would send it."""
    request = TrainingJob(source=source, name="a").request(LocalSageMaker(tmp_path / "local"))
    for path, shape in LEAVES.items():
        fields = nested(path, sample(shape))
        if path.startswith("InputDataConfig[]"):
            fields["InputDataConfig"][0].setdefault("ChannelName", "more")
        merged = merge_more(OPERATION, request, fields)
        assert path in set(paths_in(SHAPE, merged)), path
        report = ParamValidator().validate(merged, SHAPE).generate_report().splitlines()
        assert [line for line in report if "Missing required parameter" not in line] == [], path


# All options, in requests that SageMaker takes: some exclude each other.
ALL_OPTIONS = {
    "one instance type": dict(
        entry="train.py",
        name="a",
        instance="ml.m5.large",
        hosts=2,
        processes="gpu",
        spelling="v3",
        max_run=60,
        max_pending=7200,
        volume=50,
        image="own:1",
        role=ROLE,
        output="s3://bucket/models",
        metrics=["epoch"],
        checkpoints="s3://bucket/checkpoints",
        checkpoint_path="/opt/ml/saved",
        environment={"A": "b"},
        tags={"team": "a"},
        keep_alive=60,
        retries=1,
        compress=False,
        subnets=["subnet-1"],
        security_groups=["sg-1"],
        network_isolation=True,
        encrypt_traffic=True,
        output_kms_key="key-1",
        volume_kms_key="key-2",
        registry_credentials="arn:aws:lambda:us-east-1:123456789012:function:password",
        private_registry=True,
        training_plan="arn:aws:sagemaker:us-east-1:123456789012:training-plan/reserved",
        tensorboard="s3://bucket/tensorboard",
        tensorboard_path="/opt/ml/board",
        profiler=True,
        remote_debugging=True,
        infra_check=True,
    ),
    "several instance types": dict(instance=["ml.m5.large", "ml.m5.xlarge"], kms_key="key-1", input_mode="FastFile"),
    "spot": dict(spot=True, max_wait=90000),
}
CHANNELS = {
    "rows": dict(
        location="s3://bucket/rows",
        input_mode="Pipe",
        sharded=True,
        shuffle=0,
        attributes=["a"],
        groups=["workers"],
        content_type="text/csv",
        gzip=True,
    ),
    "listed": dict(location="s3://bucket/rows", manifest=True),
    "files": dict(location="fsx://fs-0123456789abcdef0/mount/files", read_only=False),
    "models": "efs://fs-0123456789abcdef0/models",
    "set": "arn:aws:sagemaker:us-east-1:123456789012:hub-content/hub/DataSet/rows",
}


def test_the_leaves_that_have_good_names(source, tmp_path):
    """All options together write the leaves that are common; `more` is for the others."""
    local = LocalSageMaker(tmp_path / "local")
    options_used = set()
    named = set()
    for options in ALL_OPTIONS.values():
        options_used |= set(options)
        options = {"channels": CHANNELS, "source": source.parent} | options
        named |= set(paths_in(SHAPE, TrainingJob({"epochs": 1}, **options).request(local)))
    assert options_used == set(JOB_ARGUMENTS) - {"config", "source", "channels", "more"}
    assert named <= LEAVES.keys()
    assert len(named) >= 57, sorted(named)  # of 110 in botocore 1.44


# What a job is described with, in four requests: their members exclude each other.
RESOURCES = {"InstanceGroups": None, "InstancePreferences": None, "InstancePlacementConfig": None}
RESOURCES |= {"SelectedInstanceType": None, "SelectedInstanceCount": None}
PLAIN = {
    "AlgorithmSpecification": {"AlgorithmName": None},
    "EnableManagedSpotTraining": False,
    "StoppingCondition": {"MaxWaitTimeInSeconds": None},
    "ResourceConfig": RESOURCES,
    "SessionChainingConfig": None,  # the only member besides the tags that DescribeTrainingJob leaves out
}
NO_TYPE = {"InstanceType": None, "InstanceCount": None}
VARIANTS = {
    "one instance type": PLAIN,
    "groups": PLAIN | {"ResourceConfig": {k: v for k, v in RESOURCES.items() if k != "InstanceGroups"} | NO_TYPE},
    "several types": PLAIN
    | {"ResourceConfig": {k: v for k, v in RESOURCES.items() if k != "InstancePreferences"} | NO_TYPE},
    "spot": PLAIN
    | {
        "EnableManagedSpotTraining": True,
        "StoppingCondition": {},
        "ResourceConfig": RESOURCES | {"KeepAlivePeriodInSeconds": None},
    },
    "an algorithm": PLAIN | {"AlgorithmSpecification": {"TrainingImage": None}},
}


@pytest.fixture
def described(session):
    """A session of moto whose jobs are described with all that they were started with."""
    described_members = service().operation_model("DescribeTrainingJob").output_shape.members

    def complete(parsed, **_):
        requests = [p for n, p in session.calls if n == OPERATION and p["TrainingJobName"] == parsed["TrainingJobName"]]
        parsed.update({name: value for name, value in requests[-1].items() if name in described_members})

    session.events.register("after-call.sagemaker.DescribeTrainingJob", complete)
    return session


def start(session, variant):
    """Start a job that has every member, and return its request, and the job as another notebook attaches it."""
    request = merge_more(OPERATION, sample(SHAPE), VARIANTS[variant]) | {"TrainingJobName": "whole"}
    session.client("sagemaker").create_training_job(**request)
    return request, TrainingJob.attach("whole", session)


def last_request(session):
    return [params for name, params in session.calls if name == OPERATION][-1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_job_has_every_member_of_the_first(described, variant):
    request, job = start(described, variant)
    job.resume()
    assert last_request(described) == request | {"TrainingJobName": "whole-again-2"}
    assert job.request() == request


CHANGES = {
    "hyperparameters": (dict(config={"epochs": 10}), {"HyperParameters": {"epochs": "10"}}),
    "instance": (dict(instance="m5.xlarge"), {"ResourceConfig": {"InstanceType": "ml.m5.xlarge"}}),
    "several types": (
        dict(instance=["ml.m5.xlarge", "ml.m5.large"], hosts=2),
        {
            "ResourceConfig": {
                "InstanceType": None,
                "InstanceCount": None,
                "InstancePreferences": [
                    {"InstanceType": "ml.m5.xlarge", "InstanceCount": 2},
                    {"InstanceType": "ml.m5.large", "InstanceCount": 2},
                ],
            }
        },
    ),
    "time": (dict(max_runtime_in_seconds=100), {"StoppingCondition": {"MaxRuntimeInSeconds": 100}}),
    "spot": (
        dict(spot=True, keep_alive=0),
        {
            "EnableManagedSpotTraining": True,
            "StoppingCondition": {"MaxWaitTimeInSeconds": 2},
            "ResourceConfig": {"KeepAlivePeriodInSeconds": None},
        },
    ),
    "off": (
        dict(encrypt_traffic=False, retries=0, tags={}),
        {"EnableInterContainerTrafficEncryption": None, "RetryStrategy": None, "Tags": None},
    ),
    "kms": (
        dict(kms_key="key-2"),
        {"OutputDataConfig": {"KmsKeyId": "key-2"}, "ResourceConfig": {"VolumeKmsKeyId": "key-2"}},
    ),
    "environment": (dict(environment={"B": "c"}), {"Environment": {"B": "c"}}),
    "more": (dict(more={"ExperimentConfig": {"RunName": "b"}}), {"ExperimentConfig": {"RunName": "b"}}),
    "name": (dict(name="next"), {}),
}


@pytest.mark.parametrize("options, fields", CHANGES.values(), ids=CHANGES)
def test_a_resumed_job_changes_only_what_was_asked_for(described, options, fields):
    request, job = start(described, "one instance type")
    resumed = job.resume(**options)
    expected = merge_more(OPERATION, request, fields)
    assert last_request(described) == expected | {"TrainingJobName": options.get("name", "whole-again-2")}
    assert resumed.name == options.get("name", "whole-again-2")


# Parameters of Estimator, PyTorch and their fit() in SDK v2.257, and of ModelTrainer and its train() in v3.27
V2 = """
base_job_name checkpoint_local_path checkpoint_s3_uri code_location compiler_config container_arguments
container_entry_point container_log_level debugger_hook_config dependencies disable_output_compression disable_profiler
distribution enable_infra_check enable_network_isolation enable_remote_debug enable_sagemaker_metrics
enable_session_tag_chaining encrypt_inter_container_traffic entry_point environment experiment_config framework_version
git_config hyperparameters image_uri input_mode inputs instance_count instance_groups instance_placement_config
instance_type job_name keep_alive_period_in_seconds logs max_retry_attempts max_run max_wait metric_definitions
model_channel_name model_uri output_kms_key output_path profiler_config py_version recipe_overrides role rules
sagemaker_session security_group_ids source_dir subnets tags tensorboard_output_config training_plan training_recipe
training_repository_access_mode training_repository_credentials_provider_arn use_spot_instances volume_kms_key
volume_size wait
""".split()
V3 = """
algorithm_name base_job_name checkpoint_config compute config_mgr distributed dry_run environment hyperparameters
input_data_config input_s3_key_prefix local_container_root logs model_package_config networking output_data_config role
sagemaker_session source_code stopping_condition tags training_image training_image_config training_input_mode
training_mode wait
""".split()
VALUES = {
    "inputs": {"training": "s3://bucket/rows"},
    "input_data_config": [{"channel_name": "training", "data_source": "s3://bucket/rows"}],
    "compute": {"instance_type": "ml.m5.large", "instance_count": 2, "enable_managed_spot_training": True},
    "networking": {"subnets": ["subnet-1"], "security_group_ids": ["sg-1"]},
    "source_code": {"source_dir": "src", "entry_script": "train.py"},
    "stopping_condition": {"max_runtime_in_seconds": 60},
    "output_data_config": {"s3_output_path": "s3://bucket/models", "compression_type": "NONE"},
    "checkpoint_config": {"s3_uri": "s3://bucket/checkpoints"},
    "distribution": {"torch_distributed": {"enabled": True}},
    "tensorboard_output_config": {"s3_output_path": "s3://bucket/board"},
}


@pytest.mark.parametrize("name", sorted({*V2, *V3}))
def test_every_parameter_of_the_sdk_is_taken_or_answered(name):
    """What is taken has our names, and an answer names an option, a method or a place."""
    try:
        values = take_words({name: VALUES.get(name, "x")}, JOB_ARGUMENTS, "TrainingJob")
    except TypeError as e:
        assert str(e).startswith((f"TrainingJob takes no {name!r}: ", "distribution: "))
        assert re.search(r"=|\(\)|\brequirements|MLKIT|program|log|files", str(e).partition(": ")[2]), e
    else:
        assert values, name
        assert set(values) <= set(JOB_ARGUMENTS)


def test_words_name_options_that_exist():
    names = {*JOB_ARGUMENTS, "requirements", "include", "handlers", "target", "bundle", "data"}
    names |= {f.name for cls in (Machines, TransformOptions) for f in dataclasses.fields(cls)}
    for name, word in WORDS.items():
        assert set(word.options) <= names, name
        for member in (word.members or {}).values():
            assert member in names or member in WORDS, (name, member)


def test_a_job_in_the_words_of_the_sdk(source, tmp_path):
    local = LocalSageMaker(tmp_path / "local")
    theirs = TrainingJob(
        hyperparameters={"epochs": 3},
        entry_point="train.py",
        source_dir=str(source.parent),
        inputs="s3://bucket/rows",
        instance_type="m5.large",
        instance_count=2,
        use_spot_instances=True,
        max_wait=90000,
        output_path="s3://bucket/models",
        tags=[{"Key": "team", "Value": "a"}],
        disable_profiler=True,
        metric_definitions=[{"Name": "x", "Regex": "x=(.*)"}],
        job_name="a",
    )
    ours = TrainingJob(
        {"epochs": 3},
        source.parent,
        {"training": "s3://bucket/rows"},
        entry="train.py",
        hosts=2,
        spot=True,
        max_wait=90000,
        output="s3://bucket/models",
        tags={"team": "a"},
        profiler=False,
        metrics=[{"Name": "x", "Regex": "x=(.*)"}],
        name="a",
    )
    assert theirs.request(local) == ours.request(local)


SENTENCES = {
    "a user in place of a role": (dict(role="arn:aws:iam::123456789012:user/me"), "user/me is not the ARN of a role"),
    "an empty PATH": (dict(environment={"PATH": ""}), "PATH='' replaces the image's own"),
    "a PATH that refers to itself": (dict(environment={"PATH": "/own:$PATH"}), "are not expanded"),
    "processes": (dict(processes="two"), "processes='two': expected a number from 1 on, or 'gpu'"),
    "no processes": (dict(processes=0), "processes=0: expected a number"),
    "a spelling": (dict(spelling="v4"), "spelling='v4': expected 'v2' or 'v3'"),
    "a surrogate": (dict(environment={"A": "\udc80"}), "Environment.A: '\\udc80' is not text"),
    "a surrogate in a tag": (dict(tags={"a": "\udc80"}), "Tags[0].Value: '\\udc80'"),
    "an output on this machine": (dict(output="file:///tmp/x"), "output: expected s3://bucket/prefix"),
    "an output that cannot be": (dict(output="s3://my bucket/x"), "'my bucket' cannot be the name of a bucket"),
    "an output without a bucket": (dict(output="s3:///x"), "S3OutputPath"),
    "a star": (dict(channels={"a": "s3://bucket/*.csv"}), "S3 has no wildcards"),
    "a field that does not exist": (dict(more={"VpcConfg": {}}), "more: unknown field 'VpcConfg'; did you mean"),
    "a path without checkpoints": (dict(checkpoints=False, checkpoint_path="/a"), "there are no checkpoints"),
    "two machines and spot": (
        dict(instance=["ml.m5.large", "ml.m5.xlarge"], spot=True),
        "InstancePreferences: not for a spot job",
    ),
}


@pytest.mark.parametrize("options, message", SENTENCES.values(), ids=SENTENCES)
def test_what_cannot_be_is_refused_before_anything_runs(source, tmp_path, options, message):
    with pytest.raises(ValueError) as failure:
        TrainingJob(source=source, **options).request(LocalSageMaker(tmp_path / "local"))
    assert message in str(failure.value)


def test_brackets_in_names_of_objects(source, tmp_path):
    local = LocalSageMaker(tmp_path / "local")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows[1].csv").write_text("1,2\n")
    source.write_text(
        "import os\nfrom mlkit.sagemaker.job.container import Container\n"
        'print(os.listdir(Container.from_env().channel("training")))\n'
    )
    job = TrainingJob(source=source, channels={"training": tmp_path / "data"}, output="s3://out/a[1]*").run(local)
    job.follow()
    assert "['rows[1].csv']" in job.logs()
    assert job.status == "Completed"


def test_run_takes_a_file_and_flags_win(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLKIT_LOCAL", str(tmp_path / "local"))
    source.write_text("import sys\nprint(sys.argv[1:])\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("1,2\n")
    (tmp_path / "job.toml").write_text(
        """
        source = "train.py"
        name = "of-the-file"
        instance_count = 1
        tags = { team = "a" }
        [config]
        epochs = 3
        lr = 0.5
        [channels]
        training = "data"
        [more]
        ProfilerConfig = { DisableProfiler = true }
        """
    )
    flags = ["--name", "of-flags", "--more", "ProfilerConfig.S3OutputPath=s3://bucket/b", "--retries", "2", "--detach"]
    assert main(["run", "--config", str(tmp_path / "job.toml"), *flags, "--", "--epochs", "5"]) == 0
    job = TrainingJob.attach("of-flags", LocalSageMaker(tmp_path / "local")).follow()
    request = job.request()
    assert request["HyperParameters"] == {"epochs": "5", "lr": "0.5"}
    assert request["ProfilerConfig"] == {"DisableProfiler": True, "S3OutputPath": "s3://bucket/b"}
    assert (request["RetryStrategy"], request["Tags"]) == (
        {"MaximumRetryAttempts": 2},
        [{"Key": "team", "Value": "a"}],
    )
    assert [c["ChannelName"] for c in request["InputDataConfig"]] == ["code", "training"]

    other_types = {"--processes": ("gpu", "gpu"), "--checkpoints": ("False", False)}  # options that are not only text
    flags = [text for flag, (value, _) in other_types.items() for text in (flag, value)]
    assert main(["run", str(source), "--name", "other-types", "--detach", *flags]) == 0
    request = TrainingJob.attach("other-types", LocalSageMaker(tmp_path / "local")).follow().request()
    assert request["Environment"]["MLKIT_PROCESSES"] == "gpu"
    assert "CheckpointConfig" not in request

    (tmp_path / "job.json").write_text(json.dumps({"spott": True}))
    assert main(["run", "--config", str(tmp_path / "job.json")]) == 2
    assert "TrainingJob takes no 'spott'; did you mean 'spot'?" in capsys.readouterr().err
    answers = {
        "--hyperparameters": "hyperparameters go after --",
        "--framework-version": "--image is the container image",
        "--wait": "--detach returns at once",
        "--source-dir": "SOURCE is the first argument",
        "--compute": "each part is an option: ",
    }
    for flag, answer in answers.items():
        assert main(["run", flag, "x"]) == 2
        assert answer in capsys.readouterr().err
