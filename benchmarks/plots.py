"""What it costs to see the loss: LossPlot against fastprogress, livelossplot and tqdm.notebook, in a real kernel, with
the same training.

    python benchmarks/plots.py [--rounds 5] [--epochs 8] [--steps 1000]

The kernel sends what a front end would be sent; each peer is used as its own documentation shows: tqdm.notebook with
the loss of each step, fastprogress with
a graph and livelossplot with a plot after each epoch, LossPlot whenever its share of the time allows it. The model is
an MLP 10-50-2 at batch 32: steps well under
a millisecond. The peers are installed into `.venv-plots` beside this folder, once.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from jupyter_client.manager import start_new_kernel

here = Path(__file__).parent
peers = here.parent / ".venv-plots"

SETUP = """
import json, sys, time
sys.path.insert(0, PEERS)
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from mlkit.training import train_model
from mlkit.notebook.curves import Curves
from mlkit.notebook.loss_plot import LossPlot
from mlkit.notebook.display import View
from mlkit.notebook.svg import draw_svg
torch.set_num_threads(1)
torch.manual_seed(0)
x = torch.randn(STEPS*32, 10)
batches = [(x[i:i+32], (x[i:i+32].sum(1) > 0).long()) for i in range(0, len(x), 32)]
def make(): return nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Linear(50, 2))

def plain(steps=lambda epoch: batches, after_step=None, after_epoch=None):
    model = make()
    optimizer, loss_fn = torch.optim.Adam(model.parameters(), fused=True), nn.CrossEntropyLoss()
    for epoch in range(EPOCHS):
        losses = []
        for a, b in steps(epoch):
            loss = loss_fn(model(a), b)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if after_step: after_step(losses[-1])
        if after_epoch: after_epoch(sum(losses)/len(losses))

def use_mlkit(*callbacks):
    train_model(make(), DataLoader(TensorDataset(x, torch.cat([b for _, b in batches])), 32), EPOCHS, .001, callbacks=callbacks, verbose=False)

ends, costs = [], [] # seconds; shares of the time, by its own account
class Timed(LossPlot):
    "The picture at the end is made once, however long the run; it has a column of its own"
    def _end(self, trainer, state):
        costs.append(self.cost)
        ends.append(seconds(lambda: super(Timed, self)._end(trainer, state)))

def use_tqdm():
    from tqdm.notebook import tqdm
    bar = []
    def steps(epoch):
        bar[:] = [tqdm(batches, desc=str(epoch))]
        return bar[0]
    plain(steps, lambda loss: bar[0].set_postfix(loss=loss))

def use_fastprogress():
    from fastprogress import master_bar, progress_bar
    master, seen = master_bar(range(EPOCHS)), []
    epochs = iter(master)
    def steps(epoch):
        next(epochs)
        return progress_bar(batches, parent=master)
    def after_epoch(loss):
        seen.append(loss)
        master.update_graph([[list(range(len(seen))), seen]])
    plain(steps, None, after_epoch)

def use_livelossplot():
    from livelossplot import PlotLosses
    plot = PlotLosses()
    def after_epoch(loss):
        plot.update({'loss': loss})
        plot.send()
    plain(after_epoch=after_epoch)

def seconds(f):
    began = time.perf_counter()
    f()
    return time.perf_counter() - began

def median_ms(f, n=20): return sorted(seconds(f) for _ in range(n))[n//2]*1e3

def redraws():
    "One drawing, in ms, with the curves of EPOCHS epochs"
    found, values = {}, [1/(i+1) for i in range(EPOCHS)]
    curves = Curves(total=EPOCHS)
    curves.loss.extend(torch.rand(EPOCHS*STEPS).tolist())
    for i, v in enumerate(values): curves.add_epoch(dict(epoch=i+1, train_loss=v, valid_loss=v))
    view = View()
    found['mlkit'] = median_ms(lambda: view.show(curves, draw_svg(curves)))
    from tqdm.notebook import tqdm
    bar = tqdm(total=10**6)
    found['tqdm.notebook'] = median_ms(bar.refresh)
    from fastprogress import master_bar, progress_bar
    master = master_bar(range(3)); next(iter(master))
    found['fastprogress'] = median_ms(lambda: master.update_graph([[list(range(EPOCHS)), values]]))
    from livelossplot import PlotLosses
    plot = PlotLosses()
    for v in values: plot.update({'loss': v})
    found['livelossplot'] = median_ms(plot.send)
    return found
"""
PAIRS = {
    "mlkit": ("use_mlkit()", "use_mlkit(Timed())"),
    "tqdm.notebook": ("plain()", "use_tqdm()"),
    "fastprogress": ("plain()", "use_fastprogress()"),
    "livelossplot": ("plain()", "use_livelossplot()"),
}


def run(client, code):
    """The last line that a cell printed, as JSON; its error ends the benchmark"""
    printed = []
    failed = []

    def hear(message):
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            printed.append(message["content"]["text"])
        if message["msg_type"] == "error":
            failed.append("\n".join(message["content"]["traceback"]))

    client.execute_interactive(code, output_hook=hear, timeout=600)
    if failed:
        sys.exit(failed[0])
    found = [line for line in "".join(printed).splitlines() if line.startswith("RESULT ")]
    return json.loads(found[-1][7:]) if found else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 5), ("epochs", 8), ("steps", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    if not peers.exists():
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--target",
                peers,
                "-r",
                here / "peers_plots.txt",
            ],
            check=True,
        )
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        run(client, f"PEERS, EPOCHS, STEPS = {str(peers)!r}, {args.epochs}, {args.steps}\n{SETUP}")
        for _, code in PAIRS.values():
            run(client, f"{code}; ends.clear()")  # imports and first drawings are not counted
        times = {
            name: [
                run(
                    client,
                    (
                        f'print("RESULT", json.dumps([seconds(lambda: {a}), seconds(lambda: {b}), ends.pop() if ends '
                        "else 0]))"
                    ),
                )
                for _ in range(args.rounds)
            ]
            for name, (a, b) in PAIRS.items()
        }
        drawings = run(client, 'print("RESULT", json.dumps(redraws()))')
        account = run(client, 'print("RESULT", json.dumps(sorted(costs)[len(costs)//2]))')
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    count = args.epochs * args.steps
    print(
        f"{count:,} steps of {1e6 * statistics.median(a for a, *_ in times['tqdm.notebook']) / count:.0f} µs in a "
        f"plain loop, {1e6 * statistics.median(a for a, *_ in times['mlkit']) / count:.0f} µs in train_model; "
        f"medians of {args.rounds} paired rounds\n"
    )
    print(f"By its own account LossPlot took {account:.2%} of the time.\n")
    print("| | a step, µs more | of the training | one drawing, ms | at the end, ms |\n|---|---|---|---|---|")
    for name, pairs in times.items():
        more = statistics.median(b - end - a for a, b, end in pairs)
        print(
            f"| {name} | {1e6 * more / count:.1f} | {statistics.median((b - end - a) / a for a, b, end in pairs):.1%}"
            f" | {drawings[name]:.2f} | {1e3 * statistics.median(end for *_, end in pairs):.0f} |"
        )


if __name__ == "__main__":
    main()
