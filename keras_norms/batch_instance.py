"""Batch-instance normalization."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_norms.arguments import Initializer, Regularizer, initializer
from keras_norms.base import register
from keras_norms.moments import Moments, Shape, Tensor
from keras_norms.moving import MovingNormalization


@register
class UnitInterval(keras.constraints.Constraint):
    """Clips every weight to [0, 1]."""

    def __call__(self, w: Tensor) -> Tensor:
        return ops.clip(w, 0, 1)


@register
class BatchInstanceNormalization(MovingNormalization):
    """Mixes batch and instance normalization by a learned gate per channel (Nam and Kim, 2018).

        y = gamma * (gate * x_batch + (1 - gate) * x_instance) + beta

    where `x_batch` and `x_instance` are `x` normalized by either's statistics. Instance
    statistics are those of the input at inference too. Each gate starts at 1 (batch) and is
    kept in [0, 1] by a constraint; the paper trains it at ten times the rate and without decay
    (`keras_norms.configure_optimizer` does).

    Args:
        axis: int, the channel axis.
        momentum: float in [0, 1], what one training step keeps of the moving statistics.
        epsilon: float, added to both variances.
        center: whether to add `beta`, of shape `(channels,)`.
        scale: whether to multiply by `gamma`, of shape `(channels,)`.
        gate_initializer: initializer of `gate`, of shape `(channels,)`.
        gate_regularizer: regularizer of `gate`.
        **kwargs: arguments of `MovingNormalization` and `Normalization`.

    Raises:
        ValueError: if the input has no spatial axis, or as in `Normalization`.

    Reference:
        [Batch-Instance Normalization](https://arxiv.org/abs/1805.07925), section 3, equation 3.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras_norms.BatchInstanceNormalization(gate_initializer="zeros")
        >>> layer.build((None, 8, 8, 3))
        >>> layer.importance()
        {'gate': {'batch': 0.0, 'instance': 1.0}}
    """

    control_weights = ("gate",)
    needs_positions = True
    removes_bias = True

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        *,
        gate_initializer: Initializer = "ones",
        gate_regularizer: Regularizer = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis, momentum, epsilon, center, scale, **kwargs)
        self.gate_initializer = initializer("gate_initializer", gate_initializer)
        self.gate_regularizer = keras.regularizers.get(gate_regularizer)
        self.gate: keras.Variable = None

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        channels = input_shape[self.axes.channel]
        self.gate = self._add_weight("gate", channels, precise=True, constraint=UnitInterval())

    def mean_and_inverse_std(
        self, instance: Moments, batch: Moments, weights: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        gate = self._per_channel(weights["gate"], instance.mean.dtype)
        from_batch = gate * self._inverse_std(batch.variance)
        from_instance = (1 - gate) * self._inverse_std(instance.variance)
        # Two affine maps of x add up to one: a (x - m) + b (x - k) = (a + b) (x - center).
        inverse_std = from_batch + from_instance
        shift = (batch.mean - instance.mean) * (from_batch / inverse_std)
        return instance.mean + shift, inverse_std

    def importance(self) -> dict[str, dict[str, float]]:
        """The mean gate as `{"gate": {"batch": float, "instance": float}}`."""
        gate = float(ops.convert_to_numpy(ops.mean(self.gate)))
        return {"gate": {"batch": gate, "instance": 1 - gate}}
