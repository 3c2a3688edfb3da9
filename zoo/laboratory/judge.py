"""Decides whether claims hold: one rule for all of them."""

import math
import statistics
from collections.abc import Iterable
from typing import Any

from scipy import stats

from zoo.laboratory.study import Claim, Rows

HOLDS, FAILS, UNDECIDED = "holds", "does not", "undecided"
# The probability that the interval covers the mean effect.
CONFIDENCE = 0.9


def judge(claim: Claim, rows: Rows, seeds: Iterable[int]) -> dict[str, Any]:
    """Decides a claim by its effects with several seeds.

    The mean effect over n seeds with standard deviation sd has the confidence interval

        mean +- t(CONFIDENCE, n - 1) * sd / sqrt(n)

    The claim holds if the whole interval lies above the claim's threshold, and does not hold if
    the whole interval lies below. Otherwise it is undecided. It is also undecided with fewer than
    two seeds, and if a seed has no finite effect.

    Args:
        claim: what to decide.
        rows: the results.
        seeds: those to judge on.

    Returns:
        dict: "verdict"; "effects" by seed; and their "mean", "spread" (the standard deviation) and
        "interval", each None where there are too few effects.
    """
    effects = {seed: claim.effect(rows.where(seed=seed)) for seed in seeds}
    found = [value for value in effects.values() if value is not None and math.isfinite(value)]
    result: dict[str, Any] = {"effects": effects, "mean": None, "spread": None, "interval": None}
    verdict = UNDECIDED
    if found:
        result["mean"] = mean = statistics.fmean(found)
    if len(found) > 1:
        result["spread"] = spread = statistics.stdev(found)
        reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(found) - 1) * spread / len(found) ** 0.5
        low, high = result["interval"] = mean - reach, mean + reach
        # A run that is missing or diverged could have changed the verdict.
        if len(found) == len(effects):
            verdict = _verdict(low, high, claim.threshold)
    return {"verdict": verdict} | result


def _verdict(low: float, high: float, threshold: float) -> str:
    if low > threshold:
        return HOLDS
    return FAILS if high < threshold else UNDECIDED
