"""Two dozen scripts in the style of the public ones: what `mlkit import` writes for them makes the SDK's request.

The SDK's requests come from the real SDKs, versions 2 and 3, which run the scripts against moto.
"""

import io
import json
import os
import subprocess
import tarfile
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from helpers import CONFORMANCE, environment

from mlkit.cli import main
from mlkit.sagemaker.client.sdk_import import import_script, sdk_fields

SCRIPTS = sorted((CONFORMANCE / "sdk_scripts").glob("*.py"))
SHORT = (  # in every run; the others with --long
    *("v2_hugging_face", "v2_hugging_face_model"),
    *("v2_hyperparameters", "v2_inputs", "v2_model", "v3_compute"),
)


def write_sources(folder):
    """Write what the scripts name: a source folder, a program in it, and a folder of data."""
    for name in ("src", "full", "data"):
        (folder / name).mkdir()
    for name in ("src", "full"):
        (folder / name / "train.py").write_text("print('hello')\n")
    (folder / "src" / "inference.py").write_text("def model_fn(folder): ...\n")
    (folder / "full" / "requirements.txt").write_text("")
    (folder / "data" / "rows.csv").write_text("1,2\n")


def fill_s3(s3):
    s3.create_bucket(Bucket="jobs")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as f:
        f.addfile(tarfile.TarInfo("model.pth"))
    manifest = json.dumps([{"prefix": "s3://jobs/data/"}, "rows.csv"]).encode()
    objects = {"data/rows.csv": b"1,2\n", "data/all.manifest": manifest, "model/model.tar.gz": archive.getvalue()}
    for key, body in objects.items():
        s3.put_object(Bucket="jobs", Key=key, Body=body)


@pytest.fixture(scope="module")
def recorded(request, moto, tmp_path_factory):
    """The requests of the scripts by name, and the values of their names."""
    folder = tmp_path_factory.mktemp("scripts")
    write_sources(folder)
    variables = dict(
        AWS_ENDPOINT_URL=moto,
        S3_ENDPOINT_URL=moto,
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
        SAGEMAKER_VALIDATE_ROLE="false",
        HOME=str(folder),
    )
    s3 = boto3.client(
        "s3", "us-east-1", endpoint_url=moto, aws_access_key_id="testing", aws_secret_access_key="testing"
    )
    fill_s3(s3)
    results = {}
    for version in ("v2", "v3"):
        names = [p for p in SCRIPTS if p.stem.startswith(version)]
        names = names if request.config.getoption("--long") else [p for p in names if p.stem in SHORT]
        command = [environment(version) / "python", CONFORMANCE / "record_scripts.py", folder / "out.json", *names]
        process = subprocess.run(command, cwd=folder, env=os.environ | variables, text=True, capture_output=True)
        assert not process.returncode, process.stderr[-3000:]
        results |= json.loads((folder / "out.json").read_text())
    return results


def namespace(names):
    """Return the values of a script's names, for what its text does not tell."""
    return {
        name: SimpleNamespace(**value["namespace"]) if isinstance(value, dict) and "namespace" in value else value
        for name, value in names.items()
        if value is not None
    }


def with_modes(request):
    """Return a request whose channels have their input mode, which may be the job's, and nothing that is a default."""
    mode = request.get("AlgorithmSpecification", {}).get("TrainingInputMode")
    channels = [{"InputMode": mode} | channel for channel in request.get("InputDataConfig", ())]
    algorithm = {k: v for k, v in request.get("AlgorithmSpecification", {}).items() if k != "TrainingInputMode"}
    output = {k: v for k, v in request.get("OutputDataConfig", {}).items() if v != "GZIP"}
    return request | dict(InputDataConfig=channels, AlgorithmSpecification=algorithm, OutputDataConfig=output)


def leaves(value, path=""):
    """Yield path and value of each leaf of a request; entries of lists have their names in place of numbers."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield from leaves(member, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        for i, entry in enumerate(value):
            names = [entry[k] for k in ("ChannelName", "Name", "Key", "VariantName") if k in entry]
            yield from leaves(entry, f"{path}.{names[0] if names and path != 'ProductionVariants' else i}")
    elif value not in (None, False, {}, []):
        yield path, value


def plain(path, value):
    """Return a value as the program reads it: version 2 writes hyperparameters as JSON."""
    if path.startswith("HyperParameters."):
        try:
            value = json.loads(value)
        except ValueError:
            pass
    return value.rstrip("/") if isinstance(value, str) else value


def differences(theirs, ours, explained):
    """Return the leaves that are different, without those that a pattern explains."""
    theirs, ours = ({path: plain(path, value) for path, value in leaves(with_modes(r))} for r in (theirs, ours))
    return {
        path: (theirs.get(path), ours.get(path))
        for path in sorted(theirs.keys() | ours.keys())
        if theirs.get(path) != ours.get(path) and not any(fnmatch(path, f"{e}*") for e in explained)
    }


DIFFERENT = {  # by script: the leaves that are another thing with mlkit; the table of the script says why
    "v2_upload": {"InputDataConfig.training.DataSource.S3DataSource.S3Uri"},
    "v3_torchrun": {"InputDataConfig.training.DataSource.S3DataSource.S3Uri"},
}


@pytest.mark.parametrize(
    "key", [pytest.param(p.stem, marks=() if p.stem in SHORT else pytest.mark.long) for p in SCRIPTS]
)
def test_the_same_requests(recorded, session, tmp_path, monkeypatch, key):
    write_sources(tmp_path)
    fill_s3(session.client("s3"))
    monkeypatch.chdir(tmp_path)
    imported = import_script(CONFORMANCE / "sdk_scripts" / f"{key}.py")
    monkeypatch.setattr(boto3, "Session", lambda: session)
    session.calls.clear()
    exec(compile(imported.code, key, "exec"), namespace(recorded[key]["names"]))  # noqa: S102 -- the code that was written for a script of these tests
    ours = dict(session.calls)
    theirs = dict(recorded[key]["requests"])
    assert theirs.keys() == ours.keys() & {
        "CreateTrainingJob", "CreateModel", "CreateEndpointConfig", "CreateEndpoint"
    }  # fmt: skip
    names = {name for t in imported.translations for name in t.arguments}
    explained = [
        name
        for name in sdk_fields(imported.translations)
        if name != "OutputDataConfig.S3OutputPath" or "output" not in names
    ]
    found = {path: pair for o in theirs for path, pair in differences(theirs[o], ours[o], explained).items()}
    assert found.keys() == DIFFERENT.get(key, set()), found
    counts = {s: sum(t.counts()[s] for t in imported.translations) for s in ("equal", "other", "not known")}
    print(f"\n{key}: {counts}")
