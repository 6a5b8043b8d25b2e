"""Train a small model with any number of processes, and save its weights and history to OUT-<rank>.

distributed_child.py FOLDER OUT DATA [PARALLEL [KILL_STEP KILL_RANK]]

FOLDER is the folder of the checkpoints, or '-' for none. DATA is 'tensors', 'map', 'dropout' or 'slow'.
"""

import os
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mlkit.training import train_model
from mlkit.training.callbacks.weights import BestWeights
from mlkit.training.distributed import rank, world_size

folder, out, kind = sys.argv[1:4]
parallel = sys.argv[4] if len(sys.argv) > 4 else "ddp"
kill_step, kill_rank = map(int, sys.argv[5:7]) if len(sys.argv) > 6 else (None, None)


class Squares(torch.utils.data.Dataset):
    """A map-style dataset that computes each sample on access."""

    def __len__(self):
        return 45

    def __getitem__(self, i):
        x = torch.arange(4) * 0.25 + i / 45
        return (x * 9).sin(), torch.tensor(i * i % 7 > 2).long()


class Killer:
    """Kill one process at a step, after the first checkpoint; not again after torchrun has restarted it."""

    def after_step(self, trainer):
        if (trainer.step, rank(), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) != (kill_step, kill_rank, "0"):
            return
        while folder != "-" and not list(Path(folder).glob("step-*")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)


class Stopper:
    """Stop the run in the middle of an epoch. Only the last process requests it."""

    def after_step(self, trainer):
        if kind == "slow":
            time.sleep(0.2)
        if out.endswith("half") and trainer.step == 7 and rank() == world_size() - 1:
            trainer.stop("enough")


class Reporter:
    """Print the rank of the process that the callback runs in."""

    rank_zero_only = True

    def before_fit(self, trainer):
        print(f"callback of rank {rank()}", flush=True)


torch.manual_seed(rank())  # the main process must determine the weights and the order of samples
model = nn.Sequential(
    nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.3) if kind == "dropout" else nn.Identity(), nn.Linear(8, 2)
).double()
data = Squares()
x, y = (torch.stack(column) for column in zip(*(data[i] for i in range(len(data)))))
if kind != "map":
    data = TensorDataset(x.double(), y)


def loss(p, y):
    return nn.functional.cross_entropy(p, y)


if kind == "map":
    model = model.float()
history = train_model(
    model,
    DataLoader(data, 10, shuffle=True),
    6,
    0.05,
    valid_loader=DataLoader(data, 7, shuffle=True),
    loss_fn=loss,
    optimizer=torch.optim.Adam if kind != "map" else lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    device="cpu",
    accumulate=2,
    checkpoints=None if folder == "-" else folder,
    save_every=None if folder == "-" else 1,
    callbacks=[Reporter(), Killer(), Stopper()] + [BestWeights()] * (kind == "tensors"),
    parallel=parallel,
)
weights = {n: (t.full_tensor() if hasattr(t, "full_tensor") else t).contiguous() for n, t in model.state_dict().items()}
save_file(
    weights
    | {f"history {n}": torch.tensor(history[n], dtype=torch.float64) for n in history.names if n != "seconds"}
    | {"history steps": torch.tensor(history.steps)},
    f"{out}-{rank()}",
)
