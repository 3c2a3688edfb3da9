"""What the benchmarks share: ratios of steps timed in turn, and the head of a report."""

import datetime
import os
import platform
import sys
import typing

import keras
import numpy as np
import tensorflow as tf

import keras_norms
from zoo.laboratory import measuring


class Column(typing.NamedTuple):
    """One column of a table.

    Attributes:
        title: what was measured.
        base: the row that the others are compared with.
        ms: milliseconds of a step of `base`, the median; None if that says nothing.
        cells: `{row: (median, lower quartile, upper quartile)}` of the ratio to `base` within a
            round.
    """

    title: str
    base: str
    ms: float | None
    cells: dict


def column(title, steps, inputs, base, rounds, repeats=1):
    """Times steps in turn, so that a noisy machine disturbs all alike.

    Args:
        title: of the column.
        steps: `{row: compiled function of the inputs}`.
        inputs: tuple of tensors.
        base: the row to compare with.
        rounds: how many times every step is timed.
        repeats: steps in one timing.
    """
    print(title, file=sys.stderr)
    seconds = measuring.time_in_turn(steps, inputs, rounds, repeats)
    cells = {
        name: tuple(map(float, np.percentile(times / seconds[base], [50, 25, 75])))
        for name, times in seconds.items()
    }
    return Column(title, base, 1e3 * float(np.median(seconds[base])), cells)


def layer_column(title, layers, shape, base, rounds, xla=False, training=True):
    """A `Column` of layers by name: one forward pass, in training with all its gradients."""
    x = tf.random.stateless_normal(shape, (1, 0))
    dy = tf.random.stateless_normal(layers[base].compute_output_shape(shape), (2, 0))
    make = training_step if training else inference_step
    steps = {name: make(layer, shape, xla) for name, layer in layers.items()}
    repeats = max(1, round(2e6 / np.prod(shape)))
    return column(title, steps, (x, dy), base, rounds, repeats)


def training_step(layer, shape, xla):
    """A compiled function (x, dy) -> gradients of x and of the layer's weights."""
    layer.build(shape)
    weights = [weight.value for weight in layer.trainable_weights]

    @tf.function(jit_compile=xla)
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, [x, *weights], output_gradients=dy)

    return step


def inference_step(layer, shape, xla):
    """A compiled function (x, dy) -> output."""
    layer.build(shape)

    @tf.function(jit_compile=xla)
    def step(x, dy):
        return layer(x, training=False)

    return step


def provenance(command):
    """The command, the date, the machine and the versions."""
    machine = f"{os.cpu_count()} x {platform.processor() or platform.machine()}"
    return (
        f"`{command}`, {datetime.date.today()}, {machine}, TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}, keras_norms {keras_norms.__version__}, "
        f"Python {platform.python_version()}."
    )


def write_figures(path, *sections):
    """Replaces what stands below "## Figures" in a Markdown file by these sections."""
    before = path.read_text().split("## Figures")[0] if path.exists() else ""
    path.write_text("\n\n".join([f"{before}## Figures", *sections]) + "\n")
