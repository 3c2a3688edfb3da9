"""What each norm costs: time of a step and of inference, memory, parameters, all interleaved."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_norms.selection.candidates import Candidates, parameters
from keras_norms.selection.data import Samples
from keras_norms.surgery.fold import fold
from keras_norms.timing import Cost, compare_times, peak_of

ROUNDS = 10


def measure_costs(
    candidates: Candidates, norms: Sequence[str], sizes: Sequence[int], train: Samples
) -> dict[str, dict[str, Any]]:
    """The costs of each norm.

    Args:
        candidates: the models.
        norms: the first is that with which the others are compared.
        sizes: batch sizes; all but the times of training steps are measured at the first.
        train: the data of the steps.

    Returns:
        `{norm: costs}`: "parameters"; "compile", seconds of the first step; "memory", MiB of a
        training step, or None; "step_ms", `{batch size: ms}`; and of "step", "inference" and
        "folded" milliseconds and their ratio to the first norm's, with its quartiles. "folded" is
        inference after `fold`, or None where no norm could be folded.
    """
    costs: dict[str, dict[str, Any]] = {norm: {"step_ms": {}} for norm in norms}
    for size in sizes:
        models = {norm: candidates.get(norm, candidates.size(norm, size), 0) for norm in norms}
        # With ghost batches all steps take batches of the first size.
        batch = next(train.batches(sizes[0] if candidates.recipe.ghost else size, 0))
        steps = {
            norm: functools.partial(model.train_on_batch, *batch) for norm, model in models.items()
        }
        times = compare_times(steps, (), norms[0], ROUNDS, verbose=False)
        for norm in norms:
            costs[norm]["step_ms"][str(size)] = times[norm].ms
        if size == sizes[0]:
            for norm, model in models.items():
                memory = peak_of(steps[norm])
                costs[norm] |= {
                    "step": _named(times[norm]),
                    "compile": times[norm].first,
                    "parameters": parameters(model),
                    "memory": memory and memory / 2**20,
                }
            _measure_inference(models, batch[0], norms[0], costs)
    return costs


def _measure_inference(
    models: dict[str, keras.Model], x: Any, base: str, costs: dict[str, dict[str, Any]]
) -> None:
    """Adds the times of inference, also after `fold`."""
    served: dict[tuple[str, str], Callable[[], Any]] = {}
    for norm, model in models.items():
        costs[norm]["folded"] = None
        served[norm, "inference"] = functools.partial(model.predict_on_batch, x)
        try:
            folded, report = fold(model)
        except (ValueError, TypeError):
            continue  # subclassed models, and what cannot be made from its config
        if report.changed:
            served[norm, "folded"] = functools.partial(folded.predict_on_batch, x)
    times = compare_times(served, (), (base, "inference"), ROUNDS, verbose=False)
    for (norm, what), cost in times.items():
        costs[norm][what] = _named(cost)


def _named(cost: Cost) -> dict[str, float]:
    return {"ms": cost.ms, "ratio": cost.ratio, "low": cost.low, "high": cost.high}
