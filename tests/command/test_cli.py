"""The mlkit command, on jobs and endpoints of this machine."""

import inspect
import io
import json
import os
import subprocess
import sys
import time
from base64 import b64decode
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime

import pytest
import torch

from mlkit.cli import main
from mlkit.commands import jobs
from mlkit.model import MyCustomModel, save_model
from mlkit.sagemaker.artifacts import starter
from mlkit.sagemaker.client import Endpoint, LocalSageMaker, Machines, TrainingJob, deployment, endpoints
from mlkit.sagemaker.client.options import make_options
from mlkit.sagemaker.job.container import lay_out
from mlkit.text import Table


def run_command(*arguments):
    """Return exit code, stdout and stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(a) for a in arguments])
    return code, out.getvalue(), err.getvalue()


def write_channel(folder):
    folder.mkdir(parents=True)
    (folder / "rows.csv").write_text("\n".join(f"{i % 2},{i},{-i}" for i in range(20)) + "\n")
    return folder


class InterruptedOutput(io.StringIO):
    """An output at which Ctrl-C is pressed as soon as it shows `sight`."""

    def __init__(self, sight):
        super().__init__()
        self.sight = sight

    def write(self, text):
        if self.sight in text:
            raise KeyboardInterrupt
        return super().write(text)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a separate LocalSageMaker."""
    monkeypatch.setenv("MLKIT_LOCAL", str(tmp_path / "local"))
    return tmp_path


def test_a_failed_job_gives_exit_code_1_and_its_reason(work):
    (work / "fail.py").write_text('raise ValueError("no label")\n')
    code, out, err = run_command("run", work / "fail.py", "--name", "failing", "--json", "--", "--epochs=2")
    assert code == 1
    assert "mlkit: failing failed: AlgorithmError" in err
    assert "ValueError: no label" in err
    state = json.loads(out)
    assert [state[k] for k in ("ok", "name", "status", "model")] == [False, "failing", "Failed", None]
    code, out, _ = run_command("follow", "failing", "--json")
    assert (code, json.loads(out)) == (1, state)
    code, out, _ = run_command("list", "--json", "--status", "Failed")
    assert (code, [job["name"] for job in json.loads(out)["jobs"]]) == (0, ["failing"])


def test_check_says_what_it_did_not_try_and_runs_it_on_request(work):
    program = """
import argparse, os
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.add_argument("--train", default=os.environ["SM_CHANNEL_TRAIN"])
args = parser.parse_args()
print("trained", args.epochs, os.listdir(args.train))
"""
    (work / "src").mkdir()
    (work / "src" / "train.py").write_text(program)
    (work / "src" / "train.sh").write_text('python train.py "$@"\n')
    channel = write_channel(work / "data" / "train")
    arguments = ("check", work / "src", "--data", channel.parent)
    code, out, _ = run_command(*arguments, "--", "--epochs", 2)
    assert code == 0
    assert "not tried: what follows the argument parser at train.py:6 (mlkit check --run runs it)" in out
    assert "nothing found" not in out
    code, out, _ = run_command(*arguments, "--run", "--json", "--", "--epochs", 2)
    report = json.loads(out)
    assert (code, report["tried"][-1], report["untried"]) == (0, "a real run", [])
    assert "trained 2 ['rows.csv']" in report["log"]
    assert "left nothing in the model folder" in report["findings"][0]["what"]
    script = ("check", work / "src" / "train.sh", "--data", channel.parent, "--json")
    code, out, _ = run_command(*script)
    assert json.loads(out)["untried"] == ["train.sh, a shell script (mlkit check --run runs it)"]
    code, out, _ = run_command(*script, "--run", "--", "--epochs", "ten")
    assert code == 1
    assert "invalid int value: 'ten'" in json.loads(out)["findings"][-1]["what"]


def test_train_runs_what_a_container_would_run(work, monkeypatch):
    """With --json it waits and reports the outcome."""
    write_channel(work / "data" / "training")
    monkeypatch.chdir(work)
    code, out, _ = run_command("train", "--json", "--epochs", "1")
    outcome = json.loads(out)
    assert (code, outcome["exit_code"], outcome["failure"]) == (0, 0, None)
    assert (work / outcome["model"] / "model.safetensors").is_file()
    code, out, _ = run_command("train", "--json", "--epohcs", "1")
    outcome = json.loads(out)
    assert (code, outcome["exit_code"]) == (1, 1)
    assert "did you mean 'epochs'?" in outcome["failure"]


def test_errors_of_the_api_say_where_to_look(work):
    channel = write_channel(work / "training")
    assert run_command("run", "--channel", f"training={channel}", "--name", "first", "--", "--epochs", 1)[0] == 0
    (work / "program.py").write_text("")
    errors = {
        ("follow", "nobody"): "Requested resource not found.\nmlkit list shows the names\n",
        ("delete", "nobody"): "mlkit list --endpoints shows the names",
        ("stop", "first"): "is in status Completed",
        ("run", "--", "--epohcs", "3"): "epohcs",
        ("run", work / "program.py", "--", "lr=3"): "expected --name value or --name=value",
    }
    for arguments, message in errors.items():
        code, _, err = run_command(*arguments)
        assert code == 1, arguments
        assert message in err, arguments


def test_ctrl_c_ends_the_display_and_the_job_continues(work):
    (work / "slow.py").write_text(
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit())\n"
        'while True:\n    print("tick", flush=True)\n    time.sleep(.2)\n'
    )
    for arguments in (["run", str(work / "slow.py"), "--name", "slow"], ["follow", "slow"]):
        with redirect_stdout(InterruptedOutput("tick")) as out:
            assert main(arguments) == 130
        hint = "slow continues without you: mlkit follow slow shows it again, mlkit stop slow ends it"
        assert out.getvalue().splitlines()[-1] == hint
    assert run_command("stop", "slow")[0] == 0
    assert run_command("follow", "slow")[0] == 0


def test_an_endpoint_is_created_asked_updated_and_deleted(work):
    save_model(MyCustomModel(4, 8, 2), work / "model", sample=torch.zeros(1, 4))
    archive = work / "model.tar.gz"
    (work / "x.csv").write_text("0,1,2,3\n")
    (work / "x.json").write_text("[[1]]")
    assert run_command("bundle", work / "model", "--out", archive)[0] == 0
    code, out, _ = run_command("deploy", archive, "--name", "iris")
    assert code == 0
    assert "Creating" in out
    assert "InService" in out

    code, out, _ = run_command("invoke", "iris", work / "x.csv", "--accept", "text/csv", "--json")
    answer = json.loads(out)
    assert (code, answer["content_type"], answer["body"].count(",")) == (0, "text/csv", 1)
    code, out, _ = run_command("list", "--endpoints")
    assert code == 0
    assert "InService" in out

    # A binary answer is base64 in JSON, and the bytes themselves on a stdout that is not a terminal.
    binary = ["invoke", "iris", str(work / "x.csv"), "--accept", "application/x-npy"]
    code, out, _ = run_command(*binary, "--json")
    process = subprocess.run([sys.executable, "-m", "mlkit.cli", *binary], capture_output=True)
    assert (code, b64decode(json.loads(out)["body_base64"])) == (0, process.stdout)

    code, _, err = run_command("invoke", "iris", work / "x.json")
    assert (code, err) == (1, "mlkit: iris answered 422: expected shape (batch, 4), got (1, 1)\n")

    # A file has the options, and a flag wins; an update needs no bundle, and keeps what it does not name.
    (work / "iris.toml").write_text('name = "iris"\nstartup = 300\n[environment]\nA = "1"\nB = "1"\n')
    code, out, _ = run_command("deploy", "--config", work / "iris.toml", "--environment", "B=2")
    assert code == 0
    assert "Updating" in out
    options = Endpoint.attach("iris").options
    assert (options.startup, options.environment) == (300, {"A": "1", "B": "2"})
    (work / "wrong.json").write_text('{"instace": "ml.m5.large"}')
    code, _, err = run_command("deploy", archive, "--config", work / "wrong.json")
    assert code == 2
    assert "did you mean 'instance'?" in err
    code, _, err = run_command("deploy", "--name", "other")
    assert code == 2
    assert "a new endpoint needs one" in err
    with redirect_stdout(InterruptedOutput("Updating")) as out:
        assert main(["deploy", str(archive), "--name", "iris"]) == 130
    hint = "mlkit list --endpoints shows its status, mlkit delete iris ends it"
    assert f"iris continues without you: {hint}\n" in out.getvalue()

    # A name that is being deleted can be used again at once.
    for arguments in (["delete", "iris"], ["deploy", archive, "--name", "iris"], ["delete", "iris"]):
        assert run_command(*arguments)[0] == 0
    code, _, err = run_command("deploy", work / "none.tar.gz")
    assert code == 1
    assert "there is no bundle" in err


def test_local_shows_and_frees_what_this_machine_holds(work):
    channel = write_channel(work / "training")
    assert run_command("run", "--channel", f"training={channel}", "--name", "first", "--", "--epochs", 1)[0] == 0
    client = LocalSageMaker()
    while client.list_endpoints()["Endpoints"]:
        time.sleep(0.05)
    code, out, _ = run_command("local")
    assert code == 0
    assert out.startswith("LocalSageMaker: 1 job"), out
    for options in ([], ["--everything"]):
        code, out, _ = run_command("local", "clean", *options)
        assert code == 0
        assert out.startswith("freed "), out
    assert not (work / "local" / "s3").exists()


class FakeEndpoint:
    """An endpoint that has captured one request, and answers asynchronous ones."""

    name = "iris"

    def replay(self, *arguments):
        self.arguments = arguments
        return Table(["request", "before", "after"], [["a-1", "setosa", "virginica"]] * self.n_changes, "note")

    def invoke_async(self, x, content_type, accept):
        self.arguments = (x, content_type, accept)
        return self

    def wait(self, out):
        return b"[0.5]", "application/json"


@pytest.mark.parametrize("n_changes", [0, 1])
def test_replay_has_an_exit_code_for_changes(monkeypatch, n_changes):
    endpoint = FakeEndpoint()
    endpoint.n_changes = n_changes
    monkeypatch.setattr(Endpoint, "attach", lambda name, target: endpoint)
    flags = ["--limit", "5", "--tolerance", "0.1", "--since", "2026-11-28T09:30:00"]
    code, out, _ = run_command("replay", "iris", "new.tar.gz", *flags, "--json")
    assert endpoint.arguments == ("new.tar.gz", 5, 0.1, datetime(2026, 11, 28, 9, 30), None)
    changes = [dict(request="a-1", before="setosa", after="virginica")] * n_changes
    assert (code, json.loads(out)) == (n_changes, dict(ok=not n_changes, changes=changes, note="note"))


def test_an_asynchronous_endpoint_is_invoked(monkeypatch, tmp_path):
    endpoint = FakeEndpoint()
    monkeypatch.setattr(endpoints, "Endpoint", lambda name, target: endpoint)
    (tmp_path / "x.csv").write_text("1,2")
    code, out, _ = run_command("invoke", "iris", tmp_path / "x.csv", "--async", "--accept", "text/csv")
    assert (code, out) == (0, "[0.5]\n")
    assert endpoint.arguments == (tmp_path / "x.csv", None, "text/csv")


def test_options_of_asynchronous_requests_are_flags(monkeypatch):
    passed = {}
    monkeypatch.setattr(deployment, "deploy", lambda *arguments, **options: passed.update(options) or FakeEndpoint())
    monkeypatch.setattr(FakeEndpoint, "status", "Creating", raising=False)
    flags = ["--asynchronous", "output=s3://bucket/out", "--asynchronous", "max_concurrent=3"]
    assert run_command("deploy", "s3://bucket/model.tar.gz", *flags, "--detach")[0] == 0
    assert make_options(Machines, dict(asynchronous=passed["asynchronous"]), "deploy").asynchronous == {
        "output": "s3://bucket/out",
        "max_concurrent": 3,
    }


def test_a_suggested_command_repeats_the_target(monkeypatch):
    monkeypatch.setattr(deployment, "deploy", lambda *arguments, **options: FakeEndpoint())
    monkeypatch.setattr(FakeEndpoint, "status", "Creating", raising=False)
    _, out, _ = run_command("deploy", "s3://bucket/model.tar.gz", "--target", "sagemaker", "--detach")
    assert "FILE --target sagemaker; end it: mlkit delete iris --target sagemaker" in out
    monkeypatch.setattr(TrainingJob, "run", lambda job, target: job)
    monkeypatch.setattr(jobs, "_job_state", lambda job: {"ok": True})
    _, out, _ = run_command("run", "--name", "first", "--target", "sagemaker", "--detach")
    assert out == "first is accepted; mlkit follow first --target sagemaker shows it\n"


def test_a_plain_program_of_an_image(tmp_path):
    """`mlkit train` gives a program of the image the variables and arguments of a job, and writes its failure file."""
    root = lay_out(tmp_path / "ml", {"epochs": "3", "fail": "false"}, {"training": tmp_path})
    (root / "code").mkdir()
    (root / "code" / "train.py").write_text(
        "import argparse, os\n"
        "parser = argparse.ArgumentParser()\n"
        "parser.add_argument('--model-dir', default=os.environ['SM_MODEL_DIR'])\n"
        "parser.add_argument('--epochs', type=int)\n"
        "parser.add_argument('--fail')\n"
        "args = parser.parse_args()\n"
        "open(f'{args.model_dir}/epochs', 'w').write(f'{args.epochs} {os.environ[\"SM_CHANNEL_TRAINING\"]}')\n"
        "assert args.fail == 'False', 'no rows'\n"
    )

    def train(*arguments):
        command = [sys.executable, "-m", "mlkit.cli", "train", "--json", *arguments]
        process = subprocess.run(command, env=os.environ | {"MLKIT_ROOT": str(root)}, text=True, stdout=subprocess.PIPE)
        return process.returncode, json.loads(process.stdout)

    code, outcome = train()
    assert (code, outcome["ok"]) == (0, True)
    assert (root / "model" / "epochs").read_text() == f"3 {root}/input/data/training"
    code, outcome = train("--fail", "yes")
    assert (code, outcome["ok"]) == (0, True), "the hyperparameters of the job come last"
    (root / "input" / "config" / "hyperparameters.json").write_text('{"fail": "yes"}')
    code, outcome = train()
    assert (code, outcome["failure"].splitlines()[0]) == (1, "AssertionError: no rows")


def test_a_trial_of_a_sweep_in_an_image_with_mlkits_train(tmp_path):
    """The hyperparameters name mlkit's starter in the job's channel, as those of a sweep do; it knows the program."""
    names = {"sagemaker_program": "mlkit_start.py", "sagemaker_submit_directory": "/opt/ml/input/data/code"}
    root = lay_out(tmp_path / "ml", {"lr": "0.1", "_tuning_objective_metric": "loss"} | names)
    code = root / "input" / "data" / "code"
    code.mkdir(parents=True)
    (code / "mlkit_start.py").write_text(inspect.getsource(starter))
    (code / "fit.py").write_text("import os, sys\nprint(sys.argv[1:], os.environ['MLKIT_CHECKPOINT_DIR'])\n")
    variables = dict(
        MLKIT_ROOT=str(root), MLKIT_PROGRAM='["fit.py"]', TRAINING_JOB_NAME="sweep-003-1a2b3c4d", PYTHONUNBUFFERED="1"
    )
    command = [sys.executable, "-m", "mlkit.cli", "train"]
    process = subprocess.run(command, env=os.environ | variables, text=True, capture_output=True)
    assert process.stdout == f"['--lr', '0.1'] {root}/checkpoints/trial-003\n", process.stderr


SWEPT = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--kind", choices=["adam", "sgd"])
parser.add_argument("--epochs", type=int)
args = parser.parse_args()
print(f"[metrics] epoch=1 valid_loss={args.lr + args.epochs:.6g}", flush=True)
"""


def test_a_sweep_from_the_terminal(work):
    """A job's file and flags make one sweep; its table, its best trial, and its exit code; follow and stop know it."""
    (work / "train.py").write_text(SWEPT)
    (work / "job.toml").write_text(f'source = "{work / "train.py"}"\n[config]\nlr = 0.5\nepochs = 3\n')
    search = ("--search", "lr=0.25,0.75", "--search", "kind=adam", "--strategy", "grid")
    code, out, err = run_command("sweep", work / "job.toml", *search, "--name", "terminal", "--", "--epochs", "2")
    assert code == 0, out + err
    assert "completed: trial 0: valid_loss 2.25, lr=0.25, kind=adam, the best so far" in out
    assert "the best: terminal-001-" in out
    code, out, err = run_command("follow", "terminal", "--json")
    state = json.loads(out)
    assert (code, state["status"], state["best"]["parameters"]["lr"]) == (0, "Completed", 0.25)
    assert [trial["value"] for trial in state["trials"]] == [2.25, 2.75]
    assert "terminal" in run_command("list", "--sweeps")[1]
    code, out, err = run_command("stop", "terminal")
    assert code == 1 and "Completed" in err, "it has ended already"
    code, out, err = run_command("follow", "other")
    assert code == 1 and "mlkit list" in err


def test_ctrl_c_ends_the_display_of_a_sweep_and_says_how_to_go_on(work):
    (work / "train.py").write_text("import time\ntime.sleep(60)\n")
    out, err = InterruptedOutput("running: trial 0"), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["sweep", str(work / "train.py"), "--search", "lr=0.1:1", "--trials", "2", "--name", "slow"])
    assert code == 130
    assert "mlkit follow slow shows it again, mlkit stop slow ends it" in out.getvalue()
    assert run_command("stop", "slow")[0] == 0
    code, out, err = run_command("follow", "slow", "--json")
    assert (code, json.loads(out)["status"]) == (0, "Stopped")


def test_a_sweep_that_cannot_be_says_why(work):
    (work / "train.py").write_text(SWEPT)
    for arguments, code, message in [
        (("--search", "lr=1:2:log", "--metric", "quality"), 1, "pass goal='minimize' or goal='maximize'"),
        (("--search", "lr=0:2:log"), 1, "lr: range=(0, 2): a logarithmic range begins above 0"),
        (("--search", "lr=0.1:1", "--strategy", "grid"), 1, "lr: a grid needs values that can be counted"),
        (("--search", "lr=0.1:1", "--strategy", "hyperband"), 1, "max_epochs: hyperband needs"),
        (("--search", "lr=0.1:1", "--strategy", "bayes"), 2, "'bayes' is not one of"),
    ]:
        result = run_command("sweep", work / "train.py", *arguments)
        assert result[0] == code and message in result[2], (arguments, result)
    code, _, err = run_command("sweep", "--search", "learning_rat=0.1:1")
    assert code == 1 and "did you mean 'learning_rate'?" in err
    code, _, err = run_command("sweep", "--search", "epochs=many,1")
    assert code == 1 and "expected int, got 'many'" in err, err
