"""Nothing that comes from a disk or over the wire is unpickled: pickles that would leave a file are put everywhere"""

import io
import json
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from mlkit.model import MyCustomModel, load_model, save_model
from mlkit.sagemaker.artifacts.archive import extract_bundle, write_archive
from mlkit.sagemaker.endpoint import codecs, content_types
from mlkit.sagemaker.endpoint.defaults import default_input_fn, default_model_fn
from mlkit.training.checkpoint import _fingerprint, read_checkpoint, read_latest, write_checkpoint
from mlkit.training.data import Images, channel, read_channel, read_table
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
