"""Set-up that has to come before Keras is imported, and what every test starts from."""

import os
import pathlib
import subprocess
import sys

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


@pytest.fixture
def run_tests():
    """Runs tests in a process of its own, where TensorFlow or another backend starts afresh."""

    def run(*arguments, **environment):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        result = subprocess.run(
            [*command, *arguments],
            env=clean | environment,
            cwd=pathlib.Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == 0, result.stdout[-20000:]  # 5 where nothing ran

    return run
