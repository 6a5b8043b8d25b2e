"""What must hold of the repository as a whole: notebooks, package, README, layers and style agree."""

import ast
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = {"0_model": "model", "1_training": "training", "2_sagemaker": "sagemaker", "3_notebook": "notebook"}


def run(*args, cwd):
    """Run a tool of this environment as its users start it; show its output if it fails."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.run(args, cwd=cwd, text=True, capture_output=True, env=os.environ | {"PATH": path})
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def exported_modules():
    """Return `{dotted module name without mlkit: notebook}`."""
    modules = {}
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        source = "\n".join("".join(cell["source"]) for cell in cells)
        if exported := re.search(r"^#\| default_exp ([\w.]+)", source, re.M):
            modules[exported[1]] = notebook
    return modules


def module_files():
    """Return the files of the package, without the index that nbdev writes."""
    return [f for f in sorted((ROOT / "mlkit").rglob("*.py")) if f.name != "_modidx.py"]


@pytest.fixture
def copy(tmp_path):
    """Copy the tracked files, and new files that git does not ignore, to a temporary folder."""
    names = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in names:
        if name and (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def files_in(folder, *names):
    paths = (f for name in names for f in (folder / name).rglob("*"))
    return {f.relative_to(folder) for f in paths if f.is_file() and "__pycache__" not in f.parts}


def test_clean_and_export_change_nothing(copy):
    before = files_in(copy, "nbs", "mlkit")
    run("nbdev_clean", cwd=copy)
    run("nbdev_export", cwd=copy)
    after = files_in(copy, "nbs", "mlkit")
    _, changed, _ = filecmp.cmpfiles(ROOT, copy, sorted(map(str, before & after)), shallow=False)
    assert not changed, f"run nbdev_clean and nbdev_export, and commit: {changed}"
    assert before == after, f"run nbdev_export, and commit: {before ^ after}"


def test_readme_is_the_rendering_of_the_index_notebook(copy):
    run(sys.executable, ".ci/docs.py", "readme", cwd=copy)
    expected = (copy / "README.md").read_text()
    assert expected == (ROOT / "README.md").read_text(), "run make readme, and commit README.md"


def markdown_cells(page):
    return [cell for cell in json.loads(page.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "markdown"]


def test_the_first_cell_of_a_page_is_its_title_and_description():
    for page in sorted((ROOT / "nbs").rglob("*.ipynb")):
        text = re.sub(r"<!--.*?-->", "", "".join(markdown_cells(page)[0]["source"]), flags=re.S)
        assert re.fullmatch(r"# .+\n+> .+\n*", text), f"{page}: nbdev renders nothing else of the first cell"


def test_pictures_are_small_and_described():
    """Every picture is on a page, with a text for those who cannot see it, and there is no other."""
    described = {}
    for page in (ROOT / "nbs").rglob("*.ipynb"):
        for cell in markdown_cells(page):
            for text, target in re.findall(r"!\[(.*?)\]\((.*?)\)", "".join(cell["source"])):
                described[(page.parent / target).resolve()] = text
    pictures = set((ROOT / "nbs" / "images").iterdir())
    assert set(described) == pictures
    for picture, text in described.items():
        assert len(text) > 40, f"{picture}: say what is to be seen"
        limit = 200_000 if picture.suffix == ".gif" else 60_000
        assert picture.stat().st_size < limit, f"{picture}: run make pictures"


def test_ruff_formats_nothing():
    run("ruff", "format", "--check", ".", cwd=ROOT)


def test_ruff_finds_nothing():
    run("ruff", "check", ".", cwd=ROOT)


def test_every_noqa_has_its_reason():
    for f in [*(ROOT / "nbs").rglob("*.ipynb"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for line in f.read_text(encoding="utf-8").splitlines():
            if re.search(r"#\s*noqa", line) and f != Path(__file__):
                assert re.search(r"#\s*noqa: [A-Z]+\d+(, [A-Z]+\d+)*:? +(--|#|\() ?\w+", line), f"{f}: {line.strip()}"


def test_every_expected_error_is_waited_for():
    """`expect_fail` of fastcore is for a `with` statement: called alone, it tests nothing."""
    for notebook in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] != "code" or "expect_fail(" not in source:
                continue
            nodes = list(ast.walk(ast.parse(source)))
            calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "expect_fail"]
            items = [item for node in nodes if isinstance(node, ast.With) for item in node.items]
            assert {*calls} <= {item.context_expr for item in items}, f"{notebook}: {source}"


def test_layers():
    assert "Contracts: 4 kept, 0 broken" in run("lint-imports", "--no-cache", cwd=ROOT)


def test_every_module_is_exported_from_the_folder_of_its_layer():
    for module, notebook in exported_modules().items():
        folder = notebook.relative_to(ROOT / "nbs").parts[0]
        package, _, name = module.partition(".")
        expected = "commands" if folder == "4_command" and name else LAYERS.get(folder, module)
        assert package == expected, (module, notebook)


def test_every_module_has_a_notebook():
    exported = {f"mlkit/{module.replace('.', '/')}.py" for module in exported_modules()}
    for f in module_files():
        name = f.relative_to(ROOT).as_posix()
        is_empty_init = f.name == "__init__.py" and len(f.read_text().splitlines()) <= 1
        assert name in exported or is_empty_init, name


def test_model_and_training_layers_do_not_mention_sagemaker():
    for layer in ("model", "training"):
        for f in (ROOT / "mlkit" / layer).rglob("*.py"):
            assert not re.search(r"\bSM_|/opt/ml|\bAWS\b", f.read_text(encoding="utf-8")), f


def is_method_assignment(node):
    """Return whether a statement is `Class.method = function`, or a property, a lambda or several of these."""
    if not isinstance(node, ast.Assign):
        return False
    targets = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
    makes_value = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) not in ("property", "staticmethod")
    return not makes_value and any(isinstance(t, ast.Attribute) and re.match("[A-Z]", ast.unparse(t)) for t in targets)


def test_classes_are_whole():
    for f in module_files():
        grafted = [ast.unparse(node) for node in ast.parse(f.read_text()).body if is_method_assignment(node)]
        assert not grafted, f"{f}: write the method in its class, or use @patch: {grafted}"


def test_workflows_name_actions_by_their_commit():
    """A tag can be moved to other code, a commit cannot."""
    workflows = "\n".join(f.read_text(encoding="utf-8") for f in sorted((ROOT / ".github" / "workflows").iterdir()))
    actions = re.findall(r"uses: *(\S+)", workflows)
    assert actions and not [action for action in actions if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)]


# The page of each layer on which its names are listed.
LAYER_PAGES = {
    "model": ["0_model/00_model"],
    "training": ["1_training/00_training", "1_training/6_data/00_data", "1_training/7_callbacks/00_callbacks"],
    "sagemaker": ["2_sagemaker/000_overview"],
    "notebook": ["3_notebook/00_notebook"],
}


def public_names(layer):
    """Return the names in `__all__` of all modules of a layer."""
    names = set()
    for f in sorted((ROOT / "mlkit" / layer).rglob("*.py")):
        for node in ast.parse(f.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names |= set(ast.literal_eval(node.value))
    return names


@pytest.mark.parametrize("layer", LAYER_PAGES)
def test_the_page_of_a_layer_lists_its_names(layer):
    text = ""
    for page in LAYER_PAGES[layer]:
        cells = json.loads((ROOT / "nbs" / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
        text += "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    listed = set(re.findall(r"`(\w+)[`(]", text))
    assert public_names(layer) <= listed, f"add to {LAYER_PAGES[layer]}: {sorted(public_names(layer) - listed)}"


def test_there_are_about_120_public_names():
    names = set().union(*(public_names(layer) for layer in LAYER_PAGES))
    assert len(names) <= 130, (
        f"{len(names)} names are public: mark a cell #| exporti if only mlkit itself needs its names"
    )
