"""Send a tuning job with SDK v2's HyperparameterTuner, and record its request: tuner_v2.py SOURCE OUT"""

import json
import sys

import boto3
import sagemaker
from sagemaker.pytorch import PyTorch
from sagemaker.tuner import CategoricalParameter, ContinuousParameter, HyperparameterTuner, IntegerParameter


def main(source, out):
    boto = boto3.Session(region_name="us-east-1")
    requests = []

    def record(params, model, **kwargs):
        if model.name == "CreateHyperParameterTuningJob":
            requests.append(json.loads(params["body"]))

    boto.events.register("before-call", record)
    session = sagemaker.Session(boto_session=boto, default_bucket="jobs")
    estimator = PyTorch(
        entry_point="train.py",
        source_dir=source,
        role="arn:aws:iam::123456789012:role/job",
        sagemaker_session=session,
        instance_count=1,
        instance_type="ml.m5.large",
        image_uri="123456789012.dkr.ecr.us-east-1.amazonaws.com/training:latest",
        checkpoint_s3_uri="s3://jobs/checkpoints",
        environment={"COLOUR": "red"},
        hyperparameters=dict(epochs=2, text="a b"),
    )
    tuner = HyperparameterTuner(
        estimator,
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
        base_tuning_job_name="v2",
        random_seed=3,
        tags=[dict(Key="team", Value="a")],
    )
    tuner.fit(wait=False)
    with open(out, "w", encoding="utf-8") as f:
        json.dump(requests, f)


if __name__ == "__main__":
    main(*sys.argv[1:])
