"""Which statistics do layers choose, and how does that move with the batch size?"""

from collections.abc import Mapping, Sequence
from typing import Any

from keras_norms import analysis
from keras_norms.comparison import CLAIMS, MARGIN
from zoo.laboratory.figures import Curves, Shares
from zoo.laboratory.studies import published
from zoo.laboratory.study import (
    Claim,
    Effect,
    Number,
    Rows,
    Run,
    Scale,
    Study,
    Table,
    gap,
    subtract,
)
from zoo.laboratory.tasks.train import Train, preferences
from zoo.training import TrainOptions

SOURCE = "1806.10779, 1811.07727; ARTICLES 13"
RESNET, CONV6 = "ResNet-20", "conv6"
AFTER = "Added after the calibration seeds had shown it, and before the judged seeds were run."
WIDTHS = {RESNET: 1.0, CONV6: 1.0}


def plan(
    batches: Sequence[int],
    global_batch: int,
    widths: Mapping[str, float] = WIDTHS,
    **options: Any,
) -> list[Run]:
    """The same steps on the same batches, with different numbers of samples per statistic."""

    def run(name: str, batch: int, decay: bool | None = None) -> Run:
        model = {RESNET: "resnet20", CONV6: "conv6"}[name]
        settings = TrainOptions(
            model=model,
            norm=f"sn(ghost_batch_size={batch})",
            width=widths[name],
            batch_size=global_batch,
            decay_controls=decay,
            **options,
        )
        suffix = "" if decay is None else "-nodecay"
        factors = {"model": name, "batch": batch, "decay": decay is None}
        return Run(f"{model}-b{batch}{suffix}", factors, Train(settings, (preferences,)))

    return [
        *(run(RESNET, batch) for batch in batches),
        *(run(CONV6, batch) for batch in (max(batches), min(batches))),
        run(RESNET, max(batches), decay=False),
    ]


BASE = {"model": RESNET, "batch": max, "decay": True}


def depth(name: str, **where: Any) -> Effect:
    """The effect of a published claim about the first, middle and last third of a net."""
    claim = CLAIMS[name]

    def effect(rows: Rows) -> Number:
        rows = rows.where(**BASE | where)
        thirds = ("first", "middle", "last")
        shares = [rows.mean(f"both_{third}_{claim.statistic}") for third in thirds]
        return None if None in shares else claim.effect(*shares)

    return effect


def batch_size(name: str, model: str = RESNET) -> Effect:
    """The effect of a published claim about the nets of the largest and the smallest batch."""
    claim = CLAIMS[name]

    def effect(rows: Rows) -> Number:
        rows = rows.where(model=model, decay=True)
        shares = [rows.mean(f"both_net_{claim.statistic}", batch=end) for end in (max, min)]
        return None if None in shares else claim.effect(*shares)

    return effect


def fall(share: str) -> Effect:
    """An effect: by how much a share falls from the largest to the smallest batch."""
    return gap(share, {"batch": max}, {"batch": min}, model=RESNET, decay=True)


def suppression(rows: Rows) -> Number:
    """An effect: how much more the share of BN falls for the variance than for the mean."""
    return subtract(fall("variance_net_batch")(rows), fall("mean_net_batch")(rows))


def separation(rows: Rows) -> Number:
    """An effect: half the absolute difference of the weights for mean and variance, over layers.

    It is the weight that would have to pass from one statistic to another to make both equal.
    """
    distances = [
        sum(abs(weights["mean"][s] - weights["variance"][s]) for s in weights["mean"]) / 2
        for row in rows.where(**BASE)
        for weights in row.get("importance", {}).values()
    ]
    return sum(distances) / len(distances) if distances else None


PARTS = {"stem": "stem", "stage1": "1", "stage2": "2", "stage3": "3"}


def shares(rows: Rows, kind: str, part: str | None = None) -> dict[str, float]:
    """The mean shares of the layers of a stage; of all layers with None."""
    layers = (layer for row in rows for layer in row["importance"].items())
    chosen = (weights for path, weights in layers if part in (None, analysis.stage(path)))
    return analysis.average(chosen)[kind]


def beside_the_paper(rows: Rows) -> dict[str, Any]:
    """The panels of the figure: published shares and ours, by batch size and by depth."""
    rows = type(rows)(row for row in rows.where(decay=True) if "importance" in row)
    plain, rows = rows.where(model=CONV6), rows.where(model=RESNET)
    if not rows:
        return {}
    panels = {
        "Paper (ResNet-50, ImageNet): net, by samples per GPU": {
            str(batch): weights for batch, weights in published.BATCH_SIZES.items()
        },
        "ResNet-20: net, by samples per statistic": {
            str(batch): shares(rows.where(batch=batch), "both") for batch in rows.values("batch")
        },
    }
    for published_batch, end in ((32, max), (2, min)):
        own = end(rows.values("batch"))
        for kind in ("mean", "variance"):
            panels[f"Paper: {kind}, {published_batch} samples, by block"] = published.BLOCKS[
                published_batch
            ][kind]
            panels[f"ResNet-20: {kind}, {own} samples, by stage"] = {
                label: shares(rows.where(batch=own), kind, stage) for stage, label in PARTS.items()
            }
    for batch in plain.values("batch"):
        panels[f"Plain net: mean and variance, {batch} samples, by stage"] = {
            PARTS[stage]: shares(plain.where(batch=batch), "both", stage)
            for stage in ("stage1", "stage2", "stage3")
        }
    return panels


def dynamics(row: Mapping[str, Any]) -> dict[int, float] | None:
    """The importance of BN in the net, by step."""
    if "dynamics" not in row:
        return None
    return {int(step): kinds["both"]["batch"] for step, kinds in row["dynamics"].items()}


STUDY = Study(
    question="Which statistics do layers choose, and how does that move with the batch size?",
    about=(
        "A ResNet-20 and a plain net of six convolutions learn CIFAR-10 with Switchable Norm "
        "everywhere. All runs take the same steps on the same batches. Only the number of samples "
        "that share a mean and a variance changes (ghost batches), as if each replica had so many. "
        "At cpu scale there are few steps, on a subset, with narrower nets. There the rate of the "
        "logits is ten times that of the weights; otherwise they would hardly move. Importance is "
        "the average of the weights for mean and variance. Thirds are thirds of the layers, by "
        "depth. The paper's nets are ResNet-50 on ImageNet."
    ),
    plan=plan,
    scales={
        "smoke": Scale(
            dict(
                dataset="digits",
                train_examples=64,
                test_examples=32,
                epochs=1,
                batches=(8, 2),
                global_batch=16,
                widths={RESNET: 0.25, CONV6: 0.05},
            ),
            seeds=(0, 1),
        ),
        "cpu": Scale(
            dict(
                dataset="cifar10",
                train_examples=4000,
                test_examples=1000,
                epochs=10,
                batches=(32, 8, 2),
                global_batch=64,
                widths={RESNET: 0.5, CONV6: 0.25},
                control_multiplier=10.0,
            ),
            seeds=(0, 1, 2),
            minutes=30,
        ),
        "full": Scale(
            dict(dataset="cifar10", epochs=200, batches=(32, 16, 8, 4, 2), global_batch=128),
            seeds=(0, 1, 2, 3, 4),
        ),
    },
    claims=(
        Claim(
            "a",
            CLAIMS["a"].statement,
            SOURCE,
            depth("a"),
            CLAIMS["a"].measured,
            MARGIN,
        ),
        Claim(
            "b",
            CLAIMS["b"].statement,
            SOURCE,
            depth("b"),
            CLAIMS["b"].measured,
            MARGIN,
            remark="At cpu scale BN grows toward the last stage. These nets have three stages, not "
            "five, and their last stage still has 8 x 8 pixels.",
        ),
        Claim(
            "c",
            CLAIMS["c"].statement,
            SOURCE,
            depth("c"),
            CLAIMS["c"].measured,
            MARGIN,
        ),
        Claim(
            "d",
            CLAIMS["d"].statement,
            SOURCE,
            batch_size("d"),
            CLAIMS["d"].measured,
            MARGIN,
        ),
        Claim(
            "d, conv6",
            "A smaller batch moves it away from BN, also in the plain convolutional net",
            SOURCE,
            batch_size("d", CONV6),
            CLAIMS["d"].measured,
            MARGIN,
        ),
        Claim(
            "a, conv6",
            "IN is used more in earlier layers, also in the plain convolutional net",
            SOURCE,
            depth("a", model=CONV6),
            CLAIMS["a"].measured,
            MARGIN,
            remark=AFTER,
        ),
        Claim(
            "c, conv6",
            "LN is used most in the last layers: of the plain net, at the smallest batch",
            SOURCE,
            depth("c", model=CONV6, batch=min),
            CLAIMS["c"].measured,
            MARGIN,
            remark=AFTER,
        ),
        Claim(
            "e",
            "Mean and variance have different preferences",
            SOURCE,
            separation,
            "difference of the weights for mean and variance, averaged over layers",
            0.05,
            remark="A distance is never negative, so weights that drift at random would differ "
            "too. The stem shows that it is more than drift: its preferences are the paper's.",
        ),
        Claim(
            "f",
            "At small batches the variance of BN is suppressed more than its mean",
            SOURCE,
            suppression,
            "fall of BN's share in the net, for the variance minus for the mean",
            MARGIN,
            remark="The likely reason at cpu scale: weights for the mean move first. At the "
            "largest batch those for the variance are still near a third, with little to lose.",
        ),
    ),
    tables=(
        Table(
            "Importance of BN in the net",
            "both_net_batch",
            "model",
            "batch",
            {"decay": True},
            "{:.3f}",
        ),
        Table(
            "Importance of LN in the net",
            "both_net_layer",
            "model",
            "batch",
            {"decay": True},
            "{:.3f}",
        ),
        Table(
            "Importance of IN in the net",
            "both_net_instance",
            "model",
            "batch",
            {"decay": True},
            "{:.3f}",
        ),
        Table(
            "Importance of BN at the largest batch, with and without weight decay on logits",
            "both_net_batch",
            "model",
            "decay",
            {"model": RESNET, "batch": max},
            "{:.3f}",
        ),
        Table("Test accuracy", "accuracy", "model", "batch", {"decay": True}),
    ),
    figures={
        "preferences": Shares(
            "What switches chose: published on the left, measured on the right.", beside_the_paper
        ),
        "dynamics": Curves(
            "The importance of BN during training, by the number of samples that share statistics.",
            dynamics,
            by="batch",
            panels="model",
            where={"decay": True},
            labels=("step", "importance of BN"),
        ),
    },
    calibration=(100, 101),
)
