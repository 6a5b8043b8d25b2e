"""What mlkit asks an account for: each call's operations, and the sentence for each thing that an account may lack.

moto answers over HTTP. It has no permissions, so a hook of botocore denies operations as AWS does.
"""

import io
import json
from functools import lru_cache
from itertools import product
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from mlkit.cli import main
from mlkit.model import MyCustomModel, save_model
from mlkit.notebook import launcher
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.client import account
from mlkit.sagemaker.client.deployment import deploy
from mlkit.sagemaker.client.endpoints import Endpoint
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.client.target import make_target
from mlkit.sagemaker.client.transforms import transform
from mlkit.sagemaker.images import ACCOUNTS, RELEASES, image_uri, registry

ROLE = "arn:aws:iam::123456789012:role/job"
WRITES = ("Create", "Put", "Delete", "Upload", "Complete", "Update", "Stop", "Add")


@pytest.fixture
def folder(tmp_path):
    """A folder with a program in src, a file of data in training, and a bundle."""
    for name in ("src", "training", "batch"):
        (tmp_path / name).mkdir()
    (tmp_path / "src" / "train.py").write_text('print("hello")\n')
    for name in ("training", "batch"):
        (tmp_path / name / "rows.csv").write_text("0,1,2\n1,3,4\n")
    return tmp_path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    save_model(MyCustomModel(4, 8, 2), folder / "model")
    return build_bundle(folder / "model", out=folder / "model.tar.gz").path


def refuse(session, refuses, code="AccessDenied", message="is not authorized to perform"):
    """Let a session's operations fail for which `refuses(name)` is true, as AWS lets them fail."""

    def answer(model, **_):
        if refuses(model.name):
            error = {"Code": code, "Message": f"The caller {message}: {model.name}"}
            return SimpleNamespace(status_code=403), {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 403}}

    session.events.register("before-call", answer)


def as_role(session, name):
    """Return a session with the credentials of a role, which records its calls as `session` does."""
    role = session.client("sts").assume_role(RoleArn=f"arn:aws:iam::123456789012:role/{name}", RoleSessionName="me")
    keys = role["Credentials"]
    other = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], session.region_name)
    other.calls = session.calls
    other.events.register("before-parameter-build", lambda params, model, **_: other.calls.append((model.name, params)))
    return other


def operations(session):
    """Return the names of the operations since the last call."""
    names = {name for name, _ in session.calls}
    session.calls.clear()
    return names


def writes(session):
    return [name for name, _ in session.calls if name.startswith(WRITES)]


class Allowed:
    """Denies every operation that is not allowed at the moment, and checks that all that are allowed are needed."""

    def __init__(self, session):
        self.session = session
        self.names = set()
        refuse(session, lambda name: name not in self.names)

    def __call__(self, name, function, *names):
        self.names = set(names)
        self.session.calls.clear()
        result = function()
        assert operations(self.session) == self.names, name
        return result


def test_each_call_makes_these_operations_only(session, folder, bundle, tmp_path, monkeypatch):
    """With neither role nor bucket named. No GetRole, no ListBuckets, no HeadBucket; the caller is asked for once."""
    session.client("s3").create_bucket(Bucket="data")
    session.client("s3").put_object(Bucket="data", Key="rows/a.csv", Body=b"1,2\n")
    caller = as_role(session, "Training")
    allowed = Allowed(caller)
    target = make_target(caller)
    job = TrainingJob(source=folder / "src", channels={"training": folder / "training", "more": "s3://data/rows"})
    allowed("repr", lambda: repr(job))
    request = allowed("request", lambda: job.request(target), "GetCallerIdentity", "ListObjectsV2")
    assert request["RoleArn"] == "arn:aws:iam::123456789012:role/Training"
    allowed("explain", lambda: job.explain(target), "ListObjectsV2")
    to_run = ("ListObjectsV2", "CreateBucket", "PutObject", "CreateTrainingJob")
    allowed("run", lambda: job.run(target), *to_run)
    again = job.replace()
    allowed("run, with a bucket", lambda: again.run(target), *(set(to_run) - {"CreateBucket", "PutObject"}))
    allowed("describe", job.describe, "DescribeTrainingJob")
    # What the job left in S3 is listed: a job without a model says so.
    reads = ("DescribeTrainingJob", "DescribeLogStreams", "ListObjectsV2")
    allowed("follow", lambda: job.follow(io.StringIO(), 0.1), *reads)
    allowed("logs", job.logs, "DescribeLogStreams")
    # the log has none, so files of metrics are looked for
    allowed("metrics", job.metrics, "DescribeTrainingJob", "DescribeLogStreams", "ListObjectsV2")
    allowed("attach", lambda: TrainingJob.attach(job.name, target), "DescribeTrainingJob")
    allowed(
        "request, attached", lambda: TrainingJob.attach(job.name, target).request(), "DescribeTrainingJob", "ListTags"
    )
    allowed("resume", job.resume, "DescribeTrainingJob", "CreateTrainingJob")

    to_deploy = ("ListObjectsV2", "PutObject", "CreateModel", "CreateEndpointConfig")
    to_deploy = (*to_deploy, "CreateEndpoint", "DescribeEndpoint")
    options = dict(check=False, out=io.StringIO())
    endpoint = allowed("deploy", lambda: deploy(bundle, target, "iris", wait=False, **options), *to_deploy)
    allowed("wait", lambda: endpoint.wait(io.StringIO()), "DescribeEndpoint", "ListEndpointConfigs")
    to_attach = ("DescribeEndpoint", "DescribeEndpointConfig", "DescribeModel")
    allowed("attach", lambda: Endpoint.attach("iris", target), *to_attach)
    to_delete = ("DescribeEndpoint", "ListEndpointConfigs", "DeleteEndpoint", "DescribeEndpointConfig")
    allowed("delete", endpoint.delete, *to_delete, "DeleteEndpointConfig", "DeleteModel")
    to_transform = ("ListObjectsV2", "PutObject", "CreateModel", "CreateTransformJob")
    allowed("transform", lambda: transform(bundle, folder / "batch", target, output="s3://data/out"), *to_transform)


def test_with_role_and_output_nobody_is_asked(session, folder):
    """Looking at a request then works without credentials."""
    refuse(session, lambda name: True)
    job = TrainingJob(
        source=folder / "src", channels={"training": folder / "training"}, role=ROLE, output="s3://ours/jobs"
    )
    assert job.request(session)["OutputDataConfig"]["S3OutputPath"] == "s3://ours/jobs"
    assert not operations(session)


def test_looking_never_writes(session, folder):
    """In two regions; then `run` makes the bucket of its own region, once."""
    for region in ("us-east-1", "eu-west-1"):
        here = boto3.Session(region_name=region)
        job = TrainingJob(source=folder / "src", channels={"training": folder / "training"}, role=ROLE)
        job.request(here)
        job.explain(here)
        launcher(job, session=here).show_request()
    s3 = session.client("s3")
    assert not s3.list_buckets()["Buckets"]
    for _ in range(2):
        job.replace().run(here)
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["sagemaker-eu-west-1-123456789012"]
    place = s3.get_bucket_location(Bucket="sagemaker-eu-west-1-123456789012")
    assert place["LocationConstraint"] == "eu-west-1"


def test_a_job_without_the_right_to_list_its_bucket(session, folder):
    session.client("s3").create_bucket(Bucket="sagemaker-us-east-1-123456789012")
    refuse(session, lambda name: name in ("ListObjectsV2", "HeadBucket", "ListBuckets"))
    job = TrainingJob(source=folder / "src", channels={"more": "s3://data/rows"}, role=ROLE)
    assert job.explain(session).rows[0][2:4] == [None, None]
    job.run(session)
    assert job.status == "Completed"
    job = TrainingJob(source=folder / "src", channels={"training": folder / "training"}, role=ROLE)
    session.calls.clear()
    with pytest.raises(
        PermissionError, match=r"may not list s3://.* pass its s3:// URI as the channel, or pass output="
    ):
        job.run(session)
    assert "CreateTrainingJob" not in operations(session)


def test_a_default_bucket_of_somebody_else(session, folder):
    """Its name can be guessed. AWS denies whatever names another owner than the bucket's."""
    owners = []

    def deny(params, model, context, **_):
        owner = params["headers"].get("x-amz-expected-bucket-owner")
        if owner:
            owners.append(owner)
            return refused(model)

    def refused(model):
        error = {"Code": "AccessDenied", "Message": "Access Denied"}
        return SimpleNamespace(status_code=403), {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 403}}

    session.events.register("before-call.s3", deny)
    with pytest.raises(ClientError, match="Access Denied. The option output names another place"):
        TrainingJob(source=folder / "src", role=ROLE).run(session)
    assert owners == ["123456789012"] * 2
    assert "CreateTrainingJob" not in operations(session)


def test_the_names_of_roles(session, folder):
    def role_of(caller=session, **options):
        return TrainingJob(source=folder / "src", **options).request(caller)["RoleArn"]

    assert role_of(role="MyRole") == "arn:aws:iam::123456789012:role/MyRole"
    assert role_of(role="team/MyRole") == "arn:aws:iam::123456789012:role/team/MyRole"
    console = "AmazonSageMaker-ExecutionRole-20260101T000000"
    assert role_of(as_role(session, console)) == f"arn:aws:iam::123456789012:role/service-role/{console}"
    assert role_of(None, role="MyRole") == "arn:aws:iam::000000000000:role/MyRole"


def test_the_role_of_studio(session, folder, tmp_path, monkeypatch):
    studio_role = "arn:aws:iam::123456789012:role/service-role/Studio"
    (tmp_path / "metadata.json").write_text(json.dumps({"ResourceName": "default", "ExecutionRoleArn": studio_role}))
    monkeypatch.setattr(account, "_STUDIO_FILE", tmp_path / "metadata.json")
    assert TrainingJob(source=folder / "src").request(session)["RoleArn"] == studio_role


# What an account may lack


def no_region(session, folder, patch):
    patch.setenv("AWS_CONFIG_FILE", "/dev/null")
    return boto3.Session(), {}


def unknown_region(session, folder, patch):
    return boto3.Session(region_name="eu-wset-1"), {}


def no_credentials(session, folder, patch):
    patch.delenv("AWS_ACCESS_KEY_ID")
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    return boto3.Session(region_name="us-east-1"), {}


def half_of_the_credentials(session, folder, patch):
    patch.delenv("AWS_SECRET_ACCESS_KEY")
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    return boto3.Session(region_name="us-east-1"), {}


def expired_credentials(session, folder, patch):
    refuse(session, lambda name: True, "ExpiredToken", "has a token that is expired")
    return session, {}


def expired_credentials_with_role_and_output(session, folder, patch):
    refuse(session, lambda name: True, "ExpiredToken", "has a token that is expired")
    return session, dict(role=ROLE, output="s3://ours/jobs")


def wrong_credentials(session, folder, patch):
    refuse(session, lambda name: True, "InvalidClientTokenId", "has an invalid token")
    return session, {}


def expired_login(session, folder, patch):
    """A profile of IAM Identity Center whose login is not on this machine."""
    (folder / "config").write_text(
        "[profile people]\nsso_session = us\nsso_account_id = 123456789012\nsso_role_name = Admin\nregion = us-east-1\n"
        "[sso-session us]\nsso_region = us-east-1\nsso_start_url = https://example.invalid/start\n"
    )
    patch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.delenv(name)
    patch.setenv("HOME", str(folder))
    return boto3.Session(profile_name="people"), {}


def a_user(session, folder, patch):
    return session, {}


def an_sso_role(session, folder, patch):
    return as_role(session, "AWSReservedSSO_Admin_0123456789abcdef"), {}


def arn_of_a_user(session, folder, patch):
    return session, dict(role="arn:aws:iam::123456789012:user/me")


def role_that_may_not_be_passed(session, folder, patch):
    refuse(session, lambda n: n == "CreateTrainingJob", "AccessDeniedException", "may not perform: iam:PassRole on it")
    return session, dict(role=ROLE)


def no_right_to_make_a_bucket(session, folder, patch):
    refuse(session, lambda name: name == "CreateBucket")
    return session, dict(role=ROLE)


def bucket_that_does_not_exist(session, folder, patch):
    return session, dict(role=ROLE, output="s3://nowhere/jobs")


def channel_without_objects(session, folder, patch):
    session.client("s3").create_bucket(Bucket="data")
    session.calls.clear()
    return session, dict(role=ROLE, channels={"training": "s3://data/none"})


def channel_without_objects_in_a_mode(session, folder, patch):
    return channel_without_objects(session, folder, patch)[0], dict(
        role=ROLE, channels={"training": "s3://data/none"}, input_mode="FastFile"
    )


def channel_without_bucket(session, folder, patch):
    return session, dict(role=ROLE, channels={"training": "s3://nowhere/none"})


def image_that_aws_does_not_have(session, folder, patch):
    return session, dict(role=ROLE, image="pytorch-training:7.0")


SENTENCES = {
    no_region: r"which region\? boto3 has none: pass boto3.Session\(region_name=...\), set AWS_REGION",
    unknown_region: "region 'eu-wset-1': SageMaker has no region of this name .* did you mean 'eu-west-1'",
    no_credentials: "Unable to locate credentials. Run aws configure or aws sso login, or set AWS_ACCESS_KEY_ID",
    half_of_the_credentials: "missing: AWS_SECRET_ACCESS_KEY. Set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    expired_credentials: "GetCallerIdentity. The credentials have expired: aws sso login gets new ones",
    expired_credentials_with_role_and_output: "ListObjectsV2. The credentials have expired: aws sso login gets new",
    wrong_credentials: "AWS does not accept these credentials: aws sts get-caller-identity shows whose they are",
    expired_login: "Run aws sso login, with --profile for another profile",
    a_user: r"which role should the job have\? arn:aws:sts::.* is not a role. Pass role= \(--role on the command",
    an_sso_role: r"is a role for people \(IAM Identity Center\), which SageMaker cannot assume. Pass role= \(--role",
    arn_of_a_user: "user/me is not the ARN of a role. Pass role=",
    role_that_may_not_be_passed: r"may not pass this role on; role= \(--role\) names another",
    no_right_to_make_a_bucket: r"CreateBucket. Pass output= \(--output; bucket= of deploy\) with a bucket that exists",
    bucket_that_does_not_exist: "bucket does not exist. The option output names another bucket",
    channel_without_objects: "channel 'training': no S3 objects found under s3://data/none",
    channel_without_objects_in_a_mode: "channel 'training': no S3 objects found under s3://data/none",
    channel_without_bucket: "channel 'training': there is no bucket 'nowhere' for s3://nowhere/none",
    image_that_aws_does_not_have: "AWS has no pytorch-training 7.0; the versions are 2.14",
}
AT_THE_LAST_CALL = (role_that_may_not_be_passed,)  # only SageMaker knows


@pytest.mark.parametrize("case", SENTENCES, ids=lambda case: case.__name__)
def test_a_sentence_before_anything_is_sent(session, folder, monkeypatch, case):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    target, options = case(session, folder, monkeypatch)
    with pytest.raises((ValueError, ClientError, BotoCoreError), match=SENTENCES[case]):
        TrainingJob(source=folder / "src", **options).run(target)
    if case not in AT_THE_LAST_CALL:
        assert set(writes(session)) <= {"CreateBucket"} if case is no_right_to_make_a_bucket else not writes(session)


def test_the_region_of_other_tools(session, folder, monkeypatch, capsys):
    """boto3 does not read AWS_REGION; the command line and a session without a region do."""
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_REGION", "eu-south-1")
    request = TrainingJob(source=folder / "src", role=ROLE).request(boto3.Session())
    assert request["AlgorithmSpecification"]["TrainingImage"].startswith(
        "692866216735.dkr.ecr.eu-south-1.amazonaws.com/"
    )
    assert request["OutputDataConfig"]["S3OutputPath"] == "s3://sagemaker-eu-south-1-123456789012/mlkit/jobs"
    monkeypatch.delenv("AWS_REGION")
    assert main(["list", "--target", "sagemaker"]) == 1
    assert "mlkit: which region?" in capsys.readouterr().err


# The table of images


SDK_CONFIGS = {  # by our name: name in the SDK, and the part of its file
    "pytorch-training": (("pytorch", "training"), ("pytorch-amzn2023", "training")),
    "pytorch-inference": (("pytorch", "inference"),),
    "ray-serve": (("ray-serve", None),),
}


@pytest.mark.parametrize("name", SDK_CONFIGS)
def test_images_are_those_of_the_sdk(name, monkeypatch):
    """Every release in every region, and no release of the SDK is missing."""
    image_uris = pytest.importorskip("sagemaker.core.image_uris")
    monkeypatch.setattr(image_uris, "config_for_framework", lru_cache(image_uris.config_for_framework))
    monkeypatch.setattr(image_uris.utils, "_botocore_resolver", lru_cache(image_uris.utils._botocore_resolver))
    sdk_versions = set()
    for framework, scope in SDK_CONFIGS[name]:
        config = image_uris.config_for_framework(framework)
        for version, entry in (config[scope] if scope else config)["versions"].items():
            if entry["repository"] == "sagemaker-pytorch":
                continue  # before 1.2, of other accounts
            sdk_versions.add(version)
            assert {r: a for r, a in entry["registries"].items() if ACCOUNTS[r] != a} == {}
            missing = {r for r in ACCOUNTS if r.startswith(RELEASES[name][version].missing)}
            assert missing == ACCOUNTS.keys() - entry["registries"], version
            for python, instance in product(entry.get("py_versions") or [None], ("ml.m5.large", "ml.g5.xlarge")):
                if python == "py2":
                    continue
                region = "eu-south-1" if missing else "cn-north-1"
                theirs = image_uris.retrieve(framework, region, version, python, instance, image_scope=scope)
                ours = f"{name}:{version}" + (f"-{python}" if python else "")
                assert image_uri(ours, region, instance) == theirs
    assert sdk_versions == RELEASES[name].keys()


def test_domains_are_those_of_botocore():
    session = boto3.Session()
    loader = session._session.get_component("data_loader")
    suffixes = {p["id"]: p["outputs"]["dnsSuffix"] for p in loader.load_data("partitions")["partitions"]}
    for region in ACCOUNTS:
        suffix = suffixes[session.get_partition_for_region(region)]
        assert registry(region) == f"{ACCOUNTS[region]}.dkr.ecr.{region}.{suffix}"
