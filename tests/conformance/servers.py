"""Starts the servers that a bundle can be behind: mlkit's own, AWS's TorchServe stack and Ray Serve"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from mlkit.sagemaker.artifacts.dockerfile import write_dockerfile

# AWS's stack writes /etc/sagemaker-ts.properties and looks for its server among all processes: it gets an /etc and a
# process table of its own
_TORCHSERVE = '''mount --bind "$1/ml" /opt/ml && mount --bind "$2" /opt/ml/model && mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" /etc &&
cd "$1/cwd" && exec "$3/python" -W ignore -c "from sagemaker_pytorch_serving_container import serving; serving.main()"'''


@contextmanager
def mlkit_serve(bundle, port, **env):
    command = [sys.executable, "-m", "mlkit.cli", "serve", "--model-dir", bundle, "--port", str(port)]
    with process(command, os.environ | env, Path(bundle).parent / "mlkit.log") as p:
        yield p


@contextmanager
def torchserve(model, folder, packages, place=None, **env):
    """`model` is an unpacked bundle, `packages` the bin folder of AWS's software; it serves on 8080 of the namespace
    `place`
    """
    for name in ("ml/model", "upper", "work", "cwd"):
        (folder / name).mkdir(parents=True)
    Path("/opt/ml").mkdir(parents=True, exist_ok=True)
    inside = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child=SIGKILL",
        "--mount-proc",
        "--propagation",
        "private",
        "bash",
        "-c",
        _TORCHSERVE,
        "ts",
        folder,
        model,
        packages,
    ]
    env = (
        clean(packages)
        | dict(
            SAGEMAKER_PROGRAM="inference.py",
            SAGEMAKER_SUBMIT_DIRECTORY="/opt/ml/model/code",
            TEMP=str(folder / "cwd"),
            LOG_LOCATION=str(folder / "logs"),
            METRICS_LOCATION=str(folder / "logs"),
        )
        | env
    )
    with process([*within(place), *inside], env, folder / "torchserve.log", child=True) as p:
        yield p


@contextmanager
def ray_serve(model, folder, packages, place=None, **env):
    """`serve run config.yaml` in an unpacked bundle, as AWS's container does; it serves on 8000"""
    with tempfile.TemporaryDirectory(prefix="ray") as short:  # a socket's path may have 107 bytes
        env = (
            clean(packages)
            | dict(
                PYTHONPATH=f"{model}:{model}/code",
                RAY_TMPDIR=short,
                HOME=short,
                RAY_USAGE_STATS_ENABLED="0",
                PYTHONDONTWRITEBYTECODE="1",
            )
            | env
        )
        try:  # another package here has a program `serve`, so it is started by its module
            with process(
                [*within(place), packages / "python", "-m", "ray.serve.scripts", "run", "config.yaml"],
                env,
                folder / "ray.log",
                cwd=model,
            ) as p:
                yield p
        finally:
            subprocess.run([*within(place), packages / "ray", "stop", "--force"], env=env, capture_output=True)


@contextmanager
def own_image(model, folder, packages, place=None, **env):
    """What `mlkit dockerfile` makes of an image, as SageMaker starts it: the Dockerfile's own command and variables,
    with the model at /opt/ml/model; it serves on 8080
    """
    (folder / "ml" / "model").mkdir(parents=True)
    (folder / "source").mkdir()
    Path("/opt/ml").mkdir(parents=True, exist_ok=True)
    lines = write_dockerfile(folder / "source").read_text().splitlines()
    entry = json.loads(next(l for l in lines if l.startswith("ENTRYPOINT ")).partition(" ")[2])
    variables = dict(v.split("=") for l in lines if l.startswith("ENV ") for v in l.split()[1:])
    inside = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "bash",
        "-c",
        'mount --bind "$1/ml" /opt/ml && mount --bind "$2" /opt/ml/model && shift 2 && exec "$@"',
        "image",
        folder,
        model,
    ]
    with process(
        [*within(place), *inside, *entry, "serve"],
        clean(Path(sys.executable).parent) | variables | env,
        folder / "image.log",
    ) as p:
        yield p


def within(place):
    return ["ip", "netns", "exec", place] if place else []


def clean(packages):
    """The environment of a container: nothing of this one"""
    return dict(
        PATH=f"{packages}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        HOME="/root",
        LANG="C.UTF-8",
        PYTHONUNBUFFERED="1",
    )


@contextmanager
def process(command, env, log, cwd=None, child=False):
    """A process with its output in a file; ended with SIGTERM, given to the process that it started where it hears none
    itself
    """
    with open(log, "wb") as f:
        p = subprocess.Popen(
            list(map(str, command)),
            env=env,
            cwd=cwd,
            stdout=f,
            stderr=f,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    p.log = log
    try:
        yield p
    finally:
        try:
            os.kill(
                int(Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text().split()[0]) if child else p.pid,
                signal.SIGTERM,
            )
        except (IndexError, ProcessLookupError, FileNotFoundError):
            pass
        try:
            p.wait(20)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(p.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        p.wait()


def until(ready, p, seconds=180):
    """Wait for `ready()`; an error with the log where the process ends first"""
    end = time.monotonic() + seconds
    while not ready():
        if p.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"it did not start\n{p.log.read_text(errors='replace')[-5000:]}")
        time.sleep(0.2)
