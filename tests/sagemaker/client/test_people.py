"""A table of people from CSV files to an endpoint, on this machine: the job, the check, the deployment, a transform."""

import io
import json

import pandas as pd
import pytest
import torch

from mlkit.cli import main
from mlkit.model import load_model
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.client.transforms import transform
from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.training.data.rows import Rows


def people(count):
    jobs = ("clerk", "nurse", "pilot")
    return pd.DataFrame(
        {
            "age": [None if i % 13 == 5 else 20 + i * 7 % 50 for i in range(count)],
            "job": [jobs[i % 3] for i in range(count)],
            "since": [f"201{i % 10}-0{i % 9 + 1}-1{i % 7}" for i in range(count)],
            "income": ["high" if i % 3 == 2 else "low" for i in range(count)],
        }
    )


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job that `mlkit run` has run on this machine, and the folder with its data."""
    folder = tmp_path_factory.mktemp("people")
    for name, count in (("train", 120), ("val", 30)):
        (folder / name).mkdir()
        people(count).to_csv(folder / name / "people.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLKIT_LOCAL", str(folder / "local"))
        channels = [f"--channel=train={folder / 'train'}", f"--channel=val={folder / 'val'}"]
        arguments = ["--label", "income", "--epochs", "20", "--learning_rate", "0.01"]
        assert main(["run", *channels, "--name", "people", "--", *arguments]) == 0
        yield TrainingJob.attach("people", LocalSageMaker(folder / "local"))


def test_the_job_says_what_it_has_understood(job):
    log = "\n".join(job.logs())
    assert "income  label (classes)  2 classes: high, low" in log
    assert "since   date" in log
    assert job.metrics()["valid_accuracy"][-1] > 0.9


def test_the_endpoint_answers_as_training_would_have_seen_it(job, tmp_path):
    folder = job.fetch(tmp_path / "model")
    rows = Rows.load(folder)
    table = people(40).drop(columns="income")
    inputs = rows.encode(table)
    expected = rows.answers(load_model(folder)(*inputs))
    records = [{k: None if v != v else v for k, v in record.items()} for record in table.to_dict("records")]
    bodies = [
        (records, None),
        (table, None),  # with the names of its columns, as the model has names
        (table[["job", "since", "age"]], None),
        (table.to_csv(index=False, header=False), "text/csv"),
        (table.to_json(orient="split"), "application/json"),
        (json.dumps({"instances": records}), "application/json"),
        (table.to_json(orient="records", lines=True), "application/jsonlines"),
        (table.to_parquet(), "application/x-parquet"),
    ]
    with job.deploy(out=io.StringIO()) as endpoint:
        for body, content_type in bodies:
            answers = endpoint.invoke(body, content_type)
            assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
            probabilities = [[list(a["probabilities"].values()) for a in rows] for rows in (answers, expected)]
            torch.testing.assert_close(*map(torch.tensor, probabilities), atol=1e-6, rtol=0)
        lines = endpoint.ask(records, accept="text/csv")["Body"].read().decode().splitlines()
        assert [line.split(",")[0] for line in lines] == [answer["label"] for answer in expected]
        with pytest.raises(RuntimeError, match="answered 422: row 2, column 'age': expected a number, got 'old'"):
            endpoint.invoke("30,clerk,2011-01-01\nold,clerk,2011-01-01", "text/csv")
        assert endpoint.description == rows


def test_a_transform_of_lines_with_and_without_a_header(job, tmp_path):
    bundle = build_bundle(job.fetch(tmp_path / "model"), out=tmp_path / "model.tar.gz")
    table = people(40).drop(columns="income")
    (tmp_path / "rows").mkdir()
    table.to_csv(tmp_path / "rows" / "named.csv", index=False)
    table.to_csv(tmp_path / "rows" / "plain.csv", index=False, header=False)
    run = transform(bundle, tmp_path / "rows", job.target.client, split=True, accept="text/csv", payload=1)
    answers = run.follow(io.StringIO()).fetch(tmp_path / "answers")
    named, plain = ((answers / f"{name}.csv.out").read_text() for name in ("named", "plain"))
    assert named == plain
    assert len(plain.splitlines()) == len(table)


def test_check_tries_an_example_and_names_a_channel_that_is_not_read(job, tmp_path):
    data = tmp_path / "data"
    for name in ("train", "validaton"):
        (data / name).mkdir(parents=True)
        people(60).to_csv(data / name / "people.csv", index=False)
    report = TrainingJob({"label": "income"}, None, {name: data / name for name in ("train", "validaton")}).check()
    assert report.ok, report
    assert report.tried[-1] == "predict"
    assert [f.what for f in report.findings if f.note] == [
        "the channel 'validaton' is not read; did you mean 'validation'?"
    ]
