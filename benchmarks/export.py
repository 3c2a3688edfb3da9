"""Exports every model of the zoo with every norm, and runs it in the runtimes it is meant for.

    pip install -e ".[zoo,export]"
    python benchmarks/export.py --output docs/EXPORT.md

The tables replace all that the file has below "## Figures".
"""

import collections
import dataclasses
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import tensorflow as tf
import timing
import tyro
from tqdm import tqdm

import keras_norms
import zoo
from keras_norms.output import markdown_table

Batches = list[np.ndarray]
FAILS = "fails: "
# What a runtime computes for each batch, and the operations of the file, if it has such.
Found = tuple[Batches, set[str]]


# {title: function from a norm to a model}
MODELS: dict[str, Callable[[str], keras.Model]] = {
    "resnet": lambda norm: zoo.resnet(20, 10, norm, (16, 16, 3), width=0.5),
    "conv6": lambda norm: zoo.convnet("conv6", 10, norm, (16, 16, 3), width=0.25),
    "convpool": lambda norm: zoo.convnet("convpool", 10, norm, (16, 16, 3), width=0.25),
    "mlp": lambda norm: zoo.mlp(10, norm, (8, 8, 1), hidden=(32, 16)),
    "transformer": lambda norm: zoo.transformer(10, norm, (12, 8), width=0.25),
    "lstm": lambda norm: zoo.lstm(10, norm, (12, 8), width=0.25),
    "lstm, unrolled": lambda norm: unrolled(norm),
}


def unrolled(norm: str) -> keras.Model:
    """A recurrent layer without a loop, for runtimes that have none."""
    inputs = keras.Input((12, 8))
    layer = keras_norms.NormalizedLSTM(16, norm=norm, unroll=True)
    return keras.Model(inputs, keras.layers.Dense(10)(layer(inputs)))


def saved_model(model: keras.Model, batches: Batches, folder: Path) -> Found:
    """A SavedModel, in TensorFlow."""
    model.export(folder, verbose=False)
    served = tf.saved_model.load(folder)
    return [served.serve(x).numpy() for x in batches], set()


def keras_file(model: keras.Model, batches: Batches, folder: Path) -> Found:
    """A `.keras` file, in Keras."""
    folder.mkdir()
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    return [np.asarray(loaded(x, training=False)) for x in batches], set()


def weights_file(model: keras.Model, batches: Batches, folder: Path) -> Found:
    """A `.weights.h5` file, in a new model."""
    folder.mkdir()
    model.save_weights(folder / "model.weights.h5")
    other = keras.models.clone_model(model)
    other.load_weights(folder / "model.weights.h5")
    return [np.asarray(other(x, training=False)) for x in batches], set()


def litert(**options: Any) -> Callable[..., Found]:
    """A LiteRT file, in its interpreter."""

    def run(model: keras.Model, batches: Batches, folder: Path) -> Found:
        folder.mkdir()
        path = str(folder / "model.tflite")
        given = {key: value(model) if callable(value) else value for key, value in options.items()}
        model.export(path, format="litert", verbose=False, **given)
        interpreter = tf.lite.Interpreter(path)
        (before,), (after,) = interpreter.get_input_details(), interpreter.get_output_details()
        outputs = []
        for x in batches:
            interpreter.resize_tensor_input(before["index"], x.shape)
            interpreter.allocate_tensors()
            interpreter.set_tensor(before["index"], x)
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(after["index"]))
        return outputs, {each["op_name"] for each in interpreter._get_ops_details()} - {"DELEGATE"}

    return run


def onnx(model: keras.Model, batches: Batches, folder: Path) -> Found:
    """An ONNX file, in onnxruntime."""
    import onnxruntime
    from onnx import load

    folder.mkdir()
    path = str(folder / "model.onnx")
    model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    return [session.run(None, {name: x})[0] for x in batches], {
        node.op_type for node in load(path).graph.node
    }


def calibration(model: keras.Model) -> Callable[[], Iterator[list[np.ndarray]]]:
    """Inputs by which a converter chooses the ranges of integers."""
    return lambda: ([x] for x in np.split(inputs_of(model, 64, seed=1), 64))


SMALLER = {"optimizations": [tf.lite.Optimize.DEFAULT]}
FORMATS: dict[str, Callable[..., Found]] = {
    "SavedModel": saved_model,
    ".keras": keras_file,
    ".weights.h5": weights_file,
    "ONNX": onnx,
    "LiteRT": litert(),
    "LiteRT float16": litert(**SMALLER, target_spec={"supported_types": [tf.float16]}),
    "LiteRT int8": litert(**SMALLER, representative_dataset=calibration),
}


def inputs_of(model: keras.Model, samples: int, seed: int = 0) -> np.ndarray:
    """Random inputs of a model."""
    shape = (samples, *model.input_shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def as_trained(model: keras.Model) -> keras.Model:
    """Gives a new model moving statistics, and values to weights that start at 0 or 1."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.path.endswith("variance"):
            variable.assign(rng.uniform(0.5, 2, variable.shape))
        elif variable.path.endswith("moving_steps"):
            variable.assign(model.input_shape[1])  # each step has statistics
        elif variable.path.endswith(("gamma", "beta", "moving_mean", "bias", "gate")):
            start = 1 if variable.path.endswith("gamma") else 0
            variable.assign(rng.normal(start, 0.2, variable.shape))
    return model


def measure(
    model: keras.Model, formats: Sequence[str], operations: dict[str, set[str]]
) -> dict[str, str]:
    """`{format: largest relative difference, or what went wrong}`."""
    batches = [inputs_of(model, samples) for samples in (1, 3)]
    expected = [np.asarray(model(x, training=False)) for x in batches]
    largest = max(np.abs(y).max() for y in expected)
    cells = {}
    for name in formats:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found, used = FORMATS[name](model, batches, Path(folder) / "model")
            except Exception as error:  # whatever a converter or a runtime raises
                cells[name] = f"{FAILS}{type(error).__name__}: {_reason(error)}"
                continue
        operations[name] |= used
        pairs = zip(found, expected, strict=True)
        error = max(np.abs(y - right).max() for y, right in pairs) / largest
        cells[name] = f"{error:.0e}" if error else "0"
    return cells


ABOUT = """\
Each cell is the largest difference between runtime and model, relative to the model's largest
output. Batches have 1 and 3 samples, as every file leaves the batch size free. The models are
small, and their weights are random. *folded* is the model that `keras_norms.fold` makes."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to export to which formats."""

    models: tuple[str, ...] = tuple(MODELS)
    """Models to export."""
    norms: tuple[str, ...] = keras_norms.NAMES
    """Norms to export."""
    formats: tuple[str, ...] = tuple(FORMATS)
    """Formats to export to."""
    output: Path | None = None
    """Markdown file whose figures the tables replace; None: only print them."""


def _reason(error: Exception) -> str:
    """The first line of an error, without what differs from run to run."""
    first = str(error).strip().splitlines()[0]
    first = re.sub(r"/\S*/(model\.\w+)", r"\1", first)
    return re.sub(r"\bNode number \d+", "a node", first)[:200]


def rows(options: Options) -> Iterator[tuple[str, str, keras.Model]]:
    """`(name of the model, of the norm, the model)` of every row."""
    for name in options.models:
        for norm in options.norms:
            try:
                model = as_trained(MODELS[name](norm))
            except ValueError:  # this norm does not work in this model
                continue
            yield name, norm, model
            folded, report = keras_norms.fold(model)
            if report.changed:
                yield name, f"{norm}, folded", folded


def tables(options: Options) -> list[str]:
    """A table for each model, the reasons of what fails, and the operations."""
    found: dict[str, dict[str, dict[str, str]]] = collections.defaultdict(dict)
    operations: dict[str, set[str]] = collections.defaultdict(set)
    for name, norm, model in tqdm(list(rows(options)), unit="model"):
        found[name][norm] = measure(model, options.formats, operations)
    reasons: dict[str, int] = {}

    def short(cell: str) -> str:
        if not cell.startswith(FAILS):
            return cell
        return f"fails [{reasons.setdefault(cell.removeprefix(FAILS), len(reasons) + 1)}]"

    parts = []
    for name, norms in found.items():
        lines = [(norm, *map(short, cells.values())) for norm, cells in norms.items()]
        parts.append(f"### {name}\n\n{markdown_table(['norm', *options.formats], lines)}")
    parts.append("\n".join(f"{number}. {reason}" for reason, number in reasons.items()))
    for name, used in operations.items():
        if used:
            parts.append(f"Operations in {name}: {', '.join(sorted(used))}.")
    return [part for part in parts if part]


def main(options: Options) -> None:
    for given, known in ((options.models, MODELS), (options.formats, FORMATS)):
        if not set(given) <= set(known):
            sys.exit(f"Known are {', '.join(known)}. Received: {', '.join(given)}")
    warnings.filterwarnings("ignore")
    command = " ".join(["python", "benchmarks/export.py", *sys.argv[1:]])
    sections = [timing.provenance(command), ABOUT, *tables(options)]
    print("\n\n".join(sections))
    if options.output:
        timing.write_figures(options.output, *sections)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
