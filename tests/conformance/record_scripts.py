"""Run scripts that use AWS's SDK, and record their requests: record_scripts.py OUT SCRIPT...

OUT has, by script, the requests of each operation, and the simple values of the script's names.
"""

import json
import runpy
import sys
from argparse import Namespace
from pathlib import Path

import boto3

OPERATIONS = ("CreateTrainingJob", "CreateModel", "CreateEndpointConfig", "CreateEndpoint")


class Boto(boto3.Session):
    """A session that records requests. Its STS client uses AWS_ENDPOINT_URL, although the SDK passes another one."""

    requests = []

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.events.register("before-call", self.record)

    def record(self, params, model, **_):
        if model.name in OPERATIONS:
            self.requests.append((model.name, json.loads(params["body"])))

    def client(self, name, *args, **kwargs):
        if name == "sts":
            kwargs.pop("endpoint_url", None)
        return super().client(name, *args, **kwargs)


def simple(value):
    """Return a value as JSON has it, or None if it has not."""
    value = {"namespace": vars(value)} if isinstance(value, Namespace) else value
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return None


def main(out, *scripts):
    boto3.Session = boto3.session.Session = Boto
    results = {}
    for script in scripts:
        Boto.requests.clear()
        boto3.DEFAULT_SESSION = None
        names = runpy.run_path(script, run_name="__main__")
        values = {name: simple(value) for name, value in names.items() if not name.startswith("__")}
        results[Path(script).stem] = dict(requests=list(Boto.requests), names=values)
    Path(out).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
