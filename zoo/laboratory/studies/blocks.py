"""What do the five blocks of a ResNet choose, beside those of the published figure?"""

import functools

from zoo.laboratory.claims.blocks import BATCHES, CLAIMS, MODEL
from zoo.laboratory.studies.preferences import FIGURES, QUICK, SMOKE, TABLES, ghost_runs
from zoo.laboratory.study import Scale, Study

STUDY = Study(
    question="Do the blocks of a ResNet choose what the published ones chose?",
    about=(
        "A ResNet-18 with a 3x3 stem and 16 to 128 channels learns CIFAR-10 with Switchable Norm "
        "everywhere. Its stem and its four stages stand for the blocks b1 to b5 of the published "
        "ResNet-50 on ImageNet; its last maps have 4 x 4 pixels. As in the study preferences, only "
        "the number of samples that share a mean and a variance changes."
    ),
    plan=functools.partial(ghost_runs, "resnet18_small", MODEL),
    scales={
        "smoke": SMOKE,
        "cpu": QUICK,
        "evidence": Scale(
            dict(
                dataset="cifar10",
                test_examples=5_000,
                epochs=6,
                batches=BATCHES,
                global_batch=64,
                learning_rate=0.4,  # 0.2 at batches of 64
                l2=5e-5,
                log_every=195,  # a quarter of an epoch
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
