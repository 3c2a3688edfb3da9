"""How the cost of a training step grows, beside that of a model with Keras's own norm."""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import models
import timing
from matplotlib.figure import Figure

from keras_norms.timing import Step
from zoo.laboratory import measuring
from zoo.training import distribution

IMAGES = ("keras BN", "keras GN (8 groups)", "bn", "gn", "sn")
REPLICAS = (
    *("keras BN", "keras BN(synchronized=True)", "bn", "bn(synchronized=True)", "gn"),
    *("sn", "sn(synchronized=True)"),
)
SEQUENCES = ("ln", "rms", "bn", "gn", "sn")
# Those of Keras in grey; the others in the colours of Okabe and Ito.
COLOURS = {
    **{"keras BN": "0.1", "keras GN": "0.6", "keras LN": "0.1", "keras LSTM": "0.1"},
    **{"bn": "#0072B2", "gn": "#009E73", "sn": "#D55E00", "ln": "#CC79A7", "rms": "#E69F00"},
}
Prepared = tuple[Step, Callable[[int], tuple[Any, ...]]]


@dataclasses.dataclass(frozen=True)
class Growth:
    """What is made larger, and how.

    Attributes:
        model: what is trained.
        unit: of the sizes.
        sizes: ints, for each of which steps are timed. Memory is measured at both ends.
        rows: names of norms; the others are compared with the first.
        batch: the number of samples; None for the size itself.
        prepare: function `(size, norm) -> (step, inputs)`, where `inputs(n)` is a batch of n.
    """

    model: str
    unit: str
    sizes: tuple[int, ...]
    rows: tuple[str, ...]
    batch: int | None
    prepare: Callable[[int, Any], Prepared]


def _model(build: Callable[..., keras.Model], shape: tuple[int, ...], norm: Any) -> Prepared:
    step = measuring.training_step(build(norm=norm), keras.optimizers.SGD(0.01))
    return step, functools.partial(models.tensors, shape)


def _images(depth: int, norm: Any) -> Prepared:
    return _model(functools.partial(models.resnet, depth=depth), models.IMAGE, norm)


def _sequences(build: Callable[..., keras.Model], length: int, norm: Any) -> Prepared:
    shape = (length, 64)
    return _model(functools.partial(build, input_shape=shape), shape, norm)


def _replicas(number: int, norm: Any) -> Prepared:
    strategy = distribution.strategy(number)
    step = models.replicated_step(strategy, norm, models.conv6)
    return step, functools.partial(models.split_batch, strategy, number)


def _longer(
    model: str, unit: str, base: str, batch: int, build: Callable[..., keras.Model]
) -> Growth:
    title = f"{model}, {batch} sequences"
    rows, prepare = (base, *SEQUENCES), functools.partial(_sequences, build)
    return Growth(title, unit, (64, 256, 1024), rows, batch, prepare)


GROWTHS = {
    "batch": Growth(
        "ResNet-20", "images", (2, 8, 32, 128, 256), IMAGES, None, lambda _, norm: _images(20, norm)
    ),
    "depth": Growth("ResNet, 32 images", "layers", (20, 56, 110), IMAGES, 32, _images),
    "replicas": Growth("conv6, 64 images", "replicas", (1, 2, 4, 8), REPLICAS, 64, _replicas),
    "tokens": _longer("Transformer", "tokens", "keras LN", 8, models.transformer),
    "steps": _longer("LSTM", "steps", "keras LSTM", 16, models.lstm),
}


def batch(rounds: int) -> Iterator[timing.Column]:
    """A training step of the ResNet-20 on more and more images of 32 x 32."""
    yield from _columns("batch", rounds)


def depth(rounds: int) -> Iterator[timing.Column]:
    """A training step of deeper and deeper ResNets, on 32 images."""
    yield from _columns("depth", rounds)


def replicas(rounds: int) -> Iterator[timing.Column]:
    """A training step of the net conv6 on more and more replicas, which share 64 images."""
    # A small net, because TensorFlow takes long to trace a step on 8 replicas.
    # First, since TensorFlow sets up its devices only once.
    distribution.strategy(max(GROWTHS["replicas"].sizes))
    yield from _columns("replicas", rounds)


def tokens(rounds: int) -> Iterator[timing.Column]:
    """A training step of the Transformer on 8 longer and longer sequences."""
    yield from _columns("tokens", rounds)


def steps(rounds: int) -> Iterator[timing.Column]:
    """A training step of the LSTM on 16 longer and longer sequences."""
    yield from _columns("steps", rounds)


def _columns(name: str, rounds: int) -> Iterator[timing.Column]:
    growth = GROWTHS[name]
    base, *_ = growth.rows
    for size in growth.sizes:
        prepared = {row: growth.prepare(size, models.KERAS.get(row, row)) for row in growth.rows}
        _, inputs = prepared[base]
        steps = {row: step for row, (step, _) in prepared.items()}
        title = f"{size} {growth.unit}"
        batch = inputs(growth.batch or size)
        column, _ = timing.time_steps(title, steps, batch, base, rounds)
        yield column
    for size in (growth.sizes[0], growth.sizes[-1]):
        print(f"{size} {growth.unit}, memory", file=sys.stderr)
        yield _memory(name, size)


def _memory(name: str, size: int) -> timing.Column:
    """The peak memory of a step, each in a process of its own."""
    growth = GROWTHS[name]
    base, *_ = growth.rows
    measured = {row: measuring.run_child(__file__, name, str(size), row) for row in growth.rows}
    peaks: Mapping[str, float] = {row: peak for row, peak in measured.items() if peak}
    cells = {row: (peak / peaks[base],) * 3 for row, peak in peaks.items() if base in peaks}
    shown = f"{base}: {peaks[base] / 2**20:.0f} MiB" if base in peaks else "not measured"
    return timing.Column(f"{size} {growth.unit}, memory", shown, None, cells)


def measure_peak(name: str, size: int, row: str) -> int | None:
    """Bytes that a training step takes in this process, which `_memory` starts; or None."""
    growth = GROWTHS[name]
    step, inputs = growth.prepare(size, models.KERAS.get(row, row))
    batch = growth.batch or size
    # Of another size, since XLA compiles anew for it. Batch norm refuses a single sample.
    small = size if name == "replicas" else 2 if batch > 2 else 3
    return measuring.peak_memory(step, inputs(small), inputs(batch))


def figure(columns: Mapping[str, Sequence[timing.Column]]) -> Figure:
    """Time and memory of each model, over that with Keras's norm.

    Args:
        columns: what the tables of `GROWTHS` hold, by their names there.
    """
    drawn = Figure(figsize=(2.6 * len(columns), 5.4), layout="constrained")
    panels = drawn.subplots(2, len(columns), sharey="row", squeeze=False)
    for place, name in enumerate(columns):
        growth = GROWTHS[name]
        for axis, ending in zip(panels[:, place], ("", ", memory"), strict=True):
            cells = {c.title: c.cells for c in columns[name]}
            for row in growth.rows:
                measured = {
                    size: cells[title][row]
                    for size in growth.sizes
                    if row in cells.get(title := f"{size} {growth.unit}{ending}", {})
                }
                medians = [median for median, _, _ in measured.values()]
                axis.plot(list(measured), medians, label=row, marker="o", ms=3, **_style(row))
            axis.set_xscale("log", base=2)
            axis.set_xticks(growth.sizes, [str(size) for size in growth.sizes])
            axis.minorticks_off()
            axis.set_xlabel(growth.unit)
            axis.grid(axis="y", color="0.92")
            axis.spines[["top", "right"]].set_visible(False)
        panels[0, place].set_title(f"{growth.model}\n1 is {growth.rows[0]}", fontsize=9)
    for axis, kind in zip(panels[:, 0], ("time of a step", "peak memory of a step"), strict=True):
        axis.set_ylabel(f"{kind}, ratio")
        axis.set_ylim(bottom=0)
    lines = [line for axis in panels.flat for line in axis.get_lines()]
    named = {line.get_label(): line for line in lines}
    drawn.legend(named.values(), named, loc="outside lower center", ncols=7, frameon=False)
    return drawn


def _style(row: str) -> dict[str, Any]:
    norm, _, options = row.partition("(")
    return {"color": COLOURS[norm.strip()], "ls": "--" if options.startswith("sync") else "-"}


if __name__ == "__main__":
    print(json.dumps(measure_peak(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
