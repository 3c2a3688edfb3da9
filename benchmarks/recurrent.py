"""Cost of one training step of recurrent layers, as a ratio to keras.layers.LSTM.

    python benchmarks/recurrent.py

A step is the forward pass over all time steps and the gradients of the input and of the weights.
All layers are timed in turn within one run; a figure is the median over the rounds of the ratio
within a round, with the quartiles in brackets.
"""

import dataclasses
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import timing
import tyro

import keras_norms

SHAPES = ((32, 64, 64), (64, 128, 128))
BASE = "keras LSTM"
NORMS = ("none", "ln", "rms", "gn", "bn", "sn", "wn", "wn_mobn")


@dataclasses.dataclass
class Options:
    """What to measure."""

    rounds: int = 15
    """How many times every layer is timed."""
    units: int = 128
    """Units of every layer."""
    shapes: tuple[tuple[int, int, int], ...] = SHAPES
    """Input shapes (batch, steps, features)."""
    output: str | None = None
    """Write the table to this Markdown file as well."""


def layers(units):
    """The layers to compare: Keras's, then ours."""
    rnn = keras.layers.RNN
    ours = {
        f"NormalizedLSTM({norm})": keras_norms.NormalizedLSTM(
            units, norm=norm, return_sequences=True
        )
        for norm in NORMS
    }
    return {
        BASE: keras.layers.LSTM(units, return_sequences=True),
        "keras RNN(LSTMCell)": rnn(keras.layers.LSTMCell(units), return_sequences=True),
        **ours,
        "NormalizedLSTM(ln, per_gate)": keras_norms.NormalizedLSTM(
            units, norm="ln", per_gate=True, return_sequences=True
        ),
        "RNN(NormalizedLSTMCell(ln))": rnn(
            keras_norms.NormalizedLSTMCell(units, norm="ln"), return_sequences=True
        ),
    }


def table(options):
    """The Markdown table of all shapes, plain graph and XLA."""
    rows, header = {name: [] for name in layers(options.units)}, ["layer"]
    for shape in map(tuple, options.shapes):
        for xla in (False, True):
            title = f"{shape}, {'XLA' if xla else 'plain'}"
            print(title, file=sys.stderr)
            ms, ratios = timing.time_ratios(
                layers(options.units), BASE, shape, xla, options.rounds, repeats=1
            )
            header.append(f"{title} ({ms / shape[1]:.2f} ms per time step)")
            for name in rows:
                rows[name].append(timing.cell(ratios[name]))
    return timing.markdown(header, rows)


def main(options):
    command = f"python benchmarks/recurrent.py --rounds {options.rounds} --units {options.units}"
    text = (
        f"{timing.provenance(command)}\n"
        f"Ratio to `keras.layers.LSTM` (median, quartiles).\n\n{table(options)}"
    )
    timing.report("Cost of one training step of a recurrent layer", text, options.output)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
