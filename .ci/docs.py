"""Render README.md and the site from the notebooks, as nbdev processes them."""

import ast
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path, PurePosixPath
from unittest import mock

import nbformat
import versions
import yaml
from execnb.shell import CaptureShell
from fastcore.foundation import L
from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.processors import exec_show_docs
from nbdev.serve import proc_nbs
from nbdev.showdoc import show_doc
from traitlets.config import Config

# The menu of the site: its sections, and in Reference and Inside a section for each layer.
START, TUTORIALS, HOW_TO, REFERENCE, INSIDE = "Start here", "Tutorials", "How-to", "Reference", "Inside"
LAYERS = {
    "0_model": "Model",
    "1_training": "Training",
    "2_sagemaker": "SageMaker",
    "3_notebook": "Notebook",
    "4_command": "Command line",
    "": "Ground",  # what all layers use
}
PLACES = {  # pages that are not in the section of their folder
    "index": START,
    "5_tutorials/00_first_job": START,
    "5_tutorials/40_how_to_add": HOW_TO,
    "2_sagemaker/001_container_contract": INSIDE,
}
STYLE = Path(__file__).parent / "site.css"


EXPORTED = re.compile(r"^\W*#\| default_exp ([\w.]+)", re.M)
TO_DARK = {"icon": "lucide/moon", "name": "Dark"}
TO_LIGHT = {"icon": "lucide/sun", "name": "Light"}


@cache
def markdown_exporter() -> MarkdownExporter:
    settings = Config(
        TagRemovePreprocessor={"enabled": True, "remove_input_tags": ("no-input",)},
        CoalesceStreamsPreprocessor={"enabled": True},
    )
    exporter = MarkdownExporter(config=settings)
    exporter.exclude_output_prompt = True
    return exporter


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
    nb.metadata["language_info"] = {"name": "python"}
    resources = {"output_files_dir": f"{notebook.stem}_files", "unique_key": notebook.stem}
    text, resources = markdown_exporter().from_notebook_node(nb, resources)
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
    text = re.sub(r"\]\(([\w/]+\.(ipynb|png|svg|gif))\)", r"](nbs/\1)", text)
    page = f"# {front['title']}\n\n> {front['description']}\n\n{text}\n"
    (root / "README.md").write_text(page, encoding="utf-8")


def is_internal(notebook: Path) -> bool:
    """Return whether the module that a notebook exports has no public names."""
    source = notebook.read_text(encoding="utf-8")
    exported = EXPORTED.search(source)
    if not exported:
        return False
    config = get_config()
    module = config.lib_path / f"{exported[1].replace('.', '/')}.py"
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return not ast.literal_eval(node.value)
    return True


class ShowDocs(exec_show_docs):
    """Show the documentation of a notebook's module, without running the notebook.

    nbdev runs every cell that exports or imports something, and what such a cell needs of the others is missing.
    """

    shell = CaptureShell()  # one for all notebooks: a shell takes seconds to make and to end

    def begin(self):
        source = "\n".join(cell.source for cell in self.nb.cells if cell.cell_type == "code")
        exported = EXPORTED.search(source)
        if exported:
            module = f"{get_config().lib_name}.{exported[1]}".removesuffix(".__init__")
            self.shell.user_ns |= vars(import_module(module)) | {"show_doc": show_doc}
            self.k = self.shell

    def __call__(self, cell):
        if cell.cell_type == "code" and cell.source.startswith("show_doc("):
            super().__call__(cell)

    def end(self):
        """Leave the widgets of this process out of the page."""


def section_of(page: PurePosixPath, internal: bool) -> tuple[str, ...]:
    """Return the names of a page's section in the menu, and of the sections around it."""
    folder = page.parts[0] if len(page.parts) > 1 else ""
    if place := PLACES.get(page.with_suffix("").as_posix()):
        return (place,)
    if folder == "5_tutorials":
        return (TUTORIALS,)
    if folder == "6_how_to":
        return (HOW_TO,)
    inner = [part.partition("_")[2].replace("_", " ").capitalize() for part in page.parent.parts[1:]]
    return INSIDE if internal or not folder else REFERENCE, LAYERS[folder], *inner


def position(page: PurePosixPath) -> tuple[int, str]:
    """Return what the pages of a section are sorted by; How-to has pages of two folders."""
    name = page.with_suffix("").as_posix()
    place = PLACES.get(name)
    if place in (START, INSIDE):
        return list(PLACES).index(name), name
    is_how_to = place == HOW_TO or page.parts[0] == "6_how_to"
    return len(PLACES), page.name if is_how_to else name


def menu_of(pages: list[tuple[PurePosixPath, str, bool]]) -> list[dict]:
    """Return the menu for the path, the title and whether it is internal of each page."""
    root: list[dict] = [{name: []} for name in (START, TUTORIALS, HOW_TO, REFERENCE, INSIDE)]
    for page, title, internal in sorted(pages, key=lambda entry: position(entry[0])):
        entries = root
        for name in section_of(page, internal):
            section = next((entry for entry in entries if name in entry), None)
            if section is None:
                section = {name: []}
                entries.append(section)
            entries = section[name]
        entries.append({title: page.as_posix()})
    return root


def site() -> None:
    """Build the site in _docs/site."""
    config = get_config()
    out = config.config_path / "_docs"
    pages = out / "pages"
    shutil.rmtree(out, ignore_errors=True)
    with mock.patch("nbdev.processors.exec_show_docs", ShowDocs):
        processed = proc_nbs(n_workers=0, force=True)
    entries = []
    for notebook in sorted(processed.rglob("*.ipynb")):
        front, text, files = render(notebook)
        name = notebook.relative_to(processed)
        page = (pages / name).with_suffix(".md")
        page.parent.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            file = page.parent / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        title = front.get("title", notebook.stem)
        text = re.sub(r"\]\(([\w/.]+)\.ipynb([)#])", r"](\1.md\2", text)
        page.write_text(f"# {title}\n\n> {front.get('description', '')}\n\n{text}\n", encoding="utf-8")
        entries.append((PurePosixPath(name.with_suffix(".md")), title, is_internal(config.nbs_path / name)))
    shutil.copytree(config.nbs_path / "images", pages / "images", dirs_exist_ok=True)
    shutil.copy2(STYLE, pages / "site.css")
    settings = {
        "site_name": config.title,
        "site_url": f"{config.doc_host}{config.doc_baseurl}/",
        "docs_dir": "pages",
        "site_dir": "site",
        "use_directory_urls": False,
        "nav": menu_of(entries),
        "extra_css": ["site.css"],
        "theme": {
            "name": "material",
            "font": False,
            "features": ["navigation.tabs", "search.highlight", "content.code.copy"],
            "palette": [
                {"scheme": "default", "media": "(prefers-color-scheme: light)", "toggle": TO_DARK},
                {"scheme": "slate", "media": "(prefers-color-scheme: dark)", "toggle": TO_LIGHT},
            ],
        },
    }
    (out / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    zensical = Path(sys.executable).parent / "zensical"
    subprocess.run([zensical, "build", "--config-file", out / "mkdocs.yml"], check=True)


if __name__ == "__main__":
    tasks = {"readme": readme, "site": site}
    if len(sys.argv) != 2 or sys.argv[1] not in tasks:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(tasks)}")
    tasks[sys.argv[1]]()
