"""Send a tuning job with SDK v3's HyperparameterTuner, and record its request: tuner_v3.py SOURCE OUT"""

import json
import sys

import boto3
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.parameter import CategoricalParameter, ContinuousParameter, IntegerParameter
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import CheckpointConfig, Compute, SourceCode
from sagemaker.train.tuner import HyperparameterTuner


class Boto(boto3.Session):
    """A boto3 session whose STS client uses AWS_ENDPOINT_URL, although the SDK passes it another endpoint."""

    def client(self, name, *args, **kwargs):
        if name == "sts":
            kwargs.pop("endpoint_url", None)
        return super().client(name, *args, **kwargs)


class Recorded(Exception):
    """The request has been recorded; there is no need to send it."""


def main(source, out):
    boto = Boto(region_name="us-east-1")

    def record(params, model, **kwargs):
        if model.name == "CreateHyperParameterTuningJob":
            with open(out, "w", encoding="utf-8") as f:
                json.dump([json.loads(params["body"])], f)
            raise Recorded

    boto.events.register("before-call", record)
    boto3.Session = boto3.session.Session = Boto
    trainer = ModelTrainer(
        training_image="123456789012.dkr.ecr.us-east-1.amazonaws.com/training:latest",
        role="arn:aws:iam::123456789012:role/job",
        sagemaker_session=Session(boto_session=boto, default_bucket="jobs"),
        base_job_name="v3",
        source_code=SourceCode(source_dir=source, entry_script="train.py"),
        hyperparameters=dict(epochs=2, text="a b"),
        environment={"COLOUR": "red"},
        compute=Compute(instance_type="ml.m5.large", instance_count=1),
        checkpoint_config=CheckpointConfig(s3_uri="s3://jobs/checkpoints"),
    )
    tuner = HyperparameterTuner(
        trainer,
        "valid_loss",
        dict(
            lr=ContinuousParameter(0.001, 0.1, scaling_type="Logarithmic"),
            width=IntegerParameter(4, 8),
            optimizer=CategoricalParameter(["adam", "sgd"]),
        ),
        metric_definitions=[dict(Name="valid_loss", Regex="valid_loss=([0-9.]+)")],
        objective_type="Minimize",
        strategy="Random",
        max_jobs=3,
        max_parallel_jobs=2,
        early_stopping_type="Auto",
        base_tuning_job_name="v3",
        random_seed=3,
        tags=[dict(Key="team", Value="a")],
    )
    try:
        tuner.tune(wait=False)
    except Recorded:
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
