"""What benchmarks/sweeps.py and its peers optimize: a small network on one of three tables."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mlkit.training import train_model

EPOCHS = 27
TRIALS = 27
SEARCH = {
    "lr": dict(range=(1e-4, 1e-1), log=True),
    "width": dict(range=(4, 128), log=True),
    "dropout": (0.0, 0.6),
    "weight_decay": dict(range=(1e-6, 1.0), log=True),
}
TABLES = "digits", "cancer", "synthetic"


def write_tables(folder):
    """Write the tables as files, which take a process less time than scikit-learn."""
    from sklearn.datasets import load_breast_cancer, load_digits, make_classification
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    options = dict(n_samples=2000, n_features=20, n_informative=8, n_classes=4, flip_y=0.1, random_state=0)
    tables = {
        "digits": load_digits(return_X_y=True),
        "cancer": load_breast_cancer(return_X_y=True),
        "synthetic": make_classification(**options),
    }
    for name, (x, y) in tables.items():
        parts = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
        scaler = StandardScaler().fit(parts[0])
        x_train, x_valid = (scaler.transform(part).astype(np.float32) for part in parts[:2])
        np.savez(Path(folder) / f"{name}.npz", x=x_train, y=parts[2], x_valid=x_valid, y_valid=parts[3])


def first_config(folder, table):
    return {"lr": 1e-3, "width": 32, "dropout": 0.0, "weight_decay": 1e-4, "data": str(Path(folder) / f"{table}.npz")}


def fit(config, callbacks=(), checkpoints=None):
    """Train, and return the history; the same for the same config."""
    with np.load(config["data"]) as data:
        arrays = {name: torch.from_numpy(data[name]) for name in data.files}
    torch.manual_seed(0)
    features = arrays["x"].shape[1]
    model = nn.Sequential(
        nn.Linear(features, config["width"]),
        nn.ReLU(),
        nn.Dropout(config["dropout"]),
        nn.Linear(config["width"], int(arrays["y"].max()) + 1),
    )
    return train_model(
        model,
        DataLoader(TensorDataset(arrays["x"], arrays["y"]), 32, shuffle=True),
        EPOCHS,
        config["lr"],
        valid_loader=DataLoader(TensorDataset(arrays["x_valid"], arrays["y_valid"]), 512),
        optimizer=partial(torch.optim.AdamW, weight_decay=config["weight_decay"], fused=True),
        device="cpu",
        seed=0,
        callbacks=callbacks,
        checkpoints=checkpoints,
        verbose=False,
    )


def train(config, trial):
    """Train as a trial that may be paused."""
    return fit(config, [trial], trial.checkpoints)


def train_whole(config):
    """Train all epochs."""
    return fit(config)
