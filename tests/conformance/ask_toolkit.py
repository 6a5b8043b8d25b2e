"""Ask AWS's inference toolkits what handlers answer, in one process: each case is a folder with code/inference.py.

Usage: ask_toolkit.py CASES ANSWERS, two JSON files. CASES is a list of {folder, body, headers}, with the body in
Latin-1. ANSWERS has `answers`, a list of {toolkit: answer}; an answer has status, type (the content type), headers and
body (in Latin-1, of an error its last line). The status is "ends" if the process would have ended. `members` has the
public members of what a handler gets as its context, and the parameters of the methods.
"""

import inspect
import json
import os
import sys

from sagemaker_inference.default_inference_handler import DefaultInferenceHandler
from sagemaker_inference.transformer import Transformer
from sagemaker_pytorch_serving_container.default_pytorch_inference_handler import DefaultPytorchInferenceHandler
from ts.context import Context, RequestProcessor
from ts.metrics.metrics_store import MetricsStore
from ts.protocol.otf_message_handler import create_predict_response

TOOLKITS = {"PyTorch": DefaultPytorchInferenceHandler, "general": DefaultInferenceHandler}


def ask(case, default_handlers):
    """Return the answer to the request of a case."""
    code = os.path.join(case["folder"], "code")
    modules = set(sys.modules)
    sys.path.insert(0, code)
    try:
        return send(case, Transformer(default_inference_handler=default_handlers()))
    finally:
        sys.path.remove(code)
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(code):
                del sys.modules[name]
        sys.path_importer_cache.clear()


def send(case, transformer):
    ids = {0: "r"}
    metrics = MetricsStore(ids, "model")
    context = Context("model", case["folder"], {"model": {"modelName": "model"}}, 1, None, "0.12", metrics=metrics)
    context.request_ids = ids
    context.request_processor = [RequestProcessor(case["headers"])]
    data = [{"body": bytearray(case["body"].encode("latin-1"))}]
    try:
        # The model is loaded by the first request, which is what a worker of TorchServe does before it.
        results = transformer.transform(data, context)
        wire = create_predict_response(results, ids, "ok", 200, context)
        status = context.get_response_status(0)[0]
        headers = dict(context.get_response_headers(0))
        body = body_of(wire, context, ids)
    except BaseException as e:
        return dict(status="ends", type=None, headers={}, body=f"{type(e).__name__}: {e}")
    content_type = headers.pop("content-type", None)
    if body is None:
        return dict(status=503, type=None, headers={}, body="Unsupported model output data type.")
    text = bytes(body).decode("latin-1")
    if status >= 400:
        text = text.strip().splitlines()[-1] if "Traceback" in text else text.strip()
        content_type = None
    return dict(status=status, type=content_type, headers=headers, body=text)


def body_of(wire, context, ids):
    """Return the body in a message from a worker to the server, or None if the worker could not serialize it."""
    empty = create_predict_response([b""], ids, "ok", 200, context)
    prefix = empty[:-8]  # then come the length of the body, the body, and the end of the message
    return wire[len(prefix) + 4 : -4] if wire.startswith(prefix) else None


def members(instance):
    """Return the parameters of each public method of an object by name; None for an attribute."""
    values = {name: getattr(instance, name) for name in dir(instance) if not name.startswith("_")}
    return {
        name: list(inspect.signature(value).parameters) if inspect.ismethod(value) else None
        for name, value in values.items()
    }


if __name__ == "__main__":
    with open(sys.argv[1]) as f:
        cases = json.load(f)
    answers = [{name: ask(case, handlers) for name, handlers in TOOLKITS.items()} for case in cases]
    objects = {
        "context": Context("model", "/opt/ml/model", {}, 1, None, "0.12"),
        "request_processor": RequestProcessor({}),
        "metrics": MetricsStore({}, "model"),
    }
    result = {"answers": answers, "members": {name: members(instance) for name, instance in objects.items()}}
    result["system_properties"] = sorted(objects["context"].system_properties)
    with open(sys.argv[2], "w") as f:
        json.dump(result, f)
