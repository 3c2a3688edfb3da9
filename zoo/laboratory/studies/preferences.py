"""Which statistics do layers choose, and how does that move with the batch size?"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from keras_norms import analysis, comparison
from keras_norms.analysis import LABELS
from zoo.laboratory.claims import preferences as claims
from zoo.laboratory.claims import published
from zoo.laboratory.figures import Curves
from zoo.laboratory.shares import Bar, Shares, Simplex
from zoo.laboratory.study import Figure, Rows, Run, Scale, Study, Table
from zoo.laboratory.tasks.train import Train, preferences
from zoo.training import TrainOptions

RESNET = "ResNet-20"


def ghost_runs(
    model: str, name: str, batches: Sequence[int], global_batch: int, **options: Any
) -> list[Run]:
    """The same steps on the same batches, with different numbers of samples per statistic.

    Args:
        model: what is trained.
        name: what figures call it.
        batches: how many samples share statistics: a run for each number.
        global_batch: samples of a step.
        **options: other `TrainOptions`.
    """
    return [
        Run(
            f"{model}-b{batch}",
            {"model": name, "batch": batch},
            Train(
                TrainOptions(
                    model=model,
                    norm=f"sn(ghost_batch_size={batch})",
                    batch_size=global_batch,
                    **options,
                ),
                (preferences,),
            ),
        )
        for batch in batches
    ]


def share_lists(rows: Rows, kind: str, block: str) -> dict[str, list[float]]:
    """`{statistic: its share with each seed}` in a block, or in the "net"."""
    return {
        s: [row[f"{kind}_{block}_{s}"] for row in rows]
        for s in LABELS
        if f"{kind}_{block}_{s}" in rows[0]
    }


def beside_the_paper(rows: Rows) -> dict[str, dict[str, Bar]]:
    """The panels of the figure: published shares and ours, by batch size and by block."""
    rows = Rows(row for row in rows if "importance" in row)
    if not rows:
        return {}
    model, batches = rows[0]["model"], rows.values("batch")
    blocks = list(comparison.blocks(rows[0]["importance"]))
    panels: dict[str, dict[str, Bar]] = {
        "Paper, ResNet-50: net, by samples per GPU": {
            str(batch): weights for batch, weights in published.BATCH_SIZES.items()
        },
        f"{model}: net, by samples per statistic": {
            str(batch): share_lists(rows.where(batch=batch), "both", "net") for batch in batches
        },
    }
    for paper, own in ((32, max(batches)), (2, min(batches))):
        for kind in ("mean", "variance"):
            panels[f"Paper, ResNet-50: {kind}, {paper} samples"] = {
                block: kinds[kind] for block, kinds in published.BLOCKS[paper].items()
            }
            panels[f"{model}: {kind}, {own} samples"] = {
                block: share_lists(rows.where(batch=own), kind, block) for block in blocks
            }
    return panels


def paths(rows: Rows) -> dict[str, dict[str, list[list[dict[str, float]]]]]:
    """The panels of the triangles: the path of each layer, as the mean over seeds."""
    rows = Rows(row for row in rows if "dynamics" in row)
    panels: dict[str, dict[str, list[list[dict[str, float]]]]] = {}
    for kind in ("mean", "variance"):
        for batch in rows.values("batch"):
            histories = [row["dynamics"] for row in rows.where(batch=batch)]
            steps = sorted(set.intersection(*map(set, histories)), key=int)
            panel = panels.setdefault(f"{kind}, {batch} samples", {})
            for layer in histories[0][steps[-1]]:
                path = [
                    analysis.average(history[step][layer] for history in histories)[kind]
                    for step in steps
                ]
                panel.setdefault(analysis.stage(layer), []).append(path)
    return panels


def importance_of_batch(row: Mapping[str, Any]) -> dict[int, float] | None:
    """The importance of BN in the net, by step."""
    if "dynamics" not in row:
        return None
    nets = {
        int(step): analysis.average(layers.values()) for step, layers in row["dynamics"].items()
    }
    return {step: kinds["both"]["batch"] for step, kinds in nets.items()}


# What a study of preferences shows.
TABLES = (
    *(
        Table(
            f"Importance of {LABELS[s]} in the net",
            f"both_net_{s}",
            "model",
            "batch",
            form="{:.3f}",
        )
        for s in ("batch", "layer", "instance")
    ),
    Table("Test accuracy", "accuracy", "model", "batch"),
)
FIGURES: dict[str, Figure] = {
    "preferences": Shares(
        "What switches chose: published on the left, measured on the right. Whiskers are one "
        "standard deviation over seeds; the published numbers have none.",
        beside_the_paper,
    ),
    "paths": Simplex(
        "The path of each layer over training, from equal weights in the middle to its choice at "
        "the dot: the mean over seeds.",
        paths,
    ),
    "dynamics": Curves(
        "The importance of BN during training, by the number of samples that share statistics.",
        importance_of_batch,
        by="batch",
        labels=("step", "importance of BN"),
    ),
}

# Sizes for whether it works, and for a first look.
SMOKE = Scale(
    dict(
        dataset="digits",
        train_examples=64,
        test_examples=32,
        epochs=1,
        batches=(32, 2),
        global_batch=32,
        width=0.25,
    ),
    seeds=(0, 1),
)
QUICK = Scale(
    dict(
        dataset="cifar10",
        train_examples=4000,
        test_examples=1000,
        epochs=10,
        batches=(32, 8, 2),
        global_batch=64,
        learning_rate=0.4,
        l2=5e-5,
        width=0.5,
    ),
    seeds=(0, 1, 2),
)

STUDY = Study(
    question="Which statistics do layers choose, and how does that move with the batch size?",
    about=(
        "A ResNet-20 with Switchable Norm everywhere learns CIFAR-10. All runs take the same steps "
        "on the same batches. Only the number of samples that share a mean and a variance changes "
        "(ghost batches), as if each replica had so many. Importance is the average of the weights "
        "for mean and variance. The paper's net is a ResNet-50 on ImageNet."
    ),
    plan=functools.partial(ghost_runs, "resnet20", RESNET),
    scales={
        "smoke": SMOKE,
        "cpu": QUICK,
        "evidence": Scale(
            dict(
                dataset="cifar10",
                train_examples=10_000,
                test_examples=5_000,
                epochs=12,
                batches=(32, 8, 2),
                global_batch=64,
                learning_rate=0.4,  # 0.2 at batches of 64
                l2=5e-5,
                log_every=78,  # half an epoch
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
        "full": Scale(
            dict(dataset="cifar10", epochs=200, batches=(32, 16, 8, 4, 2), global_batch=128),
            seeds=(0, 1, 2, 3, 4),
        ),
    },
    claims=claims.claims(RESNET, (32, 8, 2), least_accuracy=0.5),
    tables=TABLES,
    figures=FIGURES,
    calibration=(100, 101),
)
