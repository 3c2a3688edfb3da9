"""Figures of a comparison: curves, the trade of cost and metric, what switches chose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_norms.figures import stacked_bars
from keras_norms.optional import require
from keras_norms.selection import words
from keras_norms.selection.judging import Facts, rank, runs_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe's and Ito's colours, which colour-blind readers can tell apart, and a mark for each.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#7F7F7F")
MARKS = "os^Dv*XP"


def draw(facts: Facts, folder: Path) -> dict[str, str]:
    """Draws all figures into a folder, and returns `{name of the file: caption}`."""
    found = {
        "curves.png": (curves(facts), _about_curves(facts)),
        "trade.png": (trade(facts), _ABOUT_TRADE),
    }
    if facts["switches"]:
        found["switches.png"] = (_switches(facts), _ABOUT_SWITCHES)
    for name, (figure, _) in found.items():
        figure.savefig(folder / name)
    return {name: caption for name, (_, caption) in found.items()}


def curves(facts: Facts) -> Figure:
    """The validation metric against steps, with a panel for each batch size."""
    sizes, metric = facts["batch_sizes"], facts["monitor"]
    figure, axes = _figure(len(sizes))
    for axis, size in zip(axes, sizes, strict=True):
        for number, norm in enumerate(facts["norms"]):
            runs = [
                [(point["step"], point[metric]) for point in run["curve"]]
                for run in runs_of(facts, norm, size)
                if not run["failed"]
            ]
            if not runs:
                continue
            array = np.array(runs, "float64")
            steps, mean, spread = array[0, :, 0], array[..., 1].mean(0), array[..., 1].std(0)
            colour = COLOURS[number % len(COLOURS)]
            axis.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
            axis.plot(
                steps,
                mean,
                color=colour,
                marker=MARKS[number % len(MARKS)],
                ms=4,
                lw=1.4,
                label=norm,
            )
            again = rank(facts, size).place(norm).recalibrated
            if again is not None:
                hollow: Any = {"color": colour, "mfc": "white", "ms": 7, "zorder": 3}
                axis.plot(steps[-1], again, MARKS[number % len(MARKS)], **hollow)
        if facts["baseline"]:
            axis.axhline(facts["baseline"]["value"], color="0.5", ls=":", lw=1)
        axis.set_xlabel("steps")
        axis.set_title(words.batches(facts, size), fontsize=9)
    axes[0].set_ylabel(f"validation {metric}")
    # A diverging run must not hide the others.
    axes[0].set_ylim(*_limits(facts))
    _legend(figure, axes)
    return figure


def trade(facts: Facts) -> Figure:
    """The metric with its interval against the time of a step."""
    sizes = facts["batch_sizes"]
    figure, axes = _figure(len(sizes))
    for axis, size in zip(axes, sizes, strict=True):
        for place in rank(facts, size).places:
            if place.estimate is None:
                continue
            number = facts["norms"].index(place.norm)
            colour = COLOURS[number % len(COLOURS)]
            ms = facts["costs"][place.norm]["step_ms"][str(size)]
            low, high = place.estimate.interval or (place.estimate.mean,) * 2
            axis.plot([ms, ms], [low, high], color=colour, lw=1.2)
            mark = MARKS[number % len(MARKS)]
            axis.plot(ms, place.estimate.mean, mark, color=colour, ms=6, label=place.norm)
        axis.margins(x=0.1)
        axis.set_xlim(left=0)
        axis.set_xlabel("ms of a training step")
        axis.set_title(words.batches(facts, size), fontsize=9)
    axes[0].set_ylabel(f"validation {facts['monitor']} at the end")
    _legend(figure, axes)
    return figure


_ABOUT_TRADE = (
    "The metric at the end against the time of a step. Lines are 90 % intervals of the mean: "
    "what is above and left is better."
)
_ABOUT_SWITCHES = (
    "What Switchable Norm chose in each layer, from first to last. All shares start equal."
)


def _about_curves(facts: Facts) -> str:
    text = "Means over seeds; bands are the standard deviation. Hollow marks: recalibrated."
    if facts["baseline"]:
        text += f" Dotted: {facts['baseline']['what']}."
    return text


def _switches(facts: Facts) -> Figure:
    from keras_norms.analysis import Preferences

    return stacked_bars(Preferences({facts["steps"]: facts["switches"]}, facts["model"]))


def _limits(facts: Facts) -> tuple[float | None, float | None]:
    """Limits of the metric that leave out how bad untrained and diverging nets are."""
    metric = facts["monitor"]
    ends = [run["curve"][-1][metric] for run in facts["runs"] if not run["failed"]]
    starts = [run["curve"][1][metric] for run in facts["runs"] if not run["failed"]]
    known = [value for value in (*ends, *starts) if value is not None]
    if facts["baseline"]:
        known.append(facts["baseline"]["value"])
    if not known:
        return None, None
    room = 0.08 * (max(known) - min(known) or 1)
    return min(known) - room, max(known) + room


def _legend(figure: Figure, axes: Any) -> None:
    """One legend above all panels, in the order of the norms."""
    found: dict[str, Any] = {}
    for axis in axes:
        found |= {
            label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside upper left",
        ncols=5,
        frameon=False,
        fontsize=8,
    )


def _figure(panels: int) -> tuple[Figure, Any]:
    (figures,) = require("matplotlib.figure", purpose="A comparison", extra="compare")
    figure = figures.Figure(figsize=(3.5 * panels + 0.8, 3.2), dpi=150, layout="constrained")
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_fontsize(8)
        axis.yaxis.label.set_fontsize(8)
        axis.grid(axis="y", color="0.92")
    return figure, axes
