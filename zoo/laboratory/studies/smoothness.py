"""Does normalization smooth the loss? Santurkar et al., 2018."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zoo.laboratory.figures import Curves
from zoo.laboratory.study import Claim, Effect, Number, Rows, Run, Scale, Study, Table, gap
from zoo.laboratory.tasks.landscape import Landscape

SOURCE = "1805.11604, section 3.1; ARTICLES 14"


def plan(norms: Sequence[str], **settings: Any) -> list[Run]:
    """One net at one rate with each norm; with BN and with none, also with covariate shift."""
    return [
        Run(f"{norm}{'-shift' * shift}", {"norm": norm, "shift": shift}, task)
        for norm in norms
        for shift in (False, True)
        if not shift or norm in ("bn", "none")
        for task in [Landscape(norm=norm, shift=shift, **settings)]
    ]


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


def curve(measure: str) -> Callable[[Mapping[str, Any]], dict[int, float]]:
    """A function from a row to a measure by step."""
    return lambda row: dict(zip(row["curves"]["step"], row["curves"][measure], strict=True))


STUDY = Study(
    question="Does normalization make the loss smoother, and is it the missing covariate shift?",
    about=(
        "A net trains with SGD at a constant rate. At every tenth step, loss and gradient are "
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
                norms=("none", "bn", "ln", "gn", "in", "sn", "wn"),
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
        "full": Scale(
            dict(
                norms=("none", "bn", "ln", "gn", "in", "sn", "wn"),
                dataset="cifar10",
                steps=15000,
                learning_rate=0.1,
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
    },
    claims=(
        Claim(
            "a",
            "The gradient changes less along a step with BN than without",
            SOURCE,
            against_none("median_relative_change"),
            "log10 of the relative change, no norm over BN",
            0.1,
            "{:+.2f}",
        ),
        Claim(
            "b",
            "The loss surface is smoother with BN (effective beta)",
            SOURCE,
            against_none("median_smoothness"),
            "log10 of effective beta, no norm over BN",
            0.1,
            "{:+.2f}",
        ),
        Claim(
            "c",
            "The loss varies less along the gradient with BN",
            SOURCE,
            against_none("median_loss_range"),
            "log10 of the range of the loss, no norm over BN",
            0.1,
            "{:+.2f}",
        ),
        Claim(
            "d",
            "Normalization speeds up training",
            "1502.03167; ARTICLES 14",
            gap("final_loss", {"norm": "none"}, {"norm": "bn"}, shift=False),
            "training loss at the end, no norm minus BN",
            0.05,
            remark="This is not so with every norm: at cpu scale WN diverges, and IN stays at "
            "chance.",
        ),
        Claim(
            "e",
            "BN with covariate shift put in still trains faster than no norm",
            "1805.11604, section 2.1",
            gap(
                "final_loss",
                {"norm": "none", "shift": False},
                {"norm": "bn", "shift": True},
            ),
            "training loss at the end, no norm minus BN with the shift",
            0.05,
        ),
    ),
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
