"""A fine-tuned model in Hugging Face's container."""

import sagemaker
from sagemaker.huggingface import HuggingFaceModel

model = HuggingFaceModel(
    model_data="s3://jobs/model/model.tar.gz",
    role="arn:aws:iam::123456789012:role/job",
    transformers_version="4.49.0",
    pytorch_version="2.6.0",
    py_version="py312",
    env={"HF_TASK": "text-classification"},
    sagemaker_session=sagemaker.Session(default_bucket="jobs"),
)
predictor = model.deploy(1, "ml.m5.xlarge", endpoint_name="reviews", wait=False)
