"""The site as `make docs` builds it: its menu, its links, its search, and that it loads nothing from other hosts."""

import json
import re
import subprocess
import sys
import threading
from configparser import ConfigParser
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

import pytest
from browser import CHROMIUM, needs_chromium
from helpers import REPOSITORY

SECTIONS = ["Start here", "Tutorials", "How-to", "Reference", "Inside"]
LOOKED_AT = [  # a page of each kind: tables, code, pictures, plots, formulas
    "index.html",
    "5_tutorials/40_how_to_add.html",
    "6_how_to/10_from_script_mode.html",
    "2_sagemaker/000_overview.html",
    "2_sagemaker/001_container_contract.html",
    "3_notebook/12_svg.html",
    "3_notebook/42_playground.html",
]
# What a reader types, and a page that must be among the first results.
TERMS = {
    "spot": "5_tutorials/20_spot",
    "resume": "5_tutorials/20_spot",
    "input_fn": "5_tutorials/10_handlers",
    "multi-model": "2_sagemaker/2_endpoint/45_multi_model",
    "hyperparameter": "2_sagemaker/1_job/00_hyperparameters",
    "ReduceLROnPlateau": "1_training/7_callbacks/10_schedules",
    "DistributedDataParallel": "1_training/40_distributed",
    "FSDP": "1_training/40_distributed",
    "ContentType": "2_sagemaker/2_endpoint/00_content_types",
    "SIGTERM": "2_sagemaker/1_job/30_launcher",
    "LoRA": "5_tutorials/21_hugging_face",
    "early stopping": "1_training/7_callbacks/12_weights",
    "script mode": "6_how_to/10_from_script_mode",
    "estimator": "2_sagemaker/5_client/61_sdk_import",
    "Lightning": "6_how_to/20_from_lightning_and_hugging_face",
    "checkpoint": "1_training/30_checkpoint",
    "canary": "2_sagemaker/4_local/45_rollout",
    "TorchServe": "2_sagemaker/2_endpoint/50_adapters",
    "vLLM": "2_sagemaker/3_artifacts/47_hosting_contract",
    "learning rate": "1_training/7_callbacks/10_schedules",
    "mixed precision": "6_how_to/20_from_lightning_and_hugging_face",
    "gradient accumulation": "6_how_to/20_from_lightning_and_hugging_face",
    "failure file": "2_sagemaker/001_container_contract",
}
RESULTS = """() => [...(document.activeElement.shadowRoot?.querySelectorAll("a[href]") ?? [])].map(a => a.pathname)"""


class Page(HTMLParser):
    """What a page links to, what it loads, and which anchors it has."""

    LOADED = {"script": "src", "img": "src", "source": "src", "iframe": "src", "video": "src", "audio": "src"}

    def __init__(self, text):
        super().__init__()
        self.links = set()
        self.loaded = set()
        self.anchors = set()
        self.menu = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if tag == "a" and attributes.get("href"):
            self.links.add(attributes["href"])
            if "md-tabs__link" in (attributes.get("class") or ""):
                self.menu.append(attributes["href"])
        if tag == "link" and attributes.get("rel") in ("stylesheet", "icon", "preload", "modulepreload"):
            self.loaded.add(attributes["href"])
        if attributes.get(self.LOADED.get(tag)):
            self.loaded.add(attributes[self.LOADED[tag]])


@pytest.fixture(scope="module")
def site():
    """Build the site and return its folder."""
    command = [sys.executable, ".ci/docs.py", "site"]
    process = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    return REPOSITORY / "_docs" / "site"


@pytest.fixture(scope="module")
def pages(site):
    """Return the parsed pages by their paths."""
    files = [f for f in sorted(site.rglob("*.html")) if f.name != "404.html"]
    return {f.relative_to(site).as_posix(): Page(f.read_text(encoding="utf-8")) for f in files}


def test_each_notebook_is_in_a_section(site, pages):
    notebooks = {f.relative_to(REPOSITORY / "nbs") for f in (REPOSITORY / "nbs").rglob("*.ipynb")}
    assert set(pages) == {n.with_suffix(".html").as_posix() for n in notebooks}
    sections = {}
    for item in json.loads((site / "search.json").read_text(encoding="utf-8"))["items"]:
        sections.setdefault(item["location"].partition("#")[0], item["path"][0])
    assert set(sections) == set(pages)
    assert set(sections.values()) == set(SECTIONS)
    assert {sections[p] for p in pages if p.startswith("6_how_to/")} == {"How-to"}
    assert sections["2_sagemaker/001_container_contract.html"] == "Inside"
    assert sections["5_tutorials/40_how_to_add.html"] == "How-to"
    assert len(pages["index.html"].menu) == len(SECTIONS)


def is_external(target):
    parts = urlsplit(target)
    return parts.scheme not in ("", "data") or bool(parts.netloc)


def test_every_link_of_the_site_resolves(site, pages):
    files = {f.relative_to(site).as_posix() for f in site.rglob("*") if f.is_file()}
    settings = ConfigParser(delimiters=["="])
    settings.read(REPOSITORY / "settings.ini", encoding="utf-8")
    broken = []
    external = set()
    for name, page in pages.items():
        for target in page.links | page.loaded:
            if is_external(target):
                external.add(target)
                if target.startswith(settings["DEFAULT"]["doc_host"]):
                    broken.append(f"{name}: {target}: link to the notebook instead")
                continue
            parts = urlsplit(target)
            path, anchor = unquote(parts.path), unquote(parts.fragment)
            other = normpath(join(dirname(name), path)) if path else name
            if parts.scheme == "data":
                continue
            if other not in files:  # a folder, whose page is index.html
                other = normpath(join(other, "index.html"))
            if other not in files:
                broken.append(f"{name}: {target}")
            elif anchor and other in pages and anchor not in pages[other].anchors:
                broken.append(f"{name}: {target}: there is no such anchor")
    print(*sorted(external), sep="\n")
    assert not broken, "\n".join(broken)


def test_nothing_is_named_that_another_host_has(site, pages):
    for name, page in pages.items():
        assert not [target for target in page.loaded if is_external(target)], name
    for f in site.rglob("*.css"):
        text = f.read_text(encoding="utf-8")
        assert not re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//[^)]*", text), f


@pytest.fixture(scope="module")
def browser_page(site):
    """Return a page of Chromium, the URL of the site, and the list of requests to other hosts, which are refused."""
    from playwright.sync_api import sync_playwright

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    refused = []

    def answer(route):
        if route.request.url.startswith(url):
            return route.continue_()
        refused.append(route.request.url)
        return route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.route("**/*", answer)
        yield page, url, refused
        browser.close()
    server.shutdown()
    server.server_close()


@needs_chromium
@pytest.mark.long
def test_pages_fit_and_load_nothing_from_outside(browser_page):
    page, url, refused = browser_page
    for width, height in ((390, 844), (1280, 900)):
        page.set_viewport_size({"width": width, "height": height})
        for name in LOOKED_AT:
            page.goto(url + name)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
    assert not refused


@needs_chromium
@pytest.mark.long
def test_search_finds_the_words_of_the_field(browser_page):
    page, url, refused = browser_page
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(url + "index.html")
    page.locator(".md-search__button").click()
    page.wait_for_function("() => document.activeElement.shadowRoot?.activeElement")
    missed = {}
    for term, expected in TERMS.items():
        page.keyboard.press("Control+A")
        page.keyboard.press("Delete")
        page.wait_for_function(f"() => !({RESULTS})().length")
        page.keyboard.insert_text(term)
        page.wait_for_function(f"() => ({RESULTS})().length")
        results = [path.removeprefix("/").removesuffix(".html") for path in page.evaluate(RESULTS)]
        if expected not in results:
            missed[term] = results
    assert not missed, "\n".join(f"{term}: {results}" for term, results in missed.items())
    assert not refused
