"""Save checkpoints in a separate process: checkpoint_child.py shutdown | full FOLDER"""

import resource
import signal
import sys
import threading
import time

import torch

from mlkit.training.checkpoint import Checkpoints


def save_during_shutdown(checkpoints):
    """Save from a thread that continues to train after the main thread has ended."""

    def continue_training():
        threading.main_thread().join()
        time.sleep(0.2)
        checkpoints.save(dict(x=torch.ones(10**6)), 2)

    checkpoints.save(dict(x=torch.ones(10**6)), 1)
    threading.Thread(target=continue_training).start()


def save_to_full_disk(checkpoints):
    """Save a small state, a state larger than the size limit of files, and a small state again."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    for step, n in (1, 10), (2, 10**6), (3, 10):
        checkpoints.save(dict(x=torch.ones(n)), step, patient=True)
    checkpoints.wait()


if __name__ == "__main__":
    command, folder = sys.argv[1:]
    {"shutdown": save_during_shutdown, "full": save_to_full_disk}[command](Checkpoints(folder))
