"""The defaults of its arguments are variables of the launcher: without them it ends in a KeyError."""

import argparse
import json
import os

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--hosts", type=json.loads, default=os.environ["SM_HOSTS"])
    parser.add_argument("--current-host", default=os.environ["SM_CURRENT_HOST"])
    parser.add_argument("--model-dir", default=os.environ["SM_MODEL_DIR"])
    parser.add_argument("--data-dir", default=os.environ["SM_CHANNEL_TRAINING"])
    parser.add_argument("--num-gpus", type=int, default=os.environ["SM_NUM_GPUS"])
    args = parser.parse_args()
    result = {
        "epochs": args.epochs,
        "batch": args.batch_size,
        "is_first": args.current_host == args.hosts[0],
        "gpus": args.num_gpus >= 0,
        "files": os.listdir(args.data_dir),
    }
    with open(os.path.join(args.model_dir, "result.json"), "w") as f:
        json.dump(result, f)
