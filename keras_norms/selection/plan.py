"""What fits into the time: the runs, their order and their number of steps."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from keras_norms.selection.training import POINTS

LEAST_STEPS = 2 * POINTS  # with fewer, a curve says nothing
SPARE = 0.1  # of the time that is left, for what takes longer than measured


class OutOfTime(Exception):
    """The time of a comparison is over."""


class Budget:
    """The time of a comparison.

    Args:
        minutes: how much there is; None for no limit.
        clock: function that returns seconds.
    """

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()
        self.seconds = math.inf if minutes is None else 60 * minutes

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._began

    @property
    def left(self) -> float:
        """Seconds to the end."""
        return self.seconds - self.spent

    def check(self) -> None:
        """Raises `OutOfTime` at the end."""
        if self.left <= 0:
            raise OutOfTime


class Run(NamedTuple):
    """A run of a comparison.

    Attributes:
        norm: which.
        size: samples of a batch.
        seed: of weights and order.
        switches: whether it is the one that asks the model, and is not compared.
    """

    norm: str
    size: int
    seed: int
    switches: bool = False


class Seconds(NamedTuple):
    """How long parts of a run take.

    Attributes:
        step: `{(norm, size): seconds of a step}`.
        fixed: `{norm: seconds of a run beside its steps}`.
    """

    step: Mapping[tuple[str, int], float]
    fixed: Mapping[str, float]

    def of(self, run: Run, steps: int) -> float:
        """The time of a run of so many steps."""
        return self.fixed[run.norm] + steps * self.step[run.norm, run.size]


class Plan(NamedTuple):
    """The runs that fit.

    Attributes:
        steps: of the first batch size.
        runs: in their order.
        seeds: how many are complete.
        seconds: how long they take.
    """

    steps: int
    runs: Sequence[Run]
    seeds: int
    seconds: float


def steps_at(size: int, steps: int, base: int, ghost: bool) -> int:
    """The steps at a batch size: of as many samples, or with ghost batches as many steps."""
    return steps if ghost else max(1, round(steps * base / size))


def make_plan(
    norms: Sequence[str],
    sizes: Sequence[int],
    seeds: int,
    steps: int | None,
    ghost: bool,
    seconds: Seconds,
    left: float,
    switches: Run | None,
    done: Callable[[Run], bool] = lambda run: False,
) -> Plan:
    """Chooses the steps and the seeds that fit into the time.

    Args:
        norms: the first is the reference.
        sizes: batch sizes.
        seeds: how many are wanted.
        steps: of the first batch size; None for as many as fit.
        ghost: whether other sizes are those of ghost batches.
        seconds: how long steps take.
        left: seconds.
        switches: the run that asks the model, if it is one more.
        done: whether a run is done already.

    Raises:
        ValueError: if not even one seed fits.
    """
    wanted = [Run(norm, size, seed) for seed in range(seeds) for size in sizes for norm in norms]
    usable = left / (1 + SPARE)

    def total(runs: Sequence[Run], steps: int) -> float:
        return sum(
            seconds.of(run, steps_at(run.size, steps, sizes[0], ghost))
            for run in runs
            if not done(run)
        )

    def first(count: int) -> list[Run]:
        # The run of the switches comes after the first seed, so that a stop does not lose it.
        per_seed = len(norms) * len(sizes)
        runs = wanted[: count * per_seed]
        return [*runs[:per_seed], *([switches] if switches else []), *runs[per_seed:]]

    counts = range(seeds, 0, -1)
    if steps is None:
        if usable == math.inf:
            raise ValueError("Give `steps`, `minutes`, or both.")
        for count in counts:
            runs = first(count)
            fixed, slope = total(runs, 0), (total(runs, 1000) - total(runs, 0)) / 1000
            fitting = int((usable - fixed) / slope) if slope else 0
            # At least half of the time is for training, if fewer seeds make that possible.
            if fitting >= LEAST_STEPS and (fitting * slope >= fixed or count == 1):
                return Plan(fitting, runs, count, total(runs, fitting))
        least = total(first(1), LEAST_STEPS) * (1 + SPARE) / 60
        raise ValueError(
            f"The time does not suffice for {LEAST_STEPS} steps with one seed. Give at least "
            f"{math.ceil(least)} minutes more, fewer norms or fewer batch sizes."
        )
    count = next((count for count in counts if total(first(count), steps) <= usable), 1)
    return Plan(steps, first(count), count, total(first(count), steps))


def in_words(plan: Plan, norms: Sequence[str], sizes: Sequence[int], budget: Budget) -> str:
    """What will be done, in a sentence."""
    text = (
        f"{len(norms)} norms x {len(sizes)} batch sizes x {plan.seeds} seeds, {plan.steps} steps "
        f"each at batch size {sizes[0]}: about {_minutes(plan.seconds)}"
    )
    if plan.seconds > budget.left:
        return f"{text}. Only {_minutes(budget.left)} are left, so this stops before its end"
    return text


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes"
