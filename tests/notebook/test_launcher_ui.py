"""The launcher in JupyterLab: the job that it gives back, edits, findings, refusals, and how it looks.

`--screenshots FOLDER` saves a picture of each state. The tests build on each other: they share one notebook.
"""

import pytest
from browser import NOTEBOOK, needs_chromium

pytestmark = needs_chromium

PROGRAM = """
import argparse
import time

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.add_argument("--rate", type=float)
for n in range(parser.parse_args().epochs):
    print(f"[metrics] epoch={n + 1} train_loss={1 / (n + 1)}", flush=True)
    time.sleep(0.2)
"""

LAUNCH = """
from dataclasses import dataclass
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.notebook import launcher

@dataclass
class Config:
    epochs: int = 3  # passes over the data
    rate: float = 0.1  # of the optimizer

config = Config()
job = TrainingJob(config, source="plain", name="plain-job")
form = launcher(job)
form
"""
STATE = 'print("state", form.job is job, job.config is config, job.config.epochs, job.target and job.status)'
REFUSING = """
from botocore.exceptions import ClientError
from mlkit.sagemaker.local.client import LocalSageMaker

class Refusing(LocalSageMaker):
    def create_training_job(self, **request):
        error = {"Code": "ResourceLimitExceeded", "Message": "The limit is <b>0</b> Instances"}
        raise ClientError({"Error": error}, "CreateTrainingJob")

launcher(TrainingJob(source="broken", name="broken"), session=Refusing())
"""
PROGRAM_IN_CELL = """
from mlkit.sagemaker_entry import Container, entry_point

@entry_point
def main(config: Config, container: Container):
    print("trains for", config.epochs, "epochs")

main()
main(Config(epochs=5))
"""
CHECK = 'TrainingJob({"epochs": 1}, source="plain").check(run=True)'


@pytest.fixture(scope="module", autouse=True)
def notebook(lab):
    """The notebook, and the programs that it launches."""
    for name, text in {"plain": PROGRAM, "broken": "import no_such_module\n"}.items():
        (lab.folder / name).mkdir()
        (lab.folder / name / "train.py").write_text(text)
    lab.open("launch.ipynb", LAUNCH, STATE, STATE, STATE, PROGRAM_IN_CELL, CHECK, REFUSING)
    lab.command("application:toggle-left-area")


@pytest.fixture
def output(lab):
    """Return the output of a cell, by its number."""
    return lambda i: lab.page.locator(f"{NOTEBOOK} .jp-Cell").nth(i).locator(".jp-OutputArea")


def fill(area, label, text):
    """Enter a text into a field, and leave the field."""
    area.get_by_label(label).fill(text)
    area.get_by_label(label).blur()


def unnamed_controls(area):
    """Return the visible controls that have no name for a screen reader, and the number of all."""
    controls = area.locator("input, select, textarea, button, [role=slider], [tabindex='0']")
    snapshots = [control.aria_snapshot() for control in controls.all() if control.is_visible()]
    return [text for text in snapshots if '"' not in text], len(snapshots)


def take_pictures(lab, name):
    """Save a picture in both themes, wide and narrow."""
    if not lab.screenshots:
        return
    for theme in ("Dark", "Light"):
        lab.set_theme(theme)
        lab.page.locator("#jupyterlab-splash").wait_for(state="detached")
        for width in (600, 1000):
            lab.set_width(width)
            lab.screenshot(f"{name}-{theme.lower()}-{width}")


def test_the_job_that_was_passed_is_edited_and_runs(lab, output):
    lab.run_cell(0)
    form = output(0)
    form.get_by_role("button", name="Check").click()
    form.get_by_text("No problems found in what was checked.").wait_for()
    form.get_by_text("Not checked: what follows the argument parser at train.py:8 (job.check(run=True)").wait_for()
    unnamed, number = unnamed_controls(form)
    assert not unnamed and number >= 9, (unnamed, number)
    take_pictures(lab, "checked")
    lab.run_cell(1)
    output(1).get_by_text("state True True 3 None").wait_for()

    fill(form, "epochs", "400")
    form.get_by_text("The form has changed since the last check.").wait_for()
    form.get_by_text("No problems found").wait_for(state="detached")
    lab.run_cell(2)
    output(2).get_by_text("state True False 400 None").wait_for()

    form.get_by_role("button", name="Request").click()
    form.get_by_text('"epochs": "400"').wait_for()
    take_pictures(lab, "request")
    fill(form, "hosts", "2")
    form.get_by_text('"epochs": "400"').wait_for(state="detached")
    fill(form, "hosts", "1")

    form.get_by_role("button", name="Launch").dblclick()  # two clicks launch one job
    form.get_by_role("button", name="Stop").wait_for()
    lab.run_cell(3)
    output(3).get_by_text("state True False 400 InProgress").wait_for()
    assert len(lab.local.list_training_jobs()["TrainingJobSummaries"]) == 1


def test_after_a_restart_of_the_kernel_the_job_is_not_launched_twice(lab, output):
    lab.command("docmanager:save")
    text = next(saved.data["text/plain"] for saved in lab.saved_outputs("launch.ipynb") if "data" in saved)
    assert "not started" not in text and "monitor('plain-job') shows it again" in text, text
    lab.page.evaluate(
        "async () => { await window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.restart() }"
    )
    lab.wait_for_kernel()
    lab.run_cell(0)
    output(0).get_by_role("button", name="Launch").click()
    output(0).get_by_role("alert").get_by_text("there is a job 'plain-job' already: monitor('plain-job')").wait_for()
    take_pictures(lab, "exists")
    assert len(lab.local.list_training_jobs()["TrainingJobSummaries"]) == 1
    lab.local.stop_training_job(TrainingJobName="plain-job")


def test_a_program_in_a_cell_uses_the_defaults_of_its_config(lab, output):
    lab.run_cell(4)
    text = output(4).inner_text()
    lines = [
        "main() in a cell uses Config(epochs=3, rate=0.1); main(Config(epochs=...)) passes other values",
        "trains for 3 epochs",
        "trains for 5 epochs",
    ]
    assert text.strip().splitlines() == lines, text


def test_a_check_in_a_cell_shows_its_steps(lab, output):
    lab.page.evaluate("() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 5 }")
    lab.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell') }")
    output(5).get_by_text("checking: a real run").wait_for()
    lab.screenshot("checking")
    output(5).get_by_text("tried: syntax, imports, the program, arguments, a real run").wait_for()
    output(5).get_by_text("checked in").wait_for()
    output(5).get_by_text("checking: ").wait_for(state="detached")
    lab.screenshot("check")


def test_findings_and_refusals(lab, output):
    lab.run_cell(6)
    form = output(6)
    form.get_by_role("button", name="Check").click()
    form.get_by_text("1 problem found.").wait_for()
    form.get_by_text("Not checked: what comes after imports: the program.").wait_for()
    take_pictures(lab, "found")
    fill(form, "instance", "ml.mine.large")
    form.get_by_text("The form has changed").wait_for()
    form.get_by_role("button", name="Launch").click()
    form.get_by_role("alert").get_by_text("InstanceType").wait_for()
    lab.screenshot("invalid")
    fill(form, "instance", "ml.g5.xlarge")
    form.get_by_label("target").select_option("SageMaker")
    form.get_by_role("button", name="Launch").click()
    form.get_by_text("This costs money.").wait_for()
    take_pictures(lab, "question")
    form.get_by_label("spot").check()
    form.get_by_text("This costs money.").wait_for(state="hidden")
    form.get_by_role("button", name="Launch").click()
    form.get_by_text(", spot, for at most").wait_for()
    form.get_by_role("button", name="Yes, launch it").click()
    form.get_by_role("alert").get_by_text("The limit is <b>0</b> Instances").wait_for()
    lab.screenshot("refused")
    form.get_by_role("button", name="Launch").click()  # it can be tried again
    form.get_by_text("This costs money.").wait_for()


def test_nothing_is_cut_off_in_a_narrow_window(lab, output):
    lab.set_width(600)
    for i in (0, 6):
        widths = output(i).evaluate("e => [e.scrollWidth, e.clientWidth]")
        assert widths[0] <= widths[1], (i, widths)
    lab.screenshot("narrow")
