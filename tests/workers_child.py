"""Train, or only load, with more workers than a small /dev/shm has room for: 'train' or 'load'"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mlkit.training import train_model


class Pictures(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, i):
        return torch.zeros(3, 128, 128), i % 2


loader = DataLoader(Pictures(), 8, num_workers=2, prefetch_factor=2)  # 1.5 MB a batch
if sys.argv[1] == "load":
    print("batches", sum(1 for _ in loader))
else:
    print(
        "loss",
        train_model(nn.Sequential(nn.Flatten(), nn.Linear(3 * 128 * 128, 2)), loader, 1, 1e-3, verbose=False)[
            "train_loss"
        ][-1],
    )
