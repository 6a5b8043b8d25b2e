"""Load, train or exit with DataLoader workers: workers_child.py load | train | exit"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, _utils

from mlkit.training import train_model
from mlkit.training.workers import start_workers


class Pictures(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, i):
        return torch.zeros(3, 128, 128), i % 2


def load(loader):
    print("batches", sum(1 for _ in loader))


def train(loader):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 128 * 128, 2))
    print("loss", train_model(model, loader, epochs=1, learning_rate=1e-3, verbose=False)["train_loss"][-1])


def exit_with_workers():
    batches = start_workers(DataLoader(range(8), num_workers=1))
    print("first batch", next(batches).item(), flush=True)
    _utils.python_exit_status = True  # torch sets it when the interpreter shuts down, and then ends no workers
    return batches


if __name__ == "__main__":
    command = sys.argv[1]
    if command == "exit":
        batches = exit_with_workers()  # this reference keeps the workers alive
    else:
        loader = DataLoader(Pictures(), 8, num_workers=2, prefetch_factor=2)  # 1.5 MB per batch
        {"load": load, "train": train}[command](loader)
