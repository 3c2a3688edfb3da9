"""Batch-instance normalization."""

import keras
from keras import ops

from keras_norms.base import MovingNormalization, initializer, register


@register
class UnitInterval(keras.constraints.Constraint):
    """Clips every weight to [0, 1]."""

    def __call__(self, w):
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
    """

    def __init__(
        self,
        axis=-1,
        momentum=0.9,
        epsilon=1e-5,
        center=True,
        scale=True,
        *,
        gate_initializer="ones",
        gate_regularizer=None,
        **kwargs,
    ):
        super().__init__(axis, momentum, epsilon, center, scale, **kwargs)
        self.gate_initializer = initializer("gate_initializer", gate_initializer)
        self.gate_regularizer = keras.regularizers.get(gate_regularizer)
        self.gate = None

    def build(self, input_shape):
        self._require_spatial_axis(input_shape)
        super().build(input_shape)
        channels = input_shape[self.axes.channel]
        self.gate = self._add_weight("gate", channels, constraint=UnitInterval())

    def mean_and_inverse_std(self, instance, batch):
        gate = self._per_channel(self.gate, instance.mean.dtype)
        from_batch = gate * self._inverse_std(batch.variance)
        from_instance = (1 - gate) * self._inverse_std(instance.variance)
        # Two affine maps of x add up to one: a (x - m) + b (x - k) = (a + b) (x - center).
        inverse_std = from_batch + from_instance
        shift = (batch.mean - instance.mean) * (from_batch / inverse_std)
        return instance.mean + shift, inverse_std

    def importance(self):
        """The mean gate as `{"gate": {"batch": float, "instance": float}}`."""
        gate = float(ops.mean(self.gate))
        return {"gate": {"batch": gate, "instance": 1 - gate}}

    def _reads_activation(self, training):
        return True
