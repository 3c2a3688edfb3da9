"""Batch normalization."""

from collections.abc import Mapping
from typing import Any

from keras_norms.base import register
from keras_norms.moments import Moments, Tensor
from keras_norms.moving import MovingNormalization


@register
class BatchNormalization(MovingNormalization):
    """Normalizes each channel over the batch and all positions (Ioffe and Szegedy, 2015).

        mean = E_{n,s}[x],  variance = E_{n,s}[(x - mean)^2]
        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    Inference uses `moving_mean` and `moving_variance`. A drop-in for
    `keras.layers.BatchNormalization` (without its renorm) whose statistics keep their precision
    at any mean, whose moving statistics never differ between replicas, and whose synchronized
    statistics are those of the global batch.

    Args:
        axis: int, the channel axis.
        momentum: float in [0, 1], what one training step keeps of the moving statistics.
        epsilon: float, added to the variance.
        center: whether to add `beta`, of shape `(channels,)`.
        scale: whether to multiply by `gamma`, of shape `(channels,)`.
        **kwargs: arguments of `MovingNormalization` and `Normalization`.

    Raises:
        ValueError: if an axis is out of bounds or the number of channels unknown.

    Reference:
        [Batch Normalization](https://arxiv.org/abs/1502.03167), section 3, algorithm 1.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras_norms.BatchNormalization(momentum=0.9, epsilon=0.0)
        >>> x = keras.ops.array([[1.0], [3.0]])  # mean 2, variance 1
        >>> keras.ops.convert_to_numpy(layer(x, training=True)).tolist()
        [[-1.0], [1.0]]
        >>> round(float(layer.moving_mean[0]), 6)  # 0.9 * 0 + 0.1 * 2
        0.2
    """

    _needs_sample_moments = False

    def mean_and_inverse_std(
        self, instance: Moments | None, batch: Moments, weights: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        return batch.mean, self._inverse_std(batch.variance)
