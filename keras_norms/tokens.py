"""A training step of group normalization of single tokens, under TensorFlow.

    forward:   y = (x - mean) * inverse_std,  over the channels of each group
    backward:  dx = inverse_std * (dy - E[dy] - y * E[dy * y])

A token is a sample without positions. A scale and a shift for each of its channels, as `affine`
makes them, would be as large as the token itself. The gradient is written by hand: that of
TensorFlow has twice as many operations, and in a loop over time keeps more of each step.
"""

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from keras import ops

from keras_norms import programs
from keras_norms.moments import Tensor, shape_to_keep

if TYPE_CHECKING:
    from keras_norms.base import Normalization


def can_normalize(
    layer: "Normalization", inputs: Tensor, training: bool | None, mask: Tensor | None
) -> bool:
    """Whether `normalize` can take the place of `Normalization.normalize`.

    It can where the layer has `token_groups`, and all axes but the last are those of samples.
    """
    if layer.token_groups is None or not programs.can_serve(layer, inputs, training, mask):
        return False
    return not layer.axes.spatial and layer.axes.channel == len(inputs.shape) - 1


def normalize(layer: "Normalization", inputs: Tensor, weights: Mapping[str, Any]) -> Tensor:
    """The outputs that `Normalization.normalize` returns."""
    x = ops.cast(inputs, layer.statistics_dtype(inputs.dtype))
    properties = layer.token_groups, layer.epsilon, tuple(x.shape), x.dtype
    y = programs.shared(_make_program, *properties)(x)
    if "gamma" in weights:
        y = y * ops.cast(weights["gamma"], x.dtype)
    if "beta" in weights:
        y = y + ops.cast(weights["beta"], x.dtype)
    return ops.cast(y, layer.compute_dtype)


def _make_program(
    groups: int, epsilon: float, shape: tuple[int | None, ...], dtype: Any
) -> Callable[[Tensor], Tensor]:
    import tensorflow as tf

    mean = functools.partial(ops.mean, axis=-1, keepdims=True)

    @tf.custom_gradient
    def standardize(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        centred = x - mean(x)
        inverse_std = ops.rsqrt(mean(ops.square(centred)) + epsilon)
        y = centred * inverse_std

        def gradient(dy: Tensor) -> Tensor:
            return inverse_std * (dy - mean(dy) - y * mean(dy * y))

        return y, gradient

    def run(x: Tensor) -> Tensor:
        if groups == 1:
            return standardize(x)
        *tokens, channels = shape = shape_to_keep(x)
        parts = ops.reshape(x, (*tokens, groups, channels // groups))
        return ops.reshape(standardize(parts), shape)

    # TensorFlow registers a custom gradient for good: here once, not in every graph.
    return tf.function(run, input_signature=[tf.TensorSpec(shape, dtype)], autograph=False)
