"""Record the CreateTrainingJob requests of SDK v2's PyTorch estimator, and of boto3 without an SDK.

request_v2.py SOURCE DATA HYPERPARAMETERS OUT
"""

import json
import sys

import boto3
import sagemaker
from sagemaker.pytorch import PyTorch

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/training:latest"
ROLE = "arn:aws:iam::123456789012:role/job"


def train_with_estimator(session, source, data_uri, hyperparameters, hosts, processes):
    estimator = PyTorch(
        entry_point="train.py",
        source_dir=source,
        role=ROLE,
        sagemaker_session=session,
        instance_count=hosts,
        instance_type="ml.m5.large",
        image_uri=IMAGE,
        base_job_name=f"estimator-{hosts}-{processes}",
        checkpoint_s3_uri="s3://jobs/checkpoints",
        hyperparameters=hyperparameters | dict(processes=processes),
    )
    estimator.fit({"training": data_uri}, wait=False)


def s3_channel(name, uri):
    source = dict(S3DataType="S3Prefix", S3Uri=uri, S3DataDistributionType="FullyReplicated")
    return dict(ChannelName=name, DataSource=dict(S3DataSource=source))


def train_with_boto3(client, data_uri, code_uri, hyperparameters, hosts, processes):
    values = hyperparameters | dict(processes=processes)
    client.create_training_job(
        TrainingJobName=f"bare-{hosts}-{processes}",
        RoleArn=ROLE,
        AlgorithmSpecification=dict(
            TrainingImage=IMAGE,
            TrainingInputMode="File",
            ContainerEntrypoint=["python", "/opt/ml/input/data/code/train.py"],
        ),
        InputDataConfig=[s3_channel("training", data_uri), s3_channel("code", code_uri)],
        OutputDataConfig=dict(S3OutputPath="s3://jobs/output"),
        CheckpointConfig=dict(S3Uri="s3://jobs/checkpoints"),
        ResourceConfig=dict(InstanceType="ml.m5.large", InstanceCount=hosts, VolumeSizeInGB=10),
        StoppingCondition=dict(MaxRuntimeInSeconds=3600),
        HyperParameters={k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()},
    )


def main(source, data, hyperparameters, out):
    hyperparameters = json.loads(hyperparameters)
    boto = boto3.Session(region_name="us-east-1")
    requests = []

    def record(params, model, **kwargs):
        if model.name == "CreateTrainingJob":
            requests.append(json.loads(params["body"]))

    boto.events.register("before-call", record)
    boto.client("s3").create_bucket(Bucket="jobs")
    session = sagemaker.Session(boto_session=boto, default_bucket="jobs")
    data_uri = session.upload_data(data, "jobs", "data/training")
    for hosts, processes in ((1, 1), (1, 2), (2, 1)):
        train_with_estimator(session, source, data_uri, hyperparameters, hosts, processes)
    client = boto.client("sagemaker")
    code_uri = session.upload_data(source, "jobs", "code")
    for hosts, processes in ((1, 1), (1, 2), (2, 1)):
        train_with_boto3(client, data_uri, code_uri, hyperparameters, hosts, processes)
    with open(out, "w", encoding="utf-8") as f:
        json.dump(requests, f)


if __name__ == "__main__":
    main(*sys.argv[1:])
