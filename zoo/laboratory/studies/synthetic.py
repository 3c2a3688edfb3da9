"""An article's comparison of norms, on points whose rule is known."""

from collections.abc import Sequence

from zoo.laboratory.claims import synthetic as claims
from zoo.laboratory.claims.synthetic import GN
from zoo.laboratory.figures import Curves, by_epoch
from zoo.laboratory.study import Run, Scale, Study, Table
from zoo.laboratory.tasks.train import Train
from zoo.training import TrainOptions

NORMS = ("none", "bn", "ln", GN, "sn", "wn", "rms")


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
        # 15 steps an epoch at a batch of 64.
        "evidence": Scale(dict(norms=NORMS, batches=(64, 256), epochs=50), seeds=tuple(range(10))),
        "full": Scale(dict(norms=NORMS, batches=(64, 256), epochs=50), seeds=tuple(range(30))),
    },
    claims=claims.CLAIMS,
    tables=(
        Table("Test accuracy", "accuracy", "norm", "batch"),
        Table("Test loss", "cross_entropy", "norm", "batch", form="{:.3f}"),
    ),
    figures={
        "loss": Curves(
            "Training loss by epoch: the mean over seeds, with a band from least to greatest.",
            by_epoch("loss"),
            by="norm",
            panels="batch",
            log="y",
            labels=("epoch", "training loss"),
        ),
    },
    calibration=(100, 101),
)
