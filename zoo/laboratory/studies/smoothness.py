"""Does normalization smooth the loss? Santurkar et al., 2018."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zoo.laboratory.claims import smoothness as claims
from zoo.laboratory.figures import Curves
from zoo.laboratory.study import Run, Scale, Study, Table
from zoo.laboratory.tasks.landscape import Landscape

NORMS = ("none", *claims.NORMS)


def plan(norms: Sequence[str], **settings: Any) -> list[Run]:
    """One net at one rate with each norm; with BN and with none, also with covariate shift."""
    return [
        Run(f"{norm}{'-shift' * shift}", {"norm": norm, "shift": shift}, task)
        for norm in norms
        for shift in (False, True)
        if not shift or norm in ("bn", "none")
        for task in [Landscape(norm=norm, shift=shift, **settings)]
    ]


def curve(measure: str) -> Callable[[Mapping[str, Any]], dict[int, float]]:
    """A function from a row to a measure by step."""
    return lambda row: dict(zip(row["curves"]["step"], row["curves"][measure], strict=True))


STUDY = Study(
    question="Does normalization make the loss smoother, and is it the missing covariate shift?",
    about=(
        "A net trains with SGD at a constant rate. At regular steps, loss and gradient are "
        "measured at points along the gradient, from half to four times as far as the step goes. "
        "Relative change is the largest distance of the gradient at a point from the gradient at "
        "the weights, in units of the latter. Effective beta is the largest ratio of that distance "
        "to the distance of the point. BN is also trained with noise behind every norm. Its mean "
        "and scale change at every step, so that the inputs of the next layer never settle."
    ),
    plan=plan,
    scales={
        "smoke": Scale(
            dict(norms=("none", "bn"), width=0.05, batch_size=16, steps=4, every=2), seeds=(0, 1)
        ),
        "cpu": Scale(
            dict(
                norms=NORMS,
                dataset="cifar10",
                train_examples=4000,
                test_examples=1000,
                width=0.25,
                batch_size=64,
                steps=150,
                learning_rate=0.1,
            ),
            seeds=(0, 1, 2),
            minutes=4,
        ),
        "evidence": Scale(
            dict(
                norms=NORMS,
                dataset="cifar10",
                train_examples=10_000,
                test_examples=5000,
                width=0.25,
                batch_size=64,
                steps=2000,
                every=20,
                learning_rate=0.1,
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
        "full": Scale(
            dict(
                norms=NORMS,
                dataset="cifar10",
                steps=15000,
                learning_rate=0.1,
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
    },
    claims=claims.CLAIMS,
    tables=(
        Table(
            "Smoothness (effective beta, median over training)",
            "median_smoothness",
            "norm",
            "shift",
            form="{:.1f}",
        ),
        Table(
            "Relative change of the gradient",
            "median_relative_change",
            "norm",
            "shift",
            form="{:.2f}",
        ),
        Table(
            "Range of the loss along the gradient",
            "median_loss_range",
            "norm",
            "shift",
            form="{:.2f}",
        ),
        Table("Training loss of the last steps", "final_loss", "norm", "shift", form="{:.3f}"),
        Table("Test accuracy", "test_accuracy", "norm", "shift"),
    ),
    figures={
        "smoothness": Curves(
            "Effective beta along the gradient during training: lower is smoother.",
            curve("smoothness"),
            by="norm",
            where={"shift": False},
            labels=("step", "effective beta"),
            log="y",
        ),
        "loss": Curves(
            "Training loss by step, without and with covariate shift.",
            curve("loss"),
            by="norm",
            panels="shift",
            labels=("step", "loss of the batch"),
        ),
    },
)
