"""Test that a stopped run continued by a new trainer ends with the bits of an uninterrupted one, with any loader."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, TESTS
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from mlkit.training.checkpoint import list_checkpoints, write_checkpoint
from mlkit.training.trainer import Trainer

torch.manual_seed(0)
X = torch.randn(80, 5)
Y = (X.sum(1) > 0).long()
data = TensorDataset(X, Y)


class Noisy(Dataset):
    def __len__(self):
        return 80

    def __getitem__(self, i):
        return X[i] + torch.randn(5) + random.random() + float(np.random.rand()), Y[i]


class Plain(Dataset):
    def __len__(self):
        return 80

    def __getitem__(self, i):
        return X[i], Y[i]


class SharedGenerator(Dataset):
    """A dataset that draws noise from the same generator as its loader."""

    def __init__(self, generator):
        self.generator = generator

    def __len__(self):
        return 80

    def __getitem__(self, i):
        return X[i] + torch.randn(5, generator=self.generator), Y[i]


class Buffered(IterableDataset):
    """A dataset that shuffles with a buffer and adds noise."""

    def __init__(self, noise=0):
        self.noise = noise

    def __iter__(self):
        buffer = list(range(20))
        for i in range(20, 80):
            j = int(torch.randint(20, ()))
            yield X[buffer[j]] + self.noise * torch.randn(5), Y[buffer[j]]
            buffer[j] = i
        yield from ((X[i], Y[i]) for i in buffer)


class Lines(IterableDataset):
    def __iter__(self):
        yield from ((X[i], Y[i]) for i in range(80))


class RandomBatches:
    """A batch sampler that draws each batch just before it is loaded."""

    def __init__(self, draw, generator=None):
        self.draw = draw
        self.generator = generator

    def __len__(self):
        return 10

    def __iter__(self):
        for _ in range(10):
            yield self.draw()


class RandomLoader:
    def __iter__(self):
        for _ in range(10):
            i = torch.tensor(random.sample(range(80), 8))
            yield X[i], Y[i]


def seeded_generator():
    return torch.Generator().manual_seed(0)


def shared_loader(sampler=None):
    """Return a loader whose sampler and dataset draw from the same generator."""
    g = seeded_generator()
    return DataLoader(SharedGenerator(g), 8, not sampler, sampler and sampler(g), generator=g)


def shared_batch_loader():
    g = seeded_generator()
    return DataLoader(
        SharedGenerator(g), batch_sampler=RandomBatches(lambda: torch.randint(80, (8,), generator=g).tolist(), g)
    )


LOADERS = dict(
    batch_sampler=lambda: DataLoader(data, batch_sampler=BatchSampler(SubsetRandomSampler(range(40)), 8, False)),
    batch_sampler_generator=lambda: DataLoader(
        data, batch_sampler=BatchSampler(RandomSampler(data, generator=seeded_generator()), 8, False)
    ),
    sampling_python=lambda: DataLoader(Plain(), batch_sampler=RandomBatches(lambda: random.sample(range(80), 8))),
    sampling_torch=lambda: DataLoader(Noisy(), batch_sampler=RandomBatches(lambda: torch.randint(80, (8,)).tolist())),
    sampling_numpy_workers=lambda: DataLoader(
        Noisy(), batch_sampler=RandomBatches(lambda: np.random.randint(0, 80, 8).tolist()), num_workers=1
    ),
    own_generator=lambda: DataLoader(Plain(), 8, shuffle=True, generator=seeded_generator()),
    own_generator_tensors=lambda: DataLoader(data, 8, shuffle=True, generator=seeded_generator()),
    replacement=lambda: DataLoader(
        Plain(), 8, sampler=RandomSampler(range(80), replacement=True, generator=seeded_generator()), num_workers=1
    ),
    workers=lambda: DataLoader(Noisy(), 8, shuffle=True, num_workers=1, generator=seeded_generator()),
    persistent=lambda: DataLoader(Noisy(), 8, shuffle=True, num_workers=1, persistent_workers=True),
    shared_generator=shared_loader,
    shared_replacement=lambda: shared_loader(lambda g: RandomSampler(range(80), replacement=True, generator=g)),
    shared_longer=lambda: shared_loader(lambda g: RandomSampler(range(20), num_samples=80, generator=g)),
    shared_sampling=shared_batch_loader,
    iterable=lambda: DataLoader(Buffered(), 8),
    iterable_noise=lambda: DataLoader(Buffered(1), 8),
    iterable_workers=lambda: DataLoader(Buffered(1), 8, num_workers=1),
    loader=RandomLoader,
)


class Stop:
    def __init__(self, at):
        self.at = at

    def after_batch(self, trainer):
        trainer.processes.read_limit = 1  # several processes agree on a stop when losses are read
        if (trainer.epoch, trainer.batch + 1) == self.at:
            trainer.stop("enough")


def train(loader, folder=None, valid=None, at=(), epochs=3):
    """Return the weights and the validation losses of a run in one tensor.

    at: places (epoch, batch) where the run is stopped; a new trainer continues it.
    """
    for stop in (*at, ()):
        for seed in torch.manual_seed, random.seed, np.random.seed:
            seed(1)
        model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        history = Trainer(
            model,
            loader(),
            torch.optim.Adam(model.parameters(), lr=0.01),
            nn.CrossEntropyLoss(),
            valid and valid(),
            callbacks=[Stop(stop)],
            checkpoints=folder,
        ).fit(epochs)
    return torch.cat(
        [*(p.detach().flatten() for p in model.parameters()), torch.tensor(history["valid_loss"] if valid else [])]
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LOADERS)
def test_a_run_stopped_anywhere_ends_with_the_same_bits(name, tmp_path):
    n = 5 if name == "batch_sampler" else 10
    whole = train(LOADERS[name])
    for i, at in enumerate(([(0, n)], [(1, 2), (1, 4)])):
        assert torch.equal(train(LOADERS[name], tmp_path / str(i), at=at), whole), at


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dataset", [Plain, Noisy, Lines])
def test_persistent_workers_of_both_loaders_continue(dataset, tmp_path):
    def loader():
        return DataLoader(dataset(), 8, num_workers=1, persistent_workers=True)

    whole = train(loader, valid=loader)
    assert torch.equal(train(loader, tmp_path, loader, [(1, 4)]), whole)


def test_persistent_workers_with_another_state_are_a_warning(tmp_path):
    def loader():
        return DataLoader(Buffered(), 8, num_workers=1, persistent_workers=True)

    for name, train_loader, valid_loader in (
        ("train", loader, None),
        ("valid", LOADERS["own_generator_tensors"], loader),
    ):
        with pytest.warns(
            UserWarning,
            match="may differ from an uninterrupted run: the persistent workers of an IterableDataset keep",
        ):
            train(train_loader, tmp_path / name, valid_loader, [(1, 4)], 2)


@pytest.mark.parametrize("persistent", [False, True])
def test_each_epoch_draws_other_transforms(persistent):
    """This holds even if nothing draws from torch's default generator."""
    inputs = []

    class RecordInputs(nn.Linear):
        def forward(self, x):
            inputs.append(x.clone())
            return super().forward(x)

    loader = DataLoader(Noisy(), 80, num_workers=1, generator=seeded_generator(), persistent_workers=persistent)
    model = RecordInputs(5, 2)
    Trainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss()).fit(3)
    assert len({float(x.sum()) for x in inputs}) == 3


def test_a_batch_sampler_chooses_the_samples():
    inputs = []

    class RecordInputs:
        def before_batch(self, trainer):
            inputs.append(trainer.x)

    model = nn.Linear(5, 2)
    Trainer(
        model,
        LOADERS["batch_sampler"](),
        torch.optim.SGD(model.parameters(), lr=0.1),
        nn.CrossEntropyLoss(),
        callbacks=[RecordInputs()],
    ).fit(1)
    x = torch.cat(inputs)
    assert len(x) == 40
    assert not torch.equal(x, X[:40])
    assert torch.equal(x.sum(1).sort().values, X[:40].sum(1).sort().values)


def test_damaged_checkpoints_are_skipped_and_replace_no_others(tmp_path):
    """The run continues from a checkpoint with a lower step than the damaged ones."""
    loader = LOADERS["own_generator_tensors"]
    train(loader, tmp_path, epochs=1)
    for name in ("step-000000020", "step-000000030"):
        file = shutil.copytree(tmp_path / "step-000000010", tmp_path / name) / "tensors.safetensors"
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
    with pytest.warns(
        UserWarning, match="passed over a damaged checkpoint: .*step-000000020: tensors.safetensors has changed"
    ):
        again = train(loader, tmp_path, epochs=5)
    assert torch.equal(again, train(loader, epochs=5))
    # the one that it continued from, two damaged ones, and the new one
    assert {f"step-0000000{n}" for n in ("10", "20", "30", "50")} <= {f.name for f in list_checkpoints(tmp_path)}


def test_another_optimizer_or_a_foreign_checkpoint_is_refused(tmp_path):
    train(LOADERS["own_generator_tensors"], tmp_path / "adam", epochs=1)
    write_checkpoint({"model": nn.Linear(5, 2).state_dict()}, tmp_path / "foreign", 1)

    def continue_with(folder, make):
        model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        Trainer(
            model, DataLoader(data, 8), make(model.parameters()), nn.CrossEntropyLoss(), checkpoints=tmp_path / folder
        ).fit(2)

    with pytest.raises(ValueError, match="of another optimizer than this SGD: of Adam"):
        continue_with("adam", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    with pytest.raises(ValueError, match="of another optimizer than this AdamW: of Adam"):
        continue_with("adam", lambda p: torch.optim.AdamW(p, lr=0.5, weight_decay=0.3))
    with pytest.raises(ValueError, match="not a checkpoint of a Trainer, it lacks optimizer"):
        continue_with("foreign", torch.optim.Adam)


class Unfreeze:
    """Train a layer only from the second epoch. Its parameter group is added before the run if `early`, else then."""

    def __init__(self, early):
        self.early = early

    def add(self, trainer):
        trainer.optimizer.add_param_group(dict(params=list(trainer.model[2].parameters()), lr=0.001))

    def before_fit(self, trainer):
        if self.early:
            self.add(trainer)

    def before_epoch(self, trainer):
        for p in trainer.model[2].parameters():
            p.requires_grad_(trainer.epoch > 0)
        if not self.early and trainer.epoch == 1:
            self.add(trainer)


def test_a_callback_must_add_parameter_groups_before_the_run(tmp_path):
    def unfreeze(folder=None, at=(), early=True):
        for stop in (*at, ()):
            torch.manual_seed(1)
            model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 2))
            optimizer = torch.optim.Adam(model[0].parameters(), lr=0.01)
            Trainer(
                model,
                DataLoader(data, 8, shuffle=True),
                optimizer,
                nn.CrossEntropyLoss(),
                callbacks=[Stop(stop), Unfreeze(early)],
                checkpoints=folder,
            ).fit(3)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(unfreeze(tmp_path / "early", [(0, 4), (1, 4), (1, 10)]), unfreeze())
    with pytest.raises(
        ValueError, match="it had 2 groups of parameters, this one has 1.*let it add that in before_fit"
    ):
        unfreeze(tmp_path / "late", [(1, 4)], early=False)


def test_two_processes_continue_alike(tmp_path):
    """Each trains on its shard of batches that are loaded whole, and stops in the middle of an epoch."""
    names = "iterable_noise", "sampling_torch", "shared_sampling", "loader"
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        Path(__file__).parent / "resume_child.py",
        tmp_path,
        *names,
    ]
    paths = os.pathsep.join(map(str, [Path(__file__).parent, TESTS, REPOSITORY]))
    process = subprocess.run(
        command,
        text=True,
        capture_output=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )
    assert process.returncode == 0, process.stderr
    for name in names:
        assert process.stdout.count(f"{name} True") == 2, process.stdout
