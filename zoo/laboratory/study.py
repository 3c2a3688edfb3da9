"""What a study is: runs, claims, tables and figures, as data."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol


class Task(Protocol):
    """What a run does: a frozen dataclass, so that equal settings are known to be equal.

    Attributes:
        dataset: the data that it reads, a name for `zoo.data.load`; or None.
    """

    dataset: str | None

    def rows(self, seed: int, folder: Path, data_dir: str | None) -> list[dict]:
        """Does the work, or goes on with what `folder` holds of it.

        Returns:
            What was measured, as JSON values: one row for each thing that was.
        """


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, which is repeated for every seed.

    Attributes:
        name: names its folder.
        factors: what sets it apart from the other runs; every row of its results holds them.
        task: what it does.
    """

    name: str
    factors: Mapping
    task: Task


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement that numbers decide.

    Attributes:
        name: str, short.
        statement: str, as its source has it.
        source: str.
        effect: function from the `Rows` of one seed to a number, the larger the more it speaks
            for the statement, or to None if the rows do not say.
        measured: str, what `effect` is.
        threshold: float, the effect from which on the statement holds. Chosen on the calibration
            seeds, or as the least difference that would matter to anybody.
        form: str, format of the effect.
        remark: str, the likely reason if it does not hold, or what else is to be known.
    """

    name: str
    statement: str
    source: str
    effect: Callable
    measured: str
    threshold: float = 0.0
    form: str = "{:+.3f}"
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A measure by two factors.

    Attributes:
        title: str.
        measure: the column of the rows that is shown.
        rows: the factor that names the rows of the table.
        columns: the factor that names its columns; None for one column, the measure's.
        where: the factors that are fixed.
        form: str, format of a value.
    """

    title: str
    measure: str
    rows: str
    columns: str | None = None
    where: Mapping = dataclasses.field(default_factory=dict)
    form: str = "{:.1%}"


@dataclasses.dataclass(frozen=True)
class Scale:
    """A size of a study.

    Attributes:
        settings: the arguments of `Study.plan`.
        seeds: those on which claims are judged.
        minutes: how long the runs of all these seeds take, on 2 cores where they have been
            measured; None where they have not.
    """

    settings: Mapping
    seeds: tuple[int, ...]
    minutes: float | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """A question, and what is done to answer it.

    Attributes:
        question: str, one line.
        about: str, a paragraph: what is trained on what, and what is out of scope.
        plan: function from the settings of a scale to its list of `Run`.
        scales: `{"smoke", "cpu", "full": Scale}`.
        claims: of `Claim`.
        tables: of `Table`.
        figures: `{name: one of zoo.laboratory.figures}`.
        calibration: seeds on which settings and thresholds were chosen, never judged.
        replicas: int, the most replicas that a run has.
        timed: whether time is among what is measured, so that runs must not share the machine.
    """

    question: str
    about: str
    plan: Callable[..., list[Run]]
    scales: Mapping[str, Scale]
    claims: tuple[Claim, ...]
    tables: tuple[Table, ...] = ()
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    calibration: tuple[int, ...] = ()
    replicas: int = 1
    timed: bool = False


class Rows(list):
    """Results: dicts of factors and measures."""

    def where(self, **factors):
        """The rows with these factors; `min` and `max` stand for the least and largest there is."""
        if not self:
            return self
        fixed = {k: v(self.values(k)) if callable(v) else v for k, v in factors.items()}
        return Rows(row for row in self if all(row.get(k) == v for k, v in fixed.items()))

    def values(self, factor):
        """The values of a factor or measure, each once, in the order met."""
        return list(dict.fromkeys(row[factor] for row in self if factor in row))

    def mean(self, measure, **factors):
        """The mean of a measure over the rows with these factors; None if none has it."""
        mean, _ = self.mean_and_spread(measure, **factors)
        return mean

    def mean_and_spread(self, measure, **factors):
        """Mean and standard deviation, which is None for one row; `(None, None)` for no row.

        The mean is NaN where a value is infinite, or none.
        """
        found = [row.get(measure) for row in self.where(**factors)]
        found = [value for value in found if value is not None]
        if not found:
            return None, None
        if not all(map(math.isfinite, found)):
            return math.nan, None
        spread = statistics.stdev(found) if len(found) > 1 else None
        return statistics.fmean(found), spread

    def curve(self, measure, **factors):
        """By epoch, what the first row with these factors has; None if it has nothing."""
        found = self.where(**factors)
        return found[0]["curves"][measure] if found and "curves" in found[0] else None

    def early(self, measure, share, **factors):
        """The mean of the first share of a curve, or None."""
        curve = self.curve(measure, **factors)
        return curve and statistics.fmean(curve[: max(1, int(share * len(curve)))])


def gap(measure, more, less, **where):
    """An effect: by how much a measure is greater with the factors `more` than with `less`."""

    def effect(rows):
        rows = rows.where(**where)
        return subtract(rows.mean(measure, **more), rows.mean(measure, **less))

    return effect


def subtract(minuend, subtrahend):
    """The difference of two numbers, or None if one of them is."""
    return None if minuend is None or subtrahend is None else minuend - subtrahend
