"""LSTM that normalizes each contribution to its gates on its own."""

import keras
from keras import layers, ops

from keras_norms.base import register
from keras_norms.moments import Tensor
from keras_norms.recurrent import Normalize, NormalizedCell, NormalizedGates, NormalizedLoop


class _LSTM(NormalizedGates):
    joint_gates = ("ifco",)
    has_cell_norm = True

    def advance(
        self, cell: keras.Layer, x: Tensor, u: Tensor, states: list[Tensor], normalize: Normalize
    ) -> list[Tensor]:
        i, f, g, o = ops.split(x + u, 4, axis=-1)
        c = cell.recurrent_activation(f) * states[1]
        c = c + cell.recurrent_activation(i) * cell.activation(g)
        normalized = normalize(self.cell_norms[0], c) if self.cell_norms else c
        return [cell.recurrent_activation(o) * cell.activation(normalized), c]


@register
class NormalizedLSTMCell(_LSTM, NormalizedCell, layers.LSTMCell):
    """One step of `NormalizedLSTM`, for `keras.layers.RNN`. Its norm has no batch statistics.

    Args:
        units: int, the size of the state.
        *args: further arguments of `keras.layers.LSTMCell`.
        norm: what `keras_norms.get` accepts, without batch statistics.
        per_gate: whether each gate is normalized on its own, not all four as one vector.
        **kwargs: arguments of `keras.layers.LSTMCell`.

    Raises:
        ValueError: if the norm has batch statistics, since a cell cannot update moving
            statistics (use `NormalizedLSTM`); or if the norm needs a spatial axis.

    Reference:
        [Layer Normalization](https://arxiv.org/abs/1607.06450), equations 20 to 22.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras.layers.RNN(keras_norms.NormalizedLSTMCell(4, norm="ln"))
        >>> tuple(layer(keras.ops.ones((2, 5, 3))).shape)
        (2, 4)
    """


@register
class NormalizedLSTM(_LSTM, NormalizedLoop, layers.LSTM):
    """LSTM that normalizes the input's and the state's contributions, and the cell's output.

        gates = norm_x(W x_t) + norm_h(U h_{t-1}) + b
        c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
        h_t = sigmoid(o) * tanh(norm_c(c_t))

    The next step gets the cell `c` unnormalized. A drop-in for `keras.layers.LSTM`, which it
    equals with norm="none". The gates have one bias, `b`; `norm_c` adds a beta.

    - A norm with batch statistics keeps them for each time step (Cooijmans et al.), starts at
      gamma 0.1 and leaves padded steps out.
    - Switchable normalization uses layer and batch statistics here, if the spec lists no others,
      as `"sn(statistics=('layer', 'group'))"` does.
    - Weight normalization normalizes both kernels, with weights `gain` and `recurrent_gain`.
      With mean-only batch normalization the means of both contributions are subtracted.

    Args:
        units: int, the size of the state.
        *args: further arguments of `keras.layers.LSTM`.
        norm: what `keras_norms.get` accepts.
        per_gate: whether each gate is normalized on its own, not all four as one vector.
        max_steps: int, how many time steps have their own batch statistics; later steps use
            those of the last one. Steps count from the first one read, padding included; with
            `stateful`, from the last `reset_state()`.
        gamma_initializer: initializer of every gamma. None: 0.1 for norms with batch statistics,
            for others the initializer in the spec.
        **kwargs: arguments of `keras.layers.LSTM`. LiteRT needs `unroll=True`, as for that layer.

    Raises:
        ValueError: if the norm needs a spatial axis. In a call: if statistics are synchronized
            over several replicas without `unroll=True`, since TensorFlow's replicas cannot
            communicate inside a loop.

    Reference:
        [Layer Normalization](https://arxiv.org/abs/1607.06450), equations 20 to 22, and
        [Recurrent Batch Normalization](https://arxiv.org/abs/1603.09025), section 3.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras_norms.NormalizedLSTM(4, norm="bn", max_steps=10, return_sequences=True)
        >>> tuple(layer(keras.ops.ones((2, 5, 3))).shape)
        (2, 5, 4)
        >>> tuple(layer.recurrent_norms[0].moving_mean.shape)  # (time steps, gates * units)
        (10, 16)
    """
