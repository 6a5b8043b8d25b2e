"""It knows where a container has its folders, and asks no variable."""

import json
import os

PREFIX = "/opt/ml"


def train():
    with open(os.path.join(PREFIX, "input/config/hyperparameters.json")) as f:
        epochs = int(json.load(f)["epochs"])
    names = os.listdir(os.path.join(PREFIX, "input/data/train"))
    with open(os.path.join(PREFIX, "model/result.json"), "w") as f:
        json.dump([epochs, names], f)


if __name__ == "__main__":
    train()
