"""Every test there is: the notebooks' through nbdev_test, then those of this folder through pytest. Closes with `N
passed, N failed`
"""

import io
import os
import signal
import sys
import tempfile
from contextlib import redirect_stderr
from pathlib import Path

import nbdev.test
import pytest

here = Path(__file__).parent


def keep_errors(folder):
    """What a notebook's test prints when it fails goes into a file: it is to be read at the end, not among all that
    others print
    """
    test = nbdev.test.test_nb

    def kept(notebook, **kwargs):
        err = io.StringIO()
        with redirect_stderr(err):
            found = test(notebook, **kwargs)
        if not found[0]:
            (folder / f"{notebook.parent.name}-{notebook.name}").write_text(err.getvalue())
        return found

    # worker processes look it up by its name
    kept.__module__ = test.__module__
    kept.__qualname__ = test.__qualname__
    nbdev.test.test_nb = kept


def run_notebooks():
    """How many notebooks passed and failed; nbdev_test itself prints no count, so its parallel runner is overheard"""
    seen = []
    parallel = nbdev.test.parallel

    def overheard(*args, **kwargs):
        seen.extend(parallel(*args, **kwargs))
        return seen

    nbdev.test.parallel = overheard
    try:
        nbdev.test.nbdev_test(do_print=True)
    except SystemExit:
        pass
    passed = sum(bool(ok) for ok, _ in seen)
    return passed, len(seen) - passed


class Counter:
    """A pytest plugin that counts outcomes; a test that errs in its set-up has failed"""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def pytest_runtest_logreport(self, report):
        if report.passed:
            self.passed += report.when == "call"
        elif report.failed:
            self.failed += 1
        else:
            self.skipped += 1


def main():
    os.chdir(here.parent)
    # a shell starts what is in the background with Ctrl-C ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp())
    keep_errors(folder)
    passed, failed = run_notebooks()
    if not passed + failed:
        sys.exit("no notebook was tested")
    counter = Counter()
    code = pytest.main(
        [str(here), "-q", "-rs", "--no-header", "--tb=short", "-p", "no:cacheprovider", *sys.argv[1:]],
        plugins=[counter],
    )
    failed += counter.failed or int(code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED))
    if counter.skipped and os.environ.get("CI"):
        print(f"{counter.skipped} skipped: in CI a skip is a failure")
        failed += counter.skipped
    for report in sorted(folder.iterdir()):
        print(f"\n{report.name} failed:\n{report.read_text()[-4000:]}")
    print(f"{passed + counter.passed} passed, {failed} failed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
