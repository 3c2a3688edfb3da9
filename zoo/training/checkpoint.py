"""Checkpoints of a training run, which hold all that it needs to go on as if uninterrupted."""

import contextlib
import dataclasses
import json
import os
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_norms.model_layers import all_variables
from zoo.training import distribution

# How many checkpoints are kept: the last one, and the one before it in case that is damaged.
KEPT = 2


@dataclasses.dataclass(frozen=True)
class Position:
    """The moment in training at which a checkpoint was made.

    Attributes:
        epoch: the number of complete epochs.
        step: the number of steps in the epoch that follows.
        history: what `fit` returned for the complete epochs, `{name: values}`.
        metrics: the states of the metrics within the epoch, as `distribution.sums` gives them.
    """

    epoch: int = 0
    step: int = 0
    history: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    metrics: list[np.ndarray] = dataclasses.field(default_factory=list)

    @property
    def is_start(self) -> bool:
        """Whether training has not begun."""
        return self.epoch == self.step == 0

    def batches(self, steps_per_epoch: int) -> int:
        """The number of training batches so far."""
        return self.epoch * steps_per_epoch + self.step


def save(
    folder: Path,
    model: keras.Model,
    epoch: int,
    step: int,
    history: dict[str, list[float]],
    write: bool = True,
) -> None:
    """Writes a checkpoint, as a whole or not at all, and deletes those that are too old.

    It holds every variable of the model with its random generators, of the optimizer and of the
    metrics.

    Args:
        folder: the folder of this run's checkpoints.
        model: a compiled model that has been trained.
        epoch: as in `Position`.
        step: as in `Position`.
        history: as in `Position`.
        write: whether this process writes. Only the first of several workers does, but all must
            call this, since they read shared variables together.

    Raises:
        OSError: if it cannot be written. The earlier checkpoints are left as they were.
    """
    variables = _variables(model)
    about = {
        "epoch": epoch,
        "step": step,
        "history": history,
        "metrics": len(model.metrics_variables),
        "variables": _describe(variables),
    }
    arrays = [ops.convert_to_numpy(v) for v in variables]
    replicas = model.distribute_strategy.num_replicas_in_sync
    arrays += [distribution.sums(v, replicas) for v in model.metrics_variables]
    if not write:
        return
    folder.mkdir(exist_ok=True)
    target = folder / f"epoch-{epoch:05d}-step-{step:07d}.npz"
    unfinished = folder / "unfinished"
    try:
        with open(unfinished, "wb") as file:
            np.savez(file, *arrays, about=np.array(json.dumps(about)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f"{error.strerror}: no checkpoint could be written; go on from the one before it with "
            "--resume",
            str(folder),
        ) from error
    earlier = [path for path in _newest_first(folder) if path.name < target.name]
    for path in earlier[KEPT - 1 :]:
        path.unlink()


def restore(folder: Path, model: keras.Model) -> Position:
    """Gives all variables the values of the last checkpoint that is undamaged.

    A checkpoint that cannot be used is renamed, and a warning says what is wrong with it.

    Args:
        folder: the folder of this run's checkpoints.
        model: the model as it was before training, compiled.

    Returns:
        The position of that checkpoint, or the start if there is none.
    """
    model.optimizer.build(model.trainable_variables)
    variables = _variables(model)
    for path in _newest_first(folder):
        try:
            position, values = _read(path, _describe(variables))
        except Exception as error:  # a damaged file can raise anything
            cause = " ".join(str(error).split()) or type(error).__name__
            print(f"warning: {path} cannot be used: {cause}")
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(".unusable"))
            continue
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return position
    return Position()


def _read(path: Path, expected: list) -> tuple[Position, list[np.ndarray]]:
    """The position of a checkpoint, and the values of the variables that are expected in it."""
    with open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
        about = json.loads(str(file["about"])) if "about" in file else {}
        if not {"epoch", "step", "history", "metrics", "variables"} <= about.keys():
            raise ValueError("it is no checkpoint of this program")
        if about["variables"] != expected:
            raise ValueError("it is of another model or optimizer")
        # Everything is read before anything is assigned, since the file may end early.
        arrays = [file[f"arr_{i}"] for i in range(len(expected) + about["metrics"])]
    values, metrics = arrays[: len(expected)], arrays[len(expected) :]
    return Position(about["epoch"], about["step"], about["history"], metrics), values


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*.npz"), reverse=True)


def _variables(model: keras.Model) -> list[keras.Variable]:
    """All variables of a model and its optimizer, each once."""
    found = [*all_variables(model), *model.optimizer.variables]
    return list({id(variable): variable for variable in found}.values())


def _describe(variables: list[keras.Variable]) -> list:
    return [[v.name, str(v.dtype), list(v.shape)] for v in variables]
