"""A serverless endpoint."""

import sagemaker
from sagemaker.pytorch.model import PyTorchModel
from sagemaker.serverless import ServerlessInferenceConfig

config = ServerlessInferenceConfig(memory_size_in_mb=4096, max_concurrency=10)
model = PyTorchModel(
    model_data="s3://jobs/model/model.tar.gz",
    role="arn:aws:iam::123456789012:role/job",
    entry_point="inference.py",
    source_dir="src",
    framework_version="2.5",
    py_version="py311",
    sagemaker_session=sagemaker.Session(default_bucket="jobs"),
)
model.deploy(serverless_inference_config=config, endpoint_name="seldom", wait=False)
