"""An image of one's own, in the general estimator."""

import sagemaker
from sagemaker.estimator import Estimator

account = "123456789012"
region = "us-east-1"
image = f"{account}.dkr.ecr.{region}.amazonaws.com/team/training:{1}"

estimator = Estimator(
    image_uri=image,
    entry_point="train.py",
    source_dir="src",
    role="arn:aws:iam::123456789012:role/job",
    instance_count=1,
    instance_type="ml.c5.2xlarge",
    hyperparameters=dict(epochs=1, name="x"),
    disable_output_compression=True,
    output_path="s3://jobs/models/",
    sagemaker_session=sagemaker.Session(default_bucket="jobs"),
)
estimator.set_hyperparameters(depth=4)
estimator.fit("s3://jobs/data", wait=False)
