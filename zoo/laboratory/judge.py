"""Decides whether claims hold: one rule for all of them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from keras_norms.intervals import ERROR, FEWEST, estimate, holm
from zoo.laboratory.study import Claim, Effect, Rows

HOLDS, FAILS, UNDECIDED, NOT_TESTED = "holds", "does not", "undecided", "not tested"


def judge(claims: Sequence[Claim], rows: Rows, seeds: Iterable[int]) -> list[dict[str, Any]]:
    """Decides the claims of a study by their effects with several seeds.

    The mean effect over seeds is compared with the threshold by a t test, `intervals.estimate`.
    `intervals.holm` corrects its p for the number of claims. A claim is decided if its corrected p
    is at most `ERROR`: it holds if its mean lies above the threshold, and does not if it lies
    below. Otherwise it is undecided.

    A claim is also undecided with fewer than `FEWEST` seeds, or if a seed has no finite effect. It
    is not tested if a net has not learnt.

    Args:
        claims: what to decide.
        rows: the results.
        seeds: those to judge on.

    Returns:
        A dict for each claim: "verdict"; "effects" by seed; their "mean", "spread" (the standard
        deviation) and uncorrected "interval"; "p", and "corrected" for all claims, each None where
        there are too few effects; "learnt", what its condition measures by seed, or None.
    """
    seeds = list(seeds)
    judged = [_measure(claim, rows, seeds) for claim in claims]
    tested = [each for each in judged if each["verdict"] is None]
    for each, corrected in zip(tested, holm([each["p"] for each in tested]), strict=True):
        each["corrected"] = corrected
    for claim, each in zip(claims, judged, strict=True):
        if each["verdict"] is None:
            decision = HOLDS if each["mean"] > claim.threshold else FAILS
            each["verdict"] = decision if each["corrected"] <= ERROR else UNDECIDED
    return judged


def judge_effect(effect: Effect, rows: Rows, seeds: Iterable[int]) -> dict[str, Any]:
    """Judges whether an effect is more than 0: as `judge`, as if it were the only claim."""
    return judge([Claim("", "", "", effect, "")], rows, seeds)[0]


def effects(claim: Claim, rows: Rows, seeds: Sequence[int]) -> dict[int, Any]:
    """The effect of a claim with each seed."""
    found = {}
    for seed in seeds:
        others = Rows(row for row in rows if row["seed"] in seeds and row["seed"] != seed)
        found[seed] = claim.effect(rows.where(seed=seed), *([others] * claim.across_seeds))
    return found


def _measure(claim: Claim, rows: Rows, seeds: Sequence[int]) -> dict[str, Any]:
    """All of a claim's result that does not depend on other claims; the verdict may be None."""
    by_seed = effects(claim, rows, seeds)
    learnt, missed = None, False
    if claim.learnt:
        learnt = {seed: claim.learnt.measure(rows.where(seed=seed)) for seed in seeds}
        missed = not all(map(claim.learnt.met, learnt.values()))
    found = [value for value in by_seed.values() if value is not None and math.isfinite(value)]
    result = dict.fromkeys(("verdict", "mean", "spread", "interval", "p", "corrected"))
    result |= {"effects": by_seed, "learnt": learnt}
    if found:
        result |= estimate(found, claim.threshold, pairs=claim.across_seeds)._asdict()
    if missed:
        result["verdict"] = NOT_TESTED
    elif len(found) < max(len(by_seed), FEWEST):
        # A run that is missing or diverged could have changed the verdict.
        result["verdict"] = UNDECIDED
    return result
