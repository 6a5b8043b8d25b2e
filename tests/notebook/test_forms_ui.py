"""Forms in JupyterLab: each type of a config comes back exactly, and takes what is typed and clicked."""

import pytest
from browser import NOTEBOOK, needs_chromium

pytestmark = needs_chromium

CONFIG = """
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from mlkit.notebook import form

class Decay(Enum):
    constant = "Constant"
    cosine = "Cosine"

@dataclass
class Optim:
    lr: float = field(default=3e-4, metadata=dict(range=(1e-6, 1.0), log=True))  # step size
    betas: tuple[float, float] = (0.9, 0.999)

@dataclass
class Config:
    dropout: float = field(default=.1, metadata=dict(range=(0., .9)))  # part of the units that is left out
    learning_rate: float = field(default=3e-4, metadata=dict(range=(1e-6, 1.0), log=True))  # step size
    epochs: int = field(default=7, metadata=dict(range=(1, 100)))
    steps: int = field(default=123_457, metadata=dict(range=(1, 10**6)))
    patience: int | None = field(default=None, metadata=dict(range=(1, 50)))  # epochs; default: no limit
    weight_decay: float = 1 / 3
    seed: int | None = None
    name: str = ' a "b" '
    tag: str | None = "null"
    label: int | str = "3"
    data: Path = Path("data/train set")
    standardize: bool = True
    header: bool | None = None
    decay: Decay = Decay.cosine
    device: Literal["cpu", "cuda"] = "cuda"
    choice: Literal[1, "1"] | None = "1"
    layers: list[int] = field(default_factory=lambda: [64, 64])
    crop: tuple[int, ...] = (3, 4)
    weights: dict[str, float] = field(default_factory=lambda: {"a": 0.1})
    anything: Any = "1"
    optim: Optim = field(default_factory=lambda: Optim(lr=0.0123456789))
    warmup: Optim | None = None

config = Config()
f = form(config)
f
"""

# field: what is entered, and what the form gives back then
TYPED = {
    "dropout": (".25", 0.25),
    "learning_rate": ("0.000250001", 0.000250001),
    "epochs": ("12", 12),
    "steps": ("7", 7),
    "patience": ("5", 5),
    "weight_decay": ("1e-300", 1e-300),
    "seed": ("18446744073709551617", 2**64 + 1),
    "name": ("'x' <b>", "'x' <b>"),
    "tag": ("", None),
    "label": ("4", 4),
    "layers": ("1,2", [1, 2]),
    "crop": ("(5,)", (5,)),
    "weights": ("a=.5,b=2", {"a": 0.5, "b": 2.0}),
    "anything": ("null", None),
}
CHOSEN = {"header": "false", "decay": "constant", "device": "cpu", "choice": "1"}


@pytest.fixture(scope="module", autouse=True)
def form_in_browser(lab):
    lab.open("form.ipynb", CONFIG)
    lab.command("application:toggle-left-area")
    lab.run_cell(0)
    lab.page.get_by_role("textbox", name="weight_decay").wait_for()


def expect(lab, expression, expected):
    """Wait until an expression of the notebook's kernel has a repr; what was entered arrives a little later."""
    lab.page.wait_for_function(
        """async ([code, expected]) => {
            const kernel = window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel
            let printed = ''
            const future = kernel.requestExecute({code})
            future.onIOPub = message => { printed += message.content.text || '' }
            await future.done
            window.printed = printed.trim()
            return window.printed === expected
        }""",
        arg=[f"print(repr({expression}))", expected],
        polling=100,
    )


def fold(lab, name):
    """Fold or unfold a nested form."""
    lab.page.locator(f"{NOTEBOOK} .jp-OutputArea-output").get_by_text(name, exact=True).click()


def enter(lab, name, text):
    box = lab.page.get_by_role("textbox", name=name, exact=True)
    box.fill(text)
    box.blur()


def test_a_form_that_is_not_edited_gives_the_config_back_bit_for_bit(lab):
    lab.page.get_by_role("slider", name="learning_rate").wait_for()
    for width in (1000, 600):
        lab.set_width(width)
        fold(lab, "optim")  # the nested form draws its widgets now
        lab.page.get_by_role("textbox", name="betas").wait_for()
        fold(lab, "optim")
    expect(lab, "repr(f.value) == repr(config) and f.value == config", "True")


def test_every_slider_has_the_name_of_its_field_and_is_usable_in_a_narrow_window(lab):
    for width in (1000, 600):
        lab.set_width(width)
        for name in ("dropout", "learning_rate", "epochs", "steps", "patience"):
            slider = lab.page.get_by_role("slider", name=name, exact=True)
            track = slider.locator("xpath=ancestor::*[contains(@class, 'widget-slider')]")
            box = track.bounding_box()
            assert box["width"] >= 160, (width, name, box)
            assert box["x"] + box["width"] <= width, (width, name, box)
        for theme in ("Light", "Dark"):
            lab.set_theme(theme)
            lab.page.locator("#jupyterlab-splash").wait_for(state="detached")
            lab.page.get_by_role("textbox", name="dropout").scroll_into_view_if_needed()
            lab.screenshot(f"form-{width}-{theme}")
    lab.set_theme("Light")
    lab.set_width(1000)


def test_a_slider_that_is_moved_gives_a_value_of_its_range_and_the_text_follows(lab):
    slider = lab.page.get_by_role("slider", name="dropout", exact=True)
    slider.press("ArrowRight")
    lab.page.wait_for_function(
        "() => [...document.querySelectorAll('label')].find(e => e.textContent === 'dropout')"
        ".parentElement.querySelector('input').value === '0.101'"
    )
    expect(lab, "(f.value.dropout, f.value.learning_rate)", "(0.101, 0.0003)")
    enter(lab, "dropout", "0.1")
    expect(lab, "f.value == config", "True")


def test_every_value_can_be_typed_or_chosen(lab):
    for name, (text, _) in TYPED.items():
        enter(lab, name, text)
    enter(lab, "data", "a b/c.csv")
    lab.page.get_by_role("checkbox", name="standardize").uncheck()
    for name, label in CHOSEN.items():
        lab.page.get_by_role("combobox", name=name, exact=True).select_option(label)
    fold(lab, "optim")
    enter(lab, "lr", "0.1234567890123")
    enter(lab, "betas", ".5,.6")
    enter(lab, "warmup", '{"lr": 0.5}')
    expected = {name: value for name, (_, value) in TYPED.items()}
    expect(lab, "{name: getattr(f.value, name) for name in " + repr(list(expected)) + "}", repr(expected))
    others = "(f.value.data, f.value.standardize, f.value.header, f.value.decay.name, f.value.device, f.value.choice)"
    expect(lab, others, "(PosixPath('a b/c.csv'), False, False, 'constant', 'cpu', 1)")
    expect(
        lab,
        "(f.value.optim, f.value.warmup)",
        "(Optim(lr=0.1234567890123, betas=(0.5, 0.6)), Optim(lr=0.5, betas=(0.9, 0.999)))",
    )
    lab.screenshot("form-edited")


def test_a_wrong_value_is_reported_next_to_its_field(lab):
    for name, text, message in (
        ("dropout", "0.95", "expected at most 0.9, got 0.95"),
        ("crop", "a", "expected int, got 'a'"),
        ("betas", "1", "expected 2 values as tuple[float, float], got 1 in '1'"),
    ):
        enter(lab, name, text)
        lab.text(message).wait_for()
    lab.set_width(600)
    lab.screenshot("form-errors-600")
    assert [text for kind, text in lab.console_errors if kind == "pageerror"] == []
