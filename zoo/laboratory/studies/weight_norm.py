"""Weight norm and its parts, with the net and the recipe of its paper."""

from collections.abc import Sequence
from typing import Any

from zoo.laboratory.claims import weight_norm as claims
from zoo.laboratory.figures import Curves, by_epoch
from zoo.laboratory.study import Run, Scale, Study, Table
from zoo.laboratory.tasks.train import Train
from zoo.training import TrainOptions

NORMS = ("none", "wn", "mobn", "wn_mobn", "bn")


def plan(norms: Sequence[str] = NORMS, **options: Any) -> list[Run]:
    """ConvPool-CNN-C with each norm, and with weight norm that is not initialized from data."""

    def run(norm: str, data_init: bool | None = None) -> Run:
        suffix = "" if data_init is None else ", drawn"
        settings = TrainOptions(model="convpool", norm=norm, data_init=data_init, **options)
        factors = {"norm": f"{norm}{suffix}"}
        return Run(f"{norm}{'-drawn' if suffix else ''}", factors, Train(settings))

    return [*map(run, norms), run("wn", data_init=False), run("wn_mobn", data_init=False)]


STUDY = Study(
    question="What does weight norm give, and which of its parts gives it?",
    about=(
        "ConvPool-CNN-C trains with Adam, as in the paper. Weight norm is initialized from the "
        "first batch, as there, or keeps its random weights, which is called drawn. Below full "
        "scale the net has a quarter of the width, a subset of the data, few epochs, and a higher "
        "rate."
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
        "evidence": Scale(
            dict(
                dataset="cifar10",
                width=0.25,
                train_examples=10_000,  # 100 steps an epoch
                test_examples=5000,
                batch_size=100,
                epochs=25,
                learning_rate=0.003,
                schedule="linear_half",
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
        "full": Scale(
            dict(dataset="cifar10", batch_size=100, epochs=200, schedule="linear_half"),
            seeds=(0, 1, 2, 3, 4),
        ),
    },
    claims=claims.CLAIMS,
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
            by_epoch("loss"),
            by="norm",
            labels=("epoch", "training loss"),
        ),
        "accuracy": Curves(
            "Test accuracy by epoch.",
            by_epoch("val_accuracy"),
            by="norm",
            labels=("epoch", "test accuracy"),
            percent=True,
        ),
    },
)
