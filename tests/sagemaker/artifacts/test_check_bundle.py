"""Bundles that would fail behind an endpoint, and the words in which `check_bundle` reports them."""

import sys
from importlib import import_module

import pytest
import torch

from mlkit.sagemaker.artifacts.archive import BundleError, write_archive
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.artifacts.check_bundle import check_bundle

IRISNET = """
from torch import nn
class IrisNet(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.hidden,self.layers = hidden,nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))
    def forward(self, x): return self.layers(x)
"""
VALID = "def pre_model_fn(model_dir): pass"
ZEROS = torch.zeros(1, 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (folder / "irisnet.py").write_text(IRISNET)
    sys.path.insert(0, str(folder))
    yield import_module("irisnet").IrisNet()
    sys.path.remove(str(folder))
    del sys.modules["irisnet"]


@pytest.fixture
def check_handlers(model, tmp_path):
    def check_handlers(code, *args, inputs=ZEROS, **options):
        """Build a bundle with handlers, and return the findings, without the note that requests are not joined."""
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "inference.py").write_text(code)
        bundle = build_bundle(model, tmp_path / "bad", out=tmp_path / "bad.tar.gz", sample=inputs, **options)
        findings = check_bundle(bundle, *args).findings
        return [finding for finding in findings if "predicted one by one" not in finding.what]

    return check_handlers


def test_a_misspelt_handler(check_handlers):
    findings = check_handlers("def predct_fn(data, model): return model(data)")
    assert findings[0].what.endswith("inference.py:1: predct_fn: did you mean 'predict_fn'? It would never be called")
    assert findings[0].remedy == "correct it: no endpoint comes into service with that"


def test_predict_fn_raises(check_handlers):
    (finding,) = check_handlers("def predict_fn(data, model):\n    return 1/0")
    assert (finding.file, finding.line) == ("code/inference.py", 2)
    assert finding.what.splitlines()[0] == "ZeroDivisionError: division by zero"
    assert finding.remedy == "an endpoint would answer with 500"


def test_model_fn_raises(check_handlers):
    (finding,) = check_handlers('def model_fn(model_dir): return open(f"{model_dir}/weights.bin")')
    assert (finding.file, finding.line) == ("code/inference.py", 1)
    assert finding.what.startswith("FileNotFoundError: [Errno 2] No such file or directory: 'weights.bin'")
    assert finding.remedy == "no endpoint would come into service"


def test_a_handler_that_returns_what_cannot_be_encoded(check_handlers):
    (finding,) = check_handlers("def output_fn(prediction, accept): return object()")
    assert "output_fn" in finding.what
    assert "endpoint" in finding.remedy


def test_a_missing_module_is_refused_before_the_bundle_is_built(check_handlers):
    with pytest.raises(BundleError, match="there is no module 'no_such_package.inside'"):
        check_handlers("import no_such_package.inside")


def test_a_model_without_a_sample(check_handlers):
    (finding,) = check_handlers(VALID, inputs=None)
    assert finding.what == "no sample was tried: the model was saved without one"
    assert finding.note


def test_a_sample_is_taken_in_place_of_zeros(check_handlers):
    assert check_handlers(VALID, b"[[1, 2, 3, 4]]", inputs=None) == []


def test_a_sample_of_the_wrong_shape(check_handlers):
    (finding,) = check_handlers(VALID, [[1, 2]])
    assert "expected shape (batch, 4)" in finding.what
    assert finding.remedy == "an endpoint would answer with 422"


def test_requirements(check_handlers):
    missing, foreign = check_handlers(VALID, requirements=["no-such-thing==1", "mlkit"])
    assert missing.what == "no-such-thing==1 is required, and not installed here"
    assert "another project that is also called mlkit" in foreign.what
    assert foreign.note


def test_a_process_that_is_killed(check_handlers):
    code = "import os, signal\ndef model_fn(model_dir): os.kill(os.getpid(), signal.SIGKILL)"
    (finding,) = check_handlers(code)
    assert finding.what.startswith("model and warm-up: the process was killed by SIGKILL")


def test_an_archive_with_everything_in_one_folder(tmp_path):
    """A mistake in the layout is reported, and the other checks still run. `_check_layout` has further tests."""
    write_archive({"model/model.json": b"{}"}, tmp_path / "other.tar.gz")
    report = check_bundle(tmp_path / "other.tar.gz")
    assert report.findings[0].what == "everything is in the folder model"
    assert not report.findings[0].note
    assert report.tried[:2] == ["layout", "handlers"]


MISSING = {  # what the handlers need and no import statement names
    "plugin": 'from importlib import import_module\nname = "plug" + "in"\nimport_module(name)\n' + VALID,
    "words.txt": "from pathlib import Path\nPath(__file__).with_name('words.txt').read_text()\n" + VALID,
    "plugin/relu": (
        "import importlib\ndef model_fn(model_dir): return importlib.import_module('.'.join(['plugin', 'relu']))"
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_file_is_told_include(check_handlers, name):
    (finding,) = check_handlers(MISSING[name])
    assert "build_bundle(include=" in finding.remedy, finding
    assert f"if {name.split('/')[0]}" in finding.remedy
