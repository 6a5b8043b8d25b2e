"""Hyperparameters of every type, some of them from the command line of the script."""

import argparse

import sagemaker
from sagemaker.pytorch import PyTorch

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=7)
parser.add_argument("--lr", type=float, default=0.01)
args, _ = parser.parse_known_args([])

base = {"epochs": 3, "batch-size": 2**6, "optimizer": "adam"}
hyperparameters = {**base, "seed": args.seed, "lr": args.lr, "amp": True, "layers": [8, 4], "note": "two words"}

estimator = PyTorch(
    "train.py",
    source_dir="src",
    role="arn:aws:iam::123456789012:role/job",
    framework_version="2.5.1",
    py_version="py311",
    instance_count=1,
    instance_type="ml.g5.xlarge",
    hyperparameters=hyperparameters,
    sagemaker_session=sagemaker.Session(default_bucket="jobs"),
)
estimator.fit({"training": "s3://jobs/data"}, wait=False)
