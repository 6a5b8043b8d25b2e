"""What S3 holds of the channels of the requests in a file, each into FOLDER/<bucket>/<key>: REQUESTS FOLDER"""

import json
import sys
from pathlib import Path

import boto3

requests, folder = sys.argv[1:]
s3 = boto3.client("s3")
for request in json.loads(Path(requests).read_text(encoding="utf-8")):
    for channel in request.get("InputDataConfig", []):
        bucket, _, prefix = channel["DataSource"]["S3DataSource"]["S3Uri"][5:].partition("/")
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Contents", []):
                path = Path(folder) / bucket / found["Key"]
                path.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file(bucket, found["Key"], str(path))
