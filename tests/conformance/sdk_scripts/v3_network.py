"""A VPC, tags and variables."""

from sagemaker.core.helper.session_helper import Session
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, Networking, SourceCode, Tag

session = Session(default_bucket="jobs")
networking = Networking(
    subnets=["subnet-1"],
    security_group_ids=["sg-1"],
    enable_network_isolation=True,
    enable_inter_container_traffic_encryption=True,
)
trainer = ModelTrainer(
    training_image="123456789012.dkr.ecr.us-east-1.amazonaws.com/training:latest",
    role="arn:aws:iam::123456789012:role/job",
    sagemaker_session=session,
    source_code=SourceCode(source_dir="src", entry_script="train.py"),
    compute=Compute(instance_type="ml.m5.large", instance_count=1, keep_alive_period_in_seconds=300),
    networking=networking,
    environment={"GREETING": "hello"},
    tags=[Tag(key="team", value="vision")],
)
trainer.train(input_data_config=[InputData(channel_name="training", data_source="s3://jobs/data")], wait=False)
