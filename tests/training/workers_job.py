"""Train in two processes, each with a slow DataLoader worker, and print each optimizer step."""

import os
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mlkit.sagemaker_entry import Container, entry_point
from mlkit.training import train_model


class Slow(Dataset):
    def __len__(self):
        return 400

    def __getitem__(self, i):
        time.sleep(0.02)
        return torch.zeros(3), i % 2


class ReportStep:
    def after_step(self, trainer):
        os.write(1, b"step %d\n" % trainer.step)  # in one write, because two processes print


@dataclass
class Config:
    processes: int = 2


@entry_point
def main(config: Config, container: Container):
    train_model(
        nn.Linear(3, 2),
        DataLoader(Slow(), 8, num_workers=1),
        epochs=1,
        learning_rate=1e-3,
        verbose=False,
        checkpoints=container.checkpoint_dir,
        callbacks=[ReportStep()],
    )


if __name__ == "__main__":
    main()
