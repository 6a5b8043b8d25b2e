"""What JupyterLab shows of a sweep while its trials run, and what stays in the notebook.

`--screenshots FOLDER` saves a picture of each state. The tests build on each other: they share one notebook.
"""

import pytest
from browser import CONTRASTS, NOTEBOOK, PICTURE, needs_chromium

pytestmark = needs_chromium

SWEEP = """
import math, random
from mlkit.notebook import monitor
from mlkit.sagemaker.client.sweeps import Sweep
from mlkit.sagemaker.search.trials import Trial

class Trials:
    "Stands for what runs the trials of a sweep: at each look there is one more."

    target = None
    reason = ""

    def __init__(self):
        self.status = "InProgress"
        self.made = []
        self.random = random.Random(3)

    def trials(self):
        number = len(self.made)
        if self.status == "InProgress" and number < 40:
            lr = 10 ** self.random.uniform(-5, -1)
            width, norm = self.random.choice([8, 16, 32]), self.random.choice(["batch", "<b>"])
            parameters = {"lr": lr, "width": width, "norm": norm}
            end = 0.1 * abs(math.log10(lr) + 2) + 0.6 / width
            curve = [end + math.exp(-epoch / 2) for epoch in range(8 if end < 0.3 else 3)]
            self.made.append(Trial(number, parameters, "completed" if end < 0.3 else "stopped", curve, seconds=2.0))
            if number == 4:
                self.made[4] = Trial(4, parameters, "failed", [], "ValueError: <b>no data</b>")
        return list(self.made)

    def stop(self):
        self.status = "Stopped"

def train(config):
    return 0.0

space = {"lr": dict(range=(1e-5, 1e-1), log=True), "width": [8, 16, 32], "norm": ["batch", "<b>"]}
sweep = Sweep(train, space, config={"lr": 0.1, "width": 8, "norm": "batch"}, trials=40, name="digits")
sweep
"""
RUNNING = "sweep.backend = Trials()\nmonitor(sweep, interval=0.3)"
LIVE = f"{NOTEBOOK} .jupyter-widgets.mlkit-sweep"


@pytest.fixture(scope="module", autouse=True)
def notebook(lab):
    lab.open("sweep.ipynb", SWEEP, RUNNING, "sweep")
    lab.command("application:toggle-left-area")
    lab.run_cell(0)


def titles(lab):
    """Return the titles of the plots."""
    return lab.page.locator(f"{LIVE} .ms-panel b").all_text_contents()


def test_a_sweep_that_was_not_started_is_shown_as_text(lab):
    lab.text("Sweep digits: bayesian, 40 trials, not started").wait_for()


def test_the_trials_of_a_running_sweep_are_shown(lab):
    lab.run_cell(1)
    lab.page.locator(f"{LIVE} .ms-bars i").first.wait_for()  # after eight trials with a value
    for theme in ("Light", "Dark") if lab.screenshots else ():
        lab.set_theme(theme)
        for width in (600, 1000):
            lab.set_width(width)
            lab.page.wait_for_timeout(700)
            lab.page.locator(LIVE).scroll_into_view_if_needed()
            lab.screenshot(f"sweep-{theme}-{width}")
    lab.set_theme("Light")
    assert sorted(titles(lab)) == ["importance", "lr", "norm", "valid_loss by trial", "width"]
    reason = lab.page.locator(f"{LIVE} td.ms-reason").filter(has_text="ValueError")
    assert reason.inner_text() == "ValueError: <b>no data</b>"
    assert lab.page.locator(f"{LIVE} .ms-lines g").count() > 8


def test_one_hyperparameter_is_chosen(lab):
    lab.page.locator(f"{LIVE} select").select_option("width")
    lab.page.wait_for_function(
        "selector => document.querySelectorAll(selector).length === 3", arg=f"{LIVE} .ms-panel b"
    )
    assert sorted(titles(lab)) == ["importance", "valid_loss by trial", "width"]


def test_a_sweep_is_stopped_after_a_question_and_stays_in_the_notebook(lab):
    lab.button("Stop").click()
    lab.text("Stop this sweep?").wait_for()
    lab.button("No").click()
    lab.button("Stop").click()
    lab.screenshot("sweep-question")
    lab.button("Yes, stop it").click()
    picture = lab.page.locator(PICTURE)
    picture.wait_for()
    assert lab.page.locator(LIVE).count() == 0
    assert "Stopped" in picture.inner_text()
    assert picture.locator("table tbody tr").count() > 8
    lab.screenshot("sweep-saved")
    lab.command("docmanager:save")
    outputs = [output for output in lab.saved_outputs("sweep.ipynb") if "data" in output]
    saved = next(output for output in outputs if "data:image/png;base64," in "".join(output.data["text/html"]))
    assert "".join(saved.data["text/plain"]).startswith("digits: Stopped, this machine\n")


@pytest.mark.parametrize("theme", ["Dark", "Light"])
def test_text_and_curves_can_be_read(lab, theme):
    lab.set_theme(theme)
    results = lab.page.evaluate(CONTRASTS, f"{PICTURE} .mlkit-sweep")
    texts = [result for result in results if result["isText"]]
    curves = [result for result in results if not result["isText"]]
    assert len(texts) > 100 and len(curves) > 5
    assert [text for text in texts if text["contrast"] < 4.5 or text["size"] < 10] == []
    assert [curve for curve in curves if curve["contrast"] < 3] == []


def test_a_sweep_at_the_end_of_a_cell_is_shown_as_well(lab):
    lab.run_cell(2)
    lab.page.locator(PICTURE).nth(1).wait_for()
    assert lab.page.locator(PICTURE).nth(1).locator("table tbody tr").count() > 8
    assert lab.console_errors == []
