"""What the monitor shows in JupyterLab: metrics of any program, details of the job, and what comes next.

`--screenshots FOLDER` saves a picture of each state. The tests share one notebook.
"""

import re

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
JOBS = """
from dataclasses import dataclass
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.notebook import monitor

@dataclass
class Config:
    epochs: int = 3
    lr: float = 0.001
    note: str = "a default"

config = Config(lr=0.5, note="<img src=x onerror=alert(1)>")
jobs = {name: TrainingJob(config, source=f"{name}.py", name=name).run() for name in ("dicts", "table", "silent")}
"""
CELLS = [JOBS, *(f"monitor(jobs['{name}'])" for name in ("dicts", "table", "silent"))]
CELLS += ["monitor('dict')", "monitor('dicts')"]
ACTIVE = f"{NOTEBOOK} .jp-Cell.jp-mod-active"


@pytest.fixture(scope="module", autouse=True)
def notebook(lab):
    """The notebook of all tests, and the programs that it runs."""
    for name, text in PROGRAMS.items():
        (lab.folder / name).write_text("\n".join(line[8:] for line in text.splitlines()) + "\n")
    lab.open("monitor.ipynb", *CELLS)
    lab.command("application:toggle-left-area")
    lab.run_cell(0)


def text_of_cell(lab, text):
    return lab.page.locator(ACTIVE).get_by_text(text).first


def button_of_cell(lab, name):
    buttons = lab.page.locator(f"{ACTIVE} button.jupyter-button", has_text=re.compile(rf"^\s*{name}$"))
    return buttons.first


def test_a_job_is_shown_with_its_metrics_its_details_and_what_comes_next(lab):
    lab.run_cell(1)
    lab.page.locator(PICTURE).wait_for()
    text_of_cell(lab, "lr = 0.5, note = <img src=x onerror=alert(1)>").wait_for()
    text_of_cell(lab, "Deploy: the job is Completed and left no model").wait_for()
    assert button_of_cell(lab, "Deploy").is_disabled()
    for theme in ("Light", "Dark") if lab.screenshots else ():
        lab.set_theme(theme)
        for width in (600, 1000):
            lab.set_width(width)
            lab.screenshot(f"monitor-{theme}-{width}")
    button_of_cell(lab, "Launch again").click()
    button_of_cell(lab, "Check").wait_for()
    assert lab.page.locator(ACTIVE).get_by_label("lr").first.input_value() == "0.5"
    lab.screenshot("monitor-launch-again")
    button_of_cell(lab, "Compare").click()
    button_of_cell(lab, "Refresh").wait_for()
    lab.screenshot("monitor-compare")


def test_files_of_metrics_are_plotted(lab):
    lab.run_cell(2)
    lab.page.locator(f"{ACTIVE} .jp-OutputArea-output .mlkit-figure").wait_for()
    lab.screenshot("monitor-files")


def test_a_job_without_metrics_says_how_to_print_them(lab):
    lab.run_cell(3)
    text_of_cell(lab, "No metrics are recognized in the log").wait_for()
    lab.screenshot("monitor-silent")


def test_a_name_that_no_job_has_is_answered_with_a_near_one(lab):
    lab.run_cell(4)
    text_of_cell(lab, "training job 'dict' not found on this machine: did you mean 'dicts'?").wait_for()
    lab.run_cell(5)
    text_of_cell(lab, "Launch again: the job was found by its name").wait_for()
    assert button_of_cell(lab, "Launch again").is_disabled()
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
