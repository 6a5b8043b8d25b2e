"""What importing the job's entry point costs over importing torch alone: medians of paired fresh processes.

python benchmarks/imports.py [PAIRS]
"""

import os
import statistics
import subprocess
import sys

statement = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module):
    # an installed package has its bytecode
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return float(
        subprocess.run(
            [sys.executable, "-c", statement.format(module)], env=env, text=True, capture_output=True, check=True
        ).stdout
    )


def main(pairs=15):
    seconds("mlkit.sagemaker_entry")  # warms the disk's cache
    runs = [(seconds("torch"), seconds("mlkit.sagemaker_entry")) for _ in range(pairs)]
    print(f"import torch                  {1e3 * statistics.median(a for a, _ in runs):7.0f} ms")
    print(f"import mlkit.sagemaker_entry  {1e3 * statistics.median(b for _, b in runs):7.0f} ms")
    print(
        f"difference                    {1e3 * statistics.median(b - a for a, b in runs):7.0f} ms, median of {pairs} "
        "pairs (aim: at most 50)"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
