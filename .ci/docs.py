"""README.md and the site, rendered from the notebooks as nbdev processes them"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml
from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.serve import proc_nbs
from traitlets.config import Config


def rendered(notebook):
    """Front matter, Markdown and extra files (`{name: bytes}`) of a processed notebook"""
    nb = nbformat.read(notebook, 4)
    front = yaml.safe_load(nb.cells.pop(0).source.strip("-\n ")) if nb.cells[0].cell_type == "raw" else {}
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.metadata = {"tags": ["no-input"]} if re.search(r"^#\|\s*echo:\s*false", cell.source, re.M) else {}
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    exporter = MarkdownExporter(
        config=Config(
            TagRemovePreprocessor={"enabled": True, "remove_input_tags": ("no-input",)},
            CoalesceStreamsPreprocessor={"enabled": True},
        )
    )
    exporter.exclude_output_prompt = True
    nb.metadata["language_info"] = {"name": "python"}
    text, resources = exporter.from_notebook_node(
        nb, {"output_files_dir": f"{notebook.stem}_files", "unique_key": notebook.stem}
    )
    return front, text.strip(), resources["outputs"]


def readme():
    root = get_config().config_path
    front, text, files = rendered(proc_nbs(file_glob="index.ipynb", n_workers=0) / "index.ipynb")
    if files:
        raise SystemExit(f"README.md stands alone, but index.ipynb has pictures in its outputs: {sorted(files)}")
    text = re.sub(r"\]\(([\w/]+\.ipynb)\)", r"](nbs/\1)", text)
    (root / "README.md").write_text(f"# {front['title']}\n\n> {front['description']}\n\n{text}\n", encoding="utf-8")


SECTIONS = {
    "5_tutorials": "Tutorials",
    "0_model": "Model",
    "1_training": "Training",
    "2_sagemaker": "SageMaker",
    "3_notebook": "Notebook",
    "4_command": "Command line",
}  # in the order of the menu; a folder within one of these is a section of its own


def section_title(folder):
    return SECTIONS.get(folder) or folder.partition("_")[2].capitalize()


def site():
    cfg = get_config()
    out = cfg.config_path / "_docs"
    pages = out / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    source = proc_nbs(n_workers=0)
    order = {name: i for i, name in enumerate(SECTIONS)}
    # sections: {folder: its list in the menu}
    nav = []
    sections = {}

    def entries(folder):
        if folder == Path():
            return nav
        if folder not in sections:
            sections[folder] = []
            entries(folder.parent).append({section_title(folder.name): sections[folder]})
        return sections[folder]

    def place(f):
        folder = f.relative_to(source).parts
        return (order[folder[0]] if len(folder) > 1 else -1, f.stem != "index", f.relative_to(source).as_posix())

    for f in sorted(source.rglob("*.ipynb"), key=place):
        front, text, files = rendered(f)
        name = f.relative_to(source).with_suffix(".md")
        page = pages / name
        page.parent.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            (page.parent / path).parent.mkdir(parents=True, exist_ok=True)
            (page.parent / path).write_bytes(content)
        text = re.sub(r"\]\(([\w/.]+)\.ipynb\)", r"](\1.md)", text)
        page.write_text(
            f"# {front.get('title', f.stem)}\n\n> {front.get('description', '')}\n\n{text}\n", encoding="utf-8"
        )
        entries(name.parent).append({front.get("title", f.stem): name.as_posix()})
    shutil.copytree(cfg.config_path / "nbs" / "images", pages / "images", dirs_exist_ok=True)
    settings = {
        "site_name": cfg.title,
        "docs_dir": "pages",
        "site_dir": "site",
        "use_directory_urls": False,
        "nav": nav,
        "theme": {"name": "material", "font": False},
    }
    (out / "mkdocs.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    subprocess.run([Path(sys.executable).parent / "zensical", "build", "--config-file", out / "mkdocs.yml"], check=True)


if __name__ == "__main__":
    todo = {"readme": readme, "site": site}
    if len(sys.argv) != 2 or sys.argv[1] not in todo:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(todo)}")
    todo[sys.argv[1]]()
