"""What a bundle holds, and its programs as the containers import them, from a folder without the repository."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mlkit
from mlkit.model import MyCustomModel
from mlkit.sagemaker.artifacts.archive import extract_bundle
from mlkit.sagemaker.artifacts.bundle import build_bundle


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
import json, sys
folder = sys.argv[1]
sys.path.insert(0, f"{folder}/code")
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
import deployment
print(json.dumps([deployment.app, sys.path[0]]))
"""


def test_ray_serve_imports_deployment(folder, tmp_path):
    app, first_path = run(RAY, folder, cwd=tmp_path)
    assert app == ["application", str(folder)]
    assert first_path == str(folder / "code")
    assert "import_path: deployment:app" in (folder / "config.yaml").read_text()
