"""A model archive that is damaged anywhere is refused, and one of a saved model never loads other weights."""

import gzip
import random
import shutil

import pytest
import torch

from mlkit.model import MyCustomModel, load_model, save_model
from mlkit.sagemaker.artifacts.archive import BundleError, extract_bundle, write_archive


@pytest.fixture
def archive(tmp_path):
    """A bundle of a small model, its bytes, and its weights."""
    model = MyCustomModel(2, 3, 2)
    folder = save_model(model, tmp_path / "model", sample=torch.zeros(1, 2))
    write_archive({path.name: path for path in folder.iterdir()}, tmp_path / "model.tar.gz")
    return (tmp_path / "model.tar.gz").read_bytes(), model.state_dict()


def weights_in(data, folder):
    """Return the weights that an archive loads, or None if it is refused."""
    path = folder / "changed.tar.gz"
    path.write_bytes(data)
    try:
        unpacked = extract_bundle(path, folder / "unpacked")
    except BundleError:
        return None
    try:
        return load_model(unpacked).state_dict()
    finally:
        shutil.rmtree(unpacked)


def check(data, weights, folder):
    loaded = weights_in(data, folder)
    assert loaded is None or all(torch.equal(loaded[name], weights[name]) for name in weights)
    return loaded is None


def flipped(data, position, bit):
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def test_300_flipped_bits(archive, tmp_path, fault):
    data, weights = archive
    rng = random.Random(0)  # noqa: S311 -- the same bits each time
    refused = [check(flipped(data, rng.randrange(len(data)), rng.randrange(8)), weights, tmp_path) for _ in range(300)]
    assert sum(refused) > 250  # others are in the time of gzip's header, or in a distance within zeros
    fault("damage: a flipped bit in a bundle", 300)
    torn = [check(data[: rng.randrange(len(data))], weights, tmp_path) for _ in range(50)]
    (tmp_path / "torn.tar.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError) as error:
        extract_bundle(tmp_path / "torn.tar.gz", tmp_path / "unpacked")
    fault("damage: a torn bundle", 50, sum(torn), said=str(error.value))


def test_what_is_damaged_before_it_is_packed(archive, tmp_path, fault):
    """Gzip's checksum is right: tar's headers and the digest of the weights have to tell."""
    data, weights = archive
    plain = gzip.decompress(data)
    rng = random.Random(1)  # noqa: S311 -- the same ones each time
    end = len(plain.rstrip(b"\0"))
    for _ in range(100):
        changed = flipped(plain, rng.randrange(end), rng.randrange(8))
        try:
            check(gzip.compress(changed, 1), weights, tmp_path)
        except (ValueError, TypeError, FileNotFoundError, ImportError, AttributeError, KeyError):
            pass  # of load_model: the model is refused
    fault("damage: a flipped bit in a model before it is packed", 100)


@pytest.mark.long
def test_every_bit_and_every_length(archive, tmp_path, fault):
    data, weights = archive
    for position in range(len(data)):
        for bit in range(8):
            check(flipped(data, position, bit), weights, tmp_path)
        assert check(data[:position], weights, tmp_path)
    fault("damage: a flipped bit in a bundle", len(data) * 8)
    fault("damage: a torn bundle", len(data))
