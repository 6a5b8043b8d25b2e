"""Run a CreateTrainingJob request as SageMaker does: at /opt/ml, its program as process 1, on hosts with a network.

Needs root on Linux, for namespaces.
"""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from mlkit.sagemaker.job.container import lay_out

# Runs inside the namespaces, with the arguments: tree, hosts file, host name, command.
ENTER = 'mount --bind "$1" /opt/ml && mount --bind "$2" /etc/hosts && hostname "$3" && cd / && shift 3 && exec "$@"'
UNSHARE = "unshare --mount --uts --pid --fork --kill-child --mount-proc --propagation private".split()


def sh(*command):
    subprocess.run(command, check=True, capture_output=True)


class Network:
    """Two hosts and a server for S3, each a network namespace on one bridge that only this machine can reach.

    places: the names of the three namespaces. addresses: their IP addresses, in the same order.
    """

    def __init__(self):
        self.name = f"mk{os.getpid() % 100000}"
        self.places = [f"{self.name}-{host}" for host in ("algo-1", "algo-2", "s3")]
        self.subnet = f"10.77.{os.getpid() % 256}"  # so that another run on this machine has another
        self.addresses = [f"{self.subnet}.{i}" for i in (1, 2, 3)]

    def __enter__(self):
        sh("ip", "link", "add", self.name, "type", "bridge")
        sh("ip", "addr", "add", f"{self.subnet}.254/24", "dev", self.name)
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
    """One run of a job, and the trees of its hosts after it."""

    roots: list[Path]
    codes: list[int] = field(default_factory=list)  # exit codes
    left_by_itself: bool = True  # False if the hosts had to be killed

    @property
    def log(self):
        return "\n".join(root.with_suffix(".log").read_text(errors="replace") for root in self.roots)

    @property
    def failure(self):
        """The characters that DescribeTrainingJob would show."""
        paths = [root / "output" / "failure" for root in self.roots]
        texts = [path.read_text() for path in paths if path.exists()]
        return texts[0][:1024] if texts else ""


def run_job(request, s3, folder, network, environ, checkpoints=None, stop_at=None, grace=5):
    """Run `request` in `folder`. `s3` is a folder with the objects of S3.

    checkpoints: a folder to begin with at /opt/ml/checkpoints. stop_at: SIGTERM to process 1 when its log has this
    text, SIGKILL after `grace` seconds.
    """
    name = request["TrainingJobName"]
    resources = request["ResourceConfig"]
    hosts = tuple(f"algo-{i + 1}" for i in range(resources["InstanceCount"]))
    hosts_file = folder / "hosts"
    folder.mkdir(parents=True)
    lines = [f"{address} {host}\n" for address, host in zip(network.addresses, hosts)]
    hosts_file.write_text("127.0.0.1 localhost\n" + "".join(lines))
    arn = f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{name}"
    environ = environ | request.get("Environment", {}) | dict(TRAINING_JOB_NAME=name, TRAINING_JOB_ARN=arn)
    run = Run([folder / host for host in hosts])
    processes = []
    os.makedirs("/opt/ml", exist_ok=True)
    for host, root, place in zip(hosts, run.roots, network.places):
        lay_out_host(root, request, s3, hosts, host)
        if checkpoints:
            shutil.copytree(checkpoints, root / "checkpoints", dirs_exist_ok=True)
        processes.append(start_host(root, request, place, hosts_file, host, environ))
    if stop_at:
        run.left_by_itself = stop(processes, lambda: stop_at in run.log, grace)
    run.codes = [process.wait() for process in processes]
    return run


def lay_out_host(root, request, s3, hosts, host):
    """Create the tree of a host, with its own copy of each channel, because a program may write into its channels."""
    sources = {
        channel["ChannelName"]: s3 / channel["DataSource"]["S3DataSource"]["S3Uri"].removeprefix("s3://")
        for channel in request["InputDataConfig"]
    }
    instance = request["ResourceConfig"]["InstanceType"]
    lay_out(root, request.get("HyperParameters"), sources, hosts, host, instance)
    for channel, source in sources.items():
        (root / "input" / "data" / channel).unlink()
        shutil.copytree(source, root / "input" / "data" / channel)


def start_host(root, request, place, hosts_file, host, environ):
    """Start the program of a request as process 1 of a container, in the network namespace `place`."""
    algorithm = request["AlgorithmSpecification"]
    command = algorithm.get("ContainerEntrypoint", ["train"]) + algorithm.get("ContainerArguments", [])
    enter = ["/bin/sh", "-c", ENTER, "host", root, hosts_file, host]
    with open(root.with_suffix(".log"), "wb") as log:
        return subprocess.Popen(
            ["ip", "netns", "exec", place, *UNSHARE, *enter, *command],
            env=environ,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )


def stop(processes, ready, grace):
    """Send SIGTERM to process 1 of each container as soon as `ready()`, and SIGKILL `grace` seconds later.

    Return whether all ended without SIGKILL.
    """
    while not ready():
        if all(process.poll() is not None for process in processes):
            return True
        time.sleep(0.02)
    for process in processes:
        signal_process_1(process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(0.02)
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        signal_process_1(process, signal.SIGKILL)
    return not alive


def signal_process_1(process, number):
    """Signal process 1 of a container: the child of `unshare`, which replaced `ip netns exec` in its process."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for child in children.read_text().split() if children.exists() else []:
        os.kill(int(child), number)
