"""A command in place of a program."""

from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode

region = "us-east-1"
trainer = ModelTrainer(
    training_image="123456789012.dkr.ecr.{}.amazonaws.com/training:latest".format(region),
    role="arn:aws:iam::123456789012:role/job",
    source_code=SourceCode(source_dir="src", command="python train.py"),
    compute=Compute(instance_type="ml.m5.large", instance_count=1),
)
trainer.train(input_data_config=[InputData(channel_name="training", data_source="s3://jobs/data")], wait=False)
