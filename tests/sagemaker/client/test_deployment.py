"""Deployments and transforms on this machine that take too long for a notebook."""

import io

import pytest
import torch

from mlkit.model import MyCustomModel
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.client.deployment import deploy
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.client.transforms import transform
from mlkit.sagemaker.local.client import LocalSageMaker


@pytest.fixture
def local(tmp_path):
    return LocalSageMaker(tmp_path / "local")


def test_a_job_is_deployed_without_handlers(local):
    x = torch.randn(64, 4)
    channels = {"training": (x, (x.sum(1) > 0).long())}
    job = TrainingJob({"epochs": 1, "output_dim": 2}, channels=channels, name="iris").run(local).follow(io.StringIO())
    with deploy(job, local, out=io.StringIO(), name="again") as endpoint:
        assert endpoint.name == "again"
        assert torch.tensor(endpoint.invoke(x[:5])).allclose(job.model()(x[:5]), atol=1e-5)


def test_the_name_of_a_transform_is_free_when_its_former_job_is_forgotten(local, tmp_path):
    bundle = build_bundle(MyCustomModel(4, 8, 2), out=tmp_path / "model.tar.gz", sample=torch.zeros(1, 4))
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "a.csv").write_text("1,2,3,4\n")
    for _ in range(2):
        assert transform(bundle, rows, local, name="rows").follow(io.StringIO()).status == "Completed"
        local.clean()
