"""Weight normalization: a wrapper that reparameterizes the kernels of a layer."""

import functools
import math
import threading
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_norms.base import register
from keras_norms.kernels import (
    channel_axis,
    einsum_units,
    join_units,
    kind_of,
    unit_sizes,
    why_not_affine,
    with_bias,
)
from keras_norms.mean_only import MeanOnlyBatchNormalization
from keras_norms.model_layers import frozen_norms, take_frozen
from keras_norms.moments import Axes, Shape, Tensor, instance_moments, pool, pool_replicas
from keras_norms.wrapper import (
    KernelNormalization,
    Values,
    call_with,
    precise,
    summed_axes,
    value_of,
)


@register
class WeightNormalization(KernelNormalization):
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

    Weights of a plain layer go into the wrapped one by `.layer.set_weights`, also after `build`:
    the gains follow. A weights file of a plain model is refused: load it into that model first.

    What else the wrapped layer has can be read and called here too: `units`, `bias`, `states`,
    `reset_state()`. Its `kernel`, read here, is the `w` in use. `quantize` and `enable_lora`
    are refused, since they would replace the kernel: they need the plain layer that `remove()`
    makes. `Model.quantize` leaves this layer in floating point, with a warning, as it does with
    all layers that cannot be quantized.

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
            named; with mean-only batch normalization, if it does not compute `w.x + bias`; if
            Bidirectional is outside of the wrapper, not inside.

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
        super().__init__(layer, kernels, **kwargs)
        self.momentum = momentum
        self.synchronized = synchronized
        self.ghost_batch_size = ghost_batch_size
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
            if not self.trainable:  # by the config of a frozen layer
                self.mean_only_batch_norm.trainable = False

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        for name, kernel, axes in self._kernels():
            gain = self.add_weight(
                name=name,
                shape=(math.prod(kernel.shape[axis] for axis in axes),),
                # An initializer, since Keras may compute the kernel's value after this method.
                initializer=functools.partial(initial_gain, kernel, axes),
                dtype=value_of(kernel).dtype,
                autocast=False,
            )
            setattr(self, name, gain)
        self._follow_set_weights()
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
            return super().call(inputs, initial_state, mask, training)
        x = _pre_activation(layer, self._weights(), inputs)
        joined = join_units(layer, x)
        joined = norm(joined, mask=_align(mask, joined, norm.axis), training=training)
        x = ops.reshape(joined, ops.shape(x))
        if layer.bias is not None:
            bias = ops.cast(value_of(layer.bias), x.dtype)
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
        layer, norm = self.layer, self.mean_only_batch_norm
        if norm is None:
            return super().remove()
        bias = 0 if layer.bias is None else value_of(layer.bias)
        bias = bias - ops.reshape(norm.moving_mean, unit_sizes(layer))
        return self._plain(with_bias(layer), bias)

    def _follow_set_weights(self) -> None:
        """Lets the gains start anew when plain weights are put into the wrapped layer.

        Its kernel would get the length of the one before.
        """
        set_weights = self.layer.set_weights

        def set_weights_and_gains(weights: Sequence[Any]) -> None:
            set_weights(weights)
            for name, kernel, axes in self._kernels():
                gain = getattr(self, name)
                gain.assign(initial_gain(kernel, axes, gain.shape, gain.dtype))

        self.layer.set_weights = set_weights_and_gains

    @classmethod
    def from_config(cls, config: dict[str, Any], **kwargs: Any) -> "WeightNormalization":
        """The layer of a config. That of TensorFlow Addons is accepted, without its `data_init`."""
        config = {name: value for name, value in config.items() if name != "data_init"}
        frozen = take_frozen(config)
        layer = super().from_config(config, **kwargs)
        if frozen:
            layer.mean_only_batch_norm.trainable = False
        return layer

    def get_config(self) -> dict[str, Any]:
        norm = self.mean_only_batch_norm
        return {
            **super().get_config(),
            **frozen_norms([] if norm is None else [norm]),
            "mean_only_batch_norm": norm is not None,
            "momentum": self.momentum,
            "synchronized": self.synchronized,
            "ghost_batch_size": self.ghost_batch_size,
        }

    def normalized(self, name: str, kernel: keras.Variable, axes: Sequence[int]) -> Tensor:
        return scaled(kernel, getattr(self, name), axes)

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


def _squares(kernel: keras.Variable, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`v` in at least float32, and `||v||^2` in its rank: sums over all axes but `axes`."""
    v = precise(kernel)
    return v, ops.sum(ops.square(v), summed_axes(kernel, axes), keepdims=True)


def scaled(kernel: keras.Variable, gain: Tensor, axes: Sequence[int]) -> Tensor:
    """`gain * v / ||v||`; where `v = 0` it is 0 and its gradient is finite.

    Args:
        kernel: the direction `v`.
        gain: of shape `(units,)`.
        axes: the axes of the kernel that are output units.
    """
    v, squares = _squares(kernel, axes)
    gain = ops.reshape(ops.cast(gain, v.dtype), squares.shape)
    return ops.cast(
        v * (gain / ops.sqrt(ops.where(squares > 0, squares, 1))), value_of(kernel).dtype
    )


def initial_gain(
    kernel: keras.Variable, axes: Sequence[int], shape: Shape, dtype: str | None = None
) -> Tensor:
    """An initializer, once `kernel` and `axes` are given: the gain starts at `||v||`."""
    return ops.cast(ops.reshape(ops.sqrt(_squares(kernel, axes)[1]), shape), dtype)


# A layer is one object for all threads that call it.
_SET_ASIDE = threading.RLock()


def _pre_activation(layer: keras.Layer, values: Values, inputs: Tensor) -> Tensor:
    """`w.x`: what the layer computes without its bias, activation and activity regularizer."""
    if layer.bias is not None:
        values = {**values, id(layer.bias): ops.zeros_like(value_of(layer.bias))}
    with _SET_ASIDE:
        aside = layer.activation, layer.activity_regularizer
        try:
            layer.activation, layer.activity_regularizer = keras.activations.linear, None
            return call_with(layer, values, inputs)
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
