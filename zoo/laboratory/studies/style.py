"""Contrast and colour of an image: where instance norm helps, and where it is blind."""

from collections.abc import Mapping, Sequence
from typing import Any

from keras_norms import analysis
from zoo.laboratory.claims import style as claims
from zoo.laboratory.claims.style import LABEL, NONE, NUISANCE, UNSEEN
from zoo.laboratory.figures import Curves, by_epoch
from zoo.laboratory.study import Run, Scale, Study, Table
from zoo.laboratory.tasks.train import Train, preferences
from zoo.training import TrainOptions


def plan(norms: Sequence[str], datasets: Mapping[str, str], **options: Any) -> list[Run]:
    """Each norm on each data set, in which the style is something else."""
    return [
        Run(
            f"{dataset}-{norm}",
            {"style is": role, "norm": norm},
            Train(
                TrainOptions(model="conv6", dataset=dataset, norm=norm, **options),
                (preferences,) if norm in ("bin", "sn") else (),
            ),
        )
        for role, dataset in datasets.items()
        for norm in norms
    ]


def gates(row: Mapping[str, Any]) -> dict[int, float] | None:
    """The mean gate of BIN by step: 1 is batch, 0 is instance."""
    if "dynamics" not in row or row["norm"] != "bin":
        return None
    return {
        int(step): analysis.average(layers.values())["gate"]["batch"]
        for step, layers in row["dynamics"].items()
    }


def datasets(name: str) -> dict[str, str]:
    """`{what the style is: data set}` of some images."""
    return {
        NONE: name,
        NUISANCE: f"styled_{name}",
        UNSEEN: f"restyled_{name}",
        LABEL: f"contrast_{name}",
    }


STUDY = Study(
    calibration=(100,),
    question="Which norm where the style of an image is a nuisance, and where it matters?",
    about=(
        "Each image gets a random style, which is contrast and colours. Style is a nuisance where "
        "the digit or object is the label. It is unseen in training where the test images have "
        "other contrasts and colours. In the last data set the contrast is the label. A style is "
        "affine in each channel, and that is what instance statistics remove. Style transfer and "
        "other generation are out of scope."
    ),
    plan=plan,
    scales={
        "smoke": Scale(
            dict(
                norms=("bn", "in", "bin"),
                datasets=datasets("digits"),
                width=0.05,
                train_examples=64,
                test_examples=32,
                epochs=1,
            ),
            seeds=(0, 1),
        ),
        "cpu": Scale(
            dict(
                norms=("bn", "in", "bin", "sn"),
                datasets=datasets("digits"),
                image_size=16,
                width=0.25,
                epochs=12,
            ),
            seeds=(0, 1, 2),
            minutes=7,
        ),
        "evidence": Scale(
            dict(
                norms=("bn", "in", "bin", "sn"),
                datasets=datasets("cifar10"),
                width=0.25,
                train_examples=10_000,  # 312 steps an epoch
                test_examples=5000,
                epochs=10,
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
        "full": Scale(
            dict(
                norms=("bn", "in", "bin", "sn", "ln"),
                datasets=datasets("cifar10"),
                epochs=100,
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
    },
    claims=claims.CLAIMS,
    tables=(
        Table("Test accuracy", "accuracy", "norm", "style is"),
        *(
            Table(
                f"Mean gate of BIN in {stage} (1 is batch)",
                f"gate_{stage}_batch",
                "norm",
                "style is",
                {"norm": "bin"},
                "{:.3f}",
            )
            for stage in ("stage1", "stage2", "stage3")
        ),
    ),
    figures={
        "accuracy": Curves(
            "Test accuracy by epoch, by what the style is.",
            by_epoch("val_accuracy"),
            by="norm",
            panels="style is",
            labels=("epoch", "test accuracy"),
            percent=True,
        ),
        "gates": Curves(
            "The mean gate of BIN during training: 1 is batch, 0 is instance.",
            gates,
            by="style is",
            where={"norm": "bin"},
            labels=("step", "mean gate"),
        ),
    },
)
