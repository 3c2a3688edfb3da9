"""What the benchmarks share: training steps timed in turn, ratios, the head of a report."""

import datetime
import os
import platform

import keras
import numpy as np
import tensorflow as tf

import keras_norms
from zoo import measuring
from zoo.markdown import table


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


def time_ratios(layers, base, shape, xla, rounds, repeats):
    """Times training steps of all layers in turn, so that a noisy machine disturbs all alike.

    Args:
        layers: `{name: layer}`.
        base: the name of the layer to compare with.
        shape: of the input.
        xla: whether to compile with XLA.
        rounds: how many times every layer is timed.
        repeats: steps in one timing.

    Returns:
        `(ms, ratios)`: milliseconds of a step of `base`, and `{name: (median, quartiles)}` of
        the ratio to it within a round.
    """
    x = tf.random.stateless_normal(shape, (1, 0))
    steps = {name: training_step(layer, shape, xla) for name, layer in layers.items()}
    dy = tf.random.stateless_normal(layers[base].compute_output_shape(shape), (2, 0))
    seconds = measuring.time_in_turn(steps, (x, dy), rounds, repeats)
    times = seconds[base]
    ratios = {name: np.percentile(s / times, [50, 25, 75]) for name, s in seconds.items()}
    return 1e3 * float(np.median(times)), ratios


def cell(ratios):
    """Median and quartiles, as a table shows them."""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*ratios)


def markdown(header, rows):
    """A table with a row for each name, from `{name: cells}`."""
    return table(header, [[name, *cells] for name, cells in rows.items()])


def provenance(command):
    """The command, the date, the machine and the versions."""
    machine = f"{os.cpu_count()} x {platform.processor() or platform.machine()}"
    return (
        f"`{command}`, {datetime.date.today()}, {machine}, TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}, keras_norms {keras_norms.__version__}, "
        f"Python {platform.python_version()}."
    )


def report(title, text, output):
    """Prints the text and writes it under the title to a Markdown file, if there is one."""
    print(text)
    if output:
        with open(output, "w") as file:
            file.write(f"# {title}\n\n{text}\n")
