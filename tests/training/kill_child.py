"""Train a small model with everything that could make a resumed run differ: kill_child.py FOLDER OUT [DIE_AT]"""

import os
import random
import signal
import sys

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mlkit.training import checkpoint
from mlkit.training.trainer import Trainer


class Noisy(Dataset):
    """Samples with a transform that draws from the generators of torch, Python and NumPy."""

    def __len__(self):
        return 96

    def __getitem__(self, i):
        return torch.full((4,), i / 96) + torch.rand(4) * random.random() * np.random.rand(), i % 2


class Report:
    def after_step(self, trainer):
        print(trainer.step, flush=True)


def die_inside_a_save(countdown):
    """Kill this process inside a save, before the call number `countdown` of the functions that write a checkpoint."""

    def count_down(f):
        def call(*args, **kwargs):
            nonlocal countdown
            countdown -= 1
            if countdown < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return f(*args, **kwargs)

        return call

    for name in ("_fingerprint", "_sync", "save_file"):
        setattr(checkpoint, name, count_down(getattr(checkpoint, name)))
    os.rename = count_down(os.rename)


def main(folder, out, die_at=None):
    if die_at:
        die_inside_a_save(int(die_at))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.Dropout(0.3), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    trainer = Trainer(
        model,
        DataLoader(Noisy(), 8, shuffle=True),
        optimizer,
        nn.CrossEntropyLoss(),
        valid_loader=DataLoader(Noisy(), 32),
        accumulate=2,
        checkpoints=folder,
        save_every=1,
        callbacks=[Report()],
    )
    history = trainer.fit(40)
    losses = {"steps": torch.tensor(history.steps), "valid": torch.tensor(history["valid_loss"])}
    state = {f"{i}.{k}": v for i, s in enumerate(optimizer.state.values()) for k, v in s.items()}
    save_file({**model.state_dict(), **state, **losses}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
