"""What TrainingJob and Endpoint ask for where the SDK has configuration files: SOURCE OUT"""

import json
import sys

import boto3

from mlkit.sagemaker.client.endpoints import Machines, config_request, model_request
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.client.target import AWSTarget

source, out = sys.argv[1:]
target = AWSTarget(boto3.Session(region_name="us-east-1"))
asked = [
    TrainingJob(source=source, name="plain").request(target),
    TrainingJob(
        source=source, name="own", role="arn:aws:iam::123456789012:role/own", kms_key="own", environment={"B": "own"}
    ).request(target),
    model_request("iris", "s3://company/model.tar.gz", target, Machines()),
    config_request("iris", target, Machines()),
]
with open(out, "w", encoding="utf-8") as f:
    json.dump(asked, f)
