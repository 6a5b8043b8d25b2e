"""A module of a package: it imports its neighbours relatively, and reads a file next to it."""

import argparse
import json
import os
from pathlib import Path

from .layers import WIDTH

SETTINGS = Path(__file__).parent / "settings.json"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", default=os.environ.get("SM_MODEL_DIR"))
    args = parser.parse_args()
    result = [WIDTH, json.loads(SETTINGS.read_text()), Path("code.txt").read_text().strip()]
    (Path(args.output) / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
