"""A run that is stopped anywhere and gone on from by a new trainer ends with the bits of one that never was, whatever
draws the order
"""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
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


class Sharing(Dataset):
    """Adds noise from the generator that its loader draws from"""

    def __init__(self, generator):
        self.generator = generator

    def __len__(self):
        return 80

    def __getitem__(self, i):
        return X[i] + torch.randn(5, generator=self.generator), Y[i]


class Buffered(IterableDataset):
    """Shuffles with a buffer, and adds noise where it is asked to"""

    def __init__(self, noise=0):
        self.noise = noise

    def __iter__(self):
        held = list(range(20))
        for i in range(20, 80):
            j = int(torch.randint(20, ()))
            yield X[held[j]] + self.noise * torch.randn(5), Y[held[j]]
            held[j] = i
        yield from ((X[i], Y[i]) for i in held)


class Lines(IterableDataset):
    def __iter__(self):
        yield from ((X[i], Y[i]) for i in range(80))


class Drawing:
    """A batch sampler that draws each batch when it is asked for"""

    def __init__(self, draw, generator=None):
        self.draw = draw
        self.generator = generator

    def __len__(self):
        return 10

    def __iter__(self):
        for _ in range(10):
            yield self.draw()


class DrawingLoader:
    def __iter__(self):
        for _ in range(10):
            i = torch.tensor(random.sample(range(80), 8))
            yield X[i], Y[i]


def seeded():
    return torch.Generator().manual_seed(0)


def sharing(sampler=None):
    """A loader whose sampler and dataset draw from one generator"""
    g = seeded()
    return DataLoader(Sharing(g), 8, not sampler, sampler and sampler(g), generator=g)


def sharing_batches():
    g = seeded()
    return DataLoader(Sharing(g), batch_sampler=Drawing(lambda: torch.randint(80, (8,), generator=g).tolist(), g))


LOADERS = dict(
    batch_sampler=lambda: DataLoader(data, batch_sampler=BatchSampler(SubsetRandomSampler(range(40)), 8, False)),
    batch_sampler_generator=lambda: DataLoader(
        data, batch_sampler=BatchSampler(RandomSampler(data, generator=seeded()), 8, False)
    ),
    sampling_python=lambda: DataLoader(Plain(), batch_sampler=Drawing(lambda: random.sample(range(80), 8))),
    sampling_torch=lambda: DataLoader(Noisy(), batch_sampler=Drawing(lambda: torch.randint(80, (8,)).tolist())),
    sampling_numpy_workers=lambda: DataLoader(
        Noisy(), batch_sampler=Drawing(lambda: np.random.randint(0, 80, 8).tolist()), num_workers=1
    ),
    own_generator=lambda: DataLoader(Plain(), 8, shuffle=True, generator=seeded()),
    own_generator_tensors=lambda: DataLoader(data, 8, shuffle=True, generator=seeded()),
    replacement=lambda: DataLoader(
        Plain(), 8, sampler=RandomSampler(range(80), replacement=True, generator=seeded()), num_workers=1
    ),
    workers=lambda: DataLoader(Noisy(), 8, shuffle=True, num_workers=1, generator=seeded()),
    persistent=lambda: DataLoader(Noisy(), 8, shuffle=True, num_workers=1, persistent_workers=True),
    shared_generator=sharing,
    shared_replacement=lambda: sharing(lambda g: RandomSampler(range(80), replacement=True, generator=g)),
    shared_longer=lambda: sharing(lambda g: RandomSampler(range(20), num_samples=80, generator=g)),
    shared_sampling=sharing_batches,
    iterable=lambda: DataLoader(Buffered(), 8),
    iterable_noise=lambda: DataLoader(Buffered(1), 8),
    iterable_workers=lambda: DataLoader(Buffered(1), 8, num_workers=1),
    loader=DrawingLoader,
)


class Stop:
    def __init__(self, at):
        self.at = at

    def after_batch(self, trainer):
        if trainer.group:
            trainer.read_every = 1  # many processes hear of it when losses are read
        if (trainer.epoch, trainer.batch + 1) == self.at:
            trainer.stop("enough")


def train(loader, folder=None, valid=None, at=(), epochs=3):
    """The weights, and what validation found, of a run that is stopped at (epoch, batch), one of `at` after the other,
    and gone on from by a trainer of its own
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
def test_stopped_anywhere_ends_the_same(name, tmp_path):
    n = 5 if name == "batch_sampler" else 10
    whole = train(LOADERS[name])
    for i, at in enumerate(([(0, n)], [(1, 2), (1, 4)])):
        assert torch.equal(train(LOADERS[name], tmp_path / str(i), at=at), whole), at


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dataset", [Plain, Noisy, Lines])
def test_persistent_workers_of_both_loaders(dataset, tmp_path):
    def loader():
        return DataLoader(dataset(), 8, num_workers=1, persistent_workers=True)

    whole = train(loader, valid=loader)
    assert torch.equal(train(loader, tmp_path, loader, [(1, 4)]), whole)


def test_what_persistent_workers_draw_by_themselves_is_said_to_differ(tmp_path):
    def loader():
        return DataLoader(Buffered(), 8, num_workers=1, persistent_workers=True)

    for name, train_loader, valid_loader in (
        ("train", loader, None),
        ("valid", LOADERS["own_generator_tensors"], loader),
    ):
        with pytest.warns(
            UserWarning,
            match="may not be bit for bit what would have come: the persistent workers of an IterableDataset draw on",
        ):
            train(train_loader, tmp_path / name, valid_loader, [(1, 4)], 2)


@pytest.mark.parametrize("persistent", [False, True])
def test_each_epoch_draws_other_transforms(persistent):
    """Where nothing draws from torch's own generator, too"""
    seen = []

    class Seen(nn.Linear):
        def forward(self, x):
            seen.append(x.clone())
            return super().forward(x)

    loader = DataLoader(Noisy(), 80, num_workers=1, generator=seeded(), persistent_workers=persistent)
    model = Seen(5, 2)
    Trainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss()).fit(3)
    assert len({float(x.sum()) for x in seen}) == 3


def test_a_batch_sampler_is_asked_for_the_samples():
    seen = []

    class Seen:
        def before_batch(self, trainer):
            seen.append(trainer.x)

    model = nn.Linear(5, 2)
    Trainer(
        model,
        LOADERS["batch_sampler"](),
        torch.optim.SGD(model.parameters(), lr=0.1),
        nn.CrossEntropyLoss(),
        callbacks=[Seen()],
    ).fit(1)
    x = torch.cat(seen)
    assert (
        len(x) == 40 and not torch.equal(x, X[:40]) and torch.equal(x.sum(1).sort().values, X[:40].sum(1).sort().values)
    )


def test_damaged_checkpoints_are_passed_over_and_push_out_nothing(tmp_path):
    """Also where the one that is gone on from has a lower step than the damaged ones"""
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
    # gone on from, damaged, damaged, new
    assert {f"step-0000000{n}" for n in ("10", "20", "30", "50")} <= {f.name for f in list_checkpoints(tmp_path)}


def test_another_optimizer_or_a_foreign_checkpoint_is_refused(tmp_path):
    train(LOADERS["own_generator_tensors"], tmp_path / "adam", epochs=1)
    write_checkpoint({"model": nn.Linear(5, 2).state_dict()}, tmp_path / "foreign", 1)

    def go_on(folder, make):
        model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        Trainer(
            model, DataLoader(data, 8), make(model.parameters()), nn.CrossEntropyLoss(), checkpoints=tmp_path / folder
        ).fit(2)

    with pytest.raises(ValueError, match="of another optimizer than this SGD: of Adam"):
        go_on("adam", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    with pytest.raises(ValueError, match="of another optimizer than this AdamW: of Adam"):
        go_on("adam", lambda p: torch.optim.AdamW(p, lr=0.5, weight_decay=0.3))
    with pytest.raises(ValueError, match="no checkpoint of a Trainer, it lacks optimizer"):
        go_on("foreign", torch.optim.Adam)


class Unfreeze:
    """Trains a part of the model from the second epoch on; its group of the optimizer is there from the beginning, or
    from then on
    """

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


def test_groups_that_a_callback_adds_are_added_before_the_run(tmp_path):
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


TOGETHER = """
import sys, torch
from pathlib import Path
from mlkit.training.distributed import broadcast_object, join_processes
from test_resume import LOADERS, train
join_processes()
for name in 'iterable_noise', 'sampling_torch', 'shared_sampling', 'loader':
    whole = train(LOADERS[name])
    same = torch.equal(train(LOADERS[name], Path(sys.argv[1])/name, at=[(1, 2), (1, 4)]), whole)
    print(f'{name} {same}\\n', end='', flush=True)  # in one piece: two processes print
"""


def test_two_processes_go_on_alike(tmp_path):
    """Each with its part of batches that are loaded whole, in the middle of an epoch"""
    (tmp_path / "together.py").write_text(TOGETHER)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        tmp_path / "together.py",
        tmp_path,
    ]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    done = subprocess.run(
        command,
        text=True,
        capture_output=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    assert [
        done.stdout.count(f"{name} True") for name in ("iterable_noise", "sampling_torch", "shared_sampling", "loader")
    ] == [2] * 4, done.stdout
