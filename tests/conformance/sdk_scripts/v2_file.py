"""A program that is a file, without a folder; its job has a name."""

import sagemaker
from sagemaker.pytorch import PyTorch as Torch

job_name = "digits-0001"
estimator = Torch(
    entry_point="src/train.py",
    role="arn:aws:iam::123456789012:role/job",
    framework_version="2.8",
    py_version="py312",
    instance_count=1,
    instance_type="ml.m5.large",
    base_job_name="digits",
    sagemaker_session=sagemaker.Session(default_bucket="jobs"),
)
estimator.fit({"training": "s3://jobs/data"}, job_name=job_name, wait=False)
