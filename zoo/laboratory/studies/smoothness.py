"""Does normalization smooth the loss? Santurkar et al., 2018."""

import math

from zoo.laboratory.figures import Curves
from zoo.laboratory.study import Claim, Run, Scale, Study, Table, gap
from zoo.laboratory.tasks.landscape import Landscape

SOURCE = "1805.11604, section 3.1; ARTICLES 14"


def plan(norms, **settings):
    """One net at one rate, with each norm; and with covariate shift put in after every norm."""
    return [
        Run(f"{norm}{'-shift' * shift}", {"norm": norm, "shift": shift}, task)
        for norm in norms
        for shift in (False, True)
        if not shift or norm in ("bn", "none")
        for task in [Landscape(norm=norm, shift=shift, **settings)]
    ]


def against_none(measure):
    """An effect: the logarithm (base 10) of how many times smaller a measure is with BN."""

    def effect(rows):
        rows = rows.where(shift=False)
        if any(
            row.get("diverged_at") is not None for n in ("none", "bn") for row in rows.where(norm=n)
        ):
            return None
        none, bn = (rows.mean(measure, norm=norm) for norm in ("none", "bn"))
        return math.log10(none / bn) if none and bn else None

    return effect


def curve(measure):
    """A measure by step, from a row."""
    return lambda row: dict(zip(row["curves"]["step"], row["curves"][measure], strict=True))


STUDY = Study(
    question="Does normalization make the loss smoother, and is it the missing covariate shift?",
    about=(
        "At every tenth step of SGD at a constant rate, the loss and its gradient at several "
        "points along the gradient, from half to four times the step. Relative change is the "
        "largest distance between the gradient at such a point and the one at the weights, in "
        "units of the latter; effective beta divides that distance by that of the points. BN is "
        "also trained with noise behind every norm, whose mean and scale change at every step, "
        "so that what the next layer gets never settles."
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
            "log10 of the ratio of relative changes, none to BN",
            0.1,
            "{:+.2f}",
        ),
        Claim(
            "b",
            "The loss surface is smoother with BN (effective beta)",
            SOURCE,
            against_none("median_smoothness"),
            "log10 of the ratio of betas, none to BN",
            0.1,
            "{:+.2f}",
        ),
        Claim(
            "c",
            "The loss varies less along the gradient with BN",
            SOURCE,
            against_none("median_loss_range"),
            "log10 of the ratio of ranges, none to BN",
            0.1,
            "{:+.2f}",
        ),
        Claim(
            "d",
            "Normalization speeds up training",
            "1502.03167; ARTICLES 14",
            gap("final_loss", {"norm": "none"}, {"norm": "bn"}, shift=False),
            "training loss at the end, none less BN",
            0.05,
            remark="Not every norm: at cpu scale WN diverges, and IN stays at chance.",
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
            "training loss at the end, none less shifted BN",
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
            "Effective smoothness along the gradient in training: lower is smoother.",
            curve("smoothness"),
            by="norm",
            where={"shift": False},
            labels=("step", "effective beta"),
            log="y",
        ),
        "loss": Curves(
            "Training loss.",
            curve("loss"),
            by="norm",
            panels="shift",
            labels=("step", "loss of the batch"),
        ),
    },
)
