"""Switchable normalization."""

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_norms.arguments import Initializer, Regularizer, initializer
from keras_norms.base import register
from keras_norms.group import Groups, check_groups, number_of_groups
from keras_norms.moments import Moments, Shape, Tensor, pool, pool_groups
from keras_norms.moving import MovingNormalization

STATISTICS = ("instance", "group", "layer", "batch")


@register
class SwitchableNormalization(MovingNormalization):
    """Learns how much of each kind of statistics to use (Luo et al., 2018).

        y = gamma * (x - sum_k w_k mean_k) / sqrt(sum_k w'_k variance_k + epsilon) + beta
        w = softmax(mean_logits),  w' = softmax(variance_logits)

    `k` runs over `statistics`. All kinds are pooled from the instance moments, so they cost one
    pass over the activation together. Inference replaces the batch statistics by moving ones.

    Variances are biased, as in the paper: they divide by the number of elements n. Those of the
    official PyTorch code are not: for weights from there, use `unbiased=True`.

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
        unbiased: whether instance variances divide by n - 1, as in the official PyTorch code,
            which makes the others from them.
        **kwargs: arguments of `MovingNormalization` and `Normalization`.

    Raises:
        ValueError: for a statistic that is unknown, listed twice or not to be had, for `groups`
            that do not divide the channels, or as in `Normalization`.

    Reference:
        [Differentiable Learning-to-Normalize](https://arxiv.org/abs/1806.10779), section 2.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras_norms.SwitchableNormalization(statistics=("instance", "batch"))
        >>> layer.build((None, 8, 8, 3))
        >>> layer.importance()["mean"]
        {'instance': 0.5, 'batch': 0.5}
    """

    control_weights = ("mean_logits", "variance_logits")

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        *,
        statistics: Sequence[str] = ("instance", "layer", "batch"),
        groups: Groups = 32,
        logits_initializer: Initializer = "ones",
        logits_regularizer: Regularizer = None,
        unbiased: bool = False,
        **kwargs: Any,
    ) -> None:
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
        self.unbiased = bool(unbiased)
        self.mean_logits: keras.Variable = None
        self.variance_logits: keras.Variable = None

    @property
    def has_batch_statistics(self) -> bool:
        return "batch" in self.statistics

    @property
    def needs_positions(self) -> bool:
        return set(self.statistics) == {"instance"}

    @property
    def removes_bias(self) -> bool:
        return set(self.statistics) <= {"instance", "batch"}

    def set_input_shape(self, input_shape: Shape) -> None:
        super().set_input_shape(input_shape)
        # As SwitchNorm1d: of single elements, instance statistics are the input itself.
        spatial = self.axes.spatial
        self._in_use = tuple(s for s in self.statistics if s != "instance" or spatial)
        if "group" in self._in_use:
            self._groups = number_of_groups(self.groups, input_shape[self.axes.channel])

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        for name in ("mean_logits", "variance_logits"):
            first = self.logits_initializer
            # A copy, since an initializer draws the same numbers each time it is called.
            own = first.clone() if isinstance(first, keras.initializers.Initializer) else first
            weight = self._add_weight(
                name,
                len(self._in_use),
                precise=True,
                initializer=own,
                regularizer=self.logits_regularizer,
            )
            setattr(self, name, weight)

    def prepare(self, weights: Mapping[str, Any], dtype: str) -> Mapping[str, Any]:
        shares = {
            f"{name}_shares": _softmax(ops.cast(weights[f"{name}_logits"], dtype))
            for name in ("mean", "variance")
        }
        return {**weights, **shares}

    def coefficients(
        self,
        x: Tensor,
        pivot: Tensor,
        instance: Moments | None,
        weights: Mapping[str, Any],
        training: bool | None,
        first_step: Any = 0,
    ) -> tuple[Tensor | None, Tensor, Moments | None]:
        if self.unbiased and "instance" in self._in_use and instance is not None:
            count = ops.cast(instance.count, x.dtype)
            variance = instance.variance * (count / ops.maximum(count - 1, 1))
            instance = instance._replace(variance=variance)
        return super().coefficients(x, pivot, instance, weights, training, first_step)

    def mean_and_inverse_std(
        self, instance: Moments, batch: Moments | None, weights: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        channel = self.axes.channel
        moments = {
            "instance": lambda: instance,
            "group": lambda: pool_groups(instance, channel, self._groups),
            "layer": lambda: pool(instance, (channel,)),
            "batch": lambda: batch,
        }
        means, variances, _ = zip(*(moments[name]() for name in self._in_use), strict=True)
        # About the first mean, since the shares sum to 1 only up to rounding.
        first = means[0]
        mean = first + _mix(weights["mean_shares"], [mean - first for mean in means])
        return mean, self._inverse_std(_mix(weights["variance_shares"], variances))

    def importance(self) -> dict[str, dict[str, float]]:
        """The weights of the statistics as `{"mean": {name: float}, "variance": {...}}`."""

        def weights(logits: Tensor) -> dict[str, float]:
            shares = ops.convert_to_numpy(_softmax(ops.cast(logits, "float32")))
            return dict(zip(self._in_use, map(float, shares), strict=True))

        return {"mean": weights(self.mean_logits), "variance": weights(self.variance_logits)}

    @property
    def _needs_sample_moments(self) -> bool:
        return self._in_use != ("batch",)


def _mix(shares: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """The sum of `tensors`, each times its share."""
    shares = ops.unstack(ops.cast(shares, tensors[0].dtype))
    return functools.reduce(operator.add, map(operator.mul, shares, tensors))


def _softmax(logits: Tensor) -> Tensor:
    """`ops.softmax`, which warns where there is only one logit."""
    return ops.softmax(logits) if logits.shape[0] > 1 else 0 * logits + 1
