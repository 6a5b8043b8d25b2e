"""Train with DataLoader workers until a signal arrives: signals_child.py FOLDER WORKERS CONTEXT SECONDS VALID_SECONDS

CONTEXT is '-', 'spawn' or 'stream'. A training sample takes SECONDS to load, a validation sample VALID_SECONDS.
"""

import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mlkit.training.trainer import Trainer


class Slow(Dataset):
    def __init__(self, seconds):
        self.seconds = seconds

    def __len__(self):
        return 48

    def __getitem__(self, i):
        time.sleep(self.seconds)
        return torch.full((3,), i / 48) + torch.rand(3), i % 2


class Stream(IterableDataset):
    def __init__(self, seconds):
        self.data = Slow(seconds)

    def __iter__(self):
        return (self.data[i] for i in range(48))


class Report:
    rank_zero_only = True

    def after_step(self, trainer):
        print("step", trainer.step, flush=True)

    def before_validate(self, trainer):
        print("validation", flush=True)


def make_loader(seconds, workers, context):
    if context == "stream":
        return DataLoader(Stream(seconds), 4, num_workers=workers)
    context = None if context == "-" else context
    return DataLoader(Slow(seconds), 4, shuffle=True, num_workers=workers, multiprocessing_context=context)


def main(folder, workers, context, seconds, valid_seconds):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    trainer = Trainer(
        model,
        make_loader(float(seconds), int(workers), context),
        torch.optim.Adam(model.parameters(), 0.01),
        nn.CrossEntropyLoss(),
        make_loader(float(valid_seconds), int(workers), context),
        accumulate=2,
        checkpoints=folder,
        grace=6,
        callbacks=[Report()],
    )
    print("stopped", trainer.fit(2).stopped, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
