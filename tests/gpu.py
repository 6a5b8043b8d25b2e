"""Check mlkit on the GPU of this machine, or on its CPU if it has none.

    PYTHONPATH=. python tests/gpu.py [--quick] [--only NAME ...]

It needs torch, numpy and safetensors; a check that needs more is skipped. It prints a line for each check: the name,
`ok`, `FAILED` or `skipped`, seconds, and what was measured. The exit status is 1 if a check has failed. On a GPU it
takes at most six minutes: checks that would start later are skipped.

The checks run in a child process. A fault on a GPU makes it useless to its process, so after such a fault, and if the
child hangs or dies, the remaining checks run in another child.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import platform
import queue
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

import nets

from mlkit.model import MyCustomModel, save_model
from mlkit.training import Trainer, train_model
from mlkit.training.batches import make_batches
from mlkit.training.checkpoint import Checkpoints
from mlkit.training.distributed import ProcessGroup

# on a GPU; the CPU has five times as long
TOTAL_SECONDS = 340  # no check starts later
CHECK_SECONDS = 120  # a check that takes longer is ended
DEVICE_LOST = 3  # exit status of a child whose GPU does not answer any more


class Skipped(Exception):
    """The reason why a check is not made."""


@dataclass
class Machine:
    """Where the checks run, and whether in their short form."""

    device: torch.device
    quick: bool

    @property
    def has_gpu(self) -> bool:
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        """Wait until the GPU has done everything."""
        if self.has_gpu:
            torch.cuda.synchronize()


@dataclass
class Result:
    """The result of a check."""

    name: str
    status: str  # ok, FAILED or skipped
    seconds: float
    detail: str
    trace: str = ""

    def __str__(self):
        return f"{self.name:<16} {self.status:<8}{self.seconds:6.1f} s  {self.detail}"


CHECKS: dict[str, Callable[[Machine], str]] = {}


def check(function):
    """Add a function to the checks: it returns what it has measured, or raises an error or `Skipped`."""
    CHECKS[function.__name__] = function
    return function


def need(*modules):
    """Import modules and return the last. Raises Skipped if one is not installed."""
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise Skipped(f"cannot import {name}: {error}") from None
    return module


# What the checks train


CLASSES = 3


def make_data(samples=512, seed=0):
    """Return x, (samples, 20) float, and y, (samples,) classes."""
    x = torch.randn(samples, 20, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :CLASSES].argmax(1)


def make_model(dropout=0.2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, CLASSES))


def train(machine, epochs=3, learning_rate=0.01, dropout=0.2, **options):
    """Train a small model on the device, and return it and the history."""
    model = make_model(dropout)
    loader = DataLoader(TensorDataset(*make_data()), 32, shuffle=True)
    options = dict(device=machine.device, seed=1, verbose=False) | options
    history = train_model(model, loader, epochs, learning_rate, **options)
    return model, history


def weights(model):
    """Return all weights of a model on the CPU, in one tensor."""
    return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])


# Numbers


@check
def metrics(machine):
    """The loss and a metric of a validation on the device are those that the CPU computes."""
    devices = set()

    def error_rate(prediction, target):
        devices.update((prediction.device.type, target.device.type))
        return (prediction.argmax(1) != target).float().mean()

    x, y = make_data(300, seed=1)
    valid_loader = DataLoader(TensorDataset(x, y), 64)
    model, history = train(machine, valid_loader=valid_loader, metrics=dict(error=error_rate))
    with torch.no_grad():
        prediction = model.cpu().eval()(x)
    loss = nn.functional.cross_entropy(prediction, y).item()
    error = (prediction.argmax(1) != y).float().mean().item()
    last = history.epochs[-1]
    assert devices == {machine.device.type}, f"the metric was called with tensors on {devices}"
    assert abs(last["valid_loss"] - loss) < 1e-4, (last["valid_loss"], loss)
    assert abs(last["valid_error"] - error) < 0.005, (last["valid_error"], error)
    return f"valid_loss {last['valid_loss']:.5f}, on the CPU {loss:.5f}; error {error:.3f}"


@check
def torchmetrics(machine):
    """Objects of torchmetrics work on the device."""
    classification = need("torchmetrics.classification")
    x, y = make_data(300, seed=1)
    objects = dict(
        accuracy=classification.MulticlassAccuracy(CLASSES, average="micro"),
        auroc=classification.MulticlassAUROC(CLASSES),
    )
    model, history = train(machine, valid_loader=DataLoader(TensorDataset(x, y), 64), metrics=objects)
    with torch.no_grad():
        prediction = model.cpu().eval()(x)
    accuracy = (prediction.argmax(1) == y).float().mean().item()
    auroc = classification.MulticlassAUROC(CLASSES)(prediction, y).item()
    last = history.epochs[-1]
    assert abs(last["valid_accuracy"] - accuracy) < 0.005, (last["valid_accuracy"], accuracy)
    assert abs(last["valid_auroc"] - auroc) < 1e-3, (last["valid_auroc"], auroc)
    return f"accuracy {last['valid_accuracy']:.4f}, auroc {last['valid_auroc']:.4f}, as on the CPU"


@check
def bf16(machine):
    """Training in bfloat16 ends near training in float32, with weights in float32."""
    _, reference = train(machine)
    model, history = train(machine, precision="bf16")
    loss = history["train_loss"][-1]
    expected = reference["train_loss"][-1]
    assert weights(model).dtype == torch.float32 and weights(model).isfinite().all()
    assert abs(loss - expected) < 0.1, (loss, expected)
    return f"train_loss {loss:.4f}, in fp32 {expected:.4f}"


@check
def fp16(machine):
    """Training in float16 skips the steps whose gradients overflow, lowers the scale, and learns."""
    model = make_model().to(machine.device)
    loader = DataLoader(TensorDataset(*make_data()), 32, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    trainer = Trainer(model, loader, optimizer, nn.CrossEntropyLoss(), device=machine.device, precision="fp16")
    trainer.scaler = torch.amp.GradScaler(machine.device.type, init_scale=2.0**40)
    history = trainer.fit(6)
    scale = trainer.scaler.get_scale()
    _, reference = train(machine, epochs=6)
    assert scale < 2.0**40, "no step has overflowed"
    assert weights(model).isfinite().all()
    first, *_, last = history["train_loss"]
    assert last < 0.7 * first, (first, last)
    return (
        f"scale from 2^40 to 2^{np.log2(scale):.0f}; train_loss {first:.4f} to {last:.4f}, "
        f"in fp32 {reference['train_loss'][-1]:.4f}"
    )


# Exact resume


class NoisySamples(Dataset):
    """Samples with noise from torch and NumPy, drawn where they are loaded."""

    def __init__(self):
        self.x, self.y = make_data(200)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        noise = 0.1 * torch.randn(20) + float(0.1 * np.random.randn())
        return self.x[i] + noise, self.y[i]


class StopAt:
    """Stop the run after a batch, `place` = (epoch, number of batches)."""

    def __init__(self, place):
        self.place = place

    def after_batch(self, trainer):
        if (trainer.epoch, trainer.batch + 1) == self.place:
            trainer.stop("checked")


def resumed_weights(machine, workers, precision, folder=None, place=None):
    """Train with dropout and noise, up to a stop or to the end, and return the weights."""
    np.random.seed(2)
    model = make_model(dropout=0.5)
    loader = DataLoader(NoisySamples(), 16, shuffle=True, num_workers=workers)
    train_model(
        model,
        loader,
        3,
        0.01,
        valid_loader=DataLoader(NoisySamples(), 64),
        device=machine.device,
        seed=2,
        callbacks=[StopAt(place)],
        precision=precision,
        checkpoints=folder,
        verbose=False,
    )
    return weights(model)


@check
def resume(machine):
    """A run that was stopped twice, with dropout on the device, ends with the bits of an uninterrupted one."""
    cases = [(2, "fp32")] if machine.quick else [(0, "fp32"), (2, "fp32"), (0, "bf16"), (2, "fp16")]
    for workers, precision in cases:
        whole = resumed_weights(machine, workers, precision)
        again = resumed_weights(machine, workers, precision)
        assert torch.equal(whole, again), f"two runs with {workers} workers in {precision} differ by themselves"
        with tempfile.TemporaryDirectory() as folder:
            for place in (0, 3), (1, 7):
                stopped = resumed_weights(machine, workers, precision, folder, place)
                assert not torch.equal(stopped, whole)
            continued = resumed_weights(machine, workers, precision, folder)
        difference = (continued - whole).abs().max().item()
        assert torch.equal(continued, whole), f"{workers} workers, {precision}: differs by {difference:g}"
    generators = torch.cuda.device_count() if machine.has_gpu else 0
    words = ", ".join(f"{precision} and {workers} workers" for workers, precision in cases)
    return f"the same bits with {words}; {generators} CUDA generators"


# Memory


@check
def pinned_memory(machine):
    """Batches of a loader with pin_memory=True are pinned, and train as others do."""
    if not machine.has_gpu:
        raise Skipped("needs a GPU to pin memory for")
    losses = []
    for pin_memory in (False, True):
        for workers in (0, 2):
            loader = DataLoader(
                TensorDataset(*make_data()), 32, shuffle=True, pin_memory=pin_memory, num_workers=workers
            )
            x, _ = next(iter(make_batches(loader)))
            assert x.is_pinned() == pin_memory, f"{workers} workers: a batch is pinned: {x.is_pinned()}"
            history = train_model(make_model(0), loader, 2, 0.01, device=machine.device, seed=1, verbose=False)
            losses.append(history["train_loss"][-1])
    assert len(set(losses)) == 1, losses
    return f"train_loss {losses[0]:.5f} with and without, with 0 and 2 workers"


def seconds(machine, function):
    """Return how long a call takes, with all that it does on the device."""
    machine.synchronize()
    started_at = time.perf_counter()
    function()
    machine.synchronize()
    return time.perf_counter() - started_at


@check
def checkpoint_pause(machine):
    """A checkpoint stops training for less time than torch.save of the same state on the device."""
    width, layers = (1000, 32) if machine.has_gpu else (500, 4 if machine.quick else 16)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers))).to(machine.device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x = torch.randn(32, width, device=machine.device)

    def state():
        return dict(model=model.state_dict(), optimizer=optimizer.state_dict())

    def train_batch():
        optimizer.zero_grad()
        model(x).square().mean().backward()

    train_batch()
    optimizer.step()
    saves = []
    pauses = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder) / "mlkit", keep=1)
        for step in range(2 if machine.quick else 6):
            saves.append(seconds(machine, lambda: torch.save(state(), Path(folder) / "torch.pt")))
            pause = seconds(machine, partial(checkpoints.save, state(), step, later="optimizer"))
            train_batch()  # the moments are copied meanwhile
            pause += seconds(machine, checkpoints.wait_for_copy)
            optimizer.step()
            pauses.append(pause)
            checkpoints.wait()
    megabytes = 12 * sum(p.numel() for p in model.parameters()) / 1e6
    pause = statistics.median(pauses[1:])
    save = statistics.median(saves[1:])
    return (
        f"{megabytes:.0f} MB: pause {1e3 * pause:.1f} ms (the first {1e3 * pauses[0]:.1f}), torch.save "
        f"{1e3 * save:.1f} ms, ratio {pause / save:.3f} (aim: at most 0.10)"
    )


@check
def syncs(machine):
    """Training waits for the device now and then, not in each step."""
    if not machine.has_gpu:
        raise Skipped("needs a GPU to wait for")
    steps = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train(machine, callbacks=[SimpleNamespace(after_epoch=lambda trainer: steps.append(trainer.step))])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(w.message) for w in caught if "synchroniz" in str(w.message)]
    assert len(waits) < steps[-1] / 2, f"{len(waits)} waits in {steps[-1]} steps"
    return f"{len(waits)} waits in {steps[-1]} steps and 3 epochs"


# Compilation


def needs_compiler(machine):
    if machine.quick:
        raise Skipped("compilation takes too long for the short form")
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise Skipped(f"there is no C++ compiler {compiler!r}")


def same_losses(history, expected):
    return np.allclose(history["train_loss"], expected["train_loss"], rtol=1e-3)


@check
def compile_model(machine):
    """compile=True trains as without."""
    needs_compiler(machine)
    _, history = train(machine, dropout=0, compile=True)
    _, expected = train(machine, dropout=0)
    assert same_losses(history, expected), (history["train_loss"], expected["train_loss"])
    return f"train_loss {history['train_loss'][-1]:.5f}, without {expected['train_loss'][-1]:.5f}"


@check
def compile_step(machine):
    """compile='step' trains as without, or prints why it cannot."""
    needs_compiler(machine)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        _, history = train(machine, dropout=0, compile="step")
    _, expected = train(machine, dropout=0)
    assert same_losses(history, expected), (history["train_loss"], expected["train_loss"])
    refused = re.search("Steps are not compiled, but trained one by one: (.*)", output.getvalue())
    losses = f"train_loss {history['train_loss'][-1]:.5f}, without {expected['train_loss'][-1]:.5f}"
    return f"refused: {refused[1]}" if refused else f"compiled; {losses}"


# Processes


@check
def one_process(machine):
    """A process group of one, on NCCL with a GPU, trains as without one, and writes a checkpoint that continues."""
    distributed = torch.distributed
    backend = "nccl" if machine.has_gpu else "gloo"
    available = distributed.is_nccl_available() if machine.has_gpu else distributed.is_gloo_available()
    if not available:
        raise Skipped(f"this torch has no {backend}")
    alone, _ = train(machine)
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{folder}/store"
        distributed.init_process_group(backend, init_method=store, rank=0, world_size=1)
        try:
            with mock.patch("mlkit.training.trainer.current_processes", ProcessGroup):
                options = dict(checkpoints=f"{folder}/checkpoints")
                _, stopped = train(machine, callbacks=[StopAt((1, 5))], **options)
                model, _ = train(machine, **options)
        finally:
            distributed.destroy_process_group()
    assert stopped.stopped == "checked", stopped.stopped
    difference = (weights(model) - weights(alone)).abs().max().item()
    assert difference < 1e-5, f"the weights differ by {difference:g}"
    return f"{backend}: stopped, continued, and the weights differ by {difference:g}"


# Faults

FAULT = """
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from mlkit.training import train_model
fault, device = sys.argv[1:]
torch.manual_seed(0)
x = torch.randint(10, (64, 4))
y = x.sum(1) % 2
if fault == "token":
    x[37, 2] = 10  # the embedding has the tokens 0 to 9
if fault == "label":
    y[37] = 5  # the model has two classes
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(32, 2))
    def forward(self, x):
        if fault == "code" and not hasattr(self, "calls"):
            raise ValueError("a mistake of the user")
        return self.layers(x)
train_model(Model(), DataLoader(TensorDataset(x, y), 8), 1, .01, device=device, verbose=False)
"""


def output_of_fault(machine, fault):
    """Return the lines after the traceback that a user sees of a program that fails."""
    command = [sys.executable, "-c", FAULT, fault, machine.device.type]
    env = os.environ | dict(PYTHONPATH=str(REPOSITORY))
    process = subprocess.run(command, env=env, text=True, capture_output=True, timeout=300)
    assert process.returncode, f"the program did not fail: {process.stderr[-500:]}"
    lines = process.stderr.strip().splitlines()
    last_place = max(i for i, line in enumerate(lines) if line.startswith("  "))
    assert "During handling of the above exception" not in process.stderr, process.stderr[-1500:]
    return [line.strip() for line in lines[last_place + 1 :] if line.strip()]


@check
def kernel_fault(machine):
    """A fault in a kernel is told apart from an error of the user's code, which is shown as it is."""
    faults = "code", "token", "label"
    with ThreadPoolExecutor() as pool:
        shown = dict(zip(faults, pool.map(partial(output_of_fault, machine), faults)))
    code, *notes = shown["code"]
    assert code == "ValueError: a mistake of the user", code
    assert not any("kernel" in note for note in notes), notes
    for fault in ("token", "label"):
        error, *notes = shown[fault]
        if machine.has_gpu:
            assert "device-side assert" in error, error
            assert any("CUDA_LAUNCH_BLOCKING" in note and "earlier" in note for note in notes), notes
            assert any(note.startswith("(noticed ") for note in notes), notes
        else:
            assert error.startswith("IndexError"), error
            assert "(in epoch 1, batch 5)" in notes, notes
    return f"token: {' / '.join(shown['token'])}"


# The server


def start_server(folder, model, sample, **settings):
    """Save a model and serve it in a thread of this process."""
    need("starlette", "uvicorn", "prometheus_client")
    from mlkit.sagemaker.endpoint.server import serve_in_thread

    save_model(model, folder, sample)
    return serve_in_thread(folder, **settings)


def post(url, rows):
    """Return status and body of the reply to a request for predictions; 0 if the server does not answer any more."""
    request = Request(f"{url}/invocations", json.dumps(rows).encode(), {"content-type": "application/json"})
    try:
        with urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except HTTPError as error:
        return error.code, json.load(error)
    except OSError as error:
        return 0, str(error)


@check
def server(machine):
    """The server answers on the device as the model does, and predicts waiting requests together."""
    model = MyCustomModel(10, 50, 2).eval()
    x = torch.randn(200, 10)
    with torch.no_grad():
        expected = model(x).tolist()
    with tempfile.TemporaryDirectory() as folder:
        with start_server(folder, model, x[:1], batch_delay=0.005) as running:
            device = next(running.server.handlers.model.parameters()).device.type
            assert device == machine.device.type, f"the model is on {device}"
            latencies = []

            def ask(i):
                started_at = time.perf_counter()
                status, body = post(running.url, x[i : i + 1].tolist())
                latencies.append(time.perf_counter() - started_at)
                return status, body

            with ThreadPoolExecutor(16) as pool:
                replies = list(pool.map(ask, range(len(x))))
            status, _ = post(running.url, [[1.0, 2.0]])
            with urlopen(f"{running.url}/metrics") as reply:
                text = reply.read().decode()
    worst = max(np.abs(np.ravel(body) - row).max() for (_, body), row in zip(replies, expected))
    assert {status for status, _ in replies} == {200}
    assert worst < 1e-4, f"an answer differs by {worst:g}"
    assert 400 <= status < 500, f"a request of the wrong shape got {status}"
    batches = float(re.search(r"mlkit_batch_size_count(?:{.*})? (\S+)", text)[1])
    assert batches < len(x), f"{batches:.0f} predictions for {len(x)} requests"
    latency = statistics.median(latencies)
    return f"{len(x)} requests in {batches:.0f} predictions, p50 {1e3 * latency:.1f} ms with 16 clients"


@check
def server_fault(machine):
    """A token that the model does not have is refused, and the server goes on."""
    with tempfile.TemporaryDirectory() as folder:
        with start_server(folder, nets.SmallBERT(), torch.ones(1, 4, dtype=torch.int64)) as running:
            status, body = post(running.url, [[1, 2, 3, 4]])
            assert status == 200, body
            failed, reason = post(running.url, [[1, 2, 3, 5000]])  # the model knows 2048 tokens
            after, _ = post(running.url, [[1, 2, 3, 4]])
            ping = ping_status(running.url)
    assert failed == 422, (failed, reason)
    assert (after, ping) == (200, 200), f"the next request got {after}, and /ping says {ping}"
    return f"the request got {failed}, the next one {after}, /ping {ping}"


class Lookup(nn.Module):
    """Look numbers up in a table, by an index that nothing checks on a GPU."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.arange(10.0))

    def forward(self, x):
        return self.table[x]


@check
def server_ends(machine):
    """After a request that fails in a kernel the server answers others, or its /ping does not say 200 any more."""
    with tempfile.TemporaryDirectory() as folder:
        with start_server(folder, Lookup(), torch.ones(1, 4, dtype=torch.int64)) as running:
            status, body = post(running.url, [[1, 2, 3, 4]])
            assert status == 200, body
            failed, _ = post(running.url, [[1, 2, 3, 5000]])
            after, _ = post(running.url, [[1, 2, 3, 4]])
            ping = ping_status(running.url)
    assert failed >= 400, failed
    assert after == 200 or ping != 200, f"the next request got {after}, but /ping says {ping}"
    return f"the request got {failed}, the next one {after}, /ping {ping}"


def ping_status(url):
    """Return the status of /ping; 0 if the server does not answer any more."""
    try:
        return urlopen(f"{url}/ping").status
    except HTTPError as error:
        return error.code
    except OSError:
        return 0


# Speed


@dataclass
class Race:
    """A model to train, its data, and how to train it."""

    make_model: Callable[[], nn.Module]
    x: torch.Tensor
    y: torch.Tensor
    batch_size: int
    criterion: nn.Module

    def loader(self):
        return DataLoader(TensorDataset(self.x, self.y), self.batch_size, shuffle=True)


EPOCHS = 3
RATE = 1e-3


def plain(machine, model, race, tick):
    """Train with a loop as in tutorials, which reads each loss."""
    loader = race.loader()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        running_loss = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = race.criterion(model(x.to(machine.device)), y.to(machine.device))
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        tick()


def careful(machine, model, race, tick):
    """Train with a loop that reads no loss, and with a fused optimizer."""
    loader = race.loader()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    for _ in range(EPOCHS):
        running_loss = torch.zeros((), device=machine.device)
        for x, y in loader:
            optimizer.zero_grad()
            loss = race.criterion(
                model(x.to(machine.device, non_blocking=True)), y.to(machine.device, non_blocking=True)
            )
            loss.backward()
            optimizer.step()
            running_loss += loss.detach()
        running_loss.item()
        tick()


def mlkit(machine, model, race, tick):
    every_epoch = SimpleNamespace(after_epoch=lambda trainer: tick())
    train_model(
        model,
        race.loader(),
        EPOCHS,
        RATE,
        loss_fn=race.criterion,
        device=machine.device,
        callbacks=[every_epoch],
        verbose=False,
    )


def lightning(machine, model, race, tick):
    pl = need("pytorch_lightning")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, batch_idx):
            x, y = batch
            return race.criterion(self.model(x), y)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=RATE)

        def on_train_epoch_end(self):
            tick()

    accelerator = "gpu" if machine.has_gpu else "cpu"
    trainer = pl.Trainer(max_epochs=EPOCHS, accelerator=accelerator, devices=1, barebones=True)
    trainer.fit(Module(), race.loader())


def accelerate(machine, model, race, tick):
    accelerator = need("accelerate").Accelerator(cpu=not machine.has_gpu)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    model, optimizer, loader = accelerator.prepare(model, optimizer, race.loader())
    for _ in range(EPOCHS):
        running_loss = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = race.criterion(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            running_loss += loss.item()
        tick()


CONTESTANTS = dict(plain=plain, careful=careful, mlkit=mlkit, lightning=lightning, accelerate=accelerate)


def race_once(machine, contestant, race, seed):
    """Return the seconds of the fastest epoch after the first."""
    torch.manual_seed(seed)
    model = race.make_model().to(machine.device)
    ticks = []

    def tick():
        machine.synchronize()
        ticks.append(time.perf_counter())

    contestant(machine, model, race, tick)
    assert len(ticks) == EPOCHS, f"{len(ticks)} of {EPOCHS} epochs ended"
    return min(after - before for before, after in zip(ticks, ticks[1:]))


def compare(machine, race):
    """Train with each contestant in turn, and return how fast they are in words."""
    rounds = 3 if machine.has_gpu and not machine.quick else 1
    times = {name: [] for name in CONTESTANTS}
    missing = []
    for seed in range(rounds):
        for name, contestant in CONTESTANTS.items():
            if name in missing:
                continue
            try:
                times[name].append(race_once(machine, contestant, race, seed))
            except Skipped:
                missing.append(name)
    steps = len(race.loader())
    words = [f"plain {1e6 * statistics.median(times['plain']) / steps:,.0f} us a step"]
    for name in list(CONTESTANTS)[1:]:
        if name in missing:
            words.append(f"{name} skipped: not installed")
            continue
        ratios = [base / own for base, own in zip(times["plain"], times[name])]
        words.append(f"{name} {statistics.median(ratios):.2f} x ({min(ratios):.2f}-{max(ratios):.2f})")
    return ", ".join(words)


@check
def speed_mlp(machine):
    """The cost of a step without much arithmetic."""
    steps = 1500 if machine.has_gpu else 300
    x = torch.randn(32 * (steps // 10 if machine.quick else steps), 10)
    y = (x.sum(1) > 0).long()
    return compare(machine, Race(lambda: MyCustomModel(10, 50, 2), x, y, 32, nn.CrossEntropyLoss()))


@check
def speed_resnet(machine):
    """A net of the size of ResNet-18, on images of 64x64 pixels."""
    batch_size, steps = (128, 24) if machine.has_gpu else (4, 2)
    x = torch.randn(batch_size * steps, 3, 64, 64)
    y = torch.randint(1000, (len(x),))
    return compare(machine, Race(nets.Residual18, x, y, batch_size, nn.CrossEntropyLoss()))


@check
def speed_gpt(machine):
    """A language model with 4 layers, 128 wide, on sequences of 128 tokens."""
    batch_size, steps = (32, 50) if machine.has_gpu else (2, 2)
    tokens = torch.randint(256, (batch_size * steps, 129))
    x = tokens[:, :-1].contiguous()
    y = tokens[:, 1:].contiguous()
    return compare(machine, Race(nets.SmallGPT, x, y, batch_size, nets.TokenLoss()))


# The child: makes checks and writes a result of each


def make_check(name, machine):
    """Make a check and return its result."""
    started_at = time.perf_counter()
    trace = ""
    try:
        detail = CHECKS[name](machine)
        status = "ok"
    except Skipped as reason:
        detail = str(reason)
        status = "skipped"
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        detail = f"{type(error).__name__}: {lines[0]}"
        status = "FAILED"
        trace = traceback.format_exc()
    return Result(name, status, time.perf_counter() - started_at, detail, trace)


def run_child(names, machine):
    """Make checks, and write the result of each as a line of JSON."""
    with os.fdopen(os.dup(1), "w") as results:
        os.dup2(2, 1)  # what is printed meanwhile goes to the log
        for name in names:
            result = make_check(name, machine)
            print(json.dumps(asdict(result)), file=results, flush=True)
            try:
                machine.synchronize()
            except RuntimeError:
                os._exit(DEVICE_LOST)


# The parent: starts children and prints the results


def read_results(child: subprocess.Popen, limit: float, deadline: float) -> Iterator[Result]:
    """Yield the results of a child until it ends. Raises TimeoutError if one takes longer than `limit` seconds."""
    lines = queue.Queue()

    def read_lines():
        for line in child.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read_lines, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=max(min(limit, deadline - time.monotonic()), 0.001))
        except queue.Empty:
            raise TimeoutError from None
        if line is None:
            return
        yield Result(**json.loads(line))


def run_checks(names: list[str], arguments: list[str], log: Path, patience: int) -> Iterator[Result]:
    """Make checks in children, and yield the result of each; `patience` multiplies the time they may take."""
    remaining = list(names)
    limit = patience * CHECK_SECONDS
    total = patience * TOTAL_SECONDS
    deadline = time.monotonic() + total
    while remaining:
        if time.monotonic() > deadline:
            for name in remaining:
                yield Result(name, "skipped", 0.0, f"the {total} seconds are over")
            return
        command = [sys.executable, sys.argv[0], "--child", *arguments, "--only", *remaining]
        with open(log, "w") as output:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, text=True)
        started_at = time.monotonic()
        problem = ""
        try:
            for result in read_results(child, limit, deadline):
                remaining.remove(result.name)
                started_at = time.monotonic()
                yield result
            status = child.wait(timeout=20)
            if remaining and status != DEVICE_LOST:
                problem = f"the process ended with status {status}"
        except (TimeoutError, subprocess.TimeoutExpired):
            if remaining and time.monotonic() < deadline:
                problem = f"took over {limit} seconds"
        finally:
            child.kill()
            child.wait()
        if problem:
            trace = log.read_text(errors="replace")[-3000:]
            yield Result(remaining.pop(0), "FAILED", time.monotonic() - started_at, problem, trace)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short form of each check")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="NAME", help="%(choices)s")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda, if there is one")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.child:
        if device == "cpu":
            torch.set_num_threads(1)  # several wait for each other where other programs run
        run_child(args.only, Machine(torch.device(device), args.quick))
        return 0
    hardware = torch.cuda.get_device_name() if device == "cuda" else f"the CPU, {os.cpu_count()} cores"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {hardware}", flush=True)
    counts = dict.fromkeys(("ok", "FAILED", "skipped"), 0)
    arguments = ["--device", device] + ["--quick"] * args.quick
    patience = 1 if device == "cuda" else 5
    with tempfile.TemporaryDirectory() as folder:
        for result in run_checks(args.only, arguments, Path(folder) / "log", patience):
            print(result, flush=True)
            if result.trace:
                print(result.trace, file=sys.stderr, flush=True)
            counts[result.status] += 1
    print(f"{counts['ok']} ok, {counts['FAILED']} failed, {counts['skipped']} skipped")
    return int(counts["FAILED"] > 0)


if __name__ == "__main__":
    sys.exit(main())
