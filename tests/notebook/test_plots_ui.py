"""Plots in JupyterLab, read with the pointer and the keyboard in Chromium.

`--screenshots FOLDER` saves a picture of each state. The tests build on each other: they share one browser.
"""

import nbformat
import pytest
from browser import CONTRASTS, LIVE_PLOT, NOTEBOOK, PICTURE, needs_chromium

pytestmark = needs_chromium

PLOT = """
import math, time
from pathlib import Path
import numpy as np
from IPython.display import HTML, display
from mlkit.notebook.curves import Curves
from mlkit.notebook.display import LivePlot, lasting_output
from mlkit.notebook.theme import alert_block, alert_line, caption, muted, status_pill, success_line
from mlkit.training.history import History

rng = np.random.default_rng(1)
curves = Curves(total_epochs=20, batches_per_epoch=100, seconds=30)
curves.loss.extend(2 * np.exp(-np.arange(1250) / 400) + 0.2 + rng.normal(scale=0.08, size=1250))
curves.learning_rate.extend(0.01 * np.cos(np.arange(1250) / 1300))
for epoch in range(1, 13):
    loss = 2 * math.exp(-epoch / 4) + 0.2
    metrics = {name: 1 - 0.5 * math.exp(-epoch / 3) for name in ("valid_accuracy", "valid_f1", "valid_recall")}
    curves.add_epoch(metrics | dict(epoch=epoch, train_loss=loss, valid_loss=loss + 0.01 * abs(epoch - 9)))
curves.batch = 50
plot = LivePlot()
plot.show(curves)
plot
"""
BUSY = """
while not Path("stop").exists():
    curves.seconds += 1
    plot.show(curves)
    time.sleep(0.5)
"""
SAVED = """
one_epoch = Curves()
one_epoch.add_epoch(dict(train_loss=1.0, valid_loss=0.9, valid_f1=0.5))
for shown in (curves, one_epoch):
    display(lasting_output(shown), raw=True)
display(History(curves.epochs).plot("history"))
texts = [caption("a"), muted("b"), success_line("c"), alert_line("d"), alert_block("e")]
statuses = [status_pill(status) for status in ("InProgress", "Completed", "Failed", "Stopped")]
display(HTML('<div class="mlkit-texts">' + "".join(texts + statuses) + "</div>"))
"""
SHOWN = f"{NOTEBOOK} :is(.mlkit-plot, .mlkit-figure, .mlkit-texts)"


@pytest.fixture(scope="module", autouse=True)
def notebook(lab):
    lab.open("plots.ipynb", PLOT, BUSY, SAVED)
    lab.command("application:toggle-left-area")
    lab.run_cell(0)
    lab.plot_summary()


@pytest.fixture
def plot(lab):
    """The live plot with its switches."""
    return lab.page.locator(f"{NOTEBOOK} .mlkit-plot").first


VALUES_AT_POINTER = """([plot, panel]) => {
    const texts = [...plot.querySelectorAll('.mk-area')[panel].querySelectorAll('.mk-at g:hover text')]
    const visible = texts.filter(text => getComputedStyle(text).display !== 'none').map(text => text.textContent)
    return visible.length ? visible : null
}"""


def values_at_pointer(lab, plot, panel):
    """Wait until a panel shows values, and return them."""
    return lab.page.wait_for_function(VALUES_AT_POINTER, arg=[plot.element_handle(), panel]).json_value()


def hover(lab, plot, panel, across):
    """Move the pointer over a panel, to a fraction of its width. Return what is shown there."""
    plot.locator(".mk-area").nth(panel).scroll_into_view_if_needed()
    box = plot.locator(".mk-area").nth(panel).bounding_box()
    lab.page.mouse.move(box["x"] + across * box["width"], box["y"] + box["height"] / 2)
    return values_at_pointer(lab, plot, panel)


def numbers(plot):
    """Return the numbers along the axis of the losses."""
    return plot.locator(".mk-y").first.locator("text:visible").all_text_contents()


def test_values_are_shown_at_the_pointer(lab, plot):
    position, training, validation = hover(lab, plot, 0, 0.5)
    assert position.startswith("step 6")
    assert training.startswith("training 0.") and validation.startswith("validation 0.")
    for panel, name in enumerate(["accuracy", "f1", "recall", "learning rate"], 1):
        assert hover(lab, plot, panel, 0.9)[1].startswith(name)
    hover(lab, plot, 0, 0.3)
    lab.screenshot("pointer")


def test_switches_are_for_the_axis_and_the_smoothing(lab, plot):
    linear = numbers(plot)
    plot.get_by_label("logarithmic").check()
    assert numbers(plot) != linear
    assert {"0.5", "1", "2"} <= set(numbers(plot))
    smoothed = hover(lab, plot, 0, 0.5)
    plot.get_by_label("smoothed").uncheck()
    raw = hover(lab, plot, 0, 0.51)
    assert smoothed[1] != raw[1] and smoothed[2] == raw[2]
    lab.screenshot("logarithmic")


def test_a_zoom_is_chosen_moved_and_reset_by_keyboard(lab, plot):
    press = lab.page.keyboard.press
    width = plot.locator(".mk-panels").bounding_box()["width"]
    plot.get_by_label("smoothed").focus()
    press("Tab")
    press("ArrowRight")
    press("ArrowRight")  # 4 times as wide
    assert plot.get_by_label("zoom x 4 times").is_checked()
    assert plot.locator(".mk-panels").bounding_box()["width"] == pytest.approx(4 * width, rel=0.01)
    press("Tab")
    press("ArrowRight")
    assert plot.get_by_label("zoom y 3 times").is_checked()
    press("Tab")
    press("Tab")
    press("ArrowRight")
    lab.page.wait_for_function("e => e.scrollLeft > 0", arg=plot.element_handle())
    lab.screenshot("zoomed")
    press("Shift+Tab")
    press("Enter")
    assert plot.get_by_label("zoom x 1 times").is_checked() and plot.get_by_label("zoom y 1 times").is_checked()
    assert plot.locator(".mk-panels").bounding_box()["width"] == width


def test_a_zoom_is_chosen_moved_and_reset_by_mouse(lab, plot):
    plot.get_by_text("8×").click()
    plot.get_by_text("10×").click()
    box = plot.bounding_box()
    lab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 150)
    lab.page.mouse.wheel(400, 0)
    lab.page.wait_for_function("e => e.scrollLeft > 0", arg=plot.element_handle())
    plot.get_by_role("button", name="Reset").click()
    assert plot.get_by_label("zoom x 1 times").is_checked() and plot.get_by_label("zoom y 1 times").is_checked()


def test_drawing_again_keeps_what_the_reader_chose_while_the_kernel_is_busy(lab, plot):
    lab.page.evaluate(
        """() => {
            window.jupyterapp.shell.currentWidget.content.activeCellIndex = 1
            window.jupyterapp.commands.execute('notebook:run-cell')
        }"""
    )
    try:
        lab.wait_for_plot_update()
        plot.get_by_label("logarithmic").check()
        plot.get_by_label("zoom x 4 times").check()
        plot.evaluate("e => { e.scrollLeft = 300 }")
        box = plot.bounding_box()
        lab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
        values = values_at_pointer(lab, plot, 0)
        lab.wait_for_plot_update()
        assert values_at_pointer(lab, plot, 0) == values
        assert plot.evaluate("e => e.scrollLeft") == 300
        assert plot.get_by_label("logarithmic").is_checked()
    finally:
        (lab.folder / "stop").touch()
    plot.get_by_role("button", name="Reset").click()


@pytest.mark.parametrize("theme", ["Light", "Dark"])
@pytest.mark.parametrize("width", [1000, 600])
def test_text_and_lines_can_be_read(lab, plot, theme, width):
    if lab.page.locator(PICTURE).count() == 0:
        lab.run_cell(2)
        lab.page.locator(".mlkit-texts").wait_for()
    lab.set_width(width)
    lab.set_theme(theme)
    results = lab.page.evaluate(CONTRASTS, SHOWN)
    texts = [result for result in results if result["isText"]]
    lines = [result for result in results if not result["isText"]]
    assert len(texts) > 100 and len(lines) > 20
    assert [text for text in texts if text["contrast"] < 4.5] == []
    assert [text for text in texts if text["size"] < 10] == []
    assert [line for line in lines if line["contrast"] < 3] == []
    for name, locator in {"live": plot, "saved": lab.page.locator(PICTURE).first}.items():
        locator.scroll_into_view_if_needed()
        lab.screenshot(f"{name}-{theme}-{width}")
    lab.page.locator(PICTURE).last.scroll_into_view_if_needed()
    lab.screenshot(f"history-{theme}-{width}")


IS_INSIDE = """mark => {
    const at = mark.getBoundingClientRect()
    const area = mark.closest('.mk-area').getBoundingClientRect()
    return area.height > 0 && at.x > area.x && at.x < area.right && at.y > area.y && at.y < area.bottom
}"""


def test_a_saved_plot_has_the_switches_and_the_marks_of_a_single_epoch(lab):
    lab.set_theme("Light")
    lab.set_width(1000)
    saved = lab.page.locator(PICTURE).first.locator(".mlkit-plot")
    assert hover(lab, saved, 0, 0.5)[1].startswith("training")
    saved.get_by_label("logarithmic").check()
    assert {"0.5", "1", "2"} <= set(numbers(saved))
    single = lab.page.locator(PICTURE).nth(1)
    marks = single.locator(".mk-linear .mk-lines path")
    assert len({mark.get_attribute("stroke") for mark in marks.all()} & {"#1f77c9", "#d9600a"}) == 2
    assert all(mark.evaluate(IS_INSIDE) for mark in marks.all())


def test_a_person_who_does_not_trust_the_notebook_sees_an_image_with_a_text(lab):
    lab.command("docmanager:save")
    copy = nbformat.read(lab.folder / "plots.ipynb", 4)
    copy.cells = copy.cells[2:]
    copy.cells[0].source += "\n# changed by somebody else"
    nbformat.write(copy, lab.folder / "copy.ipynb")  # not signed, so JupyterLab does not trust it
    lab.open("copy.ipynb")
    image = lab.page.locator(f"{PICTURE} img").first
    image.wait_for()
    assert image.get_attribute("alt").startswith("epoch 12/20, step 1,250, loss 0.")
    assert image.evaluate("e => e.naturalWidth / (e.width / 96)") >= 149
    assert lab.page.locator(PICTURE).first.inner_text().strip() == ""
    assert lab.page.locator(LIVE_PLOT).count() == 0
    lab.screenshot("untrusted")
