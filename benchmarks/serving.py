"""Compare mlkit's server with a bare ASGI application, FastAPI, LitServe, mosec, AWS's TorchServe stack and Ray Serve.

    make bench-serving ARGS='--rounds 3 --seconds 5'
    make bench-serving ARGS='--turns 40 --seconds 1 --servers mlkit,bare --tasks mlp --clients 1'

All serve the same models to wrk, which sends the same bodies. They run in one environment
(tests/conformance/serving.txt; mosec is installed next to it), each with one process for the model, one thread for
torch and one core by default. wrk has another core. AWS's stack needs root, Linux and Java. Memory is the proportional
set size (PSS) of the server and all its processes, after the load.

`mlkit` has the default handlers and a saved sample; `mlkit-custom` has an input_fn, and `mlkit-joined` has it with
MLKIT_JOIN_REQUESTS=1. `ray-fast` has Ray Serve's throughput options and HAProxy; `mosec-batch` predicts requests
together. With --turns the servers run beside each other on one core, and are loaded in turn: a change of a few per cent
shows on a machine whose speed changes from second to second.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import torch

here = Path(__file__).parent
sys.path[:0] = [str(here), str(here.parent / "tests")]

import nets
from conformance.servers import clean, process, ray_serve, torchserve
from helpers import REPOSITORY, environment
from memory import measure_memory

from mlkit.sagemaker.artifacts.archive import extract_bundle
from mlkit.sagemaker.artifacts.bundle import build_bundle

HANDLERS = "import json\nfrom bodies import tensor\ndef input_fn(data, content_type): return tensor(json.loads(data))\n"
DEPLOYMENT = "from peers_serving import ray\napp = ray()\n"
SERVERS = "mlkit mlkit-custom mlkit-joined bare fastapi litserve mosec mosec-batch torchserve ray ray-fast".split()
MOSEC = ("mosec==0.9.8", "msgspec==0.22.0", "defspec==0.7.1", "offapi==0.1.4")
RAY_FAST = dict(RAY_SERVE_THROUGHPUT_OPTIMIZED="1", RAY_SERVE_ENABLE_HA_PROXY="1")


@dataclass
class Task:
    """A model to serve, and the body of the requests."""

    name: str
    mlkit_folder: Path  # the extracted bundle
    peers_folder: Path  # the same bundle with the code that the other servers run
    body: bytes


@dataclass
class Load:
    """Latencies in milliseconds, and requests per second, as wrk measures them."""

    p50: float
    p99: float
    rate: float


@dataclass
class Results:
    """Measurements of one server with one task, one item per round; `loads` has them by the number of clients."""

    loads: dict[int, list[Load]]
    megabytes: list[float]
    first_seconds: list[float]


def prepare(name, folder):
    """Create the bundle of a task, and return the `Task`."""
    torch.manual_seed(0)
    out = folder / "model.tar.gz"
    if name == "mlp":
        body = [[0.5] * 10]
        bundle = build_bundle(nets.MLP(), None, out=out, sample=torch.zeros(1, 10))
    else:
        body = (torch.arange(3 * 64 * 64) % 256).reshape(1, 3, 64, 64).tolist()
        bundle = build_bundle(nets.Residual18(), None, out=out, sample=torch.zeros(1, 3, 64, 64))
    task = Task(name, folder / "mlkit", folder / "peers", json.dumps({"inputs": body}).encode())
    extract_bundle(bundle, task.mlkit_folder)
    extract_bundle(bundle, task.peers_folder)
    code = task.peers_folder / "code"
    shutil.copy(here / "peers_serving.py", code / "inference.py")
    for file in ("peers_serving.py", "bodies.py"):
        shutil.copy(here / file, code)
    (code / "own_handlers.py").write_text(HANDLERS)
    (task.peers_folder / "deployment.py").write_text(DEPLOYMENT)
    return task


@contextmanager
def start_server(name, task, folder, packages, port=8080):
    """Start a server with its files in `folder`, and yield its process and the URL for predictions.

    The port of TorchServe and Ray Serve cannot be chosen.
    """
    model = task.peers_folder
    invocations = f"http://127.0.0.1:{port}/invocations"
    if name == "torchserve":
        variables = dict(OMP_NUM_THREADS="1", SAGEMAKER_MODEL_SERVER_WORKERS="1")
        with torchserve(model, folder, packages, **variables) as p:
            yield p, invocations
        return
    if name.startswith("ray"):
        variables = dict(OMP_NUM_THREADS="1", MODEL_DIR=str(model)) | (RAY_FAST if name == "ray-fast" else {})
        with ray_serve(model, folder, packages, **variables) as p:
            yield p, "http://127.0.0.1:8000/"
        return
    env = clean(packages) | dict(PYTHONPATH=f"{model}/code", OMP_NUM_THREADS="1")
    if name.startswith("mlkit"):
        command = [packages / "python", "-m", "mlkit.cli", "serve", "--model-dir", task.mlkit_folder, "--port", port]
        if name != "mlkit":
            command += ["--handlers", model / "code" / "own_handlers.py"]
        if name == "mlkit-joined":
            env["MLKIT_JOIN_REQUESTS"] = "1"
    else:
        command = [packages / "python", here / "peers_serving.py", name, model, port]
    if name.startswith("mosec"):
        command[0] = mosec_packages(packages) / "python"
        env |= dict(MODEL_DIR=str(model), MOSEC_PORT=str(port))
    with process(command, env, folder / "log") as p:
        yield p, invocations


def mosec_packages(packages):
    """Return the folder of programs of an environment with mosec and all packages of another one; create it once."""
    folder = REPOSITORY / ".venv-conformance" / MOSEC[0].replace("==", "-")
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([packages / "python", "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, *MOSEC], check=True, capture_output=True)
        (others,) = packages.parent.glob("lib/python*/site-packages")
        (site_packages,) = folder.glob("lib/python*/site-packages")
        (site_packages / "others.pth").write_text(f"{others}\n")
        (folder / "done").touch()
    return folder / "bin"


def wait_for_prediction(p, url, body, started_at):
    """Send requests until one succeeds, and return the seconds since `started_at`.

    Raises RuntimeError with the log if the server ends before, or after three minutes.
    """
    while True:
        try:
            urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=5).close()
        except (URLError, OSError):
            if p.poll() is not None or time.monotonic() - started_at > 180:
                raise RuntimeError(p.log.read_text(errors="replace")[-3000:]) from None
            time.sleep(0.05)
        else:
            return time.monotonic() - started_at


def run_wrk(url, body, clients, seconds, folder):
    """Send requests for some seconds with a number of clients, and return the `Load`."""
    script = Path(folder) / "post.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [==[{body.decode()}]==]\n'
    )
    options = ["-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "60s", "--latency", "-s", script]
    output = subprocess.run(
        ["taskset", "-c", "1", "wrk", *options, url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if "Non-2xx" in output:
        raise RuntimeError(output)
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
    return Load(parse_latency(output, 50), parse_latency(output, 99), rate)


def parse_latency(output, percent):
    """Return a percentile of the latency in wrk's output in milliseconds."""
    value, unit = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)\b", output).groups()
    return float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def measure(name, task, clients, seconds, folder, packages, results):
    """Start a server, load it with each number of clients, and add the measurements to `results`."""
    started_at = time.monotonic()
    with start_server(name, task, folder, packages) as (p, url):
        results.first_seconds.append(wait_for_prediction(p, url, task.body, started_at))
        run_wrk(url, task.body, 16, 1, folder)  # warms it up
        for count in clients:
            results.loads[count].append(run_wrk(url, task.body, count, seconds, folder))
        results.megabytes.append(measure_memory(p.pid))


def measure_in_turns(task, turns, clients, seconds, folder, packages, results):
    """Start all servers, load one after another with each number of clients, `turns` times, and add to `results`."""
    with ExitStack() as stack:
        running = {}
        for port, name in enumerate(results, 8080):
            started_at = time.monotonic()
            server_folder = folder / name
            server_folder.mkdir(parents=True)
            running[name] = stack.enter_context(start_server(name, task, server_folder, packages, port))
            results[name].first_seconds.append(wait_for_prediction(*running[name], task.body, started_at))
            run_wrk(running[name][1], task.body, 16, 1, folder)  # warms it up
        for _ in range(turns):
            for name, (_, url) in running.items():
                for count in clients:
                    results[name].loads[count].append(run_wrk(url, task.body, count, seconds, folder))
        for name, (p, _) in running.items():
            results[name].megabytes.append(measure_memory(p.pid))


def print_table(task, clients, results):
    """Print a row for each server: the medians over the rounds."""
    headings = [f"{count} client{'s' if count > 1 else ''}" for count in clients]
    print(f"\n{task.name}: p50 ms / p99 ms / requests per second\n")
    print("| server | " + " | ".join(headings) + " | MB | first prediction, s |")
    print("|---" * (len(clients) + 3) + "|")
    for name, result in results.items():
        cells = []
        for count in clients:
            loads = result.loads[count]
            p50 = statistics.median(load.p50 for load in loads)
            p99 = statistics.median(load.p99 for load in loads)
            rate = statistics.median(load.rate for load in loads)
            cells.append(f"{p50:.2f} / {p99:.2f} / {rate:,.0f}")
        cells.append(f"{statistics.median(result.megabytes):.0f}")
        cells.append(f"{statistics.median(result.first_seconds):.1f}")
        print(f"| {name} | " + " | ".join(cells) + " |")


def print_ratios(clients, results):
    """Print the ratios of mlkit to each other server, in latency and rate: medians over paired rounds."""
    print()
    for name, result in results.items():
        if name == "mlkit":
            continue
        texts = []
        for count in clients:
            pairs = list(zip(results["mlkit"].loads[count], result.loads[count]))
            p50 = statistics.median(ours.p50 / theirs.p50 for ours, theirs in pairs)
            rate = statistics.median(ours.rate / theirs.rate for ours, theirs in pairs)
            texts.append(f"{count}: p50 x{p50:.2f}, requests/s x{rate:.2f}")
        print(f"mlkit over {name}: " + "; ".join(texts))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="duration of each load")
    parser.add_argument("--turns", type=int, default=0, help="load the servers in turn so often in each round")
    parser.add_argument("--clients", default="1,16,64")
    parser.add_argument("--tasks", default="mlp,residual18")
    parser.add_argument("--servers", default=",".join(SERVERS))
    parser.add_argument("--cores", default="0", help="for a server and its processes; wrk uses core 1")
    args = parser.parse_args()
    packages = environment("serving")
    clients = [int(count) for count in args.clients.split(",")]
    servers = args.servers.split(",")
    if args.turns and any(name.startswith(("torchserve", "ray")) for name in servers):
        parser.error("--turns: each server needs a port of its own, and that of TorchServe and Ray Serve is fixed")
    cores = {int(core) for core in args.cores.split(",")}
    os.sched_setaffinity(0, cores)  # the processes that this one starts inherit it
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        for task_name in args.tasks.split(","):
            task = prepare(task_name, Path(folder) / task_name)
            results = {name: Results({count: [] for count in clients}, [], []) for name in servers}
            for i in range(args.rounds):
                if args.turns:
                    round_folder = Path(folder) / f"{task_name}-{i}"
                    measure_in_turns(task, args.turns, clients, args.seconds, round_folder, packages, results)
                    print(f"round {i + 1} of {args.rounds}: {task_name}", file=sys.stderr, flush=True)
                    continue
                for name in servers:
                    server_folder = Path(folder) / f"{task_name}-{i}-{name}"
                    server_folder.mkdir()
                    measure(name, task, clients, args.seconds, server_folder, packages, results[name])
                    print(f"round {i + 1} of {args.rounds}: {task_name}, {name}", file=sys.stderr, flush=True)
            print_table(task, clients, results)
            if "mlkit" in results:
                print_ratios(clients, results)


if __name__ == "__main__":
    main()
