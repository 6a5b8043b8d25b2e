"""What the monitor shows in JupyterLab: metrics of any program, details of the job, and what comes next.

`--screenshots FOLDER` saves a picture of each state. The tests share one browser.
"""

import pytest
from browser import NOTEBOOK, PICTURE, needs_chromium

pytestmark = needs_chromium

PROGRAMS = {
    "dicts.py": """
        for step in range(1, 41):
            epoch = {"epoch": step / 10}
            print({"loss": 2 / step, "grad_norm": 1.5 / step, "learning_rate": 1e-3 / step} | epoch)
            if step % 10 == 0:
                print({"eval_loss": 2.5 / step, "eval_f1": 1 - 1 / step, "eval_accuracy": 1 - 2 / step} | epoch)
    """,
    "table.py": """
        import os, time
        with open(os.path.join(os.environ["SM_OUTPUT_DATA_DIR"], "metrics.csv"), "w") as f:
            f.write("step,train_loss,val_loss\\n")
            for step in range(100, 2100, 100):
                f.write(f"{step},{100 / step},{120 / step if step % 500 == 0 else ''}\\n")
        print("12:30:45 done 100% of data/v1.2/part-7")
    """,
    "silent.py": """
        print("12:30:45 done 100% of data/v1.2/part-7")
    """,
}
JOB = """
from dataclasses import dataclass
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.notebook import monitor

@dataclass
class Config:
    epochs: int = 3
    lr: float = 0.001
    note: str = "a <b>bold</b> default"

job = TrainingJob(Config(lr=0.5, note="<img src=x onerror=alert(1)>"), source='NAME.py', name='NAME').run()
monitor(job)
"""


@pytest.fixture(scope="module", autouse=True)
def programs(lab):
    """The programs that the notebooks run."""
    for name, text in PROGRAMS.items():
        lines = [line[8:] for line in text.splitlines()]
        (lab.folder / name).write_text("\n".join(lines) + "\n")


def run_job(lab, name):
    """Run a program in a notebook of its own until its job has ended."""
    lab.open(f"{name}.ipynb", JOB.replace("NAME", name))
    lab.run_cell(0)
    lab.page.locator(NOTEBOOK).get_by_text("Completed", exact=True).first.wait_for()


def test_a_job_is_shown_with_its_metrics_its_details_and_what_comes_next(lab):
    run_job(lab, "dicts")
    lab.command("application:toggle-left-area")
    lab.page.locator(PICTURE).wait_for()
    lab.text("lr = 0.5, note = <img src=x onerror=alert(1)>").wait_for()
    lab.text("Deploy: the job is Completed and left no model").wait_for()
    assert lab.button("Deploy").is_disabled()
    for theme in ("Light", "Dark"):
        lab.set_theme(theme)
        for width in (1000, 600):
            lab.set_width(width)
            lab.screenshot(f"monitor-{theme}-{width}")
    lab.set_width(1000)
    lab.set_theme("Light")
    lab.button("Launch again").click()
    lab.button("Check").wait_for()
    assert lab.page.get_by_label("lr").first.input_value() == "0.5"
    lab.screenshot("monitor-launch-again")
    lab.button("Compare").first.click()
    lab.button("Refresh").wait_for()
    lab.screenshot("monitor-compare")


def test_files_of_metrics_are_plotted_and_a_job_without_any_says_how_to_print_them(lab):
    run_job(lab, "table")
    lab.page.locator(PICTURE).wait_for()
    lab.screenshot("monitor-files")
    run_job(lab, "silent")
    lab.text("No metrics are recognized in the log").wait_for()
    lab.screenshot("monitor-silent")


def test_a_name_that_no_job_has_is_answered_with_a_near_one(lab):
    lab.open("near.ipynb", "from mlkit.notebook import monitor\nmonitor('dict')", "monitor('dicts')")
    lab.run_cell(0)
    lab.text("training job 'dict' not found on this machine: did you mean 'dicts'?").wait_for()
    lab.run_cell(1)
    lab.text("Launch again: the job was found by its name").wait_for()
    assert lab.button("Launch again").is_disabled()
    lab.screenshot("monitor-near")


DEPLOYED = """
import torch
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.notebook import monitor
x = torch.randn(64, 4)
data = {'training': (x, (x.sum(1) > 0).long())}
job = TrainingJob({'epochs': 5, 'output_dim': 2}, channels=data, name='built-in').run()
job_monitor = monitor(job)
job_monitor
"""


@pytest.mark.long
def test_a_model_is_deployed_by_a_button(lab):
    lab.open("deploy.ipynb", DEPLOYED, "job_monitor.next_steps.endpoint.delete()")
    lab.run_cell(0)
    lab.page.locator(PICTURE).wait_for()
    lab.button("Deploy").click()
    lab.text("answers: playground(").wait_for()
    lab.screenshot("monitor-deployed")
    lab.run_cell(1)


def test_the_console_has_no_error(lab):
    assert lab.console_errors == []
