"""torchrun on two machines."""

import sagemaker
from sagemaker.pytorch import PyTorch

estimator = PyTorch(
    entry_point="train.py",
    source_dir="src",
    role="arn:aws:iam::123456789012:role/job",
    framework_version="2.6.0",
    py_version="py312",
    instance_count=2,
    instance_type="ml.p4d.24xlarge",
    distribution={"torch_distributed": {"enabled": True}},
    sagemaker_session=sagemaker.Session(default_bucket="jobs"),
)
estimator.fit({"training": "s3://jobs/data"}, wait=False)
