"""What the faster ways through a training step share, `fused` and `tokens`."""

import functools
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

from keras_norms.moments import Tensor

if TYPE_CHECKING:
    from keras_norms.base import Normalization


def on_cpus() -> bool:
    """Whether the backend is TensorFlow without an accelerator."""
    if keras.config.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())


def can_serve(
    layer: "Normalization", inputs: Tensor, training: bool | None, mask: Tensor | None
) -> bool:
    """Whether a call of a layer is one that programs are made for, but for its axes.

    It is for layers of this package in training, in a TensorFlow graph, without a mask.
    """
    if keras.config.backend() != "tensorflow" or training is not True or mask is not None:
        return False
    import tensorflow as tf

    return (
        not tf.executing_eagerly()
        and layer.fusible
        and layer.trainable
        # A subclass from elsewhere may do more in its methods than compute.
        and type(layer).__module__.startswith("keras_norms.")
        and keras.backend.is_float_dtype(keras.backend.standardize_dtype(inputs.dtype))
    )


def shared(make: Callable[..., Callable], *properties: Any) -> Callable:
    """A function that all layers with these properties share, made by `make(*properties)`."""
    return here()(make, *properties)


def here() -> Any:
    """The cache of `shared`, of this thread or of the strategy that it serves.

    TensorFlow traces the gradient of a function when it is first needed. Two threads that share
    a function would do that at the same time, which TensorFlow does not support. The replicas of
    a strategy have new threads for every trace, but these run in turn, so they do share.
    """
    import tensorflow as tf

    if not tf.distribute.has_strategy():
        return _of_thread.made
    return _of_strategy.setdefault(tf.distribute.get_strategy(), _cache())


def _cache() -> Any:
    return functools.lru_cache(256)(lambda make, *properties: make(*properties))


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.made = _cache()


_of_thread = _OfThread()
_of_strategy: Any = weakref.WeakKeyDictionary()
