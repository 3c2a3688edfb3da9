"""GRU that normalizes each contribution to its gates on its own."""

from typing import Any

import keras
from keras import layers, ops

from keras_norms.base import register
from keras_norms.moments import Tensor
from keras_norms.recurrent import Normalize, NormalizedCell, NormalizedGates, NormalizedLoop


class _GRU(NormalizedGates):
    joint_gates = ("zr", "h")  # the gates as one vector, the candidate as another: Ba et al.

    def _make_norms(self, *args: Any) -> None:
        super()._make_norms(*args)
        if not (self.reset_after or self.norm.is_identity):
            raise ValueError(
                "The norm needs U h before the reset gate is applied, as with reset_after=True. "
                f"Received: reset_after={self.reset_after}, norm={self.norm.spec!r}"
            )

    def advance(
        self, cell: keras.Layer, x: Tensor, u: Tensor, states: list[Tensor], normalize: Normalize
    ) -> list[Tensor]:
        (h,) = states
        x_z, x_r, x_h = ops.split(x, 3, axis=-1)
        u_z, u_r, u_h = ops.split(u, 3, axis=-1)
        z = cell.recurrent_activation(x_z + u_z)
        r = cell.recurrent_activation(x_r + u_r)
        return [z * h + (1 - z) * cell.activation(x_h + r * u_h)]


@register
class NormalizedGRUCell(_GRU, NormalizedCell, layers.GRUCell):
    """One step of `NormalizedGRU`, for `keras.layers.RNN`. Its norm has no batch statistics.

    Args:
        units: int, the size of the state.
        *args: further arguments of `keras.layers.GRUCell`.
        norm: what `keras_norms.get` accepts, without batch statistics.
        per_gate: whether both gates are normalized on their own, not as one vector.
        **kwargs: arguments of `keras.layers.GRUCell`.

    Raises:
        ValueError: as `NormalizedGRU`; or if the norm has batch statistics, since a cell cannot
            update moving statistics (use `NormalizedGRU`).

    Reference:
        [Layer Normalization](https://arxiv.org/abs/1607.06450), supplementary material, "Order
        embeddings and skip-thoughts".

    Example:
        >>> import keras, keras_norms
        >>> layer = keras.layers.RNN(keras_norms.NormalizedGRUCell(4, norm="ln"))
        >>> tuple(layer(keras.ops.ones((2, 5, 3))).shape)
        (2, 4)
    """


@register
class NormalizedGRU(_GRU, NormalizedLoop, layers.GRU):
    """GRU that normalizes the input's and the state's contributions.

        x_z, x_r, x_h = norm_x(W x_t) + b_x
        u_z, u_r, u_h = norm_h(U h_{t-1}) + b_h
        z, r = sigmoid(x_z + u_z), sigmoid(x_r + u_r)
        h_t = z * h_{t-1} + (1 - z) * tanh(x_h + r * u_h)

    Each norm normalizes the parts of the gates `z, r` as one vector and that of the candidate as
    another. `b_x` and `b_h` are the two rows of Keras's `bias`. A drop-in for
    `keras.layers.GRU`, which it equals with norm="none". Norms with batch statistics, switchable
    and weight normalization do what they do in `NormalizedLSTM`.

    Args:
        units: int, the size of the state.
        *args: further arguments of `keras.layers.GRU`.
        norm: what `keras_norms.get` accepts.
        per_gate: whether both gates are normalized on their own, not as one vector.
        max_steps: int, how many time steps have their own batch statistics, as in
            `NormalizedLSTM`.
        gamma_initializer: initializer of every gamma. None: 0.1 for norms with batch statistics,
            for others the initializer in the spec.
        **kwargs: arguments of `keras.layers.GRU`. Without a norm, `reset_after` may be False.
            LiteRT needs `unroll=True`, as for that layer.

    Raises:
        ValueError: for a norm with `reset_after=False`, which multiplies the state by `r` before
            `U`; or if the norm needs a spatial axis. In a call: if statistics are synchronized
            over several replicas without `unroll=True`, since TensorFlow's replicas cannot
            communicate inside a loop.

    Reference:
        [Layer Normalization](https://arxiv.org/abs/1607.06450), supplementary material, "Order
        embeddings and skip-thoughts", and
        [Recurrent Batch Normalization](https://arxiv.org/abs/1603.09025), section 3.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras_norms.NormalizedGRU(4, norm="bn", max_steps=10, return_sequences=True)
        >>> tuple(layer(keras.ops.ones((2, 5, 3))).shape)
        (2, 5, 4)
        >>> [tuple(norm.moving_mean.shape) for norm in layer.recurrent_norms]  # gates, candidate
        [(10, 8), (10, 4)]
    """
