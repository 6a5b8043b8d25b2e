"""The built-in training on tables, arrays and images: which model and loss they get, what is saved, what is refused."""

import json
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import torch

from mlkit.model import load_model
from mlkit.sagemaker.endpoint.handlers import Handlers
from mlkit.sagemaker.job.builtin import Config, train
from mlkit.sagemaker.job.container import Container
from mlkit.training.data.images import Images
from mlkit.training.data.rows import Rows


def records(count=48):
    """Return a table with columns of every kind, and labels for every task."""
    return [
        {
            "age": 20 + i * 7 % 50,
            "weight": None if i % 11 == 3 else 50 + i / 3,
            "job": ("clerk", "nurse", "pilot")[i % 3],
            "member": i % 4 < 2,
            "since": f"20{10 + i % 9}-0{1 + i % 9}-1{i % 10}",
            "income": ("low", "high")[i % 2],
            "grade": 1 + i % 3,
            "price": 100_000 + 977 * i,
            "rate": i / 7,
            "sport": i % 2,
            "music": i // 2 % 2,
        }
        for i in range(count)
    ]


def columns(names, rows=None):
    return [{name: row[name] for name in names.split()} for row in rows or records()]


def csv_text(rows, header=True):
    cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
    return "\n".join(map(",".join, [list(rows[0])] * header + cells)) + "\n"


@pytest.fixture
def run(tmp_path, capsys):
    """A function that trains on channels of texts by file name, and returns the container and the output."""

    def run(channels, **config):
        folders = {}
        for name, files in channels.items():
            folders[name] = tmp_path / "data" / name
            folders[name].mkdir(parents=True, exist_ok=True)
            for file, content in ({"rows.csv": files} if isinstance(files, str) else files).items():
                (folders[name] / file).parent.mkdir(exist_ok=True)
                (folders[name] / file).write_bytes(content.encode() if isinstance(content, str) else content)
        container = Container(
            tmp_path / "model", tmp_path / "output", tmp_path / "output" / "data", tmp_path / "checkpoints", folders
        )
        train(Config(**{"epochs": 1, "hidden_dim": 8} | config), container)
        return container, capsys.readouterr().out

    return run


ANSWER = ["label", "probability", "probabilities"]
FEATURES = "age weight job member since"
CASES = [  # the columns, the config, the class of the model, the number of outputs, an answer's type or keys
    ("age rate grade", dict(label="grade"), "MyCustomModel", 3, ANSWER),
    ("age rate income", dict(label="income"), "MyCustomModel", 2, ANSWER),
    ("grade age rate", dict(label=0), "MyCustomModel", 3, ANSWER),
    ("age rate", dict(label="rate"), "TabularModel", 1, float),
    ("age rate price", dict(label="price", task="regression"), "TabularModel", 1, float),
    ("age job sport", dict(label="sport", task="regression"), "TabularModel", 1, float),
    (f"{FEATURES} income", dict(label="income"), "TabularModel", 2, ANSWER),
    (f"{FEATURES} rate", dict(label="rate"), "TabularModel", 1, float),
    (f"{FEATURES} rate price", dict(label="rate,price"), "TabularModel", 2, ["rate", "price"]),
    (f"{FEATURES} sport music", dict(label="sport,music"), "TabularModel", 2, ["labels", "probabilities"]),
    ("age sport music", dict(label='["sport", "music"]'), "MyCustomModel", 2, ["labels", "probabilities"]),
    ("job income", dict(label="income"), "TabularModel", 2, ANSWER),
    ("since income", dict(label="income"), "MyCustomModel", 2, ANSWER),
    ("age job income", dict(label="income", drop=["job"]), "MyCustomModel", 2, ANSWER),
    ("age grade income", dict(label=2, kinds={"grade": "category"}), "TabularModel", 2, ANSWER),
]  # fmt: skip


@pytest.mark.parametrize("names, config, model, outputs, answer", CASES)
def test_a_table_from_csv_to_the_answer_of_an_endpoint(run, names, config, model, outputs, answer):
    rows = columns(names)
    channels = {"train": csv_text(rows), "val": csv_text(rows[:9]), "test": csv_text(rows[9:20])}
    container, out = run(channels, **config)
    assert json.loads((container.model_dir / "model.json").read_text())["model"].endswith(f":{model}")
    handlers = Handlers()
    handlers.start(container.model_dir)
    assert handlers.description.output_dim == outputs
    (reply,) = json.loads(handlers.respond(json.dumps(handlers.description.example()).encode()).body)
    assert isinstance(reply, answer) if isinstance(answer, type) else list(reply) == answer

    # the request of a row gives the very tensors of training
    labels = handlers.description.target.columns
    features = [{name: value for name, value in row.items() if name not in labels} for row in rows]
    expected = handlers.description.dataset(rows).tensors[:-1]
    inputs = handlers.receive(csv_text(features, header=False).encode(), "text/csv").read()
    for x, y in zip(inputs if isinstance(inputs, tuple) else (inputs,), expected, strict=True):
        assert torch.equal(x, y)

    lines = [line for line in out.splitlines() if line.startswith("[metrics]")]
    measured = "mae" if "Tabular" in model and answer in (float, ["rate", "price"]) else "accuracy"
    assert f" valid_{measured}=" in lines[0] and " valid_loss=" in lines[0]
    assert lines[1].startswith("[metrics] test_loss=") and f" test_{measured}=" in lines[1]
    assert list(json.loads((container.output_data_dir / "test.json").read_text())) == ["test_loss", f"test_{measured}"]
    assert out.index("column") < out.index("samples of shape") < out.index("[metrics]")


MISTAKES = [  # the columns, the config, what the message has
    ("age price", dict(label="price"), "different whole numbers: --task regression or --task classes"),
    ("age income", dict(label="incom"), "no column 'incom' for the label; did you mean 'income'?"),
    ("age income", dict(label="income", drop=["agee"]), "did you mean 'age'?"),
    ("age income", dict(label="income", kinds={"age": "categry"}), "did you mean 'category'?"),
    ("age income", dict(label="income", size=[8, 8]), "--size is for images, and the training channel has a table"),
    ("age income", dict(label="income", input_dim=3), "pass --input_dim 1, or leave it out"),
    ("age income", dict(label="income", output_dim=3), "needs 2 classes: pass --output_dim 2, or leave it out"),
    ("age job income", dict(label="income", input_dim=2), "--input_dim is for plain numbers"),
    ("age job income", dict(label="income", model="torch.nn:Linear"), "pass the arguments of the model, --model_args"),
    ("age income", dict(label="income", task="regression"), "expected a number, got 'low'"),
    ("age income", dict(label="income", rows="rows.json"), "--label: rows.json has that already"),
    ("age income", dict(rows="nowhere.json"), "--rows nowhere.json: there is no such file"),
    ("weight income", dict(label="weight"), "the label is missing"),
]  # fmt: skip


@pytest.mark.parametrize("names, config, message", MISTAKES)
def test_a_mistake_is_reported_with_flags(run, names, config, message):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        run({"train": csv_text(columns(names))}, **config)
    assert message in str(error.value)
    assert not any(argument in str(error.value) for argument in ("task=", "label=", "drop=", "kinds=", "missing="))


def test_the_columns_of_a_validation_channel_are_put_in_order(run):
    rows = columns("age job income")
    shuffled = [dict(reversed(row.items())) for row in rows]
    container, out = run({"training": csv_text(rows), "eval": csv_text(shuffled)}, label="income")
    assert "valid_accuracy=" in out
    with pytest.raises(ValueError, match="no column 'jobb' in training; did you mean 'job'"):
        run({"training": csv_text(rows), "eval": csv_text(rows).replace("job", "jobb")}, label="income")
    with pytest.raises(ValueError, match="no class 'medium' in training"):
        run({"training": csv_text(rows), "eval": csv_text(rows).replace("low", "medium")}, label="income")


def test_channels(run):
    table = csv_text(columns("grade age"))
    _, out = run({"train": table, "validaton": table})
    assert "the channel 'validaton' is not read; did you mean 'validation'?" in out
    with pytest.raises(ValueError, match="the channels 'train' and 'training' both have training data"):
        run({"train": table, "training": table})
    with pytest.raises(FileNotFoundError, match="no channel 'training'"):
        run({"trian": table})


def test_a_description_that_was_fitted_before(run, tmp_path, monkeypatch):
    rows = columns("age job income")
    Rows.fit(columns("age job income") + [{"age": 1, "job": "astronaut", "income": "none"}], "income").save(tmp_path)
    monkeypatch.chdir(tmp_path)
    container, _ = run({"train": csv_text(rows)}, rows="rows.json")
    assert Rows.load(container.model_dir).target.classes == ["high", "low", "none"]
    assert Rows.load(container.model_dir) == Rows.load(tmp_path)


def test_plain_numbers_are_left_as_they_are(run):
    rows = columns("grade age rate")
    container, _ = run({"train": csv_text(rows)})
    assert torch.equal(Rows.load(container.model_dir).encode(rows)[3], torch.tensor([41, 3 / 7]))
    container, _ = run({"train": csv_text(rows)}, standardize=True)  # the model scales them
    assert type(load_model(container.model_dir)).__name__ == "Standardized"
    assert torch.equal(Rows.load(container.model_dir).encode(rows)[3], torch.tensor([41, 3 / 7]))
    mixed = csv_text(columns("grade age job"))
    for standardize, is_scaled in ((None, True), (True, True), (False, False)):
        container, _ = run({"train": mixed}, standardize=standardize)
        assert (Rows.load(container.model_dir).columns[0].std != 1) == is_scaled


def npz(**arrays):
    out = BytesIO()
    np.savez(out, **arrays)
    return {"data.npz": out.getvalue()}


def test_arrays(run):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    container, out = run({"train": npz(x=x, y=x[:, 0] * 1000 + 9000), "valid": npz(x=x[:9], y=x[:9, 0])}, epochs=30)
    assert "valid_mae=" in out
    assert abs(load_model(container.model_dir)(torch.from_numpy(x)).mean() - 9000) < 500
    container, _ = run({"train": npz(x=x, y=x[:, :2])})
    assert load_model(container.model_dir)(torch.zeros(1, 3)).shape == (1, 2)
    for config, message in (
        (dict(kinds={"a": "number"}), "--kinds is for a table, and the training channel has arrays"),
        (dict(size=[8]), "--size is for images, and the training channel has arrays"),
        (dict(label="a,b"), "no array 'a,b'"),
        (dict(label=["a", "b"]), "--label a,b: several labels are columns of a table"),
        (dict(task="classes"), "--task classes: the labels are not whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            run({"train": npz(x=x, y=x[:, 0])}, **config)


def test_images(run):
    picture = Images((6, 8), 3, ["cat", "dog"]).example()
    files = {f"{name}/{i}.png": picture for i in range(4) for name in ("cat", "dog")}
    container, out = run({"train": files, "test": files})
    assert "[metrics] test_loss=" in out
    handlers = Handlers()
    handlers.start(container.model_dir)
    (answer,) = json.loads(handlers.respond(picture, "image/png").body)
    assert list(answer["probabilities"]) == ["cat", "dog"]
    container, _ = run({"train": files}, size=[4, 5])
    assert json.loads((container.model_dir / "images.json").read_text())["size"] == [4, 5]
    assert type(handlers.model).__name__ == "ImageModel"
    for config, message in (
        (dict(kinds={"a": "number"}), "--kinds is for a table, and the training channel has images"),
        (dict(header=False), "--header is for a table, and the training channel has images"),
        (dict(task="regression"), "--task regression: the label of an image is its class"),
        (dict(input_dim=3), "--input_dim is for plain numbers, and the data has images"),
        (dict(size=[1, 2, 3]), "--size 1,2,3: expected a height and a width"),
        (dict(output_dim=3), "needs 2 classes: pass --output_dim 2"),
    ):
        with pytest.raises(ValueError, match=message):
            run({"train": files}, **config)


def test_the_size_of_images_is_not_that_of_a_table(run):
    with pytest.raises(ValueError, match="--size is for images, and the training channel has a table"):
        run({"train": "1,2\n0,3\n"}, size=[8])


def test_images_of_several_sizes(run):
    files = {f"{name}/{size}.png": Images(size, 1, ["a", "b"]).example() for name in "ab" for size in (8, 12, 20)}
    with pytest.raises(ValueError, match=r"the images have 3 sizes, .* for example the medians, --size 12,12"):
        run({"training": files})
    container, out = run({"training": files}, size=[16], hidden_dim=8)
    assert "Images of 16 by 16 pixels, grey; 2 classes: a, b" in out
    model = load_model(container.model_dir)
    assert (model.channels, model.width, model.depth) == (1, 8, 3)


def test_images_with_a_table(run):
    picture = Images((6, 8), 1, ["cat", "dog"]).example()
    files = {f"images/{i}.png": picture for i in range(6)}
    table = "file,day,kind\n" + "".join(f"{i}.png,monday,{('cat', 'dog')[i % 2]}\n" for i in range(6))
    with pytest.raises(ValueError, match="which column is the label, day, kind[?] Pass for example --label kind"):
        run({"training": files | {"labels.csv": table}})
    container, out = run({"training": files | {"labels.csv": table}}, label="kind")
    assert "2 classes: cat, dog" in out


def test_a_model_that_ends_with_probabilities(run, tmp_path, monkeypatch):
    (tmp_path / "sigmoids.py").write_text(
        "from torch import nn\n\n\nclass Sigmoids(nn.Module):\n"
        "    def __init__(self, outputs):\n        super().__init__()\n        self.outputs = outputs\n"
        "        self.layer = nn.Linear(1, outputs)\n\n"
        "    def forward(self, x):\n        return self.layer(x * 0.01).sigmoid()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = dict(model="sigmoids:Sigmoids", model_args={"outputs": 2}, loss="torch.nn:BCELoss", label="sport,music")
    container, _ = run({"train": csv_text(columns("age sport music"))}, **options)
    handlers = Handlers()
    handlers.start(container.model_dir)
    (answer,) = json.loads(handlers.respond(b"[[30]]").body)
    expected = load_model(container.model_dir)(torch.tensor([[30.0]]))[0].tolist()
    assert list(answer["probabilities"].values()) == pytest.approx(expected)


def test_messages_of_the_readers_name_flags(run):
    counted = "0,1,2\n" + csv_text(columns("grade age rate"), header=False)
    with pytest.raises(ValueError, match="pass --header true to skip it, or --header false if it is data"):
        run({"train": counted})
    run({"train": counted}, header=True)
    table = BytesIO()
    np.save(table, np.array([[0, 1.5], [1, np.nan]]))
    with pytest.raises(ValueError, match="correct it, or drop the row"):
        run({"training": {"table.npy": table.getvalue()}})


@pytest.mark.parametrize(
    "labels, names",
    [
        (["b", "a", "c"], ["a", "b", "c"]),
        ([2, 1, 3], ["1", "2", "3"]),
        ([2.0, 1.0, 3.0], ["1", "2", "3"]),
        ([7, 5, 12], ["5", "7", "12"]),
        (list(range(1, 31)), list(map(str, range(1, 31)))),
    ],
)
def test_labels_of_arrays_are_classes_by_name(run, labels, names):
    y = np.resize(labels, 600)
    x = np.array([names.index(str(label).removesuffix(".0")) for label in y.tolist()], "float32")
    x = np.eye(len(names), dtype="float32")[x.astype(int)] * 9
    channels = {"train": npz(x=x, y=y), "val": npz(x=x[::-1], y=y[::-1]), "test": npz(x=x[:9], y=y[:9])}
    container, out = run(channels, epochs=20, learning_rate=0.02)
    assert f"labels: {len(names)} classes" in out
    handlers = Handlers()
    handlers.start(container.model_dir)
    answers = json.loads(handlers.respond(json.dumps(x.tolist()).encode()).body)
    assert [answer["label"] for answer in answers] == [str(label).removesuffix(".0") for label in y.tolist()]
    assert list(answers[0]["probabilities"]) == names
    with pytest.raises(ValueError, match="no class"):
        run({**channels, "val": npz(x=x, y=np.where(y == y[0], np.array("zebra" if names[0] == "a" else 99), y))})


def test_labels_of_arrays_that_stay_numbers(run):
    x = np.zeros((60, 3), "float32")
    for y, config in (
        (np.arange(60) % 3, {}),  # they count from 0
        (np.arange(60) % 3 * 2, {}),  # a class may be missing in the training data
        (np.arange(60) % 3 + 1, {"output_dim": 5}),
        (np.arange(60) + 100, {"task": "regression"}),
    ):
        container, _ = run({"train": npz(x=x, y=y)}, **config)
        assert not (container.model_dir / "labels.json").exists()
    with pytest.raises(ValueError, match="60 different whole numbers: --task regression or --task classes"):
        run({"train": npz(x=x, y=np.arange(60) + 100)})


def test_the_help_of_the_program_names_the_flags():
    out = subprocess.run(
        [sys.executable, "-m", "mlkit.sagemaker_entry", "--help"], text=True, capture_output=True
    ).stdout
    for flag in ("--task", "--label", "--drop", "--kinds", "--rows", "--standardize"):
        assert flag in out


SHARDED_PROGRAM = """
import os, sys
from pathlib import Path
from mlkit.sagemaker.job.builtin import Config, train
from mlkit.sagemaker.job.container import Container
root = Path(sys.argv[1])
channels = {"train": root / os.environ["RANK"]}
container = Container(root / "model", root / "output", root / "output" / "data", root / "checkpoints", channels)
train(Config(label="income", epochs=1), container)
"""


def test_processes_with_different_parts_of_a_channel_are_refused(tmp_path):
    rows = columns("age job income")
    for rank, part in enumerate((rows[:24], rows[24:])):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / "rows.csv").write_text(csv_text(part))
    (tmp_path / "program.py").write_text(SHARDED_PROGRAM)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.run([*torchrun, tmp_path / "program.py", tmp_path], text=True, capture_output=True)
    assert process.returncode
    assert "the processes have different training data, here 24 samples" in process.stderr
