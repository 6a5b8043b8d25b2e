"""Functions of notebook cells become a program that does the same, or are refused by name.

The cells run in an IPython shell, and one notebook in a kernel, with a bundle that is checked in a clean process.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

from mlkit.sagemaker.artifacts.archive import extract_bundle
from mlkit.sagemaker.endpoint.handlers import Handlers

PREDICT = "def predict_fn(data, model):\n    return "


@dataclass
class Case:
    """Cells, and what is expected of the program: the same value of an expression, a text in it, or a refusal."""

    name: str
    cells: list[str]
    attempt: str = "predict_fn(3, 2)"
    has: list[str] = field(default_factory=list)  # lines of the program
    lacks: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # texts in the error
    history: bool = True


TAKEN = [
    Case("no names", [PREDICT + "data * model"]),
    Case("builtins", [PREDICT + "sorted([data, len('ab'), abs(-model)])"]),
    Case("a constant", ["SCALE = 3  # times", PREDICT + "data * SCALE"], has=["SCALE = 3  # times"]),
    Case("a constant with a type", ["SCALE: int = 3", PREDICT + "data * SCALE"], has=["SCALE: int = 3"]),
    Case("a constant that is computed", ["N = sum(range(5))", PREDICT + "data * N"], has=["N = 10"]),
    Case("a constant that a later cell changed", ["N = [1]", "N.append(2)", PREDICT + "N"], has=["N = [1, 2]"]),
    Case("the latest of two assignments", ["N = 1", PREDICT + "N", "N = 2"], has=["N = 2"], lacks=["N = 1"]),
    Case("two names at once", ["A, B = 1, 'x'\nC = D = 2.5", PREDICT + "(A, B, C, D)"], has=["B = 'x'", "D = 2.5"]),
    Case("several on a line", ["A = 1; B = 2", PREDICT + "A + B"], has=["A = 1", "B = 2"]),
    Case("numbers", ["A = [float('inf'), -0.0, 1e-9, 2j, True, None]", PREDICT + "A"]),
    Case("text", ["A = 'quote\\' \\n \\\\ é 🙂'\nB = b'\\xff'", PREDICT + "(A, B)"]),
    Case("a long text", ['HTML = """\n<a>\n  # no comment\n</a>"""', PREDICT + "HTML"]),
    Case("a set", ["VOWELS = set('aeiou')", PREDICT + "sorted(VOWELS)"]),
    Case("a dict of lists", ["D = {'a': [1, (2,)], 3: {'b': {4}}}", PREDICT + "D"]),
    Case("a path", ["from pathlib import Path\nP = Path('a') / 'b'", PREDICT + "P / 'c'"], has=["import pathlib"]),
    Case("a pattern", ["import re\nWORD = re.compile('[a-z]+', re.I)", PREDICT + "WORD.findall('Ab c')"]),
    Case("a dtype", ["import torch\nD, C = torch.float16, torch.device('cpu')", PREDICT + "(D, C)"]),
    Case("a tensor", ["import torch\nMEAN = torch.tensor([0.1, 0.2])", PREDICT + "MEAN * data"]),
    Case(
        "an array", ["import numpy as np\nMEAN = np.array([1, 2])", PREDICT + "MEAN * data"], has=["import numpy as np"]
    ),
    Case("a logger", ["import logging\nlog = logging.getLogger('x')", PREDICT + "log.name"]),
    Case("a lock", ["import threading\nlock = threading.Lock()", PREDICT + "lock.locked()"]),
    Case(
        "an enum",
        [
            "from enum import Enum\nclass Color(Enum):\n    RED = 'r'",
            "C = Color.RED",
            PREDICT + "[C.value, Color('r').name]",
        ],
        has=["C = Color.RED"],
    ),
    Case(
        "a dataclass",
        [
            "from dataclasses import dataclass, field",
            "@dataclass\nclass Config:\n    width: int = 3\n    names: list = field(default_factory=list)",
            "CONFIG = Config(4)",
            PREDICT + "(CONFIG.width, Config().names, repr(CONFIG).split('.')[-1])",
        ],
    ),
    Case(
        "a named tuple",
        [
            "from collections import namedtuple\nP = namedtuple('P', 'x y')",
            "START = P(1, 2)",
            PREDICT + "P(data, 1).x + START.y",
        ],
    ),
    Case(
        "a partial",
        ["from functools import partial\ndef f(a, b): return a - b", "g = partial(f, b=1)", PREDICT + "g(data)"],
    ),
    # imports
    Case("a module", ["import json", PREDICT + "json.dumps(data)"], has=["import json"]),
    Case(
        "a module with a short name",
        ["import numpy as np", PREDICT + "np.ones(data).tolist()"],
        has=["import numpy as np"],
    ),
    Case("a module in a package", ["import os.path as p", PREDICT + "p.join('a', 'b')"]),
    Case(
        "a submodule",
        ["import concurrent.futures", PREDICT + "concurrent.futures.ThreadPoolExecutor(1).submit(abs, -data).result()"],
        has=["import concurrent.futures"],
    ),
    Case(
        "a submodule by a short name",
        ["import xml\nimport xml.dom.minidom\nx = xml", PREDICT + "x.dom.minidom.__name__"],
        has=["import xml.dom.minidom"],
    ),
    Case(
        "a function", ["from math import sqrt as root", PREDICT + "root(data)"], has=["from math import sqrt as root"]
    ),
    Case(
        "a class",
        ["from collections import Counter", PREDICT + "Counter('aab')"],
        has=["from collections import Counter"],
    ),
    Case(
        "a star", ["from math import *", PREDICT + "floor(pi)"], has=["from math import floor", "from math import pi"]
    ),
    Case(
        "in a try",
        ["try:\n    import nothing as j\nexcept ImportError:\n    import json as j", PREDICT + "j.dumps(data)"],
    ),
    Case(
        "another name of a function", ["import torch\nsoftmax = torch.softmax", PREDICT + "softmax(torch.ones(2), 0)"]
    ),
    Case("an import in a function", ["def predict_fn(data, model):\n    import math\n    return math.pi"]),
    Case("an object of a module", ["from string import ascii_letters as A", PREDICT + "A[data]"]),
    # functions
    Case("a helper", ["def double(x):\n    return 2 * x", PREDICT + "double(data)"]),
    Case("a helper of a helper", ["def a(x): return x + 1\ndef b(x): return a(x) * 2", PREDICT + "b(data)"]),
    Case(
        "two that call each other",
        ["def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n and even(n - 1)", PREDICT + "even(data)"],
    ),
    Case("a recursion", ["def f(n): return 1 if n < 2 else n * f(n - 1)", PREDICT + "f(data)"]),
    Case("a lambda", ["double = lambda x: 2 * x", PREDICT + "double(data)"], has=["double = lambda x: 2 * x"]),
    Case("lambdas in one line", ["a = lambda x: x + 1; b = lambda x: x + 2", PREDICT + "(a(data), b(data))"]),
    Case("a default", ["N = 3\ndef f(x, n=N): return x * n", PREDICT + "f(data)"]),
    Case(
        "an annotation",
        ["from torch import Tensor\ndef f(x: Tensor | None) -> 'Missing': return x", PREDICT + "f(data)"],
    ),
    Case(
        "future annotations",
        ["from __future__ import annotations\ndef f(x: Missing) -> Missing: return x", PREDICT + "f(data)"],
    ),
    Case(
        "a type variable",
        [
            "from typing import TypeVar\nT = TypeVar('T')\nB = dict[str, int]\ndef f(x: T, y: B = None) -> T: return x",
            PREDICT + "f(data)",
        ],
    ),
    Case(
        "a decorator of the library",
        ["from functools import lru_cache\n@lru_cache\ndef f(x): return x * 2", PREDICT + "f(data)"],
        has=["@lru_cache"],
    ),
    Case(
        "a decorator",
        [
            "def twice(f):\n    def wrapper(*args):\n        return 2 * f(*args)\n    return wrapper",
            "@twice\n" + PREDICT + "data",
        ],
        has=["@twice"],
    ),
    Case(
        "a decorator with arguments, whose name has changed since",
        [
            "K = 5\ndef times(k):\n    def wrap(f):\n"
            "        def wrapper(a, b): return k * f(a, b)\n        return wrapper\n    return wrap",
            "@times(K)\n" + PREDICT + "data",
        ],
    ),
    Case(
        "a decorator that is a class",
        [
            "class Twice:\n    def __init__(self, f): self.f = f\n    def __call__(self, x): return 2 * self.f(x)",
            "@Twice\ndef f(x): return x + 1",
            PREDICT + "f(data)",
        ],
    ),
    Case(
        "a decorator that uses a helper",
        [
            "REGISTRY = []\ndef note(x): REGISTRY.append(x)\ndef register(f):\n    note(f.__name__)\n    return f",
            "REGISTRY.clear()\n@register\ndef g(x): return x",
            "REGISTRY.clear()\n" + PREDICT + "g(data)",
        ],
    ),
    Case("defined again", ["def f(x): return x", "def f(x): return x + 1", PREDICT + "f(data)"], has=["x + 1"]),
    Case(
        "the first run again",
        ["def f(x): return x", "def f(x): return x + 1", "def f(x): return x", PREDICT + "f(data)"],
        lacks=["x + 1"],
    ),
    Case("in an if", ["if True:\n    def f(x):\n        return x + 1\nelse:\n    f = None", PREDICT + "f(data)"]),
    Case("a generator", ["def parts(x):\n    for i in range(x):\n        yield i", PREDICT + "list(parts(data))"]),
    Case("comprehensions", ["N = [1, 2]\ni = object()", PREDICT + "[i * j for i in N for j in {k for k in N}]"]),
    Case(
        "a walrus and a local of the same name",
        ["N = 1", "x = object()", "def predict_fn(data, model):\n    x = (y := N)\n    return x + y"],
    ),
    Case(
        "a function in a function",
        ["N = 2\ndef f(x):\n    def g(y): return y * N\n    return g(x)", PREDICT + "f(data)"],
    ),
    Case(
        "made by a function, from a constant",
        ["def make(k):\n    def f(x): return x * k\n    return f", "f = make(4)", PREDICT + "f(data)"],
    ),
    Case(
        "made by a function, from a function",
        ["def make(g):\n    return lambda x: g(x) + 1", "f = make(abs)", PREDICT + "f(-data)"],
    ),
    Case("after a magic", ["%time N = 3", "%%time\ndef f(x):\n    return x * 3", PREDICT + "f(data)"]),
    Case(
        "with comments",
        ["# Doubles.\n# Really.\ndef f(x):  # twice\n    # here\n    return 2 * x", PREDICT + "f(data)"],
        has=["# Really.", "    # here"],
    ),
    Case("without history", ["N = 3\ndef f(x): return x * N", PREDICT + "f(data)"], history=False),
    Case(
        "async",
        ["async def f(x): return x", "async def predict_fn(data, model):\n    return await f(data)"],
        "__import__('asyncio').run(predict_fn(3, 2))",
    ),
    # state
    Case(
        "a counter",
        [
            "COUNT = 0\ndef predict_fn(data, model):\n    global COUNT\n    COUNT += 1\n    return COUNT",
            "predict_fn(1, 1); COUNT = 0",
        ],
    ),
    Case(
        "a model that is kept, after a trial",
        [
            "net = None\ndef predict_fn(data, model):\n"
            "    global net\n    net = net or [object()]\n    return len(net)",
            "_ = predict_fn(1, 2)",
        ],
        has=["net = None"],
    ),
    Case(
        "a name that only functions assign",
        ["def model_fn(model_dir):\n    global device\n    device = 'cpu'", PREDICT + "device"],
        "(model_fn(''), predict_fn(1, 2))[1]",
    ),
    Case(
        "a cache that is empty", ["cache = {}\ndef predict_fn(data, model):\n    return cache.setdefault(data, model)"]
    ),
    # classes
    Case(
        "a class with a base",
        [
            "class A:\n    N = 2\n    def f(self): return self.N",
            "class B(A):\n    def g(self): return super().f() + 1",
            PREDICT + "B().g()",
        ],
    ),
    Case(
        "a module of torch",
        [
            "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n"
            "        self.a = nn.Identity()\n    def forward(self, x): return self.a(x)",
            PREDICT + "Net()(torch.ones(1))",
        ],
    ),
    Case(
        "properties and static methods",
        [
            "class A:\n    @property\n    def p(self): return 1\n"
            "    @staticmethod\n    def s(x): return x\n    @classmethod\n    def c(cls): return cls.__name__",
            PREDICT + "(A().p, A.s(data), A.c())",
        ],
    ),
    Case(
        "an exception",
        [
            "class Bad(ValueError):\n    pass",
            "def predict_fn(data, model):\n    try:\n"
            "        raise Bad('x')\n    except Bad as e:\n        return str(e)",
        ],
    ),
    Case("a class that is used before it is defined", ["def f(): return A.N", "class A:\n    N = 2", PREDICT + "f()"]),
    Case("a body that calls a function", ["def n(): return 3", "class A:\n    N = n()", PREDICT + "A.N"]),
    # handlers under other names
    Case(
        "another name",
        ["def mine(data, model): return data", "handlers = {'predict_fn': mine}"],
        has=["predict_fn = mine"],
    ),
    Case(
        "a lambda in the call", ["N = 2\nhandlers = dict(predict_fn=lambda data, model: data * N)"], "predict_fn(3, 2)"
    ),
    Case(
        "a class of handlers",
        [
            "class Mine:\n"
            "    def __init__(self): self.n = 2\n    def predict_fn(self, data, model): return data * self.n",
            "handlers = Mine",
        ],
        has=["_handlers = Mine()"],
    ),
    Case("an imported handler", ["from operator import mul\nhandlers = dict(predict_fn=mul)"], has=["import mul"]),
]

NET = "from torch import nn\nnet = nn.Linear(2, 1)"
REFUSED = [
    Case(
        "a model",
        [NET, PREDICT + "net(data)"],
        refused=["net, used by predict_fn: a Linear is a live object", "save_model"],
    ),
    Case(
        "a model in a dict",
        [NET + "\nNETS = {'a': [net]}", PREDICT + "NETS"],
        refused=["NETS['a'][0] is a live object: Linear"],
    ),
    Case(
        "a file",
        ["import os\nf = open(os.devnull)", PREDICT + "f.read()"],
        refused=["f, used by predict_fn: a TextIOWrapper", "open the file in the function"],
    ),
    Case(
        "a database",
        ["import sqlite3\ndb = sqlite3.connect(':memory:')", PREDICT + "db"],
        refused=["a Connection is a live object"],
    ),
    Case(
        "a closure over a model",
        [NET, "def make(n): return lambda data, model: n(data)", "predict_fn = make(net)"],
        refused=["predict_fn", "closure over 'n' (a Linear)"],
    ),
    Case(
        "a method of a model",
        [NET, "forward = net.forward", PREDICT + "forward(data)"],
        refused=["forward, used by predict_fn"],
    ),
    Case(
        "a default that is a model",
        [NET, "def f(x, n=net): return n(x)", PREDICT + "f(data)"],
        refused=["net, used by f: a Linear"],
    ),
    Case(
        "a decorator over a model",
        [NET, "def using(n):\n    def wrap(f): return f\n    return wrap", "@using(net)\n" + PREDICT + "data"],
        refused=["net, used by predict_fn"],
    ),
    Case("a helper's model", [NET, "def f(x): return net(x)", PREDICT + "f(data)"], refused=["net, used by f"]),
    Case(
        "several",
        [NET + "\nother = object()", PREDICT + "(net, other, nothing)"],
        refused=["net,", "other,", "nothing, used by predict_fn: it is not defined"],
    ),
    Case(
        "a large tensor",
        ["import torch\nW = torch.zeros(2000)", PREDICT + "W"],
        refused=["a Tensor is a live object", "load it in model_fn"],
    ),
    Case("a long constant", ["W = list(range(50_000))", PREDICT + "W"], refused=["is too long for a program"]),
    Case(
        "a table",
        ["import pandas as pd\nT = pd.DataFrame({'a': [1]})", PREDICT + "T"],
        refused=["a DataFrame is a live object", "load it in model_fn"],
    ),
    Case(
        "a generator object",
        ["g = (i for i in range(3))", PREDICT + "next(g)"],
        refused=["a generator is a live object"],
    ),
    Case(
        "a class with a new method",
        ["class A:\n    def f(self): return 1", "A.f = lambda self: 2", PREDICT + "A().f()"],
        refused=["A, used by predict_fn: f is not the one in the cell"],
    ),
    Case("a class with a new attribute", ["class A:\n    N = 1", "A.N = 2", PREDICT + "A.N"], refused=["N is 2 now"]),
    Case(
        "an object with a state",
        [
            "class Mine:\n"
            "    def __init__(self, n=1): self.n = n\n    def predict_fn(self, data, model): return self.n",
            "handlers = Mine(5)",
        ],
        refused=["pass the class"],
    ),
    Case(
        "code without a cell",
        ["exec('def f(x): return x')", PREDICT + "f(data)"],
        refused=["f, used by predict_fn", "cannot be found"],
    ),
    Case("a magic", ["def predict_fn(data, model):\n    %pwd\n    return 1"], refused=["get_ipython"]),
    Case(
        "a cache that a trial has filled",
        ["cache = {}\ndef predict_fn(data, model):\n    cache[data] = 1\n    return cache", "_ = predict_fn(3, 2)"],
        refused=["predict_fn changes it", "run that cell again"],
    ),
    Case(
        "an instance of a class of the notebook",
        ["class Tokens:\n    def __init__(self): self.a = 1", "tokens = Tokens()", PREDICT + "tokens"],
        refused=["a Tokens is a live object", "@lru_cache"],
    ),
]


def run_cases(cases):
    script = Path(__file__).with_name("cells_in_shell.py")
    lines = [{"cells": c.cells, "try": c.attempt, "history": c.history} for c in cases]
    process = subprocess.run(
        [sys.executable, script], input=json.dumps(lines), text=True, capture_output=True, timeout=300
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return dict(zip([c.name for c in cases], json.loads(process.stdout.splitlines()[-1])))


@pytest.fixture(scope="module")
def results():
    return run_cases(TAKEN + REFUSED)


def test_names_are_different():
    assert len({case.name for case in TAKEN + REFUSED}) == len(TAKEN + REFUSED)


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.name)
def test_the_program_does_what_the_cells_do(case, results):
    result = results[case.name]
    assert "result" in result, result
    assert result["result"].replace("handlers.", "") == result["expected"].replace("__main__.", ""), result
    lines = result["text"].splitlines()
    for line in case.has:
        assert any(line in other for other in lines), (line, result["text"])
    for line in case.lacks:
        assert line not in lines and not any(other.endswith(line) for other in lines), (line, result["text"])


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_only_the_notebook_has_is_refused_by_name(case, results):
    result = results[case.name]
    assert "error" in result, result
    for text in case.refused:
        assert text in result["error"], result


KERNEL_CELLS = [
    "import json\nimport torch\nfrom torch import nn\nfrom words import WORDS\n"
    "from mlkit.sagemaker.client import Handlers, build_bundle",
    "class Net(nn.Module):\n    def __init__(self, width: int):\n        super().__init__()\n        self.width = width"
    "\n        self.layer = nn.Linear(width, len(WORDS))\n    def forward(self, x):\n        return self.layer(x)",
    "torch.manual_seed(0)\nnet = Net(2)",
    "def output_fn(prediction, accept):\n    return json.dumps([WORDS[i] for i in prediction.argmax(1)])\n"
    "handlers = Handlers.load(output_fn=output_fn)",
    "bundle = build_bundle(net, handlers, sample=torch.zeros(1, 2))",
    "print(WORDS[net(torch.tensor([[1., 2.]])).argmax()])",
]


def test_a_bundle_from_a_kernel_answers_elsewhere(tmp_path):
    (tmp_path / "words.py").write_text("WORDS = ['no', 'yes']\n")
    outputs = []
    manager, client = start_new_kernel(cwd=str(tmp_path))
    try:
        for cell in KERNEL_CELLS:
            reply = client.execute_interactive(cell, output_hook=outputs.append, timeout=300)
            assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    streams = [o["content"] for o in outputs if o["msg_type"] == "stream"]
    printed = [stream["text"] for stream in streams if stream["name"] == "stdout"]
    assert not [stream for stream in streams if stream["name"] == "stderr"], streams
    folder = extract_bundle(tmp_path / "model.tar.gz", tmp_path / "model")
    assert (folder / "code" / "words.py").is_file()
    assert "__main__" not in (folder / "model.json").read_text()
    reply = Handlers.load(folder / "code").test([[1.0, 2.0]], model_dir=folder).reply
    assert json.loads(reply.body) == [printed[-1].strip()]
