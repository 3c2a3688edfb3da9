"""Checkpoints of a training run: all of its state, so that it goes on as if nothing had been."""

import contextlib
import dataclasses
import json
import os

import numpy as np
from keras import ops

from keras_norms.tree import all_variables

KEEP = 2  # the last one, and the one before it should that be damaged


@dataclasses.dataclass(frozen=True)
class Position:
    """Where in training a checkpoint was made.

    Attributes:
        epoch: int, the number of whole epochs.
        step: int, the steps of the next one that are done.
        history: what `fit` has returned of the whole epochs, `{name: values}`.
        metrics: arrays, the state of the metrics within an epoch.
    """

    epoch: int = 0
    step: int = 0
    history: dict = dataclasses.field(default_factory=dict)
    metrics: list = dataclasses.field(default_factory=list)


def save(folder, model, epoch, step, history, write=True):
    """Writes a checkpoint, as a whole or not at all, and removes those that are too old.

    It holds every variable of the model, the states of its random generators included, of its
    optimizer and of its metrics.

    Args:
        folder: `pathlib.Path`, where the checkpoints of this run are.
        model: a compiled model that has been trained.
        epoch: as in `Position`.
        step: as in `Position`.
        history: as in `Position`.
        write: whether to write it; the first of several workers does, but all of them are needed
            to read variables that they share.

    Raises:
        OSError: if it cannot be written; the checkpoints before it are as they were.
    """
    variables = _variables(model)
    about = {
        "epoch": epoch,
        "step": step,
        "history": history,
        "metrics": len(model.metrics_variables),
        "variables": _describe(variables),
    }
    arrays = [ops.convert_to_numpy(v) for v in (*variables, *model.metrics_variables)]
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
    before = [path for path in _newest_first(folder) if path.name < target.name]
    for old in before[KEEP - 1 :]:
        old.unlink()


def restore(folder, model):
    """Gives all variables the values of the last checkpoint that is whole.

    Args:
        folder: `pathlib.Path`, where the checkpoints of this run are.
        model: the model as it was before training, compiled.

    Returns:
        The `Position` of that checkpoint; of the start, if there is none. What is wrong with
        those that cannot be used is printed, and they are renamed, to be out of the way.
    """
    model.optimizer.build(model.trainable_variables)
    variables = _variables(model)
    for path in _newest_first(folder):
        try:
            position, values = _read(path, _describe(variables))
        except Exception as error:  # which a damaged file can lead to
            cause = " ".join(str(error).split()) or type(error).__name__
            print(f"warning: {path} cannot be used: {cause}")
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(".unusable"))
            continue
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return position
    return Position()


def _read(path, expected):
    with open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
        about = json.loads(str(file["about"])) if "about" in file else {}
        if not {"epoch", "step", "history", "metrics", "variables"} <= about.keys():
            raise ValueError("it is no checkpoint of this program")
        if about["variables"] != expected:
            raise ValueError("it is of another model or optimizer")
        # All of them before any is assigned: the file may end early.
        count = len(expected) + about["metrics"]
        values = [file[f"arr_{i}"] for i in range(count)]
    metrics = values[len(expected) :]
    return Position(about["epoch"], about["step"], about["history"], metrics), values[
        : len(expected)
    ]


def _newest_first(folder):
    return sorted(folder.glob("epoch-*.npz"), reverse=True)


def _variables(model):
    found = [*all_variables(model), *model.optimizer.variables]
    return list({id(variable): variable for variable in found}.values())


def _describe(variables):
    return [[v.name, str(v.dtype), list(v.shape)] for v in variables]
