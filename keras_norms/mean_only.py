"""Mean-only batch normalization."""

from collections.abc import Mapping
from typing import Any

from keras_norms.base import register
from keras_norms.moments import Moments, Tensor
from keras_norms.moving import MovingNormalization


@register
class MeanOnlyBatchNormalization(MovingNormalization):
    """Subtracts the batch mean of each channel (Salimans and Kingma, 2016).

        y = x - E_{n,s}[x] + beta

    Inference subtracts `moving_mean`. Meant for the pre-activations of a weight-normalized
    layer, see `WeightNormalization(layer, mean_only_batch_norm=True)`.

    Args:
        axis: int, the channel axis.
        momentum: float in [0, 1], what one training step keeps of the moving mean.
        center: whether to add `beta`, of shape `(channels,)`.
        **kwargs: arguments of `MovingNormalization` and `Normalization` that concern the mean
            and `beta`. There is no epsilon, gamma or variance.

    Raises:
        TypeError: for an argument that concerns the variance or `gamma`.
        ValueError: as in `Normalization`.

    Reference:
        [Weight Normalization](https://arxiv.org/abs/1602.07868), section 4.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras_norms.MeanOnlyBatchNormalization()
        >>> x = keras.ops.array([[1.0], [5.0]])
        >>> keras.ops.convert_to_numpy(layer(x, training=True)).tolist()
        [[-2.0], [2.0]]
    """

    absent_arguments = (
        "epsilon",
        "scale",
        "gamma_initializer",
        "gamma_regularizer",
        "gamma_constraint",
        "moving_variance_initializer",
    )
    fusible = False  # for a mean alone, the compiled programs are no faster
    removes_bias = True
    _needs_sample_moments = False

    def __init__(
        self, axis: int = -1, momentum: float = 0.9, center: bool = True, **kwargs: Any
    ) -> None:
        self.refuse_absent(kwargs)
        super().__init__(axis=axis, momentum=momentum, center=center, scale=False, **kwargs)

    def mean_and_inverse_std(
        self, instance: Moments | None, batch: Moments, weights: Mapping[str, Any]
    ) -> tuple[Tensor, None]:
        return batch.mean, None

    def _build_moving(self, channels: int) -> None:
        self._add_moving("moving_mean", channels)
