"""Start the servers that can serve a bundle: mlkit's own, AWS's TorchServe stack, Ray Serve and a custom image.

Each is a context manager that yields the process of the server, and stops it at the end. `namespace` is the network
namespace to run it in, `packages` the folder with the programs of its environment, and `env` has further variables.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from mlkit.sagemaker.artifacts.dockerfile import write_dockerfile

# AWS's stack writes /etc/sagemaker-ts.properties and looks for its server among all processes, so it gets an /etc and a
# separate process table. Arguments: a folder for its files, the model, the folder with its programs.
_TORCHSERVE = """
mount --bind "$1/ml" /opt/ml &&
mount --bind "$2" /opt/ml/model &&
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" /etc &&
cd "$1/cwd" &&
exec "$3/python" -W ignore -c "from sagemaker_pytorch_serving_container import serving; serving.main()"
"""
# Arguments: a folder for /opt/ml, the model, then the command of the image.
_IMAGE = 'mount --bind "$1/ml" /opt/ml && mount --bind "$2" /opt/ml/model && shift 2 && exec "$@"'
_PRIVATE_MOUNTS = ["unshare", "--mount", "--propagation", "private"]


@contextmanager
def mlkit_serve(bundle, port, **env):
    """Start `mlkit serve` on a port, with its log next to the bundle."""
    command = [sys.executable, "-m", "mlkit.cli", "serve", "--model-dir", bundle, "--port", str(port)]
    with process(command, os.environ | env, Path(bundle).parent / "mlkit.log") as p:
        yield p


@contextmanager
def torchserve(model, folder, packages, namespace=None, **env):
    """Start AWS's TorchServe stack with an extracted bundle, on port 8080 of the namespace."""
    for name in ("ml/model", "upper", "work", "cwd"):
        (folder / name).mkdir(parents=True)
    Path("/opt/ml").mkdir(parents=True, exist_ok=True)
    own_processes = ["--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
    command = [*_PRIVATE_MOUNTS, *own_processes, "bash", "-c", _TORCHSERVE, "torchserve", folder, model, packages]
    container = dict(
        SAGEMAKER_PROGRAM="inference.py",
        SAGEMAKER_SUBMIT_DIRECTORY="/opt/ml/model/code",
        TEMP=str(folder / "cwd"),
        LOG_LOCATION=str(folder / "logs"),
        METRICS_LOCATION=str(folder / "logs"),
    )
    log = folder / "torchserve.log"
    with process([*within(namespace), *command], clean(packages) | container | env, log, signal_child=True) as p:
        yield p


@contextmanager
def ray_serve(model, folder, packages, namespace=None, **env):
    """Start `serve run config.yaml` in an extracted bundle, as AWS's container does, on port 8000 of the namespace."""
    with tempfile.TemporaryDirectory(prefix="ray") as short:  # the path of a socket may have 107 bytes
        container = dict(
            PYTHONPATH=f"{model}:{model}/code",
            RAY_TMPDIR=short,
            HOME=short,
            RAY_USAGE_STATS_ENABLED="0",
            PYTHONDONTWRITEBYTECODE="1",
        )
        env = clean(packages) | container | env
        # It is started by its module, because another package of the environment has a program `serve`, too.
        command = [packages / "python", "-m", "ray.serve.scripts", "run", "config.yaml"]
        try:
            with process([*within(namespace), *command], env, folder / "ray.log", cwd=model) as p:
                yield p
        finally:
            subprocess.run([*within(namespace), packages / "ray", "stop", "--force"], env=env, capture_output=True)


@contextmanager
def own_image(model, folder, packages, namespace=None, **env):
    """Run the command of the Dockerfile that `mlkit dockerfile` writes, with its variables and the model at
    /opt/ml/model, as SageMaker starts a custom image; it serves on port 8080 of the namespace.
    """
    (folder / "ml" / "model").mkdir(parents=True)
    (folder / "source").mkdir()
    Path("/opt/ml").mkdir(parents=True, exist_ok=True)
    lines = write_dockerfile(folder / "source").read_text().splitlines()
    entrypoint = json.loads(next(line for line in lines if line.startswith("ENTRYPOINT ")).partition(" ")[2])
    variables = dict(v.split("=") for line in lines if line.startswith("ENV ") for v in line.split()[1:])
    command = [*_PRIVATE_MOUNTS, "bash", "-c", _IMAGE, "image", folder, model, *entrypoint, "serve"]
    env = clean(Path(sys.executable).parent) | variables | env
    with process([*within(namespace), *command], env, folder / "image.log") as p:
        yield p


def within(namespace):
    """Return the beginning of a command that runs in a network namespace."""
    return ["ip", "netns", "exec", namespace] if namespace else []


def clean(packages):
    """Return the environment of a container, without any variable of this process."""
    return dict(
        PATH=f"{packages}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        HOME="/root",
        LANG="C.UTF-8",
        PYTHONUNBUFFERED="1",
    )


@contextmanager
def process(command, env, log, cwd=None, signal_child=False):
    """Start a process with its output in the file `log`, and end it with SIGTERM, after 20 s with SIGKILL.

    `signal_child` sends SIGTERM to the child of the process, if the process itself ignores it.
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
        children = Path(f"/proc/{p.pid}/task/{p.pid}/children")
        with suppress(IndexError, ProcessLookupError, FileNotFoundError):
            os.kill(int(children.read_text().split()[0]) if signal_child else p.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            p.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(p.pid, signal.SIGKILL)
        p.wait()


def wait_until(is_ready, p, seconds=180):
    """Wait until `is_ready()`. Raises RuntimeError with the log if the process ends before, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_ready():
        if p.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not start:\n{p.log.read_text(errors='replace')[-5000:]}")
        time.sleep(0.2)
