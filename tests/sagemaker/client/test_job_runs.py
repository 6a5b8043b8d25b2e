"""Jobs on this machine that take too long for a notebook: resumed, on two hosts, from tensors and notebooks."""

import io
import json
import time
from pathlib import Path

import pytest
import torch

from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.local.client import LocalSageMaker

PROGRAM = Path(__file__).parent / "paused_training.py"


@pytest.fixture
def local(tmp_path):
    return LocalSageMaker(tmp_path / "local")


def test_a_resumed_job_ends_with_the_weights_of_one_that_was_never_stopped(local):
    whole = TrainingJob({"epochs": 6}, PROGRAM, name="whole").run(local).follow(io.StringIO())
    part = TrainingJob({"epochs": 6, "pause": 0.05}, PROGRAM, name="part").run(local)
    while not part.metrics().get("epoch"):
        time.sleep(0.05)
    part.stop()
    part.follow(io.StringIO())
    resumed = part.resume().follow(io.StringIO())
    assert (part.status, resumed.status) == ("Stopped", "Completed")

    weights = resumed.model().state_dict()
    for name, weight in whole.model().state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert resumed.metrics()["epoch"][0] > 1
    assert resumed.metrics()["epoch"][-1] == 6.0

    # Resuming a second time starts another job, under another name.
    second = part.resume()
    second.stop()
    second.follow(io.StringIO())
    assert (resumed.name, second.name) == ("part-again-2", "part-again-3")

    # An attached job has the request of the job that was started under its name.
    attached = TrainingJob.attach("whole", local)
    submitted = {k: v for k, v in attached.request().items() if k != "Tags"}
    assert submitted == whole.request(local)


@pytest.mark.long
def test_a_spot_job_that_is_interrupted_twice_ends_with_the_weights_of_one_that_was_not(local):
    config = dict(epochs=60, batch_size=16, save_every=5)
    data = {"training": (torch.randn(178, 13), torch.randint(0, 3, (178,)))}
    whole = TrainingJob(config, channels=data, name="whole").run(local).follow(io.StringIO())
    job = TrainingJob(config, channels=data, spot=True, name="spot").run(local)
    for starts in (1, 2):
        while sum("178 samples" in line for line in job.logs()) < starts or "[metrics] epoch=" not in job.logs()[-1]:
            time.sleep(0.02)
        local.interrupt("spot")
    job.follow(io.StringIO())
    statuses = [transition["Status"] for transition in job.describe()["SecondaryStatusTransitions"]]
    assert (job.status, statuses.count("Interrupted")) == ("Completed", 2)

    weights = job.model().state_dict()
    for name, weight in whole.model().state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_the_lines_of_several_hosts_name_their_host(local, tmp_path):
    rows = "\n".join(f"{i % 2},{i},{-i}" for i in range(40)) + "\n"
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "rows.csv").write_text(rows)
    job = TrainingJob({"epochs": 1}, channels={"training": tmp_path / "training"}, hosts=2, name="two")
    job.run(local).follow(io.StringIO())
    assert job.status == "Completed"
    assert {line.split()[0] for line in job.logs()} == {"[algo-1]", "[algo-2]"}


def test_tensors_are_a_channel_and_this_machine_is_the_default_target():
    tensors = (torch.randn(40, 4), torch.randint(0, 2, (40,)))
    job = TrainingJob({"epochs": 1}, channels={"training": tensors}).run().follow(io.StringIO())
    assert job.status == "Completed"
    assert "40 samples of shape (4,)" in "\n".join(job.logs())


def test_a_notebook_is_a_source(local, tmp_path):
    """The cells that begin with `#| export` are the program; other cells may need what only a notebook has."""
    sources = ["#| export\n" + PROGRAM.read_text(), "plot(everything)"]
    cells = [dict(cell_type="code", metadata={}, source=source) for source in sources]
    notebook = tmp_path / "02_flowers.ipynb"
    notebook.write_text(json.dumps(dict(cells=cells, nbformat=4, nbformat_minor=5, metadata={})))
    job = TrainingJob({"epochs": 1}, notebook).run(local).follow(io.StringIO())
    assert job.status == "Completed"


def test_a_check_reports_what_the_job_would_fail_with(tmp_path):
    program = tmp_path / "wrong.py"
    program.write_text('from mlkit.sagemaker_entry import entry_point\nimport json\njson.laods("1")\n')
    report = TrainingJob(source=program).check()
    assert not report.ok
    assert "laods" in str(report)
