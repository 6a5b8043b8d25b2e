"""The smallest estimator: one program, one channel."""

import sagemaker
from sagemaker.pytorch import PyTorch

role = "arn:aws:iam::123456789012:role/job"

estimator = PyTorch(
    entry_point="train.py",
    source_dir="src",
    role=role,
    framework_version="2.6",
    py_version="py312",
    instance_count=1,
    instance_type="ml.m5.xlarge",
    sagemaker_session=sagemaker.Session(default_bucket="jobs"),
)
estimator.fit("s3://jobs/data", wait=False)
