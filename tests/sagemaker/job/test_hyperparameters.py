"""Write configs as both generations of AWS's software spell them, and read them back.

Either every way to read a config gives the same config, or `to_hyperparameters` refuses to write it. `v2` and `v3`
model what the software makes of a request. `test_conformance.py` compares the models with the software itself.
"""

import json
from collections import ChainMap
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlkit.sagemaker.job.hyperparameters import find_conflicts, read_config, to_argv, to_hyperparameters


class Schedule(Enum):
    CONSTANT = "constant"
    COSINE = "cosine"


@dataclass
class Config:
    whole: int = 0
    real: float = 0.0
    on: bool = False
    text: str = ""
    maybe: int | None = None
    maybe_text: str | None = None
    either: int | str = 0
    wholes: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    reals: dict[str, float] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    deep: dict[str, list[list[int]]] = field(default_factory=dict)
    anything: dict = field(default_factory=dict)
    choice: Literal["a", "b", 3] = "a"
    schedule: Schedule = Schedule.CONSTANT
    x: str = "one letter"


UNUSUAL_TEXTS = [
    "null",
    "None",
    "",
    " ",
    "1.50",
    "1e5",
    "007",
    "true",
    '"quoted"',
    "it's",
    "[1,2]",
    '{"a":1}',
    "a=1,b=2",
    "--on",
    "-1",
    "--text=3",
    "$(touch x)",
    "`x`",
    "\\",
    "\\n",
    "a\nb",
    "\r",
    "\u2028",
    "\x85",
    "\0",
    "é",
    "日本",
    "😀",
    "%s",
    "NaN",
    "-Infinity",
    "1_000",
    "\ufeff",
    '"',
    "'",
    ",",
    "=",
    " x ",
    "x" * 2501,
]
texts = st.sampled_from(UNUSUAL_TEXTS) | st.text()
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda s: st.lists(s, max_size=3) | st.dictionaries(texts, s, max_size=3),
)
configs = st.builds(
    Config,
    whole=st.integers(),
    real=st.floats(),
    on=st.booleans(),
    text=texts,
    maybe=st.none() | st.integers(),
    maybe_text=st.none() | texts,
    either=st.integers() | texts,
    wholes=st.lists(st.integers(), max_size=3),
    texts=st.lists(texts, max_size=3),
    reals=st.dictionaries(texts, st.floats(), max_size=3),
    words=st.dictionaries(texts, texts, max_size=3),
    deep=st.dictionaries(texts, st.lists(st.lists(st.integers(), max_size=2), max_size=2), max_size=2),
    anything=st.dictionaries(texts, anything, max_size=2),
    choice=st.sampled_from(["a", "b", 3]),
    schedule=st.sampled_from(Schedule),
    x=texts,
)
one_line = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=40).filter(
    lambda s: s.strip() not in ("", "null", "None", "none")
)
ordinary_configs = st.builds(
    Config,
    whole=st.integers(),
    real=st.floats(),
    text=one_line,
    maybe=st.none() | st.integers(),
    maybe_text=st.none() | one_line,
    wholes=st.lists(st.integers(), max_size=9),
    texts=st.lists(one_line, max_size=3),
    words=st.dictionaries(one_line, one_line, max_size=3),
    x=one_line,
)


def parse(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def v3(request):
    """Return the arguments and SM_HPS that SDK v3's drivers make of a request."""
    values = {name: parse(text) for name, text in request.items()}
    argv = []
    for name, value in values.items():
        argv += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return argv, values


def v2(request):
    """Return the arguments and SM_HPS that SDK v2's toolkit makes of a request."""
    values = {name: parse(text) for name, text in request.items() if not name.startswith("sagemaker_")}
    argv = []
    for name, value in sorted(values.items()):
        if isinstance(value, dict):
            text = ",".join(f"{k}={v}" for k, v in sorted(value.items()))
        else:
            text = "" if value is None else str(value)
        argv += [f"--{name}" if len(name) > 1 else f"-{name}", text]
    return argv, values


DIALECTS = {"v2": (v2, True), "v3": (v3, False)}  # name -> (model, strings are in JSON's quotes)


def to_request(config, quoted):
    """Return the hyperparameters of a request as the SDK would send it."""
    sdk_hyperparameters = dict(sagemaker_program='"train.py"', sagemaker_region='"us-east-1"') if quoted else {}
    return to_hyperparameters(config, quoted) | sdk_hyperparameters


def assert_same_from_all_sources(config, model, request):
    argv, values = model(request)
    for hyperparameters in (request, ChainMap(values, request)):
        assert repr(read_config(Config, argv, hyperparameters)) == repr(config)
        assert repr(read_config(Config, (), hyperparameters)) == repr(config)
        assert not list(find_conflicts(Config, argv, hyperparameters))


@given(configs)
@settings(deadline=None, max_examples=100)
def test_a_config_in_a_request_is_read_as_it_was(config):
    for model, quoted in DIALECTS.values():
        try:
            request = to_request(config, quoted)
        except ValueError:
            continue
        assert_same_from_all_sources(config, model, request)


@given(ordinary_configs)
@settings(deadline=None, max_examples=100)
@example(Config(text="1.50", words={"a,b": "c=d", "": '"'}, texts=["it's", "\\"]))
def test_an_ordinary_config_is_not_refused(config):
    for model, quoted in DIALECTS.values():
        assert_same_from_all_sources(config, model, to_request(config, quoted))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=400))
@settings(deadline=None, max_examples=100)
@example("two\nlines\r\u2028\x85")
def test_quotes_of_sdk_v2_carry_every_text(text):
    config = Config(text=text, x=text)
    assert_same_from_all_sources(config, v2, to_request(config, quoted=True))


@given(configs)
@settings(deadline=None, max_examples=100)
def test_a_config_in_arguments_is_read_as_it_was(config):
    try:
        argv = to_argv(config)
    except ValueError:
        return
    assert repr(read_config(Config, argv)) == repr(config)


@given(configs, st.integers())
@settings(deadline=None, max_examples=100)
def test_an_argument_takes_precedence_with_a_warning(config, other):
    try:
        request = to_request(config, True)
    except ValueError:
        return
    assert read_config(Config, ["--whole", str(other)], request).whole == other
    warnings = list(find_conflicts(Config, ["--whole", str(other)], request))
    assert len(warnings) == (other != config.whole)
