"""Helpers that several test modules share."""

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
CONFORMANCE = TESTS / "conformance"


def missing():
    """Return why this machine cannot run containers in namespaces, or None if it can."""
    if sys.platform != "linux" or os.geteuid():
        return "needs root on Linux, to run each container in its own namespaces"
    for tool in ("ip", "unshare"):
        if not shutil.which(tool):
            return f"needs the program {tool!r}"
    command = ["unshare", "--mount", "--uts", "--pid", "--net", "--fork", "true"]
    if subprocess.run(command, capture_output=True).returncode:
        return "namespaces are not allowed here"
    return None


def environment(name):
    """Return the folder of programs of a virtual environment with the packages in conformance/NAME.txt.

    The environment is created by the first call, and again after the file has changed. Other processes wait for it.
    """
    requirements = CONFORMANCE / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_text().encode()).hexdigest()[:8]
    folder = REPOSITORY / ".venv-conformance" / f"{name}-{digest}"
    folder.parent.mkdir(exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "-r", requirements], check=True, capture_output=True)
            (folder / "done").touch()
    return folder / "bin"


def wait_for(url, server):
    """Wait until a server answers. Raises AssertionError if its process ends."""
    while True:
        assert server.poll() is None, "the server did not start"
        try:
            return urlopen(url).close()
        except URLError:
            time.sleep(0.1)


def free_port():
    """Return a port of this machine that no server listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def assert_types(description, **types):
    """Assert that the fields of a response of the API have these types."""
    for field, expected_type in types.items():
        assert isinstance(description[field], expected_type), field


def running(text):
    """Return the ids of the processes with `text` in their command line. Null characters separate the arguments."""
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and text in read_command_line(pid)]


def read_command_line(pid):
    """Return the command line of a process, or an empty string if the process has ended."""
    try:
        with open(f"/proc/{pid}/cmdline") as f:
            return f.read()
    except OSError:
        return ""
