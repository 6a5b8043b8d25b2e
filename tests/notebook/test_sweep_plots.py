"""Whatever the trials of a sweep are, they can be drawn: of any state, with any values, in any space."""

import re
import xml.etree.ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.notebook.sweep_plots import SweepState, draw_sweep, draw_sweep_plots, importances, sweep_figure
from mlkit.sagemaker.search.space import Choices, Range
from mlkit.sagemaker.search.trials import Trial

STATES = ["waiting", "running", "paused", "completed", "stopped", "failed"]
NAMES = ["lr", "optimizer.width", "valid_loss", "a b"]
numbers = st.floats(-1e12, 1e12, allow_nan=False)
metrics = st.one_of(numbers, st.sampled_from([float("nan"), float("inf"), float("-inf"), 0.0, 1e300]))
ranges = st.one_of(
    st.tuples(numbers, numbers).map(lambda ends: Range(*sorted(ends))),
    st.tuples(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9)).map(lambda ends: Range(*sorted(ends), "log")),
    st.tuples(st.floats(0, 0.9999), st.floats(0, 0.9999)).map(lambda ends: Range(*sorted(ends), "reverse-log")),
    st.tuples(st.integers(-9, 99), st.integers(-9, 99)).map(lambda ends: Range(*sorted(ends), is_int=True)),
)
texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=30)  # XML has no control characters
plain_values = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), numbers, texts)
choices = st.lists(plain_values, min_size=1, max_size=5, unique_by=repr).map(lambda values: Choices(tuple(values)))
spaces = st.dictionaries(st.sampled_from(NAMES), st.one_of(ranges, choices), max_size=3)
trial_lists = st.lists(
    st.builds(
        Trial,
        st.just(0),
        st.dictionaries(st.sampled_from(NAMES), plain_values, max_size=3),
        st.sampled_from(STATES),
        st.lists(metrics, max_size=4),
        st.sampled_from(["", "ValueError: <b>"]),
        seconds=st.one_of(st.none(), st.floats(0, 1e6)),
    ),
    max_size=14,
)


def numbered(trials):
    """Give trials the numbers that a sweep gives them."""
    for number, trial in enumerate(trials):
        trial.number = number
    return trials


def in_space(trials, space):
    """Give some of the trials values from the space, as a sweep does."""
    for trial in trials[::2]:
        for name, values in space.items():
            allowed = values.values if isinstance(values, Choices) else [values.low, values.high]
            trial.parameters[name] = allowed[trial.number % len(allowed)]
    return trials


@settings(max_examples=60, deadline=None)
@given(trial_lists.map(numbered), spaces, st.booleans(), st.sampled_from(NAMES))
def test_any_trials_are_drawn(trials, space, minimize, name):
    state = SweepState("valid_loss", minimize, in_space(trials, space), space, "InProgress", trial_limit=20)
    html = draw_sweep(state, importances(state)) + draw_sweep_plots(state, {}, "", name)
    for svg in re.findall(r"<svg.*?</svg>", html):
        ET.fromstring(svg)
    assert "nan" not in re.sub(r"<title>.*?</title>|<td.*?</td>|aria-label=\".*?\"", "", html, flags=re.S).lower()
    positions = re.findall(r"c?[xy][12]?=\"(-?[\d.e+-]+)(%?)\"", html)
    assert all(-1 <= float(number) <= (100 if percent else 300) for number, percent in positions)
    assert f"{sum(trial.has_ended for trial in trials)} of 20 trials have ended" in state.summary


@settings(max_examples=5, deadline=None)
@given(trial_lists.map(numbered), spaces)
def test_any_trials_are_a_figure(trials, space):
    state = SweepState("valid_loss", True, in_space(trials, space), space)
    assert sweep_figure(state, {}).axes
