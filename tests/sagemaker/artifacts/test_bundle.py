"""What a bundle holds, and its programs as the containers import them, from a folder without the repository."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mlkit
from mlkit.model import MyCustomModel
from mlkit.sagemaker.artifacts.archive import BundleError, extract_bundle
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.endpoint.handlers import BundleRecord, Handlers, find_code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An unpacked bundle with custom handlers."""
    root = tmp_path_factory.mktemp("bundle")
    (root / "inference.py").write_text("def predict_fn(data, model):\n    return [len(data)]\n")
    bundle = build_bundle(
        MyCustomModel(4, 8, 2), root / "inference.py", out=root / "model.tar.gz", sample=torch.zeros(1, 4)
    )
    return extract_bundle(bundle, root / "model")


def run(program, *arguments, cwd):
    """Run a program in a Python that finds only what is installed, and return its output, which is JSON."""
    command = [sys.executable, "-I", "-c", program, *map(str, arguments)]
    process = subprocess.run(command, cwd=cwd, text=True, capture_output=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_a_bundle_holds_every_module_of_every_package(folder):
    package = Path(mlkit.__file__).parent
    modules = {path.relative_to(package) for path in package.rglob("*.py")} - {Path("_modidx.py")}
    in_bundle = folder / "code" / "mlkit"
    assert {path.relative_to(in_bundle) for path in in_bundle.rglob("*.py")} == modules
    assert {path.parent.as_posix() for path in modules} >= {"model", "training", "sagemaker/artifacts", "notebook"}
    for path in modules:
        assert (in_bundle / path).read_bytes() == (package / path).read_bytes()


TORCHSERVE = """
import json, sys, types
folder = sys.argv[1]
sys.path.insert(0, f"{folder}/code")
sys.modules["sagemaker_inference"] = types.ModuleType("sagemaker_inference")
import inference, mlkit

class Context:
    def get_all_request_header(self, index):
        return {}
    def get_response_headers(self, index):
        return {}
    def get_response_status(self, index):
        return 200, None

model = inference.model_fn(folder)
body, content_type = inference.transform_fn(model, "[[1, 2, 3, 4], [5, 6, 7, 8]]", "application/json", "*/*", Context())
print(json.dumps([body.decode(), content_type, mlkit.__file__]))
"""


def test_torchserve_imports_inference(folder, tmp_path):
    body, content_type, mlkit_file = run(TORCHSERVE, folder, cwd=tmp_path)
    assert (json.loads(body), content_type) == ([2], "application/json")
    assert mlkit_file == str(folder / "code" / "mlkit" / "__init__.py")


RAY = """
import json, sys
folder = sys.argv[1]
sys.path.insert(0, f"{folder}/code")
import mlkit.sagemaker.endpoint.adapters as adapters
adapters.ray_application = lambda folder: ["application", str(folder)]  # the real one needs Ray
sys.path[:] = [folder] + sys.path[1:]
import mlkit_deployment
print(json.dumps([mlkit_deployment.app, sys.path[0]]))
"""


def test_ray_serve_imports_deployment(folder, tmp_path):
    app, first_path = run(RAY, folder, cwd=tmp_path)
    assert app == ["application", str(folder)]
    assert first_path == str(folder / "code")
    assert "import_path: mlkit_deployment:app" in (folder / "config.yaml").read_text()


USERS_MODULE = """
import json, sys
folder = sys.argv[1]
sys.path.insert(0, f"{folder}/code")
import inference
from inference import Net
import utils
same = sys.modules["inference"] is inference and utils.Net is Net
print(json.dumps([Net.__module__, inference.__file__, same]))
"""
PICKLED = """
import torch
from torch import nn
from utils import label

class Net(nn.Module):
    def forward(self, x):
        return x.sum(1)

def model_fn(model_dir):
    return torch.load(f"{model_dir}/net.pt", weights_only=False)

def output_fn(prediction, accept):
    return label(prediction), "text/plain"
"""
UTILS = """
def label(prediction):
    from inference import Net
    return f"{Net.__module__}.{Net.__name__} {prediction.tolist()}"

def __getattr__(name):
    import inference
    return getattr(inference, name)
"""


@pytest.fixture(scope="module")
def pickled(tmp_path_factory):
    """An unpacked bundle with a pickle of a class in the module `inference`, which a sibling imports."""
    root = tmp_path_factory.mktemp("pickled")
    (root / "inference.py").write_text(PICKLED)
    (root / "utils.py").write_text(UTILS)
    (root / "weights").mkdir()
    save = "import inference, sys, torch\ntorch.save(inference.Net(), sys.argv[1])"
    subprocess.run([sys.executable, "-c", save, root / "weights" / "net.pt"], cwd=root, check=True)
    bundle = build_bundle(root / "weights", root / "inference.py", out=root / "model.tar.gz")
    return extract_bundle(bundle, root / "model")


def test_a_pickle_of_a_class_in_inference_behind_torchserve(pickled, tmp_path):
    body, content_type, _ = run(TORCHSERVE, pickled, cwd=tmp_path)
    assert (body, content_type) == ("inference.Net [10.0, 26.0]", "text/plain")


def test_a_pickle_of_a_class_in_inference_behind_mlkit(pickled):
    handlers = find_code(pickled, {})
    handlers.start(pickled)
    assert handlers.respond(b"[[1, 2, 3, 4]]").body == b"inference.Net [10.0]"


def test_another_program_imports_the_module_of_the_user(pickled, tmp_path):
    """A process that the handlers start, such as a worker of a DataLoader, unpickles and imports as they do."""
    assert run(USERS_MODULE, pickled, cwd=tmp_path) == ["inference", str(pickled / "code" / "inference.py"), True]


NAMES = [  # a file of the user, in the model's folder
    "config.yaml",
    "deployment.py",
    "handlers.py",
    "model.json",
    "rows.json",
    "images.json",
    "labels.json",
    "requirements.txt",
    "model.safetensors",
    "inference.py",
    "mlkit_bundle.json",
    "mlkit_deployment.py",
    "mlkit.py",
    "mlkit/__init__.py",
    "code/handlers.py",
    "code/deployment.py",
    "code/config.yaml",
    "code/requirements.txt",
    "code/inference.py",
    "code/inference/__init__.py",
    "code/inference/words.txt",
    "code/mlkit.py",
    "code/mlkit/__init__.py",
    "code/mlkit/model/saving.py",
    "code/mlkit_bundle.json",
    "code/model.json",
    ".metadata",
]
NEEDED = {  # names that mlkit or Python needs
    "mlkit_deployment.py",
    "mlkit.py",
    "mlkit/__init__.py",
    "code/inference/__init__.py",
    "code/mlkit.py",
    "code/mlkit/__init__.py",
    "code/mlkit/model/saving.py",
    "code/mlkit_bundle.json",
}


CASES = [("", name) for name in NAMES]  # without handlers, and with some in another folder
CASES += [(program, name) for name in NAMES if name.startswith("code/i") for program in ("inference.py", "serve.py")]


@pytest.mark.parametrize(("program", "name"), CASES)
def test_a_file_of_the_user_stays_or_is_refused(name, program, tmp_path):
    mine = "# mine\ndef predict_fn(data, model): return 'mine'\n"
    text = mine if name.endswith(".py") else "torch\n"
    path = tmp_path / "model" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "inference.py").write_text(mine)
    (tmp_path / "src" / "serve.py").write_text("def predict_fn(data, model): return 'serve'\n")
    handlers = tmp_path / "src" / program if program else None
    out = tmp_path / "model.tar.gz"
    if name in NEEDED and not (name.endswith("inference/__init__.py") and program):
        with pytest.raises((BundleError, ValueError), match="rename|another name|is damaged"):
            build_bundle(tmp_path / "model", handlers, out=out)
        assert not out.exists()
        return
    try:
        bundle = build_bundle(tmp_path / "model", handlers, out=out)
    except BundleError as e:
        assert program and name.endswith("inference/__init__.py"), e
        return
    folder = extract_bundle(bundle, tmp_path / "unpacked")
    content = (folder / name).read_text()
    assert content.startswith(text), name
    loaded = find_code(folder, {})
    expected = program or ("inference.py" if name == "code/inference.py" else None)
    assert BundleRecord.read(folder / "code").handlers == expected
    assert bool(loaded.functions) == bool(expected)
    if expected:
        assert loaded.functions["predict_fn"](None, None) == ("serve" if program == "serve.py" else "mine")
    if not name.endswith((".py", "safetensors")):
        own_model = Handlers.load(model_fn=lambda model_dir: len)
        own_model.start(folder)
        assert (own_model.signature, own_model.description, own_model.labels) == (None, None, None)
    assert build_bundle(folder, out=tmp_path / "again.tar.gz").digest == bundle.digest
