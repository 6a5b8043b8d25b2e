"""mlkit's server against a bare ASGI application, FastAPI, LitServe, AWS's TorchServe stack and Ray Serve: the same
models and bodies, asked by wrk.

    make bench-serving ARGS='--rounds 3 --seconds 5'

All run in one environment (tests/conformance/serving.txt), each with one process for the model and one thread for
torch, on one core unless told otherwise; wrk has
another. AWS's
stack needs root, Linux and Java. Memory is what the server and all its processes have of their own (PSS), after the
load.
"""

import argparse
import base64
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import torch

here = Path(__file__).parent
sys.path[:0] = [str(here), str(here.parent / "tests")]

import nets
from conformance.servers import clean, process, ray_serve, torchserve
from test_conformance import environment

from mlkit.sagemaker.artifacts.archive import extract_bundle
from mlkit.sagemaker.artifacts.bundle import build_bundle

HANDLERS = "import json\nfrom bodies import tensor\ndef input_fn(data, content_type): return tensor(json.loads(data))\n"
DEPLOYMENT = "from peers_serving import ray\napp = ray()\n"
SERVERS = "mlkit", "bare", "fastapi", "litserve", "torchserve", "ray"


def prepare(task, folder):
    """The folder of the model for each kind of server, and the body of a request"""
    torch.manual_seed(0)
    model, sample = (
        (nets.MLP(), torch.zeros(1, 10)) if task == "mlp" else (nets.Residual18(), torch.zeros(1, 3, 64, 64))
    )
    body = {"inputs": [[0.5] * 10]} if task == "mlp" else {"image": base64.b64encode(bytes(range(256)) * 48).decode()}
    source = folder / "source"
    source.mkdir(parents=True)
    shutil.copy(here / "bodies.py", source)
    (source / "inference.py").write_text(HANDLERS)
    bundle = build_bundle(
        model, None if task == "mlp" else source / "inference.py", out=folder / "model.tar.gz", sample=sample
    )
    for kind in ("ours", "theirs"):
        extract_bundle(bundle, folder / kind)
    shutil.copy(here / "peers_serving.py", folder / "theirs" / "code" / "inference.py")
    for name in ("peers_serving.py", "bodies.py"):
        shutil.copy(here / name, folder / "theirs" / "code")
    (folder / "theirs" / "deployment.py").write_text(DEPLOYMENT)
    return folder / "ours", folder / "theirs", json.dumps(body).encode()


@contextmanager
def started(name, ours, theirs, place, packages):
    """A server, and its address"""
    env = clean(packages) | dict(PYTHONPATH=f"{theirs}/code", OMP_NUM_THREADS="1")
    place = Path(place)
    if name == "torchserve":
        with torchserve(theirs, place, packages, OMP_NUM_THREADS="1", SAGEMAKER_MODEL_SERVER_WORKERS="1") as p:
            yield p, "http://127.0.0.1:8080/invocations"
    elif name == "ray":
        with ray_serve(theirs, place, packages, MODEL_DIR=str(theirs), OMP_NUM_THREADS="1") as p:
            yield p, "http://127.0.0.1:8000/"
    else:
        command = (
            [packages / "python", "-m", "mlkit.cli", "serve", "--model-dir", ours, "--port", "8080"]
            if name == "mlkit"
            else [packages / "python", here / "peers_serving.py", name, theirs, "8080"]
        )
        with process(command, env, place / "log") as p:
            yield p, "http://127.0.0.1:8080/invocations"


def first_answer(p, url, body, began):
    """Seconds from the start to the first prediction"""
    while True:
        try:
            urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=5).close()
        except (URLError, OSError):
            if p.poll() is not None or time.monotonic() - began > 180:
                raise RuntimeError(p.log.read_text(errors="replace")[-3000:]) from None
            time.sleep(0.05)
        else:
            return time.monotonic() - began


def megabytes(pid):
    """Of a process and all that come from it"""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
        except OSError:
            pass
    total = 0
    todo = [pid]
    while todo:
        one = todo.pop()
        todo += parents.get(one, [])
        try:
            total += int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{one}/smaps_rollup").read_text(), re.M)[1])
        except (OSError, TypeError):
            pass
    return total / 1024


def load(url, body, clients, seconds, folder):
    """(p50 ms, p99 ms, requests/s) as wrk sees them"""
    script = Path(folder) / "post.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [==[{body.decode()}]==]\n'
    )
    out = subprocess.run(
        [
            "taskset",
            "-c",
            "1",
            "wrk",
            "-t1",
            f"-c{clients}",
            f"-d{seconds}s",
            "--timeout",
            "60s",
            "--latency",
            "-s",
            script,
            url,
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if "Non-2xx" in out:
        raise RuntimeError(out)

    def ms(percent):
        value, unit = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)\b", out).groups()
        return float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]

    return ms(50), ms(99), float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    parser.add_argument("--clients", default="1,16,64")
    parser.add_argument("--tasks", default="mlp,residual18")
    parser.add_argument("--servers", default=",".join(SERVERS))
    parser.add_argument("--cores", default="0", help="that a server and its processes may use; wrk is on core 1")
    given = parser.parse_args()
    packages = environment("serving")
    clients = list(map(int, given.clients.split(",")))
    found = {}
    os.sched_setaffinity(0, set(map(int, given.cores.split(","))))  # and so all that is started here
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        for task in given.tasks.split(","):
            ours, theirs, body = prepare(task, Path(folder) / task)
            for r in range(given.rounds):
                for name in given.servers.split(","):
                    place = Path(folder) / f"{task}-{r}-{name}"
                    place.mkdir()
                    began = time.monotonic()
                    with started(name, ours, theirs, place, packages) as (p, url):
                        first = first_answer(p, url, body, began)
                        load(url, body, 16, 1, folder)
                        for c in clients:
                            found.setdefault((task, name, c), []).append(load(url, body, c, given.seconds, folder))
                        found.setdefault((task, name), []).append((megabytes(p.pid), first))
                    print(f"round {r + 1} of {given.rounds}: {task}, {name}", file=sys.stderr, flush=True)
            show(task, given.servers.split(","), clients, found)


def show(task, servers, clients, found):
    def median(key):
        return [statistics.median(v) for v in zip(*found[key])]

    print(f"\n{task}: p50 ms / p99 ms / requests a second\n")
    print(
        "| server | "
        + " | ".join(f"{c} client{'s' * (c > 1)}" for c in clients)
        + " | MB | first prediction, s |\n"
        + "|---" * (len(clients) + 3)
        + "|"
    )
    for name in servers:
        cells = ["{:.2f} / {:.2f} / {:,.0f}".format(*median((task, name, c))) for c in clients]
        print(f"| {name} | " + " | ".join(cells) + " | {:.0f} | {:.1f} |".format(*median((task, name))))
    if "mlkit" not in servers:
        return
    print()
    for name in (s for s in servers if s != "mlkit"):
        pairs = [
            [(a[0] / b[0], a[2] / b[2]) for a, b in zip(found[task, "mlkit", c], found[task, name, c])] for c in clients
        ]
        print(
            f"mlkit over {name}: "
            + "; ".join(
                (
                    f"{c}: p50 x{statistics.median(p for p, _ in v):.2f}, requests/s "
                    f"x{statistics.median(q for _, q in v):.2f}"
                )
                for c, v in zip(clients, pairs)
            )
        )


if __name__ == "__main__":
    main()
