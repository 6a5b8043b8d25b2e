"""The smallest ModelTrainer."""

from sagemaker.train import ModelTrainer
from sagemaker.train.configs import InputData, SourceCode

trainer = ModelTrainer(
    training_image="123456789012.dkr.ecr.us-east-1.amazonaws.com/training:latest",
    role="arn:aws:iam::123456789012:role/job",
    source_code=SourceCode(source_dir="src", entry_script="train.py"),
    base_job_name="plain",
)
trainer.train(input_data_config=[InputData(channel_name="training", data_source="s3://jobs/data")], wait=False)
