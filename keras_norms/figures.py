"""Draws what switches and gates chose, as matplotlib figures.

    figures.stacked_bars(analysis.read("runs/sn")).savefig("preferences.png")

Figures open no window and do not use pyplot, so that a callback can draw them anywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_norms.analysis import KINDS, LABELS, Preferences, require, stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keras_norms.comparison import Comparison

# Paul Tol's high-contrast colours, and a blue of his medium-contrast ones. Colour-blind readers can
# tell them apart, and so can readers of a print in grey.
COLOURS = {"instance": "#DDAA33", "group": "#6699CC", "layer": "#BB5566", "batch": "#004488"}
TITLES = {"mean": "weights for the mean", "variance": "weights for the variance", "gate": "gate"}
GAP = 0.6  # between stages, in widths of a bar
SMALL = 7  # size of small text, in points


def stacked_bars(preferences: Preferences) -> Figure:
    """The weights of each layer by depth as stacked bars, a panel for each kind.

    Args:
        preferences: `analysis.Preferences`; its last step is drawn.

    Returns:
        `matplotlib.figure.Figure`.
    """
    layers = preferences.last
    stages = [stage(path) for path in layers]
    figure, axes, places, _ = _panels(layers.values(), stages, _names(layers), _title(preferences))
    for kind, axis in axes.items():
        bottom = np.zeros(len(layers))
        for s in preferences.statistics:
            shares = [weights.get(kind, {}).get(s, 0.0) for weights in layers.values()]
            axis.bar(places, shares, width=0.88, bottom=bottom, color=COLOURS[s], label=LABELS[s])
            bottom += shares
        axis.set(ylim=(0, 1), ylabel=TITLES[kind])
    _legend(figure, preferences.statistics)
    return figure


def heat_map(preferences: Preferences) -> Figure:
    """The weights as a map: a column for each layer, by depth, and a row for each statistic.

    Args:
        preferences: `analysis.Preferences`; its last step is drawn.

    Returns:
        `matplotlib.figure.Figure`.
    """
    layers = preferences.last
    stages = [stage(path) for path in layers]
    used = preferences.statistics[::-1]
    figure, axes, places, pitch = _panels(
        layers.values(),
        stages,
        _names(layers),
        _title(preferences),
        height=0.3 * len(used) + 0.2,
    )
    for kind, axis in axes.items():
        shares = np.array(
            [[weights.get(kind, {}).get(s, np.nan) for weights in layers.values()] for s in used]
        )
        for _, columns in _adjacent(stages):
            edges = np.append(places[columns] - 0.5, places[columns[-1]] + 0.5)
            colours = axis.pcolormesh(
                edges,
                np.arange(len(used) + 1) - 0.5,
                shares[:, columns],
                vmin=0,
                vmax=1,
                cmap="YlGnBu",
                edgecolors="white",
                linewidth=0.5,
            )
        if pitch > 0.25:  # room for two digits
            for (row, column), share in np.ndenumerate(shares):
                if np.isfinite(share):
                    ink = "white" if share > 0.5 else "black"
                    text = f"{share:.2f}".removeprefix("0")
                    style: Any = {"ha": "center", "va": "center", "fontsize": SMALL, "color": ink}
                    axis.text(float(places[column]), row, text, **style)
        axis.set_yticks(range(len(used)), [LABELS[s] for s in used], fontsize=8)
        axis.set(ylabel=TITLES[kind].replace(" for", "\nfor"), ylim=(-0.5, len(used) - 0.5))
        axis.spines[:].set_visible(False)
    bar = figure.colorbar(colours, ax=list(axes.values()), pad=0.01, aspect=15)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    return figure


def compared_bars(comparison: Comparison) -> Figure:
    """Means over the net and its stages, one stacked bar for each group of runs.

    Lines on the bars show the spread (standard deviation) over the runs of a group.

    Args:
        comparison: `comparison.Comparison`.

    Returns:
        `matplotlib.figure.Figure`.
    """
    means = comparison.means()
    parts = list(dict.fromkeys(part for group in means.values() for part in group))
    bars = [(part, label) for part in parts for label in means if part in means[label]]
    weights = [means[label][part] for part, label in bars]
    option = comparison.differing[0] if len(comparison.differing) == 1 else None
    names = [label.removeprefix(f"{option}=") for _, label in bars]
    title = "means over the layers"
    if any(len(runs) > 1 for runs in comparison.groups.values()):
        title += " and seeds; lines show the spread"
    stages = [part for part, _ in bars]
    figure, axes, places, _ = _panels(weights, stages, names, title)
    used = comparison.statistics
    for kind, axis in axes.items():
        bottom = np.zeros(len(bars))
        for s in used:
            entries = [kinds.get(kind, {}).get(s, (0.0, None)) for kinds in weights]
            shares = np.array([mean for mean, _ in entries])
            spread = np.array([np.nan if sd is None else sd for _, sd in entries])
            axis.bar(places, shares, width=0.88, bottom=bottom, color=COLOURS[s])
            ink = "black" if s == "instance" else "white"
            middle = bottom + shares / 2
            axis.errorbar(places, middle, spread, fmt="none", ecolor=ink, elinewidth=1, capsize=2)
            bottom += shares
        axis.set(ylim=(0, 1), ylabel=TITLES[kind])
    list(axes.values())[-1].set_xlabel(option or "", fontsize=8)
    _legend(figure, used)
    return figure


def pixels(figure: Figure, dpi: float = 100) -> np.ndarray:
    """The figure as an array of shape `(height, width, 4)`, uint8."""
    (agg,) = require("matplotlib.backends.backend_agg")
    figure.set_dpi(dpi)
    canvas = agg.FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def _panels(
    weights: Iterable[Mapping[str, Any]],
    stages: Sequence[str],
    names: Sequence[str],
    title: str,
    height: float = 1.9,
) -> tuple[Figure, dict[str, Axes], np.ndarray, float]:
    """An empty figure, large enough for all bars and names, with a panel for each kind.

    Args:
        weights: `{kind: ...}` for each bar.
        stages: the stage of each bar, written above the panels.
        names: the name of each bar, written below the panels.
        title: the title of the figure.
        height: height of a panel, in inches.

    Returns:
        `(figure, {kind: axis}, places, pitch)`: `places` are the bars' positions on the axis, and
        `pitch` is the distance between two bars, in inches.
    """
    (figures,) = require("matplotlib.figure")
    weights = list(weights)
    kinds = [kind for kind in KINDS if kind in TITLES and any(kind in bar for bar in weights)]
    steps = [1 + GAP * (a != b) for a, b in itertools.pairwise(stages)]
    places = np.cumsum([0, *steps])
    pitch = min(0.32, max(0.16, 14 / len(places)))
    rotated = max(map(len, names)) > 3
    below = 0.065 * max(map(len, names)) if rotated else 0.3
    size = (max(5, 1.6 + pitch * (places[-1] + 1)), 0.6 + height * len(kinds) + below)
    figure = figures.Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.subplots(len(kinds), sharex=True, squeeze=False)[:, 0]
    room = int(12 * (size[0] - 1))  # for how many characters there is room beside the legend
    title = title if len(title) <= room else f"...{title[3 - room :]}"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, length=0)
        axis.yaxis.label.set_fontsize(8)
        axis.set_xlim(-0.7, places[-1] + 0.7)
    axes[-1].set_xticks(places, names, rotation=90 * rotated, fontsize=SMALL)
    _name_stages(axes[0], places, pitch, stages)
    return figure, dict(zip(kinds, axes, strict=True)), places, pitch


def _adjacent(stages: Sequence[str]) -> list[tuple[str, list[int]]]:
    """`(stage, indices of its bars)` for each group of adjacent bars of one stage."""
    return [
        (name, list(bars))
        for name, bars in itertools.groupby(range(len(stages)), key=lambda i: stages[i])
    ]


def _name_stages(axis: Axes, places: np.ndarray, pitch: float, stages: Sequence[str]) -> None:
    """Draws a line above the bars of each stage, and the stage's name on it."""
    over = axis.get_xaxis_transform()
    spans = [(name, places[bars]) for name, bars in _adjacent(stages)]
    width = 0.075 / pitch  # of a character, in widths of a bar
    crowded = any(
        b.mean() - a.mean() < width * (len(left) + len(right)) / 2
        for (left, a), (right, b) in itertools.pairwise(spans)
    )
    style: Any = {"rotation": 40, "ha": "left"} if crowded else {"ha": "center"}
    for name, bars in spans:
        ends = bars[0] - 0.44, bars[-1] + 0.44
        axis.plot(ends, (1.04, 1.04), transform=over, color="0.4", lw=1, clip_on=False)
        axis.text(bars.mean(), 1.07, name, transform=over, va="bottom", fontsize=8, **style)


def _title(preferences: Preferences) -> str:
    step = max(preferences.history)
    return f"{preferences.name}, step {step}" if len(preferences.history) > 1 else preferences.name


def _names(paths: Iterable[str]) -> list[str]:
    """The layers' own names without the stage, which is written above the bars."""
    own = [path.rsplit("/", 1)[-1] for path in paths]
    return [name.split("_", 1)[-1] for name in own]


def _legend(figure: Figure, statistics: Sequence[str]) -> None:
    (patches,) = require("matplotlib.patches")
    handles = [patches.Patch(color=COLOURS[s], label=LABELS[s]) for s in reversed(statistics)]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
