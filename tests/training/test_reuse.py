"""State that outlives its run: callbacks that are used again, seeds, and what else a run has to remember."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mlkit.training import Trainer, train_model
from mlkit.training.callbacks import (
    EMA,
    BestWeights,
    ClipGradients,
    CSVLog,
    EarlyStopping,
    JSONLines,
    MLflow,
    Progress,
    Schedule,
    TensorBoard,
    cosine,
    one_cycle,
)

X = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, (X.sum(1) > 0).long())


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(5, 2)


def fit(model, callbacks=(), epochs=3, **options):
    """Train with few defaults, and return the history."""
    return train_model(
        model,
        DataLoader(DATA, 8),
        epochs,
        0.1,
        valid_loader=DataLoader(DATA, 8),
        callbacks=callbacks,
        device="cpu",
        verbose=False,
        **options,
    )


class UserCount:
    """A callback of a user's with the protocol for states."""

    def __init__(self):
        self.epochs = 0

    def after_epoch(self, trainer):
        self.epochs += 1
        if self.epochs == 2:
            trainer.stop("two epochs")

    def state_dict(self):
        return dict(epochs=self.epochs)

    def load_state_dict(self, state):
        self.epochs = state["epochs"]


class UserReset:
    """A callback of a user's that resets itself."""

    def __init__(self):
        self.epochs = 0

    def reset(self):
        self.epochs = 0

    def after_epoch(self, trainer):
        self.epochs += 1
        if self.epochs == 2:
            trainer.stop("two epochs")


def callbacks_of_mlkit(folder):
    """Return a function that makes each callback."""
    return {
        "EMA": lambda: EMA(0.5),
        "BestWeights": lambda: BestWeights(),
        "ClipGradients": lambda: ClipGradients(0.1),
        "CSVLog": lambda: CSVLog(folder / "log.csv"),
        "EarlyStopping": lambda: EarlyStopping(patience=2, min_delta=9),
        "JSONLines": lambda: JSONLines(folder / "log.jsonl"),
        "MLflow": lambda: MLflow(uri=f"sqlite:///{folder}/mlflow.db"),
        "Progress": lambda: Progress(),
        "Schedule": lambda: Schedule(lambda optimizer, steps: ReduceLROnPlateau(optimizer, patience=0), every="epoch"),
        "TensorBoard": lambda: TensorBoard(folder / "events"),
        "cosine": lambda: cosine(),
        "one_cycle": lambda: one_cycle(0.1),
    }


NAMES = list(callbacks_of_mlkit(None))


def test_all_callbacks_are_tried():
    import mlkit.training.callbacks as page

    helpers = {"find_learning_rate", "total_steps"}
    assert set(NAMES) == set(page.__all__) - helpers


@pytest.mark.parametrize("name", NAMES)
def test_callback_begins_anew(name, tmp_path):
    callback = callbacks_of_mlkit(tmp_path)[name]()
    fit(make_model(0), [callback])
    again = make_model(1)
    history = fit(again, [callback])
    fresh = make_model(1)
    expected = fit(fresh, [callbacks_of_mlkit(tmp_path / "fresh")[name]()])
    assert list(history.steps) == list(expected.steps)
    assert history.stopped == expected.stopped
    for tensor, expected_tensor in zip(again.state_dict().values(), fresh.state_dict().values()):
        assert torch.equal(tensor, expected_tensor)


@pytest.mark.parametrize("kind", [UserCount, UserReset])
def test_callback_of_the_user_begins_anew(kind):
    callback = kind()
    for seed in range(3):
        assert len(fit(make_model(seed), [callback], epochs=5)) == 2


def test_second_run_is_another_run_of_mlflow(tmp_path):
    callback = MLflow(uri=f"sqlite:///{tmp_path}/mlflow.db")
    fit(make_model(), [callback])
    first = callback.run_id
    fit(make_model(), [callback])
    assert callback.run_id != first


def test_only_a_resume_restores_a_callback(tmp_path):
    callback = UserCount()
    fit(make_model(), [callback], epochs=1, checkpoints=tmp_path)
    assert len(fit(make_model(), [callback], epochs=5, checkpoints=tmp_path)) == 2  # one of them from before
    assert len(fit(make_model(), [callback], epochs=5)) == 2


class Noisy(Dataset):
    """Samples with noise from each of the generators."""

    def __len__(self):
        return 16

    def __getitem__(self, i):
        noise = random.random() + np.random.rand() + torch.rand(()).item()
        return X[i] + noise, int(X[i].sum() > 0)


def test_seed_covers_all_generators():
    losses = []
    for _ in range(2):
        history = train_model(make_model(), DataLoader(Noisy(), 4), 2, 0.1, seed=3, device="cpu", verbose=False)
        losses.append(list(history.steps))
    assert losses[0] == losses[1]


class Centers(nn.Module):
    """A loss that learns a centre for each class."""

    def __init__(self):
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(2, 2))

    def forward(self, prediction, target):
        return (prediction - self.centers[target] - 1).pow(2).mean()


def test_loss_with_parameters_is_trained():
    loss_fn = Centers()
    fit(make_model(), loss_fn=loss_fn)
    assert loss_fn.centers.abs().min() > 0


def test_loss_that_no_optimizer_trains_is_refused():
    model, loss_fn = make_model(), Centers()
    with pytest.raises(ValueError, match="the loss has parameters that no optimizer trains: centers"):
        fit(model, loss_fn=loss_fn, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    fit(model, loss_fn=loss_fn, optimizer=torch.optim.SGD([*model.parameters(), *loss_fn.parameters()], lr=0.1))
    other = dict(centers=torch.optim.SGD(loss_fn.parameters(), lr=0.1))
    fit(model, loss_fn=loss_fn, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), stateful=other)
    fit(model, loss_fn=loss_fn.requires_grad_(False), optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def test_two_callbacks_use_the_gradients_of_fp16():
    class Norm:
        def before_step(self, trainer):
            trainer.history.record("norm", nn.utils.get_total_norm(trainer.gradients()))

    norms = []
    for callbacks in ([Norm()], [Norm(), ClipGradients(1e9), ClipGradients(1e9), Norm()]):
        history = fit(make_model(), callbacks, precision="fp16")
        norms.append(list(history.recorded["norm"].values()))
    assert norms[0] == norms[1]
    assert max(norms[0]) < 100


def test_plateau_of_a_metric():
    def schedule(**options):
        return Schedule(lambda optimizer, _: ReduceLROnPlateau(optimizer, mode="max", patience=0), **options)

    rates = []

    class Rate:
        def after_metrics(self, trainer):
            rates.append(trainer.optimizer.param_groups[0]["lr"])

    accuracy = iter([0.5, 0.6, 0.6, 0.6])
    metrics = dict(fake=lambda prediction, target: next_value)
    next_value = 0.0

    class Next:
        def before_validate(self, trainer):
            nonlocal next_value
            next_value = next(accuracy)

    fit(make_model(), [Next(), schedule(metric="valid_fake"), Rate()], epochs=4, metrics=metrics)
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001])
    with pytest.raises(ValueError, match="did you mean 'valid_accuracy'"):
        fit(make_model(), [schedule(metric="valid_acuracy")])
    with pytest.raises(ValueError, match="use every='epoch'"):
        schedule(metric="valid_loss", every="step")
    with pytest.raises(ValueError, match="is for ReduceLROnPlateau"):
        scheduler = Schedule(lambda o, n: torch.optim.lr_scheduler.StepLR(o, 1), metric="valid_loss")
        fit(make_model(), [scheduler])


class Counting(Trainer):
    """A trainer of the user's, with an option."""

    def __init__(self, *args, factor=1.0, **options):
        super().__init__(*args, **options)
        self.factor = factor
        self.calls = 0

    def compute_loss(self, prediction, target):
        type(self).calls = getattr(type(self), "calls", 0) + 1
        return self.factor * super().compute_loss(prediction, target)


def test_train_model_with_a_trainer_of_the_user(capsys):
    history = train_model(
        make_model(), DataLoader(DATA, 8), 2, 0.1, seed=1, device="cpu", trainer=Counting, factor=0.0, accumulate=2
    )
    assert set(history.steps) == {0.0}
    assert Counting.calls == 8
    assert "Epoch 2/2" in capsys.readouterr().out
    with pytest.raises(TypeError, match="no argument 'acumulate'; did you mean 'accumulate'"):
        fit(make_model(), trainer=Counting, acumulate=2)
    with pytest.raises(TypeError, match="trainer: expected Trainer or a subclass of it"):
        fit(make_model(), trainer=Counting(make_model(), [], torch.optim.SGD(make_model().parameters()), None))


class ExtraState(nn.Module):
    """A model that counts its calls in a state that is not a tensor."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 2)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        return self.linear(x)

    def get_extra_state(self):
        return dict(calls=self.calls)

    def set_extra_state(self, state):
        self.calls = state["calls"]


def test_extra_state_of_a_model_is_resumed(tmp_path):
    torch.manual_seed(0)
    fit(ExtraState(), epochs=1, checkpoints=tmp_path)
    model = ExtraState()
    fit(model, epochs=2, checkpoints=tmp_path)
    assert model.calls == 8


@pytest.mark.parametrize("first, second", [(torch.compile, lambda model: model), (lambda model: model, torch.compile)])
def test_compiled_model_continues_as_a_plain_one_and_the_reverse(tmp_path, first, second):
    whole = make_model()
    expected = fit(whole, epochs=2)
    fit(first(make_model()), epochs=1, checkpoints=tmp_path)
    model = make_model()
    history = fit(second(model), epochs=2, checkpoints=tmp_path)
    assert list(history.steps) == pytest.approx(list(expected.steps), rel=1e-5)
    torch.testing.assert_close(model.state_dict(), whole.state_dict())
