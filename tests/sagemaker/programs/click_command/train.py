"""Its arguments are options of click."""

import json
import os

import click


@click.command()
@click.option("--epochs", type=int, default=1)
@click.option("--name", default="")
def main(epochs, name):
    with open(os.path.join(os.environ["SM_MODEL_DIR"], "result.json"), "w") as f:
        json.dump([epochs, name], f)


if __name__ == "__main__":
    main()
