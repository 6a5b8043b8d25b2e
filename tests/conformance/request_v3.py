"""Record the CreateTrainingJob requests of SDK v3's ModelTrainer: request_v3.py SOURCE DATA HYPERPARAMETERS OUT"""

import json
import sys

import boto3
from sagemaker.core.helper.session_helper import Session
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import CheckpointConfig, Compute, InputData, SourceCode
from sagemaker.train.distributed import Torchrun


class Boto(boto3.Session):
    """A boto3 session whose STS client uses AWS_ENDPOINT_URL, although the SDK passes it another endpoint."""

    def client(self, name, *args, **kwargs):
        if name == "sts":
            kwargs.pop("endpoint_url", None)
        return super().client(name, *args, **kwargs)


def train(session, name, source_code, data, hyperparameters, hosts, processes):
    """Create a training job. With torchrun the SDK sets the number of processes, else a hyperparameter does."""
    options = {}
    if name == "torchrun":
        options["distributed"] = Torchrun(process_count_per_node=processes)
    else:
        hyperparameters = hyperparameters | dict(processes=processes)
    trainer = ModelTrainer(
        training_image="123456789012.dkr.ecr.us-east-1.amazonaws.com/training:latest",
        role="arn:aws:iam::123456789012:role/job",
        sagemaker_session=session,
        base_job_name=f"{name}-{hosts}-{processes}",
        source_code=source_code,
        hyperparameters=dict(hyperparameters),
        compute=Compute(instance_type="ml.m5.large", instance_count=hosts),
        checkpoint_config=CheckpointConfig(s3_uri="s3://jobs/checkpoints"),
        **options,
    )
    trainer.train(input_data_config=[InputData(channel_name="training", data_source=data)], wait=False, logs=False)


def main(source, data, hyperparameters, out):
    hyperparameters = json.loads(hyperparameters)
    boto = Boto(region_name="us-east-1")
    requests = []

    def record(params, model, **kwargs):
        if model.name == "CreateTrainingJob":
            requests.append(json.loads(params["body"]))

    boto.events.register("before-call", record)
    session = Session(boto_session=boto, default_bucket="jobs")
    launch_paths = {
        "script": dict(entry_script="train.py"),
        "exec": dict(command="exec python train.py"),
        "torchrun": dict(entry_script="train.py"),
    }
    for name, program in launch_paths.items():
        for hosts, processes in ((1, 1), (1, 2), (2, 1)):
            source_code = SourceCode(source_dir=source, **program)
            train(session, name, source_code, data, hyperparameters, hosts, processes)
    with open(out, "w", encoding="utf-8") as f:
        json.dump(requests, f)


if __name__ == "__main__":
    main(*sys.argv[1:])
