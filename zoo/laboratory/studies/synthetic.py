"""The comparison of one of the articles, on points of which the rule is known."""

import statistics

from zoo.laboratory.figures import Curves
from zoo.laboratory.study import Claim, Run, Scale, Study, Table, subtract
from zoo.laboratory.tasks.train import Train
from zoo.training import TrainOptions

SOURCE = "ARTICLES 15"
GN = "gn(groups=5)"
NORMS = ("none", "bn", "ln", GN, "sn", "wn", "rms")


def first_epochs(rows, norm):
    """The mean training loss of the first fifth of the epochs."""
    return rows.early("loss", 1 / 5, norm=norm, batch=64)


def fluctuation(rows, norm, batch=64):
    """The mean change from epoch to epoch in the last half, the loss's trend taken out."""
    curve = rows.curve("loss", norm=norm, batch=batch)
    if not curve or len(curve) < 6:
        return None
    half = curve[len(curve) // 2 :]
    # The second difference is blind to a straight line.
    bends = [abs(a - 2 * b + c) for a, b, c in zip(half, half[1:], half[2:], strict=False)]
    return statistics.fmean(bends)


def least(measure, norm, others):
    """An effect: by how much a function of rows and norm is less for `norm` than for any other."""

    def effect(rows):
        values = [measure(rows, other) for other in others]
        return None if None in values else subtract(min(values), measure(rows, norm))

    return effect


def more(measure, norm, others):
    """An effect: by how much a function of rows and norm is more for `norm` than for any other."""
    return least(lambda rows, name: _negative(measure(rows, name)), norm, others)


def final(rows, norm):
    """The training loss at the end."""
    curve = rows.curve("loss", norm=norm, batch=64)
    return curve and curve[-1]


def spread_of_ends(rows):
    """The range of the training losses at the end."""
    ends = [final(rows, norm) for norm in ("bn", "ln", GN)]
    return None if None in ends else max(ends) - min(ends)


def _negative(value):
    return None if value is None else -value


def plan(norms, batches, epochs):
    """MLP 10-50-2, Adam at 0.001; BN at larger batches too."""
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
        "1,000 points of 10 uniform features, label 1 where their sum exceeds 5, a multilayer "
        "perceptron 10-50-2, Adam at a constant 0.001, batches of 64, 50 epochs: the comparison "
        "of one of the articles. BN also with a larger batch. Fluctuation is the mean size of "
        "the second differences of the training loss over the last half of the epochs, which a "
        "straight line has none of."
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
            least(first_epochs, "bn", ("ln", GN)),
            "mean loss of the first fifth of the epochs, the lesser of LN and GN less BN",
            0.005,
        ),
        Claim(
            "b",
            "BN fluctuates most at the end",
            SOURCE,
            more(fluctuation, "bn", ("ln", GN)),
            "fluctuation of the loss in the last half, BN less the larger of LN and GN",
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
            "fluctuation of BN, batch 64 less the largest batch",
            0.0005,
            "{:+.4f}",
        ),
        Claim(
            "d",
            "LN varies more than GN",
            SOURCE,
            more(fluctuation, "ln", (GN,)),
            "fluctuation of the loss in the last half, LN less GN",
            0.0,
            "{:+.4f}",
        ),
        Claim(
            "e",
            "GN ends best",
            SOURCE,
            least(final, GN, ("bn", "ln")),
            "training loss at the end, the lesser of BN and LN less GN",
            0.0,
            remark="Likely because the label is in the size of the sum, which the mean and the "
            "deviation over the units of a sample carry, and LN and GN take away.",
        ),
        Claim(
            "f",
            "All end close",
            SOURCE,
            lambda rows: subtract(0.1, spread_of_ends(rows)),
            "0.1 less the range of the final training losses of BN, LN and GN",
            0.0,
        ),
    ),
    tables=(
        Table("Test accuracy", "accuracy", "norm", "batch"),
        Table("Test loss", "cross_entropy", "norm", "batch", form="{:.3f}"),
    ),
    figures={
        "loss": Curves(
            "Training loss by epoch: mean over seeds, and the band from least to greatest.",
            lambda row: dict(enumerate(row["curves"]["loss"], 1)),
            by="norm",
            panels="batch",
            log="y",
            labels=("epoch", "training loss"),
        ),
    },
    calibration=(100, 101),
)
