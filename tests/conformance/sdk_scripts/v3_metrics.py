"""Metrics and retries, by the trainer's methods."""

from sagemaker.core.shapes import MetricDefinition, RetryStrategy
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode

trainer = ModelTrainer(
    training_image="123456789012.dkr.ecr.us-east-1.amazonaws.com/training:latest",
    role="arn:aws:iam::123456789012:role/job",
    source_code=SourceCode(source_dir="src", entry_script="train.py"),
    compute=Compute(instance_type="ml.m5.large"),
    base_job_name="measured",
)
trainer = trainer.with_metric_definitions([MetricDefinition(name="loss", regex="loss=(.*)")])
trainer = trainer.with_retry_strategy(RetryStrategy(maximum_retry_attempts=3))
trainer.train([InputData(channel_name="training", data_source="s3://jobs/data")], wait=False)
