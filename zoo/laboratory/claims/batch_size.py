"""What is claimed of norms at small batches, and the numbers that decide it."""

from typing import Any

from zoo.laboratory.claims.common import PERCENT, consistent, least
from zoo.laboratory.study import Claim, Effect, Learnt, Number, Rows, gap, subtract

GN_PAPER = "1803.08494, section 4.1; ARTICLES 2 and 10"
SN_PAPER = "1806.10779, table 1; ARTICLES 12"
WN_PAPER = "1602.07868, section 4; ARTICLES 6"
LARGEST, SMALL = 32, (8, 4, 2)
MARGIN = 0.02  # of an error
# The ImageNet errors of ResNet-50 by samples per GPU, in both papers, and the accuracy of SN with
# moving averages and with the batch average.
PUBLISHED = Rows(
    {"norm": norm, "batch": batch, "error": error / 100}
    for norm, errors in {
        "bn": (23.6, 23.7, 24.8, 27.3, 34.7),
        "gn": (24.1, 24.2, 24.0, 24.2, 24.1),
        "sn": (23.1, 23.3, 23.3, 24.1, 24.4),
    }.items()
    for batch, error in zip((32, 16, 8, 4, 2), errors, strict=True)
)
BATCH_AVERAGE = 0.7692 - 0.7689


def learnt(*norms: str) -> Learnt:
    """Nets with each of these norms have learnt, with the largest batch."""
    return Learnt(
        "at the largest batch, at least 60% of the test images are classified by "
        + " and by ".join(norms),
        least("accuracy", norms, batch=max),
        0.6,
    )


def growth(norm: str, batch: int) -> Effect:
    """An effect: by how much the error grows from the largest batch to a smaller one."""
    return gap("error", {"batch": batch}, {"batch": max}, norm=norm)


def less_growth(norm: str, batch: int) -> Effect:
    """An effect: how much less the error of a norm grows than that of BN."""
    return lambda rows: subtract(growth("bn", batch)(rows), growth(norm, batch)(rows))


def lower(norm: str, than: str, batch: int) -> Effect:
    """An effect: how much lower the error of one norm is than that of another."""
    return gap("error", {"norm": than}, {"norm": norm}, batch=batch)


def steadiness(rows: Rows) -> Number:
    """An effect: `MARGIN` minus the range of GN's errors over all batch sizes."""
    errors = [rows.mean("error", norm="gn", batch=batch) for batch in (LARGEST, *SMALL)]
    known = [error for error in errors if error is not None]
    return MARGIN - (max(known) - min(known)) if len(known) == len(errors) else None


def noise(second: str, first: str = "mean_noise", size: int = 8) -> Effect:
    """An effect: one measure of noise minus another, by default minus that of the mean."""

    def effect(rows: Rows) -> Number:
        rows = rows.where(norm="bn", batch=max)
        return subtract(rows.mean(f"{second}_{size}"), rows.mean(f"{first}_{size}"))

    return effect


def mended(norm: str, batch: int) -> Effect:
    """An effect: how much lower the error is with recalibrated statistics."""

    def effect(rows: Rows) -> Number:
        rows = rows.where(norm=norm, batch=batch)
        return subtract(rows.mean("error"), rows.mean("recalibrated_error"))

    return effect


def by_batch(batch: int) -> list[Claim]:
    """The claims about nets of one small batch size."""
    facts: dict[str, Any] = {"form": PERCENT, "case": f"batch {batch}"}
    return [
        Claim(
            "a",
            "BN depends on the batch size: training suffers at small batches",
            GN_PAPER,
            growth("bn", batch),
            "growth of BN's error from the largest batch",
            MARGIN,
            learnt=learnt("bn"),
            published=growth("bn", batch)(PUBLISHED),
            **facts,
        ),
        Claim(
            "c",
            "GN beats BN at small batches",
            GN_PAPER,
            lower("gn", "bn", batch),
            "test error, BN minus GN",
            MARGIN,
            learnt=learnt("bn", "gn"),
            published=lower("gn", "bn", batch)(PUBLISHED),
            **facts,
        ),
        Claim(
            "d",
            "SN loses less than BN when the batch gets small",
            SN_PAPER,
            less_growth("sn", batch),
            "growth of the error from the largest batch, BN minus SN",
            MARGIN,
            learnt=learnt("bn", "sn"),
            published=less_growth("sn", batch)(PUBLISHED),
            **facts,
        ),
        Claim(
            "k",
            "Statistics that are pooled after the training mend part of what BN loses",
            "1806.10779, section 3.1 (batch average)",
            mended("bn", batch),
            "error of BN, moving minus recalibrated statistics",
            0.0,
            learnt=learnt("bn"),
            **facts,
        ),
    ]


def at_any_batch(batch: int) -> list[Claim]:
    """The claims about nets of any batch size."""
    facts: dict[str, Any] = {"form": PERCENT, "case": f"batch {batch}"}
    return [
        Claim(
            "e",
            "SN outperforms BN in classification",
            SN_PAPER,
            lower("sn", "bn", batch),
            "test error, BN minus SN",
            0.0,
            learnt=learnt("bn", "sn"),
            published=lower("sn", "bn", batch)(PUBLISHED),
            **facts,
        ),
        Claim(
            "g",
            "WN with mean-only BN beats BN, also with small batches",
            "1602.07868, section 5.1; ARTICLES 5",
            lower("wn_mobn", "bn", batch),
            "test error, BN minus WN + mean-only BN",
            0.0,
            learnt=learnt("bn", "wn_mobn"),
            **facts,
        ),
    ]


CLAIMS = consistent(
    sorted(
        [
            *(claim for batch in SMALL for claim in by_batch(batch)),
            *(claim for batch in (LARGEST, *SMALL) for claim in at_any_batch(batch)),
            Claim(
                "b",
                "The error of GN does not depend on the batch size",
                GN_PAPER,
                steadiness,
                "2% minus the range of GN's error over all batch sizes",
                0.0,
                PERCENT,
                learnt=learnt("gn"),
                published=steadiness(PUBLISHED),
            ),
            Claim(
                "f",
                "LN suits convolutional nets less than BN",
                "ARTICLES 8",
                lower("bn", "ln", LARGEST),
                "test error at the largest batch, LN minus BN",
                0.0,
                PERCENT,
                learnt=learnt("bn", "ln"),
            ),
            Claim(
                "h",
                "The batch mean is less noisy than the batch variance",
                WN_PAPER,
                noise("variance_noise"),
                "relative error at 8 samples, variance minus mean",
                0.0,
                remark="The variance's error is in units of the variance. So measured, the claim "
                "is true even of Gaussian values, by a factor of the root of 2. Claim (i) compares "
                "both in units of the output.",
                learnt=learnt("bn"),
            ),
            Claim(
                "i",
                "The batch mean is less noisy than the standard deviation that divides",
                WN_PAPER,
                noise("std_noise"),
                "error at 8 samples in units of the deviation, deviation minus mean",
                0.0,
                remark="With Gaussian values the mean is noisier; with heavy tails the deviation "
                "is.",
                learnt=learnt("bn"),
            ),
            Claim(
                "j",
                "The noise of the variance has heavier tails than that of the mean",
                WN_PAPER,
                noise("variance_kurtosis", "mean_kurtosis"),
                "kurtosis of the error at 8 samples, variance minus mean",
                0.0,
                "{:+.2f}",
                learnt=learnt("bn"),
            ),
            Claim(
                "l",
                "SN classifies as well with the batch average as with moving averages",
                "1806.10779, section 3.1",
                mended("sn", LARGEST),
                "error of SN at the largest batch, moving minus recalibrated statistics",
                -0.005,
                PERCENT,
                learnt=learnt("sn"),
                published=BATCH_AVERAGE,
            ),
        ],
        key=lambda claim: claim.name,
    )
)
