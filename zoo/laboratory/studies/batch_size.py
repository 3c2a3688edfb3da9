"""What happens when the batch size changes?"""

from collections.abc import Callable, Sequence
from typing import Any

from zoo.laboratory.claims import batch_size as claims
from zoo.laboratory.figures import Lines
from zoo.laboratory.study import Run, Scale, Study, Table
from zoo.laboratory.tasks.train import Train, recalibrated, statistics_noise
from zoo.training import TrainOptions

NORMS = ("bn", "gn", "ln", "in", "bin", "sn", "wn_mobn")
WITH_BATCH = ("bn", "bin", "sn", "wn_mobn")


def plan(batches: Sequence[int], norms: Sequence[str] = NORMS, **options: Any) -> list[Run]:
    """Each norm with each batch size, for equal epochs at rates in proportion to the batch."""
    names = {norm: norm.split("(")[0] for norm in norms}

    def measures(norm: str) -> tuple[Callable[..., dict], ...]:
        if norm == "bn":
            return (recalibrated, statistics_noise)
        return (recalibrated,) if norm in WITH_BATCH else ()

    return [
        Run(
            f"{names[norm]}-b{batch}",
            {"norm": names[norm], "batch": batch},
            Train(TrainOptions(norm=norm, batch_size=batch, **options), measures(norm)),
        )
        for norm in norms
        for batch in batches
    ]


STUDY = Study(
    question="What happens when the batch size changes?",
    about=(
        "Nets are trained for equal epochs with batches of several sizes, at rates in proportion "
        "to the batch. Norms with batch statistics are tested with their moving averages, and with "
        "statistics that were pooled over training batches after the training. The noise of "
        "statistics is measured on the inputs of the trained net's norms: the statistics of small "
        "batches are compared with those of all samples."
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
        "evidence": Scale(
            dict(
                batches=(32, 8, 4, 2),
                # Groups of 8, 16 and 32 channels in the three stages.
                norms=tuple("gn(groups=4)" if norm == "gn" else norm for norm in NORMS),
                model="conv6",
                dataset="cifar10",
                width=0.5,
                train_examples=8000,  # 250 to 4,000 steps an epoch
                test_examples=5000,
                epochs=10,
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
        "full": Scale(
            dict(batches=(32, 16, 8, 4, 2), model="resnet20", dataset="cifar10", epochs=100),
            seeds=(0, 1, 2, 3, 4),
        ),
    },
    claims=claims.CLAIMS,
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
