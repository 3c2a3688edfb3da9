"""Which norm for a model: `python scripts/compare.py model.keras --data FILE.py:FUNCTION`."""

import dataclasses
import importlib.util
import inspect
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from zoo.commands.common import parse, run_command, silent_libraries

with silent_libraries():
    import keras
    import tyro
    from absl import logging

    import keras_norms
    from keras_norms.replicas import mirrored


@dataclasses.dataclass(frozen=True)
class Options:
    """Says which norm suits a model: trains it with several, on your data.

    It prints a ranking, costs and answers, and writes report.html, figures, comparison.json,
    curves.csv, and events for TensorBoard. Complete runs are kept, for --resume.

        python scripts/compare.py model.keras --data my_data.py:make_datasets --minutes 30
        python scripts/compare.py my_model.py:build --data my_model.py:make_datasets --steps 500
        python scripts/compare.py model.keras --data my_data.py:make_datasets --minutes 9 --resume
    """

    model: tyro.conf.Positional[str]
    """A .keras file of a compiled model; or FILE.py:FUNCTION, a function that returns a compiled
    model. If it takes an argument, that is a norm, and the model has to use it."""
    data: str
    """FILE.py:FUNCTION, a function that returns (train, validation): arrays (x, y) each, or
    tf.data.Datasets of batches, or PyDatasets."""
    norms: tuple[str, ...] = ("bn", "gn", "sn")
    """Names as for keras_norms.get. The first is the reference, and has to learn."""
    batch_sizes: tuple[int, ...] | None = None
    """The model's learning rate is meant for the first; others multiply it by their ratio to it.
    None: the size of the batches of the data, 32 for arrays."""
    seeds: int = 3
    """How many times everything is repeated. At least 3 give verdicts."""
    steps: int | None = None
    """Training steps at the first batch size. None: as many as fit into --minutes."""
    minutes: float | None = None
    """When to stop, with what there is. None: when all runs are complete."""
    monitor: str | None = None
    """The validation metric that decides. None: the first of the model, else its loss."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Whether a larger value of it is better (max) or a smaller one (min)."""
    ghost: bool = False
    """Other batch sizes are those of ghost batches, so that all take the same steps."""
    keep_weights: bool = False
    """Train on from the weights of the model, and not from new ones."""
    configure_optimizer: bool = False
    """Exempt norms and biases from weight decay."""
    replicas: int = 1
    """2 also measures how far two replicas are from one device."""
    output: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/compare")
    """Folder for runs and results."""
    resume: bool = False
    """Go on with the comparison in this folder."""


def main(args: Sequence[str] | None = None) -> None:
    options = parse(Options, args)
    logging.set_verbosity(logging.ERROR)
    words = sys.argv[1:] if args is None else args
    run_command(
        lambda chosen: run(chosen, shlex.join(["python", "scripts/compare.py", *words])),
        options,
        "interrupted; the same command with --resume goes on",
    )


def run(options: Options, command: str) -> None:
    """Compares, prints the result and writes its files."""
    if options.replicas > 1:
        mirrored(options.replicas)  # before TensorFlow sets up its devices
    train, validation = _load_function(options.data)()
    given = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if field.name not in ("model", "data", "output")
    }
    result = keras_norms.compare(
        _load_model(options.model), train, validation, folder=options.output, **given
    )
    result = keras_norms.ComparedNorms({**result.facts, "command": command})
    result.write(options.output)
    print()
    result.table()
    print(f"\nreport: {options.output / 'report.html'}")
    print(f"curves: tensorboard --logdir {options.output / 'tensorboard'}")


def _load_model(place: str) -> Any:
    """A model, or a function of a norm."""
    if ".py:" not in place:
        return keras.models.load_model(place)
    function = _load_function(place)
    takes_norm = any(
        each.default is each.empty for each in inspect.signature(function).parameters.values()
    )
    return function if takes_norm else function()


def _load_function(place: str) -> Callable[..., Any]:
    """The function that FILE.py:FUNCTION names."""
    path, colon, name = place.rpartition(":")
    if not colon or not Path(path).is_file():
        raise ValueError(
            f"Name a function in a file, as my_data.py:make_datasets. Received: {place}"
        )
    module = sys.modules.get(Path(path).stem)
    if module is None or getattr(module, "__file__", None) != str(Path(path).resolve()):
        spec = importlib.util.spec_from_file_location(Path(path).stem, Path(path).resolve())
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[Path(path).stem] = module  # where Keras looks for the classes of a model
        spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise ValueError(f"{path} has no function {name}. Received: {place}")
    return getattr(module, name)


if __name__ == "__main__":
    main()
