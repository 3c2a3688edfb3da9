"""Which norms are better: one rule for all comparisons."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from keras_norms.intervals import ERROR, FEWEST, Estimate, estimate, holm

Facts = Mapping[str, Any]

BEST, AMONG, OPEN, WORSE = "best", "among the best", "not told apart", "worse"
FEW, NOT_LEARNT, FAILED, NOTHING = "too few seeds", "not learnt", "failed", "no conclusion"


class Place(NamedTuple):
    """A norm in a ranking.

    Attributes:
        norm: which.
        values: `{seed: the metric at the end}`.
        estimate: of their mean; None without a value.
        behind: by how much it is worse than the first, as an estimate; None for the first.
        recalibrated: the mean metric with statistics that were computed again, or None.
        verdict: one of the constants of this module.
    """

    norm: str
    values: Mapping[int, float]
    estimate: Estimate | None
    behind: Estimate | None
    recalibrated: float | None
    verdict: str


class Ranking(NamedTuple):
    """The norms at a batch size.

    Attributes:
        size: samples of a batch.
        places: the best comes first, what failed last.
    """

    size: int
    places: Sequence[Place]

    def place(self, norm: str) -> Place:
        """That of a norm."""
        return next(place for place in self.places if place.norm == norm)

    @property
    def top(self) -> list[Place]:
        """Those that nothing is better than, as far as is known."""
        return [p for p in self.places if p.verdict in (BEST, AMONG, OPEN)]


def better(facts: Facts, one: float, other: float) -> bool:
    """Whether a value of the metric is better than another."""
    return one > other if facts["higher"] else one < other


def final(facts: Facts, norm: str, size: int) -> dict[int, float]:
    """`{seed: the metric at the end}` of the runs that did not fail."""
    return {
        run["seed"]: run["curve"][-1][facts["monitor"]]
        for run in runs_of(facts, norm, size)
        if not has_failed(facts, run)
    }


def has_failed(facts: Facts, run: Mapping[str, Any]) -> bool:
    """Whether a run ended by an error, or with a metric that is no number."""
    return bool(run["failed"]) or run["curve"][-1][facts["monitor"]] is None


def has_learnt(facts: Facts, norm: str, size: int) -> bool:
    """Whether a norm is better than a prediction that learns nothing.

    The worse end of its 90% interval has to be better; with one seed, its value.
    """
    values = list(final(facts, norm, size).values())
    if not values or facts["baseline"] is None:
        return bool(values)
    found = estimate(values)
    low, high = found.interval or (found.mean, found.mean)
    return better(facts, low if facts["higher"] else high, facts["baseline"]["value"])


def reference_has_learnt(facts: Facts) -> bool:
    """Whether the first norm has learnt at the first batch size. Nothing is concluded otherwise."""
    return has_learnt(facts, facts["norms"][0], facts["batch_sizes"][0])


def rank(facts: Facts, size: int) -> Ranking:
    """The norms at a batch size: those with a run that failed, or that have not learnt, come last.

    The others are ordered by their means on the seeds that all of them have. Each is compared with
    the first on the seeds that both have: the differences by seed are tested against 0
    (`intervals.estimate`), with Holm's correction for the number of norms.
    """
    values = {norm: final(facts, norm, size) for norm in facts["norms"]}
    sign = 1 if facts["higher"] else -1
    failed = {
        norm for norm in values if any(has_failed(facts, run) for run in runs_of(facts, norm, size))
    }
    sound = {norm for norm in values.keys() - failed if has_learnt(facts, norm, size)}
    shared = set.intersection(*(set(values[norm]) for norm in sound)) if sound else set()

    def place_of(norm: str) -> tuple[bool, bool, float]:
        own = values[norm]
        seeds = shared if norm in sound and shared else own
        return norm in failed, norm not in sound, -sign * statistics.fmean(own[s] for s in seeds)

    order = sorted((norm for norm in values if values[norm]), key=place_of)
    behind = {norm: _difference(values[order[0]], values[norm], sign) for norm in order[1:]}
    compared = behind.keys() - failed
    # With too few seeds in common, a difference says nothing.
    told = {
        norm: found
        for norm, found in behind.items()
        if norm in compared and found and len(values[order[0]].keys() & values[norm]) >= FEWEST
    }
    corrected = holm([found.p or 0.0 for found in told.values()])
    # On the seeds of a pair, the second may be ahead.
    worse = {
        norm
        for (norm, found), p in zip(told.items(), corrected, strict=True)
        if p <= ERROR and found.mean > 0
    }
    few = compared - told.keys()
    same = compared - worse

    def verdict(norm: str) -> str:
        if norm in failed:
            return FAILED
        if not reference_has_learnt(facts):
            return NOTHING
        if not has_learnt(facts, norm, size):
            return NOT_LEARNT
        if norm in worse:
            return WORSE
        if norm in few or few and not told:
            return FEW
        return AMONG if worse and same else OPEN if same else BEST

    places = []
    for norm in order:
        again = [
            run["recalibrated"][facts["monitor"]]
            for run in runs_of(facts, norm, size)
            if not has_failed(facts, run) and run["recalibrated"]
        ]
        places.append(
            Place(
                norm,
                values[norm],
                estimate(list(values[norm].values())),
                behind.get(norm),
                statistics.fmean(again) if again else None,
                verdict(norm),
            )
        )
    places += [
        Place(norm, {}, None, None, None, FAILED)
        for norm in facts["norms"]
        if norm in failed and not values[norm]
    ]
    return Ranking(size, places)


def change_with_batch(facts: Facts, norm: str) -> Estimate | None:
    """By how much the metric is worse at the smallest batch size than at the largest, by seed."""
    large, small = max(facts["batch_sizes"]), min(facts["batch_sizes"])
    sign = 1 if facts["higher"] else -1
    return _difference(final(facts, norm, large), final(facts, norm, small), sign)


def more_steps(facts: Facts) -> int:
    """How many steps the reference needs, as its loss falls now; 2 to 10 times those it had."""
    norm, size = facts["norms"][0], facts["batch_sizes"][0]
    factors = []
    for run in runs_of(facts, norm, size):
        losses = [point["loss"] for point in run["curve"] if point["loss"] is not None]
        if run["failed"] or len(losses) < 3:
            continue
        middle = losses[len(losses) // 2]
        fallen, early = middle - losses[-1], losses[0] - middle
        # A loss that falls faster than before has just begun.
        factors.append(2.0 if fallen > 0 and fallen >= early / 2 else 4.0 if fallen > 0 else 10.0)
    factor = statistics.median(factors) if factors else 10.0
    return math.ceil(facts["steps"] * factor)


def _difference(one: Mapping[int, float], other: Mapping[int, float], sign: int) -> Estimate | None:
    """By how much the second is worse, on the seeds that both have."""
    differences = [sign * (one[seed] - other[seed]) for seed in one if seed in other]
    return estimate(differences) if differences else None


def runs_of(facts: Facts, norm: str, size: int) -> list[Mapping[str, Any]]:
    """The runs of a norm at a batch size."""
    return [run for run in facts["runs"] if (run["norm"], run["batch_size"]) == (norm, size)]
