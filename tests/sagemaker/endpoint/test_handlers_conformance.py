"""The handlers of the table, asked of AWS's toolkits and of ours: each answer is as the table says."""

import inspect
import json
import subprocess
import sys
from itertools import pairwise
from urllib.request import Request, urlopen

import pytest
from conformance.handler_cases import CASES, MODEL, NO_PREDICT_FN
from helpers import CONFORMANCE, environment

from mlkit.sagemaker.endpoint.codecs import RequestError
from mlkit.sagemaker.endpoint.context import Context, system_properties
from mlkit.sagemaker.endpoint.handlers import HandlerError, HandlerFailure, Handlers
from mlkit.sagemaker.endpoint.server import serve_in_thread


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write each case as the folder of a model, and return the folders by name."""
    written = {}
    for i, (name, case) in enumerate(CASES.items()):
        folder = tmp_path_factory.mktemp(f"case{i}")
        has_model = "model_fn(" in case.code.replace("pre_model_fn(", "") or "model_fn =" in case.code
        files = {"inference.py": ("" if has_model else MODEL) + case.code} | case.files
        for file, text in files.items():
            path = folder / "code" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        written[name] = folder
    return written


def headers_of(case):
    headers = {"Content-Type": case.content_type, "Accept": case.accept} | case.headers
    return {name: value for name, value in headers.items() if value is not None}


@pytest.fixture(scope="module")
def toolkits(folders, tmp_path_factory):
    """Return what AWS's toolkits say of all cases; one process asks for all."""
    folder = tmp_path_factory.mktemp("toolkits")
    cases = [
        dict(folder=str(folders[name]), body=case.body.decode("latin-1"), headers=headers_of(case))
        for name, case in CASES.items()
    ]
    (folder / "cases.json").write_text(json.dumps(cases))
    python = environment("serving") / "python"
    command = [python, "-W", "ignore", CONFORMANCE / "ask_toolkit.py", folder / "cases.json", folder / "answers.json"]
    run = subprocess.run(command, text=True, capture_output=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads((folder / "answers.json").read_text())


@pytest.fixture(scope="module")
def toolkit_answers(toolkits):
    """Return what AWS's toolkits answer, by name of the case."""
    answers = dict(zip(CASES, toolkits["answers"], strict=True))
    print_table(answers)
    return answers


def print_table(answers):
    print("\n| handler | AWS | mlkit | why |\n|---|---|---|---|")
    for name, case in CASES.items():
        ours = "refused" if case.refused else "the same" if case.ours is None else short(case.ours)
        print(f"| {name} | {short(comparable(answers[name]['PyTorch']))} | {ours} | {case.why} |")


def short(answer):
    return " ".join(map(str, answer))[:80].replace("|", "\\|").replace("\n", "\\n")


def comparable(answer):
    if answer["type"] is None:
        return answer["status"], answer["body"]
    return answer["status"], answer["type"], answer["body"]


def assert_answer(answer, expected):
    """Assert that an answer is as the table says: JSON has the same value, an error contains the message."""
    assert answer[0] == expected[0], answer
    if len(expected) == 2:
        assert expected[1] in answer[-1], answer
        return
    assert answer[1] == expected[1], answer
    if expected[2] == "PK":
        assert answer[2].startswith("PK")
    else:
        assert is_same_body(answer[2], expected[2]), answer


def is_same_body(body, expected):
    try:
        return repr(json.loads(body)) == repr(json.loads(expected))
    except ValueError:
        return body == expected


@pytest.mark.parametrize("name", CASES)
def test_aws_answers(toolkit_answers, name):
    case = CASES[name]
    answers = toolkit_answers[name]
    assert_answer(comparable(answers["PyTorch"]), case.aws)
    assert answers["PyTorch"]["headers"] == case.reply_headers
    assert_answer(comparable(answers["general"]), case.general or general_answer(case))


def general_answer(case):
    """Return what the general toolkit answers: it has no default predict_fn."""
    comes_to_predict_fn = case.aws[0] in (200, 202, 207, 503)
    has_predict_fn = "predict_fn" in case.code or "transform_fn" in case.code
    return NO_PREDICT_FN if comes_to_predict_fn and not has_predict_fn else case.aws


@pytest.mark.parametrize("name", CASES)
def test_mlkit_answers(folders, name):
    case = CASES[name]
    paths_before = list(sys.path)
    modules_before = sys.modules.keys() & {"inference", "utils", "late", "back", "parts", "in_lib", "serving"}
    if case.refused:
        with pytest.raises(HandlerError) as e:
            Handlers.load(folders[name] / "code")
        assert str(e.value).startswith(case.refused)
        return
    handlers = Handlers.load(folders[name] / "code")
    assert case.warned in "".join(handlers.warnings) and bool(handlers.warnings) == bool(case.warned)
    handlers.start(folders[name])
    for _ in range(2):
        try:
            reply = handlers.respond(case.body, case.content_type, case.accept, headers_of(case))
        except (RequestError, HandlerFailure) as e:
            answer = e.status, str(e)
        else:
            body = reply.body if isinstance(reply.body, bytes) else b"".join(reply.body)
            answer = reply.status, reply.content_type, body.decode("latin-1")
            assert reply.headers == case.reply_headers
        assert_answer(answer, case.ours or case.aws)
    assert sys.path == paths_before
    assert sys.modules.keys() & {"inference", "utils", "late", "back", "parts", "in_lib", "serving"} == modules_before


def test_the_table_explains_each_difference():
    for name, case in CASES.items():
        assert bool(case.why) == bool(case.ours or case.refused), name
        assert case.ours != case.aws, name


def test_all_cases_in_one_process_do_not_meet(folders):
    """All handlers are loaded at the same time; each answers as alone, in any order."""
    loaded = {}
    for name, case in CASES.items():
        if not case.refused:
            loaded[name] = Handlers.load(folders[name] / "code")
            loaded[name].start(folders[name])
    names = ["a module next to the handlers", "a module that imports the handlers", "importlib", "a folder on sys.path"]
    for first, second in pairwise([*names, *reversed(names)]):
        for name in (first, second):
            reply = loaded[name].respond(CASES[name].body, CASES[name].content_type, CASES[name].accept)
            assert_answer((reply.status, reply.content_type, reply.body.decode()), CASES[name].aws)


# What a container needs to pass messages; no handler reads it
INTERNAL = {"metrics": {"store", "model_name", "request_ids", "cache"}}


def test_the_context_has_every_member_of_torchserves(toolkits):
    context = Context({}, system_properties("/opt/ml/model"))
    objects = {
        "context": context,
        "request_processor": context.request_processor[0],
        "metrics": context.metrics,
    }
    for kind, members in toolkits["members"].items():
        for name, parameters in members.items():
            if name in INTERNAL.get(kind, ()):
                continue
            assert hasattr(objects[kind], name), (kind, name)
            if parameters is not None:
                ours = list(inspect.signature(getattr(objects[kind], name)).parameters)
                assert ours[: len(parameters)] == parameters, (kind, name, ours, parameters)
    assert sorted(context.system_properties) == toolkits["system_properties"]


def test_the_context_behind_the_server(tmp_path):
    """Headers, status and id of a request arrive over HTTP as in the table."""
    (tmp_path / "inference.py").write_text(
        "def transform_fn(model, data, content_type, accept, context):\n"
        "    context.set_response_status(202)\n"
        "    context.set_response_header(0, 'X-Id', context.get_request_id(0))\n"
        "    return [content_type, context.get_all_request_header(0)['X-Amzn-SageMaker-Custom-Attributes']]\n"
        "def model_fn(model_dir):\n    return len\n"
    )
    with serve_in_thread(tmp_path, tmp_path / "inference.py") as server:
        headers = {"Content-Type": "Text/CSV; header=present", "x-amzn-sagemaker-custom-attributes": "me"}
        with urlopen(Request(f"{server.url}/invocations", b"a,b", headers)) as reply:
            assert (reply.status, json.loads(reply.read())) == (202, ["Text/CSV; header=present", "me"])
            assert reply.headers["X-Id"] == reply.headers["X-Request-Id"]
