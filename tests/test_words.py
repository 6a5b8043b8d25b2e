"""Remedies in the words of the place where they are read: each exists there, and findings take them from the table."""

import ast
import importlib.util
import inspect
import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

from mlkit.cli import main
from mlkit.cli import mlkit as command
from mlkit.sagemaker.artifacts.check_job import check
from mlkit.sagemaker.client.endpoints import Endpoint, Machines
from mlkit.sagemaker.client.job_options import JobOptions
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.words import FRONT_ENDS, PHRASES, phrase, use_front_end

MLKIT = Path(importlib.import_module("mlkit").__file__).parent
FUNCTIONS = {  # the functions that a phrase in Python calls
    "job.check": TrainingJob.check,
    "check": check,
    "check_bundle": "mlkit.sagemaker.artifacts.check_bundle:check_bundle",
    "build_bundle": "mlkit.sagemaker.artifacts.bundle:build_bundle",
    "deploy": "mlkit.sagemaker.client.deployment:deploy",
    "monitor": "mlkit.notebook.monitor:monitor",
    "LocalSageMaker().clean": LocalSageMaker.clean,
    "endpoint.invoke_async": Endpoint.invoke_async,
}
SHELL_WORDS = re.compile(
    r"\bmlkit (check|run|bundle|deploy|serve|train|local|follow|invoke)\b|\bpip (un)?install\b|(^|[\s(])--[a-z]"
)


@pytest.mark.parametrize("name", PHRASES)
def test_the_command_line_has_every_phrase(name):
    for call in PHRASES[name][0].split(", or "):
        words = call.split()
        if words[0] == "python":
            assert importlib.util.find_spec(words[2])
            continue
        subcommand = command.commands[words[1]]
        flags = {flag for p in subcommand.get_params(click.Context(subcommand)) for flag in p.opts}
        assert {word for word in words if word.startswith("--")} <= flags, call


@pytest.mark.parametrize("name", PHRASES)
def test_python_has_every_phrase(name):
    for call in PHRASES[name][1].split(", or "):
        node = ast.parse(call, mode="eval").body
        if isinstance(node, ast.Name):
            node = ast.Call(node, [], [])
        function = ast.unparse(node.func)
        keywords = {keyword.arg for keyword in node.keywords}
        if function == "help":
            module, _, attribute = ast.unparse(node.args[0]).rpartition(".")
            assert hasattr(importlib.import_module(module), attribute)
        elif function == "TrainingJob":
            assert keywords <= {"channels"} | {field.name for field in fields(JobOptions)}, call
        else:
            f = FUNCTIONS[function]
            if isinstance(f, str):
                module, _, attribute = f.partition(":")
                f = getattr(importlib.import_module(module), attribute)
            options = {field.name for field in fields(Machines)} if function == "deploy" else set()
            assert keywords <= {*inspect.signature(f).parameters} | options, call


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_shell_alone_has_its_words(front_end):
    with use_front_end(front_end):
        for name in PHRASES:
            assert bool(SHELL_WORDS.search(phrase(name)) or "python -m" in phrase(name)) == (front_end == "shell"), name


def modules_with_findings():
    """Return the modules that write findings, notes, or what a check left out."""
    pattern = re.compile(r"\bFinding\(|\.add_note\(|\.leave_out\(|untried\.append\(")
    files = sorted((MLKIT / "sagemaker").rglob("*.py")) + [MLKIT / "notebook" / "launcher.py"]
    return [f for f in files if pattern.search(f.read_text(encoding="utf-8"))]


def texts(module):
    """Yield line and text of each string of a module that has several words and is not a docstring."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    expressions = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip()
        if is_text and id(node) not in expressions:
            yield node.lineno, node.value


def test_no_finding_is_written_past_the_table():
    assert len(modules_with_findings()) >= 10
    for f in modules_with_findings():
        for line, text in texts(f):
            assert not SHELL_WORDS.search(text), f"{f.name}:{line}: take it from mlkit.words: {text!r}"


PLAIN = "import argparse\nargparse.ArgumentParser().parse_args()\n"


@pytest.fixture
def plain(tmp_path):
    """A program that knows nothing of mlkit, with a requirement that is not met."""
    (tmp_path / "train.py").write_text(PLAIN)
    (tmp_path / "requirements.txt").write_text("no-such-package>=1\n")
    return tmp_path


def test_a_check_speaks_as_its_reader(plain, capsys):
    with use_front_end("notebook"):
        text = repr(TrainingJob(source=plain).check())
    assert "%pip install 'no-such-package>=1'" in text and "job.check(run=True) runs it" in text
    assert not SHELL_WORDS.search(text.replace("%pip", "")), text
    assert main(["check", str(plain)]) == 1
    text = capsys.readouterr().out
    assert "-> pip install 'no-such-package>=1'" in text and "mlkit check --run runs it" in text


def test_an_error_of_the_built_in_training_names_the_hyperparameter(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "rows.csv").write_text("".join(f"{i % 3},{i}\n" for i in range(30)))
    with use_front_end("notebook"):
        report = TrainingJob({"output_dim": 2}, channels={"training": tmp_path / "training"}).check()
    (finding,) = report.findings
    assert "output_dim is 2, but" in finding.what and "--" not in str(finding), finding
    assert report.untried == ["what comes after one step: save, load, predict"]
