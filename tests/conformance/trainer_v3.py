"""Compare the requests of TrainingJob with the requests of the SDK v3 ModelTrainer that it converts to.

trainer_v3.py SOURCE DATA OUT

OUT has the requests of both, and the options of TrainingJob that ModelTrainer has no place for.
"""

import dataclasses
import json
import sys
import typing

import boto3
from pydantic import BaseModel
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.shapes import RetryStrategy
from sagemaker.train import ModelTrainer

from mlkit.sagemaker.client.jobs import JobOptions, TrainingJob

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
}


class Boto(boto3.Session):
    """A boto3 session whose STS client uses AWS_ENDPOINT_URL, although the SDK passes it another endpoint."""

    def client(self, name, *args, **kwargs):
        if name == "sts":
            kwargs.pop("endpoint_url", None)
        return super().client(name, *args, **kwargs)


def missing_places():
    """Return the paths in the metadata of JobOptions that ModelTrainer does not have."""
    paths = [path for f in dataclasses.fields(JobOptions) for path in f.metadata["trainer"]]
    return [path for path in paths if not has_place(path)]


def has_place(path):
    """Return whether ModelTrainer has a field or a method for a path, such as "compute.instance_type"."""
    name, _, member = path.partition(".")
    if name == "metric_definitions":
        return hasattr(ModelTrainer, "with_metric_definitions")
    if name == "retry_strategy":
        return hasattr(ModelTrainer, "with_retry_strategy") and member in RetryStrategy.model_fields
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
    for name, options in OPTIONS.items():
        boto = Boto(region_name="us-east-1")
        job = TrainingJob(
            {"epochs": 2, "note": "plain"},
            source,
            {"training": data},
            name=f"as-trainer-{name}",
            role="arn:aws:iam::123456789012:role/job",
            **options,
        )
        requests[name] = both_requests(job, boto)
    with open(out, "w", encoding="utf-8") as f:
        json.dump(dict(missing=missing_places(), requests=requests), f)


if __name__ == "__main__":
    main(*sys.argv[1:])
