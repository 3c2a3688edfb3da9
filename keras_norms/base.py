"""What all normalization layers share: axes, affine, masks, precision, serialization."""

import inspect
import math
import operator

import keras
from keras import ops

from keras_norms import fused
from keras_norms.moments import (
    Axes,
    Moments,
    affine,
    average,
    average_replicas,
    instance_moments,
    pool,
    pool_replicas,
    pool_slices,
)

register = keras.saving.register_keras_serializable("keras_norms")


class Normalization(keras.layers.Layer):
    """Base of the layers that normalize an activation.

        y = gamma * (x - mean) * inverse_std + beta

    A subclass says in `mean_and_inverse_std` where the two come from; all the rest is here.
    Statistics are computed in float32 (float64 for float64) whatever the compute dtype, and the
    output has the compute dtype. Deviations from the mean have to stay below 1e18 in float32,
    where their squares end.

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
    """

    fusible = True  # whether `fused` may take the place of `apply`; settable

    def __init__(
        self,
        axis=-1,
        epsilon=1e-3,
        center=True,
        scale=True,
        *,
        beta_initializer="zeros",
        gamma_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        batch_axis=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.axis = _integer("axis", axis)
        self.epsilon = _number("epsilon", epsilon)
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
            self.batch_axis = tuple(_integer("batch_axis", axis) for axis in batch_axis)
        else:
            self.batch_axis = _integer("batch_axis", batch_axis)
        self.supports_masking = True
        # Keras would otherwise cast the input to the compute dtype before `call` sees it.
        self.autocast = False
        self.gamma = self.beta = None

    def resolve(self, input_shape):
        """Settles what depends on the shape of the input, but for the weights."""
        self.axes = self._resolve_axes(input_shape)
        channels = input_shape[self.axes.channel]
        if channels is None:
            raise ValueError(
                f"Axis {self.axis} of the input tensor should have a defined dimension but the "
                f"layer received an input with shape {tuple(input_shape)}. Give the number of "
                "channels in the input shape, or choose another `axis`."
            )
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={self.axes.channel: channels}
        )

    def build(self, input_shape):
        self.resolve(input_shape)
        channels = input_shape[self.axes.channel]
        if self.scale:
            self.gamma = self._add_weight("gamma", channels)
        if self.center:
            self.beta = self._add_weight("beta", channels)

    def call(self, inputs, training=None, mask=None):
        outputs, _ = self.apply(inputs, training, mask)
        return outputs

    def apply(self, inputs, training=None, mask=None, first_step=0):
        """What `call` returns, without its effect on moving statistics.

        A loop over time calls this for each step and, once it has ended, `move`.

        Args:
            inputs: as for `call`.
            training: as for `call`.
            mask: as for `call`.
            first_step: int or int32 scalar, the number of the first time step in `inputs`.

        Returns:
            `(outputs, batch)`, where `batch` is what `move` takes, or None if nothing moves.
        """
        reads = self._reads_activation(training)
        if reads and fused.serves(self, inputs, training, mask):
            return fused.apply(self, inputs)
        dtype = keras.backend.result_type(inputs.dtype, self.compute_dtype, "float32")
        x, mask = ops.cast(inputs, dtype), self._align_mask(mask, inputs)
        pivot, instance = 0.0, None
        if reads:
            x, pivot, instance = instance_moments(x, self.moment_axes, mask)
        scale, shift, moved = self.coefficients(x, pivot, instance, training, first_step)
        outputs = x + shift if scale is None else x * scale + shift
        return ops.cast(outputs, self.compute_dtype), moved

    def coefficients(self, x, pivot, instance, training, first_step=0):
        """`(scale, shift, moved)`, with which the output is `scale * (x - pivot) + shift`."""
        batch, moved = self._batch_moments(x, instance, training, first_step)
        mean, inverse_std = self.mean_and_inverse_std(instance, batch)
        gamma = self._per_channel(self.gamma, x.dtype)
        beta = self._per_channel(self.beta, x.dtype)
        return *affine(mean - pivot, inverse_std, gamma, beta), moved

    @property
    def moment_axes(self):
        """The `Axes` to take moments by: `axes`, unless the moments of samples are not needed."""
        return self.axes

    def mean_and_inverse_std(self, instance, batch):
        """Where this normalization takes its statistics from.

        Args:
            instance: `Moments` of each channel of each sample, or None where
                `_reads_activation(training)` is false.
            batch: `Moments` of the batch in training, or the moving ones; None for a
                normalization without batch statistics.

        Returns:
            `(mean, inverse_std)`, tensors of the rank of the input that broadcast against it.
            `inverse_std` may be None, for no scaling.
        """
        raise NotImplementedError

    def compute_output_shape(self, input_shape):
        self._resolve_axes(input_shape)
        return input_shape

    def get_config(self):
        arguments = {name: _serialize(value) for name, value in self.arguments().items()}
        return arguments | super().get_config()

    def arguments(self):
        """The arguments of all constructors from this class up to `Normalization`, by name."""
        classes = (cls for cls in type(self).__mro__ if issubclass(cls, Normalization))
        return {
            name: getattr(self, name)
            for cls in classes
            for name, parameter in inspect.signature(cls.__init__).parameters.items()
            if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
        }

    def _reads_activation(self, training):
        return True

    def moves(self, training):
        """Whether a call moves moving statistics."""
        return False

    def _batch_moments(self, x, instance, training, first_step):
        return None, None

    def _inverse_std(self, variance):
        return ops.rsqrt(variance + self.epsilon)

    def _resolve_axes(self, shape):
        rank = len(shape)

        def resolve(name, axis):
            if not -rank <= axis < rank:
                raise ValueError(
                    f"Axis {axis} is out of bounds for input shape {tuple(shape)}: `{name}` of a "
                    f"tensor of rank {rank} lies between {-rank} and {rank - 1}. "
                    f"Received: {name}={getattr(self, name)}"
                )
            return axis % rank

        channel = resolve("axis", self.axis)
        axes = self.batch_axis if isinstance(self.batch_axis, tuple) else (self.batch_axis,)
        batch = tuple(sorted(resolve("batch_axis", axis) for axis in axes))
        if not batch or len(set(batch)) < len(batch) or channel in batch:
            raise ValueError(
                "`batch_axis` names one or more different axes, and not the channel axis. "
                f"Received: batch_axis={self.batch_axis}, axis={self.axis} for input shape "
                f"{tuple(shape)}"
            )
        spatial = tuple(a for a in range(rank) if a != channel and a not in batch)
        return Axes(batch, spatial, channel)

    def _add_weight(self, name, *shape, **kwargs):
        """A float32 weight, with what the constructor's `{name}_*` arguments say of it."""
        for option in ("initializer", "regularizer", "constraint"):
            kwargs.setdefault(option, getattr(self, f"{name}_{option}", None))
        return self.add_weight(name=name, shape=shape, autocast=False, **kwargs)

    def _per_channel(self, weight, dtype=None):
        """`weight` in the rank of the input, so that it broadcasts against it."""
        if weight is None:
            return None
        shape = [1] * self.input_spec.ndim
        shape[self.axes.channel] = -1
        return ops.reshape(ops.cast(weight, dtype or weight.dtype), shape)

    def _require_spatial_axis(self, input_shape):
        axes = self._resolve_axes(input_shape)
        if not axes.spatial:
            raise ValueError(
                f"{type(self).__name__} needs at least one spatial axis beside the batch and "
                f"the channels. Received: input_shape={tuple(input_shape)} with axis="
                f"{self.axis} and batch_axis={self.batch_axis}. Without spatial axes use "
                "GroupNormalization or BatchNormalization."
            )

    def _refuse_single_elements(self, input_shape, channels):
        """Raises where a set of `channels` channels of a sample is known to hold one element."""
        sizes = [input_shape[axis] for axis in self.axes.spatial]
        if None not in sizes and math.prod(sizes) * channels == 1:
            raise ValueError(
                f"{type(self).__name__} would normalize over a single element, and its output "
                f"would be zero everywhere. Received: input_shape={tuple(input_shape)}. Use "
                "fewer groups, a larger input, or batch statistics."
            )

    def _align_mask(self, mask, x):
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


class MovingNormalization(Normalization):
    """Base of the normalizations with batch statistics, which inference replaces by moving ones.

        moving = momentum * moving + (1 - momentum) * batch

    Args:
        axis: int, the channel axis.
        momentum: float in [0, 1], what one training step keeps of the moving statistics (1
            minus PyTorch's momentum).
        epsilon: float, added to the variance.
        center: whether to add `beta`.
        scale: whether to multiply by `gamma`.
        moving_mean_initializer: initializer of `moving_mean`.
        moving_variance_initializer: initializer of `moving_variance`.
        synchronized: whether batch statistics are those of all replicas of `tf.distribute`
            together. No effect elsewhere: other backends' batch statistics are global already.
        ghost_batch_size: None, or int: take the batch statistics over slices of so many samples
            each (the last may be smaller), as as many replicas without synchronization would.
            The slices are those of the first axis in `batch_axis`.
        max_steps: None, or int: keep the statistics of each time step apart, as recurrent batch
            normalization does. Time is the last of the (two or more) axes in `batch_axis`, and
            the moving statistics have shape `(max_steps, channels)`; the last one serves all
            later steps. Inference uses the last step that training has seen for those it has not.
        **kwargs: arguments of `Normalization`.
    """

    _uses_samples = True  # other statistics than those of the batch

    def __init__(
        self,
        axis=-1,
        momentum=0.99,
        epsilon=1e-3,
        center=True,
        scale=True,
        *,
        moving_mean_initializer="zeros",
        moving_variance_initializer="ones",
        synchronized=False,
        ghost_batch_size=None,
        max_steps=None,
        **kwargs,
    ):
        super().__init__(axis=axis, epsilon=epsilon, center=center, scale=scale, **kwargs)
        self.momentum = _number("momentum", momentum)
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"`momentum` must lie in [0, 1]. Received: momentum={momentum}")
        self.moving_mean_initializer = initializer(
            "moving_mean_initializer", moving_mean_initializer
        )
        self.moving_variance_initializer = initializer(
            "moving_variance_initializer", moving_variance_initializer
        )
        self.synchronized = bool(synchronized)
        self.ghost_batch_size = _positive("ghost_batch_size", ghost_batch_size)
        if self.synchronized and self.ghost_batch_size:
            raise ValueError(
                "Statistics are either those of all replicas together or of slices of the batch. "
                f"Received: synchronized=True, ghost_batch_size={ghost_batch_size}"
            )
        self.max_steps = _positive("max_steps", max_steps)
        self.moving_mean = self.moving_variance = self.moving_steps = None

    def build(self, input_shape):
        super().build(input_shape)
        if self.max_steps is not None and len(self.axes.batch) < 2:
            raise ValueError(
                "`max_steps` needs the axis of time in `batch_axis`, as in batch_axis=(0, 1). "
                f"Received: max_steps={self.max_steps}, batch_axis={self.batch_axis}"
            )
        self._build_moving(input_shape[self.axes.channel])

    @property
    def moment_axes(self):
        if self._uses_samples or self.ghost_batch_size or self.max_steps:
            return self.axes
        # The whole batch at once.
        return Axes((), tuple(sorted(self.axes.batch + self.axes.spatial)), self.axes.channel)

    def call(self, inputs, training=None, mask=None):
        outputs, batch = self.apply(inputs, training, mask)
        if batch is not None:
            self.move(batch)
        return outputs

    def move(self, batch, first_step=0):
        """Moves the moving statistics by those of a batch, to the same value on every replica.

        Args:
            batch: `Moments` from `apply`. What has no elements moves nothing.
            first_step: int or int32 scalar, the number of the first time step in `batch`.
        """
        if not self.synchronized:
            batch = average_replicas(average(batch, self.pooled_axes))
        mean, variance, count = self.rows(batch, first_step)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            if moving is not None:
                value = ops.cast(value, moving.dtype)
                old = ops.convert_to_tensor(moving)
                new = old * self.momentum + value * (1 - self.momentum)
                moving.assign(ops.where(count > 0, new, old))
        if self.max_steps is not None:
            self.moving_steps.assign(ops.maximum(self.moving_steps, steps_seen(count)))

    def rows(self, batch, first_step):
        """`Moments` of a batch in the shape of the moving statistics."""
        if self.max_steps is None:
            return Moments(*(ops.reshape(part, (-1,)) for part in batch))
        shape = ops.shape(batch.mean)
        channel, time = self.axes.channel, self._time

        def by_step(part):
            part = ops.broadcast_to(part, shape)
            if channel < time:
                part = ops.swapaxes(part, channel, time)
            return ops.reshape(part, (-1, shape[channel]))

        mean, variance, count = map(by_step, batch)
        steps = first_step + ops.arange(shape[time], dtype="int32")
        rows = ops.minimum(steps, self.max_steps - 1)

        def total(values):
            return ops.segment_sum(values, rows, num_segments=self.max_steps)

        weight = ops.maximum(total(count), 1)
        return Moments(total(mean * count) / weight, total(variance * count) / weight, total(count))

    def _build_moving(self, channels):
        self._add_moving("moving_mean", channels)
        self._add_moving("moving_variance", channels)

    def _add_moving(self, name, channels):
        shape = (channels,) if self.max_steps is None else (self.max_steps, channels)
        setattr(self, name, self._add_weight(name, *shape, trainable=False))
        if self.max_steps is not None and self.moving_steps is None:
            # How many steps have statistics; training need not have seen all.
            self.moving_steps = self._add_weight(
                "moving_steps", initializer="zeros", trainable=False, dtype="float32"
            )

    def _reads_activation(self, training):
        return self.moves(training)

    def moves(self, training):
        return bool(training and self.trainable and self.moving_mean is not None)

    def _batch_moments(self, x, instance, training, first_step):
        """`Moments` to normalize by, and those to move by: of the batch in training only."""
        if self.moving_mean is None:
            return None, None
        if not self.moves(training):
            mean, variance = (
                None if moving is None else self._of_steps(x, moving, first_step)
                for moving in (self.moving_mean, self.moving_variance)
            )
            return Moments(mean, variance, None), None
        axes = self.pooled_axes
        if self.ghost_batch_size:
            return pool_slices(instance, self.axes.batch[0], self.ghost_batch_size, axes)
        batch = pool(instance, axes)
        batch = pool_replicas(batch) if self.synchronized else batch
        return batch, batch

    @property
    def pooled_axes(self):
        return tuple(axis for axis in self.axes.batch if axis != self._time)

    @property
    def _time(self):
        return None if self.max_steps is None else self.axes.batch[-1]

    def _of_steps(self, x, moving, first_step):
        """Moving statistics in the rank of `x`, those of its time steps where steps differ."""
        if self.max_steps is None:
            return self._per_channel(moving, x.dtype)
        last = ops.maximum(ops.cast(self.moving_steps, "int32"), 1) - 1
        steps = first_step + ops.arange(ops.shape(x)[self._time], dtype="int32")
        rows = ops.cast(ops.take(moving, ops.minimum(steps, last), axis=0), x.dtype)
        if self.axes.channel < self._time:
            rows = ops.transpose(rows)
        shape = [1] * len(x.shape)
        shape[self.axes.channel] = rows.shape[self.axes.channel > self._time]
        shape[self._time] = -1
        return ops.reshape(rows, shape)


def steps_seen(count):
    """The number of rows up to the last one that is not empty."""
    rows = ops.arange(1, count.shape[0] + 1, dtype=count.dtype)
    return ops.max(ops.where(ops.any(count > 0, axis=1), rows, 0))


def initializer(name, value):
    """An initializer; None is none, for which Keras would take one that serves kernels only."""
    if value is None:
        raise ValueError(f"`{name}` must be an initializer. Received: {name}=None")
    return keras.initializers.get(value)


def _positive(name, value):
    """`value`, if it is a positive int or None; else a ValueError."""
    if value is not None and _integer(name, value) < 1:
        raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
    return value


def _integer(name, value):
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise ValueError(f"`{name}` must be an int. Received: {name}={value!r}")


def _number(name, value):
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"`{name}` must be a number. Received: {name}={value!r}") from error


def _serialize(value):
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return list(value) if isinstance(value, tuple) else keras.saving.serialize_keras_object(value)
