"""What a model was fed in training is the signature that `save_model` writes."""

import json
import os
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mlkit.model import MyCustomModel, load_model, save_model
from mlkit.model.inputs import recorded_signature
from mlkit.training import Trainer, train_model
from mlkit.training.callbacks import EMA, BestWeights

ROW = {"shape": [1, 4], "dtype": "float32"}
TOKENS = {"shape": [1, 5], "dtype": "int64"}
QUIET = dict(verbose=False, device="cpu")


def rows(n=10, dtype=torch.float32):
    return TensorDataset(torch.ones(n, 4, dtype=dtype), torch.arange(n) % 2)


def loader(data, batch_size=4, **options):
    return DataLoader(data, batch_size, **options)


def sample_of(model, folder):
    return json.loads((save_model(model, folder) / "model.json").read_text())["sample"]


def test_a_model_of_train_model_has_a_signature(tmp_path):
    """Also with an average, and in the copy of a model."""
    for name, options in {
        "plain": {},
        "accumulated": dict(accumulate=2),
        "best": dict(callbacks=[BestWeights()], valid_loader=loader(rows())),
    }.items():
        model = MyCustomModel(4, 3, 2)
        train_model(model, loader(rows()), 1, 0.01, **options, **QUIET)
        assert sample_of(model, tmp_path / name) == ROW, name
        assert sample_of(deepcopy(model), tmp_path / name) == ROW, name
        assert list(load_model(tmp_path / name).state_dict()) == list(model.state_dict())
    ema = EMA(0.9)
    train_model(MyCustomModel(4, 3, 2), loader(rows()), 1, 0.01, callbacks=[ema], **QUIET)
    assert sample_of(ema.model, tmp_path / "ema") == ROW
    assert recorded_signature(MyCustomModel(4, 3, 2)) is None


@pytest.mark.long
def test_a_compiled_loop_records_as_well():
    model = MyCustomModel(4, 3, 2)
    train_model(model, loader(rows(30)), 2, 0.01, compile="step", **QUIET)
    assert recorded_signature(model) == ROW


class Texts(Dataset):
    """Token ids of some length, as a dict with or without labels, or as a pair."""

    def __init__(self, lengths, form):
        self.lengths = lengths
        self.form = form

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        ids = torch.ones(self.lengths[i], dtype=torch.int64)
        if self.form == "pair":
            return ids, i % 2
        return {"input_ids": ids, "attention_mask": ids, "labels": i % 2}


class Classifier(nn.Module):
    """As one of Hugging Face: it computes its own loss if it gets labels."""

    def __init__(self, own_loss=True):
        super().__init__()
        self.own_loss = own_loss
        self.embedding = nn.Embedding(5, 2)

    def forward(self, input_ids, attention_mask=None, labels=None):
        logits = self.embedding(input_ids).mean(1)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 2)

    def forward(self, x):
        return self.embedding(x).mean(1)


@pytest.mark.parametrize("lengths, free", [([5] * 6, []), ([5, 5, 3, 3, 4, 4], [1])])
def test_a_batch_by_name_has_no_target_and_free_lengths(lengths, free):
    expected = TOKENS | ({"free": free} if free else {})
    for form, model, signature in (
        ("pair", Tokens(), expected),
        ("dict", Classifier(), {"input_ids": expected, "attention_mask": expected}),
    ):
        train_model(model, loader(Texts(lengths, form), 2), 1, 0.01, **QUIET)
        assert recorded_signature(model) == signature, form


def test_what_is_not_one_kind_of_batch_has_no_signature():
    """The first dimension has to be the one of the samples."""

    class Sequences(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 2)

        def forward(self, x):
            return self.lstm(x)[0][-1]

    batches = [(torch.ones(7, 4, 3), torch.zeros(4, dtype=torch.int64))] * 2
    model = Sequences()
    train_model(model, batches, 1, 0.01, **QUIET)
    assert recorded_signature(model) is None


def test_a_run_that_continues_knows_what_it_was_fed_before(tmp_path):
    model = MyCustomModel(4, 3, 2)
    train_model(model, loader(rows()), 1, 0.01, checkpoints=tmp_path, **QUIET)
    again = MyCustomModel(4, 3, 2)
    train_model(again, loader(rows()), 1, 0.01, checkpoints=tmp_path, **QUIET)  # nothing to do
    assert recorded_signature(again) == ROW


def test_a_custom_train_batch_that_sets_x(tmp_path):
    class Custom(Trainer):
        def train_batch(self, batch):
            self.x, self.y = self.unpack(batch)
            self.loss = self.compute_loss(self.model(self.x), self.y)
            self.optimizer.zero_grad()
            self.loss.backward()
            self.optimizer.step()

    model = MyCustomModel(4, 3, 2)
    train_model(model, loader(rows()), 1, 0.01, trainer=Custom, **QUIET)
    assert recorded_signature(model) == ROW


def test_a_module_within_ddp_is_the_one_that_is_saved(tmp_path):
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = MyCustomModel(4, 3, 2)
        train_model(nn.parallel.DistributedDataParallel(model), loader(rows()), 1, 0.01, **QUIET)
        assert recorded_signature(model) == ROW
    finally:
        dist.destroy_process_group()
