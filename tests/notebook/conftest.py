import pytest
from browser import start_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory, request):
    """JupyterLab and Chromium; the tests of a file share them."""
    home = tmp_path_factory.mktemp("jupyter")
    folder = tmp_path_factory.mktemp("notebooks")
    with start_lab(home, folder, request.config.getoption("--screenshots")) as lab:
        yield lab
