"""Measure the memory and the processor time of a process and all its descendants."""

import os
import re
from pathlib import Path


def list_children():
    """Return the ids of the child processes of each process: {pid: [pid]}."""
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(_fields(path)[1])
        except OSError:  # the process has ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    return children


def family(pid):
    """Return the ids of a process and all its descendants."""
    children = list_children()
    pids = [pid]
    for parent in pids:  # the list grows
        pids += children.get(parent, [])
    return pids


def measure_memory(pid):
    """Return the proportional set size (PSS) of a process and all its descendants in MB."""
    kilobytes = 0
    for member in family(pid):
        try:
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:  # the process has ended
            continue
        if match := re.search(r"^Pss:\s+(\d+)", text, re.M):
            kilobytes += int(match[1])
    return kilobytes / 1024


def processor_seconds(pid):
    """Return the processor time so far of a process, its descendants, and the processes that they have waited for."""
    ticks = 0
    for member in family(pid):
        try:
            fields = _fields(Path(f"/proc/{member}/stat"))
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _fields(path):
    """Return the fields of /proc/PID/stat after the name of the program, which may contain spaces."""
    return path.read_text().rpartition(")")[2].split()
