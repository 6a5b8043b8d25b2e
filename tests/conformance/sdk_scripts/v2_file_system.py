"""Data on a file system in the VPC."""

import sagemaker
from sagemaker.inputs import FileSystemInput
from sagemaker.pytorch import PyTorch

estimator = PyTorch(
    entry_point="train.py",
    source_dir="src",
    role="arn:aws:iam::123456789012:role/job",
    framework_version="2.6",
    py_version="py312",
    instance_count=1,
    instance_type="ml.m5.large",
    subnets=["subnet-1"],
    security_group_ids=["sg-1"],
    sagemaker_session=sagemaker.Session(default_bucket="jobs"),
)
data = FileSystemInput(
    file_system_id="fs-0123456789abcdef0",
    file_system_type="FSxLustre",
    directory_path="/fsx/iris",
    file_system_access_mode="ro",
)
estimator.fit({"training": data}, wait=False)
