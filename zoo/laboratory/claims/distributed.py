"""What is claimed of norms on replicas, and the numbers that decide it."""

from typing import Any

from zoo.laboratory.claims.common import PERCENT, PROPERTY
from zoo.laboratory.study import Claim, Effect, Learnt, Number, Rows, gap, subtract

# What rows call the synchronized norm, and what a run is.
SYNCHRONIZED = "bn, synchronized"
TRAINED, COMPARED = "training", "a few steps"
SPLITS = {False: "equal batches", True: "unequal batches"}  # by the factor "uneven"
REPLICAS = (2, 4, 8)
SAME = 1e-4  # of a weight after 3 steps, which rounding alone does not reach
LEARNT = Learnt(
    "on one device, BN classifies at least 55% of the test images",
    lambda rows: rows.mean("accuracy", norm="bn", replicas=1),
    0.55,
)


def on_most_replicas(measure: str, **where: Any) -> Effect:
    """An effect: a difference after a few steps, on the most replicas."""
    return lambda rows: rows.where(**{"run is": COMPARED}, **where).mean(measure, replicas=max)


def like_one_device(norm: str, uneven: bool) -> Effect:
    """An effect: `SAME` minus the largest difference of a weight from that on one device."""
    difference = on_most_replicas("weights_difference", norm=norm, uneven=uneven)
    return lambda rows: subtract(SAME, difference(rows))


def time_ratio(replicas: int) -> Effect:
    """An effect: how much longer a step takes with synchronized BN."""

    def effect(rows: Rows) -> Number:
        rows = rows.where(**{"run is": TRAINED, "replicas": replicas})
        synchronized, separate = (
            rows.mean("seconds_per_step", norm=norm) for norm in (SYNCHRONIZED, "bn")
        )
        return synchronized / separate - 1 if synchronized and separate else None

    return effect


def properties(uneven: bool) -> list[Claim]:
    """The claims about weights after a few steps."""
    case = SPLITS[uneven]
    limit = f"{SAME:.0e} minus the largest difference of weights from those on one device"
    return [
        Claim(
            "b",
            "BN with statistics of its own on each replica is not BN on the whole batch",
            "1502.03167; ARTICLES 3",
            on_most_replicas("weights_difference", norm="bn", uneven=uneven),
            "largest difference of weights from those on one device after 3 steps",
            SAME,
            "{:.1e}",
            PROPERTY,
            case=case,
        ),
        Claim(
            "c",
            "Synchronized statistics make replicas one device",
            "1706.02677, section 2.3; ARTICLES 3",
            like_one_device(SYNCHRONIZED, uneven),
            f"{limit} after 3 steps",
            0.0,
            "{:.1e}",
            case=case,
        ),
        Claim(
            "d",
            "GN does not depend on the number of replicas",
            "1803.08494",
            like_one_device("gn", uneven),
            f"{limit} after 3 steps",
            0.0,
            "{:.1e}",
            PROPERTY,
            case=case,
        ),
    ]


CLAIMS = (
    Claim(
        "a",
        "With batches of different sizes on the machines, gamma and beta come to differ",
        "ARTICLES 3",
        on_most_replicas("gamma_beta_between_replicas", norm="bn", uneven=True),
        "largest difference of gamma and beta between replicas after 3 steps, without "
        "synchronization",
        1e-6,
        "{:.1e}",
        "Replicas add up their gradients. What differs is the deviation that each divides by.",
    ),
    *sorted(
        (claim for uneven in SPLITS for claim in properties(uneven)), key=lambda claim: claim.name
    ),
    *(
        Claim(
            "e",
            "BN loses accuracy when the batch is split over many replicas",
            "1803.08494; ARTICLES 2",
            gap("error", {"replicas": replicas}, {"replicas": 1}, norm="bn"),
            "test error, minus that on one replica",
            0.01,
            PERCENT,
            case=f"{replicas} replicas",
            learnt=LEARNT,
        )
        for replicas in REPLICAS
    ),
    *(
        Claim(
            "f",
            "Synchronized statistics cost time",
            "1706.02677, section 2.3",
            time_ratio(replicas),
            "time of a step, synchronized over unsynchronized, minus 1",
            0.0,
            "{:+.0%}",
            case=f"{replicas} replicas",
        )
        for replicas in REPLICAS
    ),
)
