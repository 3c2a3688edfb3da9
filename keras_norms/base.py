"""What all normalization layers share: axes, affine, masks, precision, serialization."""

import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
from keras import ops

from keras_norms import fused, ragged, tokens
from keras_norms.arguments import (
    Constraint,
    Initializer,
    Regularizer,
    initializer,
    integer,
    number,
    serialize,
)
from keras_norms.moments import (
    Axes,
    Moments,
    Shape,
    Tensor,
    affine,
    finite_padding,
    instance_moments,
)

register = keras.saving.register_keras_serializable("keras_norms")


class Normalization(keras.layers.Layer):
    """Base of the layers that normalize an activation.

        y = gamma * (x - mean) * inverse_std + beta

    A subclass says in `mean_and_inverse_std` where the two come from; all the rest is here.
    Statistics are computed in float32 (float64 for float64) whatever the compute dtype, and the
    output has the compute dtype. In float32, deviations from the mean must stay below 1e18:
    the squares of larger ones overflow.

    Args:
        axis: int, the channel axis.
        epsilon: float, added to the variance.
        center: whether to add `beta`, of shape `(channels,)`.
        scale: whether to multiply by `gamma`, of shape `(channels,)`.
        beta_initializer: initializer of `beta`.
        gamma_initializer: initializer of `gamma`.
        beta_regularizer: regularizer of `beta`.
        gamma_regularizer: regularizer of `gamma`.
        beta_constraint: constraint of `beta`.
        gamma_constraint: constraint of `gamma`.
        batch_axis: int or tuple of ints, the axes whose entries are samples. All axes but these
            and `axis` are spatial. `(0, 1)` on `(batch, time, channels)` makes every token a
            sample.
        **kwargs: arguments of `keras.layers.Layer`.

    Raises:
        ValueError: for an argument that is out of its range. At build: if an axis is out of
            bounds, or the number of channels unknown.
    """

    # Names of the weights that choose between statistics.
    control_weights: ClassVar[tuple[str, ...]] = ()
    # The number of groups of channels, if single tokens have statistics by these and nothing else.
    token_groups: int | None = None
    # Whether `fused` may compute training steps, or `tokens`; an instance may set it to False.
    fusible = True
    # Whether inputs need axes beside samples and channels.
    needs_positions = False
    # Whether a constant that is added to a channel of all samples is lost. If so, a bias before the
    # norm has no effect.
    removes_bias = False
    # Arguments of the base classes that a class does not have.
    absent_arguments: ClassVar[tuple[str, ...]] = ()
    # Arguments of layers of this name elsewhere, and the values that mean what this class does.
    foreign_arguments: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def __init__(
        self,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        *,
        beta_initializer: Initializer = "zeros",
        gamma_initializer: Initializer = "ones",
        beta_regularizer: Regularizer = None,
        gamma_regularizer: Regularizer = None,
        beta_constraint: Constraint = None,
        gamma_constraint: Constraint = None,
        batch_axis: int | tuple[int, ...] = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.axis = integer("axis", axis)
        self.epsilon = number("epsilon", epsilon)
        if not 0 <= self.epsilon < math.inf:
            raise ValueError(
                f"`epsilon` must be finite and not negative. Received: epsilon={epsilon}"
            )
        self.center = bool(center)
        self.scale = bool(scale)
        self.beta_initializer = initializer("beta_initializer", beta_initializer)
        self.gamma_initializer = initializer("gamma_initializer", gamma_initializer)
        self.beta_regularizer = keras.regularizers.get(beta_regularizer)
        self.gamma_regularizer = keras.regularizers.get(gamma_regularizer)
        self.beta_constraint = keras.constraints.get(beta_constraint)
        self.gamma_constraint = keras.constraints.get(gamma_constraint)
        if isinstance(batch_axis, (tuple, list)):
            self.batch_axis: int | tuple[int, ...] = tuple(
                integer("batch_axis", axis) for axis in batch_axis
            )
        else:
            self.batch_axis = integer("batch_axis", batch_axis)
        self.supports_masking = True
        # Keras would otherwise cast the input to the compute dtype before `call` sees it.
        self.autocast = False
        self.gamma = self.beta = None

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Normalization":
        """The layer of a config, also of the layer of this name in Keras 2 or 3, or in Addons.

        Raises:
            ValueError: if that layer computes something else.
        """
        config = dict(config)
        for name, values in cls.foreign_arguments.items():
            value = config.pop(name, None)
            if value is not None and value not in values:
                raise ValueError(
                    f"{cls.__name__} has no argument `{name}`, and computes what such layers do "
                    f"with {name}={values[0] if values else None}. Received: {name}={value!r}"
                )
        axis = config.get("axis", -1)
        if isinstance(axis, (list, tuple)) and len(axis) == 1:
            config["axis"] = axis[0]  # as Keras 2 writes it
        return super().from_config(config)

    @classmethod
    def refuse_absent(cls, arguments: Mapping[str, Any]) -> None:
        """Raises a TypeError for an argument that this class does not have."""
        for name in cls.absent_arguments:
            if name in arguments:
                raise TypeError(f"{cls.__name__} has no argument `{name}`.")

    @property
    def has_batch_statistics(self) -> bool:
        """Whether training uses statistics of the batch."""
        return False

    def set_input_shape(self, input_shape: Shape) -> None:
        """Sets what depends on the shape of the input, except the weights."""
        self.axes = self._axes_of(input_shape)
        if self.needs_positions and not self.axes.spatial:
            raise ValueError(
                f"{type(self).__name__} needs at least one spatial axis beside the batch and "
                f"the channels. Received: input_shape={tuple(input_shape)} with axis="
                f"{self.axis} and batch_axis={self.batch_axis}. Without spatial axes use "
                "GroupNormalization or BatchNormalization."
            )
        channels = input_shape[self.axes.channel]
        if channels is None:
            raise ValueError(
                f"Axis {self.axis} of the input tensor should have a defined dimension but the "
                f"layer received an input with shape {tuple(input_shape)}. Give the number of "
                "channels in the input shape, or choose another `axis`."
            )
        self._channels = channels
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={self.axes.channel: channels}
        )

    def build(self, input_shape: Shape) -> None:
        self.set_input_shape(input_shape)
        channels = input_shape[self.axes.channel]
        if self.scale:
            self.gamma = self._add_weight("gamma", channels)
        if self.center:
            self.beta = self._add_weight("beta", channels)

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        outputs, _ = self.normalize(inputs, training, mask)
        return outputs

    def normalize(
        self,
        inputs: Tensor,
        training: bool | None = None,
        mask: Tensor | None = None,
        first_step: Any = 0,
        weights: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Moments | None]:
        """What `call` returns, without its effect on moving statistics.

        A loop over time calls this for each step and, once it has ended, `update_moving`.

        Args:
            inputs: as for `call`.
            training: as for `call`.
            mask: as for `call`.
            first_step: int or int32 scalar, the number of the first time step in `inputs`.
            weights: tensors to use in place of the layer's weights, by name. Those of each channel
                have the shape `(channels,)`, or one that broadcasts against `inputs`.

        Returns:
            `(outputs, batch)`, where `batch` is what `update_moving` takes, or None if this call
            updates nothing.
        """
        if ragged.is_ragged(inputs):
            padded, valid = ragged.pad(inputs)
            outputs, batch = self.normalize(padded, training, valid, first_step, weights)
            return ragged.cut(outputs, valid, inputs), batch
        if inputs.shape[self.axes.channel] is None:
            inputs = self._with_channels(inputs)
        self.refuse_single_values(inputs, training)
        if weights is None:
            weights = {variable.name: variable for variable in self.variables}
        dtype = self.statistics_dtype(inputs.dtype)
        weights = self.prepare(weights, dtype)
        needs_moments = self._needs_moments(training)
        if needs_moments and fused.can_fuse(self, inputs, training, mask):
            return fused.normalize(self, inputs, weights)
        if tokens.can_normalize(self, inputs, training, mask):
            return tokens.normalize(self, inputs, weights), None
        x, mask = ops.cast(inputs, dtype), self._align_mask(mask, inputs)
        x = finite_padding(x, mask)
        pivot, instance = 0.0, None
        if needs_moments:
            x, pivot, instance = instance_moments(x, self.moment_axes, mask)
        scale, shift, batch = self.coefficients(x, pivot, instance, weights, training, first_step)
        outputs = x + shift if scale is None else x * scale + shift
        return ops.cast(outputs, self.compute_dtype), batch

    def statistics_dtype(self, input_dtype: Any) -> str:
        """The type in which statistics of inputs of a type are computed."""
        return keras.backend.result_type(input_dtype, self.compute_dtype, "float32")

    def prepare(self, weights: Mapping[str, Any], dtype: str) -> Mapping[str, Any]:
        """The weights by name, and what follows from weights alone, for `coefficients`.

        It is computed here, outside of programs, which are slow to compile.
        """
        return weights

    def refuse_single_values(self, x: Tensor, training: bool | None) -> None:
        """Raises where training is known to take all statistics of a channel from one value."""

    def coefficients(
        self,
        x: Tensor,
        pivot: Tensor,
        instance: Moments | None,
        weights: Mapping[str, Any],
        training: bool | None,
        first_step: Any = 0,
    ) -> tuple[Tensor | None, Tensor, Moments | None]:
        """`(scale, shift, batch)`, with which the output is `scale * (x - pivot) + shift`.

        Everything that depends on weights depends on the argument `weights`, from `prepare`, so
        that compiled programs can hand in tensors of other layers with the same settings.
        """
        used, batch = self._batch_moments(x, instance, training, first_step)
        mean, inverse_std = self.mean_and_inverse_std(instance, used, weights)
        gamma = self._per_channel(weights.get("gamma"), x.dtype)
        beta = self._per_channel(weights.get("beta"), x.dtype)
        return *affine(mean - pivot, inverse_std, gamma, beta), batch

    @property
    def moment_axes(self) -> Axes:
        """The `Axes` to take moments by: `axes`, unless the moments of samples are not needed."""
        return self.axes

    def mean_and_inverse_std(
        self, instance: Moments | None, batch: Moments | None, weights: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """Where this normalization takes its statistics from.

        Args:
            instance: `Moments` of each channel of each sample, or None where
                `_needs_moments(training)` is false.
            batch: `Moments` of the batch in training, or the moving ones; None for a
                normalization without batch statistics.
            weights: the weights of the layer by name, from `prepare`.

        Returns:
            `(mean, inverse_std)`, tensors of the rank of the input that broadcast against it.
            `inverse_std` may be None, for no scaling.
        """
        raise NotImplementedError

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        self._axes_of(input_shape)
        return input_shape

    def get_config(self) -> dict[str, Any]:
        arguments = {name: serialize(value) for name, value in self.arguments().items()}
        return arguments | super().get_config()

    def arguments(self) -> dict[str, Any]:
        """The arguments of all constructors from this class up to `Normalization`, by name."""
        classes = (cls for cls in type(self).__mro__ if issubclass(cls, Normalization))
        return {
            name: getattr(self, name)
            for cls in classes
            for name, parameter in inspect.signature(cls.__init__).parameters.items()
            if name not in ("self", *self.absent_arguments)
            and parameter.kind is not parameter.VAR_KEYWORD
        }

    def _needs_moments(self, training: bool | None) -> bool:
        """Whether a call needs moments of its input."""
        return True

    def _batch_moments(
        self, x: Tensor, instance: Any, training: bool | None, first_step: Any
    ) -> tuple[Moments | None, Moments | None]:
        """`Moments` to normalize by, and those that update the moving statistics."""
        return None, None

    def _inverse_std(self, variance: Tensor) -> Tensor:
        return ops.rsqrt(variance + self.epsilon)

    def _axes_of(self, shape: Shape) -> Axes:
        rank = len(shape)

        def counted(name: str, axis: int) -> int:
            """The axis, counted from the front."""
            if not -rank <= axis < rank:
                raise ValueError(
                    f"Axis {axis} is out of bounds for input shape {tuple(shape)}: `{name}` of a "
                    f"tensor of rank {rank} lies between {-rank} and {rank - 1}. "
                    f"Received: {name}={getattr(self, name)}"
                )
            return axis % rank

        channel = counted("axis", self.axis)
        axes = self.batch_axis if isinstance(self.batch_axis, tuple) else (self.batch_axis,)
        batch = tuple(sorted(counted("batch_axis", axis) for axis in axes))
        if not batch or len(set(batch)) < len(batch) or channel in batch:
            raise ValueError(
                "`batch_axis` names one or more different axes, and not the channel axis. "
                f"Received: batch_axis={self.batch_axis}, axis={self.axis} for input shape "
                f"{tuple(shape)}"
            )
        spatial = tuple(a for a in range(rank) if a != channel and a not in batch)
        return Axes(batch, spatial, channel)

    def _add_weight(
        self, name: str, *shape: int, precise: bool = False, **kwargs: Any
    ) -> keras.Variable:
        """A weight, with what the constructor's `{name}_*` arguments say of it.

        Args:
            name: str, its name.
            *shape: ints, its shape.
            precise: whether it has at least float32, whatever the variable dtype. What changes
                by small steps needs that: in bfloat16, a step below 1/256 of the value is lost.
            **kwargs: arguments of `add_weight`.
        """
        if precise:
            kwargs["dtype"] = keras.backend.result_type(self.variable_dtype, "float32")
        for option in ("initializer", "regularizer", "constraint"):
            kwargs.setdefault(option, getattr(self, f"{name}_{option}", None))
        return self.add_weight(name=name, shape=shape, autocast=False, **kwargs)

    def _per_channel(self, weight: Any, dtype: str | None = None) -> Tensor:
        """`weight` in a shape that broadcasts against the input."""
        if weight is None:
            return None
        weight = ops.cast(weight, dtype or weight.dtype)
        rank = len(self.axes.batch) + len(self.axes.spatial) + 1
        if len(weight.shape) == rank or self.axes.channel == rank - 1:
            return weight
        shape = [1] * rank
        shape[self.axes.channel] = -1
        return ops.reshape(weight, shape)

    def _with_channels(self, x: Tensor) -> Tensor:
        """`x` with its number of channels, where a graph of TensorFlow does not know it."""
        import tensorflow as tf

        shape = [None] * len(x.shape)
        shape[self.axes.channel] = self._channels
        return tf.ensure_shape(x, shape)

    def _refuse_single_elements(self, input_shape: Shape, channels: int) -> None:
        """Raises where a set of `channels` channels of a sample is known to hold one element."""
        sizes = [input_shape[axis] for axis in self.axes.spatial]
        if None not in sizes and math.prod(sizes) * channels == 1:
            raise ValueError(
                f"{type(self).__name__} would normalize over a single element, and its output "
                f"would be zero everywhere. Received: input_shape={tuple(input_shape)}. Use "
                "fewer groups, a larger input, or batch statistics."
            )

    def _align_mask(self, mask: Tensor | None, x: Tensor) -> Tensor | None:
        """The mask as a boolean tensor in the rank of `x`."""
        if mask is None:
            return None
        missing = len(x.shape) - len(mask.shape)
        sizes = zip(mask.shape, x.shape, strict=False)
        if missing < 0 or any(None not in pair and pair[0] not in (1, pair[1]) for pair in sizes):
            raise ValueError(
                "A mask covers the leading axes of the input, each with its size or 1, and cannot "
                f"have more axes than it. Received: mask.shape={tuple(mask.shape)}, "
                f"inputs.shape={tuple(x.shape)}"
            )
        for _ in range(missing):
            mask = ops.expand_dims(mask, -1)
        return ops.cast(mask, "bool")
