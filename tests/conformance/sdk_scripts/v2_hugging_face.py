"""A fine-tuning job in Hugging Face's container."""

import sagemaker
from sagemaker.huggingface import HuggingFace

estimator = HuggingFace(
    entry_point="train.py",
    source_dir="src",
    role="arn:aws:iam::123456789012:role/job",
    transformers_version="4.56",
    pytorch_version="2.8",
    py_version="py312",
    instance_count=1,
    instance_type="ml.g5.xlarge",
    hyperparameters={"model_name": "distilbert-base-uncased", "epochs": 1},
    sagemaker_session=sagemaker.Session(default_bucket="jobs"),
)
estimator.fit({"train": "s3://jobs/data"}, wait=False)
