"""What the tests have on JAX, in a process of its own.

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
] + [
    f"tests/surgery/test_{name}.py"
    for name in ("convert", "copies", "strip", "fold", "foreign_configs")
]
# What the default run has on JAX, in one process.
CHOSEN = {
    # Derivatives, states and unknown sizes: where backends differ most.
    "tests/layers/test_laws.py": (
        "test_laws and (of_the_reference or derivatives or unknown_sizes or see_each_other)"
    ),
    "tests/layers/test_masks.py": "test_masks and truncated",
    "tests/layers/test_lstm.py": "test_lstm and formulas and zeros",
    "tests/layers/test_gru.py": "test_gru and formulas and zeros",
    "tests/layers/data_parallel.py": "data_parallel",
    "tests/tools/test_callbacks.py": "on_every_backend",
    "tests/tools/test_docs.py": "test_python_blocks",
}


@pytest.mark.process
def test_on_jax():
    """Laws, models on two devices, a callback and what the docs show."""
    chosen = " or ".join(f"({tests})" for tests in CHOSEN.values())
    run_tests(*CHOSEN, "-k", chosen, "-m", "not slow", **JAX)


@pytest.mark.process
@pytest.mark.slow
def test_all_neutral_tests_on_jax():
    run_tests(*NEUTRAL, "-m", "not slow", **JAX)
