"""What is claimed of norms and the smoothness of the loss, and the numbers that decide it."""

import math

from zoo.laboratory.claims.common import least
from zoo.laboratory.study import Claim, Effect, Learnt, Number, Rows, gap

SOURCE = "1805.11604, section 3.1; ARTICLES 14"
NORMS = ("bn", "ln", "gn", "in", "sn", "wn")


def learnt(norm: str) -> Learnt:
    """The nets of a claim have learnt."""
    return Learnt(
        f"without a norm and with {norm}, nets classify at least 40% of the test images",
        least("test_accuracy", ("none", norm), shift=False),
        0.4,
    )


def against_none(measure: str) -> Effect:
    """An effect: log10(a measure without a norm / the measure with BN)."""

    def effect(rows: Rows) -> Number:
        rows = rows.where(shift=False)
        if any(
            row.get("diverged_at") is not None for n in ("none", "bn") for row in rows.where(norm=n)
        ):
            return None
        none, bn = (rows.mean(measure, norm=norm) for norm in ("none", "bn"))
        return math.log10(none / bn) if none and bn else None

    return effect


CLAIMS = (
    *(
        Claim(
            name,
            statement,
            SOURCE,
            against_none(measure),
            f"log10 of the {measured}, no norm over BN",
            0.1,
            "{:+.2f}",
            learnt=learnt("bn"),
        )
        for name, statement, measure, measured in (
            (
                "a",
                "BN bounds the gradient more tightly: it changes less along a step",
                "median_relative_change",
                "relative change of the gradient",
            ),
            ("b", "BN makes the loss surface smoother", "median_smoothness", "effective beta"),
            (
                "c",
                "The loss varies less along the gradient with BN",
                "median_loss_range",
                "range of the loss",
            ),
        )
    ),
    *(
        Claim(
            "d",
            "Normalization speeds up training",
            "1502.03167; ARTICLES 14",
            gap("final_loss", {"norm": "none"}, {"norm": norm}, shift=False),
            "training loss after equal steps, no norm minus the norm",
            0.05,
            case=norm,
            learnt=learnt(norm),
        )
        for norm in NORMS
    ),
    Claim(
        "e",
        "BN with covariate shift put in still trains faster than no norm",
        "1805.11604, section 2.1",
        gap("final_loss", {"norm": "none", "shift": False}, {"norm": "bn", "shift": True}),
        "training loss after equal steps, no norm minus BN with the shift",
        0.05,
        learnt=learnt("bn"),
    ),
)
