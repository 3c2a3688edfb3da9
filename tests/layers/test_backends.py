"""The laws on JAX, in a process of their own.

Torch is a documented command: `KERAS_BACKEND=torch pytest -m "not slow" tests`, which leaves out
what needs TensorFlow; the same with `jax` runs all that the default run leaves out here.
"""

import pytest

from tests.support.child import JAX, run_tests
from tests.support.norms import needs_tensorflow

pytestmark = needs_tensorflow  # the other backends are started from here
NEUTRAL = [
    f"tests/layers/test_{name}.py"
    for name in (
        *("laws", "masks", "precision", "errors", "oracles", "serialization", "properties"),
        *("keras_suites", "lstm", "gru", "steps", "conditional", "weight_standardization"),
    )
]


@pytest.mark.process
def test_the_laws_on_jax():
    files = (f"tests/layers/test_{name}.py" for name in ("laws", "masks", "lstm", "gru"))
    chosen = "test_laws or (test_masks and truncated) or (formulas and zeros)"
    run_tests(*files, "-k", chosen, "-m", "not slow", **JAX)


@pytest.mark.process
@pytest.mark.slow
def test_all_neutral_tests_on_jax():
    run_tests(*NEUTRAL, "-m", "not slow", **JAX)
