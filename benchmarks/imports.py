"""Compare the time to import the job's entry point with the time to import torch alone, in paired fresh processes.

python benchmarks/imports.py [PAIRS]
"""

import os
import statistics
import subprocess
import sys

PROGRAM = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module):
    """Return how long a fresh process takes to import a module."""
    # Bytecode is cached, as it is for an installed package.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", PROGRAM.format(module)]
    process = subprocess.run(command, env=env, text=True, capture_output=True, check=True)
    return float(process.stdout)


def print_milliseconds(label, seconds, note=""):
    print(f"{label:<28}  {1e3 * statistics.median(seconds):7.0f} ms{note}")


def main(pairs=15):
    seconds("mlkit.sagemaker_entry")  # warms the disk's cache
    runs = [(seconds("torch"), seconds("mlkit.sagemaker_entry")) for _ in range(pairs)]
    print_milliseconds("import torch", [torch for torch, _ in runs])
    print_milliseconds("import mlkit.sagemaker_entry", [mlkit for _, mlkit in runs])
    note = f", median of {pairs} pairs (aim: at most 50)"
    print_milliseconds("difference", [mlkit - torch for torch, mlkit in runs], note)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
