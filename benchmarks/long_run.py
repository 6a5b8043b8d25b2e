"""Measure memory and time over a long run: of training, and of a server.

    python benchmarks/long_run.py [--parts tensors compiled loader server] [--steps 1000000]
        [--loader-steps 100000] [--requests 1000000] [--workers 1]

- tensors: a small network on tensors in memory, the fast path of the trainer
- compiled: the same with compile='step'
- loader: a DataLoader that loads samples one by one, in two workers, with callbacks, a value recorded at each step,
  a validation after each epoch, and a checkpoint every 250 steps
- server: `mlkit serve` with eight clients, each on a connection that it replaces after 1,000 requests. One request in
  twenty is wrong, and must be answered with the status of its fault; some ask for /ping and /metrics.

Each part runs in a separate process. The table has a row for each tenth of the run: memory at its end, and the time in
it for a step or request. Memory is the proportional set size (PSS) of all processes of the part. Processor time says
more than time by the clock on a machine with other work. The last lines say what memory and processor time do after the
first tenth, by a line fitted to all measurements.

Each step adds its loss to `history.steps`: 8 bytes, which the growth of training includes.
"""

import argparse
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import nets
import numpy as np
import torch
from memory import measure_memory, processor_seconds
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mlkit.model import save_model
from mlkit.training import train_model
from mlkit.training.callbacks import EMA, ClipGradients, JSONLines, cosine

EPOCH = 1000  # steps
BATCH = 32
ROUND = 10_000  # requests between two measurements
CLIENTS = 8
REQUESTS_PER_CONNECTION = 1000


@dataclass
class Sample:
    """A measurement after `count` steps or requests."""

    count: int
    megabytes: float
    seconds: float  # by the clock
    processor: float  # seconds


class Recording:
    """Measurements of a process and its descendants over a run."""

    def __init__(self, pid):
        self.pid = pid
        self.samples = [self.measure(0)]

    def measure(self, count):
        return Sample(count, measure_memory(self.pid), time.perf_counter(), processor_seconds(self.pid))

    def add(self, count):
        self.samples.append(self.measure(count))

    def tenths(self):
        """Return the measurements nearest to the ends of the tenths of the run, with the first one."""
        total = self.samples[-1].count
        return [min(self.samples, key=lambda s: abs(s.count - total * i / 10)) for i in range(11)]

    def print(self, unit):
        print(f"\n| {unit}s | memory, MB | µs per {unit} | processor µs per {unit} |\n|---:|---:|---:|---:|")
        tenths = self.tenths()
        for start, end in zip(tenths, tenths[1:]):
            microseconds = 1e6 / (end.count - start.count)
            clock = (end.seconds - start.seconds) * microseconds
            processor = (end.processor - start.processor) * microseconds
            print(f"| {end.count:,} | {end.megabytes:.1f} | {clock:.1f} | {processor:.1f} |")
        warm = [s for s in self.samples if s.count >= tenths[1].count]
        counts = np.array([s.count for s in warm]) / 1e6
        memory, _ = np.polyfit(counts, [s.megabytes for s in warm], 1)
        print(f"\nmemory: {memory:+.1f} MB per million {unit}s")
        middle = (counts[1:] + counts[:-1]) / 2
        per_unit = np.diff([s.processor for s in warm]) / np.diff(counts)
        slope, start = np.polyfit(middle, per_unit, 1)
        change = slope * (middle[-1] - middle[0]) / (start + slope * middle[0])
        print(f"processor time per {unit}: {change:+.1%} from the second tenth to the last", flush=True)


class Measure:
    """A callback that measures after each epoch."""

    def __init__(self):
        self.recording = Recording(os.getpid())

    def after_epoch(self, trainer):
        self.recording.add(trainer.step)


class GradientNorm:
    """A callback that records the norm of the gradients at each step."""

    def __init__(self, clip):
        self.clip = clip

    def after_step(self, trainer):
        trainer.history.record("norm", self.clip.norm)


class Rows(Dataset):
    """Samples of a table, loaded one by one."""

    def __init__(self, x, y):
        self.x = x
        self.y = y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def make_data(batches):
    x = torch.randn(batches * BATCH, 10)
    return x, (x.sum(1) > 0).long()


def train(train_loader, steps, callbacks=(), **options):
    """Train for a number of steps, and print the table."""
    measure = Measure()
    epochs = max(steps // EPOCH, 20)
    callbacks = [*callbacks, measure]
    history = train_model(nets.MLP(), train_loader, epochs, 1e-3, callbacks=callbacks, verbose=False, **options)
    assert len(history.steps) == epochs * EPOCH
    measure.recording.print("step")
    print(f"history: {history.steps.itemsize * len(history.steps) / 1e6:.1f} MB of losses")


def tensors_part(args, **options):
    dataset = TensorDataset(*make_data(EPOCH))
    train(DataLoader(dataset, BATCH, shuffle=True), args.steps, **options)


def compiled_part(args):
    tensors_part(args, compile="step")


def loader_part(args):
    clip = ClipGradients(1.0)
    loader = DataLoader(Rows(*make_data(EPOCH)), BATCH, shuffle=True, num_workers=2)
    valid_loader = DataLoader(TensorDataset(*make_data(10)), BATCH)
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [clip, GradientNorm(clip), EMA(), cosine(), JSONLines(f"{folder}/metrics.jsonl")]
        options = dict(checkpoints=f"{folder}/checkpoints", save_every=250, valid_loader=valid_loader)
        train(loader, args.loader_steps, callbacks, **options)


def make_request(path, body=b"", content_type="application/json", method="POST"):
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def make_requests():
    """Return lists of requests, of the statuses that they must be answered with, and of how many of 1,000 they are."""
    row = [0.5] * 10
    array = BytesIO()
    np.save(array, np.array([row], np.float32))
    good = json.dumps({"inputs": [row]}).encode()
    table = [
        (make_request("/invocations", good), 200, 890),
        (make_request("/invocations", ",".join(map(str, row)).encode(), "text/csv"), 200, 30),
        (make_request("/invocations", array.getvalue(), "application/x-npy"), 200, 20),
        (make_request("/ping", method="GET"), 200, 9),
        (make_request("/metrics", method="GET"), 200, 1),
        (make_request("/invocations", good[:-3]), 400, 20),
        (make_request("/invocations", b'{"inputs": [[1, 2, 3]]}'), 422, 10),
        (make_request("/invocations", good, "application/x-unknown"), 415, 10),
        (make_request("/unknown", good), 404, 5),
        (make_request("/invocations", method="DELETE"), 405, 5),
    ]
    return list(zip(*table))


class Client:
    """Send requests one after the other, as fast as the server answers."""

    def __init__(self, port, seed):
        self.port = port
        self.random = random.Random(seed)
        self.requests, self.statuses, self.weights = make_requests()
        self.connection = None
        self.sent = 0

    def ask_many(self, count):
        """Send requests in a random order. Raises RuntimeError if one is answered with another status than expected."""
        for i in self.random.choices(range(len(self.requests)), self.weights, k=count):
            status, body = self.ask(self.requests[i])
            if status != self.statuses[i]:
                raise RuntimeError(f"expected {self.statuses[i]} for {self.requests[i]!r}, got {status}: {body!r}")

    def ask(self, request):
        if self.sent % REQUESTS_PER_CONNECTION == 0:
            self.connect()
        self.sent += 1
        self.connection.sendall(request)
        reply = b""
        while b"\r\n\r\n" not in reply:
            reply += self.receive()
        head, _, body = reply.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        length = int(headers[b"content-length"])
        while len(body) < length:
            body += self.receive()
        if headers.get(b"connection") == b"close":
            self.connect()
        return int(lines[0].split()[1]), body

    def connect(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = socket.create_connection(("127.0.0.1", self.port))

    def receive(self):
        data = self.connection.recv(65536)
        if not data:
            raise RuntimeError("the server has closed the connection within a reply")
        return data


def start_server(folder, workers):
    """Start the server on a free port, and return its process and the port when it is ready."""
    save_model(nets.MLP(), folder / "model", sample=torch.zeros(1, 10))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlkit.cli", "serve", "--model-dir", folder / "model"]
    command += ["--port", str(port), "--workers", str(workers)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    while True:
        try:
            if Client(port, 0).ask(make_request("/ping", method="GET"))[0] == 200:
                return server, port
        except OSError:
            if server.poll() is not None:
                raise RuntimeError((folder / "log").read_text()) from None
        time.sleep(0.1)


def server_part(args):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server, port = start_server(folder, args.workers)
        try:
            clients = [Client(port, seed) for seed in range(CLIENTS)]
            rounds = max(args.requests // ROUND, 20)
            requests = args.requests // rounds // CLIENTS  # of a client in a round
            recording = Recording(server.pid)
            with ThreadPoolExecutor(CLIENTS) as pool:
                for i in range(rounds):
                    list(pool.map(lambda client: client.ask_many(requests), clients))
                    recording.add((i + 1) * requests * CLIENTS)
        finally:
            server.terminate()
            server.wait()
        recording.print("request")
        print(f"log: {(folder / 'log').stat().st_size / 1e6:.1f} MB")


PARTS = {"tensors": tensors_part, "compiled": compiled_part, "loader": loader_part, "server": server_part}


def run_part(name, args):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    started_at = time.perf_counter()
    print(f"\n## {name}", flush=True)
    PARTS[name](args)
    print(f"{time.perf_counter() - started_at:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--loader-steps", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1, help="processes of the server")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    failed = 0
    for name in args.parts:
        process = context.Process(target=run_part, args=(name, args))
        process.start()
        process.join()
        failed += process.exitcode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
