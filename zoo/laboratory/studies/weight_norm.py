"""Weight norm and its parts, with the net and the recipe of its paper."""

from collections.abc import Sequence
from typing import Any

from zoo.laboratory.figures import Curves
from zoo.laboratory.study import Claim, Effect, Run, Scale, Study, Table, gap, subtract
from zoo.laboratory.tasks.train import Train
from zoo.training import TrainOptions

PAPER = "1602.07868, section 5.1"
FEW = "At cpu scale there are 120 steps; the paper has 100,000."


NORMS = ("none", "wn", "mobn", "wn_mobn", "bn")


def plan(norms: Sequence[str] = NORMS, **options: Any) -> list[Run]:
    """ConvPool-CNN-C with each norm, and with weight norm that is not initialized from data."""

    def run(norm: str, data_init: bool | None = None) -> Run:
        suffix = "" if data_init is None else ", drawn"
        settings = TrainOptions(model="convpool", norm=norm, data_init=data_init, **options)
        factors = {"norm": f"{norm}{suffix}"}
        return Run(f"{norm}{'-drawn' if suffix else ''}", factors, Train(settings))

    return [*map(run, norms), run("wn", data_init=False), run("wn_mobn", data_init=False)]


def better(norm: str, than: str) -> Effect:
    """An effect: how much lower the test error with a norm is than with another."""
    return gap("error", {"norm": than}, {"norm": norm})


def faster(norm: str, than: str) -> Effect:
    """An effect: how much lower the training loss is over the first half of the epochs."""
    return lambda rows: subtract(*(rows.early("loss", 1 / 2, norm=name) for name in (than, norm)))


STUDY = Study(
    question="What does weight norm give, and which of its parts gives it?",
    about=(
        "ConvPool-CNN-C trains with Adam, as in the paper. Weight norm is initialized from the "
        "first batch, as there, or keeps its random weights, which is called drawn. At cpu scale "
        "the net has a quarter of the width, a subset of the data, few epochs, and a higher rate."
    ),
    plan=plan,
    scales={
        "smoke": Scale(
            dict(
                dataset="digits",
                width=0.05,
                train_examples=64,
                test_examples=32,
                batch_size=16,
                epochs=1,
            ),
            seeds=(0, 1),
        ),
        "cpu": Scale(
            dict(
                dataset="cifar10",
                width=0.25,
                train_examples=2000,
                test_examples=1000,
                batch_size=100,
                epochs=6,
                learning_rate=0.003,
            ),
            seeds=(0, 1, 2),
            minutes=7,
        ),
        "full": Scale(dict(dataset="cifar10", batch_size=100, epochs=200), seeds=(0, 1, 2, 3, 4)),
    },
    claims=(
        Claim(
            "a",
            "WN with mean-only BN beats the plain net",
            PAPER,
            better("wn_mobn", "none"),
            "test error, no norm minus WN + mean-only BN",
            0.0,
            "{:+.1%}",
            remark=FEW,
        ),
        Claim(
            "b",
            "WN with mean-only BN beats BN",
            PAPER + ", ARTICLES 5",
            better("wn_mobn", "bn"),
            "test error, BN minus WN + mean-only BN",
            0.0,
            "{:+.1%}",
            remark=FEW,
        ),
        Claim(
            "c",
            "WN with mean-only BN beats WN alone",
            PAPER,
            better("wn_mobn", "wn"),
            "test error, WN minus WN + mean-only BN",
            0.0,
            "{:+.1%}",
        ),
        Claim(
            "d",
            "WN with mean-only BN beats mean-only BN alone",
            PAPER,
            better("wn_mobn", "mobn"),
            "test error, mean-only BN minus WN + mean-only BN",
            0.0,
            "{:+.1%}",
            remark=FEW,
        ),
        Claim(
            "e",
            "WN speeds up training",
            PAPER,
            faster("wn", "none"),
            "training loss over the first half, no norm minus WN",
            0.02,
            remark=FEW,
        ),
        Claim(
            "f",
            "Initialization from the data helps WN",
            "1602.07868, section 3",
            faster("wn", "wn, drawn"),
            "training loss over the first half, drawn minus initialized from the data",
            0.02,
            remark="With it, the loss of the first epoch is twice as high, and WN does not catch "
            "up. " + FEW,
        ),
    ),
    tables=(
        Table("Test error", "error", "norm"),
        Table("Test loss", "cross_entropy", "norm", form="{:.3f}"),
        Table(
            "Seconds of a training step (runs may share the machine)",
            "seconds_per_step",
            "norm",
            form="{:.3f}",
        ),
    ),
    figures={
        "loss": Curves(
            "Training loss by epoch.",
            lambda row: dict(enumerate(row["curves"]["loss"], 1)),
            by="norm",
            labels=("epoch", "training loss"),
        ),
    },
)
