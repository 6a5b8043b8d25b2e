"""JupyterLab with one notebook open in Chromium, for the tests of the widgets."""

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
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
NOTEBOOK = ".jp-NotebookPanel:not(.lm-mod-hidden)"  # the notebook that is visible
LIVE_PLOT = f"{NOTEBOOK} .jupyter-widgets .mk-panels"
PICTURE = f"{NOTEBOOK} .jp-OutputArea-output:has(.mlkit-figure)"  # what replaces a live plot at the end


# Returns the contrast of each text and line within a selector to what is behind it, and the size of each text.
CONTRASTS = """selector => {
    const color = text => {
        const numbers = text.match(/[0-9.]+/g).map(Number)
        const scale = text.startsWith('color(') ? 255 : 1  // of color(srgb 1 1 1 / 1)
        return [...numbers.slice(0, 3).map(n => n * scale), numbers.length > 3 ? numbers[3] : 1]
    }
    const over = (top, ground) => top.slice(0, 3).map((c, i) => c * top[3] + ground[i] * (1 - top[3]))
    const ground = element => {
        if (!element) return [255, 255, 255]
        const top = color(getComputedStyle(element).backgroundColor)
        return top[3] === 1 ? top : over(top, ground(element.parentElement))
    }
    const luminance = rgb => {
        const [r, g, b] = rgb.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const contrast = (top, below) => {
        const [dark, light] = [luminance(over(top, below)), luminance(below)].sort((a, b) => a - b)
        return (light + 0.05) / (dark + 0.05)
    }
    const hasText = e => [...e.childNodes].some(node => node.nodeType === 3 && node.data.trim())
    const results = []
    for (const root of document.querySelectorAll(selector)) for (const e of root.querySelectorAll('*')) {
        if (e.closest('style, defs') || !e.getClientRects().length) continue
        const style = getComputedStyle(e)
        const isDrawn = e.namespaceURI.endsWith('svg')
        if (hasText(e)) {
            const scale = isDrawn ? Math.hypot(e.getScreenCTM().b, e.getScreenCTM().d) : 1
            results.push({
                what: e.textContent.slice(0, 40), size: parseFloat(style.fontSize) * scale,
                contrast: contrast(color(isDrawn ? style.fill : style.color), ground(e)), isText: true,
            })
        } else if ((e.matches('polyline, .mk-lines path') && style.opacity === '1')
                || e.matches('i[style*=border-top], path[clip-path]')) {
            const stroke = isDrawn ? style.stroke : style.borderTopColor
            const isHole = e.matches('path[stroke*=layout-color0]')  // within the circle around the best value
            if (stroke === 'none' || style.strokeOpacity < 1 || isHole) continue
            results.push({what: e.outerHTML.slice(0, 200), contrast: contrast(color(stroke), ground(e)), isText: false})
        }
    }
    return results
}"""


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
        page.on("pageerror", self._record_page_error)

    def _record_console_message(self, message):
        if message.type == "error":
            self.console_errors.append((message.type, message.text))

    def _record_page_error(self, error):
        if "Kernel message validation error" in str(error):
            return  # rarely, after a reload: JupyterLab cannot read a message of the kernel; the cause is not known
        self.console_errors.append(("pageerror", error.stack or str(error)))

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

    def set_theme(self, theme):
        """Change the theme of JupyterLab to 'Light' or 'Dark', and wait until the page has its colors."""
        self.command("apputils:change-theme", theme=f"JupyterLab {theme}")
        attribute = "true" if theme == "Light" else "false"
        self.page.locator(f'body[data-jp-theme-light="{attribute}"]').wait_for(state="attached")
        self.page.wait_for_function(
            "dark => getComputedStyle(document.body).getPropertyValue('--jp-layout-color0').includes('#111') === dark",
            arg=theme == "Dark",
        )
        # JupyterLab covers the page meanwhile. A second change before the cover is gone removes it twice, which fails.
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")

    def set_width(self, width):
        """Change the width of the page to so many pixels."""
        self.page.set_viewport_size({"width": width, "height": 1100})

    def screenshot(self, name):
        if self.screenshots:
            self.page.screenshot(path=Path(self.screenshots) / f"{name}.png")


@contextlib.contextmanager
def start_lab(home, folder, screenshots):
    """Yield a Lab whose notebooks are in `folder`. What JupyterLab and mlkit write otherwise is in `home`."""
    from playwright.sync_api import sync_playwright

    port = free_port()
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
            yield Lab(page, f"http://127.0.0.1:{port}", folder, local, screenshots)
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
