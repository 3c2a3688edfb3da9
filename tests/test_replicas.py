"""The norms under `tf.distribute`: runs `replicas*.py`, each group in a process of its own."""

import pytest
from norms import needs_tensorflow

pytestmark = needs_tensorflow
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
