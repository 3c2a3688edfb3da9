"""Batch normalization, and batch renormalization."""

from collections.abc import Mapping
from typing import Any, ClassVar

from keras import ops

from keras_norms.arguments import number, share
from keras_norms.base import register
from keras_norms.moments import Moments, Tensor
from keras_norms.moving import MovingNormalization

CLIPPING = ("rmin", "rmax", "dmax")


@register
class BatchNormalization(MovingNormalization):
    """Normalizes each channel over the batch and all positions (Ioffe and Szegedy, 2015).

        mean = E_{n,s}[x],  variance = E_{n,s}[(x - mean)^2]
        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    Inference uses `moving_mean` and `moving_variance`. A drop-in for
    `keras.layers.BatchNormalization` whose statistics keep their precision at any mean, whose
    moving statistics never differ between replicas, and whose synchronized statistics are those
    of the global batch.

    With `renorm=True` training corrects the result toward what inference computes, by moving
    statistics of their own momentum (Ioffe, 2017). It helps where batches are small or not
    independent. No gradient passes through the correction `r`, `d`:

        std = sqrt(variance + epsilon)
        r = clip(std / renorm_stddev, rmin, rmax)
        d = clip((mean - renorm_mean) / renorm_stddev, -dmax, dmax)
        y = gamma * ((x - mean) / std * r + d) + beta

    Args:
        axis: int, the channel axis.
        momentum: float in [0, 1], what one training step keeps of the moving statistics.
        epsilon: float, added to the variance.
        center: whether to add `beta`, of shape `(channels,)`.
        scale: whether to multiply by `gamma`, of shape `(channels,)`.
        renorm: whether to use batch renormalization.
        renorm_clipping: None, or dict with any of "rmin", "rmax" and "dmax"; what is left out
            is not limited. With `renorm` only.
        renorm_momentum: float in [0, 1], what one training step keeps of `renorm_mean` and
            `renorm_stddev`. With `renorm` only.
        **kwargs: arguments of `MovingNormalization` and `Normalization`.

    Raises:
        ValueError: for limits that contradict each other, for `renorm` with `max_steps`, or as
            in `MovingNormalization`. In training: if a batch is known to have one value for each
            channel, whose result would not depend on it.

    Reference:
        [Batch Normalization](https://arxiv.org/abs/1502.03167), section 3, algorithm 1;
        [Batch Renormalization](https://arxiv.org/abs/1702.03275), section 3, algorithm 1.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras_norms.BatchNormalization(momentum=0.9, epsilon=0.0)
        >>> x = keras.ops.array([[1.0], [3.0]])  # mean 2, variance 1
        >>> keras.ops.convert_to_numpy(layer(x, training=True)).tolist()
        [[-1.0], [1.0]]
        >>> round(float(layer.moving_mean[0]), 6)  # 0.9 * 0 + 0.1 * 2
        0.2
    """

    # Of Keras 2. Whether its program was fused does not change what it computes.
    foreign_arguments: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "fused": (False, True),
        "virtual_batch_size": (),
        "adjustment": (),
    }
    _needs_sample_moments = False

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        *,
        renorm: bool = False,
        renorm_clipping: Mapping[str, float] | None = None,
        renorm_momentum: float = 0.99,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis, momentum, epsilon, center, scale, **kwargs)
        self.renorm = bool(renorm)
        self.renorm_clipping = _check_clipping(renorm_clipping)
        self.renorm_momentum = share("renorm_momentum", renorm_momentum)
        if self.renorm and self.max_steps is not None:
            raise ValueError(
                "Batch renormalization has no statistics for each time step. Leave out one of "
                f"the two. Received: renorm=True, max_steps={self.max_steps}"
            )
        if self.renorm:
            self.fusible = False
        self.moving_stddev = self.renorm_mean = self.renorm_stddev = None

    @property
    def removes_bias(self) -> bool:
        return not self.renorm  # renormalized by averages, which a bias moves only in time

    def mean_and_inverse_std(
        self, instance: Moments | None, batch: Moments, weights: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        mean, inverse_std = batch.mean, self._inverse_std(batch.variance)
        in_training = batch.count is not None
        if not (self.renorm and in_training):
            return mean, inverse_std
        renorm_mean = self._per_channel(weights["renorm_mean"], mean.dtype)
        renorm_stddev = self._per_channel(weights["renorm_stddev"], mean.dtype)
        # At least the smallest that a batch can have, early in training too.
        renorm_stddev = ops.maximum(renorm_stddev, self.epsilon**0.5)
        limits = self.renorm_clipping or {}
        r = ops.stop_gradient(1 / (inverse_std * renorm_stddev))
        d = ops.stop_gradient((mean - renorm_mean) / renorm_stddev)
        if "rmin" in limits:
            r = ops.maximum(r, limits["rmin"])
        if "rmax" in limits:
            r = ops.minimum(r, limits["rmax"])
        if "dmax" in limits:
            d = ops.clip(d, -limits["dmax"], limits["dmax"])
        # (x - mean) inverse_std r + d = (x - center) inverse_std r
        inverse_std = inverse_std * r
        return mean - d / inverse_std, inverse_std

    def _build_moving(self, channels: int) -> None:
        super()._build_moving(channels)
        if self.renorm:
            self._add_moving("moving_stddev", channels, initializer=self._initial_stddev)
            self._add_moving("renorm_mean", channels, initializer=self.moving_mean_initializer)
            self._add_moving("renorm_stddev", channels, initializer=self._initial_stddev)

    def _initial_stddev(self, shape: tuple[int, ...], dtype: str | None = None) -> Tensor:
        return ops.sqrt(self.moving_variance_initializer(shape, dtype=dtype))

    def _move(self, batch: Moments) -> None:
        if not self.renorm:
            super()._move(batch)
            return
        mean, variance, count = batch
        std = ops.sqrt(variance + self.epsilon)
        kept = self._kept(count, self.momentum)
        self._move_one(self.moving_mean, mean, kept)
        self._move_one(self.moving_stddev, std, kept)
        kept = self._kept(count, self.renorm_momentum)
        self._move_one(self.renorm_mean, mean, kept)
        self._move_one(self.renorm_stddev, std, kept)
        # As the paper does: inference divides by the moving deviation.
        variance = ops.square(ops.convert_to_tensor(self.moving_stddev)) - self.epsilon
        self._move_one(self.moving_variance, variance, self._kept(count, 0.0))


def _check_clipping(clipping: Any) -> dict[str, float] | None:
    if clipping is None:
        return None
    if not isinstance(clipping, Mapping):
        raise ValueError(
            f"`renorm_clipping` must be a dict. Received: renorm_clipping={clipping!r}"
        )
    clipping = {key: number(key, value) for key, value in clipping.items() if value is not None}
    if set(clipping) - set(CLIPPING):
        raise ValueError(
            f"Received invalid keys for `renorm_clipping`: {clipping}. Use {', '.join(CLIPPING)}."
        )
    if clipping.get("rmin", 0) > clipping.get("rmax", float("inf")):
        raise ValueError(f"rmax should be at least rmin. Received: renorm_clipping={clipping}")
    if clipping.get("rmax", 1) <= 0:
        raise ValueError(f"rmax should be positive. Received: renorm_clipping={clipping}")
    if clipping.get("dmax", 0) < 0:
        raise ValueError(f"dmax should be non-negative. Received: renorm_clipping={clipping}")
    return clipping
