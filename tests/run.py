"""Run every test: the notebooks with nbdev_test, then the tests of this folder with pytest.

README and the tutorials ask nbdev_test to skip them (`skip_exec`): tests/pages runs them as their readers do.

The last line is `N passed, N failed`. Arguments are passed to pytest: --long runs all variants of the long tests.
"""

import io
import os
import signal
import sys
import tempfile
from contextlib import redirect_stderr
from functools import wraps
from pathlib import Path

import nbdev.test
import pytest

HERE = Path(__file__).parent


def keep_error_output(folder: Path) -> None:
    """Write what a failing notebook prints to a file in `folder`, so that it can be shown at the end of the run."""
    test_nb = nbdev.test.test_nb

    @wraps(test_nb)  # worker processes look the function up by its name
    def test_and_keep(notebook, **kwargs):
        output = io.StringIO()
        with redirect_stderr(output):
            result = test_nb(notebook, **kwargs)
        passed = result[0]
        if not passed:
            (folder / f"{notebook.parent.name}-{notebook.name}").write_text(output.getvalue())
        return result

    nbdev.test.test_nb = test_and_keep


def run_notebooks(workers: int | None = None) -> tuple[int, int]:
    """Return how many notebooks passed and failed; nbdev_test itself returns no count.

    workers: processes; default: one for each core.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores Ctrl-C for its background processes
    results = []
    parallel = nbdev.test.parallel

    def parallel_and_keep(*args, **kwargs):
        results.extend(parallel(*args, **kwargs))
        return results

    nbdev.test.parallel = parallel_and_keep
    try:
        nbdev.test.nbdev_test(n_workers=workers, do_print=True)
    except SystemExit:  # it exits with 1 if a notebook failed
        pass
    passed = sum(bool(ok) for ok, _ in results)
    return passed, len(results) - passed


class OutcomeCounter:
    """A pytest plugin that counts outcomes; an error in the set-up of a test counts as failed."""

    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.skipped = 0

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed += 1
        elif report.skipped:
            self.skipped += 1
        elif report.when == "call":
            self.passed += 1


def run_pytest(arguments: list[str]) -> OutcomeCounter:
    """Run the tests of this folder on all cores. A run that pytest could not finish counts as one failure.

    The tests of training and of pages are spread one by one; of the others, which share servers and environments, a
    file at a time.
    """
    independent = [str(HERE / "training"), str(HERE / "pages")]
    # the long files first: one that is begun last keeps the others waiting
    folders = ("sagemaker/job", "command", "notebook", "sagemaker/client", ".")
    others = [str(HERE / folder) for folder in folders] + [f"--ignore={folder}" for folder in independent]
    counter = OutcomeCounter()
    cores = os.cpu_count() or 1
    for options in (
        [*independent, "-n", str(cores), "--dist", "worksteal"],
        # they wait for other processes more than they compute
        [*others, "-n", str(cores + 1), "--dist", "loadfile", "--no-loadscope-reorder"],
    ):
        failed_before = counter.failed
        options += ["-q", "-rs", "--no-header", "--tb=short", "-p", "no:cacheprovider", *arguments]
        code = pytest.main(options, plugins=[counter])
        is_known = code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
        if counter.failed == failed_before and not is_known:
            counter.failed += 1
    return counter


def main() -> int:
    os.chdir(HERE.parent)
    folder = Path(tempfile.mkdtemp())
    keep_error_output(folder)
    passed, failed = run_notebooks()
    if not passed + failed:
        sys.exit("no notebook was tested")
    counter = run_pytest(sys.argv[1:])
    passed += counter.passed
    failed += counter.failed
    if counter.skipped and os.environ.get("CI"):
        print(f"{counter.skipped} skipped: in CI a skip is a failure")
        failed += counter.skipped
    for report in sorted(folder.iterdir()):
        print(f"\n{report.name} failed:\n{report.read_text()[-4000:]}")
    print(f"{passed} passed, {failed} failed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
