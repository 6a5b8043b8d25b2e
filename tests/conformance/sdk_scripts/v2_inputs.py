"""Channels with options."""

import sagemaker
from sagemaker.inputs import ShuffleConfig, TrainingInput
from sagemaker.pytorch import PyTorch

estimator = PyTorch(
    entry_point="train.py",
    source_dir="src",
    role="arn:aws:iam::123456789012:role/job",
    framework_version="2.4",
    py_version="py311",
    instance_count=2,
    instance_type="ml.m5.large",
    input_mode="FastFile",
    sagemaker_session=sagemaker.Session(default_bucket="jobs"),
)
train = TrainingInput("s3://jobs/data", distribution="ShardedByS3Key", content_type="text/csv", input_mode="FastFile")
listed = TrainingInput(s3_data="s3://jobs/data/all.manifest", s3_data_type="ManifestFile")
shuffled = TrainingInput("s3://jobs/data", shuffle_config=ShuffleConfig(3), input_mode="FastFile")
estimator.fit({"train": train, "listed": listed, "shuffled": shuffled}, wait=False)
