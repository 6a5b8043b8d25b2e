"""The log of a job in JupyterLab: copied, scrolled, colored, filtered and searched in Chromium.

`--screenshots FOLDER` saves a picture of each state. The tests build on each other: they share one browser.
"""

import pytest
from browser import NOTEBOOK, needs_chromium

pytestmark = needs_chromium

BOX = f"{NOTEBOOK} .jp-OutputArea-output div[class*=mlkit-log-]"
LINES = f"{BOX} [role=log] > div"

SHOW = """
from mlkit.notebook.log_view import LogView

LogView.group_lines = 2  # many groups, so that a selection crosses them, and all of them are in use
view = LogView()
for i in range(60):
    view.append([f"line {i}", ""] if i == 57 else [f"line {i}"])
view.widget
"""
MORE = "view.append([f'more {i}' for i in range(5)])"
COLORS = """
view.lines.clear()
codes = [*range(30, 38), *range(90, 98)]
names = "black red green yellow blue magenta cyan white".split()
lines = ["".join(f"\\x1b[{code}m {names[code % 10]} \\x1b[0m" for code in codes)]
lines += ["".join(f"\\x1b[{code + 10}m {names[code % 10]} \\x1b[0m" for code in codes)]
lines += ["".join(f"\\x1b[38;5;{n}m {n} \\x1b[0m" for n in range(start, start + 36)) for start in range(16, 230, 36)]
lines += ["".join(f"\\x1b[38;5;{n}m {n} \\x1b[0m" for n in range(232, 256))]
lines += ["\\x1b[1mbold\\x1b[0m \\x1b[4munderlined\\x1b[0m \\x1b[7minverse\\x1b[0m \\x1b[31;7mred inverse\\x1b[0m"]
lines += ["".join(f"{n}%|{'#' * n}| {n}/100\\r" for n in range(0, 60, 5)) + "60%|" + "#" * 60 + "| 60/100"]
lines += ["<img src=x onerror=alert(1)> " + "a long line " * 20]
view._rebuild()
view.append(lines)
"""
LONG = "view.append([f'number {i}' for i in range(5000)])"

CONTRAST = """element => {
    const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true})
    const rgb = (css, under) => {
        context.fillStyle = under; context.fillRect(0, 0, 1, 1)
        context.fillStyle = css; context.fillRect(0, 0, 1, 1)
        return Array.from(context.getImageData(0, 0, 1, 1).data).slice(0, 3)
    }
    const css = color => `rgb(${color.join(',')})`
    const light = color => {
        const [r, g, b] = color.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        return .2126 * r + .7152 * g + .0722 * b
    }
    const box = rgb(getComputedStyle(element.closest('[class*=mlkit-log-]')).backgroundColor, 'red')
    const results = []
    for (const part of element.querySelectorAll('span, mark')) {
        if (!part.textContent.trim()) continue
        const style = getComputedStyle(part)
        const back = rgb(style.backgroundColor, css(box))
        const values = [light(rgb(style.color, css(back))), light(back)].sort((a, b) => b - a)
        results.push([(values[0] + .05) / (values[1] + .05), part.textContent, style.color, style.backgroundColor])
    }
    return results.sort((a, b) => a[0] - b[0])
}"""


@pytest.fixture(scope="module", autouse=True)
def notebook(lab):
    lab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    lab.open("log.ipynb", SHOW, MORE, COLORS, LONG)
    lab.command("application:toggle-left-area")
    lab.run_cell(0)
    lab.page.locator(LINES, has_text="line 59").wait_for()


def is_at_end(lab):
    return lab.page.locator(BOX).evaluate("e => Math.abs(e.scrollTop) < 2")


def wait_until_in_view(lab, text):
    """Wait until a line is within the box."""
    lab.page.wait_for_function(
        """([box, lines, text]) => {
            const frame = document.querySelector(box).getBoundingClientRect()
            return [...document.querySelectorAll(lines)].some(line => {
                const place = line.getBoundingClientRect()
                return line.textContent === text && place.top >= frame.top && place.bottom <= frame.bottom
            })
        }""",
        arg=[BOX, LINES, text],
    )


def test_a_selection_is_copied_in_the_order_of_the_lines(lab):
    first = lab.page.locator(LINES, has_text="line 50").bounding_box()
    last = lab.page.locator(LINES, has_text="line 59").bounding_box()
    lab.page.mouse.move(first["x"] + 1, first["y"] + 8)
    lab.page.mouse.down()
    lab.page.mouse.move(last["x"] + last["width"] - 5, last["y"] + 8, steps=5)
    lab.page.mouse.up()
    lab.page.keyboard.press("Control+c")
    lab.screenshot("selected")
    text = lab.page.evaluate("navigator.clipboard.readText()")
    expected = "\n".join(f"line {i}" for i in range(50, 60)).replace("line 57", "line 57\n")
    assert text.strip("\n") == expected


def test_a_screen_reader_reads_the_lines_in_order(lab):
    snapshot = lab.page.locator(BOX).aria_snapshot()
    positions = [snapshot.index(f"line {i}") for i in range(10, 60)]
    assert positions == sorted(positions)


def test_the_log_stays_at_its_end_until_the_reader_scrolls_up(lab):
    assert is_at_end(lab)
    lab.run_cell(1)
    wait_until_in_view(lab, "more 4")
    assert is_at_end(lab)
    lab.page.locator(BOX).hover()
    lab.page.mouse.wheel(0, -400)
    wait_until_in_view(lab, "line 40")
    place = "e => e.getBoundingClientRect().top - e.closest('[class*=mlkit-log-]').getBoundingClientRect().top"
    line = lab.page.locator(LINES, has_text="line 40")
    before = line.evaluate(place)
    lab.run_cell(1)
    lab.page.locator(LINES, has_text="more 4").nth(1).wait_for(state="attached")
    assert abs(line.evaluate(place) - before) < 2
    lab.page.locator(BOX).focus()
    lab.page.keyboard.press("End")
    wait_until_in_view(lab, "more 4")


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_colors_have_contrast(lab, theme):
    lab.set_theme(theme)
    if theme == "Light":
        lab.run_cell(2)
        lab.page.get_by_placeholder("find in the log").fill("blue|60/")
    lab.page.locator(LINES, has_text="a long line").wait_for()
    lab.page.locator(f"{LINES} mark").first.wait_for(state="attached")
    values = lab.page.locator(BOX).evaluate(CONTRAST)
    assert len(values) > 250
    assert values[0][0] >= 4.5, values[:5]
    lab.screenshot(f"colors-{theme}")
    assert lab.page.locator(f"{BOX} img").count() == 0


def test_progress_is_folded_and_long_lines_wrap_or_scroll(lab):
    assert lab.page.locator(LINES, has_text="/100").count() == 1
    box = lab.page.locator(BOX)
    assert box.evaluate("e => e.scrollWidth <= e.clientWidth + 1")
    lab.page.get_by_label("wrap long lines").uncheck()
    lab.page.wait_for_function(
        "box => (e => e.scrollWidth > e.clientWidth + 500)(document.querySelector(box))", arg=BOX
    )
    lab.screenshot("unwrapped")
    lab.set_width(600)
    lab.screenshot("unwrapped-narrow")
    lab.page.get_by_label("wrap long lines").check()
    lab.page.wait_for_function("box => (e => e.scrollWidth <= e.clientWidth + 1)(document.querySelector(box))", arg=BOX)
    lab.screenshot("narrow-Dark")
    lab.set_theme("Light")
    lab.screenshot("narrow-Light")
    lab.set_width(1000)


def test_a_search_scrolls_to_its_matches_and_a_filter_leaves_the_others_out(lab):
    lab.run_cell(3)
    lab.page.locator(LINES, has_text="number 4999").wait_for()
    lab.page.get_by_placeholder("find in the log").fill("number 2[0-2]00$")
    lab.text("3 of 3 lines").wait_for()
    wait_until_in_view(lab, "number 2200")
    lab.page.get_by_title("the match before this one").click()
    wait_until_in_view(lab, "number 2100")
    lab.text("2 of 3 lines").wait_for()
    lab.screenshot("found")
    lab.page.wait_for_function("box => !document.querySelector(box).getAnimations().length", arg=BOX)
    lab.page.locator(BOX).hover()
    lab.page.mouse.wheel(0, 1700)  # the reader is free to leave
    wait_until_in_view(lab, "number 2200")
    lab.page.get_by_placeholder("filter the log").fill("99$")
    lab.page.locator(LINES, has_text="number 4998").wait_for(state="detached")
    wait_until_in_view(lab, "number 4999")
    lab.text("not found").wait_for()
    lab.screenshot("filtered")
