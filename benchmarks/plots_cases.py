"""The training runs that plots.py measures; it imports this module in a kernel. Each peer is used as its own
documentation shows."""

import statistics
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mlkit.notebook.curves import Curves
from mlkit.notebook.display import View
from mlkit.notebook.loss_plot import LossPlot
from mlkit.training import train_model


def seconds(function):
    """Return how long a call takes."""
    started_at = time.perf_counter()
    function()
    return time.perf_counter() - started_at


def median_ms(function, count=20):
    return statistics.median_high([seconds(function) for _ in range(count)]) * 1e3


def draw(view, curves):
    """Draw curves that have changed since the last drawing."""
    curves.seconds += 1
    view.show(curves)


def make_model():
    return nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Linear(50, 2))


class MeasuredPlot(LossPlot):
    """Measure the picture at the end apart: it is made once, however long the run."""

    end_seconds = 0.0

    def _end(self, trainer, state):
        self.cost_at_end = self.cost
        self.end_seconds = seconds(lambda: super(MeasuredPlot, self)._end(trainer, state))


class Cases:
    """Pairs of runs, without and with a display of the loss.

    epochs, steps: length of a run; the data has `steps` batches of 32 rows.
    """

    def __init__(self, epochs: int, steps: int):
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.epochs = epochs
        self.steps = steps
        self.x = torch.randn(steps * 32, 10)
        self.y = (self.x.sum(1) > 0).long()
        self.batches = list(zip(self.x.split(32), self.y.split(32)))
        self.end_seconds = 0.0  # of the last run with LossPlot
        self.costs = []  # fractions of the time, by LossPlot's own account

    def measure(self, name: str) -> tuple[float, float, float]:
        """Return the seconds of a run without and with a display, and of the picture at the end."""
        without, with_display = {
            "mlkit": (self.train_with_mlkit, lambda: self.train_with_mlkit(MeasuredPlot())),
            "tqdm.notebook": (self.train, self.train_with_tqdm),
            "fastprogress": (self.train, self.train_with_fastprogress),
            "livelossplot": (self.train, self.train_with_livelossplot),
        }[name]
        self.end_seconds = 0.0
        return seconds(without), seconds(with_display), self.end_seconds

    def median_cost(self) -> float:
        """Return the fraction of the time that LossPlot took, by its own account."""
        return statistics.median_high(self.costs)

    def train(self, batches_of_epoch=None, after_step=None, after_epoch=None):
        """Train in a plain loop. The functions get the epoch, the loss of a step, and the mean loss of an epoch."""
        model = make_model()
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        loss_fn = nn.CrossEntropyLoss()
        for epoch in range(self.epochs):
            losses = []
            for x, y in batches_of_epoch(epoch) if batches_of_epoch else self.batches:
                loss = loss_fn(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                if after_step:
                    after_step(losses[-1])
            if after_epoch:
                after_epoch(sum(losses) / len(losses))

    def train_with_mlkit(self, *plots):
        loader = DataLoader(TensorDataset(self.x, self.y), 32)
        train_model(make_model(), loader, self.epochs, 0.001, callbacks=plots, verbose=False)
        for plot in plots:
            self.end_seconds = plot.end_seconds
            self.costs.append(plot.cost_at_end)

    def train_with_tqdm(self):
        from tqdm.notebook import tqdm

        bar = None

        def batches_of_epoch(epoch):
            nonlocal bar
            bar = tqdm(self.batches, desc=str(epoch))
            return bar

        self.train(batches_of_epoch, after_step=lambda loss: bar.set_postfix(loss=loss))

    def train_with_fastprogress(self):
        from fastprogress import master_bar, progress_bar

        master = master_bar(range(self.epochs))
        epochs = iter(master)
        losses = []

        def batches_of_epoch(epoch):
            next(epochs)
            return progress_bar(self.batches, parent=master)

        def after_epoch(loss):
            losses.append(loss)
            master.update_graph([[list(range(len(losses))), losses]])

        self.train(batches_of_epoch, after_epoch=after_epoch)

    def train_with_livelossplot(self):
        from livelossplot import PlotLosses

        plot = PlotLosses()

        def after_epoch(loss):
            plot.update({"loss": loss})
            plot.send()

        self.train(after_epoch=after_epoch)

    def measure_drawings(self) -> dict[str, float]:
        """Return the milliseconds of one drawing by each library, with the curves of a whole run."""
        from fastprogress import master_bar
        from livelossplot import PlotLosses
        from tqdm.notebook import tqdm

        losses = [1 / (i + 1) for i in range(self.epochs)]
        curves = Curves(total_epochs=self.epochs)
        curves.loss.extend(torch.rand(self.epochs * self.steps).tolist())
        for i, loss in enumerate(losses):
            curves.add_epoch({"epoch": i + 1, "train_loss": loss, "valid_loss": loss})
        view = View()
        bar = tqdm(total=10**6)
        master = master_bar(range(3))
        next(iter(master))
        plot = PlotLosses()
        for loss in losses:
            plot.update({"loss": loss})
        return {
            "mlkit": median_ms(lambda: draw(view, curves)),
            "tqdm.notebook": median_ms(bar.refresh),
            "fastprogress": median_ms(lambda: master.update_graph([[list(range(self.epochs)), losses]])),
            "livelossplot": median_ms(plot.send),
        }
