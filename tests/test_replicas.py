"""The norms under `tf.distribute`: runs `replicas.py`, each group in a process of its own."""

import pytest
from norms import needs_tensorflow

pytestmark = needs_tensorflow
GROUPS = "TestStatistics", "TestTraining", "TestRecurrent"


@pytest.mark.parametrize("group", GROUPS)
def test_two_replicas(group, run_tests):
    run_tests("tests/replicas.py", "-m", "not slow", "-k", group)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_two_replicas_all_cases(group, run_tests):
    run_tests("tests/replicas.py", "-m", "slow", "-k", group)
