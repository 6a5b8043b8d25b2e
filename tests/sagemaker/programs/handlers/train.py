"""Training and handlers are in one file, which an endpoint imports: nothing may run at its import."""

import argparse
import json
import os


def model_fn(model_dir):
    with open(os.path.join(model_dir, "result.json")) as f:
        return json.load(f)


def predict_fn(data, model):
    return [model["slope"] * x for x in data]


def train(args):
    with open(os.path.join(args.model_dir, "result.json"), "w") as f:
        json.dump({"slope": args.slope}, f)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--slope", type=float, default=1.0)
    parser.add_argument("--model-dir", default=os.environ["SM_MODEL_DIR"])
    parser.add_argument("--train", default=os.environ["SM_CHANNEL_TRAIN"])
    parser.add_argument("--test", default=os.environ.get("SM_CHANNEL_TEST"))
    arguments, _ = parser.parse_known_args()
    train(arguments)
