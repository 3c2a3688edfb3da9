"""What the choices of switches depend on little: how they begin, the rate's decay, the solver."""

from zoo.laboratory.claims import preferences
from zoo.laboratory.study import Claim, Effect, Learnt, Number, Rows, subtract

SOURCE = "1811.07727; ARTICLES 13"
BASE, SMALL = "as it is", "2 samples"
# {variant: what it changes, in the words of the source}
VARIANTS = {
    "random switches": "the initialization of switches and kernels",
    "rate in steps": "the decay of the rate",
    "Adam": "the solver",
}
LEARNT = Learnt(
    "each net classifies at least 50% of the test images",
    lambda rows: min((row["accuracy"] for row in rows if "accuracy" in row), default=None),
    0.5,
)


def distance(rows: Rows, variant: str) -> Number:
    """How far the choices of a variant are from those of the net as it is.

    Half the sum of absolute differences of the shares, averaged over layers and kinds: 0 for equal
    choices, 1 for choices that have no statistic in common.
    """
    one, other = (preferences.chosen(rows, variant=name) for name in (BASE, variant))
    if one is None or other is None:
        return None
    apart = [
        sum(abs(shares[s] - other[layer][kind][s]) for s in shares) / 2
        for layer, kinds in one.items()
        for kind, shares in kinds.items()
    ]
    return sum(apart) / len(apart)


def _effect(variant: str) -> Effect:
    return lambda rows: subtract(distance(rows, SMALL), distance(rows, variant))


CLAIMS = tuple(
    Claim(
        "a",
        f"Choices depend less on {changed} than on the batch size",
        SOURCE,
        _effect(variant),
        "distance of the choices of 2 samples from those of 32, less the distance of the variant's",
        preferences.MARGIN,
        case=variant,
        learnt=LEARNT,
        remark="Nets with the same seed are compared. A distance of 1 is that of choices with no "
        "statistic in common.",
    )
    for variant, changed in VARIANTS.items()
)
