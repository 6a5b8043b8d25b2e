"""The list of runs in JupyterLab, clicked in Chromium. The tests build on each other: they share one browser."""

import random
from datetime import timedelta

import pytest
from browser import NOTEBOOK, needs_chromium

from mlkit.sagemaker.client.jobs import TrainingJob

pytestmark = needs_chromium

PROGRAM = """
import json, os
with open(os.path.join(os.environ.get('MLKIT_ROOT', '/opt/ml'), 'input/config/hyperparameters.json')) as f:
    hyperparameters = json.load(f)
rate = float(hyperparameters['learning_rate'])
for n in range(1, int(hyperparameters['epochs']) + 1):
    loss = 10.0 ** n if rate > 1 else rate + 1 / n
    print(f'[metrics] epoch={n} train_loss={loss} valid_loss={loss * 1.2} valid_accuracy={1 / (1 + loss)}')
"""
RATES = {"slow": 0.001, "fast": 0.1, "diverges": 3.0}
LONG_NAME = "a-search-over-learning-rates-and-widths-20261128-101500-1a2b"  # nearly as long as SageMaker allows


@pytest.fixture(scope="module", autouse=True)
def jobs(lab):
    """Three jobs that have run, and a hundred more records like theirs."""
    (lab.folder / "train.py").write_text(PROGRAM)
    for name, rate in RATES.items():
        job = TrainingJob({"learning_rate": rate, "epochs": 5, "hidden_dim": 50}, lab.folder / "train.py", name=name)
        job.run(lab.local)
        with open("/dev/null", "w") as out:
            job.follow(out)
    record = lab.local.rows.get("slow")
    rng = random.Random(0)
    for i in range(100):
        name = f"{LONG_NAME}-{i}"
        metrics = [dict(metric, Value=rng.random()) for metric in record["FinalMetricDataList"]]
        hyperparameters = record["HyperParameters"] | {"learning_rate": str(10 ** rng.uniform(-5, -1))}
        changes = {
            "TrainingJobName": name,
            "CreationTime": record["CreationTime"] - timedelta(minutes=i + 1),
            "HyperParameters": hyperparameters,
            "FinalMetricDataList": metrics,
        }
        lab.local.rows.add(name, record | changes)


def first_row(lab):
    return lab.page.locator(f"{NOTEBOOK} table tbody tr").first


def test_all_runs_are_shown_in_pages_and_sorted(lab):
    lab.open("runs.ipynb", "from mlkit.notebook import runs\nruns()")
    lab.command("application:toggle-left-area")
    lab.run_all()
    lab.text("1–50 of 103 jobs").wait_for()
    lab.text("the same in all: ").wait_for()
    lab.page.get_by_label(f"{LONG_NAME}-0", exact=True).wait_for()
    lab.screenshot("runs")
    lab.button("Next").click()
    lab.text("51–100 of 103 jobs").wait_for()
    lab.button("valid_loss").click()
    lab.button("valid_loss ↑").wait_for()
    first_row(lab).locator("b[title='the best']").first.wait_for()
    lab.screenshot("runs-sorted")


def test_each_row_stands_beside_its_name(lab):
    rows = lab.page.locator(f"{NOTEBOOK} table tbody tr")
    assert rows.count() == 50
    for i in (0, 20, 49):
        name = lab.page.locator(f"{NOTEBOOK} .widget-checkbox", has_text=rows.nth(i).locator("th").text_content())
        boxes = name.first.bounding_box(), rows.nth(i).bounding_box()
        middles = [box["y"] + box["height"] / 2 for box in boxes]
        assert abs(middles[0] - middles[1]) < 6, (i, middles)


def test_runs_are_filtered_and_compared(lab):
    lab.page.get_by_placeholder("words of the name").fill("hidden_dim=50 learning_rate>=0.001 duration<1000")
    lab.page.keyboard.press("Enter")
    lab.page.get_by_label("diverges", exact=True).wait_for()
    for name in RATES:
        lab.page.get_by_label(name, exact=True).check()
    lab.button("Clear 3 selected").wait_for()
    lab.button("Compare").click()
    lab.text("valid_loss by epoch of 3 runs; the best is ").wait_for()
    lab.screenshot("runs-compared")
    lab.page.get_by_label("logarithmic axis").check()
    lab.text("the axis is logarithmic").scroll_into_view_if_needed()
    lab.screenshot("runs-logarithmic")


def test_a_wrong_filter_says_what_is_near(lab):
    lab.page.get_by_placeholder("words of the name").fill("valid_los<1")
    lab.page.keyboard.press("Enter")
    lab.text("did you mean 'valid_loss'?").wait_for()
    lab.page.get_by_placeholder("words of the name").fill("")
    lab.page.keyboard.press("Enter")
    lab.text("1–50 of 103 jobs").wait_for()


def test_narrow_and_dark(lab):
    lab.set_width(600)
    lab.set_theme("Dark")
    table = lab.page.locator(f"{NOTEBOOK} .mlkit-runs")
    table.scroll_into_view_if_needed()
    assert table.evaluate("e => e.scrollWidth > e.clientWidth"), "the table scrolls within its box"
    assert lab.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    lab.screenshot("runs-narrow-dark")
    lab.text("the axis is logarithmic").scroll_into_view_if_needed()
    lab.screenshot("runs-compared-narrow-dark")
    lab.set_theme("Light")
    lab.set_width(1000)
