"""Initialization of weight normalization from data, for a whole model."""

import warnings
from typing import Any

import keras

from keras_norms.tree import named_layers
from keras_norms.weight import WeightNormalization


def data_dependent_init(model: keras.Model, batch: Any) -> list[str]:
    """Initializes every `WeightNormalization` of a model, in the order of the data.

    One forward pass in inference mode, in which each layer gets what the layers before it
    compute once initialized; see `WeightNormalization.initialize`. A layer that is used twice is
    initialized at its first use. No other variable changes.

    Args:
        model: a model, which may nest others.
        batch: `x`, or a tuple `(x, ...)` as in `fit`, where `x` is `(batch, ...)`.

    Returns:
        The paths, as in `keras_norms.tree.named_layers`, of the layers initialized, in that
        order. A warning names those that were left out, and why.

    Raises:
        ValueError: if the model has no `WeightNormalization`.

    Reference:
        [Weight Normalization](https://arxiv.org/abs/1602.07868), section 3.
    """
    x = batch[0] if isinstance(batch, tuple) else batch
    if not model.built:
        with keras.StatelessScope():  # creates the weights, changes none
            model(x, training=False)
    wrappers = {
        path: layer
        for path, layer in named_layers(model).items()
        if isinstance(layer, WeightNormalization)
    }
    if not wrappers:
        raise ValueError(
            "data_dependent_init needs a model with WeightNormalization layers. Received: "
            f"model={model}. Wrap its layers, as in WeightNormalization(Dense(10))."
        )
    initialized = []

    def initialize_once(path, layer):
        def call(inputs, initial_state=None, mask=None, training=None):
            if path in initialized:
                return type(layer).call(layer, inputs, mask=mask, training=False)
            initialized.append(path)
            return layer.initialize(inputs, mask)

        return call

    left_out = {path: layer.why_not_initialize() for path, layer in wrappers.items()}
    able = {path: layer for path, layer in wrappers.items() if not left_out[path]}
    with keras.StatelessScope() as scope:
        try:
            for path, layer in able.items():
                layer.call = initialize_once(path, layer)
            model(x, training=False)
        finally:
            for layer in able.values():
                del layer.call
    # The scope has kept all updates back, of seeds and states too. Only these take effect.
    for path in initialized:
        del left_out[path]
        for variable in wrappers[path].variables:
            value = scope.get_current_value(variable)
            if value is not None:
                variable.assign(value)
    if left_out:
        reasons = [f"{path} ({why or 'not called'})" for path, why in left_out.items()]
        warnings.warn(f"data_dependent_init left out {', '.join(reasons)}.", stacklevel=2)
    return initialized
