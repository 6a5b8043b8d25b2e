"""Train on every form of a batch as a hand-written loop does, and read the hint where a form cannot be trained on."""

import subprocess
import sys
from collections import UserDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence, unpack_sequence
from torch.utils.data import DataLoader, TensorDataset

from mlkit.training import ModelLoss, Trainer, train_model
from mlkit.training.batch import local_shard

torch.manual_seed(0)
X = torch.randn(24, 4)
Y = (X.sum(1) > 0).long()
SEQUENCES = [torch.randn(n % 5 + 1, 4) for n in range(24)]
IMAGES = [torch.randn(3, 6 + n % 3, 6) for n in range(24)]
BOXES = [{"size": image.mean(), "labels": torch.tensor([n % 2])} for n, image in enumerate(IMAGES)]
Named = namedtuple("Named", "target b a")


class Net(nn.Module):
    """A model of a few layers whose forward is a function of them and its inputs."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 2)
        self.decoder = nn.Linear(2, 4)
        self.lstm = nn.LSTM(4, 2)
        self.conv = nn.Conv2d(3, 2, 3)
        self.function = forward


class One(Net):
    def forward(self, x):
        return self.function(self, x)


class Two(Net):
    def forward(self, a, b):
        return self.function(self, a, b)


class Optional(Net):
    def forward(self, x, mask=None):
        return self.function(self, x, mask)


class Detector(Net):
    """Returns losses in training and predictions in evaluation, as the detectors of torchvision do."""

    def forward(self, images, targets=None):
        outputs = torch.stack([self.conv(image).mean((1, 2)) for image in images])
        if not self.training:
            return [{"size": output[0], "labels": output[1:] > 0} for output in outputs]
        sizes = torch.stack([target["size"] for target in targets])
        classes = torch.cat([target["labels"] for target in targets]).float()
        return {
            "size": F.mse_loss(outputs[:, 0], sizes),
            "class": F.binary_cross_entropy_with_logits(outputs[:, 1], classes),
        }


class LanguageModel(Net):
    """Returns (logits, loss), as minGPT does."""

    def forward(self, x, targets=None):
        logits = self.linear(x)
        return logits, None if targets is None else F.cross_entropy(logits, targets)


class WithDict(Net):
    def forward(self, batch: dict):
        return self.linear(batch["left"] + batch["right"])


class OnObject(Net):
    def forward(self, graph):
        return self.linear(graph.nodes)


def batches(make, size=8):
    return [make(slice(i, i + size)) for i in range(0, 24, size)]


def contrast(prediction):
    a, b = prediction
    return F.cross_entropy(a @ b.T, torch.arange(len(a)))


def linear(model, x):
    return model.linear(x)


def difference(model, a, b):
    return model.linear(a - 0.5 * b)


def with_mask(model, x, mask):
    return model.linear(x if mask is None else x * mask)


def stack(model, images):
    return torch.stack([model.conv(image).mean((1, 2)) for image in images])


def last_state(model, packed):
    return model.lstm(packed)[1][0][-1]


def reconstruction(model, x):
    return model.decoder(model.linear(x))


def views(model, x, mask=None):
    return model.linear(x), model.linear(x + 0.1)


def own_loss(model, x):
    return {"loss": F.mse_loss(reconstruction(model, x), x)}


cross_entropy = nn.CrossEntropyLoss()
# name: model, batch, loss_fn for `train_model`, loss of a batch in a plain loop
FORMS = {
    "a pair": (lambda: One(linear), lambda s: (X[s], Y[s]), None, lambda m, b: cross_entropy(m(b[0]), b[1])),
    "several inputs": (
        lambda: Two(difference),
        lambda s: (X[s], X[s] ** 2, Y[s]),
        None,
        lambda m, b: cross_entropy(m(b[0], b[1]), b[2]),
    ),
    "nested inputs": (
        lambda: Two(difference),
        lambda s: [[X[s], X[s] ** 2], Y[s]],
        None,
        lambda m, b: cross_entropy(m(*b[0]), b[1]),
    ),
    "a mask": (
        lambda: Optional(with_mask),
        lambda s: ((X[s], torch.ones(4)), Y[s]),
        None,
        lambda m, b: cross_entropy(m(*b[0]), b[1]),
    ),
    "a named tuple": (
        lambda: Two(difference),
        lambda s: Named(Y[s], X[s] ** 2, X[s]),
        None,
        lambda m, b: cross_entropy(m(b.a, b.b), b.target),
    ),
    "a mapping": (
        lambda: Two(difference),
        lambda s: UserDict(a=X[s], b=X[s] ** 2, label=Y[s]),
        None,
        lambda m, b: cross_entropy(m(b["a"], b["b"]), b["label"]),
    ),
    "a dict as one argument": (
        lambda: WithDict(None),
        lambda s: {"left": X[s], "right": X[s] ** 2, "y": Y[s]},
        None,
        lambda m, b: cross_entropy(m(b), b["y"]),
    ),
    "an object": (
        lambda: OnObject(None),
        lambda s: SimpleNamespace(nodes=X[s], y=Y[s]),
        None,
        lambda m, b: cross_entropy(m(b), b.y),
    ),
    "packed sequences": (
        lambda: One(last_state),
        lambda s: (pack_sequence(SEQUENCES[s], enforce_sorted=False), Y[s]),
        None,
        lambda m, b: cross_entropy(m(b[0]), b[1]),
    ),
    "a list of images": (
        lambda: One(stack),
        lambda s: (IMAGES[s], Y[s]),
        None,
        lambda m, b: cross_entropy(m(b[0]), b[1]),
    ),
    "one image": (
        lambda: One(stack),
        lambda s: (IMAGES[s][:1], Y[s][:1]),
        None,
        lambda m, b: cross_entropy(m(b[0]), b[1]),
    ),
    "a detector": (
        lambda: Detector(None),
        lambda s: (IMAGES[s], BOXES[s]),
        None,
        lambda m, b: sum(m(*b).values()),
    ),
    "an autoencoder": (lambda: One(reconstruction), lambda s: X[s], nn.MSELoss(), lambda m, b: F.mse_loss(m(b), b)),
    "an autoencoder on one part": (
        lambda: One(reconstruction),
        lambda s: [X[s]],
        lambda prediction, x: F.l1_loss(prediction, x),
        lambda m, b: F.l1_loss(m(b[0]), b[0]),
    ),
    "an autoencoder with its own loss": (lambda: One(own_loss), lambda s: X[s], None, lambda m, b: m(b)["loss"]),
    "a contrastive model": (lambda: One(views), lambda s: X[s], contrast, lambda m, b: contrast(m(b))),
    "a contrastive model on pairs": (
        lambda: Two(lambda model, a, b: (model.linear(a), model.linear(b))),
        lambda s: [[X[s], X[s] + 0.1]],
        contrast,
        lambda m, b: contrast(m(*b[0])),
    ),
    "logits and loss": (
        lambda: LanguageModel(None),
        lambda s: (X[s], Y[s]),
        ModelLoss(),
        lambda m, b: m(*b)[1],
    ),
}


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def test_each_form_trains_as_a_plain_loop(form):
    make_model, make_batch, loss_fn, plain_loss = form
    expected = make_model()
    optimizer = torch.optim.Adam(expected.parameters(), lr=0.01, fused=True)
    for _ in range(2):
        for batch in batches(make_batch):
            optimizer.zero_grad()
            plain_loss(expected, batch).backward()
            optimizer.step()
    model = make_model()
    train_model(model, batches(make_batch), 2, 0.01, loss_fn=loss_fn, verbose=False)
    for (name, a), b in zip(model.state_dict().items(), expected.state_dict().values()):
        assert torch.equal(a, b), name


def test_each_form_is_validated(form):
    make_model, make_batch, loss_fn, plain_loss = form
    model = make_model()
    model.eval()
    metrics = {"one": lambda prediction, target: 1.0} if isinstance(model, Detector) else None
    loader = batches(make_batch)
    history = train_model(
        make_model(), loader, 1, 1e-9, loss_fn=loss_fn, valid_loader=loader, metrics=metrics, verbose=False
    )
    if metrics:
        assert "valid_loss" not in history.epochs[0] and history["valid_one"] == [1.0]
    else:
        expected = sum(plain_loss(model, batch).item() for batch in loader) / 3
        assert history["valid_loss"][0] == pytest.approx(expected, abs=1e-5)


def test_a_detector_without_metrics_has_nothing_to_validate(capsys):
    make_model, make_batch, *_ = FORMS["a detector"]
    loader = batches(make_batch)
    with pytest.raises(ValueError, match="gives a loss in training only, and there is no metric"):
        train_model(make_model(), loader, 1, 0.01, valid_loader=loader, verbose=False)
    metrics = {"images": lambda prediction, target: float(len(prediction) == len(target))}
    train_model(make_model(), loader, 2, 0.01, valid_loader=loader, metrics=metrics, verbose=False)
    assert capsys.readouterr().out.count("there is no valid_loss") == 1


def test_shards_of_packed_sequences_are_sequences():
    packed = pack_sequence(SEQUENCES[:7], enforce_sorted=False)
    shards = [local_shard((packed, Y[:7]), rank, 3)[0] for rank in range(3)]
    together = [sequence for x, _ in shards for sequence in unpack_sequence(x)]
    assert all(torch.equal(a, b) for a, b in zip(together, SEQUENCES[:7])) and len(together) == 7
    assert torch.equal(torch.cat([y for _, y in shards]), Y[:7])


# name: model, x, target, loss_fn
DTYPES = {
    "float64": (lambda: nn.Linear(4, 2).double(), X.double(), Y, None),
    "bfloat16": (lambda: nn.Linear(4, 2).bfloat16(), X.bfloat16(), Y, None),
    "uint8 for an embedding": (lambda: nn.EmbeddingBag(10, 2), (X.abs() * 3).long().clamp(max=9), Y, None),
    "uint8 scaled by the model": (lambda: Scaled(), (X.abs() * 50).byte(), Y, None),
    "a float64 target": (lambda: nn.Linear(4, 1), X, X.double().sum(1), nn.MSELoss()),
}


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(x.float() / 255)


@pytest.mark.parametrize("name", DTYPES)
def test_dtypes(name):
    make_model, x, y, loss_fn = DTYPES[name]
    loader = DataLoader(TensorDataset(x, y), 8)
    try:
        history = train_model(make_model(), loader, 3, 0.05, loss_fn=loss_fn, valid_loader=loader, verbose=False)
    except RuntimeError as e:  # up to torch 2.10 there is no such gradient
        with pytest.raises(RuntimeError, match="Found dtype Double but expected Float"):
            loss_fn(make_model()(x).squeeze(1), y).backward()
        assert any("convert the target" in note for note in e.__notes__)
    else:
        assert history["train_loss"][2] < history["train_loss"][0]


# name: model, batch, loss_fn, words of the hint
REFUSED = {
    "float64": (lambda: nn.Linear(4, 2), (X.double(), Y), None, "the input is float64, the model float32"),
    "uint8": (lambda: nn.Linear(4, 2), (X.byte(), Y), None, "x.float() / 255"),
    "bfloat16": (lambda: nn.Linear(4, 2).bfloat16(), (X, Y), None, "precision='bf16'"),
    "a batch of one": (
        lambda: nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)),
        (X[:1], Y[:1]),
        None,
        "drop_last=True",
    ),
    "a wrong name": (
        lambda: Two(difference),
        {"a": X, "b": X, "lable": Y},
        lambda prediction: prediction.mean(),
        "a dict is passed to the model by its keys, without the target",
    ),
    "too many inputs": (lambda: nn.Linear(4, 2), (X, X, Y), None, "passed to the model as model(x1, x2, ...)"),
    "logits and loss": (lambda: LanguageModel(None), (X, Y), None, "loss_fn=ModelLoss() of mlkit.training"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_on_has_a_hint(name):
    make_model, batch, loss_fn, hint = REFUSED[name]
    with pytest.raises((RuntimeError, TypeError, ValueError)) as caught:
        train_model(make_model(), [batch], 1, 0.01, loss_fn=loss_fn, verbose=False)
    assert any(hint in note for note in caught.value.__notes__), caught.value.__notes__


SPAWN = """
import __main__
from torch.utils.data import DataLoader, Dataset
from mlkit.model import MyCustomModel
from mlkit.training import train_model
import torch

class Data(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, i):
        return torch.ones(4) * i, i % 2

loader = DataLoader(Data(), 8, num_workers=1, multiprocessing_context="spawn")
try:
    train_model(MyCustomModel(4, 4, 2), loader, 1, 0.1, verbose=False)
except RuntimeError as error:
    print(error.__notes__)
"""


def test_spawned_workers_cannot_import_the_classes_of_a_notebook():
    """A program from standard input has no file that a worker could import, as a notebook has none."""
    done = subprocess.run([sys.executable, "-"], input=SPAWN, text=True, capture_output=True)
    assert "define the dataset and its functions in a module, not in a notebook" in done.stdout, done.stderr


class ExtraState(nn.Linear):
    """Counts its calls, in what the checkpoint has of it besides tensors."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def test_extra_state_is_in_the_checkpoint(tmp_path):
    def fit(epochs):
        torch.manual_seed(0)
        model = ExtraState(4, 2)
        loader = DataLoader(TensorDataset(X, Y), 8)
        Trainer(model, loader, torch.optim.Adam(model.parameters()), checkpoints=tmp_path).fit(epochs)
        return model

    assert fit(1).calls == 3
    assert fit(2).calls == 6
