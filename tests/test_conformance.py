"""The entry point under AWS's own software: the launch paths of SDK v2, SDK v3 and bare requests, each in every way a
job can go

The packages come from the package index, into environments of their own that are kept for the next run; the requests
are made by the real SDKs and
travel over HTTP to moto, whose S3 holds the code and the data. Needs root on Linux, for namespaces.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import test_hyperparameters as spellings
import torch
from conformance.host import Network, run_job
from hypothesis import Phase, given, settings
from safetensors.torch import load_file

from mlkit.sagemaker.job.hyperparameters import check_hyperparameters, read_config
from mlkit.sagemaker.local.client import LocalSageMaker

here = Path(__file__).parent / "conformance"
repository = here.parent.parent
PATHS = {
    "SDK v3, entry_script": "script",
    'SDK v3, command="exec python train.py"': "exec",
    "SDK v3, Torchrun()": "torchrun",
    "SDK v2, estimator (train)": "estimator",
    "bare CreateTrainingJob": "bare",
}
HEARS = {"exec", "bare"}  # where the user's program is process 1; elsewhere AWS's software is, and forwards nothing
GIVEN = dict(
    epochs=3,
    learning_rate=0.05,
    on=True,
    off=False,
    nothing=None,
    numbers=[1, 2],
    counts={"a": 1, "b": 2},
    words=["x y", "é"],
    text='$(touch /tmp/x) "q" \\ ; & | > é',
    digits="007",
    b="single",
)


def missing():
    """Why this cannot run here, or nothing"""
    if sys.platform != "linux" or os.geteuid():
        return "needs root on Linux, to give each container a namespace of its own"
    for tool in ("ip", "unshare"):
        if not shutil.which(tool):
            return f"needs the program {tool!r}"
    if subprocess.run(
        ["unshare", "--mount", "--uts", "--pid", "--net", "--fork", "true"], capture_output=True
    ).returncode:
        return "namespaces are not allowed here"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "")


def environment(name):
    """A virtual environment with what conformance/NAME.txt pins, made once"""
    pins = (here / f"{name}.txt").read_text()
    folder = repository / ".venv-conformance" / f"{name}-{hashlib.sha256(pins.encode()).hexdigest()[:8]}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run(
            [
                folder / "bin" / "python",
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
                here / f"{name}.txt",
            ],
            check=True,
            capture_output=True,
        )
        (folder / "done").touch()
    return folder / "bin"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """`(run, requests, s3)`: what plays SageMaker, the requests by name, and the folder with what S3 holds"""
    folder = tmp_path_factory.mktemp("conformance")
    with ThreadPoolExecutor() as pool:
        container, v2, v3 = pool.map(environment, ("container", "v2", "v3"))
    subprocess.run(
        [
            container / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--force-reinstall",
            repository,
        ],
        check=True,
        capture_output=True,
    )
    (folder / "training").mkdir()
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    (folder / "training" / "rows.csv").write_text(
        "".join(f"{int(r.sum() > 0)}," + ",".join(f"{v:.4f}" for v in r.tolist()) + "\n" for r in x)
    )
    with Network() as network:
        url = f"http://{network.addresses[2]}:5000"
        aws = dict(
            AWS_ENDPOINT_URL=url,
            S3_ENDPOINT_URL=url,
            AWS_ACCESS_KEY_ID="testing",
            AWS_SECRET_ACCESS_KEY="testing",
            AWS_DEFAULT_REGION="us-east-1",
            AWS_REGION="us-east-1",
            AWS_EC2_METADATA_DISABLED="true",
            SAGEMAKER_VALIDATE_ROLE="false",
            HOME=str(folder),
            PYTHONUNBUFFERED="1",
        )
        moto = subprocess.Popen(
            ["ip", "netns", "exec", network.places[2], v2 / "moto_server", "-H", "0.0.0.0", "-p", "5000"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(url, moto)
            requests = {}
            for python, script in ((v2 / "python", "request_v2.py"), (v3 / "python", "request_v3.py")):
                out = folder / f"{script}.json"
                done = subprocess.run(
                    [python, here / script, here / "source", folder / "training", json.dumps(GIVEN), out],
                    env=os.environ | aws,
                    text=True,
                    capture_output=True,
                )
                assert not done.returncode, done.stderr[-3000:]
                subprocess.run(
                    [v2 / "python", here / "download.py", out, folder / "s3"], env=os.environ | aws, check=True
                )
                requests |= {"-".join(r["TrainingJobName"].split("-")[:3]): r for r in json.loads(out.read_text())}
            clean = aws | dict(
                PATH=f"{container}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                SAGEMAKER_TRAINING_MODULE="sagemaker_pytorch_container.training:main",
            )

            def run(name, mode="", label="", **kwargs):
                place = folder / "runs" / f"{name}-{mode}{label}"
                return run_job(requests[name], folder / "s3", place, network, clean | dict(MODE=mode), **kwargs)

            yield run, requests, folder / "s3"
        finally:
            moto.terminate()
            moto.wait()


def wait_for(url, server):
    while True:
        assert server.poll() is None, "moto did not start"
        try:
            return urlopen(url).close()
        except URLError:
            time.sleep(0.1)


TABLE = {}


@pytest.fixture(scope="module", autouse=True)
def table(tmp_path_factory):
    """The table of what was seen, printed at the end"""
    yield
    columns = ("hyperparameters", "failure text", "exit code", "SIGTERM", "resume", "2 processes", "2 hosts")
    lines = ["| launch path | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {path} | " + " | ".join(TABLE.get(key, {}).get(c, "not seen") for c in columns) + " |"
        for path, key in PATHS.items()
    ]
    print("\n".join(["", *lines]))
    (tmp_path_factory.getbasetemp() / "conformance.md").write_text("\n".join(lines) + "\n")


def saw(key, column, what):
    TABLE.setdefault(key, {})[column] = what


def weights(run):
    return load_file(run.roots[0] / "model" / "model.safetensors")


@pytest.mark.parametrize("key", PATHS.values(), ids=list(PATHS))
class TestPath:
    def test_a_job_gets_its_hyperparameters_and_leaves_a_model(self, jobs, key):
        run = jobs[0](f"{key}-1-1")
        assert run.codes == [0], run.log[-3000:]
        assert not run.failure
        config = json.loads((run.roots[0] / "output" / "data" / "config.json").read_text())
        del config["processes"]
        assert config == GIVEN
        assert "[metrics] epoch=3" in run.log and "is given twice" not in run.log
        type(self).expected = getattr(type(self), "expected", {}) | {key: weights(run)}
        saw(key, "hyperparameters", f"all {len(GIVEN)} equal")

    def test_the_failure_is_the_users_own(self, jobs, key):
        run = jobs[0](f"{key}-1-1", "error")
        assert run.failure.startswith("ValueError: sample 3 has no label\n"), run.failure
        assert 'train.py", line' in run.failure
        assert run.codes == [1]
        saw(key, "failure text", "type and message first")

    def test_the_exit_code_is_the_users_own(self, jobs, key):
        run = jobs[0](f"{key}-1-1", "exit")
        assert run.failure.startswith("SystemExit: 7"), run.failure
        assert run.codes == [1 if key in ("estimator", "torchrun") else 7], run.log[-3000:]
        saw(key, "exit code", f"{run.codes[0]}" + ("" if run.codes == [7] else ", AWS's software replaces 7"))

    def test_a_stopped_job_goes_on_where_it_was(self, jobs, key, tmp_path):
        run = jobs[0](f"{key}-1-1", "slow", stop_at="[metrics] epoch=2", grace=20 if key in HEARS else 1)
        assert run.left_by_itself == (key in HEARS), run.log[-3000:]
        if key in HEARS:
            assert run.codes == [143] and not run.failure
        saw(key, "SIGTERM", "checkpoint written, exit 143" if key in HEARS else "not forwarded to the program")
        saved = run.roots[0] / "checkpoints"
        newest = max(saved.glob("step-*"))
        torn = max(newest.iterdir(), key=lambda f: f.stat().st_size)
        torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
        again = jobs[0](f"{key}-1-1", "slow", label="again", checkpoints=saved)
        assert again.codes == [0], again.log[-3000:]
        assert (
            "passed over a damaged checkpoint" in again.log
            and "Going on from" in again.log
            and "[metrics] epoch=1 " not in again.log
        )
        for name, t in self.expected[key].items():
            assert torch.equal(weights(again)[name], t)
        saw(key, "resume", "same bits, past a torn checkpoint")

    def test_two_processes(self, jobs, key):
        run = jobs[0](f"{key}-1-2")
        assert run.codes == [0], run.log[-3000:]
        for name, t in self.expected[key].items():
            assert torch.allclose(weights(run)[name], t, atol=1e-5)
        failed = jobs[0](f"{key}-1-2", "error")
        assert failed.failure.startswith("ValueError: sample 3 has no label\n"), failed.failure
        assert failed.codes == [1]
        if key != "torchrun":
            killed = jobs[0](f"{key}-1-2", "killed")
            assert killed.failure.startswith("rank 1 of 2 was killed by SIGKILL: "), killed.failure
        if key in HEARS:
            stopped = jobs[0](f"{key}-1-2", "slow", stop_at="[metrics] epoch=1", grace=20)
            assert stopped.left_by_itself and stopped.codes == [143] and not stopped.failure, stopped.log[-3000:]
        saw(
            key,
            "2 processes",
            "same weights; the failing rank's text" + ("; SIGTERM reaches both" if key in HEARS else ""),
        )

    def test_two_hosts(self, jobs, key):
        run = jobs[0](f"{key}-2-1")
        assert run.codes == [0, 0], run.log[-3000:]
        for name, t in self.expected[key].items():
            assert torch.allclose(weights(run)[name], t, atol=1e-5)
        failed = jobs[0](f"{key}-2-1", "error")
        assert all(failed.codes)
        text = (failed.roots[1] / "output" / "failure").read_text()
        assert text.startswith("ValueError: sample 3 has no label\n"), text
        saw(key, "2 hosts", "same weights; the failing host's text")


@pytest.mark.parametrize("key", ["script", "exec", "torchrun", "bare"])
def test_the_local_sagemaker_runs_the_same_requests(jobs, key, tmp_path, monkeypatch):
    """mlkit's own rehearsal, with AWS's unmodified drivers in the request"""
    (tmp_path / "s3").symlink_to(jobs[2])
    for name in ("PYTHONPATH", "MODE"):
        monkeypatch.delenv(name, raising=False)
    local = LocalSageMaker(tmp_path)
    request = jobs[1][f"{key}-1-1"] | dict(CheckpointConfig=dict(S3Uri=f"s3://jobs/local/{key}"))
    local.create_training_job(**request)
    name = request["TrainingJobName"]
    while (about := local.describe_training_job(TrainingJobName=name))["TrainingJobStatus"] == "InProgress":
        time.sleep(0.1)
    log = local.logs(name)[0].read_text()
    assert about["TrainingJobStatus"] == "Completed", about.get("FailureReason", "") + log[-2000:]
    config = json.loads((local.folder(name) / "algo-1" / "output" / "data" / "config.json").read_text())
    del config["processes"]
    assert config == GIVEN and "[metrics] epoch=3" in log
    assert local.files.path(about["ModelArtifacts"]["S3ModelArtifacts"]).is_file()


@pytest.mark.parametrize("software", spellings.DIALECTS)
def test_hyperparameters_are_spelt_as_we_say(software, tmp_path):
    model, quoted = spellings.DIALECTS[software]
    asked = []

    @given(spellings.configs)
    @settings(max_examples=300, database=None, derandomize=True, phases=[Phase.generate], deadline=None)
    def collect(config):
        try:
            request = spellings.requested(config, quoted)
            # what does not pass, SDK v3's software would give a shell to run
            check_hyperparameters(request, "api" if software == "v2" else "v3")
        except ValueError:
            return
        asked.append((config, request))

    collect()
    assert len(asked) > 50
    refused = dict(whole="0", text="it's")
    python = environment("container" if software == "v2" else "v3") / "python"
    packages = next((python.parent.parent / "lib").glob("python3*")) / "site-packages"
    (tmp_path / "requests.json").write_text(json.dumps([*(request for _, request in asked), refused]))
    subprocess.run(
        [python, here / "spell.py", software, packages, tmp_path / "requests.json", tmp_path / "out.json"],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    *seen, last = json.loads((tmp_path / "out.json").read_text())
    for (config, request), (argv, values) in zip(asked, seen, strict=True):
        assert repr((argv, values)) == repr(model(request)), request
        assert repr(read_config(spellings.Config, argv, spellings.ChainMap(values, request))) == repr(config)
    assert isinstance(last, str) == (software == "v3")
