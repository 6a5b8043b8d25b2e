"""Imports a package that is only found once the setup.py of the folder has been installed."""

import argparse
import json
import os
import sys
from pathlib import Path

from shapes import area

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int)
parser.add_argument("--model-dir", default=os.environ["SM_MODEL_DIR"])
args = parser.parse_args()
result = [area(args.width, 3), __spec__.name, Path(sys.argv[0]).name]
Path(args.model_dir, "result.json").write_text(json.dumps(result))
