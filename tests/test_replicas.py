"""The norms on replicas: runs `replicas*.py` and `data_parallel.py` in processes of their own."""

import pytest
from norms import needs_tensorflow

pytestmark = needs_tensorflow
JAX = {
    "KERAS_BACKEND": "jax",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0",
}
GROUPS = {
    "TestStatistics": "tests/replicas.py",
    "TestCounts": "tests/replicas.py",
    "TestTraining": "tests/replicas.py",
    "TestRecurrent": "tests/replicas.py",
    "TestFit or TestOptimizers": "tests/replicas_fit.py",
}


@pytest.mark.parametrize("group", GROUPS)
def test_replicas(group, run_tests):
    run_tests(GROUPS[group], "-m", "not slow", "-k", group)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_replicas_all_cases(group, run_tests):
    run_tests(GROUPS[group], "-m", "slow", "-k", group)


def test_two_devices_of_jax(run_tests):
    run_tests("tests/data_parallel.py", "-m", "not slow", **JAX)


@pytest.mark.slow
def test_two_devices_of_jax_all_cases(run_tests):
    run_tests("tests/data_parallel.py", "-m", "slow", **JAX)
