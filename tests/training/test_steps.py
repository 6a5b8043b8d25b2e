"""Runs that are counted in optimizer steps: an end, validations and schedules within an epoch, and resuming them."""

from itertools import count

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from mlkit.training import Trainer, train_model
from mlkit.training.callbacks import BestWeights, EarlyStopping, JSONLines, Schedule, cosine
from mlkit.training.trainer import EVENTS, SkipBatch

X = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, (X.sum(1) > 0).long())


class Stream(IterableDataset):
    """Samples without end."""

    def __iter__(self):
        for i in count():
            yield DATA[i % len(DATA)]


class Record:
    """Keep the steps at which the events are sent."""

    def __init__(self):
        self.events = []

    def after_validate(self, trainer):
        self.events.append(("validate", trainer.step))

    def after_metrics(self, trainer):
        self.events.append(("metrics", trainer.step))

    def after_epoch(self, trainer):
        self.events.append(("epoch", trainer.step))


class StopAt:
    def __init__(self, step):
        self.step = step

    def after_step(self, trainer):
        if trainer.step == self.step:
            trainer.stop("enough")


class StopInValidation:
    """Request a stop during the validation at a step."""

    def __init__(self, step):
        self.step = step

    def before_validate(self, trainer):
        if trainer.step == self.step:
            trainer.stop("enough")


def make_trainer(train_loader=None, callbacks=(), **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.Linear(8, 2))
    torch.manual_seed(1)
    return Trainer(
        model,
        DataLoader(DATA, 4, shuffle=True) if train_loader is None else train_loader,
        torch.optim.Adam(model.parameters(), lr=0.01),
        nn.CrossEntropyLoss(),
        DataLoader(DATA, 16, shuffle=True),
        callbacks=callbacks,
        **options,
    )


def test_stream_without_end_is_stopped_and_validated():
    trainer = make_trainer(DataLoader(Stream(), 4), max_steps=10, callbacks=[cosine()])
    history = trainer.fit(1)
    assert (trainer.step, trainer.epoch, len(history.steps)) == (10, 0, 10)
    assert [(row["epoch"], row["step"]) for row in history.epochs] == [(1, 10)]
    assert history["valid_loss"][0] > 0
    assert history["train_loss"][0] == pytest.approx(sum(history.steps) / 10)


def test_train_model_takes_max_steps():
    model = nn.Linear(5, 2)
    history = train_model(model, DataLoader(Stream(), 4), 1, 0.1, max_steps=3, device="cpu", verbose=False)
    assert len(history.steps) == 3


def test_order_of_events():
    record = Record()
    make_trainer(validate_every=5, callbacks=[record]).fit(2)  # 12 steps an epoch
    steps = [(5, False), (10, False), (12, True), (15, False), (20, False), (24, True)]
    expected = []
    for step, ends_epoch in steps:
        expected.append(("validate", step))
        expected += [("epoch", step)] if ends_epoch else []
        expected.append(("metrics", step))
    assert record.events == expected


def test_rows_cover_each_batch_once():
    history = make_trainer(validate_every=5).fit(2)
    assert [row["step"] for row in history.epochs] == [5, 10, 12, 15, 20, 24]
    assert [row["epoch"] for row in history.epochs] == [1, 1, 1, 2, 2, 2]
    first = 0
    for row in history.epochs:
        losses = history.steps[first : row["step"]]
        assert row["train_loss"] == pytest.approx(sum(losses) / len(losses))
        first = row["step"]


@pytest.mark.parametrize("validate_every", [4, 12])
def test_validation_that_is_due_at_the_end_of_an_epoch_comes_once(validate_every):
    history = make_trainer(validate_every=validate_every).fit(2)
    steps = [row["step"] for row in history.epochs]
    assert steps == list(range(validate_every, 25, validate_every))


def test_accumulated_batches_are_one_step():
    history = make_trainer(validate_every=2, accumulate=3, max_steps=6).fit(9)
    assert [row["step"] for row in history.epochs] == [2, 4, 6]
    assert len(history.steps) == 6


def test_modes_of_modules_stay():
    class FreezeDropout:
        def before_epoch(self, trainer):
            trainer.model[1].eval()

    trainer = make_trainer(validate_every=5, callbacks=[FreezeDropout()])
    trainer.fit(1)
    modes = []
    trainer = make_trainer(validate_every=5, callbacks=[FreezeDropout()])
    trainer.model.register_forward_pre_hook(lambda model, _: modes.append((model.training, model[1].training)))
    trainer.fit(1)
    assert set(modes) == {(True, False), (False, False)}


def same_run(a, b):
    for name, tensor in a.model.state_dict().items():
        assert torch.equal(tensor, b.model.state_dict()[name]), name
    assert list(a.history.steps) == list(b.history.steps)
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in t.history.epochs] for t in (a, b)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    "stop", [StopAt(3), StopAt(5), StopAt(12), StopAt(17), StopInValidation(5), StopInValidation(12)]
)
@pytest.mark.parametrize("in_memory", [False, True])
def test_resumed_run_has_the_same_bits(tmp_path, stop, in_memory):
    whole = make_trainer(validate_every=5, callbacks=[cosine()])
    whole.fit(2)
    options = {} if in_memory else dict(checkpoints=tmp_path)
    stopped = make_trainer(validate_every=5, callbacks=[cosine(), stop], **options)
    assert stopped.fit(2).stopped == "enough"
    resumed = stopped
    if in_memory:
        stop.step = None
    else:
        resumed = make_trainer(validate_every=5, callbacks=[cosine()], **options)
    resumed.fit(2)
    same_run(resumed, whole)


def test_complete_run_has_nothing_to_do_and_more_steps_continue(tmp_path, capsys):
    make_trainer(max_steps=7, checkpoints=tmp_path).fit(2)
    make_trainer(max_steps=7, checkpoints=tmp_path).fit(2)
    assert "Nothing to do" in capsys.readouterr().out
    longer = make_trainer(max_steps=20, checkpoints=tmp_path)
    longer.fit(2)
    whole = make_trainer(max_steps=20)
    whole.fit(2)
    assert (longer.step, len(longer.history.steps)) == (20, 20)
    assert list(longer.history.steps)[:7] == list(whole.history.steps)[:7]


def test_compiled_groups_end_where_a_validation_is_due():
    history = make_trainer(validate_every=5, max_steps=17, compile="step").fit(2)
    assert [row["step"] for row in history.epochs] == [5, 10, 12, 15, 17]


def test_callbacks_follow_validations_within_an_epoch(tmp_path):
    callbacks = [EarlyStopping("train_loss", patience=2, min_delta=9), BestWeights(), JSONLines(tmp_path / "log")]
    history = make_trainer(DataLoader(Stream(), 4), validate_every=2, callbacks=callbacks).fit(1)
    assert "has not improved" in history.stopped
    assert [row["step"] for row in history.epochs] == [2, 4, 6]
    assert len((tmp_path / "log").read_text().splitlines()) == 3


def test_schedule_knows_its_end_from_max_steps():
    lengths = []

    def make(optimizer, steps):
        lengths.append(steps)
        return LambdaLR(optimizer, lambda step: 1.0)

    for options in (dict(max_steps=10), dict(max_steps=100), {}):
        make_trainer(max_steps=options.get("max_steps"), callbacks=[Schedule(make)]).fit(1)
    make_trainer(DataLoader(Stream(), 4), max_steps=5, callbacks=[Schedule(make)]).fit(1)
    assert lengths == [10, 12, 12, 5]
    with pytest.raises(ValueError, match="pass max_steps to the trainer"):
        make_trainer(DataLoader(Stream(), 4), callbacks=[Schedule(make)]).fit(1)


@pytest.mark.parametrize("name", ["max_steps", "validate_every"])
@pytest.mark.parametrize("value", [0, 1.5, "3"])
def test_wrong_counts_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a whole number from 1"):
        make_trainer(**{name: value})


BATCHES = list(zip(*(torch.randn(6, 2, n, generator=torch.Generator().manual_seed(n)) for n in (4, 1))))


def train_line(batches, callbacks=(), **options):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    return Trainer(
        model, batches, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss(), callbacks=callbacks, **options
    )


class RecordAt:
    """Record the number of complete steps at an event."""

    def __init__(self, event):
        setattr(self, event, lambda trainer: trainer.history.record("n", trainer.step))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("event", EVENTS)
def test_recorded_values_belong_to_their_step(event, accumulate):
    """The first batches of an epoch of six, with one step for each or for two of them."""
    steps = 6 // accumulate
    history = train_line(BATCHES, [RecordAt(event)], accumulate=accumulate).fit(1)
    recorded = history.recorded.get("n", {})
    assert recorded.keys() <= set(range(1, steps + 1))
    if event in ("before_batch", "before_loss", "after_loss", "before_backward", "after_backward", "before_step"):
        assert recorded == {n: n - 1 for n in range(1, steps + 1)}
    elif event in ("after_step", "after_batch"):
        assert recorded == {n: n for n in range(1, steps + 1)}
    elif event in ("after_epoch", "after_metrics", "after_fit"):
        assert recorded == {steps: steps}


class SkipAt:
    def __init__(self, event):
        setattr(self, event, self.skip)

    def skip(self, trainer):
        if trainer.batch == 1:
            raise SkipBatch


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("event", ["before_batch", "before_loss", "after_loss", "before_backward"])
def test_skipped_batch_counts_nowhere(event, accumulate):
    skipping = train_line(BATCHES[:5], [SkipAt(event)], accumulate=accumulate)
    skipping.fit(1)
    without = train_line([BATCHES[i] for i in (0, 2, 3, 4)], accumulate=accumulate)
    without.fit(1)
    assert skipping.step == without.step == 4 // accumulate
    assert skipping.history.steps == without.history.steps
    assert skipping.history["train_loss"] == without.history["train_loss"]
    for p, q in zip(skipping.model.parameters(), without.model.parameters()):
        assert torch.equal(p, q)


@pytest.mark.parametrize("event", ["after_backward", "before_step", "after_step", "after_batch"])
def test_batch_that_is_skipped_too_late_is_an_error(event):
    """Its gradients would be part of the next step."""
    with pytest.raises(ValueError, match=f"a SkipBatch was raised in {event}, where it is too late"):
        train_line(BATCHES, [SkipAt(event)]).fit(1)


def test_schedule_of_a_second_fit_ends_at_max_steps():
    lengths = []

    def make(optimizer, steps):
        lengths.append(steps)
        return torch.optim.lr_scheduler.StepLR(optimizer, 1)

    trainer = train_line(BATCHES, [Schedule(make)], max_steps=8)
    trainer.fit(1)
    trainer.fit(3)
    assert lengths == [6, 2]
