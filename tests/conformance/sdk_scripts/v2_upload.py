"""Data that the script uploads first."""

import sagemaker
from sagemaker.pytorch import PyTorch

sagemaker_session = sagemaker.Session(default_bucket="jobs")
bucket = sagemaker_session.default_bucket()
inputs = sagemaker_session.upload_data(path="data", bucket=bucket, key_prefix="iris")

estimator = PyTorch(
    entry_point="train.py",
    source_dir="src",
    role="arn:aws:iam::123456789012:role/job",
    framework_version="2.6",
    py_version="py312",
    instance_count=1,
    instance_type="ml.m5.large",
    output_path=f"s3://{bucket}/models",
    sagemaker_session=sagemaker_session,
)
estimator.fit({"training": inputs}, wait=False)
