"""The laws on JAX, in a process of their own.

Torch is a documented command: `KERAS_BACKEND=torch pytest -m "not slow" tests`, which leaves out
what needs TensorFlow; the same with `jax` runs all that the default run leaves out here.
"""

import pytest
from norms import needs_tensorflow

pytestmark = needs_tensorflow  # the other backends are started from here
NEUTRAL = [f"tests/test_{name}.py" for name in ("laws", "masks", "precision", "errors", "oracles")]
NEUTRAL += [f"tests/test_{name}.py" for name in ("serialization", "properties", "keras_suites")]
NEUTRAL += ["tests/test_lstm.py", "tests/test_steps.py"]
FAST = {  # the tests are small; compiling them is what takes time
    "KERAS_BACKEND": "jax",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}


def test_the_laws_on_jax(run_tests):
    files = "tests/test_laws.py", "tests/test_masks.py", "tests/test_lstm.py"
    chosen = "test_laws or (test_masks and truncated) or (test_lstm and formulas and zeros)"
    run_tests(*files, "-k", chosen, "-m", "not slow", **FAST)


@pytest.mark.slow
def test_all_neutral_tests_on_jax(run_tests):
    run_tests(*NEUTRAL, "-m", "not slow", **FAST)
