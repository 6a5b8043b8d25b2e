"""Configs through the spellings of both generations of AWS's software, and back: either every way to read them gives
the same, or launching says why not

`v2` and `v3` say what that software makes of a request; `test_conformance.py` holds them against the software itself.
"""

import json
from collections import ChainMap
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Optional

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


NASTY = [
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
texts = st.sampled_from(NASTY) | st.text()
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
easy = st.builds(
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


def parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def v3(request):
    """The command line and SM_HPS that SDK v3's drivers make of a request"""
    values = {k: parsed(v) for k, v in request.items()}
    return [a for k, v in values.items() for a in (f"--{k}", v if isinstance(v, str) else json.dumps(v))], values


def v2(request):
    """The same as SDK v2's toolkit makes them"""
    values = {k: parsed(v) for k, v in request.items() if not k.startswith("sagemaker_")}

    def spelt(v):
        return (
            ",".join(f"{k}={i}" for k, i in sorted(v.items())) if isinstance(v, dict) else "" if v is None else str(v)
        )

    return [a for k in sorted(values) for a in (("--" if len(k) > 1 else "-") + k, spelt(values[k]))], values


DIALECTS = {"v2": (v2, True), "v3": (v3, False)}


def requested(config, quoted):
    """The hyperparameters of a request as the SDK would send it"""
    return to_hyperparameters(config, quoted) | (
        dict(sagemaker_program='"train.py"', sagemaker_region='"us-east-1"') if quoted else {}
    )


def same_everywhere(config, software, request):
    argv, values = software(request)
    for found in (request, ChainMap(values, request)):
        assert repr(read_config(Config, argv, found)) == repr(config)
        assert repr(read_config(Config, (), found)) == repr(config)
        assert not list(find_conflicts(Config, argv, found))


@given(configs)
@settings(deadline=None, max_examples=200)
def test_what_is_launched_arrives(config):
    for software, quoted in DIALECTS.values():
        try:
            request = requested(config, quoted)
        except ValueError:
            continue
        same_everywhere(config, software, request)


@given(easy)
@settings(deadline=None, max_examples=200)
@example(Config(text="1.50", words={"a,b": "c=d", "": '"'}, texts=["it's", "\\"]))
def test_what_a_request_can_carry_is_launched(config):
    for software, quoted in DIALECTS.values():
        same_everywhere(config, software, requested(config, quoted))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=400))
@settings(deadline=None, max_examples=200)
@example("two\nlines\r\u2028\x85")
def test_sdk_v2s_quotes_carry_every_text(text):
    same_everywhere(Config(text=text, x=text), v2, requested(Config(text=text, x=text), quoted=True))


@given(configs)
@settings(deadline=None, max_examples=200)
def test_a_command_line_arrives(config):
    try:
        argv = to_argv(config)
    except ValueError:
        return
    assert repr(read_config(Config, argv)) == repr(config)


@given(configs, st.integers())
@settings(deadline=None, max_examples=100)
def test_the_command_line_wins_and_says_so(config, other):
    try:
        request = requested(config, True)
    except ValueError:
        return
    assert read_config(Config, ["--whole", str(other)], request).whole == other
    said = list(find_conflicts(Config, ["--whole", str(other)], request))
    assert len(said) == (other != config.whole)
