"""The widgets in JupyterLab, clicked in Chromium.

`--screenshots FOLDER` saves a picture of each state. The tests build on each other: they share one browser.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest
from helpers import free_port

from mlkit.sagemaker.local.client import LocalSageMaker

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)"  # the notebook that is visible
LIVE_PLOT = f"{NOTEBOOK} svg[role=img]"
PICTURE = f"{NOTEBOOK} .jp-OutputArea-output img"  # what replaces a live plot at the end

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


class Lab:
    """JupyterLab with one notebook open in a browser."""

    def __init__(self, page, url, folder, local, screenshots):
        self.page = page
        self.url = url
        self.folder = folder
        self.local = local  # the LocalSageMaker that the notebooks use
        self.screenshots = screenshots
        self.console_errors = []
        page.on("console", self._record_console_message)
        page.on("pageerror", lambda error: self.console_errors.append(("pageerror", str(error))))

    def _record_console_message(self, message):
        if message.type == "error":
            self.console_errors.append((message.type, message.text))

    def open(self, name, *cells):
        """Open a notebook and wait for its kernel. Write the notebook first if cells are passed."""
        if cells:
            notebook = nbformat.v4.new_notebook(
                cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell).strip()) for cell in cells],
                metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            )
            nbformat.write(notebook, self.folder / name)
        self.page.goto(f"{self.url}/lab/tree/{name}?reset")
        self.wait_for_kernel()

    def wait_for_kernel(self):
        self.page.wait_for_function("window.jupyterapp && window.jupyterapp.restored.then(() => true)")
        self.page.locator(NOTEBOOK).wait_for()
        self.page.wait_for_function("""async () => {
            const panel = window.jupyterapp.shell.currentWidget
            const session = panel && panel.context && panel.context.sessionContext
            if (!session) return false
            await panel.context.ready
            await session.ready
            const kernel = session.session && session.session.kernel
            return !!kernel && kernel.connectionStatus === 'connected' && kernel.status === 'idle'
        }""")

    def command(self, name, **args):
        """Execute a command of JupyterLab."""
        self.page.evaluate(
            "async ([name, args]) => { await window.jupyterapp.commands.execute(name, args); return null }",
            [name, args],
        )

    def run_all(self):
        """Start all cells, without waiting for them."""
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")

    def run_cell(self, i):
        """Run one cell until it has ended."""
        self.page.evaluate(
            """async i => {
                window.jupyterapp.shell.currentWidget.content.activeCellIndex = i
                await window.jupyterapp.commands.execute('notebook:run-cell')
                return null
            }""",
            i,
        )

    def button(self, name):
        return self.page.locator(f"{NOTEBOOK} button.jupyter-button", has_text=re.compile(rf"^\s*{name}$"))

    def text(self, text):
        return self.page.locator(NOTEBOOK).get_by_text(text).first

    def saved_outputs(self, name):
        return [output for cell in nbformat.read(self.folder / name, 4).cells for output in cell.outputs]

    def plot_summary(self):
        """Return the summary of the live plot: its label for a screen reader."""
        plot = self.page.locator(LIVE_PLOT).last
        try:
            plot.wait_for()
        except Exception as e:
            content = self.page.locator(NOTEBOOK).inner_text()[-3000:]
            raise AssertionError(
                f"no live plot in the notebook:\n{content}\nconsole errors: {self.console_errors}"
            ) from e
        return plot.get_attribute("aria-label")

    def wait_for_plot_update(self):
        """Wait until the live plot has changed."""
        self.page.wait_for_function(
            """([selector, summary]) => {
                const plots = document.querySelectorAll(selector)
                return plots.length && plots[plots.length - 1].getAttribute("aria-label") !== summary
            }""",
            arg=[LIVE_PLOT, self.plot_summary()],
        )

    def screenshot(self, name):
        if self.screenshots:
            self.page.screenshot(path=Path(self.screenshots) / f"{name}.png")


@pytest.fixture(scope="module")
def lab(tmp_path_factory, request):
    """JupyterLab with the programs of this page in its folder, and Chromium."""
    from playwright.sync_api import sync_playwright

    home = tmp_path_factory.mktemp("jupyter")
    folder = tmp_path_factory.mktemp("notebooks")
    port = free_port()
    (folder / "src").mkdir()
    (folder / "src" / "train.py").write_text(SLOW)
    (folder / "fail.py").write_text('def last_layer(x): return x.no_such\nprint("begins")\nlast_layer(3)\n')
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false, "doNotDisturbMode": true}'
    )
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "MLKIT_LOCAL": "mlkit",
    }
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=",
    ]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(
            command,
            env=os.environ | {name: str(home / folder_name) for name, folder_name in folders.items()},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for_server(f"http://127.0.0.1:{port}/api/status", server, home / "log")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
            )
            page = browser.new_context(viewport={"width": 1000, "height": 1100}).new_page()
            page.set_default_timeout(60_000)
            local = LocalSageMaker(home / "mlkit")
            yield Lab(page, f"http://127.0.0.1:{port}", folder, local, request.config.getoption("--screenshots"))
            browser.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def wait_for_server(url, server, log):
    """Wait until a server answers; fail with the end of its log if it exits or takes two minutes."""
    started_at = time.monotonic()
    while True:
        with contextlib.suppress(OSError):
            urlopen(url).close()
            return
        assert server.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() - started_at < 120, log.read_text()[-3000:]
        time.sleep(0.1)


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
    lab.command("apputils:change-theme", theme="JupyterLab Dark")
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
    lab.command("apputils:change-theme", theme="JupyterLab Light")
    lab.command("docmanager:save")


def test_a_saved_notebook_shows_the_picture_to_a_person_who_does_not_trust_it(lab):
    outputs = lab.saved_outputs("train.ipynb")
    picture = next(output for output in outputs if "image/png" in output.data)
    assert "Stop after" in picture.data["text/plain"]
    copy = nbformat.read(lab.folder / "train.ipynb", 4)
    copy.cells[0].outputs = outputs
    copy.metadata["changed"] = "by somebody else"
    copy.cells[0].source += "\n# changed"
    nbformat.write(copy, lab.folder / "copy.ipynb")  # not signed, so JupyterLab does not trust it
    lab.open("copy.ipynb")
    assert lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.widgets[0].model.trusted") is False
    image = lab.page.locator(PICTURE)
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
    lab.page.locator(f"{NOTEBOOK} .jupyter-widgets img, {NOTEBOOK} img.jupyter-widgets").first.wait_for()
    lab.screenshot("playground")
    lab.run_cell(2)


def test_the_console_has_no_error(lab):
    assert lab.console_errors == []
