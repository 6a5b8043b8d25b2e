"""Render README.md and the site from the notebooks, as nbdev processes them."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import nbformat
import versions
import yaml
from fastcore.foundation import L
from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.serve import proc_nbs
from traitlets.config import Config

# The sections of the menu, in its order. A folder inside one of these is a section of its own.
SECTIONS = {
    "5_tutorials": "Tutorials",
    "0_model": "Model",
    "1_training": "Training",
    "2_sagemaker": "SageMaker",
    "3_notebook": "Notebook",
    "4_command": "Command line",
}
INSIDE = "Inside"  # the folded section of pages whose modules offer nothing to a user


def render(notebook: Path) -> tuple[dict, str, dict]:
    """Return front matter, Markdown and extra files (`{name: bytes}`) of a processed notebook.

    The comment `<!-- versions -->` becomes the table of the versions that were tested.
    """
    nb = nbformat.read(notebook, 4)
    front = {}
    if nb.cells[0].cell_type == "raw":
        front = yaml.safe_load(nb.cells.pop(0).source.strip("-\n "))
    for cell in nb.cells:
        if cell.cell_type == "code":
            hides_input = re.search(r"^#\|\s*echo:\s*false", cell.source, re.M)
            cell.metadata = {"tags": ["no-input"]} if hides_input else {}
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    settings = Config(
        TagRemovePreprocessor={"enabled": True, "remove_input_tags": ("no-input",)},
        CoalesceStreamsPreprocessor={"enabled": True},
    )
    exporter = MarkdownExporter(config=settings)
    exporter.exclude_output_prompt = True
    nb.metadata["language_info"] = {"name": "python"}
    resources = {"output_files_dir": f"{notebook.stem}_files", "unique_key": notebook.stem}
    text, resources = exporter.from_notebook_node(nb, resources)
    text = text.replace("<!-- versions -->", versions.table())
    return front, text.strip(), resources["outputs"]


def readme() -> None:
    """Write README.md from nbs/index.ipynb."""
    root = get_config().config_path
    # nbdev's own choice of files has no effect (nbdev 2.4), and all of them take minutes
    with mock.patch("nbdev.serve.nbglob", lambda path, **options: L(Path(path) / "index.ipynb")):
        folder = proc_nbs(n_workers=0)
    front, text, files = render(folder / "index.ipynb")
    if files:
        raise SystemExit(f"README.md stands alone, but index.ipynb has pictures in its outputs: {sorted(files)}")
    text = re.sub(r"\]\(([\w/]+\.(ipynb|png))\)", r"](nbs/\1)", text)
    page = f"# {front['title']}\n\n> {front['description']}\n\n{text}\n"
    (root / "README.md").write_text(page, encoding="utf-8")


def is_internal(notebook: Path) -> bool:
    """Return whether the module that a notebook exports has no public names."""
    source = notebook.read_text(encoding="utf-8")
    exported = re.search(r"#\| default_exp ([\w.]+)", source)
    if not exported:
        return False
    config = get_config()
    module = config.lib_path / f"{exported[1].replace('.', '/')}.py"
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return not ast.literal_eval(node.value)
    return True


class Menu:
    """The menu of the site: nested sections in the order of the notebooks."""

    def __init__(self):
        self.entries: list[dict] = []
        self.sections: dict[tuple[str, ...], list[dict]] = {(): self.entries}

    def section(self, names: tuple[str, ...]) -> list[dict]:
        """Return the entries of a section; a new one is added to its parent."""
        if names not in self.sections:
            self.sections[names] = []
            self.section(names[:-1]).append({names[-1]: self.sections[names]})
        return self.sections[names]

    def add(self, folder: Path, title: str, page: str, inside: bool) -> None:
        names = tuple(SECTIONS.get(part, part.partition("_")[2].capitalize()) for part in folder.parts)
        if inside:
            names += (INSIDE,)
        self.section(names).append({title: page})


def site() -> None:
    """Build the site in _docs/site: tutorials first, then the layers; internal pages are folded away."""
    config = get_config()
    out = config.config_path / "_docs"
    pages = out / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    processed = proc_nbs(n_workers=0)
    order = {name: i for i, name in enumerate(SECTIONS)}

    def position(notebook):
        name = notebook.relative_to(processed)
        layer = order[name.parts[0]] if len(name.parts) > 1 else len(order)
        return notebook.stem != "index", layer, internal[notebook], name.as_posix()

    notebooks = list(processed.rglob("*.ipynb"))
    internal = {n: is_internal(config.nbs_path / n.relative_to(processed)) for n in notebooks}
    menu = Menu()
    for notebook in sorted(notebooks, key=position):
        front, text, files = render(notebook)
        name = notebook.relative_to(processed).with_suffix(".md")
        page = pages / name
        page.parent.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            file = page.parent / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        title = front.get("title", notebook.stem)
        text = re.sub(r"\]\(([\w/.]+)\.ipynb\)", r"](\1.md)", text)
        page.write_text(f"# {title}\n\n> {front.get('description', '')}\n\n{text}\n", encoding="utf-8")
        is_ground = name.parent == Path() and name.stem != "index"
        menu.add(name.parent, title, name.as_posix(), internal[notebook] or is_ground)
    shutil.copytree(config.nbs_path / "images", pages / "images", dirs_exist_ok=True)
    settings = {
        "site_name": config.title,
        "docs_dir": "pages",
        "site_dir": "site",
        "use_directory_urls": False,
        "nav": menu.entries,
        "theme": {"name": "material", "font": False, "features": ["navigation.tabs", "navigation.indexes"]},
    }
    (out / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    zensical = Path(sys.executable).parent / "zensical"
    subprocess.run([zensical, "build", "--config-file", out / "mkdocs.yml"], check=True)


if __name__ == "__main__":
    tasks = {"readme": readme, "site": site}
    if len(sys.argv) != 2 or sys.argv[1] not in tasks:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(tasks)}")
    tasks[sys.argv[1]]()
