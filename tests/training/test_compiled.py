"""Test that compiled steps train as the eager loop does, and that stopped runs continue bit for bit."""

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
from mlkit.training.trainer import SkipBatch, Trainer

torch.manual_seed(0)
X = torch.randn(83, 5)  # 11 batches of 8, of which the last has 3
Y = (X.sum(1) > 0).long()


class Batches:
    """An iterable without a length or a batch size, which draws a new order each time."""

    def __iter__(self):
        yield from ((X[i], Y[i]) for i in torch.randperm(83).split(8))


LOADERS = dict(
    tensors=lambda: DataLoader(TensorDataset(X, Y), 8, shuffle=True),
    samples=lambda: DataLoader(list(zip(X, Y)), 8, shuffle=True),
    iterable=Batches,
)


def make_model():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 8), nn.Linear(8, 2))


def adam(model):
    return Adam(model.parameters(), lr=0.01)


def train(
    compile,
    callbacks=(),
    make=adam,
    loader="tensors",
    trainer_class=Trainer,
    epochs=3,
    loss=nn.CrossEntropyLoss,
    **kwargs,
):
    torch.manual_seed(1)
    model = make_model()
    trainer = trainer_class(
        model, LOADERS[loader](), make(model), loss(), callbacks=[c() for c in callbacks], compile=compile, **kwargs
    )
    trainer.fit(epochs)
    return trainer


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def optimizer_tensors(trainer):
    """Return the tensors of the optimizer's state, in the order of its parameters."""
    states = trainer.optimizer.state_dict()["state"]
    return [tensor for _, state in sorted(states.items()) for _, tensor in sorted(state.items())]


def train_both_ways(graphs=1, **kwargs):
    """Train eagerly and with compiled steps, compare the results, and return the trainer with compiled steps.

    graphs: the number of graphs that it must have compiled.
    """
    eager = train(False, **kwargs)
    compiled = train("step", **kwargs)
    for actual, expected in (
        (weights(compiled), weights(eager)),
        (optimizer_tensors(compiled), optimizer_tensors(eager)),
        (list(compiled.history.steps), list(eager.history.steps)),
        (compiled.history["train_loss"], eager.history["train_loss"]),
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    assert (compiled.step, compiled.epoch) == (eager.step, eager.epoch)
    assert len(compiled.compiled.steps.graphs if compiled.compiled else ()) == graphs
    return compiled


def sgd_groups(model):
    first, *others = model.parameters()
    return SGD(
        [dict(params=[first], weight_decay=0.1, nesterov=True), dict(params=others, lr=0.02, momentum=0.5)],
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


@pytest.mark.parametrize("make, loader", [(adam, "tensors"), (adamw_groups, "samples"), (sgd_groups, "iterable")])
def test_trains_as_the_loop_does(make, loader):
    """The model has dropout, the last batch is shorter, and one loader has no batch size."""
    trainer = train_both_ways(make=make, loader=loader)
    assert trainer.compiled.shapes == ((8, 5), (8,))
    assert trainer.step == 33


class ReplaceBatch:
    """A random augmentation that replaces the tensor of the batch."""

    def before_batch(self, trainer):
        trainer.x = trainer.x + 0.5 * torch.randn_like(trainer.x)


class ChangeInPlace:
    def before_batch(self, trainer):
        trainer.x.mul_(2)
        trainer.y[:2] = 0


class Skip:
    def before_batch(self, trainer):
        if trainer.batch % 3 == 1:
            raise SkipBatch


@pytest.mark.parametrize("callback", [ReplaceBatch, ChangeInPlace, Skip])
def test_a_batch_that_a_callback_has_changed_is_trained(callback):
    plain = train(False)
    changed = train_both_ways(callbacks=[callback])
    assert not torch.allclose(weights(plain), weights(changed), rtol=1e-2)  # the callback has an effect
    assert changed.step == (33 if callback is not Skip else 21)


class SwapLoss:
    def before_epoch(self, trainer):
        if trainer.epoch == 1:
            trainer.loss_fn = nn.CrossEntropyLoss(label_smoothing=0.2)


class FreezeLayer:
    def before_epoch(self, trainer):
        trainer.model[0].requires_grad_(trainer.epoch != 1)


@pytest.mark.parametrize("callback, make, graphs", [(SwapLoss, adam, 2), (FreezeLayer, sgd_groups, 2)])
def test_a_callback_between_epochs_may_change_the_loss_and_what_is_trained(callback, make, graphs):
    plain = train(False, make=make)
    changed = train_both_ways(callbacks=[callback], make=make, graphs=graphs)
    assert not torch.allclose(weights(plain), weights(changed), rtol=1e-2)


class RemoveLayer:
    """Remove a layer from the model; the optimizer keeps its parameters."""

    def before_epoch(self, trainer):
        if trainer.epoch == 1:
            trainer.model[3] = nn.Identity()


def test_a_removed_layer_is_not_trained(capsys):
    trainer = train_both_ways(callbacks=[RemoveLayer], graphs=0)
    assert not trainer.compiled
    assert len(weights(trainer)) == 5 * 8 + 8 + 8 * 2 + 2
    message = "trained one by one: parameters of the optimizer that are not the model's\n"
    assert capsys.readouterr().out.count(message) == 1


class Smoothed(Trainer):
    def compute_loss(self, prediction, target):
        return nn.functional.cross_entropy(prediction, target, label_smoothing=0.2)


def test_a_trainer_that_overrides_part_of_the_step_is_not_compiled(capsys):
    trainer = train("step", trainer_class=Smoothed)
    assert not trainer.compiled
    output = capsys.readouterr().out
    assert output == "Steps are not compiled, but trained one by one: Smoothed replaces compute_loss\n"
    assert torch.equal(weights(trainer), weights(train(False, trainer_class=Smoothed)))
    assert not torch.allclose(weights(trainer), weights(train(False)))


SCHEDULES = dict(
    cosine=cosine,
    one_cycle=lambda: one_cycle(0.05),
    epochs=lambda: Schedule(lambda o, epochs: StepLR(o, 1, 0.3), every="epoch"),
)


@pytest.mark.parametrize(
    "name, make", [("cosine", adam), ("one_cycle", adamw_groups), ("one_cycle", sgd_groups), ("epochs", sgd_groups)]
)
def test_schedules_use_the_same_graph(name, make):
    """One of the schedules changes the momentum with the learning rate."""
    trainer = train_both_ways(callbacks=[SCHEDULES[name]], make=make)
    assert not torch.allclose(weights(trainer), weights(train(False, make=make)))
    assert trainer.compiled.size == (64 if name == "epochs" else 1)


class StopAtBatch:
    """Stop the run after a batch, `at` = (epoch, number of batches)."""

    def __init__(self, at):
        self.at = at

    def after_batch(self, trainer):
        if (trainer.epoch, trainer.batch + 1) == self.at:
            trainer.stop("enough")


class StopAfterEpoch:
    """Stop the run after an epoch; it has no event of a batch, so batches are trained in groups."""

    def __init__(self, at):
        self.at = at

    def after_epoch(self, trainer):
        if trainer.epoch == self.at:
            trainer.stop("enough")


@pytest.mark.parametrize("loader, at", [("tensors", [(0, 1), (1, 10), (2, 3)]), ("iterable", [(0, 10), (2, 10)])])
def test_a_run_stopped_at_a_batch_ends_with_the_same_bits(loader, at, tmp_path):
    """One of the stops is just before a shorter last batch."""

    def run(at, folder=None):
        return train("step", [lambda: StopAtBatch(at)], loader=loader, checkpoints=folder)

    whole = run(())
    with pytest.warns(UserWarning, match="cannot skip") if loader == "iterable" else nullcontext():
        for stop in at:
            stopped = run(stop, tmp_path)
            assert stopped.history.stopped == "enough"
            assert (stopped.epoch, stopped.batch) == stop
        again = run((), tmp_path)
    assert again.compiled
    assert torch.equal(weights(again), weights(whole))
    assert again.history.steps == whole.history.steps
    assert all(torch.equal(a, b) for a, b in zip(optimizer_tensors(again), optimizer_tensors(whole), strict=True))


def test_a_run_stopped_after_an_epoch_ends_with_the_same_bits(tmp_path):
    def run(at, folder=None):
        return train("step", [lambda: StopAfterEpoch(at)], make=sgd_groups, checkpoints=folder)

    whole = run(0)
    assert run(1, tmp_path).epoch == 1
    again = run(0, tmp_path)
    assert again.compiled.size > 1
    assert torch.equal(weights(again), weights(whole))
    assert again.history.steps == whole.history.steps


@pytest.mark.long
def test_checkpoints_are_on_time_and_each_continues_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "busy", False)  # each save waits for the previous one, however fast the steps are
    whole = train("step", checkpoints=tmp_path / "all", save_every=5, keep=100)
    steps = [int(f.name[5:]) for f in list_checkpoints(tmp_path / "all")]
    assert steps == [5, 10, 11, 16, 21, 22, 27, 32, 33]  # every 5 steps of an epoch of 11, and at its end
    assert torch.equal(weights(whole), weights(train("step")))
    for f in list_checkpoints(tmp_path / "all")[:-1:4]:  # as if the machine had failed just after it
        shutil.copytree(f, tmp_path / f"from {f.name}" / f.name)
        again = train("step", checkpoints=tmp_path / f"from {f.name}", save_every=5)
        assert torch.equal(weights(again), weights(whole)), f.name
        assert again.history.steps == whole.history.steps, f.name


def test_train_model_compiled_trains_as_it_does_eagerly(tmp_path):
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

    eager, eager_weights = run(False)
    compiled, compiled_weights = run("step", checkpoints=tmp_path)
    torch.testing.assert_close(compiled_weights, eager_weights, rtol=1e-4, atol=1e-6)
    assert compiled.names == eager.names
    for name in ("train_loss", "valid_loss", "valid_accuracy"):
        torch.testing.assert_close(compiled[name], eager[name], rtol=1e-4, atol=1e-6)
    assert len(list_checkpoints(tmp_path)) == 3
