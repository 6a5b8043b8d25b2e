"""AWS's package for the containers of vLLM and SGLang calls a bundle's handlers, and ignores what the check finds.

The package comes from the package index, into the environment that conformance/hosting.txt pins. No GPU is needed.
"""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from helpers import CONFORMANCE, environment

from mlkit.model import MyCustomModel
from mlkit.sagemaker.artifacts.archive import extract_bundle
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.artifacts.hosting_contract import find_contract_fallbacks

HANDLERS = """
import json


def predict_fn(data, model, context):
    if data[0, 0] < 0:
        raise OSError("/secret")
    context.set_response_header(0, "X-Flowers", "1")
    return model(data)


def output_fn(prediction, accept):
    return json.dumps(len(prediction)), "application/vnd.flowers+json"
"""


def ask(*cases):
    """Return what AWS's package answers; a case is a folder, variables and requests."""
    packages = next(environment("hosting").parent.glob("lib/python*/site-packages"))
    lines = [{"folder": str(folder), "environment": env, "requests": requests} for folder, env, requests in cases]
    command = [sys.executable, CONFORMANCE / "hosting.py", packages]
    process = subprocess.run(command, input=json.dumps(lines), text=True, capture_output=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folder.mkdir(exist_ok=True)
    return folder


REQUESTS = [
    ["[[1, 2, 3, 4], [1, 2, 3, 4]]", "application/json"],
    ["1,2,3,4", "text/csv; header=absent"],
    ["[[1, 2, 3]]", "application/json"],
    ["[[", "application/json"],
    ["<x/>", "text/xml"],
    ["[[-1, 2, 3, 4]]", "application/json"],
]


def test_a_bundle_answers_as_behind_our_server(tmp_path):
    source = write(tmp_path / "src", {"inference.py": HANDLERS})
    bundle = build_bundle(MyCustomModel(4, 8, 2), source, out=tmp_path / "model.tar.gz", sample=torch.zeros(1, 4))
    folder = extract_bundle(bundle, tmp_path / "model")
    assert not list(find_contract_fallbacks(folder))
    own_folder = shutil.copytree(folder, tmp_path / "own")
    (own_folder / "model.py").write_text("class Net: pass\n")
    variables = {"CUSTOM_SCRIPT_FILENAME": "mlkit_model.py"}
    broken_folder = shutil.copytree(folder, tmp_path / "broken")
    (broken_folder / "model.safetensors").unlink()
    results = ask(
        (folder, {}, REQUESTS),
        (own_folder, {}, REQUESTS),
        (own_folder, variables, REQUESTS),
        (broken_folder, {}, []),
    )

    assert results[0]["ping"] == [200, ""]
    replies = results[0]["replies"]
    assert replies[0] == [200, "application/vnd.flowers+json", "2"]
    assert [status for status, _, _ in replies] == [200, 200, 422, 400, 415, 500]
    errors = [json.loads(body) for _, _, body in replies[2:]]
    assert [error["stage"] for error in errors] == ["input_fn", "input_fn", "input_fn", "predict_fn"]
    assert "secret" not in replies[-1][2]

    # The user's own model.py is read in its place, which the check says, with the variable that helps.
    assert results[1]["replies"][0][2] == "engine"
    (finding,) = find_contract_fallbacks(own_folder)
    assert finding.note and "CUSTOM_SCRIPT_FILENAME=mlkit_model.py" in finding.remedy
    assert [reply[0] for reply in results[2]["replies"]] == [reply[0] for reply in replies]
    assert not list(find_contract_fallbacks(own_folder, variables))

    # Without a model the engine does not start.
    assert "model.safetensors" in results[3]["error"]


HANDLER = """
from fastapi import Request
async def custom_sagemaker_invocation_handler(request: Request): return "mine"
"""
DECORATED = """
from model_hosting_container_standards.sagemaker import DECORATOR as decorator
from fastapi import Request
@decorator
async def f(request: Request): return "mine"
"""
VARIABLE = "CUSTOM_FASTAPI_INVOCATION_HANDLER"
# Files, variables, and what the package does: "mine" is the handler, "engine" the default, a number the status of a
# reply, "refused" that the engine does not start.
CONTRACT = {
    "by its name": ({"model.py": HANDLER}, {}, "mine"),
    "by its decorator": ({"model.py": DECORATED.replace("DECORATOR", "custom_invocation_handler")}, {}, "mine"),
    "by a variable": ({"mine.py": HANDLER}, {VARIABLE: "mine.py:custom_sagemaker_invocation_handler"}, "mine"),
    "in another file": ({"other.py": HANDLER}, {"CUSTOM_SCRIPT_FILENAME": "other.py"}, "mine"),
    "misspelt": ({"model.py": HANDLER.replace("invocation", "invocations")}, {}, "engine"),
    "no type": ({"model.py": HANDLER.replace(": Request", "")}, {}, 422),
    "the decorator of an engine": (
        {"model.py": DECORATED.replace("DECORATOR", "register_invocation_handler")},
        {},
        "engine",
    ),
    "the four functions": ({"model.py": "def predict_fn(data, model): return data"}, {}, "engine"),
    "in the folder code": ({"code/model.py": HANDLER}, {}, "engine"),
    "a variable without a file": ({}, {VARIABLE: "mine.py:f"}, "refused"),
    "a variable without a function": ({"mine.py": ""}, {VARIABLE: "mine.py:f"}, "refused"),
    "a variable that is a path": ({}, {VARIABLE: "/health"}, "engine"),
    "a variable that is a file": ({"model.py": ""}, {VARIABLE: "model.py"}, "engine"),
    "a missing file": ({}, {"CUSTOM_SCRIPT_FILENAME": "other.py"}, "engine"),
    "not Python": ({"model.py": "def f(:"}, {}, "refused"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    root = tmp_path_factory.mktemp("contract")
    cases = {name: (write(root / name, files), env) for name, (files, env, _) in CONTRACT.items()}
    results = ask(*((folder, env, [["[1]", "application/json"]]) for folder, env in cases.values()))
    findings = {name: list(find_contract_fallbacks(folder, env)) for name, (folder, env) in cases.items()}
    return {name: (result, findings[name]) for name, result in zip(cases, results)}


@pytest.mark.parametrize("name", CONTRACT)
def test_the_check_finds_what_the_package_does_not_call(name, answers):
    result, findings = answers[name]
    expected = CONTRACT[name][-1]
    if expected == "refused":
        assert result["error"] and findings
    elif isinstance(expected, int):
        assert result["replies"][0][0] == expected and findings
    else:
        assert expected in result["replies"][0][2], result
        assert bool(findings) == (expected == "engine"), findings
