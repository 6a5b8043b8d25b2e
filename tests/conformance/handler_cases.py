"""Handlers as people write them, what AWS's toolkits answer, and what ours does.

A case is one `inference.py` and one request. `aws` is the answer of AWS's toolkit for PyTorch: (status, content type,
body), of an error (status, end of the message). `ours` is None if it is the same; if not, `why` explains the
difference. `general` is the answer of `sagemaker-inference` with its own default handlers, where it differs from `aws`;
it has no default predict_fn, so that it answers cases without one with NO_PREDICT_FN.
`refused` is the beginning of our error if the handlers are not loaded at all.
"""

from dataclasses import dataclass, field

NO_PREDICT_FN = (500, "documentation for predict_fn")  # of the general toolkit
JSON = "application/json"
CSV = "text/csv"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"

# In front of the code of each case that has no model_fn.
MODEL = "def model_fn(model_dir):\n    import torch\n    return torch.nn.Identity()\n"


@dataclass
class Case:
    code: str
    aws: tuple
    ours: tuple | None = None
    why: str = ""
    general: tuple | None = None
    refused: str = ""
    warned: str = ""  # a part of our warning
    body: bytes = b"[[1, 2]]"
    content_type: str | None = JSON
    accept: str | None = JSON
    headers: dict = field(default_factory=dict)
    reply_headers: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)  # more files next to inference.py


def shows(expression, parameters="data, content_type"):
    """Return an input_fn whose result is the reply, as text."""
    return f"""
def input_fn({parameters}):
    return str(({expression}))
def predict_fn(data, model):
    return data
def output_fn(prediction, accept):
    return prediction
"""


def returns(expression, before=""):
    """Return an output_fn that returns a value."""
    return f"{before}\ndef output_fn(prediction, accept):\n    return {expression}\n"


ONLY_CLIENT = "the request is wrong, and the client reads why"
LENIENT = "it can be called, so it is; AWS's containers call it through mlkit, too"
SERIALIZED = "AWS's server cannot serialize it"
CASES = {
    # How handlers are called
    "a context of another name": Case(
        "def predict_fn(x, net, ctx):\n    return [[type(ctx).__name__]]", (200, JSON, '[["Context"]]')
    ),
    "a context with a default": Case(
        "def predict_fn(data, model, request=None):\n    return [[type(request).__name__]]",
        (200, JSON, '[["Context"]]'),
    ),
    "an option in the place of the context": Case(
        "def predict_fn(data, model, temperature=1.0):\n    return [[type(temperature).__name__]]",
        (200, JSON, '[["Context"]]'),
        warned="its parameter 'temperature' gets the context",
    ),
    "a decorator without wraps": Case(
        """
def timed(f):
    def wrapper(*args, **kwargs):
        return f(*args, **kwargs)
    return wrapper
@timed
def predict_fn(data, model):
    return [[len(data)]]
""",
        (200, JSON, "[[1]]"),
    ),
    "a decorator of positional arguments": Case(
        """
def timed(f):
    def wrapper(*args):
        return f(*args)
    return wrapper
@timed
def predict_fn(data, model):
    return [[len(data)]]
""",
        (500, "wrapper takes 1 arguments but 2 were given."),
        (200, JSON, "[[1]]"),
        LENIENT,
        warned="AWS's containers could not call it",
    ),
    "a decorator with wraps": Case(
        """
import functools
def timed(f):
    @functools.wraps(f)
    def wrapper(*args, **kwargs):
        return f(*args, **kwargs)
    return wrapper
@timed
def predict_fn(data, model, context):
    return [[type(context).__name__]]
""",
        (200, JSON, '[["Context"]]'),
    ),
    "a model_fn of any arguments": Case(
        "import torch\ndef model_fn(*args, **kwargs):\n    return torch.nn.Linear(2, len(args))\n"
        "def predict_fn(data, model):\n    return [[model.out_features]]",
        (200, JSON, "[[2]]"),
        warned="gets the context as its last argument",
    ),
    "a context by keyword": Case(
        "def predict_fn(data, model, *, context):\n    return [[type(context).__name__]]",
        (500, "3 were given"),
        (200, JSON, '[["Context"]]'),
        LENIENT,
        warned="AWS's containers could not call it",
    ),
    "two options": Case(
        "def predict_fn(data, model, top=1, temperature=1.0):\n    return [[top]]",
        (500, "predict_fn takes 4 arguments but 2 were given."),
        (200, JSON, "[[1]]"),
        LENIENT,
        warned="AWS's containers could not call it",
    ),
    "functools.partial": Case(
        "import functools\ndef f(n, data, model):\n    return [[n]]\npredict_fn = functools.partial(f, 3)",
        (200, JSON, "[[3]]"),
    ),
    "an object that can be called": Case(
        "class Predict:\n    def __call__(self, data, model):\n        return [[4]]\npredict_fn = Predict()",
        (200, JSON, "[[4]]"),
    ),
    "a class as model_fn": Case(
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self, model_dir):\n        super().__init__()\n"
        "    def forward(self, x):\n        return x + 1\nmodel_fn = Net",
        (200, JSON, "[[2.0, 3.0]]"),
    ),
    "a lambda": Case("output_fn = lambda prediction, accept: 'short'", (200, JSON, "short")),
    "handlers that are imported": Case(
        "from serving import predict_fn, output_fn",
        (200, JSON, "6"),
        files={"serving.py": "def predict_fn(d, m): return 6\ndef output_fn(p, a): return str(p)"},
    ),
    "a helper with nearly the same name": Case(
        "def my_predict_fn(data):\n    return [[7]]\ndef predict_fn_v2(data, model): pass\n"
        "def predict_fn(data, model):\n    return my_predict_fn(data)",
        (200, JSON, "[[7]]"),
    ),
    "a handler that is None": Case("predict_fn = None", (200, JSON, "[[1.0, 2.0]]"), general=NO_PREDICT_FN),
    "a former handler": Case(
        "def old_predict_fn(data, model):\n    return [[8]]",
        (200, JSON, "[[1.0, 2.0]]"),
        general=NO_PREDICT_FN,
        warned="is not called",
    ),
    "no handler but the model's": Case("", (200, JSON, "[[1.0, 2.0]]")),
    "pre_model_fn and model_warmup_fn": Case(
        "calls = []\ndef pre_model_fn(model_dir):\n    calls.append('pre')\n"
        "def model_warmup_fn(model_dir, model):\n    calls.append('warm-up')\n"
        "def predict_fn(data, model):\n    return calls",
        (200, JSON, '["pre", "warm-up"]'),
    ),
    "a misspelt handler": Case(
        "def predct_fn(data, model):\n    return [[9]]",
        (200, JSON, "[[1.0, 2.0]]"),
        why="it would never be called, and nobody would be told",
        general=NO_PREDICT_FN,
        refused="inference.py:4: predct_fn: did you mean 'predict_fn'?",
    ),
    "transform_fn and predict_fn": Case(
        "def transform_fn(model, data, content_type, accept): pass\ndef predict_fn(data, model): pass",
        (500, "Cannot use transform_fn implementation in conjunction with input_fn, predict_fn, and/or output_fn"),
        why="the error comes when the handlers are loaded",
        refused="inference.py:5: predict_fn would never be called",
    ),
    "a parameter too few": Case(
        "def predict_fn(data):\n    return data",
        (500, "predict_fn takes 1 arguments but 2 were given."),
        why="the error comes when the handlers are loaded",
        refused="inference.py:4: predict_fn takes 1 parameter",
    ),
    # What a handler gets
    "JSON": Case(shows("type(data).__name__, content_type"), (200, JSON, "('str', 'application/json')")),
    "CSV": Case(
        shows("type(data).__name__, data, content_type"),
        (200, JSON, "('str', '1,2', 'text/csv')"),
        body=b"1,2",
        content_type=CSV,
    ),
    "bytes": Case(
        shows("type(data).__name__, content_type"),
        (200, JSON, "('bytearray', 'application/x-image')"),
        content_type="application/x-image",
    ),
    "bytes that are changed in place": Case(
        "import numpy as np\ndef input_fn(data, content_type):\n    x = np.frombuffer(data, np.uint8)\n    x += 1\n"
        "    return x\ndef predict_fn(data, model):\n    return data.tolist()",
        (200, JSON, "[2, 3]"),
        body=b"\1\2",
        content_type="application/octet-stream",
    ),
    "JSON with a charset": Case(
        shows("type(data).__name__, content_type"),
        (200, JSON, "('bytearray', 'application/json; charset=utf-8')"),
        content_type="application/json; charset=utf-8",
    ),
    "CSV with a header": Case(
        shows("bytes(data).split(), content_type"),
        (200, JSON, "([b'a,b', b'1,2'], 'text/csv; header=present')"),
        body=b"a,b\n1,2",
        content_type="text/csv; header=present",
    ),
    "a multipart body": Case(
        "import email.parser\n"
        "def input_fn(data, content_type):\n"
        "    message = b'Content-Type: ' + content_type.encode() + b'\\r\\n\\r\\n' + bytes(data)\n"
        "    return [p.get_payload() for p in email.parser.BytesParser().parsebytes(message).get_payload()]\n"
        "def predict_fn(data, model):\n    return data",
        (200, JSON, '["part 1", "part 2"]'),
        body=b"--XyZ\r\n\r\npart 1\r\n--XyZ\r\n\r\npart 2\r\n--XyZ--\r\n",
        content_type="multipart/form-data; boundary=XyZ",
    ),
    "a type in capitals": Case(
        shows("type(data).__name__, content_type"),
        (200, JSON, "('bytearray', 'Application/JSON')"),
        content_type="Application/JSON",
    ),
    "a rate": Case(
        shows("content_type.partition('rate=')[2]"), (200, JSON, "16000"), content_type="audio/l16; rate=16000"
    ),
    "a type that is not one": Case(shows("content_type"), (200, JSON, "csv"), content_type="csv"),
    "no content type": Case(
        shows("type(data).__name__, content_type"),
        (200, JSON, "('bytearray', None)"),
        (200, JSON, "('str', 'application/json')"),
        "a request without a content type is JSON, as `Handlers.test` reads it",
        content_type=None,
    ),
    "JSON with a byte order mark": Case(
        "import json\ndef input_fn(data, content_type):\n    return json.loads(data)\n"
        "def predict_fn(data, model):\n    return data",
        (500, "Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0)"),
        (200, JSON, "[1]"),
        "Windows writes such files",
        body=b"\xef\xbb\xbf[1]",
    ),
    "what Accept says": Case(
        returns("accept"), (200, "text/csv; charset=utf-8", "text/csv; charset=utf-8"), accept="text/csv; charset=utf-8"
    ),
    "any type": Case(returns("accept"), (200, JSON, JSON), accept="*/*"),
    "no Accept": Case(returns("accept"), (200, JSON, JSON), accept=None),
    "several types in Accept": Case(
        returns("accept"),
        (200, "text/csv, application/json;q=0.5", "text/csv, application/json;q=0.5"),
        (200, CSV, "text/csv, application/json;q=0.5"),
        "a reply has one content type",
        accept="text/csv, application/json;q=0.5",
    ),
    "Accept with a parameter": Case(
        returns("b'wave'"), (200, "audio/wav; rate=8000", "wave"), accept="audio/wav; rate=8000"
    ),
    "what transform_fn gets": Case(
        "def transform_fn(net, body, kind, accept):\n    return ' '.join([type(body).__name__, kind, accept])",
        (200, "text/plain", "str application/json text/plain"),
        accept="text/plain",
    ),
    # What a handler returns
    "a dict": Case(returns("{'a': [1, None]}"), (200, JSON, '{"a": [1, null]}')),
    "a list": Case(returns("[1, 'b']"), (200, JSON, '[1, "b"]')),
    "a number": Case(returns("1.5"), (200, JSON, "1.5")),
    "nothing": Case(returns("None"), (200, JSON, "null")),
    "bytes of an image": Case(returns("b'\\x89PNG', 'image/png'"), (200, "image/png", "\x89PNG")),
    "a dict with its type": Case(
        returns("{'a': 1}, 'application/vnd.a+json'"), (200, "application/vnd.a+json", '{"a": 1}')
    ),
    "a dict where the client accepts CSV": Case(
        returns("{'a': 1}"),
        (200, CSV, '{"a": 1}'),
        (200, JSON, '{"a": 1}'),
        "the content type says what the body is",
        accept=CSV,
    ),
    "a list where the client accepts CSV": Case(
        returns("[[1, 2], [3, 4]]"),
        (200, CSV, "[[1, 2], [3, 4]]"),
        (200, CSV, "1,2\n3,4\n"),
        "the content type says what the body is",
        accept=CSV,
    ),
    "a dict from transform_fn": Case(
        "def transform_fn(model, data, content_type, accept):\n    return {'a': 1}", (200, JSON, '{"a": 1}')
    ),
    "a tensor": Case(
        returns("prediction"),
        (200, JSON, "PK"),
        (200, JSON, "[[1.0, 2.0]]"),
        "AWS's server writes a pickle, and says that it is JSON",
    ),
    "an array": Case(
        returns("np.ones((1, 2))", "import numpy as np"), (503, "Unsupported"), (200, JSON, "[[1.0, 1.0]]"), SERIALIZED
    ),
    "a NumPy number": Case(
        returns("{'n': np.float32(1)}", "import numpy as np"),
        (503, "Unsupported"),
        (200, JSON, '{"n": 1.0}'),
        SERIALIZED,
    ),
    "a tensor in a dict": Case(
        returns("{'n': torch.ones(2)}", "import torch"),
        (503, "Unsupported"),
        (200, JSON, '{"n": [1.0, 1.0]}'),
        SERIALIZED,
    ),
    "an object": Case(
        returns("object()"),
        (503, "Unsupported"),
        (500, "returned an object"),
        "a handler returned it: 500, and the log has the reason",
    ),
    "not a number": Case(
        returns("[float('nan')]"),
        (200, JSON, "[NaN]"),
        (200, JSON, "[null]"),
        "NaN is not JSON: clients cannot read it",
    ),
    "a generator": Case(
        "def transform_fn(model, data, content_type, accept):\n    yield 'a'\n    yield 'b'",
        (503, "Unsupported"),
        (200, JSON, "ab"),
        "a stream",
    ),
    # The context
    "a header of the request": Case(
        shows("context.get_request_header(0, 'X-Amzn-SageMaker-Custom-Attributes')", "data, content_type, context"),
        (200, JSON, "me"),
        headers={ATTRIBUTES: "me"},
    ),
    "all headers of the request": Case(
        shows(
            "context.get_all_request_header(0)['Content-Type'], dict(context.get_all_request_header(0))["
            + repr(ATTRIBUTES)
            + "]",
            "data, content_type, context",
        ),
        (200, JSON, "('application/json', 'me')"),
        headers={ATTRIBUTES: "me"},
    ),
    "the request processor": Case(
        shows("context.request_processor[0].get_request_properties().get('Accept')", "data, content_type, context"),
        (200, JSON, JSON),
    ),
    "the folder of the model and the GPU": Case(
        "import os\ndef model_fn(model_dir, context):\n    p = context.system_properties\n"
        "    return p['model_dir'] == model_dir, p.get('gpu_id'), p['batch_size'], context.model_name\n"
        "def predict_fn(data, model):\n    return model",
        (200, JSON, '[true, null, 1, "model"]'),
    ),
    "the manifest": Case(
        shows("context.manifest['model']['modelName']", "data, content_type, context"), (200, JSON, "model")
    ),
    "a header of the reply": Case(
        "def output_fn(prediction, accept, context):\n    context.set_response_header(0, 'X-Version', '2')\n"
        "    return 'x'",
        (200, JSON, "x"),
        reply_headers={"X-Version": "2"},
    ),
    "a status": Case(
        "def output_fn(prediction, accept, context):\n    context.set_response_status(code=202, phrase='later')\n"
        "    return 'x'",
        (202, JSON, "x"),
    ),
    "a status by the request processor": Case(
        "def output_fn(prediction, accept, context):\n    context.request_processor[0].report_status(207)\n"
        "    return 'x'",
        (207, JSON, "x"),
    ),
    "a content type of the reply": Case(
        "def output_fn(prediction, accept, context):\n    context.set_response_content_type(0, 'text/html')\n"
        "    return 'x'",
        (200, JSON, "x"),
        (200, "text/html", "x"),
        "AWS's toolkit overwrites what the handler says",
    ),
    "an attribute that is kept": Case(
        "import torch\ndef model_fn(model_dir, context):\n    context.words = ['kept']\n"
        "    return torch.nn.Identity()\n"
        "def predict_fn(data, model, context):\n    return context.words",
        (200, JSON, '["kept"]'),
    ),
    "metrics": Case(
        "def predict_fn(data, model, context):\n    context.metrics.add_counter('calls', 1)\n"
        "    context.metrics.add_time('t', 1.5, None, 'ms')\n    return [[1]]",
        (200, JSON, "[[1]]"),
    ),
    # Errors
    "an unsupported content type": Case(
        "def input_fn(data, content_type):\n    raise ValueError(f'unsupported content type {content_type}')",
        (500, "unsupported content type application/json"),
        (400, "ValueError: unsupported content type application/json"),
        ONLY_CLIENT,
    ),
    "a bug in input_fn": Case(
        "import json\ndef input_fn(data, content_type):\n    return json.loads(data)['inputs']",
        (500, "'inputs'"),
        (500, "KeyError: 'inputs'"),
        "no traceback in the body",
        body=b"{}",
    ),
    "malformed JSON": Case(
        "import json\ndef input_fn(data, content_type):\n    return json.loads(data)['inputs']",
        (500, "Expecting value: line 1 column 2 (char 1)"),
        (400, "the body is not application/json: Expecting value: line 1 column 2 (char 1)"),
        ONLY_CLIENT,
        body=b"[",
    ),
    "text that is not UTF-8": Case(
        shows("data"),
        (500, "can't decode byte 0xff in position 0: invalid start byte"),
        (400, "the body is not text"),
        ONLY_CLIENT,
        body=b"\xff",
    ),
    "an error of predict_fn": Case(
        "def predict_fn(data, model):\n    return 1 / 0",
        (500, "division by zero"),
        (500, "ZeroDivisionError: division by zero"),
        "no traceback in the body",
    ),
    "an error of AWS's toolkit": Case(
        """
try:
    from sagemaker_inference.errors import BaseInferenceToolkitError
except ImportError:
    class BaseInferenceToolkitError(Exception):
        def __init__(self, status_code, message, phrase):
            super().__init__(status_code, message, phrase)
            self.status_code, self.message, self.phrase = status_code, message, phrase
def input_fn(data, content_type):
    raise BaseInferenceToolkitError(413, 'too long', 'Too Long')
""",
        (413, "'too long', 'Too Long')"),
        (413, "too long"),
        "no traceback in the body",
    ),
    "SystemExit": Case(
        "import sys\ndef predict_fn(data, model):\n    sys.exit(3)",
        ("ends", "SystemExit: 3"),
        (500, "SystemExit: 3"),
        "one request does not end the server",
    ),
    # The model and the folder
    "a model in training mode": Case(
        "from torch import nn\ndef model_fn(model_dir):\n"
        "    return nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2, eps=1e-12))",
        (200, JSON, "[[1.0, 2.0]]"),
    ),
    "gradients": Case(
        "def output_fn(prediction, accept):\n    return str(prediction.requires_grad)", (200, JSON, "False")
    ),
    "a module next to the handlers": Case(
        "import utils\ndef predict_fn(data, model):\n    import late\n    return [utils.NAME, late.NAME]",
        (200, JSON, '["utils", "late"]'),
        files={"utils.py": "NAME = 'utils'", "late.py": "NAME = 'late'"},
    ),
    "a module that imports the handlers": Case(
        "def scale(x):\n    return x * 2\ndef predict_fn(data, model):\n    import back\n"
        "    return back.double(data.tolist()[0])",
        (200, JSON, "[2.0, 4.0]"),
        general=(200, JSON, "[2, 4]"),
        files={"back.py": "import inference\ndef double(row): return [inference.scale(x) for x in row]"},
    ),
    "a pickle of a class in inference": Case(
        """
import os, sys, torch
class Net(torch.nn.Module):
    def forward(self, x):
        return x * 3
def model_fn(model_dir):
    path = os.path.join(model_dir, 'net.pth')
    torch.save(Net(), path)
    return torch.load(path, weights_only=False)
def output_fn(prediction, accept):
    return str(sys.modules[__name__].Net.__module__) + str(prediction.tolist())
""",
        (200, JSON, "inference[[3.0, 6.0]]"),
    ),
    "importlib": Case(
        "import importlib\ndef predict_fn(data, model):\n    return [importlib.import_module('parts.one').NAME]",
        (200, JSON, '["one"]'),
        files={"parts/one.py": "NAME = 'one'", "parts/__init__.py": ""},
    ),
    "a folder on sys.path": Case(
        "import os, sys\nsys.path.append(os.path.join(os.path.dirname(__file__), 'lib'))\nimport in_lib\n"
        "def predict_fn(data, model):\n    return [in_lib.NAME]",
        (200, JSON, '["lib"]'),
        files={"lib/in_lib.py": "NAME = 'lib'"},
    ),
}
