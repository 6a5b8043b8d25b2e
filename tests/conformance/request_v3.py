"""Jobs as SDK v3's ModelTrainer asks for them: SOURCE DATA HYPERPARAMETERS OUT"""

import json
import sys

import boto3
from sagemaker.core.helper.session_helper import Session
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import CheckpointConfig, Compute, InputData, SourceCode
from sagemaker.train.distributed import Torchrun

source, data, hyperparameters, out = sys.argv[1:]
hyperparameters = json.loads(hyperparameters)


class Boto(boto3.Session):
    """The SDK asks STS at an address of its own, which would win over AWS_ENDPOINT_URL"""

    def client(self, name, *args, **kwargs):
        if name == "sts":
            kwargs.pop("endpoint_url", None)
        return super().client(name, *args, **kwargs)


boto = Boto(region_name="us-east-1")
asked = []


def hear(params, model, **kwargs):
    if model.name == "CreateTrainingJob":
        asked.append(json.loads(params["body"]))


boto.events.register("before-call", hear)
session = Session(boto_session=boto, default_bucket="jobs")
for name, code in (
    ("script", dict(entry_script="train.py")),
    ("exec", dict(command="exec python train.py")),
    ("torchrun", dict(entry_script="train.py")),
):
    for count, processes in ((1, 1), (1, 2), (2, 1)):
        given = hyperparameters | (dict(processes=processes) if name != "torchrun" else {})
        more = dict(distributed=Torchrun(process_count_per_node=processes)) if name == "torchrun" else {}
        trainer = ModelTrainer(
            training_image="123456789012.dkr.ecr.us-east-1.amazonaws.com/training:latest",
            role="arn:aws:iam::123456789012:role/job",
            sagemaker_session=session,
            base_job_name=f"{name}-{count}-{processes}",
            source_code=SourceCode(source_dir=source, **code),
            hyperparameters=given,
            compute=Compute(instance_type="ml.m5.large", instance_count=count),
            checkpoint_config=CheckpointConfig(s3_uri="s3://jobs/checkpoints"),
            **more,
        )
        trainer.train(input_data_config=[InputData(channel_name="training", data_source=data)], wait=False, logs=False)

with open(out, "w", encoding="utf-8") as f:
    json.dump(asked, f)
