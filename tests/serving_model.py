"""The model of the load test: it answers with what it is asked, doubled, and writes down every number that it saw"""

import os

import torch
from torch import nn


class Doubled(nn.Module):
    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = factor
        self.weight = nn.Parameter(torch.ones(1))
        self.seen = (
            os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT) if "SEEN" in os.environ else None
        )

    def forward(self, x):
        if self.seen is not None:
            os.write(self.seen, "".join(f"{int(v)}\n" for v in x[:, 0].tolist()).encode())
        return x * self.factor
