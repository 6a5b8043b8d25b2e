"""A report of the faults that tests inject: how often, what survived, what was lost, and what the user was told.

A test records a row with the fixture `fault`, which also gives it the marker of that name: `pytest -m fault --long`
runs them. The table is printed at the end of any run with such a test; `--fault-report FILE` writes it as Markdown.
"""

import json
import textwrap
from collections import defaultdict

import pytest
from helpers import REPOSITORY

ROWS = []  # of all runs of pytest in this process: tests/run.py makes two
FAILED = []  # tests that failed, whose rows may be missing


def pytest_addoption(parser):
    parser.addoption("--fault-report", metavar="FILE", help="write the table of injected faults to a Markdown file")


def pytest_configure(config):
    config.addinivalue_line("markers", "fault: injects faults and records them; added to each test that uses `fault`")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    for item in items:
        if "fault" in getattr(item, "fixturenames", ()):
            item.add_marker("fault")


@pytest.fixture
def fault(record_property, tmp_path):
    """Return a function that records a row of the report. Rows of the same name are added up."""

    def record(
        row: str,
        tries: int,  # faults that were injected
        survived: int | None = None,  # after which the work ended as it should, or was refused; default: all
        lost: int = 0,  # results that are missing, wrong or there twice
        said: str = "",  # the sentence that the user read, word for word; empty if there was nothing to tell
    ) -> None:
        survived = tries if survived is None else survived
        for path, short in ((tmp_path, "..."), (REPOSITORY, ".")):
            said = said.replace(str(path), short)
        row_values = dict(row=row, tries=tries, survived=survived, lost=lost, said=" ".join(said.split()))
        record_property("fault", json.dumps(row_values))
        assert tries > 0, f"{row}: no fault was injected"
        assert (survived, lost) == (tries, 0), f"{row}: {survived} of {tries} survived, {lost} lost"

    return record


def pytest_runtest_logreport(report):
    """Collect the rows; with several workers, pytest-xdist calls this in the main process."""
    if report.failed and "fault" in report.keywords:
        FAILED.append(report.nodeid)
    if report.when == "call":
        ROWS.extend(json.loads(value) for name, value in report.user_properties if name == "fault")


def pytest_terminal_summary(terminalreporter, config):
    if not ROWS and not FAILED:
        return
    table = merge(ROWS)
    terminalreporter.section("faults")
    for line in text_table(table, FAILED):
        terminalreporter.write_line(line)
    path = config.getoption("--fault-report")
    if path:
        with open(path, "w") as f:
            f.write(markdown_table(table, FAILED))


def merge(rows):
    """Add up the rows of the same name: [(name, tries, survived, lost, [sentence])], by name."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["row"]].append(row)
    return [
        (
            name,
            *(sum(row[key] for row in group) for key in ("tries", "survived", "lost")),
            sorted({row["said"] for row in group} - {""}),
        )
        for name, group in sorted(groups.items())
    ]


def text_table(table, failed):
    width = max([len(name) for name, *_ in table], default=5)
    yield f"{'fault':{width}}  {'tries':>7} {'survived':>9} {'lost':>5}"
    for name, tries, survived, lost, sentences in table:
        yield f"{name:{width}}  {tries:7,} {survived:9,} {lost:5,}"
        for sentence in sentences:
            yield "    " + textwrap.shorten(sentence, 160, placeholder=" ...")
    for test in failed:
        yield f"FAILED, its row may be missing: {test}"


def markdown_table(table, failed):
    lines = ["| fault | tries | survived | lost | how it was said |", "|---|--:|--:|--:|---|"]
    for name, tries, survived, lost, sentences in table:
        said = "<br>".join(sentence.replace("|", "\\|") for sentence in sentences)
        lines.append(f"| {name} | {tries:,} | {survived:,} | {lost:,} | {said} |")
    lines += [f"\nFAILED, its row may be missing: `{test}`" for test in failed]
    return "\n".join(lines) + "\n"
