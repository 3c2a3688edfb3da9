"""What a training step of a recurrent layer costs."""

import functools
from collections.abc import Iterator

import keras
import timing

import keras_norms

SHAPES = ((32, 64, 64), (64, 128, 128))  # batch, steps, features
UNITS = 128
BASE = "keras LSTM"
NORMS = ("none", "ln", "rms", "gn", "bn", "sn", "wn", "wn_mobn")


def layers() -> dict[str, keras.Layer]:
    """The layers: those of Keras, then ours."""
    lstm = functools.partial(keras_norms.NormalizedLSTM, UNITS, return_sequences=True)
    rnn = functools.partial(keras.layers.RNN, return_sequences=True)
    cell = keras_norms.NormalizedLSTMCell(UNITS, norm="ln")
    return {
        BASE: keras.layers.LSTM(UNITS, return_sequences=True),
        "keras RNN(LSTMCell)": rnn(keras.layers.LSTMCell(UNITS)),
        **{f"NormalizedLSTM({norm})": lstm(norm=norm) for norm in NORMS},
        "NormalizedLSTM(ln, per_gate)": lstm(norm="ln", per_gate=True),
        "RNN(NormalizedLSTMCell(ln))": rnn(cell),
    }


def training(rounds: int) -> Iterator[timing.Column]:
    """A training step of a recurrent layer, over all time steps."""
    for shape in SHAPES:
        for xla in (False, True):
            title = f"{shape}, {'XLA' if xla else 'plain'}"
            yield timing.time_layers(title, layers(), shape, BASE, rounds, xla)
