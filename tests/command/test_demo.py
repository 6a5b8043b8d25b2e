"""Test `mlkit demo` as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from helpers import running

COMMAND = [str(Path(sys.executable).parent / "mlkit"), "demo"]


def test_demo_trains_and_serves_both_models(tmp_path):
    demo = tmp_path / "demo"
    process = subprocess.run([*COMMAND, "--folder", demo, "--json"], text=True, capture_output=True)
    assert process.returncode == 0, process.stderr
    accuracy = json.loads(process.stdout)
    assert accuracy["breast cancer"] >= 0.95
    assert accuracy["digits"] >= 0.9
    for name in ("breast-cancer", "digits"):
        assert (demo / name / "losses.png").read_bytes().startswith(b"\x89PNG")
        assert (demo / name / "model.tar.gz").is_file()
        assert not list((demo / name / "sagemaker" / "endpoints").iterdir())
        assert not list((demo / name / "sagemaker" / "jobs").iterdir())
    assert process.stderr.count("ok, ") == 4
    assert process.stderr.count("InService") == 2
    assert "What next" in process.stderr
    assert "epoch 20/20" in process.stderr


def test_ctrl_c_ends_the_demo_and_its_job(tmp_path):
    with subprocess.Popen(
        [*COMMAND, "--folder", tmp_path / "demo"],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        for line in process.stdout:
            if "epoch 1/" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().endswith("stopped")
    assert "Traceback" not in errors
    for _ in range(100):
        if not is_alive(process.pid) and not running(str(tmp_path)):
            return
        time.sleep(0.1)
    raise AssertionError("a process of the demo is still running")


def is_alive(group):
    """Return whether any process of a process group is running."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
