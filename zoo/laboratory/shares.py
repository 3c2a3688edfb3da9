"""Figures of shares that sum to 1: stacked bars, and paths in a triangle."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_norms.analysis import LABELS, require
from keras_norms.figures import COLOURS
from zoo.laboratory.study import Rows

# {statistic: its share with each seed}; a single number where the spread is not known.
Bar = Mapping[str, float | Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Shares:
    """Panels of stacked bars, whose parts are shares of 1.

    The whisker in the middle of a part is one standard deviation of its share over seeds, up and
    down.

    Attributes:
        caption: what to see.
        panels: function from `Rows` to `{title: {name of a bar: Bar}}`.
        columns: panels side by side.
    """

    caption: str
    panels: Callable[[Rows], Mapping[str, Mapping[str, Bar]]]
    columns: int = 2

    def draw(self, rows: Rows) -> Any:
        """The figure, or None where there is nothing to draw."""
        parts = self.panels(rows)
        if not parts:
            return None
        patches, figures = require("matplotlib.patches", "matplotlib.figure")
        count = -(-len(parts) // self.columns)
        figure = figures.Figure(figsize=(8.2, 0.5 + 1.65 * count), dpi=150, layout="constrained")
        axes = figure.subplots(count, self.columns, sharey=True, squeeze=False).ravel()
        for axis in axes[len(parts) :]:
            axis.set_visible(False)
        used = [s for s in LABELS if any(s in b for bars in parts.values() for b in bars.values())]
        for axis, (title, bars) in zip(axes, parts.items(), strict=False):
            for place, bar in enumerate(bars.values()):
                _stack(axis, place, {s: bar[s] for s in used if s in bar})
            axis.set_xticks(range(len(bars)), bars, fontsize=8)
            axis.set_title(title, fontsize=9, loc="left")
            axis.set(ylim=(0, 1), yticks=(0, 0.5, 1))
            axis.tick_params(length=0, labelsize=8)
            axis.spines[["top", "right"]].set_visible(False)
        handles = [patches.Patch(color=COLOURS[s], label=LABELS[s]) for s in used[::-1]]
        figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
        return figure


def _stack(axis: Any, place: int, bar: Bar) -> None:
    """Draws one bar, with its numbers and whiskers."""
    bottom = 0.0
    for index, (statistic, found) in enumerate(bar.items()):
        values = np.atleast_1d(np.asarray(found, float))
        share = float(values.mean())
        axis.bar(place, share, bottom=bottom, color=COLOURS[statistic], width=0.8)
        ink = "black" if statistic == "instance" else "white"
        if share >= 0.08:
            text = f"{share:.2f}".removeprefix("0")
            where = {"ha": "center", "va": "center", "fontsize": 7, "color": ink}
            axis.text(place - 0.08, bottom + share / 2, text, **where)
        bottom += share
        if len(values) > 1 and share >= 0.02:
            # Side by side, or the whiskers of adjacent parts would hide each other.
            x = place + 0.18 + 0.07 * index
            spread = float(values.std(ddof=1))
            axis.errorbar(x, bottom - share / 2, spread, color=ink, lw=1, capsize=1.5, capthick=1)


# The corners of the triangle, and where their names are: across and up.
_CORNERS = {"instance": (0.0, 0.0), "layer": (1.0, 0.0), "batch": (0.5, math.sqrt(3) / 2)}
_NAMES = {"instance": ("right", "top"), "layer": ("left", "top"), "batch": ("center", "bottom")}


@dataclasses.dataclass(frozen=True)
class Simplex:
    """Panels of triangles, in which each layer goes a path from the middle to what it chose.

    A corner is one statistic alone, the middle all alike. A dot marks the end of a path. Paths are
    means over seeds.

    Attributes:
        caption: what to see.
        paths: function from `Rows` to `{title: {block: [path, ...]}}`. A path is a list of
            `{statistic: share}`, in the order of the steps.
        columns: panels side by side.
    """

    caption: str
    paths: Callable[[Rows], Mapping[str, Mapping[str, Sequence[Sequence[Mapping[str, float]]]]]]
    columns: int = 3

    def draw(self, rows: Rows) -> Any:
        """The figure, or None where there is nothing to draw."""
        panels = self.paths(rows)
        if not panels:
            return None
        matplotlib, figures, lines = require("matplotlib", "matplotlib.figure", "matplotlib.lines")
        blocks = list(dict.fromkeys(block for panel in panels.values() for block in panel))
        shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(blocks)))
        count = -(-len(panels) // self.columns)
        size = (2.9 * self.columns + 1, 2.8 * count)
        figure = figures.Figure(figsize=size, dpi=150, layout="constrained")
        axes = figure.subplots(count, self.columns, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        for axis, (title, panel) in zip(axes, panels.items(), strict=False):
            _triangle(axis, title)
            for block, paths in panel.items():
                shade = shades[blocks.index(block)]
                for path in paths:
                    x, y = zip(*map(_place, path), strict=True)
                    axis.plot(x, y, color=shade, lw=1, alpha=0.8)
                    axis.plot(x[-1], y[-1], "o", color=shade, ms=3.5)
        handles = [
            lines.Line2D([], [], color=shade, marker="o", ms=3.5, label=block)
            for block, shade in zip(blocks, shades, strict=True)
        ]
        figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
        return figure


def _place(shares: Mapping[str, float]) -> tuple[float, float]:
    """The point of a triangle that stands for shares."""
    x, y = (sum(shares[s] * corner[i] for s, corner in _CORNERS.items()) for i in (0, 1))
    return x, y


def _triangle(axis: Any, title: str) -> None:
    """Draws the frame, the corners' names, and lines where a share is a quarter, half, 3/4."""
    corners = np.array(list(_CORNERS.values()))
    outline = np.vstack([corners, corners[:1]])
    axis.plot(*outline.T, color="0.3", lw=0.8)
    for share in (0.25, 0.5, 0.75):
        for i in range(3):
            ends = [share * corners[i] + (1 - share) * corners[j] for j in range(3) if j != i]
            axis.plot(*np.array(ends).T, color="0.88", lw=0.5, zorder=0)
    for statistic, (x, y) in _CORNERS.items():
        across, up = _NAMES[statistic]
        axis.text(x, y, f" {LABELS[statistic]} ", ha=across, va=up, fontsize=8)
    axis.set_title(title, fontsize=9)
    axis.set_aspect("equal")
    axis.margins(0.12)
