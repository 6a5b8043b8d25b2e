"""Metrics, variables, and settings of the job."""

import sagemaker
from sagemaker.pytorch import PyTorch

METRICS = [
    {"Name": "train:loss", "Regex": r"loss: ([0-9.]+)"},
    {"Name": "valid:accuracy", "Regex": "accuracy=(.*?);"},
]
estimator = PyTorch(
    entry_point="train.py",
    source_dir="src",
    role="arn:aws:iam::123456789012:role/job",
    framework_version="2.6.0",
    py_version="py312",
    instance_count=1,
    instance_type="ml.m5.large",
    metric_definitions=METRICS,
    environment={"NCCL_DEBUG": "INFO", "WANDB_MODE": "offline"},
    keep_alive_period_in_seconds=600,
    max_retry_attempts=2,
    enable_sagemaker_metrics=True,
    sagemaker_session=sagemaker.Session(default_bucket="jobs"),
)
estimator.fit({"training": "s3://jobs/data"}, wait=False)
