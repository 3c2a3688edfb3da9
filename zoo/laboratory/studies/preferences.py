"""Which statistics do layers choose, and how does that move with the batch size?"""

from collections.abc import Sequence
from typing import Any

from zoo.laboratory.claims import preferences as claims
from zoo.laboratory.study import Run, Scale, Study
from zoo.laboratory.tasks.train import Train, preferences
from zoo.training import TrainOptions

RESNET = "ResNet-20"


def plan(batches: Sequence[int], global_batch: int, **options: Any) -> list[Run]:
    """The same steps on the same batches, with different numbers of samples per statistic."""
    return [
        ghost_run("resnet20", RESNET, batch, batch_size=global_batch, **options)
        for batch in batches
    ]


def ghost_run(model: str, name: str, batch: int, **options: Any) -> Run:
    """A training whose batch statistics are those of so many samples.

    Args:
        model: what is trained.
        name: what figures call it.
        batch: the number of samples that share statistics.
        **options: other `TrainOptions`.
    """
    settings = TrainOptions(model=model, norm=f"sn(ghost_batch_size={batch})", **options)
    factors = {"model": name, "batch": batch}
    return Run(f"{model}-b{batch}", factors, Train(settings, (preferences,)))


STUDY = Study(
    question="Which statistics do layers choose, and how does that move with the batch size?",
    about=(
        "A ResNet-20 with Switchable Norm everywhere learns CIFAR-10. All runs take the same steps "
        "on the same batches. Only the number of samples that share a mean and a variance changes "
        "(ghost batches), as if each replica had so many. Importance is the average of the weights "
        "for mean and variance. The paper's net is a ResNet-50 on ImageNet."
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
                batches=(32, 8, 2),
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
    calibration=(100, 101),
)
