"""Download the objects of the channels of requests from S3, to FOLDER/<bucket>/<key>: download.py REQUESTS FOLDER"""

import json
import sys
from pathlib import Path

import boto3


def download(s3, uri, folder):
    """Download the objects whose URI begins with `uri`."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            path = Path(folder) / bucket / item["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, item["Key"], str(path))


def main(requests_file, folder):
    s3 = boto3.client("s3")
    for request in json.loads(Path(requests_file).read_text(encoding="utf-8")):
        for channel in request.get("InputDataConfig", []):
            download(s3, channel["DataSource"]["S3DataSource"]["S3Uri"], folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
