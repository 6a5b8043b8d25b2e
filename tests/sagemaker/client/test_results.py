"""A job that has completed without a model says so, everywhere; moto answers for SageMaker and S3."""

import io
import json
import tarfile

import pytest

from mlkit.cli import main
from mlkit.notebook import monitor
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.local.client import LocalSageMaker

ROLE = "arn:aws:iam::123456789012:role/job"


def archive(**members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def test_a_job_on_this_machine(tmp_path, capsys):
    program = tmp_path / "elsewhere.py"
    program.write_text('import os\nopen("model.pt", "w")\nopen(os.environ["SM_OUTPUT_DATA_DIR"] + "/x.pt", "w")\n')
    job = TrainingJob(source=program, name="empty").run(LocalSageMaker())
    out = io.StringIO()
    job.follow(out)
    sentence = (
        "empty left nothing in the model folder, /opt/ml/model: it has no model. It wrote "
        "/opt/ml/input/data/code/model.pt, /opt/ml/output/data/x.pt. A program saves its model to the folder that the "
        "variable SM_MODEL_DIR names"
    )
    assert job.status == "Completed"
    assert out.getvalue().splitlines()[-1] == sentence
    assert repr(job).splitlines()[1:] == [sentence]
    with pytest.raises(ValueError, match="empty left no model: empty left nothing in the model folder"):
        job.fetch(tmp_path / "model")
    assert main(["follow", "empty", "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert (state["status"], state["model"], state["missing_model"]) == ("Completed", None, sentence)
    display = monitor("empty")
    assert repr(display).splitlines()[-1] == sentence
    assert "left nothing in the model folder" in display.status.value


def test_a_job_that_leaves_a_model(tmp_path):
    program = tmp_path / "saves.py"
    program.write_text('import os\nopen(os.environ["SM_MODEL_DIR"] + "/x.pt", "w")\n')
    job = TrainingJob(source=program).run(LocalSageMaker())
    out = io.StringIO()
    job.follow(out)
    assert job.missing_model == ""
    assert "model folder" not in out.getvalue() + repr(job)


@pytest.mark.parametrize(
    "content, missing",
    [(None, True), (archive(), True), (archive(a=b"1"), False), (b"x" * 2000, False)],
    ids=["no object", "an empty archive", "a model", "a large object"],
)
def test_a_job_on_sagemaker(session, tmp_path, content, missing):
    (tmp_path / "train.py").write_text("")
    job = TrainingJob(source=tmp_path / "train.py", role=ROLE, name="train").run(session)
    uri = job.describe()["ModelArtifacts"]["S3ModelArtifacts"]
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    s3 = session.client("s3")
    if content is not None:
        s3.put_object(Bucket=bucket, Key=key, Body=content)
    s3.put_object(Bucket=bucket, Key=key.replace("model.tar.gz", "output.tar.gz"), Body=b"x")
    sentence = job.missing_model
    assert bool(sentence) == missing
    assert not missing or f"It wrote {uri.replace('model.tar.gz', 'output.tar.gz')}. A program" in sentence


def test_a_place_that_cannot_be_seen_is_not_called_empty(session, tmp_path):
    (tmp_path / "train.py").write_text("")
    job = TrainingJob(source=tmp_path / "train.py", role=ROLE).run(session)
    job.target.files.client.meta.events.register("before-send.s3.ListObjectsV2", refuse)
    assert job.missing_model == ""


def refuse(request, **_):
    """Answer as S3 does if a role may not list a bucket."""
    from botocore.awsrequest import AWSResponse

    class Raw(io.BytesIO):
        def stream(self, **_):
            yield self.read()

    body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    return AWSResponse(request.url, 403, {}, Raw(body))
