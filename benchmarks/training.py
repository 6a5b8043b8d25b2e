"""Compare the speed of training with mlkit, a plain loop and six other libraries, on the CPU.

    make bench
    .venv-bench/bin/python benchmarks/training.py [--quick] [--tasks mlp conv] [--only mlkit lightning]
        [--rounds 3] [--json FILE]
    .venv-bench/bin/python benchmarks/training.py --processes 2 [--tasks conv] [--rounds 3]

Each measurement is a fresh process. All contestants start from the same weights and train on the same shuffled samples
for the same epochs, with batches of the same size, with Adam at one learning rate. Adam is torch's fused one if that is
the library's default (mlkit, huggingface). In the task `bert` texts have different lengths. mlkit, fastai and
huggingface put texts of similar length into a batch, each with its own sampler; the others pad random batches.
The columns, each a median of the rounds:

    samples/s    of the median epoch after the first: from one call of the end-of-epoch hook to the next
    x plain      samples/s over the plain loop's in the same round, with the lowest and the highest of the rounds
    start s      seconds that the first epoch takes more than a later one: set-up and compilation, without imports
    busy         processor seconds per second, without its workers; under 1 per thread the machine has other work
    peak MB      most resident memory during training, with imports and data, without its workers
    loss         of the trained model in eval mode over the training set; '!' marks 10 % off the median. A batch of
                 texts of similar length is a less random one, which shows here

With --processes N it prints the scaling instead: the plain loop with torch's DistributedDataParallel, and mlkit, each
alone and under torchrun with N processes that share the batch. `x alone` is over the same program in one process.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import nets
import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    TensorDataset,
    default_collate,
    get_worker_info,
)

LR = 1e-3


# Tasks: each returns a function that creates the model, and the data


@dataclass
class Data:
    """The data for a contestant."""

    dataset: Dataset
    # the whole training set as the model receives it, to compute the final loss
    x: torch.Tensor
    y: torch.Tensor
    batch_size: int
    workers: int = 0
    collate: Callable = default_collate
    criterion: type[nn.Module] = nn.CrossEntropyLoss
    lengths: list[int] | None = None  # of the samples, if they differ

    def loader(self):
        """Return a loader of random batches."""
        return DataLoader(
            self.dataset,
            batch_size=self.batch_size,
            shuffle=True,
            num_workers=self.workers,
            collate_fn=self.collate,
        )


def mlp(samples=64_000):
    """Two linear layers, batches of 32: the cost of a step without much arithmetic."""
    from mlkit.model import MyCustomModel

    x = torch.randn(samples, 10, generator=torch.Generator().manual_seed(0))
    y = (torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + x[:, 3:].sum(1) / 3 > 0).long()
    return lambda: MyCustomModel(10, 50, 2), Data(TensorDataset(x, y), x, y, 32)


def images(samples, strength):
    """Return noisy images that each hide one of ten patterns, (samples, 28, 28) float, and the number of each."""
    rng = np.random.default_rng(0)
    y = rng.integers(10, size=samples)
    patterns = rng.normal(size=(10, 28, 28))
    noise = rng.normal(size=(samples, 28, 28))
    return (strength * patterns[y] + noise).astype(np.float32), y


def conv(samples=8_192):
    """A small convolutional net, batches of 256: mostly arithmetic."""
    x, y = map(torch.from_numpy, images(samples, 0.25))
    x = x[:, None]

    def net():
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 10),
        )

    return net, Data(TensorDataset(x, y), x, y, 256)


def prepare(image):
    """Clip an image at two quantiles, standardize and flatten it, as a worker does with each sample."""
    low, high = np.quantile(image, [0.01, 0.99])
    image = np.clip(image, low, high)
    return ((image - image.mean()) / image.std()).ravel().astype(np.float32)


class PreparedImages(Dataset):
    def __init__(self, images, labels):
        self.images = images
        self.labels = labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        if get_worker_info() is None:
            raise RuntimeError("a sample was loaded outside of the workers")
        return torch.from_numpy(prepare(self.images[i])), int(self.labels[i])


def workers(samples=16_384):
    """Samples prepared by two worker processes, batches of 64: mostly waiting for the workers."""
    raw, y = images(samples, 0.08)
    x = torch.from_numpy(np.stack([prepare(image) for image in raw]))

    def net():
        return nn.Sequential(nn.Linear(28 * 28, 32), nn.ReLU(), nn.Linear(32, 10))

    return net, Data(PreparedImages(raw, y), x, torch.from_numpy(y), 64, workers=2)


def gpt(samples=512):
    """A language model of 4 layers, 128 wide, on sequences of 128 tokens, batches of 16: all arithmetic."""
    rng = np.random.default_rng(0)
    followers = rng.integers(256, size=(256, 8))  # each token is followed by one of eight
    tokens = np.empty((samples, 129), dtype=np.int64)
    tokens[:, 0] = rng.integers(256, size=samples)
    for i in range(128):
        tokens[:, i + 1] = followers[tokens[:, i], rng.integers(8, size=samples)]
    tokens = torch.from_numpy(tokens)
    x = tokens[:, :-1].contiguous()
    y = tokens[:, 1:].contiguous()
    return nets.SmallGPT, Data(TensorDataset(x, y), x, y, 16, criterion=nets.TokenLoss)


class Texts(Dataset):
    """Texts as a tokenizer returns them, not padded, with a class for each."""

    def __init__(self, texts, labels):
        self.texts = texts
        self.labels = labels

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, i):
        return dict(input_ids=self.texts[i], labels=self.labels[i])


def pad_texts(samples):
    """Return a batch of texts, padded to the longest of them, and their classes."""
    texts = [sample["input_ids"] for sample in samples]
    return pad_sequence(texts, batch_first=True), torch.tensor([sample["labels"] for sample in samples])


def bert(samples=3_200):
    """A classifier of texts of 8 to 128 tokens, half under 27, batches of 16: how much of a batch is padding."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(27), 0.6, size=samples)).astype(int).clip(8, 128)
    frequencies = 1 / np.arange(1, 2048)  # as in a natural language (Zipf's law); 0 is padding
    opinions = rng.normal(size=2048)  # what a token says about the class
    tokens = rng.choice(np.arange(1, 2048), size=(samples, 128), p=frequencies / frequencies.sum())
    tokens = np.where(np.arange(128) < lengths[:, None], tokens, 0)
    y = (np.where(tokens > 0, opinions[tokens], 0).sum(1) > 0).astype(np.int64)
    x = torch.from_numpy(tokens)
    texts = [row[:length] for row, length in zip(x, lengths)]
    dataset = Texts(texts, y.tolist())
    return nets.SmallBERT, Data(
        dataset, x, torch.from_numpy(y), 16, collate=pad_texts, lengths=[int(length) for length in lengths]
    )


TASKS = {"mlp": mlp, "conv": conv, "workers": workers, "gpt": gpt, "bert": bert}


# Contestants: each trains the model in place as its users would, and calls `tick` at the end of every epoch


def plain(model, data, epochs, tick):
    loader = data.loader()
    criterion = data.criterion()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(epochs):
        running_loss = 0.0
        for xb, yb in loader:
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        tick()


def plain_ddp(model, data, epochs, tick):
    torch.distributed.init_process_group("gloo")
    sampler = DistributedSampler(data.dataset)
    loader = DataLoader(
        data.dataset,
        data.batch_size // torch.distributed.get_world_size(),
        sampler=sampler,
        num_workers=data.workers,
        collate_fn=data.collate,
    )
    criterion = data.criterion()
    model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        running_loss = 0.0
        for xb, yb in loader:
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        tick()
    torch.distributed.destroy_process_group()


def mlkit_loader(data):
    """Return the loader as users of mlkit write it: texts of similar length share a batch."""
    if data.lengths is None:
        return data.loader()
    from mlkit.training.lengths import LengthGroupedBatches

    batches = LengthGroupedBatches(data.lengths, data.batch_size)
    return DataLoader(data.dataset, batch_sampler=batches, collate_fn=data.collate)


def mlkit(model, data, epochs, tick, **options):
    from mlkit.training import train_model

    every_epoch = SimpleNamespace(after_epoch=lambda trainer: tick())
    train_model(
        model,
        mlkit_loader(data),
        epochs,
        LR,
        loss_fn=data.criterion(),
        device="cpu",
        verbose=False,
        callbacks=[every_epoch],
        **options,
    )


def mlkit_compiled(model, data, epochs, tick):
    mlkit(model, data, epochs, tick, compile="step")


def add_hook(callback, event, tick):
    """Make a callback call `tick` at an event, and return the callback."""
    setattr(callback, event, lambda *args, **kwargs: tick())
    return callback


def lightning(model, data, epochs, tick):
    import pytorch_lightning as pl

    class Classifier(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model
            self.criterion = data.criterion()

        def training_step(self, batch, batch_idx):
            x, y = batch
            return self.criterion(self.model(x), y)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=LR)

    # barebones: without logger, checkpoints, progress bar, model summary and sanity check
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        barebones=True,
        callbacks=[add_hook(pl.Callback(), "on_train_epoch_end", tick)],
    )
    trainer.fit(Classifier(), data.loader())


def accelerate(model, data, epochs, tick):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    criterion = data.criterion()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    model, optimizer, loader = accelerator.prepare(model, optimizer, data.loader())
    for _ in range(epochs):
        running_loss = 0.0
        for xb, yb in loader:
            optimizer.zero_grad()
            loss = criterion(model(xb), yb)
            accelerator.backward(loss)
            optimizer.step()
            running_loss += loss.item()
        tick()


def fastai_loaders(data):
    """Return the training data, in fastai's own loader if it has texts, and no validation data."""
    from fastai.basics import DataLoaders

    if data.lengths is None:
        return DataLoaders(data.loader(), [], device="cpu")
    from fastai.text.data import SortedDL

    loader = SortedDL(
        data.dataset,
        bs=data.batch_size,
        shuffle=True,
        res=data.lengths,
        num_workers=0,
        create_batch=data.collate,
        retain=lambda batch, samples: batch,
        device=torch.device("cpu"),
    )
    return DataLoaders(loader, [])


def fastai(model, data, epochs, tick):
    from fastai.basics import Callback, Learner, OptimWrapper, partial

    learn = Learner(
        fastai_loaders(data),
        model,
        loss_func=data.criterion(),
        opt_func=partial(OptimWrapper, opt=torch.optim.Adam),
        cbs=add_hook(Callback(), "after_epoch", tick),
    )
    with learn.no_logging():
        learn.fit(epochs, LR)


def skorch(model, data, epochs, tick):
    from skorch import NeuralNetClassifier
    from skorch.callbacks import Callback

    net = NeuralNetClassifier(
        model,
        criterion=data.criterion,
        optimizer=torch.optim.Adam,
        lr=LR,
        max_epochs=epochs,
        batch_size=data.batch_size,
        iterator_train__shuffle=True,
        iterator_train__num_workers=data.workers,
        iterator_train__collate_fn=data.collate,
        train_split=None,
        verbose=0,
        callbacks=[add_hook(Callback(), "on_epoch_end", tick)],
    )
    net.fit(data.dataset, y=None)


def ignite(model, data, epochs, tick):
    from ignite.engine import Events, create_supervised_trainer

    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    trainer = create_supervised_trainer(model, optimizer, data.criterion())
    trainer.add_event_handler(Events.EPOCH_COMPLETED, tick)
    trainer.run(data.loader(), max_epochs=epochs)


def huggingface(model, data, epochs, tick):
    from transformers import Trainer, TrainerCallback, TrainingArguments

    criterion = data.criterion()

    class Classifier(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            x, y = inputs
            return criterion(model(x), y)

    grouping = {}
    if data.lengths is not None:
        # The collator makes the model's input of the columns, so they must not be removed.
        grouping = dict(train_sampling_strategy="group_by_length", remove_unused_columns=False)
    # The default optimizer is a fused AdamW. Without weight decay, also the default, it is equal to Adam.
    args = TrainingArguments(
        "out",
        num_train_epochs=epochs,
        per_device_train_batch_size=data.batch_size,
        learning_rate=LR,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        dataloader_num_workers=data.workers,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **grouping,
    )
    Classifier(
        model,
        args,
        train_dataset=data.dataset,
        data_collator=data.collate,
        callbacks=[add_hook(TrainerCallback(), "on_epoch_end", tick)],
    ).train()


# Name -> the function, the module to import before the clock starts, and the package whose version is printed.
CONTESTANTS = {
    "plain": (plain, "torch", "torch"),
    "mlkit": (mlkit, "mlkit.training", "mlkit-sagemaker"),
    "mlkit-compiled": (mlkit_compiled, "mlkit.training", "mlkit-sagemaker"),
    "lightning": (lightning, "pytorch_lightning", "pytorch-lightning"),
    "accelerate": (accelerate, "accelerate", "accelerate"),
    "fastai": (fastai, "fastai.basics", "fastai"),
    "skorch": (skorch, "skorch.callbacks", "skorch"),
    "ignite": (ignite, "ignite.engine", "pytorch-ignite"),
    "huggingface": (huggingface, "transformers.trainer", "transformers"),
}


# A measurement, in a separate process


def measure(name, task, round, threads, quick):
    """Train one contestant in this process, and return the measurements."""
    train, module, package = CONTESTANTS[name]
    if name == "plain" and "WORLD_SIZE" in os.environ:
        train = plain_ddp
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name != module.split(".")[0]:
            raise
        sys.exit("not installed")
    make_task = TASKS[task]
    epochs = 3 if quick else 6
    if quick:
        (samples,) = make_task.__defaults__
        make_model, data = make_task(samples // 8)
    else:
        make_model, data = make_task()
    torch.set_num_threads(threads)
    torch.manual_seed(round)
    model = make_model()
    ticks = []

    def tick():
        ticks.append((time.perf_counter(), time.process_time()))

    start = time.perf_counter()
    train(model, data, epochs, tick)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if len(ticks) != epochs or torch.get_num_threads() != threads:
        sys.exit(
            f"{len(ticks)} of {epochs} epochs ended, torch has {torch.get_num_threads()} threads instead of {threads}"
        )
    model.eval()
    criterion = data.criterion(reduction="sum")
    with torch.no_grad():
        losses = [criterion(model(x), y) for x, y in zip(data.x.split(256), data.y.split(256))]
    later = [b - a for (a, _), (b, _) in zip(ticks, ticks[1:])]
    first = ticks[0][0] - start
    epoch = statistics.median(later)
    busy = (ticks[-1][1] - ticks[0][1]) / sum(later)
    return dict(
        version=importlib.metadata.version(package),
        seconds=[first] + later,
        rate=len(data.y) / epoch,
        start=first - epoch,
        busy=busy,
        peak=peak / (2**20 if sys.platform == "darwin" else 2**10),
        loss=sum(losses).item() / data.y.numel(),
    )


def run(processes=1, **arguments):
    """Call `measure(**arguments)` in a fresh process, in an empty folder and without caches.

    The dictionary has only the key 'error' if the measurement fails.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | dict(TORCHINDUCTOR_CACHE_DIR=f"{folder}/inductor", CUDA_VISIBLE_DEVICES="")
        command = [sys.executable, *torchrun, os.path.abspath(__file__), "--measure", json.dumps(arguments)]
        try:
            process = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, timeout=1800)
        except subprocess.TimeoutExpired:
            return dict(error="took over 30 minutes")
    if process.returncode:
        return dict(error=(process.stderr.strip() or f"exit code {process.returncode}").splitlines()[-1])
    return json.loads(next(line for line in process.stdout.splitlines() if line.startswith('{"')))


# Report


def summarize(runs, base):
    """Return the medians over the rounds of one contestant; `base` has the rounds of the plain loop."""
    completed = [r for r in runs if "error" not in r]
    if not completed:
        return dict(error=runs[-1]["error"])
    ratios = [r["rate"] / b["rate"] for r, b in zip(runs, base) if "error" not in r and "error" not in b]
    medians = {k: statistics.median(r[k] for r in completed) for k in ("rate", "start", "busy", "peak", "loss")}
    return medians | dict(
        version=completed[0]["version"], ratios=ratios, errors=[r["error"] for r in runs if "error" in r]
    )


def print_table(title, rows):
    losses = [r["loss"] for r in rows.values() if "loss" in r]
    middle = statistics.median(losses) if losses else 0.0
    print(f"\n{title}\n{'':24}{'samples/s':>10}  {'x plain':<19}{'start s':>8}{'busy':>7}{'peak MB':>9}{'loss':>9}")
    for name, r in rows.items():
        if "error" in r:
            print(f"{name:<24}  {r['error']}")
            continue
        ratios = r["ratios"] or [float("nan")]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        mark = "!" if abs(r["loss"] - middle) > 0.1 * middle else ""
        mark += "".join(f"  a round failed: {error}" for error in r["errors"])
        label = name if name == "plain" else f"{name} {r['version']}"
        print(
            f"{label:<24}{r['rate']:>10,.0f}  {spread:<19}{r['start']:>8.1f}"
            f"{r['busy']:>7.2f}{r['peak']:>9,.0f}{r['loss']:>9.4f}{mark}"
        )
    if losses:
        print(f"losses from {min(losses):.4f} to {max(losses):.4f}, median {middle:.4f}", flush=True)


def print_scaling(task, processes, rounds, **arguments):
    """Measure the plain loop and mlkit with one process and with several, and print how their speeds compare."""
    results = {}
    for r in range(rounds):
        for name in ("plain", "mlkit"):
            for p in (1, processes):
                results[name, p, r] = run(name=name, task=task, round=r, processes=p, **arguments)
    print(
        f"\n{task}: {TASKS[task].__doc__}\n{'':12}{'alone':>10}{f'{processes} processes':>14}  "
        f"{'x alone':<19}{'loss alone':>11}{'loss':>9}"
    )
    for name in ("plain", "mlkit"):
        pairs = [(results[name, 1, r], results[name, processes, r]) for r in range(rounds)]
        if errors := [x["error"] for pair in pairs for x in pair if "error" in x]:
            print(f"{name:<12}{errors[0]}")
            continue
        ratios = [together["rate"] / alone["rate"] for alone, together in pairs]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        rate_alone = statistics.median(alone["rate"] for alone, _ in pairs)
        rate = statistics.median(together["rate"] for _, together in pairs)
        loss_alone = statistics.median(alone["loss"] for alone, _ in pairs)
        loss = statistics.median(together["loss"] for _, together in pairs)
        print(f"{name:<12}{rate_alone:>10,.0f}{rate:>14,.0f}  {spread:<19}{loss_alone:>11.4f}{loss:>9.4f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help="%(choices)s")
    parser.add_argument(
        "--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME", help="%(choices)s"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads of torch; with several, other work on the machine has more effect",
    )
    parser.add_argument("--processes", type=int, default=1, help="measure the scaling to this number of processes")
    parser.add_argument(
        "--quick", action="store_true", help="a test run: an eighth of the samples, 3 epochs instead of 6"
    )
    parser.add_argument("--json", metavar="FILE", help="write every measurement to this file")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        result = measure(**json.loads(args.measure))
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(result))
        return
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, cores: {os.cpu_count()}, threads: "
        f"{args.threads}, "
        f"rounds: {args.rounds}",
        flush=True,
    )
    if args.processes > 1:
        for task in args.tasks:
            print_scaling(task, args.processes, args.rounds, threads=args.threads, quick=args.quick)
        return
    # The ratios need the plain loop.
    names = list(dict.fromkeys(["plain"] + args.only))
    results = []
    for task in args.tasks:
        for round in range(args.rounds):
            # Each round starts with another contestant, which is fairer on a busy machine.
            first = round * max(1, len(names) // args.rounds) % len(names)
            for name in names[first:] + names[:first]:
                result = run(name=name, task=task, round=round, threads=args.threads, quick=args.quick)
                results.append(dict(task=task, round=round, name=name, threads=args.threads) | result)
                text = result.get("error") or f"{result['rate']:,.0f} samples/s"
                print(f"{task}, round {round + 1} of {args.rounds}, {name}: {text}", file=sys.stderr, flush=True)
        runs = {name: [r for r in results if (r["task"], r["name"]) == (task, name)] for name in names}
        print_table(f"{task}: {TASKS[task].__doc__}", {n: summarize(runs[n], runs["plain"]) for n in names})
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(results, f, indent=1)


if __name__ == "__main__":
    main()
