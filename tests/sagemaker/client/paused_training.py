"""A training program that prints each step and each epoch, can pause after a step, and saves its model."""

import time
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, TensorDataset

from mlkit.model import MyCustomModel
from mlkit.model.saving import save_model
from mlkit.sagemaker_entry import Container, entry_point
from mlkit.training import train_model


@dataclass
class Config:
    epochs: int = 10  # passes over the data, of 4 steps
    pause: float = 0.0  # seconds after a step


class PrintProgress:
    def __init__(self, pause):
        self.pause = pause

    def after_step(self, trainer):
        time.sleep(self.pause)
        print(f"step {trainer.step}", flush=True)

    def after_epoch(self, trainer):
        loss = trainer.last_metrics["train_loss"]
        print(f"[metrics] epoch={trainer.epoch} train_loss={loss:.6f}", flush=True)


@entry_point
def main(config: Config, container: Container):
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    loader = DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch_size=16, shuffle=True)
    model = MyCustomModel(4, 8, 2)
    train_model(
        model,
        loader,
        epochs=config.epochs,
        learning_rate=0.01,
        callbacks=[PrintProgress(config.pause)],
        checkpoints=container.checkpoint_dir,
        save_every=1,
        seed=0,
        verbose=False,
    )
    save_model(model, container.model_dir)


if __name__ == "__main__":
    main()
