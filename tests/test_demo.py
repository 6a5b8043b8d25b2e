"""`mlkit demo`, as a person starts it"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from test_endpoints import running

mlkit = [str(Path(sys.executable).parent / "mlkit"), "demo"]


def test_demo_goes_the_whole_way(tmp_path):
    done = subprocess.run([*mlkit, "--folder", tmp_path / "demo", "--json"], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    accuracy = json.loads(done.stdout)
    assert accuracy["breast cancer"] >= 0.95 and accuracy["digits"] >= 0.9
    for name in ("breast-cancer", "digits"):
        assert (tmp_path / "demo" / name / "losses.png").read_bytes().startswith(b"\x89PNG")
        assert (
            (tmp_path / "demo" / name / "model.tar.gz").is_file()
            and not list((tmp_path / "demo" / name / "sagemaker" / "endpoints").iterdir())
            and not list((tmp_path / "demo" / name / "sagemaker" / "jobs").iterdir())
        )
    assert done.stderr.count("ok, ") == 4 and done.stderr.count("InService") == 2
    assert "What next" in done.stderr and "epoch 20/20" in done.stderr


def test_ctrl_c_ends_the_demo_and_its_job(tmp_path):
    with subprocess.Popen(
        [*mlkit, "--folder", tmp_path / "demo"],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        for line in process.stdout:
            if "epoch 1/" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and said.strip().endswith("stopped") and "Traceback" not in said
    for _ in range(100):
        if not alive(process.pid) and not running(str(tmp_path)):
            return
        time.sleep(0.1)
    raise AssertionError("a process of the demo is still running")


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
