"""How far replicas are from one device, for every norm, on the same global batch.

    python benchmarks/replicas.py --output docs/REPLICAS.md

Runs on logical CPU devices. Replaces what stands below "## Figures" in the file.
"""

import dataclasses
import functools
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import tensorflow as tf
import timing
import tyro

import keras_norms
from keras_norms.output import markdown_table
from zoo.training import distribution

SHAPE = (32, 8, 8, 16)
GROUPS = 4


def wrapped(**options):
    return keras_norms.WeightNormalization(keras.layers.Conv2D(SHAPE[-1], 1), **options)


def switchable(*statistics):
    return functools.partial(
        keras_norms.SwitchableNormalization, statistics=statistics, groups=GROUPS
    )


# {name: (function that makes the layer, whether it has batch statistics)}
NORMS = {
    "bn": (keras_norms.BatchNormalization, True),
    "mean-only bn": (keras_norms.MeanOnlyBatchNormalization, True),
    "wn_mobn": (functools.partial(wrapped, mean_only_batch_norm=True), True),
    "bin": (keras_norms.BatchInstanceNormalization, True),
    "sn": (keras_norms.SwitchableNormalization, True),
    "sn, with group": (switchable("instance", "group", "layer", "batch"), True),
    "sn, without batch": (switchable("instance", "layer"), False),
    "in": (keras_norms.InstanceNormalization, False),
    "gn": (functools.partial(keras_norms.GroupNormalization, GROUPS), False),
    "ln": (functools.partial(keras_norms.GroupNormalization, 1), False),
    "rms": (keras.layers.RMSNormalization, False),
    "wn": (wrapped, False),
}
COLUMNS = (
    *("outputs", "input gradients", "weight gradients", "logit gradients' sum"),
    *("moving statistics", "between replicas"),
)
ABOUT = f"""\
Largest differences to one device in one training step on a batch of {SHAPE}, in float32, with a
loss that is a mean over the batch; and between what the replicas hold after the step, weights,
moving statistics and the optimizer's state. "0" is exactly 0, "-" is nothing to compare. Samples
differ in their means.

- *synchronized* (`synchronized=True`): compared with one device on the whole batch.
- *apart* (the default): the same comparison. Each replica has statistics of its own, so it differs.
- *apart, slices*: compared with one device whose `ghost_batch_size` is the samples of a replica.
- All other norms know no batch."""


@dataclasses.dataclass
class Options:
    """What to compare."""

    replicas: tuple[int, ...] = (2, 4, 8)
    """Numbers of replicas."""
    norms: tuple[str, ...] = tuple(NORMS)
    """Norms to compare."""
    output: Path | None = None
    """Write the tables below "## Figures" in this Markdown file as well."""


def batch():
    """Samples, and the gradient of the loss with respect to what a layer makes of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, SHAPE) + rng.normal(0, 2, (SHAPE[0], 1, 1, 1))
    return x.astype("float32"), (rng.normal(0, 1, SHAPE) / SHAPE[0]).astype("float32")


def step(make, replicas):
    """Arrays by column, after one step of a new layer with the same weights every time."""
    strategy, rng = distribution.strategy(replicas), np.random.default_rng(1)
    keras.utils.clear_session()
    with strategy.scope():
        layer = make()
        layer.build((None, *SHAPE[1:]))
        for weight in layer.weights:
            weight.assign(rng.uniform(0.2, 0.9, weight.shape))
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(layer.trainable_variables)
    parts = [np.split(array, replicas) for array in batch()]

    def local(x, dy):
        weights = [variable.value for variable in layer.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        slope, *slopes = tape.gradient(y, [x, *weights], output_gradients=dy)
        optimizer.apply(slopes, layer.trainable_variables)
        return y, slope, slopes

    def gather(values):
        return [value.numpy() for value in strategy.experimental_local_results(values)]

    y, slope, slopes = strategy.run(
        local, args=tuple(distribution.split(strategy, part) for part in parts)
    )
    slopes = [np.array(gather(each)) for each in slopes]
    logits = [v.name.endswith("logits") for v in layer.trainable_variables]
    moving = [variable for variable in layer.weights if variable.name.startswith("moving")]
    held = [distribution.copies(variable) for variable in (*layer.weights, *optimizer.variables)]
    return {
        "outputs": [np.concatenate(gather(y))],
        "input gradients": [np.concatenate(gather(slope))],
        "weight gradients": [each.sum(0) for each in slopes],
        "logit gradients' sum": [
            each.sum(1) for each, chosen in zip(slopes, logits, strict=True) if chosen
        ],
        "moving statistics": [distribution.copies(variable)[0] for variable in moving],
        "between replicas": [other - first for first, *rest in held for other in rest],
    }


def differences(actual, expected):
    """The largest ones, by column, as a table shows them."""
    cells = []
    for column in COLUMNS:
        found, other = actual[column], expected[column]
        if column in ("logit gradients' sum", "between replicas"):
            other = [0] * len(found)
        pairs = zip(found, other, strict=True)
        largest = max((float(np.abs(a - b).max()) for a, b in pairs), default=None)
        cells.append("-" if largest is None else f"{largest:.0e}" if largest else "0")
    return cells


def table(options, replicas):
    """The Markdown table for a number of replicas."""
    lines, slices = [], SHAPE[0] // replicas
    for name in options.norms:
        make, has_batch_statistics = NORMS[name]
        whole, apart = step(make, 1), step(make, replicas)
        if not has_batch_statistics:
            lines.append([name, *differences(apart, whole)])
            continue
        synchronized = step(functools.partial(make, synchronized=True), replicas)
        ghost = step(functools.partial(make, ghost_batch_size=slices), 1)
        lines.append([f"{name}, synchronized", *differences(synchronized, whole)])
        lines.append([f"{name}, apart", *differences(apart, whole)])
        lines.append([f"{name}, apart, slices", *differences(apart, ghost)])
    heading = f"### {replicas} replicas of {slices} samples"
    return f"{heading}\n\n{markdown_table(['norm', *COLUMNS], lines)}"


def main(options):
    distribution.strategy(max(options.replicas))  # TensorFlow sets up its devices once
    tables = [table(options, replicas) for replicas in options.replicas]
    command = " ".join(["python", "benchmarks/replicas.py", *sys.argv[1:]])
    sections = [timing.provenance(command), ABOUT, *tables]
    print("\n\n".join(sections))
    if options.output:
        timing.write_figures(options.output, *sections)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
