"""What an article claims of norms on points, and the numbers that decide it."""

import statistics
from collections.abc import Callable, Sequence

from zoo.laboratory.claims.common import least
from zoo.laboratory.study import Claim, Effect, Learnt, Number, Rows, subtract

SOURCE = "ARTICLES 15"
GN = "gn(groups=5)"
NAMES = {"bn": "BN", "ln": "LN", GN: "GN"}  # those of the article
LEARNT = Learnt(
    "each of BN, LN and GN classifies at least 80% of the test points",
    least("accuracy", tuple(NAMES), batch=64),
    0.8,
)
Measure = Callable[[Rows, str], Number]  # of a norm


def first_epochs(rows: Rows, norm: str) -> Number:
    """The mean training loss of the first fifth of the epochs."""
    return rows.early("loss", 1 / 5, norm=norm, batch=64)


def fluctuation(rows: Rows, norm: str, batch: int = 64) -> Number:
    """How far the loss jumps from epoch to epoch in the last half, apart from its trend."""
    curve = rows.curve("loss", norm=norm, batch=batch)
    if not curve or len(curve) < 6:
        return None
    half = curve[len(curve) // 2 :]
    # Second differences, because those of a straight line are 0.
    bends = [abs(a - 2 * b + c) for a, b, c in zip(half, half[1:], half[2:], strict=False)]
    return statistics.fmean(bends)


def final(rows: Rows, norm: str) -> Number:
    """The training loss at the end."""
    curve = rows.curve("loss", norm=norm, batch=64)
    return curve[-1] if curve else None


def lowest(measure: Measure, norm: str, others: Sequence[str]) -> Effect:
    """An effect: how much lower a measure is with a norm than with the lowest of the others."""

    def effect(rows: Rows) -> Number:
        values = [value for other in others if (value := measure(rows, other)) is not None]
        return subtract(min(values), measure(rows, norm)) if len(values) == len(others) else None

    return effect


def highest(measure: Measure, norm: str, others: Sequence[str]) -> Effect:
    """An effect: how much higher a measure is with a norm than with the highest of the others."""
    return lowest(lambda rows, name: subtract(0.0, measure(rows, name)), norm, others)


def early_fall(norm: str) -> Effect:
    """An effect: the share of the loss's fall that the first fifth of the epochs brings."""

    def effect(rows: Rows) -> Number:
        curve = rows.curve("loss", norm=norm, batch=64)
        if not curve or curve[0] <= curve[-1]:
            return None
        return (curve[0] - curve[len(curve) // 5]) / (curve[0] - curve[-1])

    return effect


def likeness(rows: Rows) -> Number:
    """An effect: 0.05 minus the mean distance of the losses with LN and GN."""
    ln, gn = (rows.curve("loss", norm=norm, batch=64) for norm in ("ln", GN))
    if not ln or not gn:
        return None
    return 0.05 - statistics.fmean(abs(a - b) for a, b in zip(ln, gn, strict=True))


def closeness(rows: Rows) -> Number:
    """An effect: 0.1 minus the range of the training losses at the end."""
    ends = [loss for norm in NAMES if (loss := final(rows, norm)) is not None]
    return 0.1 - (max(ends) - min(ends)) if len(ends) == len(NAMES) else None


CLAIMS = (
    *(
        Claim(
            "a",
            "All start high and fall fast",
            SOURCE,
            early_fall(norm),
            "share of the training loss's whole fall that the first fifth of the epochs brings",
            0.5,
            "{:.0%}",
            case=name,
            learnt=LEARNT,
        )
        for norm, name in NAMES.items()
    ),
    Claim(
        "b",
        "BN falls fastest at first",
        SOURCE,
        lowest(first_epochs, "bn", ("ln", GN)),
        "mean loss of the first fifth of the epochs, the lower of LN and GN minus BN",
        0.005,
        learnt=LEARNT,
    ),
    Claim(
        "c",
        "BN fluctuates most at the end",
        SOURCE,
        highest(fluctuation, "bn", ("ln", GN)),
        "fluctuation of the loss in the last half, BN minus the higher of LN and GN",
        0.0005,
        "{:+.4f}",
        learnt=LEARNT,
    ),
    Claim(
        "d",
        "A larger batch calms BN",
        SOURCE,
        lambda rows: subtract(
            fluctuation(rows, "bn", 64),
            fluctuation(rows, "bn", max(rows.values("batch"), default=64)),
        ),
        "fluctuation of BN, batch 64 minus the largest batch",
        0.0005,
        "{:+.4f}",
        learnt=LEARNT,
    ),
    Claim(
        "e",
        "LN and GN fall alike",
        SOURCE,
        likeness,
        "0.05 minus the mean distance of their training losses over the epochs",
        0.0,
        learnt=LEARNT,
    ),
    Claim(
        "f",
        "LN varies more than GN",
        SOURCE,
        highest(fluctuation, "ln", (GN,)),
        "fluctuation of the loss in the last half, LN minus GN",
        0.0,
        "{:+.4f}",
        learnt=LEARNT,
    ),
    Claim(
        "g",
        "GN ends best",
        SOURCE,
        lowest(final, GN, ("bn", "ln")),
        "training loss at the end, the lower of BN and LN minus GN",
        0.0,
        learnt=LEARNT,
    ),
    Claim(
        "h",
        "All end close",
        SOURCE,
        closeness,
        "0.1 minus the range of the final training losses of BN, LN and GN",
        0.0,
        learnt=LEARNT,
    ),
)
