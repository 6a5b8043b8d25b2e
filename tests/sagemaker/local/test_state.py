"""The folder of LocalSageMaker: who can read it, a full disk, and damaged records."""

import errno
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import tempfile
import time
import warnings
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pytest
import torch
from botocore import xform_name
from botocore.exceptions import ClientError
from helpers import running
from torch.utils.data import DataLoader, TensorDataset

from mlkit.model import MyCustomModel, save_model
from mlkit.sagemaker.artifacts.archive import write_archive
from mlkit.sagemaker.local.async_queue import AsyncQueue
from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.sagemaker.local.store import DamagedState, RecordTable, now
from mlkit.training import train_model

NOBODY = 65534
VARIANT = dict(VariantName="all", ModelName="none", InstanceType="ml.m5.large", InitialInstanceCount=1)
PROGRAM = (
    "import os, pathlib; model = pathlib.Path(os.environ.get('SM_MODEL_DIR', '/opt/ml/model')); "
    "(model / 'deep').mkdir(); (model / 'weights').write_text('1'); "
    "print(f'umask={os.umask(0):o}', os.environ['SECRET'])"
)


def make_request(name, program=PROGRAM, **fields):
    return (
        dict(
            TrainingJobName=name,
            RoleArn="arn:aws:iam::123456789012:role/job",
            OutputDataConfig=dict(S3OutputPath="s3://bucket/jobs"),
            AlgorithmSpecification=dict(
                TrainingImage="training", TrainingInputMode="File", ContainerEntrypoint=["python", "-c", program]
            ),
            ResourceConfig=dict(InstanceType="ml.m5.large", InstanceCount=1, VolumeSizeInGB=30),
            StoppingCondition=dict(MaxRuntimeInSeconds=60),
            Environment=dict(SECRET="swordfish"),
        )
        | fields
    )


def run_job(local, name, **fields):
    local.create_training_job(**make_request(name, **fields))
    while (description := local.describe_training_job(TrainingJobName=name))["TrainingJobStatus"] == "InProgress":
        time.sleep(0.05)
    return description


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_only_the_owner_can_read_what_a_job_leaves(tmp_path, umask):
    """Whatever the umask is: each folder is closed, or is in one, and the files with secrets are closed themselves."""
    before = os.umask(umask)
    try:
        local = LocalSageMaker(tmp_path / "new" / "local")
        description = run_job(local, "iris")
    finally:
        os.umask(before)
    assert description["TrainingJobStatus"] == "Completed", description
    assert "umask=22 swordfish" in local.logs("iris")[0].read_text()  # a container has this umask, whoever starts it
    for parent, folders, names in os.walk(local.root):
        for name in [*folders, *names]:
            path = os.path.join(parent, name)
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            if not os.path.islink(path) and not is_in_closed_folder(path, local.root):
                assert not mode & 0o077, (path, oct(mode))
    closed = ["jobs.db", "reserve", "jobs/iris/request.json", "jobs/iris/runner.log", "jobs/iris/algo-1.log"]
    assert [oct(stat.S_IMODE((local.root / name).stat().st_mode)) for name in closed] == ["0o600"] * len(closed)
    folders = [local.root.parent, local.root, local.root / "jobs", local.root / "jobs" / "iris"]
    assert [oct(stat.S_IMODE(folder.stat().st_mode)) for folder in folders] == ["0o700"] * len(folders)


def is_in_closed_folder(path, root):
    """Return whether a folder between the root and a path is closed; the root itself may have been open before."""
    parents = [folder for folder in (root / path).parents if folder.is_relative_to(root) and folder != root]
    return any(not stat.S_IMODE(folder.stat().st_mode) & 0o077 for folder in parents)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_another_user(tmp_path):
    """Another user can read nothing of an older, open folder once it has been opened, and is told so."""
    home = tmp_path / "home"
    (home / "jobs").mkdir(parents=True)
    for folder in (*reversed([p for p in tmp_path.parents if p.is_relative_to("/tmp")]), tmp_path, home, home / "jobs"):
        with suppress(PermissionError):
            folder.chmod(folder.stat().st_mode | 0o055)
    (home / "jobs" / "old.log").write_text("swordfish")
    read = ["cat", str(home / "jobs" / "old.log")]
    assert subprocess.run(read, user=NOBODY, capture_output=True).stdout == b"swordfish"
    LocalSageMaker(home)
    assert subprocess.run(read, user=NOBODY, capture_output=True).stdout == b""

    messages = multiprocessing.get_context("fork").Queue()

    def open_as_nobody():
        os.setuid(NOBODY)
        try:
            LocalSageMaker(home)
        except PermissionError as e:
            messages.put(str(e))

    process = multiprocessing.get_context("fork").Process(target=open_as_nobody)
    process.start()
    message = messages.get(timeout=30)
    process.join()
    assert "belongs to another user (id 0): choose one of your own folders" in message


@pytest.fixture
def small_disk(tmp_path):
    """Yield a folder on a disk of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs root and the right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Write until nothing more can be written, not even an empty file's first byte."""
    with open(folder / "other", "wb", buffering=0) as f:
        for size in (2**16, 1):
            with suppress(OSError):
                while f.write(bytes(size)):
                    pass
    assert shutil.disk_usage(folder).free == 0


def test_a_full_disk(small_disk, fault):
    """Reading and cleaning work, starting a job says what is wrong, and afterwards all is as before."""
    local = LocalSageMaker(small_disk / "local")
    for name in ("first", "second"):
        assert run_job(local, name)["TrainingJobStatus"] == "Completed"
    local.create_model(
        ModelName="none",
        ExecutionRoleArn="arn:aws:iam::000000000000:role/local",
        PrimaryContainer=dict(Image="mlkit-local", ModelDataUrl="s3://bucket/none/model.tar.gz"),
    )
    local.create_endpoint_config(EndpointConfigName="none", ProductionVariants=[VARIANT])
    local.create_endpoint(EndpointName="none", EndpointConfigName="none")
    while local.describe_endpoint(EndpointName="none")["EndpointStatus"] == "Creating":
        time.sleep(0.05)
    local.rows.add("died", make_request("died") | dict(
        TrainingJobStatus="InProgress", CreationTime=now(), SecondaryStatusTransitions=[]
    ))  # fmt: skip
    fill(small_disk)

    local = LocalSageMaker(small_disk / "local")
    assert "3 jobs, 1 endpoints" in repr(local)
    assert len(local.list_training_jobs()["TrainingJobSummaries"]) == 3
    assert local.describe_training_job(TrainingJobName="died")["TrainingJobStatus"] == "Failed"
    with pytest.raises(OSError) as error:
        local.create_training_job(**make_request("third"))
    assert error.value.errno == errno.ENOSPC
    assert "is full; mlkit local clean, or in Python LocalSageMaker().clean(), frees what" in str(error.value)
    assert local.rows.get("third") is None

    assert local.clean() > 0
    assert local.list_training_jobs()["TrainingJobSummaries"] == []
    assert local.list_endpoints()["Endpoints"] == []
    (small_disk / "other").unlink()
    local = LocalSageMaker(small_disk / "local")
    assert run_job(local, "third")["TrainingJobStatus"] == "Completed"
    assert local.rows.reserve.exists()
    said = str(error.value)
    fault("full disk: LocalSageMaker starts a job", 1, said=said)


def test_a_job_that_fills_the_disk(small_disk, fault):
    """It fails with the reason, and cleaning makes room again."""
    local = LocalSageMaker(small_disk / "local")
    program = "open('/opt/ml/model/weights', 'wb').write(bytes(2**24))"
    description = run_job(
        local, "large", AlgorithmSpecification=make_request("large", program)["AlgorithmSpecification"]
    )
    assert description["TrainingJobStatus"] == "Failed"
    assert (
        "is full; mlkit local clean, or in Python LocalSageMaker().clean(), frees what" in description["FailureReason"]
    )
    assert local.clean() > 2**20
    assert run_job(local, "small")["TrainingJobStatus"] == "Completed"
    said = description["FailureReason"]
    fault("full disk: a job writes its model", 1, said=said)


def test_the_process_that_runs_a_job_is_killed(tmp_path, fault):
    """The job has failed, its program ends too, and the next job runs."""
    local = LocalSageMaker(tmp_path / "local")
    program = "import time; print('started', flush=True); time.sleep(600)"
    request = make_request("long", program)
    local.create_training_job(**request)
    while not any("started" in log.read_text() for log in local.logs("long")):
        time.sleep(0.05)
    for pid in running(f"mlkit.sagemaker.local.job_runner\0{local.root}"):
        os.kill(pid, signal.SIGKILL)
    while (description := local.describe_training_job(TrainingJobName="long"))["TrainingJobStatus"] == "InProgress":
        time.sleep(0.05)
    assert description["TrainingJobStatus"] == "Failed"
    assert run_job(local, "next")["TrainingJobStatus"] == "Completed"
    fault("kill: the process of LocalSageMaker that runs a job", 1, said=description["FailureReason"])
    while running(program):
        time.sleep(0.05)


def test_read_only_folders(small_disk, fault, recwarn):
    """What was there can be read; what cannot be written is an error that names it, or a warning of training."""
    local = LocalSageMaker(small_disk / "local")
    assert run_job(local, "first")["TrainingJobStatus"] == "Completed"
    model = MyCustomModel(4, 8, 2)
    while subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], capture_output=True).returncode:
        time.sleep(0.1)  # the process of the job has just written its end
    local = LocalSageMaker(small_disk / "local")
    assert local.describe_training_job(TrainingJobName="first")["TrainingJobStatus"] == "Completed"
    assert "swordfish" in local.logs("first")[0].read_text()
    container = dict(Image="mlkit-local", ModelDataUrl="s3://bucket/none/model.tar.gz")
    role = "arn:aws:iam::000000000000:role/local"
    attempts = {
        "LocalSageMaker": lambda: LocalSageMaker(small_disk / "other"),
        "a job": lambda: local.create_training_job(**make_request("second")),
        "a record of LocalSageMaker": lambda: local.create_model(
            ModelName="m", ExecutionRoleArn=role, PrimaryContainer=container
        ),
        "LocalSageMaker().clean()": local.clean,
        "a saved model": lambda: save_model(model, small_disk / "model"),
        "a bundle": lambda: write_archive({"a": small_disk / "local" / "reserve"}, small_disk / "model.tar.gz"),
    }
    for row, attempt in attempts.items():
        with pytest.raises(OSError) as error:
            attempt()
        assert error.value.errno == errno.EROFS
        fault(f"read-only folder: {row}", 1, said=str(error.value))
    data = DataLoader(TensorDataset(torch.randn(8, 4), torch.arange(8) % 2), 4)
    history = train_model(model, data, 1, 0.01, checkpoints=small_disk / "c", save_every=1, verbose=False)
    assert len(history.steps) == 2
    said = next(str(w.message) for w in recwarn if "no checkpoint of step" in str(w.message))
    assert said.endswith("Training continues; there is no earlier one")
    fault("read-only folder: a checkpoint", 1, said=said)


@pytest.fixture
def memory_folder(tmp_path):
    """Yield a folder in memory if there is one: SQLite waits for a disk at each change."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else tmp_path) as folder:
        yield Path(folder)


def test_damaged_bytes(memory_folder, fault):
    """A flipped bit anywhere in the database gives records, or an error that says what to do, and nothing else."""
    path = memory_folder / "jobs.db"
    required = ("Name", "CreationTime")
    for table in ("jobs", "models", "endpoints"):
        rows = RecordTable(path, table, required)
        for i in range(3):
            rows.add(f"{table}{i}", dict(Name=f"{table}{i}", CreationTime=now(), Tags=[dict(Key="é", Value="v" * 99)]))
    content = path.read_bytes()
    used = [i for i, byte in enumerate(content) if byte or content[max(0, i - 4) : i + 4].strip(b"\0")]
    rng = random.Random(0)
    outcomes = Counter()
    sentences = []
    warnings.simplefilter("ignore")
    for i in rng.sample(used, 150):
        damaged = bytearray(content)
        damaged[i] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        outcomes[outcome_of(path, required, sentences)] += 1
    assert outcomes["whole"] and outcomes["partly"] and outcomes["refused"], outcomes
    assert outcomes["refused"] < 150 / 4, outcomes  # most damage is in one row or table, and leaves the others
    said = sentences[0].replace(str(memory_folder), "...")
    fault("damage: a flipped bit in jobs.db, its records", outcomes.total(), said=said)


def outcome_of(path, required, sentences):
    """Read, change and delete the records of a damaged file. Raises what no caller expects."""
    n_records = 0
    n_errors = 0
    for table in ("jobs", "models", "endpoints"):
        try:
            rows = RecordTable(path, table, required)
            records = rows.all()
            n_records += len(records)
            for i in range(3):
                with suppress(DamagedState, KeyError):
                    rows.get(f"{table}{i}")
                    rows.change(f"{table}{i}", lambda record: record.update(Status="a"))
            rows.remove_damaged()
            rows.add("new", dict(Name="new", CreationTime=now()))
        except DamagedState as e:
            assert "move the file away" in str(e) or "mlkit local clean" in str(e)
            sentences.append(str(e))
            n_errors += 1
    if n_errors == 3:
        return "refused"
    return "whole" if n_records == 9 else "partly"


def test_a_damaged_table_leaves_the_others(memory_folder, fault):
    """Each page of the file in turn is overwritten; where the damage is in one table, the other is whole."""
    path = memory_folder / "jobs.db"
    for table in ("jobs", "models"):
        rows = RecordTable(path, table, ("Name",))
        for i in range(40):
            rows.add(f"{i:02}", dict(Name=f"{i:02}", text="x" * 300))
    content = path.read_bytes()
    warnings.simplefilter("ignore")
    n_salvaged = 0
    n_pages = 0
    n_lost = 0
    for page in range(1, len(content) // 4096):  # the first page has the tables' names
        damaged = bytearray(content)
        damaged[page * 4096 : (page + 1) * 4096] = b"\xff" * 4096
        path.write_bytes(damaged)
        counts = []
        for table in ("jobs", "models"):
            try:
                counts.append(len(RecordTable(path, table, ("Name",)).all()))
            except DamagedState:
                counts.append(0)
        n_pages += 1
        n_lost += 40 not in counts
        n_salvaged += 0 < min(counts) < 40
    assert n_salvaged > 0
    fault("damage: a page of jobs.db, the other tables", n_pages, lost=n_lost)


def test_damaged_bytes_of_a_queue(memory_folder, fault):
    """With a flipped bit, requests of an asynchronous endpoint are as they were sent, or it is said what is damaged."""
    queue = AsyncQueue(memory_folder)
    for i in range(6):
        request = dict(EndpointName="e", InferenceId=str(i))
        queue.add(request, bytes([i]) * 200, f"s3://bucket/{i}.out", None, time.time())
    sent = [(item.request, item.body, item.output) for item in queue.unfinished(9)]
    with closing(sqlite3.connect(queue.path)) as db:
        db.execute("pragma wal_checkpoint(truncate)")
    content = queue.path.read_bytes()
    used = [i for i, byte in enumerate(content) if byte or content[max(0, i - 4) : i + 4].strip(b"\0")]
    rng = random.Random(0)
    outcomes = Counter()
    for i in rng.sample(used, 200):
        damaged = bytearray(content)
        damaged[i] ^= 1 << rng.randrange(8)
        for path in memory_folder.glob("queue.db*"):
            path.unlink()
        queue.path.write_bytes(damaged)
        try:
            queue.check()  # as the process of an endpoint does when it starts
            still_queued = [(item.request, item.body, item.output) for item in queue.unfinished(9)]
            assert sorted(still_queued, key=str) == sent
            assert queue.find("s3://bucket/3.out").body == sent[3][1]
            queue.decide(2, dict(invocationStatus="Completed"), b"1")
            queue.finish(2)
            queue.add(dict(EndpointName="e"), b"new", "s3://bucket/new.out", None, time.time())
            outcomes["whole"] += 1
        except DamagedState as e:
            message = str(e)
            outcomes["refused"] += 1
    assert outcomes["whole"] and outcomes["refused"], outcomes
    fault("damage: a flipped bit in the queue of an asynchronous endpoint", outcomes.total(), said=message)


def test_an_older_database(tmp_path):
    """A database of an earlier version is opened as it is, and closed to others."""
    root = tmp_path / "local"
    root.mkdir(0o755)
    with sqlite3.connect(root / "jobs.db") as db:
        db.execute("create table jobs (name text primary key, created real, about text)")
        about = '{"TrainingJobName": "old", "TrainingJobStatus": "Completed", "CreationTime": {"$time": "%s"}, '
        about = about % now().isoformat() + '"SecondaryStatusTransitions": []}'
        db.execute("insert into jobs values ('old', 1.0, ?)", (about,))
    db.close()
    (root / "jobs.db").chmod(0o644)
    local = LocalSageMaker(root)
    assert local.describe_training_job(TrainingJobName="old")["TrainingJobStatus"] == "Completed"
    assert stat.S_IMODE((root / "jobs.db").stat().st_mode) == 0o600


def test_damaged_bytes_of_a_client(memory_folder, fault):
    """With a flipped bit, each operation answers, does not find a name, or says what is damaged; cleaning ends."""
    local = LocalSageMaker(memory_folder / "local")
    at = dict(CreationTime=now(), LastModifiedTime=now())
    started = [dict(Status="Starting", StartTime=now(), StatusMessage="Starting the training job")]
    job = make_request("job") | dict(TrainingJobStatus="InProgress", SecondaryStatusTransitions=started)
    variant = dict(VariantName="all", CurrentWeight=1.0, DesiredWeight=1.0)
    records = {
        "TrainingJob": job | dict(TrainingJobArn="arn", SecondaryStatus="Starting"),
        "TransformJob": dict(TransformJobName="job", TransformJobStatus="InProgress", ModelName="job"),
        "Model": dict(ModelName="job", PrimaryContainer=dict(Image="mlkit-local")),
        "EndpointConfig": dict(EndpointConfigName="job", ProductionVariants=[VARIANT]),
        "Endpoint": dict(EndpointName="job", EndpointStatus="Updating", ProductionVariants=[variant]),
    }
    for kind, record in records.items():
        local.table(kind).add("job", record | at)
    path = local.root / "jobs.db"
    content = path.read_bytes()
    used = [i for i, byte in enumerate(content) if byte]
    rng = random.Random(0)
    warnings.simplefilter("ignore")
    n_answers = 0
    n_calls = 0
    for i in rng.sample(used, 60):
        damaged = bytearray(content)
        damaged[i] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        for kind in records:
            for operation, request in ((f"list_{xform_name(kind)}s", {}), (f"describe_{xform_name(kind)}", "job")):
                n_calls += 1
                with suppress(DamagedState, ClientError):
                    request = {f"{kind}Name": request} if request else {}
                    getattr(LocalSageMaker(local.root), operation)(**request)
                    n_answers += 1
        with suppress(DamagedState):
            assert repr(LocalSageMaker(local.root))
            LocalSageMaker(local.root).clean()
    assert n_answers > 0.6 * n_calls
    fault("damage: a flipped bit in jobs.db, the operations of LocalSageMaker", 60)
