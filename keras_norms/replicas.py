"""Replicas of `tf.distribute` on the devices of one machine."""

import contextlib
from typing import Any

from keras_norms.optional import require


def mirrored(replicas: int | None) -> Any:
    """A MirroredStrategy over GPUs, or over logical CPU devices where there are none.

    Args:
        replicas: the number of devices. None for all GPUs, or one CPU.

    Raises:
        ValueError: if there are not enough devices.
    """
    (tf,) = require("tensorflow", purpose="A replica", extra="tensorflow")
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if replicas and replicas > len(gpus):
            raise ValueError(f"There are {len(gpus)} GPUs. Received: replicas={replicas}")
        return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(replicas or len(gpus))])
    replicas = replicas or 1
    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * replicas
    with contextlib.suppress(RuntimeError):  # the devices are set up already
        tf.config.set_logical_device_configuration(cpu, logical)
    found = len(tf.config.list_logical_devices("CPU"))
    if found < replicas:
        raise ValueError(
            f"TensorFlow has already set up {found} logical CPU device(s) in this process, too few "
            f"for {replicas} replicas. Ask for them before anything else of TensorFlow runs: "
            f"keras_norms.replicas.mirrored({replicas})"
        )
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)],
        # The default collectives fail for the second strategy in a process.
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
