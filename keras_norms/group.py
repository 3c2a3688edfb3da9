"""Group normalization, of which layer and instance normalization are the two ends."""

import operator
from collections.abc import Mapping
from typing import Any, Literal

from keras_norms.arguments import is_integer
from keras_norms.base import Normalization, register
from keras_norms.moments import Moments, Shape, Tensor, pool_groups

Groups = int | Literal["auto"]


def number_of_groups(groups: Groups, channels: int) -> int:
    """The number of groups for `channels` channels: `groups` itself, or what -1 and "auto" mean.

    "auto" is the largest divisor of `channels` that is at most 32 and leaves at least two
    channels in a group: 8 groups at 16 channels, 32 from 64 on.
    """
    if groups == "auto":
        most = max(1, min(32, channels // 2))
        return next(g for g in range(most, 0, -1) if channels % g == 0)
    if groups == -1:
        return channels
    if channels < groups:
        raise ValueError(
            f"Number of groups ({groups}) cannot be more than the number of channels "
            f"({channels}). Use a divisor of {channels}, or groups='auto'."
        )
    if channels % groups:
        raise ValueError(
            f"The number of channels ({channels}) must be a multiple of the number of groups "
            f"({groups}). Use a divisor of {channels}, or groups='auto'."
        )
    return groups


def check_groups(groups: Groups) -> Groups:
    """`groups`, if it is a positive int, -1 or "auto"; else a ValueError."""
    if groups != "auto" and not (is_integer(groups) and (groups > 0 or groups == -1)):
        raise ValueError(
            "Received an invalid value for argument `groups`, expected a positive integer, -1 "
            f"(one group per channel) or 'auto'. Received: groups={groups!r}"
        )
    return "auto" if groups == "auto" else operator.index(groups)


@register
class GroupNormalization(Normalization):
    """Normalizes each sample over groups of channels and all positions (Wu and He, 2018).

        mean = E_{s, c in group}[x],  variance = E_{s, c in group}[(x - mean)^2]
        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    One group is layer normalization (over positions and channels), one group per channel is
    instance normalization. The same in training and inference, at any batch size. A drop-in
    for `keras.layers.GroupNormalization` that honours masks and leaves its config alone.

    Args:
        groups: int that divides the number of channels; -1 for one group per channel; "auto"
            for the largest divisor of the channels that is at most min(32, channels / 2).
        axis: int, the channel axis.
        epsilon: float, added to the variance.
        center: whether to add `beta`, of shape `(channels,)`.
        scale: whether to multiply by `gamma`, of shape `(channels,)`.
        **kwargs: arguments of `Normalization`.

    Raises:
        ValueError: if `groups` does not divide the channels, if a group is known to hold one
            element (its output would be zero), or as in `Normalization`.

    Reference:
        [Group Normalization](https://arxiv.org/abs/1803.08494), section 3.1.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras_norms.GroupNormalization(groups=2, epsilon=0.0)
        >>> x = keras.ops.array([[1.0, 3.0, 10.0, 30.0]])  # the groups are (1, 3) and (10, 30)
        >>> keras.ops.convert_to_numpy(layer(x)).round(4).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
    """

    def __init__(
        self,
        groups: Groups = 32,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis=axis, epsilon=epsilon, center=center, scale=scale, **kwargs)
        self.groups = check_groups(groups)

    @property
    def token_groups(self) -> int:
        return self._groups

    @property
    def needs_positions(self) -> bool:
        return self.groups == -1

    @property
    def removes_bias(self) -> bool:
        return self.groups == -1

    def set_input_shape(self, input_shape: Shape) -> None:
        super().set_input_shape(input_shape)
        self._groups = number_of_groups(self.groups, input_shape[self.axes.channel])

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        channels = input_shape[self.axes.channel]
        self._refuse_single_elements(input_shape, channels // self._groups)

    def mean_and_inverse_std(
        self, instance: Moments, batch: None, weights: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        mean, variance, _ = pool_groups(instance, self.axes.channel, self._groups)
        return mean, self._inverse_std(variance)
