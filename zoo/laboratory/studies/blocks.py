"""What do the five blocks of a ResNet choose, beside those of the published figure?"""

from collections.abc import Sequence
from typing import Any

from zoo.laboratory.claims.blocks import BATCHES, CLAIMS, MODEL
from zoo.laboratory.studies.preferences import FIGURES, TABLES, ghost_run
from zoo.laboratory.study import Run, Scale, Study


def plan(batches: Sequence[int], global_batch: int, **options: Any) -> list[Run]:
    """The same steps on the same batches, with different numbers of samples per statistic."""
    return [
        ghost_run("resnet18_small", MODEL, batch, batch_size=global_batch, **options)
        for batch in batches
    ]


STUDY = Study(
    question="Do the blocks of a ResNet choose what the published ones chose?",
    about=(
        "A ResNet-18 with a 3x3 stem and 16 to 128 channels learns CIFAR-10 with Switchable Norm "
        "everywhere. Its stem and its four stages stand for the blocks b1 to b5 of the published "
        "ResNet-50 on ImageNet; its last maps have 4 x 4 pixels. As in the study preferences, only "
        "the number of samples that share a mean and a variance changes."
    ),
    plan=plan,
    scales={
        "smoke": Scale(
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
        ),
        "cpu": Scale(
            dict(
                dataset="cifar10",
                train_examples=4000,
                test_examples=1000,
                epochs=10,
                batches=BATCHES,
                global_batch=64,
                learning_rate=0.4,
                l2=5e-5,
                width=0.5,
            ),
            seeds=(0, 1, 2),
        ),
        "evidence": Scale(
            dict(
                dataset="cifar10",
                epochs=15,
                batches=BATCHES,
                global_batch=64,
                learning_rate=0.4,  # 0.2 at batches of 64
                l2=5e-5,
                log_every=390,  # half an epoch
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
        "full": Scale(
            dict(dataset="cifar10", epochs=200, batches=BATCHES, global_batch=128),
            seeds=(0, 1, 2, 3, 4),
        ),
    },
    claims=CLAIMS,
    tables=TABLES,
    figures=FIGURES,
    calibration=(100, 101),
)
