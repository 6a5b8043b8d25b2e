"""Programs in the ways of public examples for SageMaker, each with the trait that made it fail, checked and run.

They are written anew, and small: https://github.com/aws/amazon-sagemaker-examples and others have the like. Each tells
its trait in its first line, and leaves what it got in result.json.
"""

import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlkit.sagemaker.client.jobs import TrainingJob
from mlkit.sagemaker.local.client import LocalSageMaker
from mlkit.sagemaker.local.host import namespaces

HERE = Path(__file__).parent
NEEDS_OPT_ML = ("hard_coded_paths", "checkpoints")  # without namespaces /opt/ml is another folder


@dataclass
class Program:
    """How a program is started, what it got, and what a check does not try."""

    result: Any  # in result.json; None: there is none
    untried: str  # the beginning of it
    config: dict = field(default_factory=dict)
    source: str = ""  # within the folder of the program
    channels: tuple[str, ...] = ()
    options: dict = field(default_factory=dict)


AFTER_PARSER = "what follows the argument parser at train.py:"
GUARDED = "the code under if __name__ == '__main__' in train.py"
PROGRAMS = {
    "script_mode": Program(
        {"epochs": 3, "batch": 16, "is_first": True, "gpus": True, "files": ["rows.csv"]},
        AFTER_PARSER,
        {"epochs": 3, "batch-size": 16},
        channels=("training",),
    ),
    "booleans": Program(
        [True, True, True, "None"],
        AFTER_PARSER,
        {"pretrained": True, "augment": False, "freeze": True, "scheduler": "None"},
    ),
    "letters": Program([4, 2, ["--other", "x y"]], AFTER_PARSER, {"b": 4, "j": 2, "other": "x y"}),
    "variables": Program(
        [0.5, [1, 2], True, True, ["train"]],
        "",
        {"learning-rate": 0.5, "layers": [1, 2], "use_bias": True},
        channels=("train",),
    ),
    "package": Program(
        [8, {"depth": 2}, "read from the working directory"],
        "what follows the argument parser at nets/train.py:",
        source="code",
        options={"entry": "nets/train.py"},
    ),
    "src_layout": Program([6, "train", "train.py"], "", {"width": 2}, source="code"),
    "helper": Program({"lr": 0.5}, "what follows the argument parser at options.py:", {"lr": 0.5}, source="train.py"),
    "shell": Program([3, "yes"], "train.sh, a shell script", {"epochs": 3}, options={"entry": "train.sh"}),
    "script_of_a_requirement": Program([3, 3, 3], "", source="train.py"),
    "hard_coded_paths": Program([2, ["rows.csv"]], GUARDED, {"epochs": 2}, channels=("train",)),
    "model_elsewhere": Program(None, ""),
    "handlers": Program({"slope": 2.0}, AFTER_PARSER, {"slope": 2.0}, channels=("train",)),
    "click_command": Program([3, "a b"], AFTER_PARSER, {"epochs": 3, "name": "a b"}),
    "checkpoints": Program({"first": 0, "last": 2}, AFTER_PARSER, {"epochs": 2}),
    "hosts": Program([2, 3.0], AFTER_PARSER, {"backend": "gloo"}, options={"hosts": 2}),
    "torchrun": Program(None, "", {"epochs": 3}),
    "hugging_face": Program(
        [3, True, "/opt/ml/model"], AFTER_PARSER, dict(epochs=3, fp16=True, output_dir="/opt/ml/model")
    ),
}
SLOW = ("hosts", "torchrun", "hugging_face")  # they import torch or transformers
CHECKED = ("script_mode", "letters", "package", "helper", "hard_coded_paths", "handlers")  # without --long


def write_wheel(folder):
    """Write a wheel with a console script, and a requirements.txt that names it."""
    name = "row_tools-1.0"
    files = {
        "row_tools.py": "import sys\n\ndef main():\n    print([int(sys.argv[1])] * 3)\n",
        f"{name}.dist-info/METADATA": "Metadata-Version: 2.1\nName: row-tools\nVersion: 1.0\n",
        f"{name}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}.dist-info/entry_points.txt": "[console_scripts]\ndescribe-rows = row_tools:main\n",
        f"{name}.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    (folder / "requirements.txt").write_text(f"--no-index\n./{name}-py3-none-any.whl\n")


def make_job(name, tmp_path):
    """Return the job of a program, in a folder of its own, with a small table as each of its channels."""
    program = PROGRAMS[name]
    folder = tmp_path / name
    for path in (HERE / name).rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            copy = folder / path.relative_to(HERE / name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    if name == "script_of_a_requirement":
        write_wheel(folder)
    channels = {}
    for channel in program.channels:
        channels[channel] = tmp_path / "data" / channel
        channels[channel].mkdir(parents=True)
        (channels[channel] / "rows.csv").write_text("0,1\n")
    return TrainingJob(
        program.config, folder / program.source, channels, name=name.replace("_", "-"), **program.options
    )


def read_result(job, folder):
    return json.loads((job.fetch(folder) / "result.json").read_text())


def skip_without_namespaces(name):
    if name in NEEDS_OPT_ML and not namespaces():
        pytest.skip("namespaces are not allowed here")


@pytest.mark.long(*SLOW)
@pytest.mark.parametrize("key", PROGRAMS)
def test_a_program_runs_as_its_author_wrote_it(key, tmp_path):
    skip_without_namespaces(key)
    job = make_job(key, tmp_path).run(LocalSageMaker()).follow(io.StringIO())
    assert job.status == "Completed"
    if key == "model_elsewhere":
        assert "It wrote /opt/ml/output/data/model.pt." in job.missing_model
    elif key == "torchrun":
        names = sorted(path.name for path in job.fetch(tmp_path / "model").iterdir())
        assert names == ["rank0.json", "rank1.json"]
    else:
        assert read_result(job, tmp_path / "model") == PROGRAMS[key].result


@pytest.mark.long(*(set(PROGRAMS) - {*CHECKED}))
@pytest.mark.parametrize("key", PROGRAMS)
def test_a_check_of_a_program_says_what_it_has_not_tried(key, tmp_path):
    report = make_job(key, tmp_path).check()
    if key == "script_of_a_requirement":
        assert "No such file or directory: 'describe-rows'" in report.findings[0].what  # it is not installed here
        return
    if key == "src_layout":
        assert "installs the package of the setup.py" in report.findings[0].remedy
        return
    assert report.ok, report
    assert bool(report.untried) == bool(PROGRAMS[key].untried), report
    assert not report.untried or report.untried[0].startswith(PROGRAMS[key].untried), report
    assert "nothing found" not in repr(report) or not report.untried


def test_a_program_of_the_toolkit_is_not_called_wrong(tmp_path):
    """AWS's images have the package that it imports; a check without it does not say that the program was tried."""
    job = TrainingJob(source=HERE / "toolkit")
    report = job.check()
    assert (report.ok, report.untried) == (True, ["train.py, which imports sagemaker_training"])
    assert report.findings[-1].what == "sagemaker_training is in AWS's training images, and not installed here"


def test_a_stopped_program_continues_from_its_checkpoints(tmp_path):
    skip_without_namespaces("checkpoints")
    job = make_job("checkpoints", tmp_path).run(LocalSageMaker()).follow(io.StringIO())
    again = job.resume().follow(io.StringIO())
    assert read_result(again, tmp_path / "again") == {"first": 2, "last": 2}
