"""Contrast and colour of an image: where instance norm helps, and where it is blind."""

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.laboratory.figures import Curves
from zoo.laboratory.study import Claim, Effect, Run, Scale, Study, Table, gap, subtract
from zoo.laboratory.tasks.train import Train, preferences
from zoo.training import TrainOptions

NONE, NUISANCE, LABEL = "absent", "a nuisance", "the label"
BIN = "1805.07925, ARTICLES 11"


def plan(norms: Sequence[str], datasets: Mapping[str, str], **options: Any) -> list[Run]:
    """Each norm on each data set, in which style is absent, a nuisance or the label."""
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
    return {int(step): kinds["gate"]["batch"] for step, kinds in row["dynamics"].items()}


def cost(norm: str) -> Effect:
    """How much accuracy a norm loses to a style that is a nuisance, as a part of an effect."""
    return gap("accuracy", {"style is": NONE}, {"style is": NUISANCE}, norm=norm)


DIGITS = {NONE: "digits", NUISANCE: "styled_digits", LABEL: "contrast_digits"}
STUDY = Study(
    calibration=(100,),
    question="Which norm where the style of an image is a nuisance, and where it matters?",
    about=(
        "Each image gets a random style, which is contrast and colours. Where the digit or object "
        "is the label, style is a nuisance; elsewhere the contrast itself is the label. A style is "
        "affine in each channel, and that is what instance statistics remove. Style transfer and "
        "other generation are out of scope."
    ),
    plan=plan,
    scales={
        "smoke": Scale(
            dict(
                norms=("bn", "in", "bin"),
                datasets=DIGITS,
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
                datasets=DIGITS,
                image_size=16,
                width=0.25,
                epochs=12,
            ),
            seeds=(0, 1, 2),
            minutes=7,
        ),
        "full": Scale(
            dict(
                norms=("bn", "in", "bin", "sn", "ln"),
                datasets={NONE: "cifar10", NUISANCE: "styled_cifar10", LABEL: "contrast_cifar10"},
                epochs=100,
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
    },
    claims=(
        Claim(
            "a",
            "IN helps where contrast and colour are a nuisance",
            "1607.08022, ARTICLES 9",
            gap("accuracy", {"norm": "in"}, {"norm": "bn"}, **{"style is": NUISANCE}),
            "test accuracy, IN minus BN",
            0.01,
            "{:+.1%}",
            remark="At cpu scale IN is also worse on these images without any style, and BN loses "
            "less than one point to the style.",
        ),
        Claim(
            "b",
            "IN is blind to contrast and colour: they cost it less than BN",
            "1607.08022, ARTICLES 9",
            lambda rows: subtract(cost("bn")(rows), cost("in")(rows)),
            "accuracy lost to the nuisance, BN minus IN",
            0.005,
            "{:+.1%}",
        ),
        Claim(
            "c",
            "IN is blind to contrast, and hurts where it matters",
            "ARTICLES 9",
            gap("accuracy", {"norm": "bn"}, {"norm": "in"}, **{"style is": LABEL}),
            "test accuracy, BN minus IN",
            0.1,
            "{:+.1%}",
            remark="This is a property of IN: apart from epsilon, contrast cannot pass it.",
        ),
        Claim(
            "d",
            "BIN keeps style where it matters",
            BIN,
            gap("accuracy", {"norm": "bin"}, {"norm": "in"}, **{"style is": LABEL}),
            "test accuracy where style is the label, BIN minus IN",
            0.1,
            "{:+.1%}",
        ),
        Claim(
            "e",
            "BIN drops style where it is a nuisance: as good as IN there",
            BIN,
            gap("accuracy", {"norm": "bin"}, {"norm": "in"}, **{"style is": NUISANCE}),
            "test accuracy where style is a nuisance, BIN minus IN",
            -0.01,
            "{:+.1%}",
        ),
        Claim(
            "f",
            "The gates of the first layers are nearer to IN where style is a nuisance",
            BIN,
            gap("gate_first_batch", {"style is": NONE}, {"style is": NUISANCE}, norm="bin"),
            "mean gate of the first third (1 is batch), style absent minus style a nuisance",
            0.05,
        ),
    ),
    tables=(
        Table("Test accuracy", "accuracy", "norm", "style is"),
        Table(
            "Mean gate of BIN in the first third of the layers (1 is batch)",
            "gate_first_batch",
            "norm",
            "style is",
            {"norm": "bin"},
            "{:.3f}",
        ),
    ),
    figures={
        "accuracy": Curves(
            "Test accuracy by epoch, where style is absent, a nuisance or the label.",
            lambda row: dict(enumerate(row["curves"]["val_accuracy"], 1)),
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
