"""Instance normalization whose scale and shift come from a second input."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_norms import ragged
from keras_norms.arguments import Constraint, Initializer, Regularizer, initializer
from keras_norms.base import register
from keras_norms.instance import InstanceNormalization
from keras_norms.moments import Shape, Tensor, finite_padding, instance_moments


class ConditionedInstanceNormalization(InstanceNormalization):
    """Base of instance normalization of `x` under a second input: `call([x, condition])`.

        y = gamma(condition) * (x - mean) / sqrt(variance + epsilon) + beta(condition)

    A subclass says in `modulation` what `gamma` and `beta` are; the rest is instance
    normalization of `x`. The mask of the output is that of `x`.

    Args:
        **kwargs: arguments of `InstanceNormalization`.

    Raises:
        ValueError: for another number of inputs than two, or as in `InstanceNormalization`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # So that Keras refuses a single tensor before the shapes are known.
        self.input_spec = [keras.layers.InputSpec(), keras.layers.InputSpec()]

    def build(self, input_shape: Sequence[Shape]) -> None:
        shape, condition_shape = input_shape
        super().build(shape)
        self.input_spec = [self.input_spec, self.condition_spec(condition_shape)]

    def call(
        self, inputs: Sequence[Tensor], training: bool | None = None, mask: Any = None
    ) -> Tensor:
        x, condition = inputs
        mask, condition_mask = mask if isinstance(mask, (list, tuple)) else (mask, None)
        weights = self.modulation(condition, condition_mask)
        outputs, _ = self.normalize(x, training, mask, weights=weights)
        return outputs

    def condition_spec(self, shape: Shape) -> keras.layers.InputSpec:
        """What the second input has to be, if its first shape is `shape`."""
        raise NotImplementedError

    def modulation(self, condition: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """`gamma` and `beta`, where there are any, as tensors that broadcast against `x`."""
        raise NotImplementedError

    def compute_mask(self, inputs: Sequence[Tensor], previous_mask: Any) -> Any:
        return previous_mask[0] if isinstance(previous_mask, (list, tuple)) else previous_mask

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        return super().compute_output_shape(input_shape[0])


@register
class AdaptiveInstanceNormalization(ConditionedInstanceNormalization):
    """Gives each channel of `x` the mean and deviation of a style (Huang and Belongie, 2017).

        y = std(style) * (x - mean(x)) / std(x) + mean(style),  std = sqrt(variance + epsilon)

    Called with `[x, style]`, two activations with the same channels; their sizes in space may
    differ. It has no weights. Each sample has a style of its own, or all share one, in a batch
    of size 1. In a style of one position all deviations are `sqrt(epsilon)`.

    Args:
        axis: int, the channel axis of both.
        epsilon: float, added to both variances.
        **kwargs: `batch_axis` of `Normalization`, and arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `[x, style]`.
        training: has no effect.
        mask: None, the mask of `x`, or the masks of both as a list, where either may be None.

    Raises:
        TypeError: for an argument that concerns `gamma` or `beta`, which the style gives.
        ValueError: for another number of inputs than two, if `x` and `style` differ in rank or
            channels, or as in `InstanceNormalization`.

    Reference:
        [Arbitrary Style Transfer](https://arxiv.org/abs/1703.06868), equation 8.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras_norms.AdaptiveInstanceNormalization(epsilon=0.0)
        >>> x = keras.ops.array([[1.0, 3.0]])[..., None]  # mean 2, deviation 1
        >>> style = keras.ops.array([[40.0, 60.0, 40.0, 60.0]])[..., None]  # mean 50, deviation 10
        >>> keras.ops.convert_to_numpy(layer([x, style])[..., 0]).round(3).tolist()
        [[40.0, 60.0]]
    """

    absent_arguments = (
        *("center", "beta_initializer", "beta_regularizer", "beta_constraint"),
        *("scale", "gamma_initializer", "gamma_regularizer", "gamma_constraint"),
    )

    def __init__(self, axis: int = -1, epsilon: float = 1e-5, **kwargs: Any) -> None:
        self.refuse_absent(kwargs)
        super().__init__(axis=axis, epsilon=epsilon, center=False, scale=False, **kwargs)

    def condition_spec(self, shape: Shape) -> keras.layers.InputSpec:
        return self.input_spec  # that of `x`

    def modulation(self, condition: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        if ragged.is_ragged(condition):
            condition, mask = ragged.pad(condition)
        style = ops.cast(condition, self.statistics_dtype(condition.dtype))
        mask = self._align_mask(mask, style)
        _, _, moments = instance_moments(finite_padding(style, mask), self.axes, mask)
        mean, variance, _ = moments
        return {"gamma": ops.sqrt(variance + self.epsilon), "beta": mean}


@register
class ConditionalInstanceNormalization(ConditionedInstanceNormalization):
    """Instance normalization with a scale and a shift for each style (Dumoulin et al., 2017).

        mean = E_s[x],  variance = E_s[(x - mean)^2]
        y = gamma(c) * (x - mean) / sqrt(variance + epsilon) + beta(c)
        gamma(c) = gamma + c @ gamma_kernel,  beta(c) = beta + c @ beta_kernel

    Called with `[x, condition]`, where the condition `c` of a sample is a vector. A one-hot
    vector chooses the style of the paper, a mixture of several mixes their styles. Any other
    vector works too: the output of a network that maps a latent code, a class or a time step.

    Args:
        axis: int, the channel axis of `x`.
        epsilon: float, added to the variance.
        center: whether to add `beta(c)`.
        scale: whether to multiply by `gamma(c)`.
        kernel_initializer: initializer of `gamma_kernel` and `beta_kernel`, each of shape
            `(features, channels)`. With zeros, the layer starts as instance normalization.
        kernel_regularizer: regularizer of both.
        kernel_constraint: constraint of both.
        **kwargs: arguments of `Normalization`. Those of `gamma` and `beta`, of shape
            `(channels,)`, concern what all conditions share.

    Call arguments:
        inputs: `[x, condition]`. The condition has the batch axes of `x`, in their order and
            each with its size or 1, and an axis of features: `(batch, features)` by default.
        training: has no effect.
        mask: None, the mask of `x`, or a list whose first entry is that.

    Raises:
        ValueError: for another number of inputs than two, for a condition of another rank or
            with an unknown number of features, or as in `InstanceNormalization`.

    Reference:
        [A Learned Representation for Artistic Style](https://arxiv.org/abs/1610.07629),
        equation 5. With another kernel initializer,
        [StyleGAN](https://arxiv.org/abs/1812.04948), equation 1.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras_norms.ConditionalInstanceNormalization()
        >>> x, condition = keras.random.normal((2, 8, 8, 3)), keras.ops.one_hot([0, 4], 5)
        >>> tuple(layer([x, condition]).shape)
        (2, 8, 8, 3)
        >>> {weight.name: tuple(weight.shape) for weight in layer.weights}
        {'gamma': (3,), 'beta': (3,), 'gamma_kernel': (5, 3), 'beta_kernel': (5, 3)}
    """

    def __init__(
        self,
        axis: int = -1,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        *,
        kernel_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis=axis, epsilon=epsilon, center=center, scale=scale, **kwargs)
        self.kernel_initializer = initializer("kernel_initializer", kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.gamma_kernel = self.beta_kernel = None

    def build(self, input_shape: Sequence[Shape]) -> None:
        super().build(input_shape)
        channels = self.input_spec[0].axes[self.axes.channel]
        features = self.input_spec[1].axes[-1]
        for name, wanted in (("gamma_kernel", self.scale), ("beta_kernel", self.center)):
            if wanted:
                kernel = self._add_weight(
                    name,
                    features,
                    channels,
                    initializer=self.kernel_initializer,
                    regularizer=self.kernel_regularizer,
                    constraint=self.kernel_constraint,
                )
                setattr(self, name, kernel)

    def condition_spec(self, shape: Shape) -> keras.layers.InputSpec:
        rank = len(self.axes.batch) + 1
        if len(shape) != rank or shape[-1] is None:
            raise ValueError(
                f"The condition of a sample is a vector of a known number of features: with "
                f"batch_axis={self.batch_axis}, the second input has {rank} axes. "
                f"Received: condition.shape={tuple(shape)}"
            )
        return keras.layers.InputSpec(ndim=rank, axes={-1: shape[-1]})

    def modulation(self, condition: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        if ragged.is_ragged(condition):
            condition, _ = ragged.pad(condition)
        condition = ops.cast(condition, self.statistics_dtype(condition.dtype))

        def project(shared: Any, kernel: Any) -> Tensor:
            shared, kernel = (ops.cast(weight, condition.dtype) for weight in (shared, kernel))
            values = shared + ops.matmul(condition, kernel)
            # From (*samples, channels) to the axes of x.
            position = sum(axis < self.axes.channel for axis in self.axes.batch)
            values = ops.moveaxis(values, -1, position)
            for axis in self.axes.spatial:
                values = ops.expand_dims(values, axis)
            return values

        pairs = {"gamma": (self.gamma, self.gamma_kernel), "beta": (self.beta, self.beta_kernel)}
        return {name: project(*pair) for name, pair in pairs.items() if pair[0] is not None}
