"""How long the training loop waits for a checkpoint, against a synchronous torch.save of the same state: paired runs,
medians.

    python benchmarks/checkpoint.py [--sizes 10,100,500,2000] [--rounds 15] [--folder DIR]

The state is a model and its Adam moments. As in training, a save comes after an optimizer step, then a batch goes
forward and back,
and then comes the next step. The pause is what the loop waits: in `save`, and before that step, until the moments are
copied. "At once"
is the pause where everything is copied in `save`, as it is with compile='step'. The first pause also makes the memory
for the copy.
"Beside" is how much longer the batch itself takes while the thread copies and writes, which on a machine with few cores
is time, too.
The first row is of a model of many small layers, where it counts what is done for each tensor.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from mlkit.training.checkpoint import Checkpoints, flatten_state


class Training:
    """A model whose state with Adam's moments has some megabytes, in matrices of at most 16 MB, or of `width` rows and
    columns
    """

    def __init__(self, megabytes, width=None):
        n = megabytes * 10**6 // 12
        width = width or min(2000, int((n / 2) ** 0.5))
        self.model = nn.Sequential(
            *[layer for _ in range(round(n / width**2)) for layer in (nn.Linear(width, width), nn.ReLU())]
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        self.x = torch.randn(32, width)
        self.step()

    def state(self):
        return dict(model=self.model.state_dict(), optimizer=self.optimizer.state_dict())

    def step(self):
        """A batch and an optimizer step, after which the state is saved"""
        self.batch()
        self.optimizer.step()
        return self.state()

    def batch(self):
        self.optimizer.zero_grad()
        self.model(self.x).square().mean().backward()


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def measure(training, points, path, later):
    """Seconds of torch.save, of the pause, and of a batch beside the writing and alone"""
    points.wait()
    alone = seconds(training.batch)
    state = training.step()
    whole = seconds(lambda: torch.save(state, path))
    state = training.step()
    pause = seconds(lambda: points.save(state, 0, later=later))
    beside = seconds(training.batch)
    pause += seconds(points.wait_for_copy) if later else 0
    training.optimizer.step()
    return whole, pause, beside, alone


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10,100,500,2000", help="megabytes of state")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", help="on the disk to measure; a temporary folder, unless given")
    args = parser.parse_args()
    print(
        "   state  tensors  torch.save  first pause     pause  pause/torch.save (aim: at most 0.10)   at once  beside"
    )
    for size, width in [(10, 90), *((int(size), None) for size in args.sizes.split(","))]:
        training = Training(size, width)
        tensors = len(flatten_state(training.state())[1])
        with tempfile.TemporaryDirectory(dir=args.folder) as d:
            points = Checkpoints(Path(d) / "mlkit", keep=1)
            path = Path(d) / "torch.pt"
            first = measure(training, points, path, "optimizer")[1]
            late, once = zip(
                *[
                    (measure(training, points, path, "optimizer"), measure(training, points, path, ""))
                    for _ in range(args.rounds)
                ]
            )
            points.wait()
        whole, pause, beside, alone = (1e3 * statistics.median(column) for column in zip(*late))
        ratio, at_once = (statistics.median(pause / whole for whole, pause, *_ in runs) for runs in (late, once))
        print(
            (
                f"{size:5} MB  {tensors:7}  {whole:7.1f} ms  {first * 1e3:8.1f} ms  {pause:5.1f} ms  {ratio:37.3f}  "
                f"{at_once:8.3f}  {beside / alone:5.1f} x"
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
