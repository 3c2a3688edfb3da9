"""What the benchmarks share: columns of ratios, steps of layers, and files of figures."""

import datetime
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import keras_norms
from keras_norms import timing

Cell = tuple[float, float, float]  # median, lower and upper quartile of a ratio


class Column(NamedTuple):
    """One column of a table.

    Attributes:
        title: what was measured.
        base: the row that the others are compared with.
        ms: milliseconds of a step of `base`, the median; None if the column is not about time.
        cells: the ratio of each row to `base`.
    """

    title: str
    base: str
    ms: float | None
    cells: Mapping[str, Cell]


def time_steps(
    title: str,
    steps: Mapping[str, timing.Step],
    inputs: Sequence[tf.Tensor],
    base: str,
    rounds: int,
    repeats: int = 1,
) -> tuple[Column, Column]:
    """Times steps, and returns the columns of their later calls and of the first, which compile.

    Args:
        title: of the column.
        steps: `{row: compiled function of the inputs}`.
        inputs: the tensors that every step gets.
        base: the row to compare with.
        rounds: how many times every step is timed.
        repeats: calls in one timing.
    """
    print(title, file=sys.stderr)
    costs = timing.compare_times(steps, inputs, base, rounds, repeats)
    ratios = {name: (cost.ratio, cost.low, cost.high) for name, cost in costs.items()}
    first = {name: (cost.first,) * 3 for name, cost in costs.items()}
    return (
        Column(title, base, costs[base].ms, ratios),
        Column(f"{title}, first step", "1 s", None, first),
    )


def time_layers(
    title: str,
    layers: Mapping[str, keras.Layer],
    shape: tuple[int, ...],
    base: str,
    rounds: int,
    xla: bool = False,
    training: bool = True,
) -> Column:
    """Times a forward pass of layers, and in training also the gradients."""
    make = training_step if training else inference_step
    steps = {name: make(layer, shape, xla) for name, layer in layers.items()}
    repeats = max(1, round(2e6 / np.prod(shape)))
    x = tf.random.stateless_normal(shape, (1, 0))
    dy = tf.random.stateless_normal(layers[base].compute_output_shape(shape), (2, 0))
    column, _ = time_steps(title, steps, (x, dy), base, rounds, repeats)
    return column


def training_step(layer: keras.Layer, shape: tuple[int, ...], xla: bool) -> Callable:
    """A compiled function `(x, dy) -> (y, gradients of x and of the layer's weights)`.

    It returns `y` because TensorFlow would not compute it otherwise: few gradients need it.
    """
    layer.build(shape)
    weights = [weight.value for weight in layer.trainable_weights]

    @tf.function(jit_compile=xla)
    def step(x: tf.Tensor, dy: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, [x, *weights], output_gradients=dy)

    return step


def inference_step(layer: keras.Layer, shape: tuple[int, ...], xla: bool) -> Callable:
    """A compiled function `(x, dy) -> output`."""
    layer.build(shape)

    @tf.function(jit_compile=xla)
    def step(x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        return layer(x, training=False)

    return step


def provenance(command: str) -> str:
    """What made a table: the command, the date, the machine and the versions."""
    machine = f"{os.cpu_count()} x {platform.processor() or platform.machine()}"
    return (
        f"`{command}`, {datetime.date.today()}, {machine}, TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}, keras_norms {keras_norms.__version__}, "
        f"Python {platform.python_version()}."
    )


def write_figures(path: Path, *sections: str) -> None:
    """Replaces what a Markdown file has below "## Figures" by these sections."""
    before = path.read_text().split("## Figures")[0] if path.exists() else ""
    path.write_text("\n\n".join([f"{before}## Figures", *sections]) + "\n")
