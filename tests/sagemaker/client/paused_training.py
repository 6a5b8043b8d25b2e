"""A training program that can pause after each step, so that a test has time to stop it."""

import time
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, TensorDataset

from mlkit.model import MyCustomModel
from mlkit.sagemaker_entry import Container, entry_point
from mlkit.training import train_model


@dataclass
class Config:
    epochs: int = 3  # passes over the data
    pause: float = 0.0  # seconds a step


class Pause:
    def __init__(self, seconds):
        self.seconds = seconds

    def after_step(self, trainer):
        time.sleep(self.seconds)

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
        callbacks=[Pause(config.pause)],
        checkpoints=container.checkpoint_dir,
        save_every=1,
        seed=0,
        verbose=False,
    )
    torch.save(model.state_dict(), container.model_dir / "weights.pt")


if __name__ == "__main__":
    main()
