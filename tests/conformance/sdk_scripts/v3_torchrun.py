"""torchrun, and data of this machine."""

from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData, SourceCode
from sagemaker.train.distributed import Torchrun

trainer = ModelTrainer(
    training_image="123456789012.dkr.ecr.us-east-1.amazonaws.com/training:latest",
    role="arn:aws:iam::123456789012:role/job",
    source_code=SourceCode(source_dir="src", entry_script="train.py"),
    compute=Compute(instance_type="ml.g5.12xlarge", instance_count=1),
    distributed=Torchrun(process_count_per_node=4),
    input_data_config=[InputData(channel_name="training", data_source="data")],
)
trainer.train(wait=False)
