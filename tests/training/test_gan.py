"""Two optimizers and a trainer that replaces the batch: a GAN that is resumed bit for bit."""

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.utils.data import DataLoader, TensorDataset

from mlkit.training import Trainer, train_model
from mlkit.training.callbacks import ClipGradients
from mlkit.training.checkpoint import list_checkpoints

REAL = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)) + 3


class GAN(Trainer):
    """Train a generator and a discriminator in turns."""

    def train_batch(self, batch):
        (real,) = batch
        generator, discriminator = self.model["generator"], self.model["discriminator"]
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        fake = generator(torch.randn(len(real), 4))

        optimizer = self.stateful["discriminator_optimizer"]
        optimizer.zero_grad()
        loss = bce(discriminator(real), ones) + bce(discriminator(fake.detach()), zeros)
        loss.backward()
        optimizer.step()
        self.history.record("discriminator loss", loss)

        self.optimizer.zero_grad()
        self.loss = bce(discriminator(fake), ones)
        self.loss.backward()
        self.optimizer.step()


class StopAt:
    def __init__(self, step):
        self.step = step

    def after_step(self, trainer):
        if trainer.step == self.step:
            trainer.stop("enough")


def make_gan(stop_at=None, **options):
    torch.manual_seed(0)
    model = nn.ModuleDict(
        dict(
            generator=nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)),
            discriminator=nn.Sequential(nn.Linear(2, 8), nn.Dropout(), nn.Linear(8, 1)),
        )
    )
    return GAN(
        model,
        DataLoader(TensorDataset(REAL), 4, shuffle=True),
        torch.optim.Adam(model["generator"].parameters(), lr=0.01),
        None,
        callbacks=[StopAt(stop_at)],
        stateful=dict(discriminator_optimizer=torch.optim.Adam(model["discriminator"].parameters(), lr=0.01)),
        **options,
    )


@pytest.mark.parametrize("stop_at", [1, 10, 13])
def test_resume_is_bit_identical(tmp_path, stop_at):
    whole = make_gan()
    whole.fit(3)
    stopped = make_gan(stop_at, checkpoints=tmp_path)
    assert stopped.fit(3).stopped == "enough"
    resumed = make_gan(checkpoints=tmp_path)
    history = resumed.fit(3)
    assert resumed.step == whole.step == 30
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert list(history.steps) == list(whole.history.steps)
    assert history.recorded == whole.history.recorded
    assert list(history.recorded["discriminator loss"]) == list(range(1, 31))


def test_save_every_counts_the_steps(tmp_path):
    trainer = make_gan(checkpoints=tmp_path, save_every=3, keep=9)
    trainer.listeners["after_step"].append(lambda trainer: trainer.checkpointer.wait())
    trainer.fit(1)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"step-{n:09}" for n in (3, 6, 9, 10)]


def test_other_objects_are_refused(tmp_path):
    make_gan(checkpoints=tmp_path).fit(1)
    trainer = make_gan(checkpoints=tmp_path)
    trainer.stateful.pop("discriminator_optimizer")
    with pytest.raises(ValueError, match=r"has the objects \['discriminator_optimizer'\], this run has \[\]"):
        trainer.fit(2)


def test_batch_without_a_loss_is_an_error():
    class Forgets(Trainer):
        def train_batch(self, batch):
            pass

    model = nn.Linear(2, 1)
    loader = DataLoader(TensorDataset(REAL, REAL[:, :1]), 4)
    with pytest.raises(ValueError, match="Forgets.train_batch did not set self.loss"):
        Forgets(model, loader, torch.optim.SGD(model.parameters()), nn.MSELoss()).fit(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(accumulate=2), "accumulate=2: GAN.train_batch makes a step for each batch"),
        (dict(precision="bf16"), "precision='bf16': GAN.train_batch does not use self.autocast"),
    ],
)
def test_option_that_a_custom_batch_does_not_use_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_gan(**options).fit(1)


def test_callback_that_a_custom_batch_leaves_out_is_a_warning():
    trainer = make_gan()
    trainer.listeners["before_step"] = [lambda trainer: None]
    trainer.callbacks.append(ClipGradients(1.0))
    with pytest.warns(UserWarning, match="GAN.train_batch does not notify before_step, to which ClipGradients listens"):
        trainer.fit(1)


def test_train_model_leaves_parameters_to_the_other_optimizers():
    trained = []

    def make_optimizer(parameters, lr):
        trained.extend(parameters)
        return torch.optim.Adam(trained, lr=lr)

    model = make_gan().model
    others = torch.optim.Adam(model["discriminator"].parameters(), lr=0.01)
    train_model(
        model,
        DataLoader(TensorDataset(REAL), 4),
        1,
        0.01,
        trainer=GAN,
        optimizer=make_optimizer,
        stateful=dict(discriminator_optimizer=others),
        device="cpu",
        verbose=False,
    )
    assert list(map(id, trained)) == list(map(id, model["generator"].parameters()))
    with pytest.raises(ValueError, match="stateful: its optimizers train all parameters"):
        optimizer = torch.optim.Adam(model.parameters())
        train_model(model, [], 1, 0.01, stateful=dict(a=optimizer), device="cpu", verbose=False)
