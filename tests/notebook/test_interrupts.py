"""Long calls in a real kernel, interrupted as JupyterLab's button does it: with a SIGINT to the kernel."""

import os
import re
import textwrap
import time

import pytest
from jupyter_client.manager import KernelManager

SETUP = """
import os, sys, threading, time
import torch
from torch.utils.data import DataLoader, TensorDataset
from mlkit.model import MyCustomModel
from mlkit.notebook import launcher, monitor, playground, train_widget
from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.training import train_model

x = torch.randn(256, 4)
y = (x.sum(1) > 0).long()
model = MyCustomModel(4, 8, 2)

def loader(**options):
    return DataLoader(TensorDataset(x, y), 8, **options)

def main_thread_is_in(name):
    frame = sys._current_frames()[threading.main_thread().ident]
    while frame:
        if frame.f_code.co_name == name and "mlkit" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False

def tell_when(condition):
    # lets the test interrupt this kernel as soon as a condition is true
    def wait():
        while not condition():
            time.sleep(0.01)
        print("ready", flush=True)
    threading.Thread(target=wait, daemon=True).start()

class Steps:  # counts the steps that were trained
    count = 0
    def after_step(self, trainer):
        self.count += 1

with open("slow.py", "w") as f:
    f.write("import signal, sys, time\\nsignal.signal(signal.SIGTERM, lambda *args: sys.exit())\\ntime.sleep(600)\\n")
"""


class Kernel:
    """A kernel that runs one cell at a time."""

    def __init__(self, folder):
        self.manager = KernelManager(kernel_name="python3")
        environment = os.environ | {"MLKIT_LOCAL": str(folder / "local"), "IPYTHONDIR": str(folder / "ipython")}
        self.manager.start_kernel(cwd=str(folder), env=environment)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def run(self, code, interrupts=0):
        """Run a cell, and interrupt it each time it prints "ready". Return what it shows, and the name of its error."""
        message = self.client.execute(textwrap.dedent(code))
        outputs = []
        deadline = time.monotonic() + 120
        while True:
            assert time.monotonic() < deadline, "".join(outputs)
            reply = self.client.get_iopub_msg(timeout=120)
            if reply["parent_header"].get("msg_id") != message and reply["msg_type"] != "stream":
                continue  # a thread that an earlier cell has started may print
            content = reply["content"]
            if reply["msg_type"] == "stream":
                outputs.append(content["text"])
                if interrupts and "ready" in content["text"]:
                    interrupts -= 1
                    self.manager.interrupt_kernel()
            elif reply["msg_type"] in ("execute_result", "display_data"):
                outputs.append(content["data"].get("text/plain", "") + "\n")
            elif reply["msg_type"] == "error":
                outputs.append(re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(content["traceback"])))
            elif reply["msg_type"] == "status" and content["execution_state"] == "idle":
                break
        assert not interrupts, "".join(outputs)
        while True:
            reply = self.client.get_shell_msg(timeout=60)
            if reply["parent_header"].get("msg_id") == message:
                return "".join(outputs), reply["content"].get("ename")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    output, error = kernel.run(SETUP)
    assert error is None, output
    yield kernel
    output, error = kernel.run("for job in globals().get('jobs', []): job.stop(); job.follow()")
    assert error is None, output
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_in_a_cell_keeps_what_was_learned(kernel, workers):
    output, error = kernel.run(
        f"""
        before = [p.detach().clone() for p in model.parameters()]
        steps = Steps()
        tell_when(lambda: steps.count > 3)
        history = train_model(model, loader(num_workers={workers}), 10**6, 0.01, callbacks=[steps])
        print(history.stopped, len(history.steps) > 0, any((a != b).any() for a, b in zip(before, model.parameters())))
        """,
        interrupts=1,
    )
    assert error is None and "Traceback" not in output, output
    assert output.splitlines()[-1] == "Ctrl-C True True"


@pytest.mark.parametrize("workers", [0, 2])
def test_wait_of_a_training_run_stops_it_and_keeps_what_was_learned(kernel, workers):
    output, error = kernel.run(
        f"""
        steps = Steps()
        tell_when(lambda: steps.count > 3 and main_thread_is_in("wait"))
        history = train_widget(model, loader(num_workers={workers}), 10**6, 0.01, callbacks=[steps]).wait()
        print(history.stopped, len(history.steps) > 0)
        """,
        interrupts=1,
    )
    assert error is None and "Traceback" not in output, output
    assert output.count("interrupted: stopping after this step; what was learned is kept") == 1
    assert output.splitlines()[-1] == "Stop True"


def test_a_step_that_does_not_end_cannot_freeze_the_notebook(kernel):
    output, error = kernel.run(
        """
        may_end = threading.Event()

        def train(callbacks, verbose):
            may_end.wait()
            return "trained"

        run = train_widget(train=train)
        tell_when(lambda: main_thread_is_in("wait"))
        tell_when(lambda: main_thread_is_in("wait") and run.stop_requested)
        run.wait()
        print("free")
        may_end.set()
        print(run.wait())
        """,
        interrupts=2,
    )
    assert error is None, output
    assert "interrupted: the run stops when its step ends, in the background" in output
    assert output.splitlines()[-2:] == ["free", "trained"]


def test_wait_of_a_monitor_leaves_the_job_running(kernel):
    output, error = kernel.run(
        """
        jobs = [TrainingJob(source="slow.py", name="slow").run()]
        tell_when(lambda: main_thread_is_in("wait"))
        monitor("slow").wait()
        """,
        interrupts=1,
    )
    assert error is None and "Traceback" not in output, output
    assert output.count("interrupted: the job continues; monitor('slow') shows it again") == 1
    assert output.count("slow: InProgress") == 1, output  # the display of the widgets, once
    assert kernel.run("print(jobs[0].status)")[0] == "InProgress\n"


def test_follow_leaves_the_job_running(kernel):
    output, error = kernel.run(
        """
        tell_when(lambda: main_thread_is_in("poll_until_end"))
        job = TrainingJob.attach("slow").follow()
        print(job.status)
        """,
        interrupts=1,
    )
    assert error is None and "Traceback" not in output, output
    assert "slow continues without you" in output and output.endswith("InProgress\n")


def test_deploy_leaves_the_endpoint_on_its_way(kernel):
    output, error = kernel.run(
        """
        from mlkit.sagemaker.artifacts.bundle import build_bundle
        from mlkit.sagemaker.client.deployment import deploy
        with open("handlers.py", "w") as f:
            f.write("import time\\ndef model_fn(model_dir):\\n    time.sleep(600)\\n")
        bundle = build_bundle(model, handlers="handlers.py", out="model.tar.gz", sample=x[:1])
        tell_when(lambda: main_thread_is_in("follow_in_text"))
        endpoint = deploy(bundle, name="slow-endpoint")
        """,
        interrupts=1,
    )
    assert error is None and "Traceback" not in output, output
    assert "slow-endpoint continues without you: Endpoint.attach('slow-endpoint').wait() shows it again" in output
    output, error = kernel.run("endpoint.delete(); print(endpoint._configs.names())")
    assert error is None and output == "[]\n", output


@pytest.mark.parametrize(
    "call, place, line",
    [
        ("TrainingJob(source='slow.py').check()", "check", "interrupted: the check has ended"),
        ("TrainingJob(source='slow.py', name='new').run()", "send", "interrupted: new was not started"),
        ("deploy(bundle, check=True)", "check_bundle", "interrupted: nothing was deployed"),
    ],
)
def test_work_that_is_interrupted_ends_with_a_line(kernel, call, place, line):
    output, error = kernel.run(
        f"""
        from mlkit.sagemaker.storage import Files
        send = Files.send
        Files.send = lambda *args: time.sleep(600)
        tell_when(lambda: main_thread_is_in("{place}") or "{place}" == "send" and main_thread_is_in("run"))
        {call}
        """,
        interrupts=1,
    )
    assert error == "KeyboardInterrupt", output
    assert output.strip().splitlines()[-1] == line and "Traceback" not in output, output
    assert kernel.run("Files.send = send") == ("", None)


@pytest.mark.parametrize(
    "waiting, line",
    [
        ("launcher(TrainingJob(source='slow.py'))", "interrupted: the launcher continues, and shows the result"),
        ("playground(endpoint)", "interrupted: the answer will appear in the playground"),
    ],
)
def test_wait_of_a_panel_ends(kernel, waiting, line):
    output, error = kernel.run(
        f"""
        from types import SimpleNamespace
        from mlkit.notebook.controls import BackgroundThread
        endpoint = SimpleNamespace(name="e", signature=None, description=None)
        panel = {waiting}
        panel.thread = BackgroundThread(threading.Event().wait, "an action that does not end")
        panel.thread.start()
        tell_when(lambda: main_thread_is_in("wait"))
        _ = panel.wait()
        """,
        interrupts=1,
    )
    assert error is None and "Traceback" not in output, output
    assert output.endswith(f"{line}\n")


def test_a_traceback_is_shown_once(kernel):
    code = "run = train_widget(MyCustomModel(5, 8, 2), loader(), 3, 0.01)"
    # a run that is displayed shows it, and wait tells where
    output, error = kernel.run(f"{code}\ndisplay(run)\nrun.thread.wait()\nrun.wait()")
    assert error == "RuntimeError" and output.count("Traceback (most recent call last)") <= 1, output
    assert "its traceback is in the output that shows the run" in output
    # a run that is not displayed does not, and wait raises it
    output, error = kernel.run(f"{code}\nrun.wait()")
    assert error == "RuntimeError" and output.count("Traceback (most recent call last)") == 1, output
    output, error = kernel.run("train_model(MyCustomModel(5, 8, 2), loader(), 3, 0.01)")
    assert error == "RuntimeError" and output.count("Traceback (most recent call last)") == 1, output


def test_a_kernel_that_is_killed(tmp_path, fault):
    """A job continues and is found again; a run in a cell continues from its last checkpoint, to the same weights."""
    (tmp_path / "job.py").write_text(
        "import os, time\nlines = iter(range(10**6))\n"
        f"while not os.path.exists({str(tmp_path / 'end')!r}):\n"
        "    print('line', next(lines), flush=True)\n    time.sleep(0.1)\n"
    )
    train = """
        torch.manual_seed(0)
        model = MyCustomModel(4, 8, 2)
        data = TensorDataset(torch.randn(64, 4), torch.arange(64) % 2)
        class Slow:
            def after_step(self, trainer): time.sleep(SECONDS)
        options = dict(callbacks=[Slow()], checkpoints=FOLDER, save_every=1)
        train_model(model, DataLoader(data, 8, shuffle=True), 6, 0.01, **options)
        print(sum(p.double().sum() for p in model.parameters()).item())
    """
    kernel = Kernel(tmp_path)
    assert kernel.run(SETUP)[1] is None
    assert kernel.run("job = TrainingJob(source='job.py', name='job').run()")[1] is None
    kernel.client.execute(textwrap.dedent(train).replace("SECONDS", "0.1").replace("FOLDER", "'killed'"))
    while not list(tmp_path.glob("killed/step-*")):
        time.sleep(0.05)
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)  # SIGKILL

    kernel = Kernel(tmp_path)
    assert kernel.run(SETUP)[1] is None
    output, error = kernel.run("job = TrainingJob.attach('job')\nprint(job.status)")
    assert (output, error) == ("InProgress\n", None)
    (tmp_path / "end").touch()
    output, error = kernel.run("job.follow()\nprint(job.status)")
    assert error is None and output.endswith("Completed\n"), output
    lines = re.findall(r"^line (\d+)$", output, re.MULTILINE)
    n_lost = sum(int(line) != i for i, line in enumerate(lines))
    assert len(lines) > 10
    fault("kill: the kernel that started a job", 1, lost=n_lost, said="InProgress, then Completed")
    weights = []
    for folder in ("killed", "whole"):
        output, error = kernel.run(train.replace("SECONDS", "0").replace("FOLDER", repr(folder)))
        assert error is None, output
        assert ("Continuing from" in output) == (folder == "killed"), output
        weights.append(output.splitlines()[-1])
    fault("kill: the kernel in which a cell trains", 1, lost=int(weights[0] != weights[1]))
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)
