"""Edges of the trainer: where an error is reported, states that do not fit, and moments that change during a copy."""

import copy
import threading
import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mlkit.model import MyCustomModel
from mlkit.training.checkpoint import Checkpoints, list_checkpoints, read_checkpoint
from mlkit.training.state import Checkpointer
from mlkit.training.trainer import Trainer

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()
DATA = TensorDataset(X, Y)


def make_trainer(data=DATA, kind=Trainer, batch_size=16, width=16, **options):
    torch.manual_seed(0)
    model = MyCustomModel(4, width, 2)
    loader = DataLoader(data, batch_size, shuffle=True)
    return kind(model, loader, torch.optim.Adam(model.parameters(), 0.01), nn.CrossEntropyLoss(), **options)


def locations(trainer):
    """Train two epochs, which fails, and return the notes on where the error was raised."""
    trainer.processes.read_interval = float("inf")  # so that on_progress does not depend on the time
    with pytest.raises(Exception):  # noqa: B017 -- of any kind
        trainer.fit(2)
    return [note for note in getattr(trainer.exception, "__notes__", ()) if note.startswith("(")]


def raise_in(event, call):
    """Return a callback that raises at this call of an event, counted from 0."""
    calls = iter(range(99))

    def listener(trainer):
        if next(calls) == call:
            raise ValueError(event)

    return type("Raising", (), {event: staticmethod(listener)})()


BATCHES = 4  # of an epoch


@pytest.mark.parametrize(
    ("event", "call", "location"),
    [
        ("before_fit", 0, "(before the first batch)"),
        ("before_epoch", 0, "(before the first batch)"),
        ("before_epoch", 1, "(after epoch 1)"),
        ("before_batch", 2, "(in epoch 1, batch 3)"),
        ("before_loss", 2, "(in epoch 1, batch 3)"),
        ("after_loss", 2, "(in epoch 1, batch 3)"),
        ("before_backward", 2, "(in epoch 1, batch 3)"),
        ("after_backward", BATCHES, "(in epoch 2, batch 1)"),
        ("before_step", BATCHES, "(in epoch 2, batch 1)"),
        ("after_step", BATCHES, "(in epoch 2, batch 1)"),
        ("after_batch", BATCHES, "(in epoch 2, batch 1)"),
        ("on_progress", 0, f"(after batch {BATCHES} of epoch 1)"),
        ("after_metrics", 0, "(after epoch 1)"),
        ("after_epoch", 1, "(after epoch 2)"),
        ("after_fit", 0, "(after epoch 2)"),
    ],
)
def test_an_error_has_its_place_once(event, call, location):
    """Epochs and batches are counted from 1."""
    assert locations(make_trainer(callbacks=[raise_in(event, call)])) == [location]


def test_the_message_about_a_loss_has_the_place_itself():
    x = X.clone()
    x[42] = float("nan")
    assert locations(make_trainer(TensorDataset(x, Y))) == []


class RecordMoments(Checkpoints):
    """Keeps the moments of the optimizer at each step that is saved."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.moments = {}

    def save(self, state, step, *args, **kwargs):
        self.moments[step] = copy.deepcopy(state["optimizer"]["state"])
        return super().save(state, step, *args, **kwargs)


class HalveMoments:
    def before_batch(self, trainer):
        for state in trainer.optimizer.state.values():
            state["exp_avg"].mul_(0.5)


class OwnBatch(Trainer):
    """Replaces all that is done with a batch."""

    def train_batch(self, batch):
        self.optimizer.zero_grad()
        self.loss = self.compute_loss(self.predict(batch[0]), batch[1])
        self.loss.backward()
        self.optimizer.step()


@pytest.mark.parametrize(("kind", "callbacks"), [(Trainer, []), (Trainer, [HalveMoments()]), (OwnBatch, [])])
def test_moments_may_change_only_after_their_copy(kind, callbacks, tmp_path, monkeypatch):
    """The copy is slow. A step of the optimizer, whoever makes it, and each callback have to wait for it."""
    copy_tensors = torch._foreach_copy_

    def copy_slowly(*args):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.005)
        return copy_tensors(*args)

    monkeypatch.setattr(torch, "_foreach_copy_", copy_slowly)
    trainer = make_trainer(TensorDataset(X[:24], Y[:24]), kind, 4, 8, callbacks=callbacks, checkpoints=tmp_path)
    checkpoints = RecordMoments(tmp_path, keep=9)
    trainer.checkpointer = Checkpointer(checkpoints, save_every=1)
    trainer.fit(1)
    assert len(list_checkpoints(tmp_path)) > 1
    for path in list_checkpoints(tmp_path):
        saved = read_checkpoint(path)
        moments = checkpoints.moments[saved["step"]]
        for i, state in saved["optimizer"]["state"].items():
            for name, tensor in state.items():
                assert torch.equal(tensor, moments[i][name]), (path.name, i, name)


class Centres(nn.Module):
    """A loss that learns."""

    def __init__(self, n):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(n))


def line_trainer(make_optimizer=torch.optim.Adam, loss_fn=None):
    model = nn.Linear(2, 1)
    return Trainer(model, [], make_optimizer(model.parameters(), lr=0.1), loss_fn or nn.MSELoss())


def with_added_group():
    trainer = line_trainer()
    trainer.optimizer.add_param_group(dict(params=[torch.zeros(1)]))
    return trainer


@pytest.mark.parametrize(
    ("make", "make_saved", "message"),
    [
        (lambda: line_trainer(torch.optim.SGD), line_trainer, "of another optimizer than this SGD: of Adam"),
        (lambda: line_trainer(torch.optim.AdamW), line_trainer, "of another optimizer than this AdamW: of Adam"),
        (line_trainer, with_added_group, "it had 2 groups of parameters, this one has 1"),
        (
            lambda: line_trainer(loss_fn=Centres(3)),
            lambda: line_trainer(loss_fn=Centres(2)),
            "another loss than this Centres",
        ),
    ],
)
def test_a_state_that_is_refused_changes_nothing(make, make_saved, message):
    trainer = make()
    weights = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(ValueError, match=message):
        trainer.load_state_dict(make_saved().state_dict())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trainer.model.state_dict().items())


def test_a_state_of_something_else_is_refused():
    trainer = line_trainer()
    with pytest.raises(ValueError, match="not a checkpoint of a Trainer"):
        trainer.load_state_dict(dict(model=trainer.model.state_dict()))


def test_a_state_without_optimizer_class_and_loss_is_loaded():
    """Such a state was written by an earlier version."""
    state = line_trainer().state_dict()
    trainer = line_trainer()
    trainer.load_state_dict({k: v for k, v in state.items() if k not in ("optimizer_class", "loss")})
    assert torch.equal(trainer.model.weight, state["model"]["weight"])


def test_a_loss_that_has_learned_is_loaded():
    learned = line_trainer(loss_fn=Centres(2))
    trainer = line_trainer(loss_fn=Centres(2))
    trainer.load_state_dict(learned.state_dict())
    assert torch.equal(trainer.loss_fn.centres, learned.loss_fn.centres)


def test_shapes_of_compiled_batches_are_saved_again():
    grouped = make_trainer(compile="step")
    grouped.load_state_dict(make_trainer().state_dict() | dict(shapes=((8, 2), (8,))))
    assert grouped.state_dict()["shapes"] == ((8, 2), (8,))


class DoubleRate:
    """Begins anew in each fit, as a schedule may."""

    def before_fit(self, trainer):
        trainer.optimizer.param_groups[0]["lr"] *= 2

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class StopAfter:
    def after_batch(self, trainer):
        if trainer.step == 2:
            trainer.stop("enough")


def test_a_rate_that_was_set_between_two_fits_counts():
    trainer = make_trainer(callbacks=[DoubleRate(), StopAfter()])
    trainer.fit(3)
    trainer.optimizer.param_groups[0]["lr"] /= 4
    trainer.fit(3)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 2 / 4)
