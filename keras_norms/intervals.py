"""What a few measured values say of their mean: intervals, tests, and Holm's correction."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from keras_norms.optional import require

# The probability that any verdict of a family is wrong; that an interval misses the mean.
ERROR = 0.1
# The spread of two values says next to nothing of their mean.
FEWEST = 3


class Estimate(NamedTuple):
    """The mean of some values, and what a t test says of it.

    Attributes:
        mean: their mean.
        spread: their standard deviation; None for a single value.
        interval: `(low, high)` of the mean, which misses it with a probability of `ERROR`.
        p: the probability of a mean as far from `threshold`, were it there; None as well.
    """

    mean: float
    spread: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None


def estimate(values: Sequence[float], threshold: float = 0.0, pairs: bool = False) -> Estimate:
    """The mean of n values with its interval, and its distance from a threshold.

        t = (mean - threshold) / (sd / sqrt(n)),  p = P(|T| > |t|),  T ~ Student(n - 1)

    A value may be the mean of what one sample has in common with each of the others. Such values
    depend on each other, so that their mean is less certain. Its error is then that of the
    jackknife, `2 (n - 1) / (n - 2)` times as large, and needs at least 3 values.

    Args:
        values: at least one, all finite.
        threshold: what the mean is compared with.
        pairs: whether the values are such means over pairs.

    Raises:
        ImportError: if SciPy is missing.

    Reference:
        For pairs: Arvesen, Jackknifing U-statistics, Annals of Mathematical Statistics 40, 1969.

    >>> [round(end, 2) for end in estimate([1.0, 2.0, 3.0]).interval]
    [0.31, 3.69]
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(mean)
    if pairs and len(values) < 3:
        return Estimate(mean, statistics.stdev(values))
    (stats,) = require("scipy.stats", purpose="An interval", extra="compare")
    spread = statistics.stdev(values)
    error = spread / math.sqrt(len(values))
    if pairs:
        error *= 2 * (len(values) - 1) / (len(values) - 2)
    reach = float(stats.t.ppf(1 - ERROR / 2, len(values) - 1)) * error
    distance = abs(mean - threshold)
    t = distance / error if error else math.inf if distance else 0.0
    p = 2 * float(stats.t.sf(t, len(values) - 1))
    return Estimate(mean, spread, (mean - reach, mean + reach), p)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Corrects the p of several tests, so that `ERROR` is the probability that any is wrong.

    The least of the p is multiplied by their number, the next one by one less, and so on.

    Reference:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of
        Statistics 6, 1979.

    >>> holm([0.5, 0.01])
    [0.5, 0.02]
    """
    corrected = [1.0] * len(probabilities)
    least, left = 0.0, len(probabilities)
    for i in sorted(range(left), key=lambda i: probabilities[i]):
        least = corrected[i] = max(least, min(1.0, left * probabilities[i]))
        left -= 1
    return corrected
