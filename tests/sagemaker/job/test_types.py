"""The types of a config: each comes through form, job, command line and program as it is, or is refused by its name.

`pytest -s` prints the table.
"""

import dataclasses
import io
import json
import re
from collections import ChainMap
from datetime import date
from enum import Enum, Flag
from pathlib import Path
from typing import Any, Literal, NamedTuple, NewType

import ipywidgets as widgets
import pytest
from click.testing import CliRunner

from mlkit.cli import mlkit
from mlkit.notebook import form
from mlkit.notebook.forms import FormField
from mlkit.sagemaker.artifacts.source import Source
from mlkit.sagemaker.artifacts.starter import SPELLINGS, arguments_of_request, read_values
from mlkit.sagemaker.client.job_config import make_hyperparameters
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.job import values as job_values
from mlkit.sagemaker.job.hyperparameters import find_conflicts, read_config, to_argv, to_hyperparameters
from mlkit.sagemaker.job.values import is_same
from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.sagemaker_entry import entry_point
from mlkit.text import Table


class Decay(Enum):
    cosine = "Cosine"
    linear = "cosine"  # one member's value is the other's name


@dataclasses.dataclass
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    name: str | None = "null"


class Level(Flag):
    LOW = 1
    HIGH = 2


class Point(NamedTuple):
    x: int


Count = NewType("Count", int)

STRINGS = ["x", "", "null", "3", "true", "1.50", '"quoted"', "it's $x <b> é", " x ", "[1]", "a=1,b", "--x"]
TYPES = {
    str: STRINGS,
    bool: [True, False],
    int: [0, -3, 2**70],
    float: [0.1, 3e-4, 1 / 3, -1e-300, 1e22, float("inf"), float("nan")],
    Path: [Path(string) for string in STRINGS if string],
    Decay: list(Decay),
    Literal["a", "1", 1, True, None]: ["a", "1", 1, True, None],
    list: [[1, "1", None, [0.5]], []],
    tuple[float, str]: [(0.1, "null")],
    tuple[()]: [()],
    dict: [{"a": {"b": [1, "x"]}, "c,d": None}, {}],
    dict[Decay, Path]: [{Decay.cosine: Path("x")}],
    dict[int, float]: [{1: 0.5}],
    Optim: [Optim(), Optim(1 / 3, (0.5, 0.6), None)],
    Any: [None, True, 3, 0.1, [1, "1"], {"a": 1}, *STRINGS],
    Count: [3],
    int | str: [3, *STRINGS],
    str | int | float | bool: [3, 0.5, True, *STRINGS],
    str | list[int | str]: [[3, "3"], *STRINGS],
}


def variants():
    """Yield each type alone, as an optional one, and in each collection, with its values."""
    for kind, values in TYPES.items():
        yield kind, values
        yield kind | None if kind is not Any else Any, [*values, None]
        yield list[kind], [values]
        yield tuple[kind, ...], [tuple(values)]
        yield tuple[kind, int], [(value, 1) for value in values]
        yield dict[str, kind], [{"a b": value} for value in values]
        yield list[kind] | None, [values, None]


def config_type_of(kind):
    """Return a config that has the type in a field, and in a field of a nested config."""
    inner = dataclasses.make_dataclass("Inner", [("x", kind)])
    return dataclasses.make_dataclass("Outer", [("value", kind), ("inner", inner)])


def config_of(config_type, value):
    inner = job_values.field_types(config_type)["inner"]
    return config_type(value, inner(value))


def check_same(config, copy, way):
    assert type(copy) is type(config)
    for value, read in ((config.value, copy.value), (config.inner.x, copy.inner.x)):
        assert is_same(read, value), f"{way}: {value!r} came back as {read!r}"


PROGRAM = Source({"train.py": b""}, "train.py")


def through_form(config):
    kind = job_values.field_types(type(config))["value"]
    if job_values.is_nested(kind):
        check_same(config, form(config).value, "form")
        return
    field = FormField("value", kind, config.value)
    assert is_same(field.value, config.value), f"untouched field: {field.value!r}"
    if isinstance(field.editor, widgets.Text) and field.editor.value:
        typed = FormField("value", kind, dataclasses.MISSING)
        typed.editor.value = field.editor.value
        assert is_same(typed.value, config.value), f"{field.editor.value} typed into a form: {typed.value!r}"


def through_job(config):
    texts = make_hyperparameters(config, PROGRAM)
    check_same(config, read_config(type(config), hyperparameters=texts), "job")
    assert all(isinstance(text, str) for text in texts.values())


def through_command_line(config):
    check_same(config, read_config(type(config), to_argv(config)), "command line")


def through_program(config):
    """Read the config as a program does in a container: from arguments, SM_HPS and hyperparameters.json at once."""
    written = to_hyperparameters(config)
    for texts in (
        make_hyperparameters(config, PROGRAM),
        to_hyperparameters(config, quoted=True) | {"sagemaker_program": '"train.py"'},
    ):
        sources = ChainMap(json.loads(json.dumps(read_values(texts))), texts)
        for spelling in SPELLINGS:
            argv = arguments_of_request(texts, spelling)
            read = read_config(type(config), argv, sources)
            check_same(config, read, f"program, arguments as of SDK {spelling}")
            assert not list(find_conflicts(type(config), argv, sources))
    assert to_hyperparameters(read) == written


WAYS = {"form": through_form, "job": through_job, "command line": through_command_line, "program": through_program}


@pytest.mark.long("all values")
@pytest.mark.parametrize("key", ["few values", "all values"])
def test_every_type_comes_through_every_way_and_back(key):
    rows = []
    for kind, values in variants():
        if key == "few values":
            values = values[: 3 if kind in TYPES else 1]
        config_type = config_type_of(kind)
        for value in values:
            for check in WAYS.values():
                check(config_of(config_type, value))
        config = config_of(config_type, values[0])
        untouched = form(config)
        check_same(config, untouched.value, "untouched form")
        widget = type(getattr(untouched.fields["value"], "editor", untouched)).__name__
        texts = to_hyperparameters(config)
        text = texts.get("value") or ", ".join(name for name in texts if name.startswith("value"))
        rows.append([job_values.type_name(kind), widget, text, *["exact"] * 3])
    print(Table(["type", "form", "text of the first value", "job", "command line", "program"], rows))


def test_the_types_above_are_all_that_can_travel():
    kinds = [kind for kind, _ in variants()] + [type(None)]
    for converter in job_values._CONVERTERS:
        assert any(converter.matches(kind) for kind in kinds), converter.name


REFUSED = [set[int], date, bytes, complex, re.Pattern, Point, Level, dict[tuple[int, int], str], object, type[int]]


@pytest.mark.parametrize("kind", REFUSED, ids=job_values.type_name)
def test_a_type_that_cannot_travel_is_refused_by_its_dotted_name_as_early_as_possible(kind):
    for variant in (kind, kind | None, list[kind], dict[str, kind], tuple[int, kind]):
        optim = dataclasses.make_dataclass("Optim", [("state", variant, dataclasses.field(default=None))])
        config_type = dataclasses.make_dataclass(
            "Config", [("lr", float, 0.1), ("optim", optim, dataclasses.field(default_factory=optim))]
        )

        def train(config: config_type):
            raise AssertionError("the program ran")

        for start, argument in (
            (form, config_type),
            (entry_point, train),
            (TrainingJob, config_type()),
            (read_config, config_type),
            (to_argv, config_type()),
        ):
            with pytest.raises(TypeError, match=r"hyperparameter 'optim\.state': .* expected"):
                start(argument)


TYPED = """
import dataclasses
from enum import Enum
from pathlib import Path
from typing import Literal

class Decay(Enum):
    constant = "Constant"
    cosine = "Cosine"

@dataclasses.dataclass
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (.9, .999)

@dataclasses.dataclass
class Config:
    data: Path = Path("data")
    tag: str | None = None
    label: int | str = 0
    decay: Decay = Decay.constant
    device: Literal["cpu", "cuda"] = "cpu"
    layers: list[int] = dataclasses.field(default_factory=lambda: [64])
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    standardize: bool = False
    optim: Optim = dataclasses.field(default_factory=Optim)
    warmup: Optim | None = None
"""
TRAIN = """
from typed_config import Config
from mlkit.sagemaker_entry import Container, entry_point

@entry_point
def main(config: Config, container: Container):
    (container.model_dir / "config").write_text(repr(config))

if __name__ == "__main__":
    main()
"""
ARGUMENTS = (
    "--data 1.50 --tag null --label x --decay cosine --device cuda --layers 1,2 --weights a=.5 --standardize true "
    '--optim.lr 3e-4 --optim.betas .5,.6 --warmup {"lr":2}'
).split()


@pytest.fixture
def program(tmp_path, monkeypatch):
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "typed_config.py").write_text(TYPED)
    (folder / "train.py").write_text(TRAIN)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_a_program_gets_the_config_of_its_job_and_of_its_command(program, tmp_path):
    from typed_config import Config

    config = read_config(Config, ARGUMENTS)
    assert config.optim.betas == (0.5, 0.6) and config.data == Path("1.50") and config.tag is None
    job = TrainingJob(config, program).run(LocalSageMaker(tmp_path / "local")).follow(io.StringIO())
    assert (job.fetch(tmp_path / "model") / "config").read_text() == repr(config)
    # the same from the command line: its texts are read by the program
    result = CliRunner().invoke(mlkit, ["run", str(program), "--", *ARGUMENTS], catch_exceptions=False)
    name = re.search(r"^(\S+) on ", result.output, re.MULTILINE)[1]
    model = TrainingJob.attach(name).fetch(tmp_path / "model2")
    assert (model / "config").read_text() == repr(config), result.output
    # and from a file of settings
    again = TrainingJob.from_file(TrainingJob(config, program).to_file(tmp_path / "job.json"))
    assert again.hyperparameters | {"tag": "null"} == job.hyperparameters  # a None that is the default is left out
