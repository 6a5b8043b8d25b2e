"""The widgets in JupyterLab, clicked in Chromium.

`--screenshots FOLDER` saves a picture of each state. The tests build on each other: they share one browser.
"""

import nbformat
import pytest
from browser import LIVE_PLOT, NOTEBOOK, PICTURE, needs_chromium

pytestmark = needs_chromium

SLOW = """
import time
from dataclasses import dataclass
from mlkit.sagemaker_entry import entry_point

@dataclass
class Config:
    epochs: int = 3

@entry_point
def main(config: Config):
    for n in range(1, config.epochs + 1):
        print(f'[metrics] epoch={n} train_loss={1 / n} valid_loss={1.2 / n} valid_accuracy={1 - .5 / n}', flush=True)
        time.sleep(.15)

if __name__ == '__main__':
    main()
"""

LAUNCH = """
from dataclasses import dataclass
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.notebook import launcher

@dataclass
class Config:
    epochs: int = 3  # passes over the data

launcher(TrainingJob(Config(), source='src'))
"""


@pytest.fixture(scope="module", autouse=True)
def programs(lab):
    """The programs that the notebooks launch."""
    (lab.folder / "src").mkdir()
    (lab.folder / "src" / "train.py").write_text(SLOW)
    (lab.folder / "fail.py").write_text('def last_layer(x): return x.no_such\nprint("begins")\nlast_layer(3)\n')


def test_a_form_launches_a_job_that_is_followed_and_stopped(lab):
    lab.open("launch.ipynb", LAUNCH)
    lab.command("application:toggle-left-area")
    lab.run_all()
    epochs = lab.page.get_by_label("epochs")
    epochs.fill("many")
    epochs.blur()
    lab.text("expected int, got 'many'").wait_for()
    epochs.fill("300")
    epochs.blur()
    lab.button("Check").click()
    lab.text("No problems found").wait_for()
    lab.screenshot("form")
    lab.button("Launch").dblclick()  # two clicks launch one job
    lab.wait_for_plot_update()
    lab.wait_for_plot_update()
    lab.screenshot("running")
    lab.button("Stop").click()
    lab.button("Yes, stop it").click()
    lab.text("Stopped").wait_for()
    lab.page.locator(PICTURE).wait_for()
    lab.screenshot("stopped")
    assert len(lab.local.list_training_jobs()["TrainingJobSummaries"]) == 1


LONG_JOB = """
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.notebook import monitor
monitor(TrainingJob({'epochs': 400}, source='src', name='long').run())
"""


def test_a_page_that_is_reloaded_shows_the_job_again(lab):
    lab.open("reload.ipynb", LONG_JOB)
    lab.run_all()
    lab.wait_for_plot_update()
    lab.command("docmanager:save")
    lab.page.reload()
    lab.wait_for_kernel()
    lab.wait_for_plot_update()
    lab.button("Stop").wait_for()


def test_a_job_outlives_the_kernel_and_is_found_by_its_name(lab):
    lab.open("again.ipynb", "from mlkit.notebook import monitor\nlong_monitor = monitor('long')\nlong_monitor")
    lab.run_all()
    lab.wait_for_plot_update()
    lab.page.evaluate(
        "async () => { await window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.restart() }"
    )
    lab.wait_for_kernel()
    lab.run_all()
    lab.wait_for_plot_update()
    lab.button("Stop").last.click()
    lab.button("Yes, stop it").last.click()
    lab.text("Stopped").wait_for()


FAILING_JOB = """
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.notebook import monitor
monitor(TrainingJob(source='fail.py', name='failing').run())
"""


def test_a_job_that_fails_shows_the_users_traceback(lab):
    lab.open("fails.ipynb", FAILING_JOB)
    lab.run_all()
    lab.text("AttributeError: 'int' object has no attribute 'no_such'").wait_for()
    lab.text("AlgorithmError").wait_for()
    lab.screenshot("failed")
    lab.page.get_by_placeholder("filter the log").fill("begins")
    lab.page.get_by_role("log").get_by_text("AttributeError").wait_for(state="detached")


TRAIN = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from mlkit.model import MyCustomModel
from mlkit.notebook import train_widget

x = torch.randn(2000, 10)
data = TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())
train_widget(
    MyCustomModel(10, 50, 2),
    DataLoader(data, 8, shuffle=True),
    epochs=10**6,
    learning_rate=0.005,
    valid_loader=DataLoader(data, 500),
)
"""


def test_training_in_the_kernel_with_the_dark_theme(lab):
    lab.open("train.ipynb", TRAIN)
    lab.set_theme("Dark")
    lab.run_all()
    lab.wait_for_plot_update()
    title = lab.page.locator(f"{LIVE_PLOT} text").first
    brightness = title.evaluate(
        "e => getComputedStyle(e).fill.match(/[0-9.]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 3"
    )
    assert brightness > 180, brightness
    lab.screenshot("dark")
    lab.button("Stop").click()
    lab.page.locator(PICTURE).wait_for()
    lab.screenshot("trained")
    lab.set_theme("Light")
    lab.command("docmanager:save")


def test_a_saved_notebook_shows_the_picture_to_a_person_who_does_not_trust_it(lab):
    outputs = lab.saved_outputs("train.ipynb")
    picture = next(output for output in outputs if "mlkit-figure" in output.data.get("text/html", ""))
    assert "Stop after" in picture.data["text/plain"]
    copy = nbformat.read(lab.folder / "train.ipynb", 4)
    copy.cells[0].outputs = outputs
    copy.metadata["changed"] = "by somebody else"
    copy.cells[0].source += "\n# changed"
    nbformat.write(copy, lab.folder / "copy.ipynb")  # not signed, so JupyterLab does not trust it
    lab.open("copy.ipynb")
    assert lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.widgets[0].model.trusted") is False
    image = lab.page.locator(f"{PICTURE} img")
    image.wait_for()
    assert image.evaluate("e => e.naturalWidth") > 300
    lab.screenshot("reopened")


PLAY = """
import io
import torch
from mlkit.model import MyCustomModel
from mlkit.notebook import playground, runs
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.client.deployment import deploy

bundle = build_bundle(MyCustomModel(4, 8, 2), out='model.tar.gz', sample=torch.zeros(1, 4))
endpoint = deploy(bundle, name='iris', out=io.StringIO())
playground(endpoint)
"""


def test_an_endpoint_answers_and_jobs_are_compared(lab):
    lab.open("play.ipynb", PLAY, "runs()", "endpoint.delete()")
    for i in (0, 1):
        lab.run_cell(i)
    lab.button("Send").click()
    lab.text("outside the handlers").wait_for()
    lab.page.get_by_label("long").check()
    lab.button("Compare").click()
    lab.text(" by epoch of 1 run; the best is ").wait_for()
    lab.screenshot("playground")
    lab.run_cell(2)


def test_the_console_has_no_error(lab):
    assert lab.console_errors == []
