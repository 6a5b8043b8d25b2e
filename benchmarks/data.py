"""Measure how long readers take to make tensors of a table, and how much memory, compared with pandas and pyarrow.

    python benchmarks/data.py [--rows 200000] [--columns 20] [--rounds 5] [--folder DIR]

Each reader runs in a process of its own, in turn with the others, and makes the same tensors of the same file: x
float32 and y int64. The table is of medians. "time" is without imports, and "cpu" that of all threads. "memory" is the
peak of the process while it reads, above its memory before, when torch and the reader's library have been imported;
"peak" is that of the whole process. The ratios are to the peers in the same rows. "gap.csv" has one empty cell, in the
middle; "mixed" files have columns of text, and are read as a table of the reader's own kind.
"""

import argparse
import gc
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np


def write_files(folder, rows, columns):
    """Write the same table of numbers in each format, and one with text; return the files by name."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    rng = np.random.default_rng(0)
    names = ["y", *(f"x{i}" for i in range(columns - 1))]
    numbers = [rng.integers(0, 3, rows), *rng.standard_normal((columns - 1, rows)).round(5)]
    table = pa.table(dict(zip(names, numbers)))
    cities = np.array(["Rome", "Oslo", "Bari", "Lima", "Accra"])
    mixed = {
        name: cities[rng.integers(0, 5, rows)] if i % 4 == 1 else x for i, (name, x) in enumerate(zip(names, numbers))
    }
    csv.write_csv(table, folder / "plain.csv")
    csv.write_csv(pa.table(mixed), folder / "mixed.csv")
    pq.write_table(table, folder / "plain.parquet")
    pq.write_table(pa.table(mixed), folder / "mixed.parquet")
    lines = (folder / "plain.csv").read_text().splitlines()
    middle = len(lines) // 2
    lines[middle] = lines[middle].rpartition(",")[0] + ","
    (folder / "gap.csv").write_text("\n".join(lines) + "\n")


# Each prepares by its imports and returns a function of a path.


def with_mlkit(use_arrow):
    from mlkit.training.data import channel, read_channel, read_table

    if use_arrow:
        import pyarrow.csv
        import pyarrow.parquet  # noqa: F401 -- imported here, so that its time is not measured
    else:
        channel.read_delimited = partial(channel.read_delimited, use_arrow=False)

    def read(path):
        return read_table(path) if "mixed" in path.name else read_channel(path, label="y", missing=0.0).tensors

    return read


def with_pandas():
    import pandas as pd
    import torch

    def read(path):
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        if "mixed" in path.name:
            return frame
        x = frame.drop(columns="y").fillna(0.0)
        return torch.from_numpy(x.to_numpy(np.float32)), torch.from_numpy(frame["y"].to_numpy(np.int64))

    return read


def with_arrow():
    import pandas  # noqa: F401 -- Arrow's to_numpy imports it
    import pyarrow.parquet as pq
    import torch
    from pyarrow import csv

    def read(path):
        table = csv.read_csv(path) if path.suffix == ".csv" else pq.read_table(path)
        if "mixed" in path.name:
            return table
        x = np.empty((len(table), table.num_columns - 1), np.float32)
        for i, column in enumerate(table.drop_columns("y").columns):
            x[:, i] = column.fill_null(0.0).to_numpy()
        return torch.from_numpy(x), torch.from_numpy(table["y"].to_numpy())

    return read


READERS = {
    "mlkit": lambda: with_mlkit(True),
    "mlkit without pyarrow": lambda: with_mlkit(False),
    "pandas": with_pandas,
    "pyarrow": with_arrow,
}
FILES = ("plain.csv", "gap.csv", "mixed.csv", "plain.parquet", "mixed.parquet")


def memory(field):
    """Return a field of this process's status in MiB: VmRSS is its memory now, and VmHWM the peak."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", status)[1]) / 1024


def measure_here(reader, path):
    """Read a file in this process, and print the time and the memory."""
    import torch  # noqa: F401 -- in every process alike

    read = READERS[reader]()
    gc.collect()
    before = memory("VmRSS")
    peak_before = memory("VmHWM")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    started_at = time.perf_counter()
    cpu_before = time.process_time()
    result = read(path)
    seconds = time.perf_counter() - started_at
    cpu = time.process_time() - cpu_before
    peak = memory("VmHWM")
    print(json.dumps(dict(seconds=seconds, cpu=cpu, memory=peak - before, peak=max(peak, peak_before))), flush=True)
    return result


def measure(reader, path):
    process = subprocess.run(
        [sys.executable, __file__, "--read", reader, str(path)], text=True, capture_output=True, check=True
    )
    return json.loads(process.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        measure_here(args.read[0], Path(args.read[1]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        write_files(folder, args.rows, args.columns)
        print(f"{args.rows:,} rows, {args.columns} columns, medians of {args.rounds}")
        print("ratios to pandas and pyarrow: of time, of cpu, of memory")
        print(
            f"{'file':<16}{'reader':<24}{'time':>9}{'cpu':>9}{'memory':>9}{'peak':>9}{'time':>15}{'cpu':>15}{'memory':>15}"
        )
        for name in FILES:
            report(name, compare(folder / name, args.rounds))


def compare(path, rounds):
    """Return the medians of time and memory of each reader that can read a file."""
    readers = [name for name in READERS if path.suffix == ".csv" or name != "mlkit without pyarrow"]
    runs = {name: [] for name in readers}
    for _ in range(rounds):
        for name in readers:
            runs[name].append(measure(name, path))
    return {
        name: {key: statistics.median(run[key] for run in measurements) for key in ("seconds", "cpu", "memory", "peak")}
        for name, measurements in runs.items()
    }


def report(name, medians):
    for reader, result in medians.items():
        ratios = [
            [result[key] / medians[peer][key] for peer in ("pandas", "pyarrow")] for key in ("seconds", "cpu", "memory")
        ]
        columns = "".join(f"{a:9.2f}{b:6.2f}" for a, b in ratios)
        numbers = f"{result['seconds']:8.3f}s{result['cpu']:8.3f}s{result['memory']:6.0f}MiB{result['peak']:6.0f}MiB"
        print(f"{name:<16}{reader:<24}{numbers}{columns}", flush=True)


if __name__ == "__main__":
    main()
