"""Run the checks of tests/gpu.py on the CPU in their short form, and checks that fail."""

import re
import subprocess
import sys

import pytest
from helpers import TESTS

LINE = r"(\w+) +(ok|FAILED|skipped) +[\d.]+ s  (.+)"
NEEDS_GPU = "pinned_memory", "syncs"
COMPILES = "compile_model", "compile_step"


def run(*command):
    """Run a program and return its exit status, its first line, `{name: (status, detail)}`, and its last line."""
    process = subprocess.run([sys.executable, *command], text=True, capture_output=True)
    first, *lines, last = process.stdout.splitlines()
    results = {}
    for line in lines:
        name, status, detail = re.fullmatch(LINE, line).groups()
        results[name] = status, detail
    return process.returncode, first, results, last, process.stderr


def test_every_check_works_on_the_cpu_or_is_skipped_in_words():
    status, first, results, last, errors = run(TESTS / "gpu.py", "--quick", "--device", "cpu")
    assert status == 0, (results, errors)
    assert first.startswith("torch ") and "the CPU" in first
    skipped = {name: detail for name, (outcome, detail) in results.items() if outcome == "skipped"}
    assert skipped.keys() == {*NEEDS_GPU, *COMPILES}
    assert all("needs a GPU" in skipped[name] for name in NEEDS_GPU)
    assert len(results) == 18 and last == "14 ok, 0 failed, 4 skipped"
    for name in ("speed_mlp", "speed_resnet", "speed_gpt"):
        assert re.search(r"plain [\d,]+ us a step, careful [\d.]+ x .*, mlkit [\d.]+ x ", results[name][1])
        assert "lightning" in results[name][1] and "accelerate" in results[name][1]
    assert "fp32 and 2 workers" in results["resume"][1]
    assert "IndexError" in results["kernel_fault"][1] and "(in epoch 1, batch 5)" in results["kernel_fault"][1]


FAILING = f"""
import os, sys, time
sys.path.insert(0, {str(TESTS)!r})
import gpu
gpu.CHECKS.clear()
gpu.CHECK_SECONDS = 4

@gpu.check
def fails(machine):
    raise ValueError("a reason")

@gpu.check
def dies(machine):
    os._exit(7)

@gpu.check
def hangs(machine):
    time.sleep(1000)

@gpu.check
def works(machine):
    print("something")
    return "1 + 1 = 2"

sys.exit(gpu.main())
"""


@pytest.mark.long
def test_the_other_checks_are_made_after_one_that_fails_or_dies_or_hangs(tmp_path):
    program = tmp_path / "failing.py"
    program.write_text(FAILING)
    status, _, results, last, errors = run(program, "--device", "cpu")
    assert results == {
        "fails": ("FAILED", "ValueError: a reason"),
        "dies": ("FAILED", "the process ended with status 7"),
        "hangs": ("FAILED", "took over 20 seconds"),
        "works": ("ok", "1 + 1 = 2"),
    }
    assert (status, last) == (1, "1 ok, 3 failed, 0 skipped")
    assert 'raise ValueError("a reason")' in errors
