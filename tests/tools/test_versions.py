"""The layers work with the lowest Keras that pyproject.toml allows, and with the newest one."""

import subprocess
import sys
import tomllib

import pytest

from tests.support.child import JAX, ROOT, run_tests
from tests.support.environments import call, make_environment

pytestmark = [pytest.mark.slow, pytest.mark.process]
(LOWEST,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
FILES = [f"tests/layers/test_{name}.py" for name in ("laws", "serialization", "statistics")]


@pytest.fixture(scope="module")
def index():
    """Skips the tests where pip finds no packages."""
    command = (sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps")
    found = subprocess.run([*command, "--ignore-installed", "keras"], capture_output=True)
    if found.returncode:
        pytest.skip("pip cannot reach a package index")


@pytest.mark.parametrize("keras", [LOWEST.replace(">=", "=="), "keras"], ids=["lowest", "newest"])
def test_the_core_works_with(keras, index, tmp_path):
    """On JAX, which is small to install."""
    python = make_environment(tmp_path / "environment", keras, "jax", "pytest")
    code = "from importlib.metadata import version; print(version('keras'))"
    version = call(python, "-c", code).strip()
    assert keras in ("keras", f"keras=={version}")
    # Other versions warn of other things.
    run_tests(*FILES, "-m", "not slow", "-W", "ignore", python=python, **JAX)
