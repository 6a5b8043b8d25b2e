"""Machines, disks and time."""

from sagemaker.train import ModelTrainer
from sagemaker.train.configs import (
    CheckpointConfig,
    Compute,
    InputData,
    OutputDataConfig,
    SourceCode,
    StoppingCondition,
)

compute = Compute(
    instance_type="ml.g5.2xlarge", instance_count=2, volume_size_in_gb=80, enable_managed_spot_training=True
)
trainer = ModelTrainer(
    training_image="123456789012.dkr.ecr.us-east-1.amazonaws.com/training:latest",
    role="arn:aws:iam::123456789012:role/job",
    source_code=SourceCode(source_dir="full", entry_script="train.py", requirements="requirements.txt"),
    compute=compute,
    stopping_condition=StoppingCondition(max_runtime_in_seconds=3600, max_wait_time_in_seconds=7200),
    checkpoint_config=CheckpointConfig(s3_uri="s3://jobs/checkpoints", local_path="/opt/ml/checkpoints"),
    output_data_config=OutputDataConfig(s3_output_path="s3://jobs/models", kms_key_id="key"),
    hyperparameters={"epochs": 3, "lr": 0.01, "optimizer": "adam", "amp": True},
)
trainer.train(input_data_config=[InputData(channel_name="train", data_source="s3://jobs/data")], wait=False)
