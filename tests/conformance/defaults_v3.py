"""Write the requests of TrainingJob and Endpoint with the defaults of the SDK's configuration files.

defaults_v3.py SOURCE OUT
"""

import json
import sys

import boto3

from mlkit.sagemaker.client.endpoints import Machines, config_request, model_request
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.client.target import AWSTarget


def main(source, out):
    target = AWSTarget(boto3.Session(region_name="us-east-1"))
    plain = TrainingJob(source=source, name="plain")
    custom = TrainingJob(
        source=source, name="own", role="arn:aws:iam::123456789012:role/own", kms_key="own", environment={"B": "own"}
    )
    requests = [
        plain.request(target),
        custom.request(target),
        model_request("iris", "s3://company/model.tar.gz", target, Machines()),
        config_request("iris", target, Machines()),
    ]
    with open(out, "w", encoding="utf-8") as f:
        json.dump(requests, f)


if __name__ == "__main__":
    main(*sys.argv[1:])
