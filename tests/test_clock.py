"""A clock that jumps: what waits, and what ends at a time, goes by the monotonic clock."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

CLOCK = Path(__file__).parent / "jumping_clock"
PROGRAMS = {
    "a job with a limit of 60 s, and following it": """
        from mlkit.sagemaker.client.jobs import TrainingJob
        from mlkit.sagemaker.local.client import LocalSageMaker
        with open("train.py", "w") as f:
            f.write("import time\\nfor i in range(10):\\n    print('step', i, flush=True)\\n    time.sleep(0.2)\\n")
        local = LocalSageMaker("local")
        names = [f"job-{i}" for i in range(3)]
        jobs = [TrainingJob(source="train.py", name=name, max_run=60).run(local) for name in names]
        statuses = [job.follow(out).status for job in jobs]
        listed = sorted(job["TrainingJobName"] for job in local.list_training_jobs()["TrainingJobSummaries"])
        logs = [log.read_text() for name in names for log in local.logs(name)]
        n_lines = sum(f"step {i}\\n" in log for log in logs for i in range(10))
        result = [statuses, listed == names, n_lines]
        expected = [["Completed"] * 3, True, 30]
    """,
    "training, its checkpoints and their clean-up": """
        import torch
        from torch.utils.data import DataLoader, TensorDataset
        from mlkit.model import MyCustomModel
        from mlkit.training import train_model
        from mlkit.training.checkpoint import list_checkpoints
        def train(folder, epochs):
            torch.manual_seed(0)
            model = MyCustomModel(4, 8, 2)
            data = TensorDataset(torch.randn(64, 4), torch.arange(64) % 2)
            history = train_model(model, DataLoader(data, 8), epochs, 0.01, checkpoints=folder, save_every=1)
            assert all(0 <= seconds < 60 for seconds in history["seconds"]), history["seconds"]
            return [p.sum().item() for p in model.parameters()]
        train("a", 2)
        result = train("a", 4)
        expected = train("b", 4)
    """,
    "a server with a timeout of 5 s": """
        import http.client, threading, torch
        from mlkit.model import MyCustomModel, save_model
        from helpers import free_port
        from conformance.servers import mlkit_serve, wait_until
        save_model(MyCustomModel(4, 8, 2), "model", sample=torch.zeros(1, 4))
        port = free_port()
        def ask(method, path, body=None):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.request(method, path, body, {"Content-Type": "application/json"})
                return connection.getresponse().status
            except OSError:
                return None
        with mlkit_serve(pathlib.Path("model").resolve(), port, SAGEMAKER_MODEL_SERVER_TIMEOUT="5") as process:
            wait_until(lambda: ask("GET", "/ping") == 200, process)
            result = [ask("POST", "/invocations", "[[1, 2, 3, 4]]") for _ in range(50)] + [process.poll()]
        expected = [200] * 50 + [None]
    """,
}
HEAD = """
import io, json, pathlib, sys, time
assert abs(time.time() - time.time()) > 1000, "the clock does not jump"
out = io.StringIO()
"""


@pytest.mark.long("training, its checkpoints and their clean-up", "a server with a timeout of 5 s")
@pytest.mark.parametrize("key", PROGRAMS)
def test_a_clock_that_jumps(tmp_path, fault, key):
    code = HEAD + textwrap.dedent(PROGRAMS[key]) + "\nprint(json.dumps([result, expected]))\n"
    path = os.pathsep.join([str(CLOCK), str(CLOCK.parent)])
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        env=os.environ | dict(PYTHONPATH=path),
    )
    assert run.returncode == 0, run.stderr
    result, expected = json.loads(run.stdout.splitlines()[-1])
    assert result == expected, run.stdout
    fault(f"clock: it jumps at each look, {key}", 1)
