"""Measures how far a training step on replicas is from one on a single device, for every norm.

    python benchmarks/replicas.py --output docs/REPLICAS.md

The replicas are logical CPU devices. The tables replace all that the file has below "## Figures".
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import tensorflow as tf
import timing
import tyro

import keras_norms
from keras_norms.output import markdown_table
from zoo.laboratory.tasks import agreement
from zoo.training import distribution

SHAPE = (32, 8, 8, 16)
GROUPS = 4
MakeLayer = Callable[..., keras.Layer]


def wrapped(**options: Any) -> keras.Layer:
    """A convolution with weight norm."""
    return keras_norms.WeightNormalization(keras.layers.Conv2D(SHAPE[-1], 1), **options)


def switchable(*statistics: str) -> MakeLayer:
    """A function that makes a switchable norm of these statistics."""
    return functools.partial(
        keras_norms.SwitchableNormalization, statistics=statistics, groups=GROUPS
    )


# {name: (function that makes the layer, whether it has batch statistics)}
NORMS: dict[str, tuple[MakeLayer, bool]] = {
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
# {title of a column: its name in `agreement.differences`}
COLUMNS = {
    "outputs": "outputs",
    "input gradients": "input_gradients",
    "weight gradients": "weight_gradients",
    "logit gradients' sum": "logit_gradients_sum",
    "moving statistics": "statistics",
    "between replicas": "between_replicas",
}
ABOUT = f"""\
These are the largest differences between one training step on replicas and one on a single device.
The batch has the shape {SHAPE}, its samples differ in their means, and all is float32. The loss is
a mean over the batch. The last column compares what the replicas hold after the step: weights,
moving statistics and the optimizer's state. "0" is exactly 0, and "-" means that there is nothing
to compare.

- *synchronized* (`synchronized=True`): compared with one device on the whole batch.
- *apart* (the default): the same comparison. It differs, as each replica has its own statistics.
- *apart, slices*: compared with one device whose `ghost_batch_size` is the samples of a replica.
- All other norms have no batch statistics."""


@dataclasses.dataclass
class Options:
    """Which norms to compare, on how many replicas."""

    replicas: tuple[int, ...] = (2, 4, 8)
    """Numbers of replicas."""
    norms: tuple[str, ...] = tuple(NORMS)
    """Norms to compare."""
    output: Path | None = None
    """Markdown file whose figures the tables replace; None: only print them."""


def make_batch() -> tuple[np.ndarray, np.ndarray]:
    """Samples, and the gradient of the loss with respect to the layer's output."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, SHAPE) + rng.normal(0, 2, (SHAPE[0], 1, 1, 1))
    return x.astype("float32"), (rng.normal(0, 1, SHAPE) / SHAPE[0]).astype("float32")


def train(make: MakeLayer, replicas: int) -> agreement.Trained:
    """Trains a new layer for one step, from the same weights every time."""

    def build() -> keras.Layer:
        layer, rng = make(), np.random.default_rng(1)
        layer.build((None, *SHAPE[1:]))
        for weight in layer.weights:
            weight.assign(rng.uniform(0.2, 0.9, weight.shape))
        return layer

    def loss(y: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(y * dy)

    split = [SHAPE[0] // replicas] * replicas
    return agreement.train_on_replicas(build, split, [make_batch()], loss, learning_rate=0.1)


def cells(several: agreement.Trained, one: agreement.Trained) -> list[str]:
    """The largest differences, as a table shows them."""
    found = agreement.differences(several, one)
    values = [found[name] for name in COLUMNS.values()]
    return ["-" if v is None else f"{v:.0e}" if v else "0" for v in values]


def table(options: Options, replicas: int) -> str:
    """The Markdown table for a number of replicas."""
    lines, slices = [], SHAPE[0] // replicas
    for name in options.norms:
        make, has_batch_statistics = NORMS[name]
        whole, apart = train(make, 1), train(make, replicas)
        if not has_batch_statistics:
            lines.append([name, *cells(apart, whole)])
            continue
        synchronized = train(functools.partial(make, synchronized=True), replicas)
        ghost = train(functools.partial(make, ghost_batch_size=slices), 1)
        lines.append([f"{name}, synchronized", *cells(synchronized, whole)])
        lines.append([f"{name}, apart", *cells(apart, whole)])
        lines.append([f"{name}, apart, slices", *cells(apart, ghost)])
    heading = f"### {replicas} replicas of {slices} samples"
    return f"{heading}\n\n{markdown_table(['norm', *COLUMNS], lines)}"


def main(options: Options) -> None:
    unknown = set(options.norms) - set(NORMS)
    if unknown:
        sys.exit(f"Unknown norms {sorted(unknown)}. Known: {list(NORMS)}")
    uneven = [replicas for replicas in options.replicas if SHAPE[0] % replicas]
    if uneven:
        sys.exit(f"The {SHAPE[0]} samples cannot be split equally among {uneven} replicas.")
    # First, since TensorFlow sets up its devices only once.
    distribution.strategy(max(options.replicas))
    tables = [table(options, replicas) for replicas in options.replicas]
    command = " ".join(["python", "benchmarks/replicas.py", *sys.argv[1:]])
    sections = [timing.provenance(command), ABOUT, *tables]
    print("\n\n".join(sections))
    if options.output:
        timing.write_figures(options.output, *sections)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
