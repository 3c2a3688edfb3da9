"""Instance normalization."""

from collections.abc import Mapping
from typing import Any

from keras_norms.base import Normalization, register
from keras_norms.moments import Moments, Shape, Tensor


@register
class InstanceNormalization(Normalization):
    """Normalizes each channel of each sample over all positions (Ulyanov et al., 2016).

        mean = E_s[x],  variance = E_s[(x - mean)^2]
        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

    The same in training and inference, at any batch size. The output does not depend on the
    contrast of the input.

    Args:
        axis: int, the channel axis.
        epsilon: float, added to the variance.
        center: whether to add `beta`, of shape `(channels,)`.
        scale: whether to multiply by `gamma`, of shape `(channels,)`.
        **kwargs: arguments of `Normalization`.

    Raises:
        ValueError: if the input has no spatial axis, or one position (the output would be
            zero), or as in `Normalization`.

    Reference:
        [Instance Normalization](https://arxiv.org/abs/1607.08022), equation 3.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras_norms.InstanceNormalization(epsilon=0.0)
        >>> x = keras.ops.array([[1.0, 3.0], [10.0, 30.0]])[..., None]  # two samples, one channel
        >>> keras.ops.convert_to_numpy(layer(x)[..., 0]).round(4).tolist()
        [[-1.0, 1.0], [-1.0, 1.0]]
    """

    needs_positions = True
    removes_bias = True

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "InstanceNormalization":
        """The layer of a config, also of the layer of this name in Addons or keras-contrib.

        Raises:
            ValueError: if that layer normalizes over all channels together.
        """
        if config.get("axis", -1) is None:  # the default of keras-contrib
            raise ValueError(
                "With axis=None, keras-contrib normalizes over all channels together. Use "
                "GroupNormalization(groups=1). Received: axis=None"
            )
        # Addons writes the number of channels, each of which is a group.
        return super().from_config({k: v for k, v in config.items() if k != "groups"})

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self._refuse_single_elements(input_shape, 1)

    def mean_and_inverse_std(
        self, instance: Moments, batch: None, weights: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        return instance.mean, self._inverse_std(instance.variance)
