"""Programs that are elsewhere: in S3, which moto plays, and in a git repository"""

import io
import os
import subprocess
import tarfile

import pytest

from mlkit.cli import main
from mlkit.sagemaker.artifacts.files import SourceError
from mlkit.sagemaker.artifacts.source import read_source
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.local.client import LocalSageMaker

FILES = {
    "train.py": "import helper\nprint(helper.NAME)\n",
    "helper.py": "NAME = 'from elsewhere'\n",
    "requirements.txt": "",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / "src" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "src" / name).write_text(text)
    with tarfile.open(tmp_path / "sourcedir.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "src", ".")
    return tmp_path


@pytest.fixture
def bucket(session, folder, monkeypatch):
    """Put the program into a bucket, as files and as an archive."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it keeps credentials
    s3 = session.client("s3")
    s3.create_bucket(Bucket="code")
    for name, text in FILES.items():
        s3.put_object(Bucket="code", Key=f"src/{name}", Body=text.encode())
    s3.upload_file(str(folder / "sourcedir.tar.gz"), "code", "job/sourcedir.tar.gz")
    return s3


def test_sources_in_s3(bucket, folder):
    expected = read_source(folder / "src")
    for uri in ("s3://code/src", "s3://code/src/", "s3://code/job/sourcedir.tar.gz", "s3://code/src/train.py"):
        assert read_source(uri) == expected, uri
    errors = {
        "s3://code/none": "no S3 objects found under s3://code/none",
        "s3://code/src/fit.py": "there is no s3://code/src/fit.py",
        "s3://nobody/src": "there is no bucket 'nobody' for s3://nobody/src",
    }
    for uri, message in errors.items():
        with pytest.raises(SourceError, match=message):
            read_source(uri)


def test_a_source_without_credentials(folder, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "none"))
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    with pytest.raises(SourceError, match="the source s3://code/src cannot be read: Unable to locate credentials"):
        read_source("s3://code/src")


def test_a_job_of_a_source_in_s3(bucket):
    job = TrainingJob(source="s3://code/job/sourcedir.tar.gz").run(LocalSageMaker()).follow(io.StringIO())
    assert (job.status, job.logs()[-1]) == ("Completed", "from elsewhere")
    assert job.name.startswith("sourcedir-tar-")


def test_a_repository_is_run_and_checked_by_its_url(folder, capsys):
    author = {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "train"]):
        subprocess.run(["git", *command], cwd=folder, env=os.environ | author, check=True)
    url = f"git+file://{folder}#subdirectory=src"
    assert main(["run", url, "--name", "from-git"]) == 0
    assert "from elsewhere" in capsys.readouterr().out
    assert main(["check", url]) == 0
    assert "tried: requirements, syntax, imports, the program" in capsys.readouterr().out
    assert main(["check", url + "/none"]) == 1
    assert "there is no src/none in the repository" in capsys.readouterr().err
