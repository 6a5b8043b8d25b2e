"""Print for each loader whether a continued run ends with the same weights as an uninterrupted one.

resume_child.py FOLDER LOADER..., under torchrun with two processes.
"""

import sys
from pathlib import Path

import torch
from test_resume import LOADERS, train

from mlkit.training.distributed import join_processes

join_processes()
folder, *names = sys.argv[1:]
for name in names:
    whole = train(LOADERS[name])
    continued = train(LOADERS[name], Path(folder) / name, at=[(1, 2), (1, 4)])
    print(f"{name} {torch.equal(continued, whole)}\n", end="", flush=True)  # in one write, because two processes print
