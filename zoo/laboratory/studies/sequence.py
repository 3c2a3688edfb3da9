"""Which norm in recurrent networks and Transformers?"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from zoo.laboratory.figures import Curves
from zoo.laboratory.study import Claim, Effect, Run, Scale, Study, Table, gap
from zoo.laboratory.tasks.train import Train
from zoo.training import TrainOptions

LN_PAPER = "1607.06450, section 6; ARTICLES 8"


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
            factors = {"data": dataset, "model": "LSTM", "norm": norm}
            runs.append(Run(f"lstm-{dataset}-{norm}", factors, Train(settings)))
        for placement, norms in transformer.items():
            for norm in norms:
                settings = TrainOptions(
                    model="transformer", norm=norm, placement=placement, **options
                )
                factors = {"data": dataset, "model": f"Transformer, {placement}", "norm": norm}
                name = f"transformer-{placement}-{dataset}-{norm}"
                runs.append(Run(name, factors, Train(settings)))
    return runs


def lower(norm: str, than: str, **where: Any) -> Effect:
    """An effect: how much lower the test loss with a norm is than with another."""
    return gap("cross_entropy", {"norm": than}, {"norm": norm}, **where)


TEXT, DIGITS = "tiny_shakespeare", "digits"
PRE, POST = "Transformer, pre", "Transformer, post"
LSTM = ("none", "ln", "bn", "sn")
STUDY = Study(
    question="Which norm in recurrent networks and in Transformers, and where?",
    about=(
        "An LSTM has its norms inside the loop, with batch statistics for each time step. A "
        "Transformer has its norms before (pre) or after (post) the branches. Both read digits "
        "row by row, and the characters of tiny Shakespeare. They train with Adam for equal steps; "
        "gradients are clipped to norm 1, and nothing warms up."
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
                lstm=LSTM,
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
        "full": Scale(
            dict(
                lstm=(*LSTM, "rms", "gn", "wn", "wn_mobn"),
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
    claims=(
        Claim(
            "a",
            "LN does better than BN in recurrent networks, on text",
            LN_PAPER,
            lower("ln", "bn", model="LSTM", data=TEXT),
            "test loss of the LSTM on text, BN minus LN",
            0.01,
        ),
        Claim(
            "b",
            "LN does better than BN in recurrent networks, on images row by row",
            LN_PAPER,
            lower("ln", "bn", model="LSTM", data=DIGITS),
            "test loss of the LSTM on digits, BN minus LN",
            0.01,
        ),
        Claim(
            "c",
            "LN speeds up an LSTM",
            LN_PAPER,
            lower("ln", "none", model="LSTM", data=TEXT),
            "test loss of the LSTM on text after equal steps, no norm minus LN",
            0.01,
        ),
        Claim(
            "d",
            "BN in a recurrent network needs statistics for every time step, which costs space",
            "1603.09025, section 3; ARTICLES 4",
            gap("parameters", {"norm": "bn"}, {"norm": "ln"}, model="LSTM", data=TEXT),
            "parameters of the LSTM, moving statistics included, BN minus LN",
            0,
            "{:+,.0f}",
            "This is a property, not a finding.",
        ),
        Claim(
            "e",
            "LN suits the Transformer better than BN",
            "1706.03762, section 3.1; ARTICLES 8",
            lower("ln", "bn", model=PRE, data=TEXT),
            "test loss of the pre-norm Transformer on text, BN minus LN",
            0.01,
        ),
        Claim(
            "f",
            "A Transformer trains better with norms before the branches, where nothing warms up",
            "2002.04745, section 4",
            gap("cross_entropy", {"model": POST}, {"model": PRE}, norm="ln", data=TEXT),
            "test loss with LN on text, post minus pre",
            0.01,
            remark="The likely reason: with two blocks the net is too shallow to need a warm-up.",
        ),
    ),
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
            lambda row: dict(enumerate(row["curves"]["val_loss"], 1)),
            by="norm",
            panels="model",
            where={"data": data},
            labels=("epoch", "test loss"),
        )
        for data in (DIGITS, TEXT)
    },
)
