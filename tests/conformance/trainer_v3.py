"""A TrainingJob as SDK v3's ModelTrainer, and what that asks for: SOURCE DATA OUT"""

import json
import sys

import boto3
from sagemaker.core.helper.session_helper import Session

from mlkit.sagemaker.client.jobs import TrainingJob

source, data, out = sys.argv[1:]


class Boto(boto3.Session):
    """The SDK asks STS at an address of its own, which would win over AWS_ENDPOINT_URL"""

    def client(self, name, *args, **kwargs):
        if name == "sts":
            kwargs.pop("endpoint_url", None)
        return super().client(name, *args, **kwargs)


boto = Boto(region_name="us-east-1")
job = TrainingJob(
    {"epochs": 2, "note": "plain"},
    source,
    {"training": data},
    name="as-trainer",
    role="arn:aws:iam::123456789012:role/job",
    spot=True,
    max_run=600,
    tags={"team": "a"},
    retries=2,
    subnets=["subnet-1"],
    security_groups=["sg-1"],
    network_isolation=True,
    environment={"GREETING": "hello"},
)
trainer = job.to_model_trainer(Session(boto_session=boto, default_bucket="jobs"))
asked = []


def hear(params, model, **kwargs):
    if model.name == "CreateTrainingJob":
        asked.append(json.loads(params["body"]))


boto.events.register("before-call", hear)
trainer.train(wait=False, logs=False)
with open(out, "w", encoding="utf-8") as f:
    json.dump(dict(own=job.request(boto), sdk=asked[0]), f)
