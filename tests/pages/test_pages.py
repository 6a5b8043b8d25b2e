"""README and the tutorials as a reader runs them: their visible cells, in order, in a fresh folder and a fresh kernel.

nbdev_test leaves these pages to this file. Blocks of Python and of a shell in the text are run as well, without the
lines that set the repository up. A hidden cell only checks: it runs in a namespace of its own, where no visible cell
finds a name, and it leaves files, folder and variables as they are. `--outputs` writes the outputs into the notebooks.
"""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from helpers import REPOSITORY
from nbclient import NotebookClient

from mlkit.sagemaker.local.client import LocalSageMaker

NOTEBOOKS = REPOSITORY / "nbs"
FOLDERS = ("5_tutorials", "6_how_to")
PAGES = ["index.ipynb", *(f"{f}/{page.name}" for f in FOLDERS for page in sorted((NOTEBOOKS / f).glob("*.ipynb")))]
# These run with --long only.
# Other tests cover spot jobs, other trainers, Hugging Face's models, texts, several hosts and sweeps in CI.
LONG_PAGES = [
    *(f"5_tutorials/{n}.ipynb" for n in ("20_spot", "21_hugging_face", "22_text", "30_many_hosts", "31_sweep")),
    "6_how_to/20_from_lightning_and_hugging_face.ipynb",
]
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}

# Hidden cells share a module of their own. It sees what the visible cells have defined.
RUN_HIDDEN = """
def _run_hidden(source):
    import os, sys
    from pathlib import Path
    from types import ModuleType

    def surroundings():
        return os.getcwd(), dict(os.environ), sorted(Path().rglob("*"))

    checks = sys.modules.setdefault("hidden_cells", ModuleType("hidden_cells"))
    vars(checks).update(get_ipython().user_ns)
    before = surroundings()
    exec(compile(source, "<hidden cell>", "exec"), vars(checks))
    assert surroundings() == before, "a hidden cell changes the folder, the variables of the process, or files"

_run_hidden({source!r})
"""


def is_hidden(source):
    """Return whether a reader of the rendered page does not see the code of a cell."""
    return re.search(r"^#\|\s*(hide|echo:\s*false)\s*$", source, re.M) is not None


def code_blocks(text):
    """Yield the blocks of Python and of a shell in the text of a page, as code for a cell."""
    for language, block in re.findall(r"^```(python|sh)\n(.*?)^```$", text, re.M | re.S):
        if language == "python":
            yield block
            continue
        commands = [line for line in block.splitlines() if not line.startswith(("make ", "pip "))]
        if commands:
            yield "\n".join(["%%bash", "set -eu", *commands])


def executable(page):
    """Return a notebook of all that is run of a page, and the cells of the page by the position of their copies."""
    cells = []
    originals = {}
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cells += map(nbformat.v4.new_code_cell, code_blocks(cell.source))
        elif cell.cell_type == "code":
            source = RUN_HIDDEN.format(source=cell.source) if is_hidden(cell.source) else cell.source
            originals[len(cells)] = cell
            cells.append(nbformat.v4.new_code_cell(source))
    return nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), originals


def end_all(local):
    """Stop the jobs and delete the endpoints that a page has left."""
    for endpoint in local.list_endpoints()["Endpoints"]:
        local.delete_endpoint(EndpointName=endpoint["EndpointName"])
    for job in local.list_training_jobs(StatusEquals="InProgress")["TrainingJobSummaries"]:
        local.stop_training_job(TrainingJobName=job["TrainingJobName"])


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Return the folder of a reader who has installed mlkit, and has never used it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in list(os.environ):
        if name.startswith(("MLKIT_", "JUPYTER_", "IPYTHON", "AWS_")):
            monkeypatch.delenv(name)
    folder = tmp_path / "work"
    folder.mkdir()
    yield folder
    end_all(LocalSageMaker())


def run_page(name, folder):
    """Run a page in a folder. Return the page with its new outputs; raise CellExecutionError if a cell fails."""
    page = nbformat.read(NOTEBOOKS / name, 4)
    notebook, originals = executable(page)
    NotebookClient(
        notebook, timeout=600, coalesce_streams=True, resources={"metadata": {"path": str(folder)}}
    ).execute()
    for i, cell in originals.items():
        if cell.outputs:
            cell.outputs = notebook.cells[i].outputs
    return page


@pytest.mark.long(*LONG_PAGES)
@pytest.mark.parametrize("key", PAGES)
def test_the_visible_cells_of_a_page_run(key, reader, request):
    page = run_page(key, reader)
    if request.config.getoption("--outputs"):
        nbformat.write(page, NOTEBOOKS / key)


@pytest.mark.long
@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs_again_in_the_folder_of_its_first_run(name, reader, monkeypatch):
    for i in range(2):  # with jobs of its own, because the name of a job is used once
        monkeypatch.setenv("MLKIT_LOCAL", str(reader.parent / f"local-{i}"))
        run_page(name, reader)
        end_all(LocalSageMaker())
