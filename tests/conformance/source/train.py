"""Train as a user's program does in a job. The environment variable MODE, which a real job lacks, makes it fail."""

import dataclasses
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field

if os.environ.get("MODE") == "report":  # as a program that knows nothing of mlkit
    with open(f"/opt/ml/output/data/{os.environ.get('RANK', 0)}.json", "w") as f:
        json.dump(dict(environ=dict(os.environ), argv=sys.argv, cwd=os.getcwd(), path=sys.path), f)
    sys.exit(0)
if os.environ.get("MODE") == "raise":
    {"images": 1}["labels"]

from mlkit.sagemaker.job.builtin import Config, Container, train
from mlkit.sagemaker.job.entry import entry_point
from mlkit.training.distributed import is_main, join_processes, rank


@dataclass
class Settings:
    epochs: int = 1
    learning_rate: float = 0.0
    on: bool = False
    off: bool = True
    nothing: int | None = 3
    numbers: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    text: str = ""
    digits: str = ""
    b: str = ""
    processes: int | None = None


class Slow:
    """Slow training down, so that a signal arrives in the middle of an epoch."""

    def after_step(self, trainer):
        time.sleep(0.1)


def fail_on_last_rank(mode):
    """Raise an error in the process with the highest rank, or kill it; the other processes wait for it."""
    join_processes(60)
    if rank() == int(os.environ.get("WORLD_SIZE", 1)) - 1:
        if mode == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("sample 3 has no label")
    import torch.distributed

    torch.distributed.barrier()


@entry_point
def main(config: Settings, container: Container):
    mode = os.environ.get("MODE")
    if mode == "exit":
        sys.exit(7)
    if mode in ("error", "killed"):
        fail_on_last_rank(mode)
    if is_main():
        container.output_data_dir.mkdir(parents=True, exist_ok=True)
        values = json.dumps(dataclasses.asdict(config))
        (container.output_data_dir / "config.json").write_text(values, encoding="utf-8")
    options = Config(
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        save_every=1,
        seed=1,
        callbacks=["train:Slow"] if mode == "slow" else [],
    )
    train(options, container)


if __name__ == "__main__":
    main()
