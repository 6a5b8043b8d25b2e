"""A job in a VPC, with keys and tags."""

import sagemaker
from sagemaker.pytorch import PyTorch

network = dict(subnets=["subnet-1", "subnet-2"], security_group_ids=["sg-1"], enable_network_isolation=True)
estimator = PyTorch(
    entry_point="train.py",
    source_dir="src",
    role="arn:aws:iam::123456789012:role/job",
    framework_version="2.6",
    py_version="py312",
    instance_count=2,
    instance_type="ml.m5.large",
    encrypt_inter_container_traffic=True,
    volume_kms_key="volume-key",
    output_kms_key="output-key",
    output_path="s3://jobs/models",
    tags=[{"Key": "team", "Value": "vision"}, {"Key": "cost-center", "Value": "12"}],
    disable_profiler=True,
    debugger_hook_config=False,
    sagemaker_session=sagemaker.Session(default_bucket="jobs"),
    **network,
)
estimator.fit({"training": "s3://jobs/data"}, wait=False)
