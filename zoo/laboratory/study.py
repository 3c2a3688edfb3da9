"""What a study is: runs, claims, tables and figures, as data."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

Number = float | None  # None stands for a measure that no row has


class Task(Protocol):
    """What a run does: a frozen dataclass, so that equal settings compare as equal.

    Attributes:
        dataset: the name, for `zoo.data.load`, of the data that it reads; None if it reads none.
    """

    @property
    def dataset(self) -> str | None: ...

    def rows(self, seed: int, folder: Path, data_dir: str | None) -> list[dict[str, Any]]:
        """Does the work, or continues the work that it finds in `folder`.

        Args:
            seed: of all that is random.
            folder: for its files.
            data_dir: directory of TensorFlow Datasets, or None.

        Returns:
            The measures, as JSON values: one row for each thing that was measured.
        """


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, which is repeated for every seed.

    Attributes:
        name: names its folder.
        factors: what distinguishes it from the other runs; every row of its results holds them.
        task: what it does.
    """

    name: str
    factors: Mapping[str, Any]
    task: Task


class Rows(list[dict[str, Any]]):
    """Results: dicts of factors and measures."""

    def where(self, **factors: Any) -> "Rows":
        """The rows with these factors; `min` and `max` stand for the least and largest value."""
        if not self:
            return self
        fixed = {k: v(self.values(k)) if callable(v) else v for k, v in factors.items()}
        return Rows(row for row in self if all(row.get(k) == v for k, v in fixed.items()))

    def values(self, factor: str) -> list[Any]:
        """The values of a factor or measure, each once, in order of appearance."""
        return list(dict.fromkeys(row[factor] for row in self if factor in row))

    def mean(self, measure: str, **factors: Any) -> Number:
        """The mean of a measure over the rows with these factors; None if no row has it."""
        mean, _ = self.mean_and_spread(measure, **factors)
        return mean

    def mean_and_spread(self, measure: str, **factors: Any) -> tuple[Number, Number]:
        """The mean and standard deviation of a measure over the rows with these factors.

        Without a row both are None; with one row, the standard deviation is. The mean is NaN if
        any value is not finite.
        """
        found = [row.get(measure) for row in self.where(**factors)]
        values = [value for value in found if value is not None]
        if not values:
            return None, None
        if not all(map(math.isfinite, values)):
            return math.nan, None
        spread = statistics.stdev(values) if len(values) > 1 else None
        return statistics.fmean(values), spread

    def curve(self, measure: str, **factors: Any) -> list[Any] | None:
        """A measure by epoch, of the first row with these factors; None if it has no curves."""
        found = self.where(**factors)
        return found[0]["curves"][measure] if found and "curves" in found[0] else None

    def early(self, measure: str, share: float, **factors: Any) -> Number:
        """The mean of a curve over the first `share` of its epochs; None without a curve."""
        curve = self.curve(measure, **factors)
        return statistics.fmean(curve[: max(1, int(share * len(curve)))]) if curve else None


Effect = Callable[..., Number]  # of the `Rows` of one seed, and maybe of the other seeds


@dataclasses.dataclass(frozen=True)
class Learnt:
    """What shows that the nets of a claim have learnt: fixed before the runs.

    Attributes:
        statement: the condition, in words.
        measure: function from the `Rows` of one seed to a number.
        least: the condition is met where the number is at least this.
        form: format of the number.
    """

    statement: str
    measure: Effect
    least: float
    form: str = "{:.1%}"

    def met(self, value: Number) -> bool:
        """Whether a net with this number has learnt."""
        return value is not None and value >= self.least


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement that numbers decide.

    Attributes:
        name: one letter.
        statement: what is claimed, as the source says it.
        source: where it was published.
        effect: function from the `Rows` of one seed to a number. The larger the number, the more
            it supports the statement. It is None if the rows lack what it needs.
        measured: what `effect` is, in words.
        threshold: the statement holds where the effect is larger. The threshold was chosen on the
            calibration seeds, or is the least difference that matters in practice.
        form: format of the effect.
        remark: what else a reader has to know, before any result.
        case: the nets that it is judged on, where a statement is judged on several.
        learnt: the claim is not tested where a net misses this. None for a property, which nets
            have whether they have learnt or not.
        published: the effect in the numbers of the source, where they are known.
        across_seeds: whether `effect` takes the `Rows` of the other judged seeds too, and is a mean
            over pairs with them.
    """

    name: str
    statement: str
    source: str
    effect: Effect
    measured: str
    threshold: float = 0.0
    form: str = "{:+.3f}"
    remark: str = ""
    case: str = ""
    learnt: Learnt | None = None
    published: Number = None
    across_seeds: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A measure by one or two factors.

    Attributes:
        title: what it shows.
        measure: the measure.
        rows: the factor that names the rows of the table.
        columns: the factor that names its columns; None for one column.
        where: the factors that are fixed.
        form: format of a value.
    """

    title: str
    measure: str
    rows: str
    columns: str | None = None
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    form: str = "{:.1%}"


class Figure(Protocol):
    """What `zoo.laboratory.figures` offers.

    Attributes:
        caption: what to see.
    """

    @property
    def caption(self) -> str: ...

    def draw(self, rows: Rows) -> Any:
        """A figure of matplotlib, or None where there is nothing to draw."""


# The sizes of studies, ascending, and whether a study of that size gives verdicts.
SCALES = {"smoke": False, "cpu": False, "evidence": True, "full": True}


@dataclasses.dataclass(frozen=True)
class Scale:
    """A size of a study.

    Attributes:
        settings: the arguments of `Study.plan`.
        seeds: those on which claims are judged.
        minutes: how long the runs of all these seeds took on 2 cores; None if not measured.
    """

    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    minutes: float | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """A question, and what is done to answer it.

    Attributes:
        question: one line.
        about: a paragraph that says what is trained on what, and what is out of scope.
        plan: function from the settings of a scale to its runs.
        scales: `{name: Scale}`, with names of `SCALES`.
        claims: what is judged.
        tables: what is shown as numbers.
        figures: what is drawn, `{name: figure}`.
        calibration: seeds on which settings and thresholds were chosen, which are never judged.
        replicas: the most replicas that a run has.
        timed: whether it measures time, so that its runs must not share the machine.
    """

    question: str
    about: str
    plan: Callable[..., list[Run]]
    scales: Mapping[str, Scale]
    claims: tuple[Claim, ...]
    tables: tuple[Table, ...] = ()
    figures: Mapping[str, Figure] = dataclasses.field(default_factory=dict)
    calibration: tuple[int, ...] = ()
    replicas: int = 1
    timed: bool = False


def gap(measure: str, more: Mapping[str, Any], less: Mapping[str, Any], **where: Any) -> Effect:
    """An effect: the mean of a measure with the factors `more`, minus that with `less`."""

    def effect(rows: Rows) -> Number:
        rows = rows.where(**where)
        return subtract(rows.mean(measure, **more), rows.mean(measure, **less))

    return effect


def subtract(minuend: Number, subtrahend: Number) -> Number:
    """The difference of two numbers, or None if either is None."""
    return None if minuend is None or subtrahend is None else minuend - subtrahend
