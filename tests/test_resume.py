"A run that is stopped anywhere and gone on from by a new trainer ends with the bits of one that never was, whatever draws the order"
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SubsetRandomSampler, TensorDataset

from mlkit.training import Trainer

torch.manual_seed(0)
X = torch.randn(80, 5)
Y = (X.sum(1) > 0).long()
data = TensorDataset(X, Y)


class Noisy(Dataset):
    def __len__(self): return 80
    def __getitem__(self, i): return X[i] + torch.randn(5) + random.random() + float(np.random.rand()), Y[i]


class Plain(Dataset):
    def __len__(self): return 80
    def __getitem__(self, i): return X[i], Y[i]


class Buffered(IterableDataset):
    "Shuffles with a buffer, and adds noise where it is asked to"
    def __init__(self, noise=0): self.noise = noise
    def __iter__(self):
        held = list(range(20))
        for i in range(20, 80):
            j = int(torch.randint(20, ()))
            yield X[held[j]] + self.noise*torch.randn(5), Y[held[j]]
            held[j] = i
        yield from ((X[i], Y[i]) for i in held)


class Lines(IterableDataset):
    def __iter__(self): yield from ((X[i], Y[i]) for i in range(80))


class Drawing:
    "A batch sampler that draws each batch when it is asked for"
    def __init__(self, draw): self.draw = draw
    def __len__(self): return 10
    def __iter__(self):
        for _ in range(10): yield self.draw()


class DrawingLoader:
    def __iter__(self):
        for _ in range(10):
            i = torch.tensor(random.sample(range(80), 8))
            yield X[i], Y[i]


seeded = lambda: torch.Generator().manual_seed(0)

LOADERS = dict(
    batch_sampler=lambda: DataLoader(data, batch_sampler=BatchSampler(SubsetRandomSampler(range(40)), 8, False)),
    sampling_python=lambda: DataLoader(Plain(), batch_sampler=Drawing(lambda: random.sample(range(80), 8))),
    sampling_torch=lambda: DataLoader(Noisy(), batch_sampler=Drawing(lambda: torch.randint(80, (8,)).tolist())),
    sampling_numpy_workers=lambda: DataLoader(Noisy(), batch_sampler=Drawing(lambda: np.random.randint(0, 80, 8).tolist()), num_workers=1),
    own_generator=lambda: DataLoader(Plain(), 8, shuffle=True, generator=seeded()),
    own_generator_tensors=lambda: DataLoader(data, 8, shuffle=True, generator=seeded()),
    replacement=lambda: DataLoader(Plain(), 8, sampler=RandomSampler(range(80), replacement=True, generator=seeded()), num_workers=1),
    workers=lambda: DataLoader(Noisy(), 8, shuffle=True, num_workers=1, generator=seeded()),
    persistent=lambda: DataLoader(Noisy(), 8, shuffle=True, num_workers=1, persistent_workers=True),
    iterable=lambda: DataLoader(Buffered(), 8),
    iterable_noise=lambda: DataLoader(Buffered(1), 8),
    iterable_workers=lambda: DataLoader(Buffered(1), 8, num_workers=1),
    loader=DrawingLoader)


class Stop:
    def __init__(self, at): self.at = at
    def after_batch(self, trainer):
        if (trainer.epoch, trainer.batch + 1) == self.at: trainer.stop('enough')


def train(loader, folder=None, valid=None, at=(), epochs=3):
    "The weights of a run that is stopped at (epoch, batch), one of `at` after the other, and gone on from by a trainer of its own"
    for stop in (*at, ()):
        for seed in torch.manual_seed, random.seed, np.random.seed: seed(1)
        model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(.5), nn.Linear(8, 2))
        Trainer(model, loader(), torch.optim.Adam(model.parameters(), lr=.01), nn.CrossEntropyLoss(), valid and valid(), callbacks=[Stop(stop)], checkpoints=folder).fit(epochs)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', LOADERS)
def test_stopped_anywhere_ends_the_same(name, tmp_path):
    n = 5 if name == 'batch_sampler' else 10
    whole = train(LOADERS[name])
    for i, at in enumerate(([(0, n)], [(1, 2), (1, 4)])): assert torch.equal(train(LOADERS[name], tmp_path/str(i), at=at), whole), at


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('dataset', [Plain, Lines])
def test_persistent_workers_of_both_loaders(dataset, tmp_path):
    loader = lambda: DataLoader(dataset(), 8, num_workers=1, persistent_workers=True)
    whole = train(loader, valid=loader)
    assert torch.equal(train(loader, tmp_path, loader, [(1, 4)]), whole)


def test_what_persistent_workers_draw_by_themselves_is_said_to_differ(tmp_path):
    loader = lambda: DataLoader(Buffered(), 8, num_workers=1, persistent_workers=True)
    with pytest.warns(UserWarning, match='not bit for bit what would have come: the workers of an IterableDataset that are persistent draw on'):
        train(loader, tmp_path, at=[(1, 4)], epochs=2)


@pytest.mark.parametrize('persistent', [False, True])
def test_each_epoch_draws_other_transforms(persistent):
    "Where nothing draws from torch's own generator, too"
    seen = []
    class Seen(nn.Linear):
        def forward(self, x):
            seen.append(x.clone())
            return super().forward(x)
    loader = DataLoader(Noisy(), 80, num_workers=1, generator=seeded(), persistent_workers=persistent)
    model = Seen(5, 2)
    Trainer(model, loader, torch.optim.SGD(model.parameters(), lr=.1), nn.CrossEntropyLoss()).fit(3)
    assert len({float(x.sum()) for x in seen}) == 3
