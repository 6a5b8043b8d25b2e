"""The model of the load test: it doubles its input, and records each number that it sees."""

import os

import torch
from torch import nn


class Doubled(nn.Module):
    """Multiply the input by `factor`; append its first column to the file that the variable PREDICTION_LOG names."""

    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = factor
        self.weight = nn.Parameter(torch.ones(1))
        path = os.environ.get("PREDICTION_LOG")
        self.prediction_log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if path else None

    def forward(self, x):
        if self.prediction_log is not None:
            os.write(self.prediction_log, "".join(f"{int(v)}\n" for v in x[:, 0].tolist()).encode())
        return x * self.factor
