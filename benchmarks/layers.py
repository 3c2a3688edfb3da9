"""Cost of one training step of each layer, as a ratio to keras.layers.BatchNormalization.

    python benchmarks/layers.py

A step is the forward pass and the gradients of the input and of the weights. All layers are
timed in turn within one run, so that a noisy machine disturbs all alike; a figure is the median
over the rounds of the ratio within a round, with the quartiles in brackets. Memory is how far a
step raises the resident memory of the process (Linux), in units of the input.
"""

import dataclasses
import json
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import timing
import tyro

import keras_norms
from zoo import measuring

SHAPES = ((32, 32, 32, 64), (32, 16, 16, 128), (64, 8, 8, 256))
BASE = "keras BN"


@dataclasses.dataclass
class Options:
    """What to measure."""

    rounds: int = 30
    """How many times every layer is timed."""
    shapes: tuple[tuple[int, int, int, int], ...] = SHAPES
    """Input shapes (batch, height, width, channels)."""
    output: str | None = None
    """Write the table to this Markdown file as well."""


def layers():
    """The layers to compare: ours, then Keras's."""
    return {
        BASE: keras.layers.BatchNormalization(),
        "BN": keras_norms.BatchNormalization(),
        "mean-only BN": keras_norms.MeanOnlyBatchNormalization(),
        "IN": keras_norms.InstanceNormalization(),
        "LN (GN, 1 group)": keras_norms.GroupNormalization(1),
        "GN (32 groups)": keras_norms.GroupNormalization(32),
        "SN": keras_norms.SwitchableNormalization(),
        "BIN": keras_norms.BatchInstanceNormalization(),
        "keras GN (32 groups)": keras.layers.GroupNormalization(32),
        "keras GN (-1)": keras.layers.GroupNormalization(-1),
        "keras LN (last axis)": keras.layers.LayerNormalization(),
    }


def peak_memory(shape):
    """Per layer, how far one plain step raises a process's memory, in units of the input."""
    memory = {}
    for name in layers():
        # A process each, whose allocator returns large blocks at once: a step would otherwise
        # hide in the memory of the one before.
        command = [sys.executable, __file__, "--peak", name, json.dumps(shape)]
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "100000"}
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        memory[name] = float(result.stdout.split()[-1])
    return memory


def print_peak(name, shape):
    """What `peak_memory` runs: one small step for the runtime's own needs, then the real one."""
    rng = np.random.default_rng(0)
    for batch in (1, shape[0]):
        shape = (batch, *shape[1:])
        step = timing.training_step(layers()[name], shape, xla=False)
        step = step.get_concrete_function(*(tf.TensorSpec(shape) for _ in range(2)))
        x, dy = (tf.constant(rng.standard_normal(shape, "float32")) for _ in range(2))
        memory = measuring.raised_memory(step, (x, dy))
    print(memory / (4 * float(np.prod(shape))))


def table(options):
    """The Markdown table of all shapes, plain graph and XLA."""
    shapes = [tuple(shape) for shape in options.shapes]
    rows, header = {name: [] for name in layers()}, ["layer"]
    for shape in shapes:
        repeats = max(1, round(2e6 / np.prod(shape)))
        for xla in (False, True):
            title = f"{shape}, {'XLA' if xla else 'plain'}"
            print(title, file=sys.stderr)
            ms, ratios = timing.time_ratios(layers(), BASE, shape, xla, options.rounds, repeats)
            header.append(f"{title} ({ms:.1f} ms)")
            for name in rows:
                rows[name].append(timing.cell(ratios[name]))
    print("memory", file=sys.stderr)
    header.append(f"{shapes[0]}, memory")
    for name, memory in peak_memory(shapes[0]).items():
        rows[name].append(f"{memory:.1f}")
    return timing.markdown(header, rows)


def main(options):
    text = (
        f"{timing.provenance(f'python benchmarks/layers.py --rounds {options.rounds}')}\n"
        "Ratio to `keras.layers.BatchNormalization` (median, quartiles); memory in units of the "
        f"input.\n\n{table(options)}"
    )
    timing.report("Cost of one training step of a layer", text, options.output)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        print_peak(sys.argv[2], tuple(json.loads(sys.argv[3])))
    else:
        main(tyro.cli(Options, description=__doc__))
