"""Weight normalization: a wrapper that reparameterizes the kernels of a layer."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import layers, ops
from keras.src.backend import AutocastScope  # Keras has no public way to read a variable uncast

from keras_norms.base import register
from keras_norms.kernels import (
    channel_axis,
    einsum_units,
    join_units,
    kind_of,
    layers_with_kernels,
    unit_sizes,
    why_not_affine,
    with_bias,
)
from keras_norms.mean_only import MeanOnlyBatchNormalization
from keras_norms.moments import Axes, Shape, Tensor, instance_moments, pool, pool_replicas
from keras_norms.tree import all_variables

Values = dict[int, Tensor]  # {id of a variable: the value to use in place of its own}


@register
class WeightNormalization(layers.Wrapper):
    """Learns the length of weights apart from their direction (Salimans and Kingma, 2016).

        w = gain * v / ||v||                              one length per output unit
        y = activation(w.x + bias)
        y = activation(w.x - E_{n,s}[w.x] + bias)         with mean-only batch normalization

    The kernel of the wrapped layer is `v`, and `gain` starts at `||v||`, so that the layer's
    output does not change when it is wrapped. The layer's initializer, regularizer and
    constraint of its kernel apply to `v`. A unit that starts at `v = 0` stays 0. Inference
    replaces the batch mean by a moving one.

    The wrapper adds these weights, each also an attribute of its name:

    - `gain`, of shape `(units,)`; several axes of units are flattened in the order of the kernel;
    - `recurrent_gain`, for the recurrent kernel of an RNN;
    - `depthwise_gain`, for the depthwise kernel of a separable convolution.

    Under Bidirectional these names begin with `forward_` and `backward_`.

    Args:
        layer: a Dense, Conv*, Conv*Transpose, DepthwiseConv*, SeparableConv*, EinsumDense,
            Embedding (whose units are its rows), SimpleRNN, GRU or LSTM layer, or a
            Bidirectional one of these RNNs. Its config does not change.
        mean_only_batch_norm: whether to subtract the mean over the batch from `w.x`; not for
            Embedding and RNNs. The attribute of this name is the `MeanOnlyBatchNormalization`
            layer that does it, or None. A mask leaves padded positions out of the mean.
        momentum: float in [0, 1], what one training step keeps of the moving mean.
        synchronized: whether the mean is that of all replicas of `tf.distribute` together.
        kernels: names of the kernels to normalize; by default all. An RNN has "kernel" and
            "recurrent_kernel", SeparableConv* has "pointwise_kernel" and "depthwise_kernel".
        ghost_batch_size: None, or int: take the mean over slices of so many samples each.
        **kwargs: arguments of `keras.layers.Layer`. By default `dtype` is that of `layer`.

    Raises:
        ValueError: if the layer has no floating-point kernel to normalize, or not the `kernels`
            named; with mean-only batch normalization, if it does not compute `w.x + bias`.

    Reference:
        [Weight Normalization](https://arxiv.org/abs/1602.07868), sections 2 to 4.

    Example:
        >>> import keras, keras_norms
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> layer = keras_norms.WeightNormalization(dense)
        >>> x = keras.ops.ones((2, 4))
        >>> y = layer(x)
        >>> float(layer.gain[0])  # the length of the kernel (1, 1, 1, 1)
        2.0
        >>> bool(keras.ops.all(layer.remove()(x) == y))
        True
    """

    def __init__(
        self,
        layer: keras.Layer,
        mean_only_batch_norm: bool = False,
        momentum: float = 0.9,
        synchronized: bool = False,
        kernels: Sequence[str] | set[str] | None = None,
        ghost_batch_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", getattr(layer, "dtype_policy", None))
        super().__init__(layer, **kwargs)
        self.autocast = False  # the wrapped layer casts the inputs itself
        self.supports_masking = layer.supports_masking
        self.momentum = momentum
        self.synchronized = synchronized
        self.ghost_batch_size = ghost_batch_size
        known = {
            name for part in layers_with_kernels(layer).values() for name in kind_of(part).kernels
        }
        listed = isinstance(kernels, (tuple, list, set)) and len(kernels) > 0
        if kernels is not None and not (listed and all(k in sorted(known) for k in kernels)):
            raise ValueError(
                f"`kernels` must list names among {sorted(known)} for a {type(layer).__name__} "
                f"layer. Received: kernels={kernels!r}"
            )
        self.kernels = kernels
        self.mean_only_batch_norm: MeanOnlyBatchNormalization | None = None
        if mean_only_batch_norm:
            obstacle = why_not_affine(layer)
            if obstacle:
                raise ValueError(
                    f"Mean-only batch normalization subtracts the mean of w.x, but {obstacle}. "
                    f"Wrap it with mean_only_batch_norm=False. Received: layer={layer}"
                )
            self.mean_only_batch_norm = MeanOnlyBatchNormalization(
                axis=channel_axis(layer),
                momentum=momentum,
                center=False,
                synchronized=synchronized,
                ghost_batch_size=ghost_batch_size,
                dtype=layer.dtype_policy,
                name="mean_only_batch_norm",
            )

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        for name, kernel, axes in self._kernels():
            if not isinstance(kernel, keras.Variable) or "float" not in kernel.dtype:
                raise ValueError(
                    "WeightNormalization needs a kernel that is a floating-point variable: wrap "
                    "a layer that is not quantized and has no LoRA enabled. "
                    f"Received: layer={self.layer}"
                )
            gain = self.add_weight(
                name=name,
                shape=(math.prod(kernel.shape[axis] for axis in axes),),
                # An initializer, since Keras may compute the kernel's value after this method.
                initializer=functools.partial(initial_gain, kernel, axes),
                dtype=_value(kernel).dtype,
                autocast=False,
            )
            setattr(self, name, gain)
        if self.mean_only_batch_norm is not None:
            shape = tuple(self.layer.compute_output_shape(input_shape))
            sizes = unit_sizes(self.layer)
            if len(sizes) > 1:
                shape = (*shape[: -len(sizes)], math.prod(sizes))
            self.mean_only_batch_norm.build(shape)

    def call(
        self,
        inputs: Tensor,
        initial_state: Any = None,
        mask: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        layer, norm = self.layer, self.mean_only_batch_norm
        if norm is None:
            arguments = self._arguments(initial_state, mask, training)
            return _call_with(layer, self._weights(), inputs, **arguments)
        x = _pre_activation(layer, self._weights(), inputs)
        joined = join_units(layer, x)
        joined = norm(joined, mask=_align(mask, joined, norm.axis), training=training)
        x = ops.reshape(joined, ops.shape(x))
        if layer.bias is not None:
            bias = ops.cast(_value(layer.bias), x.dtype)
            x = x + (bias if norm.axis == -1 else ops.reshape(bias, (-1,) + (1,) * layer.rank))
        x = layer.activation(x)
        if layer.activity_regularizer is not None:
            loss = layer.activity_regularizer(x)
            layer.add_loss(ops.divide_no_nan(loss, ops.cast(ops.shape(x)[0], loss.dtype)))
        return x

    def initialize(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Gives each unit's pre-activation mean 0 and variance 1 over a batch.

            t = v.x / ||v||,  gain = 1 / std(t),  bias = -mean(t) / std(t)

        With mean-only batch normalization the bias is 0 and the moving mean is
        `mean(t) / std(t)`. A unit that does not vary gets gain 1. Only this method initializes:
        calls and `fit` do not.

        Args:
            x: inputs of the layer, `(batch, ...)`.
            mask: None, or boolean, `(batch, ...)`: True for the samples or output positions to
                take the moments of.

        Returns:
            The output of the layer for `x` in inference mode.

        Raises:
            ValueError: if the layer is no Dense, Conv*, Conv*Transpose, DepthwiseConv* or
                EinsumDense layer, or if its bias is not one number per output unit.

        Reference:
            [Weight Normalization](https://arxiv.org/abs/1602.07868), section 3.
        """
        obstacle = self.why_not_initialize()
        if obstacle:
            raise ValueError(f"Data-dependent initialization needs another layer: {obstacle}.")
        x = ops.convert_to_tensor(x)
        if not self.built:
            self.build(tuple(x.shape))
        layer, norm = self.layer, self.mean_only_batch_norm
        ((_, kernel, axes),) = self._kernels()
        direction = {id(kernel): scaled(kernel, ops.ones(self.gain.shape), axes)}
        t = join_units(layer, _pre_activation(layer, direction, x))
        t = ops.cast(t, keras.backend.result_type(t.dtype, "float32"))
        rank, channel = len(t.shape), channel_axis(layer) % len(t.shape)
        roles = Axes((0,), tuple(axis for axis in range(1, rank) if axis != channel), channel)
        _, _, moments = instance_moments(t, roles, _align(mask, t, channel))
        mean, variance, _ = pool_replicas(pool(moments, roles.batch))
        mean, std = ops.reshape(mean, (-1,)), ops.reshape(ops.sqrt(variance), (-1,))
        varies = std > 1e-6 * ops.abs(mean)  # a smaller one is rounding
        gain = ops.where(varies, 1 / ops.where(varies, std, 1), 1)
        self.gain.assign(gain)
        if norm is not None:
            norm.moving_mean.assign(mean * gain)
        if layer.bias is not None:
            bias = -mean * gain if norm is None else ops.zeros(layer.bias.shape)
            layer.bias.assign(ops.reshape(bias, layer.bias.shape))
        return type(self).call(self, x, mask=mask, training=False)

    def remove(self) -> keras.Layer:
        """A new plain layer that computes what this one does at inference.

        Returns:
            A built layer with the class, config and name of the wrapped one and the kernel `w`.
            Its bias includes the moving mean; if the wrapped layer has no bias, one is added.

        Raises:
            ValueError: if this layer is not built.
        """
        if not self.built:
            raise ValueError(f"Layer {self.name!r} has no weights yet: call it before `remove()`.")
        layer, norm, weights = self.layer, self.mean_only_batch_norm, self._weights()
        config = layer.get_config()
        if norm is not None:
            config.update(with_bias(layer))
        plain = type(layer).from_config(config)
        plain.build_from_config(layer.get_build_config())
        old, new = all_variables(layer), all_variables(plain)
        if norm is not None:
            bias = 0 if layer.bias is None else _value(layer.bias)
            bias = bias - ops.reshape(norm.moving_mean, unit_sizes(layer))
            plain.bias.assign(ops.reshape(bias, plain.bias.shape))
            old = [variable for variable in old if variable is not layer.bias]
            new = [variable for variable in new if variable is not plain.bias]
        for target, source in zip(new, old, strict=True):
            target.assign(weights.get(id(source), _value(source)))
        return plain

    def compute_mask(self, inputs: Tensor, previous_mask: Any) -> Any:
        return self.layer.compute_mask(inputs, previous_mask)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(
        self, inputs: Any, initial_state: Any = None, mask: Any = None, training: bool | None = None
    ) -> Any:
        arguments = self._arguments(initial_state, mask, training)
        return self.layer.compute_output_spec(inputs, **arguments)

    def get_config(self) -> dict[str, Any]:
        return {
            **_without_build(super().get_config()),
            "mean_only_batch_norm": self.mean_only_batch_norm is not None,
            "momentum": self.momentum,
            "synchronized": self.synchronized,
            "ghost_batch_size": self.ghost_batch_size,
            "kernels": None if self.kernels is None else list(self.kernels),
        }

    def _kernels(self) -> Iterator[tuple[str, keras.Variable, tuple[int, ...]]]:
        """`(name of the gain, kernel, axes of its units)` of every kernel to normalize."""
        for prefix, part in layers_with_kernels(self.layer).items():
            for attribute, (gain, axes) in kind_of(part).kernels.items():
                if self.kernels is None or attribute in self.kernels:
                    kernel = getattr(getattr(part, "cell", part), attribute)
                    yield prefix + gain, kernel, axes or einsum_units(part)[1]

    def _weights(self) -> Values:
        """`w` of every kernel to normalize, by the id of the kernel."""
        return {
            id(kernel): scaled(kernel, getattr(self, name), axes)
            for name, kernel, axes in self._kernels()
        }

    def _arguments(
        self, initial_state: Any, mask: Tensor | None, training: bool | None
    ) -> dict[str, Any]:
        """Those arguments of a call that the wrapped layer accepts."""
        arguments = {"mask": mask, "training": training}
        accepted = self.layer.call_signature_parameters
        arguments = {name: value for name, value in arguments.items() if name in accepted}
        return arguments if initial_state is None else {**arguments, "initial_state": initial_state}

    def why_not_initialize(self) -> str | None:
        """Why `initialize` would raise for this layer; None if it would not."""
        layer = self.layer
        obstacle = why_not_affine(layer)
        if obstacle:
            return obstacle
        if not kind_of(layer).single:
            return f"{type(layer).__name__} has two kernels"
        if isinstance(layer, layers.EinsumDense) and self.mean_only_batch_norm is None:
            units, along = einsum_units(layer)[0], layer.bias_axes
            if along and set(along) != set(units):
                return f"its bias has the axes {along!r}, but its units have {units!r}"
        return None


def _without_build(config: Any) -> Any:
    """A config without the shapes that Keras adds to it once a layer is built."""
    if not isinstance(config, dict):
        return config
    return {key: _without_build(value) for key, value in config.items() if key != "build_config"}


def _value(variable: keras.Variable) -> Tensor:
    """The value of a variable in its own dtype. Within a call, Keras would cast it."""
    with AutocastScope(None):
        return ops.convert_to_tensor(variable.value)


def _squares(kernel: keras.Variable, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`v` in at least float32, and `||v||^2` in its rank: sums over all axes but `axes`."""
    v = _value(kernel)
    v = ops.cast(v, keras.backend.result_type(v.dtype, "float32"))
    units = [axis % len(v.shape) for axis in axes]
    others = tuple(axis for axis in range(len(v.shape)) if axis not in units)
    return v, ops.sum(ops.square(v), others, keepdims=True)


def scaled(kernel: keras.Variable, gain: Tensor, axes: Sequence[int]) -> Tensor:
    """`gain * v / ||v||`; where `v = 0` it is 0 and its gradient is finite.

    Args:
        kernel: the direction `v`.
        gain: of shape `(units,)`.
        axes: the axes of the kernel that are output units.
    """
    v, squares = _squares(kernel, axes)
    gain = ops.reshape(ops.cast(gain, v.dtype), squares.shape)
    return ops.cast(v * (gain / ops.sqrt(ops.where(squares > 0, squares, 1))), _value(kernel).dtype)


def initial_gain(
    kernel: keras.Variable, axes: Sequence[int], shape: Shape, dtype: str | None = None
) -> Tensor:
    """An initializer, once `kernel` and `axes` are given: the gain starts at `||v||`."""
    return ops.cast(ops.reshape(ops.sqrt(_squares(kernel, axes)[1]), shape), dtype)


def _call_with(layer: keras.Layer, values: Values, inputs: Tensor, **arguments: Any) -> Tensor:
    """Calls `layer` with `values` in place of what its variables hold.

    The variables keep what they hold. Gradients flow through `values` to what these are computed
    from.
    """
    variables = all_variables(layer)
    before = {id(variable): _value(variable) for variable in variables} | values
    scope = keras.StatelessScope(collect_losses=True)
    for variable in variables:  # all of them, since this scope hides the updates of outer scopes
        scope.add_update((variable, before[id(variable)]))
    with scope:
        outputs = layer(inputs, **arguments)
        losses = [(sublayer, sublayer._get_own_losses()) for sublayer in layer._flatten_layers()]
    for variable in variables:  # the call may update seeds of dropout and states of RNNs
        after = scope.get_current_value(variable)
        if after is not before[id(variable)]:
            variable.assign(after)
    for sublayer, own in losses:
        sublayer.add_loss(own)
    return outputs


def _pre_activation(layer: keras.Layer, values: Values, inputs: Tensor) -> Tensor:
    """`w.x`: what the layer computes without its bias, activation and activity regularizer."""
    if layer.bias is not None:
        values = {**values, id(layer.bias): ops.zeros_like(_value(layer.bias))}
    aside = layer.activation, layer.activity_regularizer
    try:
        layer.activation, layer.activity_regularizer = keras.activations.linear, None
        return _call_with(layer, values, inputs)
    finally:
        layer.activation, layer.activity_regularizer = aside


def _align(mask: Tensor | None, x: Tensor, channel: int) -> Tensor | None:
    """A mask over samples and positions as a boolean tensor in the rank of `x`."""
    if mask is None:
        return None
    given, positions = tuple(mask.shape), list(x.shape)
    del positions[channel]
    fits = all(None in pair or pair[0] == pair[1] for pair in zip(given, positions, strict=False))
    if len(given) > len(positions) or not fits:
        raise ValueError(
            "A mask covers samples, or samples and positions of the output: it needs the leading "
            f"axes of {tuple(positions)}. Remove the mask before a layer that changes the "
            f"positions. Received: mask.shape={given}"
        )
    for _ in range(len(positions) - len(given)):
        mask = ops.expand_dims(mask, -1)
    return ops.cast(ops.expand_dims(mask, channel), "bool")
