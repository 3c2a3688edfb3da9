"""What happens when the batch size changes?"""

from collections.abc import Callable, Sequence
from typing import Any

from zoo.laboratory.figures import Lines
from zoo.laboratory.study import (
    Claim,
    Effect,
    Number,
    Rows,
    Run,
    Scale,
    Study,
    Table,
    gap,
    subtract,
)
from zoo.laboratory.tasks.train import Train, recalibrated, statistics_noise
from zoo.training import TrainOptions

GN_PAPER = "1803.08494, ARTICLES 2 and 10"
NORMS = ("bn", "gn", "ln", "in", "bin", "sn", "wn_mobn")
WITH_BATCH = ("bn", "bin", "sn", "wn_mobn")


def plan(batches: Sequence[int], norms: Sequence[str] = NORMS, **options: Any) -> list[Run]:
    """Each norm with each batch size, for equal epochs at rates in proportion to the batch."""

    def measures(norm: str) -> tuple[Callable[..., dict], ...]:
        if norm == "bn":
            return (recalibrated, statistics_noise)
        return (recalibrated,) if norm in WITH_BATCH else ()

    return [
        Run(
            f"{norm}-b{batch}",
            {"norm": norm, "batch": batch},
            Train(TrainOptions(norm=norm, batch_size=batch, **options), measures(norm)),
        )
        for norm in norms
        for batch in batches
    ]


def growth(norm: str) -> Effect:
    """An effect: by how much the error grows from the largest to the smallest batch."""
    return gap("error", {"batch": min}, {"batch": max}, norm=norm)


def more_growth(norm: str, than: str) -> Effect:
    """An effect: how much more the error of one norm grows than that of another."""
    return lambda rows: subtract(growth(norm)(rows), growth(than)(rows))


def noise(second: str, first: str = "mean_noise") -> Effect:
    """An effect: one measure of noise minus another, by default minus that of the mean."""

    def effect(rows: Rows) -> Number:
        rows = rows.where(norm="bn", batch=max)
        return subtract(rows.mean(f"{second}_8"), rows.mean(f"{first}_8"))

    return effect


STUDY = Study(
    question="What happens when the batch size changes?",
    about=(
        "Nets are trained for equal epochs with batches of several sizes, at rates in proportion "
        "to the batch. Norms with batch statistics are tested with their moving averages, and with "
        "statistics that were pooled over training batches after the training. The noise of "
        "statistics is measured at the inputs of the trained net's norms: batches are drawn from "
        "all samples, and compared with all."
    ),
    plan=plan,
    scales={
        "smoke": Scale(
            dict(
                batches=(16, 4),
                norms=("bn", "gn"),
                model="conv6",
                dataset="digits",
                width=0.05,
                train_examples=64,
                test_examples=32,
                epochs=1,
            ),
            seeds=(0, 1),
        ),
        "cpu": Scale(
            dict(
                batches=(32, 8, 2),
                model="conv6",
                dataset="cifar10",
                width=0.25,
                train_examples=1200,
                test_examples=1000,
                epochs=4,
            ),
            seeds=(0, 1, 2),
            minutes=17,
        ),
        "full": Scale(
            dict(batches=(32, 16, 8, 4, 2), model="resnet20", dataset="cifar10", epochs=100),
            seeds=(0, 1, 2, 3, 4),
        ),
    },
    claims=(
        Claim(
            "a",
            "BN suffers at small batches",
            GN_PAPER,
            more_growth("bn", "gn"),
            "growth of the error from the largest to the smallest batch, BN minus GN",
            0.02,
            "{:+.1%}",
            "The comparison is with GN, because smaller batches also mean more steps.",
        ),
        Claim(
            "b",
            "The error of GN does not grow at small batches",
            GN_PAPER,
            lambda rows: subtract(0.02, growth("gn")(rows)),
            "2% minus the growth of GN's error",
            0.0,
            "{:+.1%}",
        ),
        Claim(
            "c",
            "GN beats BN at small batches",
            GN_PAPER,
            gap("error", {"norm": "bn"}, {"norm": "gn"}, batch=min),
            "error at the smallest batch, BN minus GN",
            0.02,
            "{:+.1%}",
            remark="The likely reason at cpu scale: groups have two channels, so that GN is almost "
            "IN. This net ends in a mean over positions, which is nearly the same for all images "
            "after IN.",
        ),
        Claim(
            "d",
            "SN loses less than BN when the batch gets small",
            "1806.10779, table 1",
            more_growth("bn", "sn"),
            "growth of the error, BN minus SN",
            0.02,
            "{:+.1%}",
        ),
        Claim(
            "e",
            "SN outperforms BN in classification",
            "1806.10779, ARTICLES 12",
            gap("error", {"norm": "bn"}, {"norm": "sn"}, batch=max),
            "error at the largest batch, BN minus SN",
            0.0,
            "{:+.1%}",
            remark="The likely reason at cpu scale is that of (c): a third of SN is IN at first.",
        ),
        Claim(
            "f",
            "LN suits convolutional nets less than BN",
            "ARTICLES 8",
            gap("error", {"norm": "ln"}, {"norm": "bn"}, batch=max),
            "error at the largest batch, LN minus BN",
            0.0,
            "{:+.1%}",
        ),
        Claim(
            "g",
            "WN with mean-only BN loses less than BN when the batch gets small",
            "1602.07868, ARTICLES 5",
            more_growth("bn", "wn_mobn"),
            "growth of the error, BN minus WN + mean-only BN",
            0.02,
            "{:+.1%}",
        ),
        Claim(
            "h",
            "The batch mean is less noisy than the batch variance",
            "1602.07868, section 4; ARTICLES 6",
            noise("variance_noise"),
            "relative error at 8 samples, variance minus mean",
            0.0,
            remark="This is in units of the variance, in which even Gaussian values agree, by a "
            "factor of the root of 2. Claim (i) compares both in units of the output.",
        ),
        Claim(
            "i",
            "The batch mean is less noisy than the standard deviation that divides",
            "1602.07868, section 4; ARTICLES 6",
            noise("std_noise"),
            "error at 8 samples in units of the deviation, deviation minus mean",
            0.0,
            remark="With Gaussian values the mean is noisier; with heavy tails the deviation is.",
        ),
        Claim(
            "j",
            "The noise of the variance has heavier tails than that of the mean",
            "1602.07868, section 4; ARTICLES 6",
            noise("variance_kurtosis", "mean_kurtosis"),
            "kurtosis of the error at 8 samples, variance minus mean",
            0.0,
            "{:+.2f}",
        ),
        Claim(
            "k",
            "Recalibrated statistics mend part of what BN loses at small batches",
            "1806.10779, section 3.1 (batch average)",
            lambda rows: subtract(
                rows.mean("error", norm="bn", batch=min),
                rows.mean("recalibrated_error", norm="bn", batch=min),
            ),
            "error of BN at the smallest batch, with moving minus with recalibrated statistics",
            0.0,
            "{:+.1%}",
        ),
    ),
    tables=(
        Table("Test error", "error", "norm", "batch"),
        Table("Test error with recalibrated statistics", "recalibrated_error", "norm", "batch"),
        *(
            Table(
                f"Error of the {name} of 8 samples against that of all; median over layers",
                f"{kind}_noise_8",
                "norm",
                "batch",
                {"norm": "bn"},
                "{:.3f}",
            )
            for kind, name in (
                ("mean", "mean (in deviations)"),
                ("std", "standard deviation"),
                ("variance", "variance"),
            )
        ),
    ),
    figures={
        "error": Lines(
            "Test error against the batch size, after equal epochs.",
            x="batch",
            y="error",
            by="norm",
            log="x",
            percent=True,
            labels=("samples in a batch", "test error"),
        ),
        "recalibrated": Lines(
            "Test error with recalibrated statistics in place of moving averages.",
            x="batch",
            y="recalibrated_error",
            by="norm",
            log="x",
            percent=True,
            labels=("samples in a batch", "test error"),
        ),
    },
)
