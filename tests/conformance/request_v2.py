"""Jobs as SDK v2's PyTorch estimator asks for them, and bare requests by boto3: SOURCE DATA HYPERPARAMETERS OUT"""

import json
import sys

import boto3
import sagemaker
from sagemaker.pytorch import PyTorch

source, data, hyperparameters, out = sys.argv[1:]
hyperparameters = json.loads(hyperparameters)
boto = boto3.Session(region_name="us-east-1")
asked = []


def hear(params, model, **kwargs):
    if model.name == "CreateTrainingJob":
        asked.append(json.loads(params["body"]))


boto.events.register("before-call", hear)
boto.client("s3").create_bucket(Bucket="jobs")
session = sagemaker.Session(boto_session=boto, default_bucket="jobs")
channel = session.upload_data(data, "jobs", "data/training")
for count, processes in ((1, 1), (1, 2), (2, 1)):
    estimator = PyTorch(
        entry_point="train.py",
        source_dir=source,
        role="arn:aws:iam::123456789012:role/job",
        sagemaker_session=session,
        instance_count=count,
        instance_type="ml.m5.large",
        image_uri="123456789012.dkr.ecr.us-east-1.amazonaws.com/training:latest",
        base_job_name=f"estimator-{count}-{processes}",
        checkpoint_s3_uri="s3://jobs/checkpoints",
        hyperparameters=hyperparameters | dict(processes=processes),
    )
    estimator.fit({"training": channel}, wait=False)

sagemaker_client = boto.client("sagemaker")
for count, processes in ((1, 1), (1, 2), (2, 1)):
    sagemaker_client.create_training_job(
        TrainingJobName=f"bare-{count}-{processes}",
        RoleArn="arn:aws:iam::123456789012:role/job",
        AlgorithmSpecification=dict(
            TrainingImage="123456789012.dkr.ecr.us-east-1.amazonaws.com/training:latest",
            TrainingInputMode="File",
            ContainerEntrypoint=["python", "/opt/ml/input/data/code/train.py"],
        ),
        InputDataConfig=[
            dict(
                ChannelName=n,
                DataSource=dict(
                    S3DataSource=dict(S3DataType="S3Prefix", S3Uri=uri, S3DataDistributionType="FullyReplicated")
                ),
            )
            for n, uri in (("training", channel), ("code", session.upload_data(source, "jobs", "code")))
        ],
        OutputDataConfig=dict(S3OutputPath="s3://jobs/output"),
        CheckpointConfig=dict(S3Uri="s3://jobs/checkpoints"),
        ResourceConfig=dict(InstanceType="ml.m5.large", InstanceCount=count, VolumeSizeInGB=10),
        StoppingCondition=dict(MaxRuntimeInSeconds=3600),
        HyperParameters={
            k: v if isinstance(v, str) else json.dumps(v)
            for k, v in (hyperparameters | dict(processes=processes)).items()
        },
    )

with open(out, "w", encoding="utf-8") as f:
    json.dump(asked, f)
