"""A model that exists, behind an endpoint."""

import sagemaker
from sagemaker.pytorch import PyTorchModel

model = PyTorchModel(
    model_data="s3://jobs/model/model.tar.gz",
    role="arn:aws:iam::123456789012:role/job",
    entry_point="inference.py",
    source_dir="src",
    framework_version="2.6",
    py_version="py312",
    env={"OMP_NUM_THREADS": "1"},
    sagemaker_session=sagemaker.Session(default_bucket="jobs"),
)
predictor = model.deploy(
    initial_instance_count=2,
    instance_type="ml.c5.xlarge",
    endpoint_name="iris",
    tags=[{"Key": "team", "Value": "vision"}],
    wait=False,
)
