"""The secrets of a user stay where they are: none is in what mlkit writes, prints, sends, or gives to a program.

Secrets are planted in the variables, in the home and next to the source. Programs and handlers print all of their
variables, so that a search of the logs and answers finds what a process has inherited.
"""

import gzip
import io
import json
import os
import subprocess
import tarfile
import zipfile
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch

from mlkit.cli import main
from mlkit.model import MyCustomModel, save_model
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.artifacts.check_bundle import check_bundle
from mlkit.sagemaker.artifacts.files import SourceError
from mlkit.sagemaker.artifacts.remote_source import fetch_source
from mlkit.sagemaker.client import Sweep, TrainingJob, transform
from mlkit.sagemaker.client.deployment import deploy
from mlkit.sagemaker.local.client import LocalSageMaker

MARK = "zq9x7"  # is in each secret
VARIABLES = """
    AWS_SECRET_ACCESS_KEY HF_TOKEN WANDB_API_KEY OPENAI_API_KEY GITHUB_TOKEN DB_PASSWORD PIP_PASSWORD JPY_API_TOKEN
    SSH_AUTH_SOCK DATABASE_URL SM_HP_PASSWORD SAGEMAKER_TOKEN MLKIT_TOKEN KUBECONFIG MLFLOW_TRACKING_PASSWORD
"""
URLS = ("HTTPS_PROXY", "http_proxy", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
PROGRAM = """
import json, os, pathlib, sys
print(dict(os.environ), sys.argv)
home = pathlib.Path.home()
print([path.read_text() for path in home.rglob("*") if path.is_file()])
if os.environ.get("SM_MODEL_DIR"):
    pathlib.Path(os.environ["SM_MODEL_DIR"], "environment.json").write_text(json.dumps(dict(os.environ)))
"""
HANDLERS = """
import os

print(dict(os.environ))

def model_fn(model_dir):
    return lambda x: x

def predict_fn(data, model):
    return {"environment": dict(os.environ), "home": os.listdir(os.path.expanduser("~"))}
"""


def secret(place):
    return f"{MARK}-{place}"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A program in a git repository, in a home, both with secrets."""
    home, folder = tmp_path / "home", tmp_path / "work" / "src"
    for place in (home, folder):
        for name in (".aws/credentials", ".env", ".netrc", ".git-credentials", ".ssh/id_rsa", ".pypirc"):
            write(place / name, secret(f"{place.name}/{name}"))
    write(home / ".cache/huggingface/token", secret("token of Hugging Face"))
    write(folder / "train.py", PROGRAM)
    write(folder / "inference.py", HANDLERS)
    write(folder / "keys.txt", secret("ignored file"))
    write(folder / ".gitignore", "keys.txt\n")
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    url = f"https://me:{secret('.git/config')}@127.0.0.1/x.git"
    subprocess.run(["git", "remote", "add", "origin", url], cwd=folder, check=True)
    for name in VARIABLES.split():
        monkeypatch.setenv(name, secret(name))
    for name in URLS:
        monkeypatch.setenv(name, f"http://me:{secret(name)}@127.0.0.1:9/simple")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MLKIT_LOCAL", str(tmp_path / "local"))
    monkeypatch.chdir(tmp_path / "work")
    return folder


def contents(path):
    """Yield the bytes of a file, those that it has compressed, and those of its members."""
    data = path.read_bytes()
    yield str(path), data
    if data[:2] == b"\x1f\x8b":
        yield f"{path} unpacked", gzip.decompress(data)
    if data[:2] == b"PK":
        archive = zipfile.ZipFile(io.BytesIO(data))
        yield from ((f"{path}/{name}", archive.read(name)) for name in archive.namelist())


def assert_no_secret(*places):
    """Assert that there is no secret in texts, or in the files under folders. Return how much has been searched."""
    found, size = [], 0
    for place in places:
        if isinstance(place, os.PathLike):
            files = [path for path in [place, *place.rglob("*")] if path.is_file()]
            texts = [text for path in files for text in contents(path)]
        else:
            texts = [("text", str(place).encode())]
        for name, text in texts:
            size += len(text)
            at = text.find(MARK.encode())
            if at >= 0:
                found.append((name, text[max(0, at - 80) : at + 60]))
    assert not found, found
    return size


def test_the_search_finds_what_is_planted(source, tmp_path):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.add(source / ".env", "x")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", secret("x") * 99)
    for place in (source, tmp_path / "x.tar.gz", tmp_path / "x.zip", dict(os.environ)):
        with pytest.raises(AssertionError):
            assert_no_secret(place)


def test_a_job(source, tmp_path, capsys):
    """Its request, check, description, output and files; its log has all of its variables."""
    job = TrainingJob(source=source)
    report = job.check()
    assert "'TRAINING_JOB_NAME'" in report.log, report
    local = LocalSageMaker()
    assert_no_secret(json.dumps(job.request(target=local), default=str), job.explain(), repr(job), report, report.log)
    job.run(local).follow(io.StringIO())
    assert job.status == "Completed", job.logs()
    assert any("'TRAINING_JOB_NAME'" in line for line in job.logs())
    assert_no_secret("\n".join(job.logs()), job.describe(), *capsys.readouterr())
    assert assert_no_secret(tmp_path / "local") > 10_000


def test_the_credentials_of_a_role_are_given_to_a_job_and_written_nowhere(source, tmp_path, monkeypatch):
    """They expire, and a job has some. Its program may use them, and so it prints nothing here."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", secret("session token"))
    program = "import os\nassert os.environ['AWS_SESSION_TOKEN'] and os.environ['AWS_SECRET_ACCESS_KEY']\n"
    write(source / "train.py", program)
    job = TrainingJob(source=source).run(LocalSageMaker()).follow(io.StringIO())
    assert job.status == "Completed", job.logs()
    assert assert_no_secret(tmp_path / "local", json.dumps(job.request(), default=str)) > 10_000


def test_a_bundle_its_check_its_endpoint_and_a_transform(source, tmp_path, capsys):
    model = save_model(MyCustomModel(4, 3, 2), tmp_path / "model", sample=torch.zeros(1, 4))
    bundle = build_bundle(model, source / "inference.py", out=tmp_path / "bundle" / "model.tar.gz")
    report = check_bundle(bundle.path)
    assert "'HOME'" in report.log, report
    assert assert_no_secret(tmp_path / "bundle", repr(bundle), report, report.log) > 10_000
    with deploy(bundle, LocalSageMaker(), "iris", out=io.StringIO()) as endpoint:
        answer = endpoint.invoke([[1.0, 2.0, 3.0, 4.0]])
        assert answer["home"] == []
        assert_no_secret(answer, endpoint.describe(), "\n".join(endpoint.logs()), *capsys.readouterr())
        assert assert_no_secret(tmp_path / "local") > 10_000


@pytest.mark.long
def test_a_transform(source, tmp_path, capsys):
    model = save_model(MyCustomModel(4, 3, 2), tmp_path / "model", sample=torch.zeros(1, 4))
    bundle = build_bundle(model, source / "inference.py", out=tmp_path / "model.tar.gz")
    write(tmp_path / "rows" / "rows.csv", "1,2,3,4\n")
    job = transform(bundle, tmp_path / "rows").follow(io.StringIO())
    assert assert_no_secret(job.describe(), tmp_path / "local", *capsys.readouterr()) > 10_000


def test_a_dockerfile(source):
    """The image gets the files that .dockerignore lets pass."""
    assert main(["dockerfile", str(source)]) == 0
    allowed = [line[1:] for line in (source / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert {"train.py", "inference.py"} < set(allowed)
    assert_no_secret(source / "Dockerfile", source / ".dockerignore", *(source / name for name in allowed))


def test_a_job_of_a_repository_whose_url_has_a_password(source, tmp_path, capsys):
    """Git is told to read another repository in place of the one at the URL."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "add", "."], cwd=source, check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "program"], cwd=source, check=True)
    url = f"https://me:{secret('URL')}@example.org/team/nets.git"
    write(tmp_path / "home/.gitconfig", f'[url "file://{source}"]\n    insteadOf = {url}\n')
    write(source / "fail.py", PROGRAM)
    job = TrainingJob(source=url).run(LocalSageMaker()).follow(io.StringIO())
    assert job.status == "Completed", job.logs()
    (tmp_path / "home/.gitconfig").unlink()
    assert_no_secret(job.describe(), job.name, repr(job), job.explain(), "\n".join(job.logs()), *capsys.readouterr())
    assert assert_no_secret(tmp_path / "local") > 10_000


def loss(config):
    return config["x"] ** 2


@pytest.mark.long
def test_a_sweep_of_a_function(source, tmp_path, capsys):
    """The function is the user's, and so are its variables; what the sweep keeps of it has none of them."""
    sweep = Sweep(loss, {"x": [1]}, config={"x": 1}, metric="loss", strategy="grid", folder=tmp_path / "sweeps")
    sweep.run().wait()
    assert len(sweep.trials()) == 1
    assert assert_no_secret(tmp_path / "sweeps", repr(sweep), *capsys.readouterr()) > 1000


def run_command(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(a) for a in arguments])
    return code, out.getvalue() + err.getvalue()


def test_the_command_line(source, tmp_path):
    """Each command on what is not there, and one whose program fails; SOURCE is a URL with a password, too."""
    write(source / "fail.py", PROGRAM + "\nraise ValueError(str(dict(os.environ)))\n")
    url = f"git+https://me:{secret('URL')}@127.0.0.1:9/x.git@main"
    for arguments in (
        ["run", source / "fail.py", "--name", "failing"],
        ["follow", "failing"],
        ["list"],
        ["check", source / "none.py"],
        ["check", source / "fail.py", "--seconds", "60"],
        ["run", url],
        ["check", url],
        ["bundle", tmp_path / "none"],
        ["deploy", tmp_path / "none.tar.gz"],
        ["invoke", "nobody", "x"],
        ["follow", "nobody", "--target", "aws"],
        ["dockerfile", tmp_path / "none"],
        ["import", source / "train.py"],
    ):
        code, text = run_command(*arguments)
        assert text or code == 0, arguments
        assert_no_secret(text)
    assert_no_secret(tmp_path / "local")


@pytest.mark.parametrize("password", ["a", "a:b", "a@b", "%40"])
def test_the_error_of_a_repository_hides_the_password_of_its_url(tmp_path, password):
    for scheme in ("https", "ssh"):
        url = f"git+{scheme}://me:{password}{MARK}@127.0.0.1:9/x.git@main#subdirectory=src"
        with pytest.raises(SourceError, match="127.0.0.1:9/x.git") as error:
            fetch_source(url, tmp_path / scheme / password[0])
        assert_no_secret(error.value)
