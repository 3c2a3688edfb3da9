"""Logical replicas on a CPU, and what each of them holds."""

import functools

import numpy as np

from zoo.training import distribution
from zoo.training.distribution import copies

MOST = 8  # TensorFlow sets up its devices once in a process


@functools.cache
def mirrored(replicas):
    """A strategy over the first so many of eight logical devices."""
    distribution.strategy(MOST)
    return distribution.strategy(replicas)


def assert_copies_agree(weights):
    for weight in weights:
        first, *others = copies(weight)
        for other in others:
            np.testing.assert_array_equal(first, other, err_msg=weight.path)
