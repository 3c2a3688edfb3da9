"""Which norm in recurrent networks and Transformers?"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from zoo.laboratory.claims import sequence as claims
from zoo.laboratory.claims.sequence import DIGITS, LSTM, POST, PRE, TEXT
from zoo.laboratory.figures import Curves, by_epoch
from zoo.laboratory.study import Run, Scale, Study, Table
from zoo.laboratory.tasks.train import Train
from zoo.training import TrainOptions


def plan(
    lstm: Sequence[str],
    transformer: Mapping[Literal["pre", "post"], Sequence[str]],
    datasets: Mapping[str, Mapping[str, Any]],
    common: Mapping[str, Any],
) -> list[Run]:
    """An LSTM with each norm; a Transformer with each norm before and after its branches."""
    runs = []
    for dataset, options in datasets.items():
        options = dict(common, dataset=dataset, **options)
        for norm in lstm:
            settings = TrainOptions(model="lstm", norm=norm, learning_rate=3e-3, **options)
            factors = {"data": dataset, "model": LSTM, "norm": norm}
            runs.append(Run(f"lstm-{dataset}-{norm}", factors, Train(settings)))
        for placement, norms in transformer.items():
            for norm in norms:
                settings = TrainOptions(
                    model="transformer", norm=norm, placement=placement, **options
                )
                model = {"pre": PRE, "post": POST}[placement]
                factors = {"data": dataset, "model": model, "norm": norm}
                name = f"transformer-{placement}-{dataset}-{norm}"
                runs.append(Run(name, factors, Train(settings)))
    return runs


RECURRENT_NORMS = ("none", "ln", "bn", "sn")
STUDY = Study(
    question="Which norm in recurrent networks and in Transformers, and where?",
    about=(
        "An LSTM has its norms inside the loop, with batch statistics for each time step. A "
        "Transformer has its norms before (pre) or after (post) the branches. Both read digits "
        "row by row, and the characters of tiny Shakespeare. They train with Adam for equal steps; "
        "gradients are clipped to norm 1, and the rate has no warm-up."
    ),
    plan=plan,
    scales={
        "smoke": Scale(
            dict(
                lstm=("none", "ln"),
                transformer={"pre": ("ln",), "post": ("ln",)},
                datasets={DIGITS: dict(train_examples=64, test_examples=32)},
                common=dict(epochs=1, width=0.1),
            ),
            seeds=(0, 1),
        ),
        "cpu": Scale(
            dict(
                lstm=RECURRENT_NORMS,
                transformer={"pre": ("none", "ln", "bn"), "post": ("ln", "bn")},
                datasets={
                    DIGITS: dict(epochs=6),
                    TEXT: dict(
                        epochs=3, sequence_length=48, train_examples=1600, test_examples=320
                    ),
                },
                common=dict(width=0.5),
            ),
            seeds=(0, 1, 2),
            minutes=5,
        ),
        "evidence": Scale(
            dict(
                lstm=RECURRENT_NORMS,
                transformer={"pre": ("none", "ln", "bn"), "post": ("ln", "bn")},
                datasets={
                    DIGITS: dict(epochs=40),  # 44 steps each
                    TEXT: dict(epochs=8, sequence_length=64, train_examples=8000),  # 250 steps each
                },
                common={},
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
        "full": Scale(
            dict(
                lstm=(*RECURRENT_NORMS, "rms", "gn", "wn", "wn_mobn"),
                transformer={
                    "pre": ("none", "ln", "rms", "bn", "gn", "sn", "wn"),
                    "post": ("ln", "rms", "bn", "gn", "sn"),
                },
                datasets={
                    DIGITS: dict(epochs=100),
                    "imdb_reviews": dict(epochs=20),
                    TEXT: dict(epochs=50),
                },
                common={},
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
    },
    claims=claims.CLAIMS,
    tables=(
        Table(
            "Test loss, digits row by row",
            "cross_entropy",
            "norm",
            "model",
            {"data": DIGITS},
            "{:.3f}",
        ),
        Table("Test accuracy, digits row by row", "accuracy", "norm", "model", {"data": DIGITS}),
        Table(
            "Bits per character, tiny Shakespeare",
            "bits_per_character",
            "norm",
            "model",
            {"data": TEXT},
            "{:.3f}",
        ),
    ),
    figures={
        data: Curves(
            f"Test loss by epoch, {data}.",
            by_epoch("val_loss"),
            by="norm",
            panels="model",
            where={"data": data},
            labels=("epoch", "test loss"),
        )
        for data in (DIGITS, TEXT)
    },
)
