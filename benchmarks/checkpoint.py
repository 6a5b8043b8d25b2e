"""How long the training loop waits for a checkpoint, against a synchronous torch.save of the same state: paired runs, medians.

    python benchmarks/checkpoint.py [--sizes 10,100,500,2000] [--rounds 5] [--folder DIR]

The state is a model and its Adam moments. The first save of a run also makes the memory for the copy; it has a column of its own.
"""
import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from mlkit.checkpoint import Checkpoints


def make_state(megabytes):
    "Parameters and two moments each, in tensors of at most 16 MB"
    n = megabytes * 10**6 // 12
    sizes = [min(4 * 10**6, n - i) for i in range(0, n, 4 * 10**6)]
    return {'model': {str(i): torch.randn(s) for i, s in enumerate(sizes)},
            'optimizer': {'state': {i: {'exp_avg': torch.randn(s), 'exp_avg_sq': torch.rand(s)} for i, s in enumerate(sizes)}}}


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def measure(megabytes, rounds, folder):
    "Milliseconds of torch.save, of the first pause and of the later ones; and the median ratio of the pairs"
    state, points, pairs = make_state(megabytes), Checkpoints(folder/'mlkit', keep=1), []
    first = seconds(lambda: points.save(state, 0))
    points.wait()
    for i in range(rounds):
        whole = seconds(lambda: torch.save(state, folder/'torch.pt'))
        pause = seconds(lambda: points.save(state, i + 1))
        points.wait()
        pairs.append((whole, pause))
    a, b = ([p[i] for p in pairs] for i in range(2))
    return 1e3*statistics.median(a), 1e3*first, 1e3*statistics.median(b), statistics.median(y/x for x, y in pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', default='10,100,500,2000', help='megabytes of state')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--folder', help='on the disk to measure; a temporary folder, unless given')
    args = parser.parse_args()
    print(f'{"state":>8}  {"torch.save":>10}  {"first pause":>11}  {"pause":>8}  {"pause/torch.save":>16}  (aim: at most 0.10)')
    for size in map(int, args.sizes.split(',')):
        with tempfile.TemporaryDirectory(dir=args.folder) as d: whole, first, pause, ratio = measure(size, args.rounds, Path(d))
        print(f'{size:5} MB  {whole:7.1f} ms  {first:8.1f} ms  {pause:5.1f} ms  {ratio:16.3f}', flush=True)


if __name__ == '__main__': main()
