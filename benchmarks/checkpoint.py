"""Measure how long the training loop waits for a checkpoint, compared with a synchronous torch.save of the same state.

    python benchmarks/checkpoint.py [--sizes 10,100,500,2000] [--rounds 15] [--folder DIR]

Medians of paired runs. The state is a model with Adam's moments. As in training, a save follows an optimizer step, then
a batch goes forward and backward, then comes the next optimizer step. The pause is the time that the loop waits for the
checkpoint: in `save`, and before the next step until the moments have been copied.

The columns after the pause:

    pause at once  the pause if `save` copies everything, as with compile='step', over the time of torch.save
    batch          the time of a batch while the thread copies and writes, over the time of a batch alone; it is more
                   on a machine with few cores

"first pause" includes the allocation of the memory for the copy. The first row is a model of many small layers, which
shows the cost per tensor.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mlkit.training.checkpoint import Checkpoints, flatten_state


class Training:
    """A training run whose state, a model and Adam's moments, has a size of `megabytes`.

    width: of the square weight matrices; default: as large as fits, at most 2000 (16 MB).
    """

    def __init__(self, megabytes, width=None):
        parameters = megabytes * 10**6 // 12  # 4 bytes each, and 8 of Adam's moments
        width = width or min(2000, int((parameters / 2) ** 0.5))
        layers = []
        for _ in range(round(parameters / width**2)):
            layers += [nn.Linear(width, width), nn.ReLU()]
        self.model = nn.Sequential(*layers)
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        self.x = torch.randn(32, width)
        self.step()

    def state(self):
        return dict(model=self.model.state_dict(), optimizer=self.optimizer.state_dict())

    def step(self):
        """Train on a batch, do an optimizer step, and return the state to save."""
        self.batch()
        self.optimizer.step()
        return self.state()

    def batch(self):
        """Run the model forward and backward on a batch."""
        self.optimizer.zero_grad()
        self.model(self.x).square().mean().backward()


def seconds(f):
    """Return how long a call of `f` takes."""
    started_at = time.perf_counter()
    f()
    return time.perf_counter() - started_at


@dataclass
class Measurement:
    """Times in seconds."""

    torch_save: float
    pause: float
    batch_during_write: float
    batch_alone: float


def measure(training, checkpoints, path, later):
    """Measure torch.save to `path`, and a save of `checkpoints` with the option `later`."""
    checkpoints.wait()
    batch_alone = seconds(training.batch)
    state = training.step()
    torch_save = seconds(lambda: torch.save(state, path))
    state = training.step()
    pause = seconds(lambda: checkpoints.save(state, 0, later=later))
    batch_during_write = seconds(training.batch)
    if later:
        pause += seconds(checkpoints.wait_for_copy)
    training.optimizer.step()
    return Measurement(torch_save, pause, batch_during_write, batch_alone)


def median(measurements, field):
    return statistics.median(getattr(m, field) for m in measurements)


def median_ratio(measurements):
    """Return the median of the pause over the time of torch.save."""
    return statistics.median(m.pause / m.torch_save for m in measurements)


def measure_size(megabytes, width, rounds, folder):
    """Measure a state of this size, and print a row of the table."""
    training = Training(megabytes, width)
    _, tensors = flatten_state(training.state())
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        checkpoints = Checkpoints(Path(temporary) / "mlkit", keep=1)
        path = Path(temporary) / "torch.pt"
        first = measure(training, checkpoints, path, "optimizer")
        copied_later = []
        copied_at_once = []
        for _ in range(rounds):
            copied_later.append(measure(training, checkpoints, path, "optimizer"))
            copied_at_once.append(measure(training, checkpoints, path, ""))
        checkpoints.wait()
    torch_save = 1e3 * median(copied_later, "torch_save")
    pause = 1e3 * median(copied_later, "pause")
    batch = median(copied_later, "batch_during_write") / median(copied_later, "batch_alone")
    print(
        f"{megabytes:5} MB  {len(tensors):7}  {torch_save:7.1f} ms  {first.pause * 1e3:8.1f} ms  {pause:5.1f} ms  "
        f"{median_ratio(copied_later):37.3f}  {median_ratio(copied_at_once):13.3f}  {batch:5.1f} x",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10,100,500,2000", help="megabytes of state")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", help="on the disk to measure; default: a temporary folder")
    args = parser.parse_args()
    print(
        "   state  tensors  torch.save  first pause     pause  pause/torch.save (aim: at most 0.10)  "
        "pause at once    batch"
    )
    measure_size(10, 90, args.rounds, args.folder)
    for megabytes in args.sizes.split(","):
        measure_size(int(megabytes), None, args.rounds, args.folder)


if __name__ == "__main__":
    main()
