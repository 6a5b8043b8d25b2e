"""Nothing that comes from a disk or over the wire is unpickled: pickles that would leave a file are put everywhere"""

import ast
import io
import json
import pickle
import re
import sqlite3
import zipfile
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import mlkit
from mlkit.files import read_own_json
from mlkit.model import MyCustomModel, load_model, save_model
from mlkit.sagemaker.artifacts.archive import extract_bundle, write_archive
from mlkit.sagemaker.artifacts.bundle import build_bundle
from mlkit.sagemaker.artifacts.source import read_source
from mlkit.sagemaker.client.endpoints import InvocationFailed
from mlkit.sagemaker.client.job_file import read_job_file
from mlkit.sagemaker.client.replay import compare_answers, parse_record
from mlkit.sagemaker.client.settings_file import read_settings
from mlkit.sagemaker.endpoint import codecs, content_types
from mlkit.sagemaker.endpoint.defaults import default_input_fn, default_model_fn
from mlkit.sagemaker.endpoint.texts import TextReader
from mlkit.sagemaker.job.container import Container
from mlkit.sagemaker.job.hyperparameters import read_value
from mlkit.sagemaker.local.async_queue import AsyncQueue
from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.sagemaker.local.metric_files import read_csv, read_events
from mlkit.sagemaker.local.metric_lines import LineReader
from mlkit.sagemaker.local.trial_store import TrialStore
from mlkit.sagemaker.search.space import make_space
from mlkit.sagemaker.storage import Files, stage_manifest
from mlkit.training.checkpoint import _fingerprint, read_checkpoint, read_latest, write_checkpoint
from mlkit.training.data import Images, Rows, channel, read_channel, read_table
from mlkit.training.history import load_history
from mlkit.training.shards import open_shard


class Pickle:
    """Leaves a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def forms(file):
    """Return the pickle in each form in which people and libraries store one, by its name."""
    payload = Pickle(file)
    array = np.empty(1, dtype=object)
    array[0] = payload
    npy, npz, saved, old = (io.BytesIO() for _ in range(4))
    np.save(npy, array, allow_pickle=True)
    np.savez(npz, x=array, y=array)
    torch.save({"weight": payload}, saved)
    torch.save({"weight": payload}, old, _use_new_zipfile_serialization=False)
    return {
        "pickle": pickle.dumps(payload),
        "pickle of protocol 0": pickle.dumps(payload, protocol=0),
        "NPY": npy.getvalue(),
        "NPZ": npz.getvalue(),
        "torch.save": saved.getvalue(),
        "torch.save before 1.6": old.getvalue(),
    }


FORMS = list(forms(Path("x")))


@pytest.fixture
def trap(tmp_path):
    """The file that a pickle leaves; it must not be there at the end."""
    file = tmp_path / "unpickled"
    yield file
    assert not file.exists(), "a pickle was loaded"


def test_the_trap_works(tmp_path):
    file = tmp_path / "unpickled"
    for name, content in forms(file).items():
        if "torch" in name:
            torch.load(io.BytesIO(content), weights_only=False)
        elif name.startswith("NP"):
            loaded = np.load(io.BytesIO(content), allow_pickle=True)
            _ = loaded["x"] if name == "NPZ" else loaded
        else:
            pickle.loads(content)  # noqa: S301 -- its own pickle
        assert file.exists(), name
        file.unlink()


@pytest.mark.parametrize("form", FORMS)
def test_bodies(trap, form):
    body = forms(trap)[form]
    kinds = [kind for entry in content_types.BUILT_IN_TYPES for kind in (entry.name, *entry.aliases)]
    assert set(codecs._codecs) <= set(kinds)
    for kind in (*kinds, "application/x-pickle", "application/octet-stream", "application/x-torch"):
        for read in (codecs.decode, default_input_fn):
            try:
                read(body, kind.replace("*", "png"))
            except codecs.RequestError as e:
                assert 400 <= e.status < 500


@pytest.mark.parametrize("form", FORMS)
def test_data_files(trap, tmp_path, form):
    elsewhere = [suffix for suffixes in channel._ELSEWHERE for suffix in suffixes]
    for suffix in (*channel._FORMATS, *elsewhere, ""):
        folder = tmp_path / f"data{suffix}"
        folder.mkdir()
        file = folder / f"part{suffix}"
        file.write_bytes(forms(trap)[form])
        # A pickle in letters is a text to some readers: they may read it as such.
        for read in (read_channel, read_table, Images.fit):
            with suppress(ValueError, RuntimeError, OSError):
                read(folder)
        with pytest.raises(ValueError):
            open_shard(file)


@pytest.mark.parametrize("form", FORMS)
def test_models(trap, tmp_path, form):
    """Each file of a saved model, then each file that a folder without model.json may have"""
    for name in ("model.safetensors", "model.json"):
        folder = tmp_path / name
        save_model(MyCustomModel(3, 4, 2), folder, sample=torch.zeros(1, 3))
        (folder / name).write_bytes(forms(trap)[form])
        for read in (load_model, default_model_fn):
            with pytest.raises((ValueError, OSError)):
                read(folder)
    for name in ("model.pt", "model.pth", "model.pt2", "pytorch_model.bin", "model.pkl"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(forms(trap)[form])
        with pytest.raises((ValueError, OSError)):
            default_model_fn(folder)


CALLABLES = ["subprocess:Popen", "subprocess:run", "os:system", "builtins:exec", "pathlib:Path", "shutil:copytree"]
CALLABLES += ["torch:load", "torch.jit:load", "torch.hub:load", "importlib:import_module", "runpy:run_path", "os:mkdir"]


@pytest.mark.parametrize("name", CALLABLES)
def test_model_json_calls_models_only(trap, tmp_path, name):
    """As the model, as an argument of a model, and as the configuration of one; whatever the arguments are called"""
    folder = save_model(MyCustomModel(3, 4, 2), tmp_path / "model")
    good = json.loads((folder / "model.json").read_text())
    for argument in ("args", "command", "path", "f", "name", "source", "model", "repo_or_dir", "path_name", "config"):
        values = {argument: ["touch", str(trap)] if argument == "args" else str(trap)}
        bad = {"model": name, "arguments": values}
        inner = [bad, {"config": name, "values": values}]
        described = [bad, *(good | {"arguments": good["arguments"] | {"input_dim": value}} for value in inner)]
        for description in described:
            (folder / "model.json").write_text(json.dumps(good | description))
            with pytest.raises((ValueError, TypeError, AttributeError, ImportError)):
                load_model(folder)


def test_a_program_with_a_pickle(trap, tmp_path):
    """A .pt2 file that is whole but for one member"""

    class Net(torch.nn.Module):
        def forward(self, x):
            return x + 1

    good = io.BytesIO()
    torch.export.save(torch.export.export(Net(), (torch.zeros(2),)), good)
    archive = zipfile.ZipFile(good)
    for replaced in archive.namelist():
        with zipfile.ZipFile(tmp_path / "model.pt2", "w") as changed:
            for name in archive.namelist():
                content = pickle.dumps(Pickle(trap)) if name == replaced else archive.read(name)
                changed.writestr(name, content)
        try:
            default_model_fn(tmp_path)
        except (ValueError, RuntimeError, OSError):
            continue


@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_and_histories(trap, tmp_path, form):
    content = forms(trap)[form]
    for name in ("state.json", "tensors.safetensors", "manifest.json"):
        path = write_checkpoint({"weight": torch.ones(3), "epoch": 1}, tmp_path / name, 1)
        (path / name).write_bytes(content)
        if name != "manifest.json":  # as somebody would who knows the format
            manifest = json.loads((path / "manifest.json").read_text())
            manifest["files"][name] = _fingerprint(path / name)
            (path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ValueError):
            read_checkpoint(path)
        with pytest.warns(UserWarning, match="damaged"):
            assert read_latest(tmp_path / name) is None
    (tmp_path / "history.json").write_bytes(content)
    with pytest.raises(ValueError):
        load_history(tmp_path / "history.json")


@pytest.mark.parametrize("form", FORMS)
def test_archives(trap, tmp_path, form):
    content = forms(trap)[form]
    (tmp_path / "model.tar.gz").write_bytes(content)
    with pytest.raises(ValueError):
        extract_bundle(tmp_path / "model.tar.gz", tmp_path / "out")
    write_archive({"model.pth": content}, tmp_path / "whole.tar.gz")
    folder = extract_bundle(tmp_path / "whole.tar.gz", tmp_path / "folder")
    with pytest.raises((ValueError, OSError)):
        default_model_fn(folder)


def write_all(folder, names, content):
    """Write the same content into new files of a folder, and return the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def readers(folder, content):
    """Yield a function for each other file or text that mlkit reads, with a pickle in its place."""
    model = save_model(MyCustomModel(3, 4, 2), folder / "model", sample=torch.zeros(1, 3))
    write_all(model, ("rows.json", "images.json", "tokenizer.json", "tokenizer_config.json", "code/x.json"), content)
    job = write_all(folder / "job", ("job.toml", "job.json", "train.ipynb", "train.py", "code.tar.gz"), content)
    config = [f"input/config/{name}.json" for name in ("hyperparameters", "resourceconfig", "inputdataconfig")]
    container = write_all(folder / "container", config, content)
    logs = write_all(folder / "logs", ("metrics.csv", "events.out.tfevents.0"), content)
    text = content.decode("latin-1")
    files = Files(folder / "s3")
    files.put(job / "job.json", "s3://bucket/x.manifest")
    yield from (lambda read=read: read(model) for read in (Rows.load, Images.load, TextReader.load, default_model_fn))
    yield lambda: build_bundle(model, out=folder / "bundle.tar.gz")
    yield from (lambda name=name: read_settings(job / name) for name in ("job.toml", "job.json"))
    yield from (lambda name=name: read_job_file(job / name) for name in ("job.toml", "job.json"))
    yield from (lambda name=name: read_source(job / name) for name in ("train.ipynb", "train.py", "code.tar.gz"))
    yield lambda: Container.from_env({}, container)
    yield from (lambda kind=kind: read_value(text, kind) for kind in (str, dict, list, bytes, object))
    yield from (
        lambda read=read, f=f: read(f) for read, f in zip((read_csv, read_events), sorted(logs.iterdir())[::-1])
    )
    yield lambda: LineReader().read(text)
    yield lambda: read_own_json(job / "job.json")
    yield lambda: stage_manifest(files, "s3://bucket/x.manifest", folder / "staged")
    for kind in ("text/csv", "application/json", "application/x-npy", "application/octet-stream"):
        yield lambda kind=kind: compare_answers((200, kind, content), (200, kind, content[::-1]), 0.1)
    yield lambda: parse_record({"captureData": {"endpointInput": {"data": text, "encoding": "BASE64"}}}, "all")
    yield lambda: InvocationFailed("iris", 500, text)


@pytest.mark.parametrize("form", FORMS)
def test_other_files_and_texts(trap, tmp_path, form):
    """Settings, jobs, sources, containers, logs, manifests, captured requests, and answers of an endpoint"""
    for read in readers(tmp_path, forms(trap)[form]):
        with suppress(Exception):  # what matters here is that nothing is unpickled
            read()


def open_jobs(folder):
    local = LocalSageMaker(folder)
    local.create_model(ModelName="iris", PrimaryContainer=dict(Image="image", ModelDataUrl="s3://bucket/model.tar.gz"))
    return folder / "jobs.db", lambda: (local.list_models(), local.describe_model(ModelName="iris"))


def open_queue(folder):
    queue = AsyncQueue(folder)
    queue.add({}, b"1", "s3://bucket/out", None, 0)
    return folder / "queue.db", lambda: (queue.unfinished(9), queue.find("s3://bucket/out"))


def open_sweep(folder):
    def open_store():
        return TrialStore(folder / "sweep.db", "sweep", make_space({"lr": 0.1}, {"lr": (0.05, 1.0)}), True)

    store = open_store()
    store.begin({"a": 1})
    store.report(store.add({"lr": 0.1}, 1), 1, 0.5)
    store.close()
    return folder / "sweep.db", lambda: (open_store().trials(), open_store().description)


DATABASES = {"LocalSageMaker": open_jobs, "asynchronous endpoint": open_queue, "sweep": open_sweep}


@pytest.mark.long("sweep")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", DATABASES)
def test_databases(trap, tmp_path, key):
    """Each column of each table"""
    content = forms(trap)["pickle"]
    path, read = DATABASES[key](tmp_path)
    read()
    good = path.read_bytes()
    for table, column in columns(path):
        for value in (content, content.decode("latin-1")):
            with closing(sqlite3.connect(path)) as db, suppress(sqlite3.IntegrityError):
                db.execute(f'update "{table}" set "{column}" = ?', (value,))  # noqa: S608 -- names of a database
                db.commit()
            with suppress(Exception):
                read()
            path.write_bytes(good)


def columns(path):
    with closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("select name from sqlite_master where type = 'table'")]
        return [(table, row[1]) for table in tables for row in db.execute(f'pragma table_info("{table}")')]


# The functions that load pickles or other code, by their last names, and the modules of mlkit that may call them
UNPICKLING = {
    "sagemaker/local/function_runner.py": {"pickle.loads"},  # from the process of the sweep, through a pipe
    "sagemaker/endpoint/defaults.py": {"torch.jit.load"},  # TorchScript is code
    "sagemaker/endpoint/exported.py": {"torch.load", "torch.export.load"},  # of tensors only, unless asked for by name
}
LOADS = re.compile(
    r"(^|\.)(c?[pP]ickle|dill|cloudpickle|joblib|marshal|shelve|_pickle)\.\w*([lL]oad|open|Unpickler)\w*$"
    r"|^torch\.([\w.]+\.)?load$|\.read_pickle$|(^|\.)yaml\.(load|unsafe_load|full_load)\w*$|Unpickler$|^torch\.hub\."
)
SUSPECT = re.compile(
    r"pickle|dill|joblib|marshal|shelve|yaml|\.hub|(torch|np|numpy)\.([\w.]+\.)?load\b|import .*\bload\b"
)


def called(node):
    """Return the name that a call has, with its module; "" if it cannot be one that loads."""
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    return ast.unparse(node.func) if re.search("load|pickle|open", name, re.I) else ""


def test_every_call_that_could_unpickle():
    package = Path(mlkit.__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name == "_modidx.py" or not SUSPECT.search(text):
            continue
        nodes = list(ast.walk(ast.parse(text)))
        calls = [(called(node), node) for node in nodes if isinstance(node, ast.Call)]
        imports = [f"{node.module}.{x.name}" for node in nodes if isinstance(node, ast.ImportFrom) for x in node.names]
        allowed = UNPICKLING.get(path.relative_to(package).as_posix(), set())
        assert {name for name in [*(name for name, _ in calls), *imports] if LOADS.search(name)} == allowed, path
        for name, call in calls:
            if name in ("np.load", "numpy.load"):
                options = {option.arg: ast.unparse(option.value) for option in call.keywords}
                assert options.get("allow_pickle") == "False", f"{path}: say allow_pickle=False"
