"""Test checkpoints on a full disk and at the end of the process, which a notebook cannot show."""

import subprocess
import sys
from pathlib import Path

from mlkit.training.checkpoint import list_checkpoints, read_checkpoint

child = Path(__file__).parent / "checkpoint_child.py"


def run_child(command, folder):
    return subprocess.run(
        [sys.executable, "-W", "always", child, command, folder], text=True, capture_output=True, timeout=120
    )


def test_saves_are_completed_while_python_shuts_down(tmp_path):
    """The write in progress is completed, and a thread that is still training can save as well."""
    process = run_child("shutdown", tmp_path)
    assert process.stderr == ""
    assert [read_checkpoint(f)["x"].sum().item() for f in list_checkpoints(tmp_path)] == [1e6, 1e6]


def test_a_full_disk_is_a_warning(tmp_path):
    process = run_child("full", tmp_path)
    assert process.returncode == 0, process.stderr
    assert "no checkpoint of step 2: " in process.stderr
    assert "File too large" in process.stderr
    # The checkpoints before and after it exist, and nothing of the failed one is left.
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-000000001", "step-000000003"]
