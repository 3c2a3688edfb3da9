"""Initializes the weight normalization of a whole model from data."""

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_norms import patching
from keras_norms.model_layers import named_layers
from keras_norms.moments import Tensor
from keras_norms.weight import WeightNormalization


def data_dependent_init(model: keras.Model, batch: Any) -> list[str]:
    """Initializes every `WeightNormalization` of a model, in the order of the data.

    Makes one forward pass in inference mode. Each layer gets its input from layers that are
    initialized already, and calls `WeightNormalization.initialize` with it. A layer that is used
    twice is initialized at its first use. No other variable changes.

    Args:
        model: a model, which may nest others.
        batch: a batch as `fit` takes it: `x`, `(x, y)` or `(x, y, weights)`.

    Returns:
        The paths of the layers that were initialized, in that order. A path joins the layer
        names from the model down. A warning names the layers that were left out, and says why.

    Raises:
        ValueError: if the model has no `WeightNormalization`, or called none that can be
            initialized.

    Reference:
        [Weight Normalization](https://arxiv.org/abs/1602.07868), section 3.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras_norms.WeightNormalization(keras.layers.Dense(2), name="hidden")
        >>> model = keras.Sequential([keras.Input((3,)), layer])
        >>> x = keras.random.normal((64, 3), mean=5.0, seed=0)
        >>> keras_norms.data_dependent_init(model, x)
        ['hidden']
        >>> y = keras.ops.convert_to_numpy(model(x))
        >>> bool(abs(y.mean()) < 1e-5), bool(abs(y.std() - 1) < 1e-5)
        (True, True)
    """
    x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
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
    initialized: list[str] = []

    def initialize_once(path: str, layer: WeightNormalization) -> Callable:
        def call(
            inputs: Tensor,
            initial_state: Any = None,
            mask: Tensor | None = None,
            training: bool | None = None,
        ) -> Tensor:
            if path in initialized:
                return type(layer).call(layer, inputs, mask=mask, training=False)
            initialized.append(path)
            counted = layer.mean_only_batch_norm is not None or layer.layer.supports_masking
            return layer.initialize(inputs, mask if counted else None)

        return call

    by_step = {
        id(layer)
        for around in named_layers(model).values()
        if isinstance(around, keras.layers.TimeDistributed)
        for layer in around._flatten_layers()
    }
    left_out = {
        path: "TimeDistributed calls it for each step"
        if id(layer) in by_step
        else layer.why_not_initialize()
        for path, layer in wrappers.items()
    }
    able = {path: layer for path, layer in wrappers.items() if not left_out[path]}
    with keras.StatelessScope() as scope, contextlib.ExitStack() as stack:
        for path, layer in able.items():
            stack.enter_context(patching.replaced(layer, call=initialize_once(path, layer)))
        patching.run(model, batch)
    if able and not initialized:
        raise ValueError(
            f"The model {model.name!r} ran, but called none of its WeightNormalization layers "
            f"({', '.join(able)}), so nothing was initialized. Use the model whose layers these "
            "are, not an exported copy of it inside of another one."
        )
    # The scope holds all updates back, those of seeds and states too. Only these take effect.
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
