"""Nothing that comes from a job, a name, a log line or an error reaches a browser as markup.

Markup is planted in each string that comes from outside, with the name of its place, so that a test can tell that it
has arrived. Every function of the package that writes HTML or SVG has to run here: see the last test.
"""

import ast
import json
import re
import sys
import threading
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field, make_dataclass
from enum import Enum
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import ipywidgets as widgets
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mlkit
from mlkit.notebook import LossPlot, compare, form, launcher, monitor, playground, runs, train_widget
from mlkit.notebook.curves import Curves
from mlkit.notebook.forms import NAME_SLIDER, FormField
from mlkit.notebook.next_steps import NextSteps
from mlkit.notebook.svg import draw_plot
from mlkit.notebook.sweep_plots import sweep_figure
from mlkit.notebook.sweep_view import SweepView
from mlkit.sagemaker.client import Handlers, Sweep, TrainingJob
from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.sagemaker.search.space import Choices
from mlkit.sagemaker.search.trials import Trial
from mlkit.text import Table
from mlkit.training import History, Trainer
from mlkit.training.data import Rows
from mlkit.training.data.frame import Frame

PACKAGE = Path(mlkit.__file__).parent
MARKUP = "<img src=x onerror=alert(1)>\"'></span></pre></text></title><script>alert(2)</script>&lt;b&gt;$\\x$"


def plant(place):
    """Return markup that names the place in which it is planted."""
    return f"[{place}]{MARKUP}"


class Checker(HTMLParser):
    """Collect what a browser would show of a document, and refuse what it would run."""

    TAGS = set(
        "a b br button circle clippath code col colgroup defs details div em fieldset form g h3 h4 i img input label "
        "legend line p path pattern polygon polyline pre rect span style sub summary sup svg table tbody td text th "
        "thead title tr tspan ul li use".split()
    )

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.shown = []

    def handle_starttag(self, tag, attributes):
        assert tag in self.TAGS, f"<{tag}> in what a browser gets: {self.get_starttag_text()}"
        for name, value in attributes:
            if tag == "img" and name == "src":
                assert value.startswith("data:image/png;base64,"), value[:200]
            assert re.fullmatch(r"[a-zA-Z:-]+[12]?", name) and not name.startswith("on"), self.get_starttag_text()
            self.shown.append(value or "")

    def handle_data(self, data):
        self.shown.append(data)


def outer_drawings(text):
    """Yield each SVG drawing of a document that is not within another one."""
    depth = begin = 0
    for match in re.finditer(r"<svg[\s>]|</svg>", text):
        if match[0] == "</svg>":
            depth -= 1
            if depth == 0:
                yield text[begin : match.end()]
        else:
            begin = begin if depth else match.start()
            depth += 1
    assert depth == 0


def check_markup(text):
    """Assert that a document holds planted markup as text only; return what it shows."""
    if text == NAME_SLIDER:  # a constant, whose script names a slider
        return ""
    checker = Checker()
    checker.feed(text)
    checker.close()
    for svg in outer_drawings(text):
        ET.fromstring(svg)  # well-formed, as XML has to be
    return "\n".join(checker.shown)


class Browser:
    """Everything that a front end would get: documents of widgets, of displays and of reprs."""

    def __init__(self, monkeypatch):
        self.documents = []
        self.outputs = []  # what was displayed, by MIME type
        monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=None, execution_count=1))
        monkeypatch.setattr("IPython.display.display", self.display)
        notify_change = widgets.HTML.notify_change

        def record(widget, change):
            if change["name"] == "value":
                self.documents.append(change["new"])
            return notify_change(widget, change)

        monkeypatch.setattr(widgets.HTML, "notify_change", record)

    def display(self, *objects, **options):
        """Stand in for IPython's display."""
        self.outputs += objects
        return SimpleNamespace(update=lambda data, **options: self.outputs.append(data))

    def show(self, *objects):
        """Show objects as the last line of a cell does."""
        for shown in objects:
            if hasattr(shown, "_ipython_display_"):
                shown._ipython_display_()
            for kind in ("_repr_html_", "_repr_svg_", "_repr_markdown_"):
                if hasattr(shown, kind):
                    self.documents.append(getattr(shown, kind)() or "")  # a Figure has no HTML of its own
            if hasattr(shown, "_repr_mimebundle_"):
                bundle = shown._repr_mimebundle_()
                self.outputs.append(bundle[0] if isinstance(bundle, tuple) else bundle)  # without metadata

    def all_shown(self):
        """Check every document. Return all that they show."""
        widgets_now = list(widgets.widget._instances.values())
        documents = [*self.documents, *(w.value for w in widgets_now if isinstance(w, widgets.HTML))]
        documents += [w.description for w in widgets_now if getattr(w, "description_allow_html", False)]
        for output in self.outputs:
            documents += [output[kind] for kind in ("text/html", "image/svg+xml", "text/markdown") if kind in output]
        return "\n".join(check_markup(document) for document in dict.fromkeys(documents))


@pytest.fixture(scope="module")
def executed():
    """The code that the tests of this file execute: {(file, name, first line)}."""
    codes = set()

    def record(frame, event, argument):
        if event == "call":
            codes.add(frame.f_code)

    threading.setprofile(record)
    sys.setprofile(record)
    yield codes
    sys.setprofile(None)
    threading.setprofile(None)


@pytest.fixture
def browser(monkeypatch, executed):
    return Browser(monkeypatch)


PROGRAM = f"""
import json, os, sys
from mlkit.sagemaker.job.failure import write_failure

for epoch in (1, 2):
    print(f"[metrics] epoch={{epoch}} train_loss={{1 / epoch}} valid_loss={{1 / epoch}} <b>score</b>={{epoch}}")
    print(json.dumps({{"loss": 1 / epoch, {plant("metric name")!r}: epoch}}))
print({plant("log line")!r})
sys.exit({plant("failure reason")!r})
"""
JOB = plant("job name")


class PlantedSageMaker(LocalSageMaker):
    """This machine with one job, whose description has markup wherever a person can write."""

    def describe_training_job(self, TrainingJobName):
        description = super().describe_training_job(TrainingJobName="planted")
        description |= {"TrainingJobName": JOB, "FailureReason": plant("failure reason")}
        description["HyperParameters"] = {plant("hyperparameter name"): json.dumps(plant("hyperparameter value"))}
        for transition in description["SecondaryStatusTransitions"]:
            transition["StatusMessage"] = plant("status message")
        return description

    def list_training_jobs(self, **request):
        answer = super().list_training_jobs(**request)
        for summary in answer["TrainingJobSummaries"]:
            summary["TrainingJobName"] = JOB
        return answer

    def folder(self, name):
        return super().folder("planted" if name == JOB else name)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    (folder / "train.py").write_text(PROGRAM)
    client = PlantedSageMaker(folder / "local")
    TrainingJob({}, str(folder / "train.py"), name="planted").run(client)
    while client.describe_training_job(TrainingJobName="planted")["TrainingJobStatus"] == "InProgress":
        threading.Event().wait(0.05)
    return client


def assert_shown(browser, *places):
    """Assert that a browser shows what was planted in these places, as text."""
    shown = browser.all_shown()
    missing = [place for place in places if f"[{place}]" not in shown]
    assert not missing, f"planted and not shown: {missing}\n{shown[-3000:]}"


def test_a_job_in_a_monitor(browser, local):
    job_monitor = monitor(JOB, local)
    browser.show(job_monitor)
    job_monitor.wait()
    job_monitor.error = plant("error of the monitor")
    job_monitor.show()
    assert_shown(browser, "job name", "status message", "failure reason", "log line", "error of the monitor")


def test_an_error_of_the_target(browser, local, monkeypatch):
    def fail(**request):
        raise RuntimeError(plant("error of the target"))

    for operation in ("describe_training_job", "list_training_jobs", "job_results"):
        monkeypatch.setattr(local, operation, fail)
    listed = runs(local)
    browser.show(listed)
    assert_shown(browser, "error of the target")


def test_a_list_of_jobs(browser, local):
    listed = runs(local)
    browser.show(listed)
    browser.show(listed.compare())
    assert_shown(browser, "job name", "hyperparameter name", "hyperparameter value")


class Choice(Enum):
    FIRST = plant("choice of an enum")


@dataclass
class Inner:
    rate: float = 0.1  # [help of an inner field] <img src=x onerror=alert(1)> "quoted" </script>


@dataclass
class Config:
    # written here as text, because a comment cannot be computed
    text: str = plant("value of a field")  # [help of a field] <img src=x onerror=alert(1)> "quoted" </script>
    number: int = 1
    inner: Inner = field(default_factory=Inner)
    literal: Literal[plant("choice")] = plant("choice")  # noqa: F722 -- a Literal, not an annotation in quotes
    choice: Choice = Choice.FIRST

    def __post_init__(self):
        if self.number == 2:
            raise ValueError(plant("error of a config"))


def test_a_form(browser):
    config_form = form(Config)
    browser.show(config_form)
    editors = [w for w in widgets.widget._instances.values() if getattr(w, "description", "") == "number"]
    config_form.fields["number"].editor.value = plant("wrong value")
    assert editors and config_form.errors
    assert_shown(browser, "help of a field", "help of an inner field", "wrong value")
    config_form.fields["number"].editor.value = "2"
    with pytest.raises(ValueError):
        _ = config_form.value
    browser.show(FormField(plant("name of a field"), str, plant("value"), plant("help")).row)
    assert_shown(browser, "error of a config", "help")


PROGRAMS = [f"raise SystemExit({plant('error of a program')!r})\n", "print('that works')\n"]


def test_a_launcher(browser, tmp_path):
    client = LocalSageMaker(tmp_path / "local")
    for i, source in enumerate(PROGRAMS):
        program = tmp_path / f"train_{i}.py"
        program.write_text(source)
        job = TrainingJob({"text": plant("value of a field")}, str(program))
        job_launcher = launcher(job, client, session=SimpleNamespace())
        browser.show(job_launcher)
        job_launcher.show_request()
        job_launcher.check()
        job_launcher.wait()
    job_launcher.show_request()
    job_launcher.instance.value = plant("instance type")
    job_launcher.show_request()
    job_launcher.target.value = "sagemaker"
    job_launcher.launch()
    assert_shown(browser, "value of a field", "instance type", "error of a program")


def test_an_endpoint_in_a_playground(browser):
    answers = {
        "Body": SimpleNamespace(read=lambda: json.dumps([plant("answer")]).encode()),
        "ContentType": "application/json; " + plant("content type"),
        "CustomAttributes": f"{plant('handler').replace(';', ',').replace('=', '-')}=1.5",
    }
    endpoint = SimpleNamespace(
        name=plant("endpoint"),
        signature={plant("input"): {"dtype": "float32", "shape": [1, 4]}},
        description=None,
        ask=lambda *args, **options: answers,
    )
    panel = playground(endpoint)
    browser.show(panel)
    panel.send()
    panel.wait()
    assert_shown(browser, "endpoint", "input", "answer", "content type", "handler")

    def fail(*args, **options):
        raise RuntimeError(plant("error of an endpoint"))

    endpoint.ask = fail
    panel.send()
    panel.wait()
    assert_shown(browser, "error of an endpoint")


def test_training_in_the_notebook(browser):
    def train(callbacks, verbose):
        raise RuntimeError(plant("error of a loop"))

    run = train_widget(train=train)
    browser.show(run)
    run.thread.wait()
    browser.show(LossPlot())
    assert_shown(browser, "error of a loop")


METRICS = {"train_loss": 1.0, "valid_loss": 1.0, plant("metric"): 0.5, f"valid_{plant('valid metric')}": 0.5}


def planted_curves():
    curves = Curves(state=plant("state"), seconds=3.0)
    curves.loss.extend([3.0, 2.0, 1.0])
    curves.learning_rate.extend([0.1, 0.2])
    for epoch in (1, 2):
        curves.add_epoch({"epoch": epoch} | METRICS)
    return curves


@pytest.mark.parametrize("log", [False, True])
def test_plots(browser, log):
    browser.documents.append(draw_plot(planted_curves(), log=log))
    plot = LossPlot()
    plot.curves = planted_curves()
    browser.show(plot)
    browser.show(plot.figure(title=plant("title")))  # matplotlib reads some text as formulas
    assert_shown(browser, "state", "metric", "valid metric")


def test_tables_and_what_is_shown_as_one(browser, tmp_path):
    words = [plant("value of a column"), "b", plant("value of a column"), "b"] * 5
    columns = {plant("column"): words, "label": [plant("class"), "other"] * 10}
    history = History([{"epoch": 1} | METRICS], [1.0])
    browser.show(history.plot())
    comparison = compare({plant("run"): {plant("metric"): [1.0, 0.5]}}, plant("metric"))
    browser.show(comparison.figure)
    (tmp_path / "<b>inference<b>.py").write_text("def predict_fn(data, model):\n    return data\n")
    handlers = Handlers.load(tmp_path / "<b>inference<b>.py")
    rows = Rows.fit(columns, label="label")
    frame = Frame.of(columns)
    browser.show(Table([plant("header")], [[plant("cell")]], plant("note")), history, comparison, rows, handlers, frame)
    assert_shown(browser, "header", "cell", "note", "run", "metric", "column", "class")
    assert "<b>inference<b>.py" in browser.all_shown()


def test_a_trainer(browser):
    model = type(plant("model"), (nn.Linear,), {})(2, 2)
    loader = DataLoader(TensorDataset(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)), 2)
    browser.show(Trainer(model, loader, torch.optim.SGD(model.parameters()), nn.CrossEntropyLoss()))
    assert_shown(browser, "model")


def planted_sweep():
    """Return a sweep of each state of a trial, with markup in each text."""
    name, state = plant("name of a hyperparameter"), plant("state of a trial")
    kinds = [plant("choice of a sweep"), "b"]
    trials = [Trial(i, {name: kinds[i % 2]}, "completed", [1.0, 0.1 * i]) for i in range(12)]
    trials += [Trial(12, {name: "b"}, "failed", [], plant("reason of a trial")), Trial(13, {name: "b"}, state, [1e9])]
    return SimpleNamespace(
        name=plant("sweep"),
        metric=plant("metric of a sweep"),
        minimize=True,
        space={name: Choices(tuple(kinds))},
        plan=SimpleNamespace(trials=14),
        trials=lambda: trials,
        status="Failed",
        reason=plant("reason of a sweep"),
        target=plant("target of a sweep"),
    )


def test_a_sweep(browser):
    view = SweepView(planted_sweep(), interval=0.01)
    browser.show(view)
    view.wait()
    view.choice.value = plant("name of a hyperparameter")
    view.error = plant("error of a sweep")
    view.show()
    browser.show(sweep_figure(view.state, view.weights))
    places = ["sweep", "metric of a sweep", "name of a hyperparameter", "choice of a sweep", "state of a trial"]
    assert_shown(browser, *places, "reason of a trial", "reason of a sweep", "target of a sweep")
    assert_shown(browser, "error of a sweep")


def test_a_sweep_at_the_end_of_a_cell(browser, tmp_path):
    sweep = Sweep(len, {"text": ["a", "b"]}, config={"text": "a"}, folder=tmp_path)
    sweep.backend = planted_sweep()
    browser.show(sweep)
    assert_shown(browser, "target of a sweep", "state of a trial")


def test_the_question_before_a_deployment(browser):
    steps = NextSteps(SimpleNamespace(name=plant("deployed job"), target=None, is_attached=False))
    steps.deploy_button.disabled = False
    steps.deploy()
    assert_shown(browser, "deployed job")


HTML_TAG = re.compile(
    r"</?(a|b|br|div|h\d|p|pre|span|svg|table|t[dhr]|text|title|path|style|details|circle|poly\w+)[ >/]"
)
REPR = {"_repr_html_", "_repr_svg_", "_repr_markdown_", "_repr_mimebundle_", "_ipython_display_"}


def functions_that_write_markup():
    """Yield (file, name, first lines) of each function of the package that writes HTML or SVG, or is shown as such."""
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if path.name == "_modidx.py" or not (HTML_TAG.search(source) or any(name in source for name in REPR)):
            continue
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef):
                continue
            inner = {child for f in node.body for child in ast.walk(f)}
            docstring = ast.get_docstring(node, clean=False)
            texts = [c.value for c in inner if isinstance(c, ast.Constant) and isinstance(c.value, str)]
            if node.name in REPR or any(HTML_TAG.search(text) for text in texts if text != docstring):
                yield path, node.name, {node.lineno, *(d.lineno for d in node.decorator_list)}


def test_every_function_that_writes_markup_has_run(executed):
    """Add an object that is shown by the function to the tests above; then its strings are planted, too."""
    ran = {(Path(code.co_filename), code.co_name, code.co_firstlineno) for code in executed.copy()}
    missing = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path, name, lines in functions_that_write_markup()
        if not any((path, name, line) in ran for line in lines)
    ]
    assert not missing, missing
