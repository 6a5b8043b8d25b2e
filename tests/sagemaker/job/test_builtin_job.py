"""Stop the built-in training job by SIGTERM and start it again: it ends with the weights of an uninterrupted job"""

import os
import subprocess
import sys

import pytest
import torch

from mlkit.sagemaker.job.container import lay_out

PARTS = """
import os, signal, torch

def optimizer(parameters, lr):
    return torch.optim.SGD(parameters, lr, momentum=0.9)

class SigtermAfterTwoEpochs:
    def after_epoch(self, trainer):
        if trainer.epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)
"""
SETTINGS = [
    *("--epochs", "4", "--standardize", "true", "--save_every", "3"),
    *("--optimizer", "parts:optimizer"),
]


def write_channel(folder, samples, seed):
    x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(seed))
    rows = [f"{int(r.sum() > 0)}," + ",".join(f"{v * 100:.3f}" for v in r.tolist()) for r in x]
    folder.mkdir()
    (folder / "rows.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def run_job(tmp_path):
    """A function that runs the built-in job in a tree, which a second run finds as the first has left it"""
    (tmp_path / "parts.py").write_text(PARTS, encoding="utf-8")
    channels = {
        "training": write_channel(tmp_path / "training", 256, 0),
        "validation": write_channel(tmp_path / "validation", 64, 1),
    }

    def run(name, *args):
        root = lay_out(tmp_path / name, channels=channels)
        environ = {k: v for k, v in os.environ.items() if not k.startswith("SM_")}
        environ |= {
            "SM_MODEL_DIR": str(root / "model"),
            "SM_OUTPUT_DIR": str(root / "output"),
            "SM_CHANNELS": '["training", "validation"]',
            "SM_CHANNEL_TRAINING": str(root / "input" / "data" / "training"),
            "SM_CHANNEL_VALIDATION": str(root / "input" / "data" / "validation"),
            "TRAINING_JOB_NAME": "spot",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
        }
        return subprocess.run(
            [sys.executable, "-m", "mlkit.sagemaker_entry", *SETTINGS, *args],
            env=environ,
            text=True,
            capture_output=True,
        )

    return run


def test_a_stopped_job_resumes_to_the_same_weights(run_job, tmp_path):
    first = run_job("stopped", "--callbacks", "parts:SigtermAfterTwoEpochs")
    assert first.returncode == 143, first.stderr
    assert "[metrics] epoch=3" not in first.stdout
    assert (tmp_path / "stopped" / "model" / "model.safetensors").is_file()  # the model as it was

    second = run_job("stopped", "--callbacks", "parts:SigtermAfterTwoEpochs")
    assert second.returncode == 0, second.stderr
    assert "[metrics] epoch=2" not in second.stdout
    assert "[metrics] epoch=3" in second.stdout
    assert not (tmp_path / "stopped" / "output" / "failure").exists()

    assert run_job("uninterrupted").returncode == 0
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("stopped", "uninterrupted")]
    assert weights[0] == weights[1]
