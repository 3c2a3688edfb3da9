"""The figures of studies, as data: each says what to draw, and `draw(rows)` makes the figure."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from keras_norms.analysis import require
from zoo.laboratory.study import Rows

# Colours that colour-blind readers tell apart: those of Okabe and Ito, and three of Tol's.
_PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"),
    *("#882255", "#999933", "#332288"),
)
_MARKERS = "osD^vPX*<>h"
# The place of a norm gives its colour and marker, which are the same in all figures.
_NORMS = ("bn", "gn", "ln", "sn", "in", "wn_mobn", "none", "bin", "wn", "rms", "mobn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """Panels side by side, each with a line or point for every value of a factor.

    Attributes:
        by: the factor.
        labels: of the axes, `(x, y)`.
        panels: factor of the panels; None for a single panel.
        where: factors that are fixed.
        log: the axes that are logarithmic.
        percent: whether y is a share.
    """

    by: str
    labels: tuple[str, str]
    panels: str | None = None
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    log: str = ""
    percent: bool = False
    share_y: ClassVar[bool] = True  # whether all panels have the same y axis

    def draw(self, rows: Rows) -> Any:
        """The figure, or None where there is nothing to draw."""
        rows = Rows(row for row in rows.where(**self.where) if self._has_data(row))
        if not rows:
            return None
        parts = rows.values(self.panels) if self.panels else [None]
        figure, axes = make_panels(len(parts), self.share_y)
        for part, axis in zip(parts, axes, strict=True):
            chosen = rows.where(**{self.panels: part}) if self.panels else rows
            for place, name in enumerate(rows.values(self.by)):
                self._plot(axis, chosen.where(**{self.by: name}), name, style(name, place))
            axis.set(xlabel=self.labels[0], title=panel_title(self.panels, part))
            format_axes(axis, self.log, self.percent)
        axes[0].set_ylabel(self.labels[1])
        add_legend(figure, axes, self.by)
        return figure

    def _has_data(self, row: Mapping[str, Any]) -> bool:
        """Whether a row holds what is drawn."""
        raise NotImplementedError

    def _plot(self, axis: Any, rows: Rows, name: Any, look: dict[str, Any]) -> None:
        """Draws the rows of one value of the factor."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Lines(Chart):
    """A measure against a factor: the mean over seeds, with bars of one standard deviation.

    Attributes:
        caption: what to see.
        x: factor with numbers.
        y: measure.
    """

    caption: str
    x: str
    y: str

    def _has_data(self, row: Mapping[str, Any]) -> bool:
        return self.y in row

    def _plot(self, axis: Any, rows: Rows, name: Any, look: dict[str, Any]) -> None:
        points = {
            x: rows.mean_and_spread(self.y, **{self.x: x}) for x in sorted(rows.values(self.x))
        }
        found = [(x, mean, spread or 0) for x, (mean, spread) in points.items() if mean is not None]
        if found:
            axis.errorbar(*zip(*found, strict=True), **look, capsize=2, lw=1.5, label=name)


@dataclasses.dataclass(frozen=True)
class Curves(Chart):
    """A quantity during training: the mean over seeds, with a band from least to greatest.

    Attributes:
        caption: what to see.
        curve: function from a row to its `{x: y}`, or None.
    """

    caption: str
    curve: Callable[[Mapping[str, Any]], Mapping[Any, float] | None]

    def _has_data(self, row: Mapping[str, Any]) -> bool:
        return bool(self.curve(row))

    def _plot(self, axis: Any, rows: Rows, name: Any, look: dict[str, Any]) -> None:
        curves = [curve for row in rows if (curve := self.curve(row))]
        if not curves:
            return
        x = sorted(set.intersection(*(set(curve) for curve in curves)))
        y = np.array([[curve[step] for step in x] for curve in curves], float)  # None: NaN
        axis.plot(x, y.mean(0), lw=1.5, label=name, **look | {"marker": ""})
        if len(y) > 1:
            axis.fill_between(x, y.min(0), y.max(0), color=look["color"], alpha=0.15, lw=0)


@dataclasses.dataclass(frozen=True)
class Scatter(Chart):
    """Two measures against each other, as named points with bars of one standard deviation.

    Attributes:
        caption: what to see.
        x: measure.
        y: measure.
    """

    caption: str
    x: str
    y: str
    share_y: ClassVar[bool] = False

    def _has_data(self, row: Mapping[str, Any]) -> bool:
        return self.x in row or self.y in row

    def _plot(self, axis: Any, rows: Rows, name: Any, look: dict[str, Any]) -> None:
        (x, dx), (y, dy) = map(rows.mean_and_spread, (self.x, self.y))
        if x is not None and y is not None:
            axis.errorbar(x, y, dy or 0, dx or 0, **look, capsize=2, lw=1)
            where = {"xytext": (5, 4), "textcoords": "offset points", "fontsize": 8}
            axis.annotate(name, (x, y), **where)
            axis.margins(x=0.15)


def by_epoch(measure: str) -> Callable[[Mapping[str, Any]], dict[int, float]]:
    """A function from a row to the curve of a measure, for `Curves`."""
    return lambda row: dict(enumerate(row["curves"][measure], 1))


def panel_title(factor: str | None, value: Any) -> str:
    """The title of a panel. A name says enough by itself; a number needs its factor."""
    if factor is None:
        return ""
    if isinstance(value, str):
        return f"{factor} {value}" if factor.endswith(" is") else value
    return f"{factor}: {value}"


def style(name: Any, position: int = 0) -> dict[str, Any]:
    """The line and marker of a name.

    A norm's colour and marker are fixed, and its lines are dashed if it has arguments. Any other
    name gets those of its position.
    """
    base, *more = str(name).replace("(", ",").split(",", 1)
    index = _NORMS.index(base) if base in _NORMS else position
    return {
        "color": _PALETTE[index % len(_PALETTE)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "ms": 4,
        "ls": "--" if more and base in _NORMS else "-",
    }


def make_panels(count: int, share_y: bool) -> tuple[Any, Any]:
    """A figure, and its axes side by side."""
    (figures,) = require("matplotlib.figure")
    size = (min(3.2 * count + 1.8, 11), 3.2 if count > 1 else 3.6)
    figure = figures.Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.subplots(1, count, sharey=share_y, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, lw=0.5)
        axis.tick_params(labelsize=8)
        axis.title.set_fontsize(9)
    return figure, axes


def format_axes(axis: Any, log: str, percent: bool) -> None:
    """Makes the axes that `log` names logarithmic, and shows y in percent if asked."""
    if "x" in log:
        (ticker,) = require("matplotlib.ticker")
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axis.minorticks_off()
    if "y" in log:
        axis.set_yscale("log")
    if percent:
        (ticker,) = require("matplotlib.ticker")
        axis.yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=None))


def add_legend(figure: Any, axes: Any, title: str) -> None:
    """Adds one legend for all axes, on the right."""
    handles: dict[str, Any] = {}
    for axis in axes:
        handles |= {label: h for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if len(handles) > 1:
        look = {"frameon": False, "fontsize": 8, "title_fontsize": 8}
        figure.legend(handles.values(), handles, loc="outside right upper", title=title, **look)
