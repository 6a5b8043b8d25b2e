"""The estimator is made in a function, with options that a loop changes."""

import sagemaker
from sagemaker.pytorch import PyTorch


def start(session, lr):
    common = {"role": "arn:aws:iam::123456789012:role/job", "instance_type": "ml.m5.large", "instance_count": 1}
    estimator = PyTorch(
        entry_point="train.py",
        source_dir="src",
        framework_version="2.6",
        py_version="py312",
        hyperparameters={"lr": lr, "epochs": 2},
        sagemaker_session=session,
        **common,
    )
    estimator.fit({"training": "s3://jobs/data"}, wait=False)


lr = 0.1
start(sagemaker.Session(default_bucket="jobs"), lr)
