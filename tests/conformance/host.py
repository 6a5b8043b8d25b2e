"""Plays the machines of SageMaker: runs a CreateTrainingJob request with its program as process 1, at /opt/ml, on hosts
of a network of their own
"""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from mlkit.sagemaker.job.container import lay_out

INSIDE = 'mount --bind "$1" /opt/ml && mount --bind "$2" /etc/hosts && hostname "$3" && cd / && shift 3 && exec "$@"'


def sh(*command):
    subprocess.run(command, check=True, capture_output=True)


class Network:
    """Two hosts and a place for S3, each a network namespace on one bridge; nothing of it is reachable from outside
    this machine
    """

    def __init__(self):
        self.name = f"mk{os.getpid() % 100000}"
        self.places = [f"{self.name}-{n}" for n in ("algo-1", "algo-2", "s3")]
        self.addresses = [f"10.77.0.{i}" for i in (1, 2, 3)]

    def __enter__(self):
        sh("ip", "link", "add", self.name, "type", "bridge")
        sh("ip", "addr", "add", "10.77.0.254/24", "dev", self.name)
        sh("ip", "link", "set", self.name, "up")
        for i, (place, address) in enumerate(zip(self.places, self.addresses)):
            sh("ip", "netns", "add", place)
            sh("ip", "link", "add", f"{self.name}v{i}", "type", "veth", "peer", "name", "eth0", "netns", place)
            sh("ip", "link", "set", f"{self.name}v{i}", "master", self.name, "up")
            sh("ip", "-n", place, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                sh("ip", "-n", place, "link", "set", device, "up")
        return self

    def __exit__(self, *_):
        for place in self.places:
            subprocess.run(["ip", "netns", "del", place], capture_output=True)
        subprocess.run(["ip", "link", "del", self.name], capture_output=True)


@dataclass
class Run:
    """One run of a job, and what it left behind on each host"""

    roots: list[Path]
    codes: list[int] = field(default_factory=list)
    left_by_itself: bool = True  # or did it take SIGKILL?

    @property
    def log(self):
        return "\n".join(r.with_suffix(".log").read_text(errors="replace") for r in self.roots)

    @property
    def failure(self):
        """The characters that DescribeTrainingJob would show"""
        found = [r / "output" / "failure" for r in self.roots if (r / "output" / "failure").exists()]
        return found[0].read_text()[:1024] if found else ""


def run_job(request, s3, folder, network, environ, checkpoints=None, stop_at=None, grace=5):
    """Run `request` in `folder`; `s3` is the folder with what S3 holds.

    checkpoints: a folder to begin with at /opt/ml/checkpoints. stop_at: SIGTERM to process 1 when its log has this
    text, SIGKILL after `grace` seconds.
    """
    name = request["TrainingJobName"]
    resources = request["ResourceConfig"]
    hosts = tuple(f"algo-{i + 1}" for i in range(resources["InstanceCount"]))
    names = folder / "hosts"
    folder.mkdir(parents=True)
    names.write_text("127.0.0.1 localhost\n" + "".join(f"{a} {h}\n" for a, h in zip(network.addresses, hosts)))
    algorithm = request["AlgorithmSpecification"]
    command = algorithm.get("ContainerEntrypoint", ["train"]) + algorithm.get("ContainerArguments", [])
    environ = (
        environ
        | request.get("Environment", {})
        | dict(TRAINING_JOB_NAME=name, TRAINING_JOB_ARN=f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{name}")
    )
    run = Run([folder / h for h in hosts])
    processes = []
    os.makedirs("/opt/ml", exist_ok=True)
    for host, root, place in zip(hosts, run.roots, network.places):
        channels = {
            c["ChannelName"]: s3 / c["DataSource"]["S3DataSource"]["S3Uri"][5:] for c in request["InputDataConfig"]
        }
        lay_out(root, request.get("HyperParameters"), channels, hosts, host, resources["InstanceType"])
        for channel, found in channels.items():  # a program may write into its channels: each host has files of its own
            (root / "input" / "data" / channel).unlink()
            shutil.copytree(found, root / "input" / "data" / channel)
        if checkpoints:
            shutil.copytree(checkpoints, root / "checkpoints", dirs_exist_ok=True)
        with open(root.with_suffix(".log"), "wb") as log:
            processes.append(
                subprocess.Popen(
                    [
                        "ip",
                        "netns",
                        "exec",
                        place,
                        "unshare",
                        "--mount",
                        "--uts",
                        "--pid",
                        "--fork",
                        "--kill-child",
                        "--mount-proc",
                        "--propagation",
                        "private",
                        "/bin/sh",
                        "-c",
                        INSIDE,
                        "host",
                        root,
                        names,
                        host,
                        *command,
                    ],
                    env=environ,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                )
            )
    if stop_at:
        run.left_by_itself = stop(processes, lambda: stop_at in run.log, grace)
    run.codes = [p.wait() for p in processes]
    return run


def stop(processes, ready, grace):
    """SIGTERM to the first process of each container, and SIGKILL to those that are there `grace` seconds later; True
    where none was
    """
    while not ready():
        if all(p.poll() is not None for p in processes):
            return True
        time.sleep(0.02)
    for p in processes:
        signal_first(p, signal.SIGTERM)
    until = time.monotonic() + grace
    while time.monotonic() < until and any(p.poll() is None for p in processes):
        time.sleep(0.02)
    late = [p for p in processes if p.poll() is None]
    for p in late:
        signal_first(p, signal.SIGKILL)
    return not late


def signal_first(process, number):
    """Signal process 1 of a container: the child of `unshare`, which `ip netns exec` has become"""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for child in children.read_text().split() if children.exists() else []:
        os.kill(int(child), number)
