"""An article's comparison of norms, on points whose rule is known."""

import statistics
from collections.abc import Callable, Sequence

from zoo.laboratory.figures import Curves
from zoo.laboratory.study import Claim, Effect, Number, Rows, Run, Scale, Study, Table, subtract
from zoo.laboratory.tasks.train import Train
from zoo.training import TrainOptions

SOURCE = "ARTICLES 15"
GN = "gn(groups=5)"
NORMS = ("none", "bn", "ln", GN, "sn", "wn", "rms")
Measure = Callable[[Rows, str], Number]  # of a norm


def first_epochs(rows: Rows, norm: str) -> Number:
    """The mean training loss of the first fifth of the epochs."""
    return rows.early("loss", 1 / 5, norm=norm, batch=64)


def fluctuation(rows: Rows, norm: str, batch: int = 64) -> Number:
    """How far the loss jumps from epoch to epoch in the last half, apart from its trend."""
    curve = rows.curve("loss", norm=norm, batch=batch)
    if not curve or len(curve) < 6:
        return None
    half = curve[len(curve) // 2 :]
    # Second differences, because those of a straight line are 0.
    bends = [abs(a - 2 * b + c) for a, b, c in zip(half, half[1:], half[2:], strict=False)]
    return statistics.fmean(bends)


def lowest(measure: Measure, norm: str, others: Sequence[str]) -> Effect:
    """An effect: how much lower a measure is with a norm than with the lowest of the others."""

    def effect(rows: Rows) -> Number:
        values = [value for other in others if (value := measure(rows, other)) is not None]
        return subtract(min(values), measure(rows, norm)) if len(values) == len(others) else None

    return effect


def highest(measure: Measure, norm: str, others: Sequence[str]) -> Effect:
    """An effect: how much higher a measure is with a norm than with the highest of the others."""
    return lowest(lambda rows, name: subtract(0.0, measure(rows, name)), norm, others)


def final(rows: Rows, norm: str) -> Number:
    """The training loss at the end."""
    curve = rows.curve("loss", norm=norm, batch=64)
    return curve[-1] if curve else None


def range_of_ends(rows: Rows) -> Number:
    """The range of the training losses at the end."""
    ends = [loss for norm in ("bn", "ln", GN) if (loss := final(rows, norm)) is not None]
    return max(ends) - min(ends) if len(ends) == 3 else None


def plan(norms: Sequence[str], batches: Sequence[int], epochs: int) -> list[Run]:
    """Each norm with the first batch size, and BN with the others too."""
    cases = [(norm, batches[0]) for norm in norms] + [("bn", batch) for batch in batches[1:]]
    return [
        Run(
            f"{norm.split('(')[0]}-b{batch}",
            {"norm": norm, "batch": batch},
            Train(
                TrainOptions(
                    model="mlp",
                    dataset="points",
                    norm=norm,
                    batch_size=batch,
                    epochs=epochs,
                    optimizer="adam",
                    schedule="constant",
                )
            ),
        )
        for norm, batch in cases
    ]


STUDY = Study(
    question="How do the norms differ on a small problem whose rule is known?",
    about=(
        "This repeats the comparison of an article. There are 1,000 points of 10 uniform features; "
        "the label is 1 where their sum exceeds 5. A multilayer perceptron 10-50-2 trains for 50 "
        "epochs with Adam at a constant 0.001, in batches of 64; BN also in larger ones. "
        "Fluctuation is the mean absolute second difference of the training loss over the last "
        "half of the epochs, which is 0 for a straight line."
    ),
    plan=plan,
    scales={
        "smoke": Scale(dict(norms=("bn", "ln", GN), batches=(64, 256), epochs=6), seeds=(0, 1)),
        "cpu": Scale(dict(norms=NORMS[:5], batches=(64, 256), epochs=50), tuple(range(10)), 17),
        "full": Scale(dict(norms=NORMS, batches=(64, 256), epochs=50), seeds=tuple(range(30))),
    },
    claims=(
        Claim(
            "a",
            "BN falls fastest at first",
            SOURCE,
            lowest(first_epochs, "bn", ("ln", GN)),
            "mean loss of the first fifth of the epochs, the lower of LN and GN minus BN",
            0.005,
        ),
        Claim(
            "b",
            "BN fluctuates most at the end",
            SOURCE,
            highest(fluctuation, "bn", ("ln", GN)),
            "fluctuation of the loss in the last half, BN minus the higher of LN and GN",
            0.0005,
            "{:+.4f}",
        ),
        Claim(
            "c",
            "A larger batch calms BN",
            SOURCE,
            lambda rows: subtract(
                fluctuation(rows, "bn", 64),
                fluctuation(rows, "bn", max(rows.values("batch"), default=64)),
            ),
            "fluctuation of BN, batch 64 minus the largest batch",
            0.0005,
            "{:+.4f}",
        ),
        Claim(
            "d",
            "LN varies more than GN",
            SOURCE,
            highest(fluctuation, "ln", (GN,)),
            "fluctuation of the loss in the last half, LN minus GN",
            0.0,
            "{:+.4f}",
        ),
        Claim(
            "e",
            "GN ends best",
            SOURCE,
            lowest(final, GN, ("bn", "ln")),
            "training loss at the end, the lower of BN and LN minus GN",
            0.0,
            remark="The likely reason: the label is in the size of the sum. So it is in the mean "
            "and the deviation over the units of a sample, which LN and GN remove.",
        ),
        Claim(
            "f",
            "All end close",
            SOURCE,
            lambda rows: subtract(0.1, range_of_ends(rows)),
            "0.1 minus the range of the final training losses of BN, LN and GN",
            0.0,
        ),
    ),
    tables=(
        Table("Test accuracy", "accuracy", "norm", "batch"),
        Table("Test loss", "cross_entropy", "norm", "batch", form="{:.3f}"),
    ),
    figures={
        "loss": Curves(
            "Training loss by epoch: the mean over seeds, with a band from least to greatest.",
            lambda row: dict(enumerate(row["curves"]["loss"], 1)),
            by="norm",
            panels="batch",
            log="y",
            labels=("epoch", "training loss"),
        ),
    },
    calibration=(100, 101),
)
