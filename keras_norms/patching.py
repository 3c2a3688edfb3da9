"""Watches the layers of a model while it runs: their methods are replaced for a while."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras


@contextlib.contextmanager
def replaced(layer: keras.Layer, **methods: Callable) -> Iterator[None]:
    """Gives one layer other methods for a while."""
    for name, method in methods.items():
        setattr(layer, name, method)
    try:
        yield
    finally:
        for name in methods:
            delattr(layer, name)


def run(model: keras.Model, batch: Any) -> None:
    """Runs a model in inference mode on one batch of `fit`, so that replaced methods are called.

    A `tf.function` inside of the model runs as Python. Once traced, it would not call them.
    """
    x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    with _without_functions():
        model(x, training=False)


@contextlib.contextmanager
def _without_functions() -> Iterator[None]:
    if keras.config.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
