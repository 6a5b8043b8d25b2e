"""A training program that validates each epoch, and saves its model."""

from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, TensorDataset

from mlkit.model import MyCustomModel
from mlkit.model.saving import save_model
from mlkit.sagemaker_entry import Container, entry_point
from mlkit.training import train_model
from mlkit.training.distributed import is_main


@dataclass
class Config:
    epochs: int = 4
    lr: float = 0.1
    processes: int = 1


class PrintMetrics:
    def after_epoch(self, trainer):
        loss = trainer.last_metrics["valid_loss"]
        if is_main():
            print(f"[metrics] epoch={trainer.epoch} valid_loss={loss!r}", flush=True)


@entry_point
def main(config: Config, container: Container):
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    data = TensorDataset(x, (x.sum(1) > 0).long())
    model = MyCustomModel(4, 8, 2)
    train_model(
        model,
        DataLoader(data, batch_size=16, shuffle=True),
        valid_loader=DataLoader(data, batch_size=64),
        epochs=config.epochs,
        learning_rate=config.lr,
        callbacks=[PrintMetrics()],
        checkpoints=container.checkpoint_dir,
        seed=0,
        verbose=False,
    )
    save_model(model, container.model_dir)


if __name__ == "__main__":
    main()
