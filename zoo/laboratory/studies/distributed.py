"""How do norms behave in distributed training?"""

from collections.abc import Sequence
from typing import Any

from zoo.laboratory.figures import Lines
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
from zoo.laboratory.tasks.agreement import Agreement
from zoo.laboratory.tasks.train import Train
from zoo.training import TrainOptions

SYNCHRONIZED = "bn(synchronized=True)"
# What tables and figures call the norms.
NAMES = {"bn": "bn", SYNCHRONIZED: "bn, synchronized", "gn": "gn"}
TRAINED, COMPARED = "training", "a few steps"


def plan(replicas: Sequence[int], global_batch: int, **options: Any) -> list[Run]:
    """Trains on more and more replicas; on several, also a few steps with even and uneven parts."""
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


def on_the_most(measure: str, **where: Any) -> Effect:
    """An effect: a difference after a few steps, on the most replicas."""
    return lambda rows: rows.where(**{"run is": COMPARED}, **where).mean(measure, replicas=max)


def like_one_device(norm: str, uneven: bool) -> Effect:
    """An effect: 1e-4 minus the largest difference of a weight to that on one device."""
    difference = on_the_most("weights_difference", norm=norm, uneven=uneven)
    return lambda rows: subtract(1e-4, difference(rows))


def time_ratio(rows: Rows) -> Number:
    """An effect: how much longer a step takes if synchronized, on the most replicas."""
    rows = rows.where(**{"run is": TRAINED, "replicas": max})
    several, apart = (
        rows.mean("seconds_per_step", norm=NAMES[norm]) for norm in (SYNCHRONIZED, "bn")
    )
    return several / apart - 1 if several and apart else None


STUDY = Study(
    question="How do normalization layers behave in distributed training?",
    about=(
        "Nets see the same global batches on 1, 2, 4 and 8 replicas of a MirroredStrategy. "
        "Training tells accuracy and time. A few steps tell what differs: the copies of all "
        "variables are compared with each other and with one device. There, batches are equal, or "
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
        "full": Scale(
            dict(replicas=(1, 2, 4, 8), global_batch=64, dataset="cifar10", epochs=100),
            seeds=(0, 1, 2, 3, 4),
        ),
    },
    claims=(
        Claim(
            "a",
            "With batches of different sizes on the machines, gamma and beta come to differ",
            "ARTICLES 3",
            on_the_most("gamma_beta_between_replicas", norm="bn", uneven=True),
            "largest difference between replicas of gamma and beta after 3 steps, BN apart",
            1e-6,
            "{:.1e}",
            "Replicas add up their gradients, so gamma and beta stay equal. What differs is the "
            "deviation that each replica divides by.",
        ),
        Claim(
            "b",
            "BN with statistics of its own on each replica is not BN on the whole batch",
            "1502.03167; ARTICLES 3",
            on_the_most("weights_difference", norm="bn", uneven=False),
            "largest difference of weights to one device after 3 steps",
            1e-4,
            "{:.1e}",
            "This is a property, not a finding.",
        ),
        Claim(
            "c",
            "Synchronized statistics make replicas one device, with unequal batches too",
            "1706.02677, section 2.3; ARTICLES 3",
            like_one_device(NAMES[SYNCHRONIZED], True),
            "1e-4 minus the largest difference of weights to one device after 3 steps",
            0.0,
            "{:.1e}",
        ),
        Claim(
            "d",
            "GN does not depend on the number of replicas",
            "1803.08494",
            like_one_device("gn", True),
            "1e-4 minus the largest difference of weights to one device after 3 steps",
            0.0,
            "{:.1e}",
            "This is a property, not a finding.",
        ),
        Claim(
            "e",
            "BN loses accuracy when the batch is split over many replicas",
            "1803.08494; ARTICLES 2",
            gap("error", {"replicas": max}, {"replicas": min}, norm="bn"),
            "test error, on the most replicas minus on one",
            0.01,
            "{:+.1%}",
        ),
        Claim(
            "f",
            "Synchronized statistics cost time",
            "1706.02677, section 2.3",
            time_ratio,
            "time of a step on the most replicas, synchronized over apart, minus 1",
            0.0,
            "{:+.0%}",
        ),
    ),
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
            "Largest difference of weights to one device after 3 steps, equal batches",
            "weights_difference",
            "norm",
            "replicas",
            {"uneven": False},
            "{:.0e}",
        ),
        Table(
            "Largest difference of weights to one device after 3 steps, unequal batches",
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
