"""One run: a model is trained with one norm, batch size and seed, and measured on the way."""

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_norms.analysis import importance
from keras_norms.model_layers import has_batch_statistics, named_layers
from keras_norms.selection.data import Samples
from keras_norms.statistics import recalibrate

POINTS = 8  # of a curve, beside its start
RECALIBRATED = 16  # batches from which statistics are computed again


def train_and_measure(
    model: keras.Model,
    train: Samples,
    validation: Samples,
    size: int,
    steps: int,
    seed: int,
    base: int,
    each_step: Callable[[], None],
) -> dict[str, Any]:
    """Trains a model, and evaluates it at its start and at the points of its curve.

    Args:
        model: compiled, before its first step.
        train: the training data.
        validation: the data to evaluate on.
        size: samples of a batch.
        steps: the number of batches.
        seed: of the order of the samples.
        base: samples of a batch in evaluation, and where statistics are computed again.
        each_step: called after each step; it may end the run by an exception.

    Returns:
        dict: "curve", a dict for each point; "recalibrated", the metrics with statistics that were
        computed again, or None; "shares", what switches and gates chose; "seconds".

    Raises:
        FloatingPointError: if the loss is not finite.
    """
    began = time.perf_counter()
    points = {round(steps * i / POINTS) for i in range(1, POINTS + 1)}
    curve = [{"step": 0, **evaluate(model, validation, base)}]
    for step, batch in enumerate(itertools.islice(train.batches(size, seed), steps), 1):
        model.train_on_batch(*batch)
        if step in points:
            curve.append({"step": step, **evaluate(model, validation, base)})
            if not math.isfinite(curve[-1]["loss"]):
                raise FloatingPointError(f"the loss was not finite after {step} steps")
        each_step()
    return {
        "curve": curve,
        "shares": importance(model),
        "recalibrated": recalibrated(model, train, validation, base, seed),
        "seconds": time.perf_counter() - began,
    }


def evaluate(model: keras.Model, data: Samples, size: int) -> dict[str, float]:
    """The loss and the metrics of a model."""
    found = model.evaluate(
        data.x,
        data.y,
        sample_weight=data.weight,
        batch_size=size,
        verbose=0,
        return_dict=True,
    )
    return {name: float(np.mean(value)) for name, value in found.items()}


def recalibrated(
    model: keras.Model, train: Samples, validation: Samples, size: int, seed: int
) -> dict[str, float] | None:
    """The metrics with statistics of the training data under the last weights."""
    norms = [layer for layer in named_layers(model).values() if has_batch_statistics(layer)]
    if not norms or any(getattr(norm, "moving_mean", None) is None for norm in norms):
        return None
    count = min(RECALIBRATED, train.count // size)
    recalibrate(model, list(itertools.islice(train.batches(size, seed), count)), verbose=False)
    return evaluate(model, validation, size)
