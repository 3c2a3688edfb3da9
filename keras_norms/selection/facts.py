"""What a comparison found, as plain data."""

import datetime
import os
import platform
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras

from keras_norms.optional import require
from keras_norms.output import finite
from keras_norms.selection.plan import Plan, Run
from keras_norms.selection.store import Store
from keras_norms.version import __version__

if TYPE_CHECKING:
    from keras_norms.selection.compare import Comparison

# What these options are where nothing is said. A report shows the others.
DEFAULTS = {
    "minutes": None,
    "ghost": False,
    "keep_weights": False,
    "configure_optimizer": False,
    "replicas": 1,
}


def facts_of(
    comparison: "Comparison",
    plan: Plan,
    store: Store,
    failures: dict[Run, str],
    costs: dict[str, dict[str, Any]],
    agreed: dict[str, float | None],
    switches: Run | None,
) -> dict[str, Any]:
    """All that was found: what reports, verdicts and figures are made of."""
    runs: list[dict[str, Any]] = []
    wanted = [
        Run(norm, size, seed)
        for seed in range(comparison.seeds)
        for size in comparison.sizes
        for norm in comparison.norms
    ]
    for run in wanted:
        found = store.read(run)
        if run in failures:
            found = {"failed": failures[run], "curve": []}
        if found is not None:
            runs.append(
                {"norm": run.norm, "batch_size": run.size, "seed": run.seed}
                | {"curve": found["curve"], "failed": found["failed"]}
                | {"recalibrated": found.get("recalibrated"), "shares": found.get("shares")}
            )
    asked = store.read(switches) if switches is not None else None
    shares = (asked or {}).get("shares") or next(
        (
            run["shares"]
            for run in runs
            if run["norm"].split("(")[0] == "sn" and run["batch_size"] == comparison.sizes[0]
        ),
        None,
    )
    source = comparison.candidates.source
    shown = {name: value for name, value in comparison.options.items() if value != DEFAULTS[name]}
    return finite(
        {
            "model": getattr(source, "name", getattr(source, "__name__", "model")),
            "function": comparison.candidates.is_function,
            "samples": [comparison.train.count, comparison.validation.count],
            "norms": comparison.norms,
            "batch_sizes": comparison.sizes,
            "steps": plan.steps,
            "monitor": comparison.monitor,
            "higher": comparison.higher,
            "ghost": comparison.options["ghost"],
            "baseline": _baseline(comparison, runs),
            "costs": costs,
            "replicas": agreed,
            "switches": shares,
            "runs": runs,
            "missing": len(wanted) - len(runs),
            "options": shown,
            "seconds": comparison.budget.spent,
            "date": str(datetime.date.today()),
            "machine": f"{os.cpu_count()} x {platform.processor() or platform.machine()}",
            "versions": {
                "keras": keras.__version__,
                keras.config.backend(): _version(keras.config.backend()),
                "keras_norms": __version__,
            },
        }
    )


def _baseline(comparison: "Comparison", runs: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What a model reaches that has learnt nothing."""
    if comparison.constant is not None and comparison.monitor in comparison.constant:
        return {
            "what": "the best constant prediction",
            "value": comparison.constant[comparison.monitor],
        }
    starts = [
        run["curve"][0][comparison.monitor]
        for run in runs
        if run["norm"] == comparison.norms[0] and run["curve"]
    ]
    if not starts:
        return None
    return {"what": "the untrained model", "value": statistics.fmean(starts)}


def _version(module: str) -> str:
    found = require(module, purpose="A comparison", extra="compare")[0]
    return str(getattr(found, "__version__", ""))
