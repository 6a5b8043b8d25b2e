"""What it costs to see the loss: LossPlot against fastprogress, livelossplot and tqdm.notebook, in a real kernel, with
the same training.

    python benchmarks/plots.py [--rounds 5] [--epochs 8] [--steps 1000]

The kernel sends the messages that a front end would receive. tqdm.notebook shows the loss of each step, fastprogress
a graph and livelossplot a plot after each epoch, LossPlot a plot whenever its fraction of the time allows one. The
model is an MLP 10-50-2 at batch 32: steps well under a millisecond. The peers are installed into `.venv-plots` next
to this folder, once. The runs themselves are in plots_cases.py.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from jupyter_client.manager import start_new_kernel

FOLDER = Path(__file__).resolve().parent
PEERS = FOLDER.parent / ".venv-plots"
NAMES = "mlkit", "tqdm.notebook", "fastprogress", "livelossplot"


class Kernel:
    """A Jupyter kernel with the cases loaded."""

    def __init__(self, epochs: int, steps: int):
        self.manager, self.client = start_new_kernel(kernel_name="python3")
        self.execute(
            f"import json, sys\nsys.path[:0] = [{str(PEERS)!r}, {str(FOLDER)!r}]\n"
            f"from plots_cases import Cases\ncases = Cases({epochs}, {steps})"
        )

    def execute(self, code: str) -> str:
        """Run code as a cell and return what it printed. Exit with its traceback if it fails."""
        printed = []
        tracebacks = []

        def on_output(message):
            content = message["content"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                printed.append(content["text"])
            if message["msg_type"] == "error":
                tracebacks.append("\n".join(content["traceback"]))

        self.client.execute_interactive(code, output_hook=on_output, timeout=600)
        if tracebacks:
            sys.exit(tracebacks[0])
        return "".join(printed)

    def evaluate(self, expression: str):
        """Return the value of an expression in the kernel. Progress bars may print before it."""
        lines = self.execute(f'print("\\nRESULT", json.dumps({expression}))').splitlines()
        return json.loads(next(line for line in reversed(lines) if line.startswith("RESULT "))[7:])

    def shutdown(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def install_peers():
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "--target", PEERS, "-r", FOLDER / "peers_plots.txt"], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    if not PEERS.exists():
        install_peers()
    kernel = Kernel(args.epochs, args.steps)
    try:
        for name in NAMES:
            kernel.evaluate(f"cases.measure({name!r})")  # imports and first drawings are not counted
        kernel.execute("cases.costs.clear()")
        times = {name: [kernel.evaluate(f"cases.measure({name!r})") for _ in range(args.rounds)] for name in NAMES}
        drawings = kernel.evaluate("cases.measure_drawings()")
        cost = kernel.evaluate("cases.median_cost()")
    finally:
        kernel.shutdown()

    steps = args.epochs * args.steps
    plain_loop = statistics.median(without for without, _, _ in times["tqdm.notebook"])
    mlkit_loop = statistics.median(without for without, _, _ in times["mlkit"])
    print(
        f"{steps:,} steps of {1e6 * plain_loop / steps:.0f} µs in a plain loop, {1e6 * mlkit_loop / steps:.0f} µs in "
        f"train_model; medians of {args.rounds} paired rounds\n"
    )
    print(f"By its own account LossPlot took {cost:.2%} of the time.\n")
    print("| | extra per step, µs | of the training | one drawing, ms | at the end, ms |\n|---|---|---|---|---|")
    for name, rounds in times.items():
        extra = statistics.median(with_display - end - without for without, with_display, end in rounds)
        fraction = statistics.median((with_display - end - without) / without for without, with_display, end in rounds)
        end_ms = 1e3 * statistics.median(end for _, _, end in rounds)
        print(f"| {name} | {1e6 * extra / steps:.1f} | {fraction:.1%} | {drawings[name]:.2f} | {end_ms:.0f} |")


if __name__ == "__main__":
    main()
