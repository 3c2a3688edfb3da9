"""Set-up that has to come before Keras is imported, and what every test starts from."""

import os
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # the tolerances are those of a CPU

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def fresh_keras():
    """No test sees the seeds, names or dtype policy that another one left behind."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def browser():
    """Chromium, or a skip that says what to install."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason='no playwright: pip install "keras-norms[browser]"'
    )
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page on which no error may happen."""
    page, errors = browser.new_page(viewport={"width": 1280, "height": 800}), []
    page.on("pageerror", lambda error: errors.append(error))
    page.set_default_timeout(30_000)
    yield page
    page.close()
    assert not errors


def pytest_configure(config):
    if os.environ.get("FUSE_EVERYTHING"):
        from keras_norms import fused

        fused.LEAST_ELEMENTS = 0
    config.addinivalue_line("markers", "requires_trainable_backend: a mark of Keras's own tests")


def pytest_terminal_summary(terminalreporter):
    """Tells how much the tests have tried that count what they try."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid}: {name}: {value}")
