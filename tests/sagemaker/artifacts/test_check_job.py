"""Mistakes in a program, and the place and words in which `check` reports them."""

import textwrap

import pytest

from mlkit.sagemaker.artifacts.check_job import check

NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
    def forward(self, x): return self.layers(x)
"""
TRAIN = """
from dataclasses import dataclass
from torch.utils.data import DataLoader
from mlkit.training.data import read_channel
from mlkit.model.saving import save_model
from mlkit.sagemaker_entry import Container, entry_point
from mlkit.training import train_model
from net import Net

@dataclass
class Config:
    epochs: int = 1000
    width: int = 8

@entry_point
def main(config: Config, container: Container):
    model,data = Net(config.width),read_channel(container.channel('training'))
    train_model(model, DataLoader(data, 32, shuffle=True), config.epochs, 1e-3, checkpoints=container.checkpoint_dir)
    save_model(model, container.model_dir, sample=data[:1][0])

if __name__=='__main__': main()
"""
ROWS = "".join(f"{i % 3},{i},1,2,3\n" for i in range(300))
PROGRAM = {"net.py": NET, "train.py": TRAIN, "data/training/rows.csv": ROWS}


@pytest.fixture
def write(tmp_path):
    def write(files):
        """Write `{name: text}` into the source folder, and return it."""
        for name, text in files.items():
            path = tmp_path / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "source"

    return write


def program(name, old, new):
    """Return the program with a change in one file."""
    assert old in PROGRAM[name]
    return PROGRAM | {name: PROGRAM[name].replace(old, new)}


def before_training(statement):
    """Return the program with a statement at the start of its main function."""
    return program("train.py", "    model,data =", f"    {statement}\n    model,data =")


def places(report):
    """Return file, line, first line of the text and note of each finding."""
    return [(f.file, f.line, f.what.splitlines()[0], f.note) for f in report.findings]


def test_shapes_that_do_not_fit(write):
    report = check(write(program("net.py", "nn.Linear(4, width)", "nn.Linear(5, width)")))
    ((file, line, message, note),) = places(report)
    assert (file, line, note) == ("net.py", 8, False)
    assert message.replace("addmm: ", "") == "RuntimeError: mat1 and mat2 shapes cannot be multiplied (32x4 and 5x8)"


def test_a_model_class_in_the_program_itself(write):
    report = check(write(program("train.py", "from net import Net", NET)))
    message = "the model is Net, a class of the program itself, which no other process can load"
    assert places(report) == [("train.py", 10, message, False)]


def test_a_program_that_exits(write):
    assert places(check(write(before_training("raise SystemExit(3)")))) == [("train.py", 17, "SystemExit: 3", False)]


def test_a_program_that_crashes(write):
    report = check(write(before_training("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")))
    assert places(report) == [("", None, "one step: the process was killed by SIGSEGV", False)]


def test_a_program_that_ends_its_process(write):
    report = check(write(before_training('import os; print("now"); os._exit(5)')))
    assert report.findings[0].what == "one step: the process ended with exit code 5, after\nnow"
    assert not report.ok


def test_a_program_that_hangs(write, tmp_path):
    """The program makes a file when it hangs: a check that was stopped before that is repeated with more time."""
    source = write(before_training(f"open({str(tmp_path / 'hangs')!r}, 'w'); import time; time.sleep(1000)"))
    seconds = 8
    while not (tmp_path / "hangs").exists():
        report = check(source, seconds=seconds)
        seconds *= 2
    message = f"one step: still running after {seconds // 2} seconds, without an error"
    assert places(report) == [("", None, message, True)]
    assert report.ok


def test_a_hyperparameter_that_does_not_exist(write):
    report = check(write(PROGRAM), argv=["--epohcs", "3"])
    assert places(report) == [("train.py", 11, "unknown hyperparameter 'epohcs'; did you mean 'epochs'?", False)]


def test_a_hyperparameter_of_the_wrong_type(write):
    report = check(write(PROGRAM) / "train.py", argv=["--width", "wide"])
    message = "hyperparameter 'width': expected int, got 'wide'"
    assert places(report) == [("train.py", 13, message, False)]


def test_a_plain_program_is_run_as_far_as_its_parser(write):
    train = """
    import argparse
    import os
    import helper
    if __name__ == "__main__":
        parser = argparse.ArgumentParser()
        parser.add_argument("--epochs", type=int)
        parser.add_argument("--train", default=os.environ["SM_CHANNEL_TRAINING"])
        print(helper.NAME, os.listdir(parser.parse_args().train))
    """
    source = write({"train.py": textwrap.dedent(train), "helper.py": "NAME = 1\n", "data/training/rows.csv": ROWS})
    report = check(source, argv=["--epochs", "3"])
    assert (report.findings, report.log) == ([], "")
    assert report.tried == ["syntax", "imports", "the program", "arguments"]
    assert report.untried == ["what follows the argument parser at train.py:9 (job.check(run=True) runs it)"]
    assert "nothing found" not in repr(report)
    message = "the argument parser refuses: argument --epochs: invalid int value: 'ten'"
    assert places(check(source, argv=["--epochs", "ten"])) == [("train.py", 9, message, False)]


def test_a_plain_program_without_a_parser_is_imported(write):
    source = write({"train.py": "print('import')\nif __name__ == '__main__':\n    open('trained', 'w')\n"})
    report = check(source)
    assert (report.ok, report.log) == (True, "import\n")
    assert report.untried == ["the code under if __name__ == '__main__' in train.py (job.check(run=True) runs it)"]
    source = write({"train.py": "open('trained', 'w')\n"})
    message = "it ran to its end, and there is nothing in the model folder"
    assert places(check(source)) == [("", None, message, True)]
    assert not (source / "trained").exists()


def test_channels_of_a_plain_program_without_data(write):
    """Their folders are there, and empty."""
    lines = [
        "import argparse, os",
        "print(os.listdir(os.environ['SM_CHANNEL_TEST']))",
        "argparse.ArgumentParser().parse_args()",
    ]
    train = "\n".join(lines)
    report = check(write({"train.py": train}))
    message = "no data: the channels that the program names are empty here: test"
    assert (places(report), report.log) == ([("", None, message, True)], "[]\n")


def test_the_only_file_of_a_folder_is_the_program(write):
    report = check(write({"fit.py": "import argparse\nargparse.ArgumentParser().parse_args()\n"}))
    assert report.untried == ["what follows the argument parser at fit.py:2 (job.check(run=True) runs it)"]


# The packages with which programs read their arguments: a program, arguments, and what it says of wrong ones.
PARSERS = {
    "click": (
        "import click\n@click.command()\n@click.option('--epochs', type=int)\ndef main(epochs): print('no')\nmain()\n",
        "Invalid value for '--epochs': ",
    ),
    "typer": (
        "import typer\ndef main(epochs: int = 1): print('no')\nif __name__ == '__main__': typer.run(main)\n",
        "Invalid value for '--epochs': ",
    ),
    "absl": (
        "from absl import app, flags\n"
        "flags.DEFINE_integer('epochs', 1, 'h')\ndef main(_): print('no')\napp.run(main)\n",
        "flag --epochs=ten: invalid literal for int() with base 10: 'ten'",
    ),
    "subcommands": (
        "import argparse\np = argparse.ArgumentParser()\n"
        "s = p.add_subparsers(required=False).add_parser('x')\np.add_argument('--epochs', type=int)\np.parse_args()\n",
        "argument --epochs: invalid int value: 'ten'",
    ),
}


@pytest.mark.parametrize("package", PARSERS)
def test_parsers(write, package):
    if package != "subcommands":
        pytest.importorskip(package)
    program, refusal = PARSERS[package]
    source = write({"train.py": program})
    report = check(source, argv=["--epochs", "3"])
    assert (report.findings, report.log) == ([], ""), package
    assert report.untried[0].startswith("what follows the argument parser at train.py:"), package
    report = check(source, argv=["--epochs", "ten"])
    assert report.findings[0].what.startswith(f"the argument parser refuses: {refusal}")


@pytest.mark.long
def test_the_parser_of_hugging_face(write):
    train = """
    from dataclasses import dataclass
    from transformers import HfArgumentParser
    @dataclass
    class Arguments:
        epochs: int = 1
    HfArgumentParser(Arguments).parse_args_into_dataclasses()
    """
    source = write({"train.py": textwrap.dedent(train)})
    assert check(source, argv=["--epochs", "3"]).untried
    report = check(source, argv=["--epochs", "ten"])
    assert [f.what for f in report.findings] == [
        "the argument parser refuses: argument --epochs: invalid int value: 'ten'"
    ]
    assert not check(source, argv=["--epohcs", "3"]).ok


def test_a_program_that_does_not_call_its_entry_point(write):
    report = check(write(program("train.py", "if __name__=='__main__': main()", "")))
    assert places(report) == [("train.py", None, "it calls no entry point", False)]


def test_without_data(write):
    report = check(write({"net.py": NET, "train.py": TRAIN}))
    assert places(report) == [("", None, "no data: no step was tried", True)]
    assert report.ok


BUILT_IN = ["--model", "net:Net", "--model_args", '{"width": 3}', "--epochs", "50"]


def test_the_built_in_training(write):
    source = write({"net.py": NET, "data/training/rows.csv": ROWS})
    report = check(source, argv=BUILT_IN, data=source / "data")
    assert (report.findings, report.tried) == (
        [],
        ["syntax", "imports", "config", "one step", "save", "load", "predict"],
    )


def test_misspelt_import_strings_of_the_built_in_training(write):
    report = check(write({"net.py": NET}), argv=["--model", "net:Nett", "--callbacks", '["gone.callbacks:Log"]'])
    assert [what for _, _, what, _ in places(report)] == [
        "no data: no step was tried",
        "AttributeError: import string 'net:Nett': net has no 'Nett'; did you mean 'Net'?",
        "ModuleNotFoundError: import string 'gone.callbacks:Log': no module 'gone' on the import path. Is its folder "
        "the current one, or is it installed?",
    ]
    assert not report.ok


def test_an_import_string_of_a_module_with_a_mistake(write):
    report = check(write({"net.py": "import sklaern\n" + NET}), argv=["--model", "net:Net"])
    assert places(report) == [("net.py", 1, "there is no module 'sklaern'", False)]


def test_a_program_without_mlkits_trainer(write):
    train = """
    from mlkit.sagemaker_entry import Container, entry_point
    @entry_point
    def main(container: Container): print("trained")
    if __name__ == "__main__": main()
    """
    report = check(write(PROGRAM | {"train.py": textwrap.dedent(train)}))
    assert [what for _, _, what, _ in places(report)] == [
        "it ran to its end without mlkit's Trainer: how long it takes in a job is not known",
        "there is nothing in model_dir",
    ]
    assert (report.ok, report.log) == (True, "trained\n")


def test_a_model_saved_without_a_sample(write):
    report = check(write(program("train.py", ", sample=data[:1][0]", "")))
    assert places(report) == []  # training has recorded what the model was fed

    source = program("train.py", ", sample=data[:1][0]", "")
    source["train.py"] = source["train.py"].replace("save_model(model,", "save_model(Net(config.width),")
    report = check(write(source))
    message = "the model was saved without a sample: no prediction was tried"
    assert places(report) == [("", None, message, True)]


def test_a_file_that_is_not_python(write):
    report = check(write(PROGRAM | {"tools/old.py": "print 'old'\n"}))
    assert [(f.file, f.line) for f in report.findings] == [("tools/old.py", 1)]
    assert report.tried == ["syntax"]
