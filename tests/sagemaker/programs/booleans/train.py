"""It compares the text of a flag with "True", reads another by type=bool, and a third by ast.literal_eval."""

import argparse
import ast
import json
import os

parser = argparse.ArgumentParser()
parser.add_argument("--pretrained", default="False")
parser.add_argument("--augment", type=bool, default=False)  # any text but an empty one is true
parser.add_argument("--freeze", type=ast.literal_eval, default=False)
parser.add_argument("--scheduler", default="cosine")
args = parser.parse_args()
result = [args.pretrained == "True", args.augment, args.freeze is True, args.scheduler]
with open(os.path.join(os.environ["SM_MODEL_DIR"], "result.json"), "w") as f:
    json.dump(result, f)
