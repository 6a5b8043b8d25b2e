"""Spot machines with checkpoints."""

import sagemaker
from sagemaker.pytorch import PyTorch

session = sagemaker.Session(default_bucket="jobs")
bucket = "jobs"
prefix = "experiments/spot"
checkpoints = "s3://{}/{}/checkpoints".format(bucket, prefix)

estimator = PyTorch(
    entry_point="train.py",
    source_dir="src",
    role="arn:aws:iam::123456789012:role/job",
    framework_version="2.8",
    py_version="py312",
    instance_count=1,
    instance_type="ml.p3.2xlarge",
    volume_size=100,
    use_spot_instances=True,
    max_run=2 * 60 * 60,
    max_wait=4 * 60 * 60,
    checkpoint_s3_uri=checkpoints,
    checkpoint_local_path="/opt/ml/checkpoints",
    output_path=f"s3://{bucket}/{prefix}/output",
    sagemaker_session=session,
)
estimator.fit({"train": f"s3://{bucket}/data", "validation": f"s3://{bucket}/data"}, wait=False, logs="All")
