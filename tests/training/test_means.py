"""A mean of what: accumulated gradients and reported losses, against the single large batch."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from mlkit.training import Trainer, train_model

SAMPLES = 12
CLASSES = 3
WEIGHTS = torch.tensor([1.0, 5.0, 0.2])


class Tagger(nn.Module):
    """Give each of four words the logits of the classes: (batch, classes, 4)."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, CLASSES * 4)

    def forward(self, x):
        return self.linear(x).unflatten(1, (CLASSES, 4))


def classes():
    return torch.arange(SAMPLES) % CLASSES


def ignored_classes():
    return torch.where(torch.arange(SAMPLES) < 5, -100, classes())


def words():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(CLASSES, (SAMPLES, 4), generator=generator)
    return torch.where(torch.rand((SAMPLES, 4), generator=generator) < 0.5, -100, labels)


def padded_loss(prediction, target):
    """Return a loss that ignores padding by itself, and how many targets it counts."""
    valid = target != -100
    return F.cross_entropy(prediction.movedim(1, -1)[valid], target[valid]), valid.sum()


def masked_loss(prediction, target):
    """Return a loss that is 0 / 0 where nothing counts, with gradients that are NaN."""
    losses = F.cross_entropy(prediction, target.clamp(0), reduction="none") * (target != -100)
    return losses.sum() / (target != -100).sum(), (target != -100).sum()


CASES = {
    "classes": (nn.Linear(5, CLASSES), classes(), nn.CrossEntropyLoss()),
    "ignored targets": (nn.Linear(5, CLASSES), ignored_classes(), nn.CrossEntropyLoss()),
    "class weights": (nn.Linear(5, CLASSES), classes(), nn.CrossEntropyLoss(WEIGHTS)),
    "class weights of a partial": (nn.Linear(5, CLASSES), classes(), partial(F.cross_entropy, weight=WEIGHTS)),
    "words": (Tagger(), words(), nn.CrossEntropyLoss()),
    "words with a loss that counts": (Tagger(), words(), padded_loss),
    "classes without weight": (
        nn.Linear(5, CLASSES),
        torch.tensor([0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 1]),
        nn.CrossEntropyLoss(torch.tensor([0.0, 1.0, 2.0])),
    ),
    "a loss of nothing in some batches": (nn.Linear(5, CLASSES), ignored_classes(), masked_loss),
    "values": (nn.Linear(5, CLASSES), torch.randn(SAMPLES, CLASSES), nn.MSELoss()),
    "a sum": (nn.Linear(5, CLASSES), torch.randn(SAMPLES, CLASSES), nn.MSELoss(reduction="sum")),
    "a custom mean": (
        nn.Linear(5, CLASSES),
        torch.randn(SAMPLES, CLASSES),
        lambda prediction, target: (prediction - target).abs().mean(),
    ),
}


def weights_after(model, target, loss_fn, batch_size, **options):
    """Return the weights after one epoch of SGD, and the history."""
    torch.manual_seed(0)
    x = torch.randn(SAMPLES, 5)
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(x, target), batch_size)
    history = Trainer(model, loader, optimizer, loss_fn, **options).fit(1)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), history


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_accumulated_gradients_are_those_of_the_large_batch(name, batch_size):
    whole, whole_history = weights_after(*CASES[name], batch_size=SAMPLES)
    batches = -(-SAMPLES // batch_size)
    accumulated, history = weights_after(*CASES[name], batch_size=batch_size, accumulate=batches)
    torch.testing.assert_close(accumulated, whole)
    assert list(history.steps) == pytest.approx(list(whole_history.steps), rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_accumulated_gradients_in_low_precision(precision):
    whole, _ = weights_after(*CASES["ignored targets"], batch_size=SAMPLES, precision=precision)
    accumulated, _ = weights_after(*CASES["ignored targets"], batch_size=5, accumulate=3, precision=precision)
    torch.testing.assert_close(accumulated, whole, rtol=0.02, atol=0.005)


@pytest.mark.parametrize("name", [name for name in CASES if name != "a sum"])
@pytest.mark.parametrize("batch_size", [5, 12])
def test_training_and_validation_losses_of_a_frozen_model_agree(name, batch_size):
    check_frozen_model(*CASES[name], batch_size)


def test_losses_of_compiled_steps_agree():
    check_frozen_model(*CASES["ignored targets"], batch_size=5, compile="step")


def check_frozen_model(model, target, loss_fn, batch_size, **options):
    """Check the losses of a model that is not changed against the loss of the whole data."""
    x = torch.randn(SAMPLES, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loader = DataLoader(TensorDataset(x, target), batch_size)
    history = Trainer(model, loader, optimizer, loss_fn, valid_loader=loader, **options).fit(2)
    whole = loss_fn(model(x), target)
    whole = whole[0] if isinstance(whole, tuple) else whole
    for row in history.epochs:
        assert row["train_loss"] == pytest.approx(row["valid_loss"], rel=1e-5)
        assert row["train_loss"] == pytest.approx(whole.item(), rel=1e-5)


def test_tokens_of_varying_length_are_weighed_by_their_number():
    """Batches of other lengths have other numbers of elements, which a mean over elements counts."""
    torch.manual_seed(0)
    batches = [(torch.randn(2, n, 5), torch.randn(2, n, 1)) for n in (3, 7, 4)]
    model = nn.Linear(5, 1)
    errors = torch.cat([(model(x) - y).pow(2).flatten() for x, y in batches])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    history = Trainer(model, batches, optimizer, nn.MSELoss(), valid_loader=batches, accumulate=3).fit(1)
    for value in (history["train_loss"][0], history["valid_loss"][0], history.steps[0]):
        assert value == pytest.approx(errors.mean().item(), rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_batch_in_which_nothing_counts(accumulate):
    target = torch.tensor([0, 1, -100, -100, -100, -100, 1, 0])
    model = nn.Linear(5, 2)
    loader = DataLoader(TensorDataset(torch.randn(8, 5), target), 2)
    history = Trainer(
        model, loader, torch.optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss(), accumulate=accumulate
    ).fit(2)
    assert history["train_loss"][1] > 0
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda prediction, target: F.cross_entropy(prediction, target, ignore_index=0),
        lambda prediction, target: F.cross_entropy(prediction, target, weight=WEIGHTS),
        lambda prediction, target: F.cross_entropy(prediction, target, reduction="sum"),
    ],
)
def test_custom_loss_that_is_no_mean_over_samples_has_to_say_so(loss_fn):
    torch.manual_seed(0)
    model = nn.Linear(5, CLASSES)
    target = torch.tensor([0, 1, 2, 1, 1, 1, 0, 0, 2, 2, 2, 1])
    loader = DataLoader(TensorDataset(torch.randn(SAMPLES, 5), target), 6)
    train_model(model, loader, 1, 0.1, loss_fn=loss_fn, device="cpu", verbose=False)
    with pytest.raises(ValueError, match="Return a pair"):
        train_model(model, loader, 1, 0.1, loss_fn=loss_fn, accumulate=2, device="cpu", verbose=False)
    counted = lambda prediction, target: (loss_fn(prediction, target), 1)  # noqa: E731 -- one line is the point
    train_model(model, loader, 1, 0.1, loss_fn=counted, accumulate=2, device="cpu", verbose=False)


def test_steps_of_the_history_are_optimizer_steps():
    _, history = weights_after(*CASES["classes"], batch_size=2, accumulate=4)
    assert len(history.steps) == 2


def test_steps_in_which_nothing_counts_have_no_loss():
    target = torch.where(torch.arange(SAMPLES) < 6, -100, classes())
    weights, history = weights_after(nn.Linear(5, CLASSES), target, nn.CrossEntropyLoss(), 1, accumulate=3)
    assert history.steps[:2].tolist() == [0, 0]
    assert min(history.steps[2:]) > 0
    assert weights.isfinite().all()


class Focal(nn.CrossEntropyLoss):
    """Is no mean by the weights of classes, though it looks like one."""

    def forward(self, prediction, target):
        losses = F.cross_entropy(prediction, target, weight=self.weight, reduction="none")
        return ((1 - torch.exp(-losses)) ** 2 * losses).mean()


class NoSum(nn.MSELoss):
    def forward(self, prediction, target):
        return super().forward(prediction, target) / len(prediction)


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (Focal(WEIGHTS), "is not a mean over the labels that it does not ignore, by the weights of their classes"),
        (Focal(reduction="sum"), "is not a sum over the samples"),
        (NoSum(reduction="sum"), "is not a sum over the samples"),
    ],
)
def test_custom_loss_that_is_not_what_its_class_tells(loss_fn, message):
    target = torch.randn(SAMPLES, CLASSES) if isinstance(loss_fn, nn.MSELoss) else classes()
    with pytest.raises(ValueError, match=message):
        weights_after(nn.Linear(5, CLASSES), target, loss_fn, 5, accumulate=3)


@pytest.mark.parametrize("first", [2, 13, 40])
def test_a_custom_loss_that_leaves_out_targets_which_come_late(first):
    """The steps 1, 2, 4, 8, ... are checked as well as the first"""
    torch.manual_seed(0)
    x = torch.randn(60, 5)
    target = torch.arange(60) % CLASSES
    target[first:][torch.arange(60 - first) % 5 < 3] = -100

    def padded(prediction, target):
        valid = target != -100
        return F.cross_entropy(prediction[valid], target[valid])

    model = nn.Linear(5, CLASSES)
    trainer = Trainer(
        model, DataLoader(TensorDataset(x, target), 3), torch.optim.SGD(model.parameters(), 0.1), padded, accumulate=2
    )
    with pytest.raises(ValueError, match="loss_fn is not a mean over the samples: .* Return a pair"):
        trainer.fit(1)


def test_second_value_that_is_part_of_the_loss_is_no_count():
    with pytest.raises(ValueError, match=r"returned a tuple \(Tensor with a gradient, Tensor with a gradient\)"):
        weights_after(nn.Linear(5, CLASSES), classes(), lambda p, y: (F.cross_entropy(p, y), p.square().mean()), 5)


@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum"), padded_loss])
@pytest.mark.parametrize("metrics", [None, "custom"])
def test_metrics_are_over_the_labels_that_are_not_ignored(loss_fn, metrics):
    """Whatever the loss is: one of torch's, a sum, or a function that ignores labels by itself."""
    torch.manual_seed(0)
    x, target = torch.randn(SAMPLES, 5), ignored_classes().roll(3)
    model = nn.Linear(5, CLASSES)
    valid = target != -100
    right = (model(x).argmax(1) == target)[valid].float().mean().item()
    if metrics:
        metrics = dict(accuracy=lambda p, y: (p.argmax(1) == y)[y != -100].float().mean())
    loader = DataLoader(TensorDataset(x, target), 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    history = Trainer(model, loader, optimizer, loss_fn, valid_loader=loader, metrics=metrics).fit(1)
    assert history["valid_accuracy"][0] == pytest.approx(right)


def test_pair_of_a_metric_that_is_no_count_is_refused():
    with pytest.raises(ValueError, match="the metric 'a' gave a tuple"):
        weights_after(
            nn.Linear(5, CLASSES),
            classes(),
            nn.CrossEntropyLoss(),
            5,
            valid_loader=DataLoader(TensorDataset(torch.randn(6, 5), classes()[:6]), 3),
            metrics=dict(a=lambda p, y: (p.mean(), torch.ones(2))),
        )
