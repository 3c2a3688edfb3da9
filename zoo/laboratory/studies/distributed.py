"""How do norms behave in distributed training?"""

from collections.abc import Sequence
from typing import Any

from zoo.laboratory.claims import distributed as claims
from zoo.laboratory.claims.distributed import COMPARED, TRAINED
from zoo.laboratory.figures import Lines
from zoo.laboratory.study import Run, Scale, Study, Table
from zoo.laboratory.tasks.agreement import Agreement
from zoo.laboratory.tasks.train import Train
from zoo.training import TrainOptions

SYNCHRONIZED = "bn(synchronized=True)"
# What tables and figures call the norms.
NAMES = {"bn": "bn", SYNCHRONIZED: claims.SYNCHRONIZED, "gn": "gn"}


def plan(replicas: Sequence[int], global_batch: int, **options: Any) -> list[Run]:
    """Training on each number of replicas; on several, also a few steps.

    The few steps are done with even batches and with uneven ones.
    """
    runs = []
    for norm, name in NAMES.items():
        for count in replicas:
            short = f"{name.replace(', ', '-')}-x{count}"
            factors = {"norm": name, "replicas": count, "uneven": False}
            if count > 1 or norm != SYNCHRONIZED:
                settings = TrainOptions(
                    model="conv6",
                    norm=norm,
                    replicas=count,
                    batch_size=global_batch // count,
                    **options,
                )
                runs.append(Run(short, factors | {"run is": TRAINED}, Train(settings)))
            if count > 1:
                for uneven in (False, True):
                    task = Agreement(norm, count, uneven)
                    own = factors | {"uneven": uneven, "run is": COMPARED}
                    runs.append(Run(f"{short}-{'uneven' if uneven else 'even'}", own, task))
    return runs


STUDY = Study(
    question="How do normalization layers behave in distributed training?",
    about=(
        "Nets see the same global batches on 1, 2, 4 and 8 replicas of a MirroredStrategy. "
        "Training gives accuracy and time. After a few steps, the copies of all variables are "
        "compared with each other and with one device. For that, batches are equal, or "
        "all replicas but the first get half of their share. Replicas are logical devices that "
        "share the cores of one machine. So times say what synchronization costs, not what more "
        "devices gain. The full scale needs 8 GPUs."
    ),
    plan=plan,
    scales={
        "smoke": Scale(
            dict(
                replicas=(1, 2),
                global_batch=16,
                dataset="digits",
                width=0.05,
                train_examples=64,
                test_examples=32,
                epochs=1,
            ),
            seeds=(0, 1),
        ),
        "cpu": Scale(
            dict(
                replicas=(1, 2, 4, 8),
                global_batch=64,
                dataset="mnist",
                width=0.25,
                train_examples=1024,
                test_examples=1000,
                epochs=3,
            ),
            seeds=(0, 1, 2),
            minutes=18,
        ),
        "evidence": Scale(
            dict(
                replicas=(1, 2, 4, 8),
                global_batch=32,
                dataset="cifar10",
                width=0.25,
                train_examples=5000,  # 156 steps an epoch
                test_examples=5000,
                epochs=10,
            ),
            seeds=(0, 1, 2, 3, 4),
        ),
        "full": Scale(
            dict(replicas=(1, 2, 4, 8), global_batch=64, dataset="cifar10", epochs=100),
            seeds=(0, 1, 2, 3, 4),
        ),
    },
    claims=claims.CLAIMS,
    tables=(
        Table("Test error", "error", "norm", "replicas"),
        Table(
            "Seconds of a step (all replicas share the cores of one machine)",
            "seconds_per_step",
            "norm",
            "replicas",
            form="{:.3f}",
        ),
        Table(
            "Largest difference of weights from those on one device after 3 steps, equal batches",
            "weights_difference",
            "norm",
            "replicas",
            {"uneven": False},
            "{:.0e}",
        ),
        Table(
            "Largest difference of weights from those on one device after 3 steps, unequal batches",
            "weights_difference",
            "norm",
            "replicas",
            {"uneven": True},
            "{:.0e}",
        ),
        Table(
            "Largest difference between replicas in any variable, unequal batches",
            "between_replicas",
            "norm",
            "replicas",
            {"uneven": True},
            "{:.0e}",
        ),
    ),
    figures={
        "error": Lines(
            "Test error against the number of replicas that share a global batch.",
            x="replicas",
            y="error",
            by="norm",
            where={"run is": TRAINED},
            log="x",
            percent=True,
            labels=("replicas", "test error"),
        ),
    },
    replicas=8,
    timed=True,
)
