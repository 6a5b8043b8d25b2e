"""It asks a package of AWS's images for its environment."""

import argparse

from sagemaker_training import environment

if __name__ == "__main__":
    env = environment.Environment()
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-dir", default=env.model_dir)
    print(parser.parse_args().model_dir)
