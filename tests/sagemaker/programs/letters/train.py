"""Its arguments have one letter and one dash, and it leaves arguments that it does not know to others."""

import argparse
import json
import os


def read_arguments():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-b", type=int, default=1)
    parser.add_argument("-j", "--workers", type=int, default=1)
    return parser.parse_known_args()


def main():
    args, rest = read_arguments()
    with open(os.path.join(os.environ["SM_MODEL_DIR"], "result.json"), "w") as f:
        json.dump([args.b, args.workers, rest], f)


main()
