"""The widgets as a person has them: JupyterLab, and Chromium that clicks

`--screenshots FOLDER` leaves a picture of each state.
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
from test_server import free_port

from mlkit.sagemaker.local.client import LocalSageMaker

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)"

SLOW = """
import time
from dataclasses import dataclass
from mlkit.sagemaker_entry import entry_point

@dataclass
class Config:
    epochs: int = 3

@entry_point
def main(config: Config):
    for i in range(config.epochs):
        print(f'[metrics] epoch={i+1} train_loss={1/(i+1)} valid_loss={1.2/(i+1)} valid_accuracy={1-.5/(i+1)}', flush=True)
        time.sleep(.15)

if __name__ == '__main__': main()
"""

LAUNCH = """
from dataclasses import dataclass
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.notebook.launcher import launcher

@dataclass
class Config:
    epochs: int = 3 # passes over the data

launcher(TrainingJob(Config(), source='src'))
"""


class Lab:
    """JupyterLab with a notebook open in a browser"""

    def __init__(self, page, url, folder, local, pictures):
        self.page = page
        self.url = url
        self.folder = folder
        self.local = local
        self.pictures = pictures
        self.said = []
        page.on("console", lambda m: self.said.append((m.type, m.text)) if m.type == "error" else None)
        page.on("pageerror", lambda e: self.said.append(("pageerror", str(e))))

    def open(self, name, *cells):
        """Open a notebook, a new one where cells are given, and wait for its kernel"""
        if cells:
            made = nbformat.v4.new_notebook(
                cells=[nbformat.v4.new_code_cell(textwrap.dedent(c).strip()) for c in cells],
                metadata=dict(kernelspec=dict(name="python3", display_name="Python 3", language="python")),
            )
            nbformat.write(made, self.folder / name)
        self.page.goto(f"{self.url}/lab/tree/{name}?reset")
        self.connected()

    def connected(self):
        self.page.wait_for_function("window.jupyterapp && window.jupyterapp.restored.then(() => true)")
        self.page.locator(NOTEBOOK).wait_for()
        self.page.wait_for_function("""async () => {
            const shown = window.jupyterapp.shell.currentWidget, session = shown && shown.context && shown.context.sessionContext
            if (!session) return false
            await shown.context.ready
            await session.ready
            const kernel = session.session && session.session.kernel
            return !!kernel && kernel.connectionStatus === 'connected' && kernel.status === 'idle'
        }""")

    def command(self, name, **args):
        self.page.evaluate(
            "async ([name, args]) => { await window.jupyterapp.commands.execute(name, args); return null }",
            [name, args],
        )

    def run(self):
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")

    def run_cell(self, i):
        """Run one cell, until it has ended"""
        self.page.evaluate(
            (
                "async i => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = i; await "
                "window.jupyterapp.commands.execute('notebook:run-cell'); return null }"
            ),
            i,
        )

    def button(self, name):
        return self.page.locator(f"{NOTEBOOK} button.jupyter-button", has_text=re.compile(rf"^\s*{name}$"))

    def text(self, what):
        return self.page.locator(NOTEBOOK).get_by_text(what).first

    def saved(self, name):
        return [o for c in nbformat.read(self.folder / name, 4).cells for o in c.outputs]

    def curve(self):
        """What the live plot says of itself"""
        plot = self.page.locator(f"{NOTEBOOK} svg[role=img]").last
        try:
            plot.wait_for()
        except Exception as e:
            raise AssertionError(
                f"there is no plot; the notebook says:\n{self.page.locator(NOTEBOOK).inner_text()[-3000:]}\nthe "
                f"console: {self.said}"
            ) from e
        return plot.get_attribute("aria-label")

    def moves(self):
        """Wait until the plot says something else"""
        before = self.curve()
        self.page.wait_for_function(
            (
                "([where, before]) => { const all = document.querySelectorAll(where); return all.length && "
                'all[all.length-1].getAttribute("aria-label") !== before }'
            ),
            arg=[f"{NOTEBOOK} svg[role=img]", before],
        )

    def picture(self, name):
        if self.pictures:
            self.page.screenshot(path=Path(self.pictures) / f"{name}.png")


@pytest.fixture(scope="module")
def lab(tmp_path_factory, request):
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
    places = dict(
        JUPYTER_CONFIG_DIR="config",
        JUPYTER_DATA_DIR="data",
        JUPYTER_RUNTIME_DIR="runtime",
        IPYTHONDIR="ipython",
        JUPYTERLAB_SETTINGS_DIR="settings",
        JUPYTERLAB_WORKSPACES_DIR="workspaces",
        MLKIT_LOCAL="mlkit",
    )
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
            env=os.environ | {k: str(home / v) for k, v in places.items()},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        began = time.monotonic()
        while True:
            with contextlib.suppress(OSError):
                urlopen(f"http://127.0.0.1:{port}/api/status").close()
                break
            assert server.poll() is None and time.monotonic() - began < 120, (home / "log").read_text()[-3000:]
            time.sleep(0.1)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
            )
            page = browser.new_context(viewport=dict(width=1000, height=1100)).new_page()
            page.set_default_timeout(60_000)
            yield Lab(
                page,
                f"http://127.0.0.1:{port}",
                folder,
                LocalSageMaker(home / "mlkit"),
                request.config.getoption("--screenshots"),
            )
            browser.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def test_a_form_launches_a_job_that_is_followed_and_stopped(lab):
    lab.open("launch.ipynb", LAUNCH)
    lab.command("application:toggle-left-area")
    lab.run()
    epochs = lab.page.get_by_label("epochs")
    epochs.fill("many")
    epochs.blur()
    lab.text("expected int, got 'many'").wait_for()
    epochs.fill("300")
    epochs.blur()
    lab.button("Check").click()
    lab.text("Nothing was found that the job would fail with").wait_for()
    lab.picture("form")
    lab.button("Launch").dblclick()  # twice does not launch twice
    lab.moves()
    lab.moves()
    lab.picture("running")
    lab.button("Stop").click()
    lab.button("Yes, stop it").click()
    lab.text("Stopped").wait_for()
    lab.page.locator(f"{NOTEBOOK} .jp-OutputArea-output img").wait_for()  # a picture stays
    lab.picture("stopped")
    assert len(lab.local.list_training_jobs()["TrainingJobSummaries"]) == 1


def test_a_page_that_is_loaded_again(lab):
    lab.open(
        "reload.ipynb",
        (
            "from mlkit.sagemaker.client.jobs import TrainingJob\nfrom mlkit.notebook.monitor import monitor\n"
            "monitor(TrainingJob({'epochs': 400}, source='src', name='long').run())"
        ),
    )
    lab.run()
    lab.moves()
    lab.command("docmanager:save")
    lab.page.reload()
    lab.connected()
    lab.moves()
    lab.button("Stop").wait_for()


def test_a_kernel_that_is_restarted(lab):
    """The job of before goes on, and is found again by its name"""
    lab.open("again.ipynb", "from mlkit.notebook.monitor import monitor\nshown = monitor('long')\nshown")
    lab.run()
    lab.moves()
    lab.page.evaluate(
        "async () => { await window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.restart() }"
    )
    lab.connected()
    lab.run()
    lab.moves()
    lab.button("Stop").last.click()
    lab.button("Yes, stop it").last.click()
    lab.text("Stopped").wait_for()


def test_a_job_that_fails_shows_the_users_traceback(lab):
    lab.open(
        "fails.ipynb",
        (
            "from mlkit.sagemaker.client.jobs import TrainingJob\nfrom mlkit.notebook.monitor import monitor\n"
            "monitor(TrainingJob(source='fail.py', name='failing').run())"
        ),
    )
    lab.run()
    lab.text("AttributeError: 'int' object has no attribute 'no_such'").wait_for()
    lab.text("AlgorithmError").wait_for()
    lab.picture("failed")
    lab.page.get_by_placeholder("filter the log").fill("begins")
    lab.page.get_by_role("log").get_by_text("AttributeError").wait_for(state="detached")


TRAIN = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from mlkit.model import MyCustomModel
from mlkit.notebook.train_widget import train_widget
x = torch.randn(2000, 10)
data = TensorDataset(x, (x[:, 0]*x[:, 1] > 0).long())
train_widget(MyCustomModel(10, 50, 2), DataLoader(data, 8, shuffle=True), epochs=10**6, learning_rate=.005, valid_loader=DataLoader(data, 500))
"""


def test_training_in_the_kernel_in_the_dark(lab):
    lab.open("train.ipynb", TRAIN)
    lab.command("apputils:change-theme", theme="JupyterLab Dark")
    lab.run()
    lab.moves()
    title = lab.page.locator(f"{NOTEBOOK} svg[role=img] text").first
    brightness = title.evaluate(
        "e => getComputedStyle(e).fill.match(/[0-9.]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 3"
    )
    assert brightness > 180, brightness
    lab.picture("dark")
    lab.button("Stop").click()
    lab.page.locator(f"{NOTEBOOK} .jp-OutputArea-output img").wait_for()
    lab.picture("trained")
    lab.command("apputils:change-theme", theme="JupyterLab Light")
    lab.command("docmanager:save")


def test_what_a_saved_notebook_shows_to_others(lab):
    shown = lab.saved("train.ipynb")
    assert "Stop after" in next(o for o in shown if "image/png" in o.data).data["text/plain"]
    others = nbformat.read(lab.folder / "train.ipynb", 4)
    others.cells[0].outputs = shown
    others.metadata["changed"] = "by somebody else"
    others.cells[0].source += "\n# changed"
    nbformat.write(others, lab.folder / "others.ipynb")  # not signed: JupyterLab does not trust it
    lab.open("others.ipynb")
    assert lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.widgets[0].model.trusted") is False
    image = lab.page.locator(f"{NOTEBOOK} .jp-OutputArea-output img")
    image.wait_for()
    assert image.evaluate("e => e.naturalWidth") > 300
    lab.picture("reopened")


PLAY = """
import io, torch
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.client.deployment import deploy
from mlkit.model import MyCustomModel
from mlkit.notebook.playground import playground
from mlkit.notebook.runs import runs
endpoint = deploy(build_bundle(MyCustomModel(4, 8, 2), out='model.tar.gz', sample=torch.zeros(1, 4)), name='iris', out=io.StringIO())
playground(endpoint)
"""


def test_an_endpoint_is_tried(lab):
    lab.open("play.ipynb", PLAY, "runs()", "endpoint.delete()")
    for i in (0, 1):
        lab.run_cell(i)
    lab.button("Send").click()
    lab.text("the way there and back").wait_for()
    lab.page.get_by_label("long").check()
    lab.button("Compare").click()
    lab.page.locator(f"{NOTEBOOK} .jupyter-widgets img, {NOTEBOOK} img.jupyter-widgets").first.wait_for()
    lab.picture("playground")
    lab.run_cell(2)


def test_the_console_has_no_error(lab):
    assert lab.said == []
