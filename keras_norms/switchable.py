"""Switchable normalization."""

import keras
from keras import ops

from keras_norms.base import MovingNormalization, initializer, register
from keras_norms.group import check_groups, resolve_groups
from keras_norms.moments import pool, pool_groups

STATISTICS = ("instance", "group", "layer", "batch")


@register
class SwitchableNormalization(MovingNormalization):
    """Learns how much of each kind of statistics to use (Luo et al., 2018).

        y = gamma * (x - sum_k w_k mean_k) / sqrt(sum_k w'_k variance_k + epsilon) + beta
        w = softmax(mean_logits),  w' = softmax(variance_logits)

    `k` runs over `statistics`. All kinds are pooled from the instance moments, so they cost one
    pass over the activation together. Inference replaces the batch statistics by moving ones.

    Args:
        axis: int, the channel axis.
        momentum: float in [0, 1], what one training step keeps of the moving statistics.
        epsilon: float, added to the variance.
        center: whether to add `beta`, of shape `(channels,)`.
        scale: whether to multiply by `gamma`, of shape `(channels,)`.
        statistics: non-empty sequence of different names among "instance", "group", "layer" and
            "batch". "instance" is left out on inputs without spatial axes, where it would be
            the input itself.
        groups: number of groups of "group", as in `GroupNormalization`.
        logits_initializer: initializer of `mean_logits` and `variance_logits`, of shape
            `(number of statistics in use,)`.
        logits_regularizer: regularizer of both.
        **kwargs: arguments of `MovingNormalization` and `Normalization`.

    Raises:
        ValueError: for a statistic that is unknown, listed twice or not to be had, for `groups`
            that do not divide the channels, or as in `Normalization`.

    Reference:
        [Differentiable Learning-to-Normalize](https://arxiv.org/abs/1806.10779), section 2.
    """

    def __init__(
        self,
        axis=-1,
        momentum=0.9,
        epsilon=1e-5,
        center=True,
        scale=True,
        *,
        statistics=("instance", "layer", "batch"),
        groups=32,
        logits_initializer="ones",
        logits_regularizer=None,
        **kwargs,
    ):
        super().__init__(axis, momentum, epsilon, center, scale, **kwargs)
        listed = isinstance(statistics, (tuple, list)) and len(statistics) > 0
        if not listed or any(name not in STATISTICS for name in statistics):
            raise ValueError(
                "`statistics` must be a non-empty sequence of names among "
                f"{', '.join(map(repr, STATISTICS))}. Received: statistics={statistics!r}"
            )
        if len(set(statistics)) < len(statistics):
            raise ValueError(
                f"`statistics` must name each one once. Received: statistics={statistics!r}"
            )
        self.statistics = tuple(statistics)
        self.groups = check_groups(groups)
        self.logits_initializer = initializer("logits_initializer", logits_initializer)
        self.logits_regularizer = keras.regularizers.get(logits_regularizer)
        self.mean_logits = self.variance_logits = None

    def resolve(self, input_shape):
        super().resolve(input_shape)
        # As SwitchNorm1d: of single elements, instance statistics are the input itself.
        spatial = self.axes.spatial
        self._in_use = tuple(s for s in self.statistics if s != "instance" or spatial)
        if not self._in_use:
            self._require_spatial_axis(input_shape)
        if "group" in self._in_use:
            self._groups = resolve_groups(self.groups, input_shape[self.axes.channel])

    def build(self, input_shape):
        super().build(input_shape)
        for name in ("mean_logits", "variance_logits"):
            weight = self._add_weight(
                name,
                len(self._in_use),
                initializer=self.logits_initializer,
                regularizer=self.logits_regularizer,
            )
            setattr(self, name, weight)

    def mean_and_inverse_std(self, instance, batch):
        channel = self.axes.channel
        moments = {
            "instance": lambda: instance,
            "group": lambda: pool_groups(instance, channel, self._groups),
            "layer": lambda: pool(instance, (channel,)),
            "batch": lambda: batch,
        }
        means, variances, _ = zip(*(moments[name]() for name in self._in_use), strict=True)
        # About the first mean, since the weights sum to 1 only up to rounding.
        first = means[0]
        mean = first + _mix(self.mean_logits, [mean - first for mean in means])
        return mean, self._inverse_std(_mix(self.variance_logits, variances))

    def importance(self):
        """The weights of the statistics as `{"mean": {name: float}, "variance": {...}}`."""

        def weights(logits):
            shares = ops.convert_to_numpy(_softmax(ops.cast(logits, "float32")))
            return dict(zip(self._in_use, map(float, shares), strict=True))

        return {"mean": weights(self.mean_logits), "variance": weights(self.variance_logits)}

    def _build_moving(self, channels):
        if "batch" in self._in_use:
            super()._build_moving(channels)

    def _reads_activation(self, training):
        return self._in_use != ("batch",) or super()._reads_activation(training)


def _mix(logits, tensors):
    weights = ops.unstack(_softmax(ops.cast(logits, tensors[0].dtype)))
    return sum(w * t for w, t in zip(weights, tensors, strict=True))


def _softmax(logits):
    """`ops.softmax`, which warns where there is only one logit."""
    return ops.exp(logits - ops.logsumexp(logits))
