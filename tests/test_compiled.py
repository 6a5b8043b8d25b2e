"""Whole steps in one graph train as the loop does that they stand for, and are gone on with bit for bit"""

import shutil
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from mlkit.training import train_model
from mlkit.training.callbacks.schedules import Schedule, cosine, one_cycle
from mlkit.training.checkpoint import Checkpoints, list_checkpoints
from mlkit.training.compiled import SkipBatch
from mlkit.training.trainer import Trainer

torch.manual_seed(0)
X = torch.randn(83, 5)  # 11 batches of 8, of which the last has 3
Y = (X.sum(1) > 0).long()


class Batches:
    """No DataLoader: it has neither a length nor a batch size, and draws its own order"""

    def __iter__(self):
        yield from ((X[i], Y[i]) for i in torch.randperm(83).split(8))


LOADERS = dict(
    tensors=lambda: DataLoader(TensorDataset(X, Y), 8, shuffle=True),
    samples=lambda: DataLoader(list(zip(X, Y)), 8, shuffle=True),
    own=Batches,
)


def make_model():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 8), nn.Linear(8, 2))


def adam(model):
    return Adam(model.parameters(), lr=0.01)


def train(
    compile, callbacks=(), make=adam, loader="tensors", kind=Trainer, epochs=3, loss=nn.CrossEntropyLoss, **kwargs
):
    torch.manual_seed(1)
    model = make_model()
    trainer = kind(
        model, LOADERS[loader](), make(model), loss(), callbacks=[c() for c in callbacks], compile=compile, **kwargs
    )
    trainer.fit(epochs)
    return trainer


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def state(trainer):
    """All that the optimizer keeps, by the order of its parameters"""
    return [v for _, kept in sorted(trainer.optimizer.state_dict()["state"].items()) for _, v in sorted(kept.items())]


def same(graphs=1, **kwargs):
    """Train both ways and compare; gives the trainer whose steps were compiled, into so many graphs"""
    a, b = train(False, **kwargs), train("step", **kwargs)
    for x, y in (
        (weights(b), weights(a)),
        (state(b), state(a)),
        (list(b.history.steps), list(a.history.steps)),
        (b.history["train_loss"], a.history["train_loss"]),
    ):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)
    assert (b.step, b.epoch) == (a.step, a.epoch)
    assert len(b.compiled.graphs if b.compiled else ()) == graphs
    return b


def sgd_groups(model):
    first, *rest = model.parameters()
    return SGD(
        [dict(params=[first], weight_decay=0.1, nesterov=True), dict(params=rest, lr=0.02, momentum=0.5)],
        lr=0.05,
        momentum=0.9,
    )


def adamw_groups(model):
    return AdamW(
        [
            dict(params=model[0].parameters(), lr=0.02, weight_decay=0.3),
            dict(params=model[3:].parameters(), betas=(0.8, 0.95)),
        ],
        lr=0.005,
        weight_decay=0.1,
    )


@pytest.mark.parametrize("make, loader", [(adam, "tensors"), (adamw_groups, "samples"), (sgd_groups, "own")])
def test_trains_as_the_loop_does(make, loader):
    """With dropout and a shorter last batch, also where no loader says how long a full one is"""
    trainer = same(make=make, loader=loader)
    assert trainer.shapes == ((8, 5), (8,)) and trainer.step == 33


class Replaced:
    """An augmentation that draws: another tensor in place of the batch"""

    def before_batch(self, trainer):
        trainer.x = trainer.x + 0.5 * torch.randn_like(trainer.x)


class InPlace:
    def before_batch(self, trainer):
        trainer.x.mul_(2)
        trainer.y[:2] = 0


class Skips:
    def before_batch(self, trainer):
        if trainer.batch % 3 == 1:
            raise SkipBatch


@pytest.mark.parametrize("callback", [Replaced, InPlace, Skips])
def test_what_a_callback_makes_of_a_batch_is_trained(callback):
    plain = train(False)
    changed = same(callbacks=[callback])
    assert not torch.allclose(weights(plain), weights(changed), rtol=1e-2)  # it does have an effect
    assert changed.step == (33 if callback is not Skips else 21)


class Swaps:
    def before_epoch(self, trainer):
        if trainer.epoch == 1:
            trainer.loss_fn = nn.CrossEntropyLoss(label_smoothing=0.2)


class Freezes:
    def before_epoch(self, trainer):
        trainer.model[0].requires_grad_(trainer.epoch != 1)


@pytest.mark.parametrize("callback, make, graphs", [(Swaps, adam, 2), (Freezes, sgd_groups, 2)])
def test_a_callback_between_epochs_may_change_the_loss_and_what_is_trained(callback, make, graphs):
    plain = train(False, make=make)
    changed = same(callbacks=[callback], make=make, graphs=graphs)
    assert not torch.allclose(weights(plain), weights(changed), rtol=1e-2)


class Drops:
    """Takes a layer out of the model; the optimizer keeps its parameters"""

    def before_epoch(self, trainer):
        if trainer.epoch == 1:
            trainer.model[3] = nn.Identity()


def test_a_dropped_layer_is_trained_without(capsys):
    trainer = same(callbacks=[Drops], graphs=0)
    assert not trainer.compiled and len(weights(trainer)) == 5 * 8 + 8 + 8 * 2 + 2
    assert (
        capsys.readouterr().out.count("trained one by one: parameters of the optimizer that are not the model's\n") == 1
    )


class Smoothed(Trainer):
    def compute_loss(self, prediction, target):
        return nn.functional.cross_entropy(prediction, target, label_smoothing=0.2)


def test_a_step_that_a_subclass_replaces_is_done_by_the_loop(capsys):
    trainer = train("step", kind=Smoothed)
    assert (
        not trainer.compiled
        and capsys.readouterr().out
        == "Steps are not compiled, but trained one by one: Smoothed replaces compute_loss\n"
    )
    assert torch.equal(weights(trainer), weights(train(False, kind=Smoothed)))
    assert not torch.allclose(weights(trainer), weights(train(False)))


SCHEDULES = dict(
    cosine=cosine,
    one_cycle=lambda: one_cycle(0.05),
    epochs=lambda: Schedule(lambda o, epochs: StepLR(o, 1, 0.3), every="epoch"),
)


@pytest.mark.parametrize(
    "name, make", [("cosine", adam), ("one_cycle", adamw_groups), ("one_cycle", sgd_groups), ("epochs", sgd_groups)]
)
def test_schedules_need_no_other_graph(name, make):
    """Also one that moves the momentum with the rate"""
    trainer = same(callbacks=[SCHEDULES[name]], make=make)
    assert not torch.allclose(weights(trainer), weights(train(False, make=make)))
    assert trainer.chunk == (64 if name == "epochs" else 1)


class Stops:
    """After a batch of the run, or after an epoch"""

    def __init__(self, at):
        self.at = at

    def after_batch(self, trainer):
        if (trainer.epoch, trainer.batch + 1) == self.at:
            trainer.stop("enough")


class StopsEpoch:
    """Listens to no batch, so that they are trained in groups"""

    def __init__(self, at):
        self.at = at

    def after_epoch(self, trainer):
        if trainer.epoch == self.at:
            trainer.stop("enough")


@pytest.mark.parametrize("loader, at", [("tensors", [(0, 1), (1, 10), (2, 3)]), ("own", [(0, 10), (2, 10)])])
def test_stopped_at_a_batch_it_ends_with_the_same_bits(loader, at, tmp_path):
    """Also just before a shorter last batch"""

    def run(at, folder=None):
        return train("step", [lambda: Stops(at)], loader=loader, checkpoints=folder)

    whole = run(())
    with pytest.warns(UserWarning, match="cannot skip") if loader == "own" else nullcontext():
        for stop in at:
            stopped = run(stop, tmp_path)
            assert stopped.history.stopped == "enough" and (stopped.epoch, stopped.batch) == stop
        again = run((), tmp_path)
    assert again.compiled and torch.equal(weights(again), weights(whole)) and again.history.steps == whole.history.steps
    assert all(torch.equal(a, b) for a, b in zip(state(again), state(whole), strict=True))


def test_stopped_after_an_epoch_it_ends_with_the_same_bits(tmp_path):
    def run(at, folder=None):
        return train("step", [lambda: StopsEpoch(at)], make=sgd_groups, checkpoints=folder)

    whole = run(0)
    assert run(1, tmp_path).epoch == 1
    again = run(0, tmp_path)
    assert (
        again.chunk > 1 and torch.equal(weights(again), weights(whole)) and again.history.steps == whole.history.steps
    )


def test_checkpoints_come_where_they_are_due_and_each_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "busy", False)  # so that each is waited for, however fast the steps
    whole = train("step", checkpoints=tmp_path / "all", save_every=5, keep=100)
    steps = [int(f.name[5:]) for f in list_checkpoints(tmp_path / "all")]
    assert steps == [5, 10, 11, 16, 21, 22, 27, 32, 33]  # every 5 within each epoch of 11, and the end of it
    assert torch.equal(weights(whole), weights(train("step")))
    for f in list_checkpoints(tmp_path / "all")[:-1:4]:  # as if the machine had gone just after
        shutil.copytree(f, tmp_path / f"from {f.name}" / f.name)
        again = train("step", checkpoints=tmp_path / f"from {f.name}", save_every=5)
        assert torch.equal(weights(again), weights(whole)) and again.history.steps == whole.history.steps, f.name


def test_one_call_trains_as_it_does_eagerly(tmp_path):
    def run(compile, **kwargs):
        torch.manual_seed(1)
        model = make_model()
        history = train_model(
            model,
            LOADERS["tensors"](),
            3,
            0.01,
            valid_loader=DataLoader(TensorDataset(X, Y), 16),
            optimizer=AdamW,
            seed=3,
            verbose=False,
            device="cpu",
            compile=compile,
            **kwargs,
        )
        return history, model.state_dict()

    want, a = run(False)
    found, b = run("step", checkpoints=tmp_path)
    torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)
    assert found.names == want.names
    for name in ("train_loss", "valid_loss", "valid_accuracy"):
        torch.testing.assert_close(found[name], want[name], rtol=1e-4, atol=1e-6)
    assert len(list_checkpoints(tmp_path)) == 3
