"""Make the pictures of the documentation: `make pictures` runs this file, and writes nbs/images.

Each picture is the output of a cell in JupyterLab, in 128 colors. Look at what has changed before it is committed.
"""

import io
from pathlib import Path

import nbformat
import pytest
from browser import LIVE_PLOT, NOTEBOOK, PICTURE, needs_chromium
from helpers import REPOSITORY
from PIL import Image

pytestmark = [needs_chromium, pytest.mark.long]

OUTPUT = f"{NOTEBOOK} .jp-Cell-outputArea"
REPLACE = """([output, replacements]) => {
    const replace = () => {
        const texts = document.createTreeWalker(output, NodeFilter.SHOW_TEXT)
        while (texts.nextNode()) {
            const node = texts.currentNode
            const text = replacements.reduce((text, [path, name]) => text.replaceAll(path, name), node.data)
            if (text !== node.data) node.data = text
        }
    }
    replace()
    new MutationObserver(replace).observe(output, {childList: true, characterData: true, subtree: true})
}"""


class Pictures:
    """Makes pictures of what cells show, in a folder."""

    def __init__(self, lab, folder):
        self.lab = lab
        self.folder = folder

    def take(self, cell=-1, height=None):
        """Return an image of what a cell shows; default: the last one with an output."""
        outputs = self.lab.page.locator(OUTPUT)
        box = outputs.nth(cell if cell >= 0 else outputs.count() + cell)
        box.scroll_into_view_if_needed()
        # paths as a reader has them, also when a monitor writes them again
        paths = [(str(self.lab.local.root), "~/.mlkit/local"), (f"{self.lab.folder}/", ""), (str(self.lab.folder), ".")]
        self.lab.page.evaluate(REPLACE, [box.element_handle(), paths])
        image = Image.open(io.BytesIO(box.screenshot()))
        return image.convert("RGB").crop((0, 0, image.width, min(height or image.height, image.height)))

    def write(self, name, cell=-1, height=None, limit=60_000):
        """Write the picture NAME.png of what a cell shows."""
        path = self.folder / f"{name}.png"
        self.take(cell, height).quantize(128).save(path, optimize=True)
        assert path.stat().st_size < limit, f"{name}.png is too large: make its cell show less"

    def write_animation(self, name, images, milliseconds, limit=200_000):
        """Write NAME.gif, which shows images of one size for so many milliseconds each, again and again."""
        size = max(image.width for image in images), max(image.height for image in images)
        frames = []
        for image in images:
            frame = Image.new("RGB", size, "white")
            frame.paste(image)
            frames.append(frame.quantize(64, dither=Image.Dither.NONE))
        path = self.folder / f"{name}.gif"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, optimize=True)
        assert path.stat().st_size < limit, f"{name}.gif is too large: show less"


@pytest.fixture
def pictures(lab, tmp_path):
    lab.set_width(900)
    yield Pictures(lab, Path(lab.screenshots or tmp_path))
    lab.set_theme("Light")


def open_notebook(lab, name, *cells):
    """Open a new notebook without the panel at its left."""
    lab.open(name, *cells)
    lab.command("application:toggle-left-area")


def run_all(lab, name, *cells):
    """Open a new notebook, and run every cell until it has ended."""
    open_notebook(lab, name, *cells)
    for i in range(len(cells)):
        lab.run_cell(i)


def visible_cells(page, last):
    """Return the visible code of a page, up to the cell that contains `last`."""
    cells = []
    for cell in nbformat.read(REPOSITORY / "nbs" / page, 4).cells:
        if cell.cell_type == "code" and "#| hide" not in cell.source:
            cells.append(cell.source)
            if last in cell.source:
                return cells
    raise ValueError(f"no visible cell of {page} has {last!r}")


MONITOR = """
from mlkit.notebook import monitor

monitor(job)
"""


def program_of_tutorial(name):
    """Return a file of the first tutorial."""
    magic = f"%%writefile src/{name}\n"
    return visible_cells("5_tutorials/00_first_job.ipynb", magic)[-1].removeprefix(magic)


def test_first_job(lab, pictures):
    run_all(lab, "first.ipynb", *visible_cells("5_tutorials/00_first_job.ipynb", "job.run()"), MONITOR)
    lab.text("Completed").wait_for()
    lab.page.locator(PICTURE).wait_for()
    pictures.write("first_job")


FRAME_HEIGHT = 480  # of the launcher, and of the monitor down to its buttons
EPOCH_IS_SHOWN = """([selector, epoch]) => {
    const label = document.querySelector(selector)?.getAttribute("aria-label")
    return Number(label?.match(/epoch ([0-9]+)/)?.[1]) >= epoch
}"""
LAUNCH = """
import sys
import torch
from sklearn.datasets import load_digits
from mlkit.notebook import launcher
from mlkit.sagemaker.client import TrainingJob

sys.path.insert(0, "src")
from train import Config

x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
x = x.float().view(-1, 1, 8, 8) / 16
data = {"training": (x[:1400], y[:1400]), "validation": (x[1400:], y[1400:])}
launcher(TrainingJob(Config(epochs=1000), "src", data, name="more-digits"))
"""


def test_launcher_and_monitor(lab, pictures):
    (lab.folder / "src").mkdir(exist_ok=True)
    for name in ("net.py", "train.py"):
        (lab.folder / "src" / name).write_text(program_of_tutorial(name))
    run_all(lab, "launcher.ipynb", LAUNCH)
    lab.button("Check").click()
    lab.text("No problems found").wait_for()
    pictures.write("launcher")
    images = [pictures.take(height=FRAME_HEIGHT)]
    lab.button("Launch").click()
    lab.page.locator(LIVE_PLOT).last.get_by_text("validation").first.wait_for()
    for epoch in range(2, 13, 2):
        lab.page.wait_for_function(EPOCH_IS_SHOWN, arg=[LIVE_PLOT, epoch])
        images.append(pictures.take(height=FRAME_HEIGHT))
    pictures.write_animation("launch", images, [2500, *[700] * (len(images) - 2), 4000])
    pictures.write("monitor")
    lab.button("Stop").click()
    lab.button("Yes, stop it").click()
    lab.text("Stopped").wait_for()


def test_sweep(lab, pictures):
    run_all(lab, "sweep.ipynb", *visible_cells("5_tutorials/31_sweep.ipynb", "sweep.run()"), "sweep")
    lab.page.locator(PICTURE).get_by_text("12 trials: 12 completed").wait_for()
    lab.page.set_viewport_size({"width": 900, "height": 1500})
    pictures.write("sweep")


FAIL = """
from mlkit.notebook import monitor
from mlkit.sagemaker.client import TrainingJob

monitor(TrainingJob({"epochs": 2}, source="fail.py", name="too-many-columns").run())
"""
FAILING = """
def last_layer(features):
    return features["scores"]

print("1,200 rows of 12 columns")
last_layer([0.1, 0.9])
"""


def test_failed_job(lab, pictures):
    (lab.folder / "fail.py").write_text(FAILING)
    run_all(lab, "failed.ipynb", FAIL)
    lab.text("AlgorithmError").wait_for()
    lab.text("Failed").wait_for()
    pictures.write("failed_job")


TRAIN = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from mlkit.model import MyCustomModel
from mlkit.notebook import train_widget

torch.manual_seed(0)
x = torch.randn(4000, 10)
data = TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long())
model = MyCustomModel(10, 50, 2)
run = train_widget(
    model, DataLoader(data, 32, shuffle=True), epochs=10**6, learning_rate=0.001, valid_loader=DataLoader(data, 500)
)
run
"""


def test_dark_theme(lab, pictures):
    lab.set_theme("Dark")
    run_all(lab, "dark.ipynb", TRAIN)
    lab.page.wait_for_function(
        "selector => /epoch (2[0-9]|[3-9][0-9]|[0-9]{3,})/"
        ".test(document.querySelector(selector)?.getAttribute('aria-label'))",
        arg=LIVE_PLOT,
    )
    pictures.write("dark")
    lab.button("Stop").click()
    lab.page.locator(PICTURE).wait_for()


ENDPOINT = """
import io
import torch
from mlkit.model import MyCustomModel
from mlkit.notebook import playground
from mlkit.sagemaker.client import build_bundle, deploy

torch.manual_seed(0)
bundle = build_bundle(MyCustomModel(4, 8, 2), out="model.tar.gz", sample=torch.zeros(1, 4))
endpoint = deploy(bundle, name="iris", out=io.StringIO())
playground(endpoint)
"""


def test_playground(lab, pictures):
    open_notebook(lab, "playground.ipynb", ENDPOINT, "endpoint.delete()")
    lab.run_cell(0)
    for _ in range(2):  # the first request is slower
        lab.button("Send").click()
        lab.text("outside the handlers").wait_for()
        lab.page.locator(f"{NOTEBOOK} button:not([disabled])", has_text="Send").wait_for()
    pictures.write("playground", 0)
    lab.run_cell(1)


RUNS = """
import io
from mlkit.notebook import runs
from mlkit.sagemaker.client import TrainingJob

for rate in (0.001, 0.003, 0.01):
    config = {"epochs": 24, "learning_rate": rate}
    TrainingJob(config, source="short.py", name=f"rate-{rate}".replace(".", "-")).run().follow(io.StringIO())
runs()
"""
SHORT = """
import argparse
import math

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.add_argument("--learning_rate", type=float)
args = parser.parse_args()
for n in range(1, args.epochs + 1):
    loss = 0.2 + math.exp(-n * args.learning_rate * 60) + 2e5 * args.learning_rate**3 * n / args.epochs
    print(f"[metrics] epoch={n} train_loss={loss - 0.05:.4f} valid_loss={loss:.4f}")
"""


def test_runs(lab, pictures):
    (lab.folder / "short.py").write_text(SHORT)
    run_all(lab, "runs.ipynb", RUNS)
    for rate in ("0-001", "0-003", "0-01"):
        lab.page.get_by_label(f"rate-{rate}", exact=True).check()
    lab.button("Compare").click()
    lab.text("by epoch of 3 runs; the best is").wait_for()
    pictures.write("runs", limit=100_000)


MODEL = """
import matplotlib.pyplot as plt
import torch
from mlkit.model import MyCustomModel, Standardized

torch.manual_seed(0)
x = torch.stack([torch.randn(400) * 9000 + 40_000, torch.randn(400) * 0.2 + 1.7], dim=1)
model = Standardized(MyCustomModel(2, 8, 2), shape=[2]).fit(x)
inner = (x - model.mean) / model.std
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for ax, points, title in zip(axes, (x, inner), ("what the client sends", "what the inner model sees")):
    ax.scatter(*points.T, s=6, alpha=0.6)
    ax.set(title=title, xlabel="income", ylabel="height")
"""


def test_model(lab, pictures):
    run_all(lab, "model.ipynb", MODEL)
    lab.page.locator(f"{OUTPUT} img").wait_for()
    pictures.write("standardized")


HISTORY = """
import torch
from IPython.display import display
from sklearn.datasets import load_breast_cancer
from torch.utils.data import DataLoader, TensorDataset
from mlkit.model import MyCustomModel, Standardized
from mlkit.training import train_model
from mlkit.training.data import split

torch.manual_seed(0)
x, y = (torch.tensor(a) for a in load_breast_cancer(return_X_y=True))
train, valid = split(TensorDataset(x.float(), y), fraction=0.25, seed=0)
model = Standardized(MyCustomModel(30, 50, 2), shape=[30]).fit(train.tensors[0])
history = train_model(
    model,
    DataLoader(train, 32, shuffle=True),
    epochs=8,
    learning_rate=0.003,
    valid_loader=DataLoader(valid, 256),
    seed=0,
    verbose=False,
)
display(history, history.plot())
"""


def test_history(lab, pictures):
    run_all(lab, "history.ipynb", HISTORY)
    lab.page.locator(PICTURE).wait_for()
    pictures.write("history")


BUILTIN = """
import random
from pathlib import Path
import pandas as pd
from mlkit.notebook import monitor
from mlkit.sagemaker.client import TrainingJob

rng = random.Random(0)
rows = []
for i in range(500):
    age, job = rng.randint(18, 75), rng.choice(["clerk", "nurse", "pilot"])
    rows.append([1000 + i, age, job, "high" if age + 25 * (job == "pilot") + rng.gauss(0, 3) > 55 else "low"])
people = pd.DataFrame(rows, columns=["id", "age", "job", "income"])
for name, part in {"train": people[:400], "val": people[400:]}.items():
    Path("people", name).mkdir(parents=True)
    part.to_csv(f"people/{name}/people.csv", index=False)
config = {"label": "income", "drop": ["id"], "epochs": 4, "learning_rate": 0.003}
job = TrainingJob(config, channels={"train": "people/train", "val": "people/val"}, name="people")
monitor(job.run())
"""


def test_builtin_job(lab, pictures):
    run_all(lab, "builtin.ipynb", BUILTIN)
    lab.text("Completed").wait_for()
    lab.page.locator(PICTURE).wait_for()
    pictures.write("builtin_job")


HANDLERS = """
import json
import torch
from IPython.display import display
from mlkit.model import MyCustomModel, save_model
from mlkit.sagemaker.client import Handlers

torch.manual_seed(0)
folder = save_model(MyCustomModel(4, 8, 3), "iris", sample=torch.zeros(1, 4))


def predict_fn(data, model):
    return model(data).softmax(1)


def output_fn(prediction, accept):
    species = ["setosa", "versicolor", "virginica"]
    return json.dumps([species[i] for i in prediction.argmax(1)]), "application/json"


handlers = Handlers.load(predict_fn=predict_fn, output_fn=output_fn)
display(handlers, handlers.test([[5.1, 3.5, 1.4, 0.2]], model_dir=folder))
"""


def test_handlers(lab, pictures):
    run_all(lab, "handlers.ipynb", HANDLERS)
    lab.text("output_fn").wait_for()
    pictures.write("handlers")
