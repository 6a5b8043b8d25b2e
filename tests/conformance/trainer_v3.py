"""Compare the requests of TrainingJob with the requests of the SDK v3 ModelTrainer that it converts to.

trainer_v3.py SOURCE DATA OUT

OUT has the requests of both, and the options of TrainingJob that ModelTrainer has no place for.
"""

import json
import sys
import typing

import boto3
from pydantic import BaseModel
from sagemaker.core.helper.session_helper import Session
from sagemaker.train import ModelTrainer

from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.client.model_trainer import TRAINER_FIELDS, TRAINER_METHODS

OPTIONS = {
    "plain": dict(
        spot=True,
        max_run=600,
        tags={"team": "a"},
        retries=2,
        subnets=["subnet-1"],
        security_groups=["sg-1"],
        network_isolation=True,
        environment={"GREETING": "hello"},
    ),
    "warm": dict(
        instance="ml.m5.xlarge",
        hosts=2,
        keep_alive=60,
        volume=50,
        kms_key="key",
        image="123456789012.dkr.ecr.us-east-1.amazonaws.com/own:1",
        output="s3://jobs/models",
        checkpoints="s3://jobs/checkpoints",
        metrics=["epoch", dict(Name="x", Regex="x=(.*)")],
    ),
    "rare": dict(
        instance=["ml.m5.xlarge", "ml.m5.large"],
        input_mode="FastFile",
        channels={
            "training": dict(location="s3://jobs/rows", sharded=True, shuffle=3),
            "files": "fsx://fs-0123456789abcdef0/mount/files",
        },
        max_pending=7200,
        encrypt_traffic=True,
        checkpoint_path="/opt/ml/saved",
        compress=False,
        volume_kms_key="key",
        private_registry=True,
        tensorboard="s3://jobs/tensorboard",
        remote_debugging=True,
        infra_check=True,
        more={
            "SessionChainingConfig": {"EnableSessionTagChaining": True},
            "AlgorithmSpecification": {"TrainingInputMode": "FastFile"},
        },
    ),
}


class Boto(boto3.Session):
    """A boto3 session whose STS client uses AWS_ENDPOINT_URL, although the SDK passes it another endpoint."""

    def client(self, name, *args, **kwargs):
        if name == "sts":
            kwargs.pop("endpoint_url", None)
        return super().client(name, *args, **kwargs)


def missing_places():
    """Return the places in mlkit's table of ModelTrainer's fields and methods that ModelTrainer does not have."""
    return [path for path in TRAINER_FIELDS.values() if not has_field(path)] + [
        method for method in TRAINER_METHODS.values() if not hasattr(ModelTrainer, method)
    ]


def has_field(path):
    """Return whether ModelTrainer has a field for a path, such as "compute.instance_type"."""
    name, _, member = path.partition(".")
    if name not in ModelTrainer.model_fields:
        return False
    types = typing.get_args(ModelTrainer.model_fields[name].annotation)
    models = [t for t in types if isinstance(t, type) and issubclass(t, BaseModel)]
    return not member or any(member in model.model_fields for model in models)


def both_requests(job, boto):
    """Return the request of a TrainingJob, and the one that the SDK's trainer sends for it."""
    requests = []

    def record(params, model, **kwargs):
        if model.name == "CreateTrainingJob":
            requests.append(json.loads(params["body"]))

    trainer = job.to_model_trainer(Session(boto_session=boto, default_bucket="jobs"))
    boto.events.register("before-call", record)
    trainer.train(wait=False, logs=False)
    boto.events.unregister("before-call", record)
    return dict(ours=job.request(boto), sdks=requests[0])


def main(source, data, out):
    requests = {}
    s3 = Boto(region_name="us-east-1").client("s3")
    for bucket in ("jobs", "sagemaker-us-east-1-123456789012"):  # the second is the account's, for the output
        s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket="jobs", Key="rows/a.csv", Body=b"1,2\n")
    for name, options in OPTIONS.items():
        boto = Boto(region_name="us-east-1")
        arguments = {"channels": {"training": data}} | options
        role = "arn:aws:iam::123456789012:role/job"
        job = TrainingJob({"epochs": 2, "note": "plain"}, source, name=f"as-trainer-{name}", role=role, **arguments)
        requests[name] = both_requests(job, boto)
    with open(out, "w", encoding="utf-8") as f:
        json.dump(dict(missing=missing_places(), requests=requests), f)


if __name__ == "__main__":
    main(*sys.argv[1:])
