"""Weight standardization: a wrapper that standardizes the kernels of a layer."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_norms.arguments import number
from keras_norms.base import register
from keras_norms.moments import Shape, Tensor
from keras_norms.wrapper import KernelNormalization, precise, summed_axes, value_of


@register
class WeightStandardization(KernelNormalization):
    """Gives the weights of each output unit mean 0 and variance 1 (Qiao et al., 2019).

        w = (v - mean) / sqrt(variance + epsilon)         both over all weights of a unit
        y = activation(w.x + bias)

    The kernel of the wrapped layer is `v`; nothing is added to it. The layer's initializer,
    regularizer and constraint of its kernel apply to `v`.

    The outputs of a standardized layer grow with the number of its inputs. So it belongs before
    a norm of activations: with `GroupNormalization` it trains at any batch size, also at 1.

    Args:
        layer: any layer that `WeightNormalization` takes.
        epsilon: float, added to the variance.
        kernels: names of the kernels to standardize, as in `WeightNormalization`; by default all.
        **kwargs: arguments of `keras.layers.Layer`. By default `dtype` is that of `layer`.

    Raises:
        ValueError: if `epsilon` is not a positive number, if the layer has no floating-point
            kernel to standardize or not the `kernels` named, or if its units have one weight
            each (all would be zero).

    Reference:
        [Weight Standardization](https://arxiv.org/abs/1903.10520), section 2.

    Example:
        >>> import keras, keras_norms
        >>> conv = keras.layers.Conv2D(64, 3, use_bias=False)
        >>> layer = keras_norms.WeightStandardization(conv)
        >>> y = keras_norms.GroupNormalization(32)(layer(keras.random.normal((1, 8, 8, 16))))
        >>> bool(keras.ops.std(layer.remove().kernel[..., 0]) > 0.99)
        True
    """

    def __init__(
        self,
        layer: keras.Layer,
        epsilon: float = 1e-5,
        kernels: Sequence[str] | set[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, kernels, **kwargs)
        self.epsilon = number("epsilon", epsilon)
        # With 0, a unit of equal weights would be NaN.
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"`epsilon` must be finite and positive. Received: epsilon={epsilon}")

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        for _, kernel, axes in self._kernels():
            if math.prod(kernel.shape[axis] for axis in summed_axes(kernel, axes)) == 1:
                raise ValueError(
                    "WeightStandardization would make every weight zero, since a unit has a "
                    f"single one. Leave this layer as it is. Received: layer={self.layer} with "
                    f"a kernel of shape {tuple(kernel.shape)}"
                )

    def normalized(self, name: str, kernel: keras.Variable, axes: Sequence[int]) -> Tensor:
        v, others = precise(kernel), summed_axes(kernel, axes)
        v = v - ops.mean(v, others, keepdims=True)
        variance = ops.mean(ops.square(v), others, keepdims=True)
        return ops.cast(v * ops.rsqrt(variance + self.epsilon), value_of(kernel).dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}
