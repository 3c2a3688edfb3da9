"""Set-up that has to come before Keras is imported, and what every test starts from."""

import os

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
