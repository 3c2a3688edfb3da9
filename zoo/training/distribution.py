"""The devices to train on, and what each of them holds."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_norms.replicas import mirrored
from zoo.training import workers


def split(strategy: tf.distribute.Strategy, arrays: Sequence[np.ndarray]) -> Any:
    """Gives each replica one of several arrays, as a value that `strategy.run` takes."""
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(arrays[context.replica_id_in_sync_group])
    )


def copies(variable: keras.Variable) -> list[np.ndarray]:
    """The value of a variable on each replica of this process."""
    return [part.numpy() for part in _parts(variable)]


def sums(variable: keras.Variable, replicas: int) -> np.ndarray:
    """What each replica has summed up, `(replicas, ...)`; on several hosts all of it, `(1, ...)`.

    Sums that go on from these are equal in every bit to sums without an interruption. From the
    sum of all replicas they would be rounded otherwise.
    """
    own = copies(variable)
    return np.stack(own if len(own) == replicas else [variable.numpy()])


def assign_sums(variable: keras.Variable, values: np.ndarray) -> None:
    """Assigns what `sums` returned."""
    parts, values = _parts(variable), np.atleast_1d(values)
    if len(parts) == len(values):
        for part, value in zip(parts, values, strict=True):
            part.assign(value)
    else:
        variable.assign(values.sum(0))


def _parts(variable: keras.Variable) -> Sequence[tf.Variable]:
    return getattr(variable.value, "values", (variable.value,))


def strategy(replicas: int | None) -> tf.distribute.Strategy:
    """A MirroredStrategy over GPUs, or over logical CPU devices where there are none.

    If TF_CONFIG names several workers, it is a MultiWorkerMirroredStrategy over all of them.

    Args:
        replicas: the number of devices. None for all GPUs, or one CPU.

    Raises:
        ValueError: if there are not enough devices, or TF_CONFIG decides their number.
    """
    if workers.configured():
        if replicas:
            raise ValueError(
                "On several hosts the replicas are all devices of all workers in TF_CONFIG. "
                f"Leave --replicas out. Received: replicas={replicas}"
            )
        return workers.strategy()
    return mirrored(replicas)
