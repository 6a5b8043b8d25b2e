"""Train with losses that are not plain means over samples: distributed_losses.py OUT"""

import sys

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mlkit.training.distributed import rank
from mlkit.training.trainer import Trainer

x = torch.randn(22, 4, generator=torch.Generator().manual_seed(0)).double()
y = torch.arange(22) % 3
y[5:8] = 0  # all targets of one of three processes in the second batch
partly_ignored = torch.where(y == 0, -100, y)
words = torch.stack([y, torch.full_like(y, -100)], 1)
weight = torch.tensor([1.0, 5, 0.2]).double()


def counted(prediction, target):
    """Return a loss that ignores labels by itself, and its count."""
    valid = target != -100
    return nn.functional.cross_entropy(prediction[valid], target[valid]), valid.sum()


# all that the first process sees of the first batch is ignored: no process alone decides on the metrics
late = torch.where(torch.arange(22) < 3, -100, y)
losses = {
    "default": (nn.CrossEntropyLoss(), partly_ignored, 3),
    "function": (nn.functional.cross_entropy, partly_ignored, 3),
    "weights": (nn.CrossEntropyLoss(weight), y, 3),
    "ignored": (nn.CrossEntropyLoss(ignore_index=0), y, 3),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), y, 3),
    "counted": (counted, late, 3),
    "words": (nn.CrossEntropyLoss(weight), words, 6),
}


class Learned(nn.Module):
    """A loss with a parameter, whose initial value differs between processes."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0 + rank()).double())

    def forward(self, prediction, target):
        return nn.functional.cross_entropy(prediction * self.scale, target)


losses |= {"learned": (Learned(), y, 3)}
results = {}
for name, (loss, target, outputs) in losses.items():
    torch.manual_seed(0)
    model = nn.Linear(4, outputs).double()
    if outputs == 6:
        model = nn.Sequential(model, nn.Unflatten(1, (3, 2)))
    data = TensorDataset(x, target)
    trainer = Trainer(
        model,
        DataLoader(data, 5),
        torch.optim.SGD([*model.parameters(), *(loss.parameters() if name == "learned" else ())], 0.02),
        loss,
        DataLoader(data, 5),
        accumulate=2 if name == "learned" else 1,
    )
    history = trainer.fit(2)
    if name == "learned":
        results[name] = loss.scale.detach()
    results |= {f"{name} {n}": t for n, t in model.state_dict().items()} | {
        f"{name} {n}": torch.tensor(history[n]).double() for n in history.names if n != "seconds"
    }
save_file(results, f"{sys.argv[1]}-{rank()}")
