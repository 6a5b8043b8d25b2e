"""Train with a callback that skips batches, at each of the events: distributed_skip.py OUT EVENT...

It skips a batch with a marked sample, which only one of several processes has in its part of the batch.
"""

import sys

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mlkit.training.distributed import rank
from mlkit.training.trainer import SkipBatch, Trainer

out, *events = sys.argv[1:]
x = torch.randn(22, 4, generator=torch.Generator().manual_seed(0)).double()
x[[1, 9, 20]] += 100


def skip(trainer):
    if trainer.x.max() > 50:
        raise SkipBatch


results = {}
for event in events:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    data = TensorDataset(x, torch.arange(22) % 3)
    Trainer(
        model,
        DataLoader(data, 4),
        torch.optim.SGD(model.parameters(), 0.02),
        nn.CrossEntropyLoss(),
        callbacks=[type("Skip", (), {event: staticmethod(skip)})()],
    ).fit(2)
    results |= {f"{event} {n}": t for n, t in model.state_dict().items()}
save_file(results, f"{out}-{rank()}")
