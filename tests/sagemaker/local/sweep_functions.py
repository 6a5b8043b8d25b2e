"""Functions whose sweeps the tests start, kill and continue."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from mlkit.files import atomic_path

EPOCHS = 9


def note(config, text):
    """Add a line to the file that the config names."""
    with open(config["log"], "a") as log:
        log.write(f"{text}\n")


def only_once(config, number):
    """Make sure that no other process runs this trial at the same time."""
    lock = open(f"{config['log']}.{number}", "w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def save(path, state):
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(state))


def loss_after(config, epoch, w):
    return abs(w - config["target"]) + random.Random(f"{config['lr']} {epoch}").random() / 10


def train(config, trial):
    """Train a number for some epochs, saved after each."""
    lock = only_once(config, trial.number)
    path = trial.checkpoints / "state.json"
    state = json.loads(path.read_text()) if path.is_file() else {"epoch": 0, "w": 0.0}
    while state["epoch"] < EPOCHS:
        time.sleep(config["seconds"])
        w = state["w"]
        state = {"epoch": state["epoch"] + 1, "w": w + config["lr"] * (config["target"] - w)}
        note(config, f"epoch {trial.number} {state['epoch']}")
        loss = loss_after(config, state["epoch"], state["w"])
        trial.report(loss, epoch=state["epoch"], save=partial(save, path, state))
    lock.close()


def whole(config):
    """Return a number, without reports."""
    lock = only_once(config, config["lr"])
    time.sleep(config["seconds"] * 5)
    note(config, f"whole {config['lr']}")
    lock.close()
    return abs(config["lr"] - config["target"])


def fails(config):
    if config["lr"] > config["target"]:
        raise RuntimeError(f"no good: {config['width']}")
    return config["lr"]


def dies(config):
    """Be killed by the system each time, as when the memory is full, for one of the widths."""
    note(config, f"dies {config['width']}")
    if config["width"] == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"loss": config["width"]}


def starts_another(config):
    """Start a process that outlives this one, unless it is killed with it."""
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    note(config, str(subprocess.Popen(command).pid))
    time.sleep(600)


def learn(config, trial):
    """Train a small model with mlkit's trainer."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from mlkit.training import train_model

    torch.manual_seed(config["seed"])
    x = torch.randn(64, 4)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    loader = DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), 8, shuffle=True)
    checkpoints = trial.checkpoints if trial else None
    callbacks = [trial] if trial else []
    history = train_model(
        model, loader, 4, config["lr"], valid_loader=loader, callbacks=callbacks, checkpoints=checkpoints, verbose=False
    )
    if trial:
        note(config, f"{trial.number} {[len(history), Path(trial.checkpoints).is_dir()]}")
    return history
