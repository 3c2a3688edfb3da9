"""Decides claims by numbers, in one way for all of them."""

import math
import statistics

from scipy import stats

HOLDS, FAILS, UNDECIDED = "holds", "does not", "undecided"
# Of the interval in which the mean effect lies; each side of it decides in one direction.
CONFIDENCE = 0.9


def judge(claim, rows, seeds):
    """What the seeds say of a claim.

    It holds where the confidence interval of the mean effect lies above the claim's threshold, it
    does not where the interval lies below, and is undecided otherwise, or with less than two
    seeds.

        mean +- t(CONFIDENCE, n - 1) * sd / sqrt(n)

    Args:
        claim: `study.Claim`.
        rows: `study.Rows`.
        seeds: those to judge on.

    Returns:
        dict: "verdict", "effects" by seed, "mean", "spread", "interval".
    """
    effects = {seed: claim.effect(rows.where(seed=seed)) for seed in seeds}
    found = [value for value in effects.values() if value is not None and math.isfinite(value)]
    result = {"effects": effects, "mean": None, "spread": None, "interval": None}
    verdict = UNDECIDED
    if found:
        result["mean"] = mean = statistics.fmean(found)
    if len(found) > 1:
        result["spread"] = spread = statistics.stdev(found)
        reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(found) - 1) * spread / len(found) ** 0.5
        low, high = result["interval"] = mean - reach, mean + reach
        # A run that is missing, or that diverged, might have said otherwise.
        if len(found) == len(effects):
            verdict = _verdict(low, high, claim.threshold)
    return {"verdict": verdict} | result


def _verdict(low, high, threshold):
    if low > threshold:
        return HOLDS
    return FAILS if high < threshold else UNDECIDED
