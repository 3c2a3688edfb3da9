"""What the papers say of the choices of Switchable Norm, and the numbers that decide it.

Each criterion was first applied to the published figure. A criterion that the paper's own numbers
fail is not the paper's claim, and is left out: (b) for the variance of 32 samples, and (c) for the
variance of 2.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_norms import comparison
from keras_norms.analysis import Shares, average
from keras_norms.comparison import MARGIN, Blocks
from zoo.laboratory.claims import published
from zoo.laboratory.study import Claim, Effect, Learnt, Number, Rows, subtract

SOURCE = "1806.10779, 1811.07727; ARTICLES 13"
WITHOUT_STEM = (
    "The stem is one layer. With it, the published figure fails this claim at 2 samples, for mean "
    "and variance together."
)
# The square of a distance of 0.05 in each of two statistics.
APART = 0.005
SWITCHES = ("both", "mean", "variance")  # the kinds of weights of Switchable Norm


def claims(model: str, batches: Sequence[int], least_accuracy: float) -> tuple[Claim, ...]:
    """Claims (a) to (f) about the nets of one architecture.

    Args:
        model: the value of the factor "model" of these nets.
        batches: the numbers of samples that share statistics.
        least_accuracy: a net that classifies a smaller share of the test images has not learnt.
    """
    learnt = Learnt(
        f"each {model} classifies at least {least_accuracy:.0%} of the test images",
        lambda rows: least(rows.where(model=model), "accuracy"),
        least_accuracy,
    )

    def claim(
        name: str,
        statement: str,
        effect: Effect,
        measured: str,
        case: Iterable[str],
        paper: Number,
        threshold: float = MARGIN,
        **facts: Any,
    ) -> list[Claim]:
        """The claim, unless the published numbers fail its criterion."""
        if paper is not None and paper <= threshold:
            return []
        # A product across seeds is no square, which is all that a single figure gives.
        shown = None if facts.get("across_seeds") else paper
        facts |= {"case": ", ".join((model, *case)), "learnt": learnt, "published": shown}
        return [Claim(name, statement, SOURCE, effect, measured, threshold, **facts)]

    found = []
    for name in "abc":
        statement, _, effect, measured = comparison.CLAIMS[name]
        for batch in batches:
            for kind in SWITCHES:
                paper = published.BLOCKS.get(batch)
                found += claim(
                    name,
                    statement,
                    by_depth(name, model, batch, kind),
                    measured,
                    (f"{batch} samples", kind),
                    effect(of_kind(paper, kind)) if paper else None,
                    remark="" if name == "b" else WITHOUT_STEM,
                )
    statement, _, moved, measured = comparison.CLAIMS["d"]
    for kind in SWITCHES:
        ends = [published_net(batch, kind) for batch in (32, 2)]
        case = (f"{max(batches)} to {min(batches)} samples", kind)
        found += claim("d", statement, by_batch(model, kind), measured, case, moved(*ends))
    for batch in batches:
        paper = published.BLOCKS.get(batch)
        found += claim(
            "e",
            "Mean and variance have different preferences",
            separation(model, batch),
            "product of the mean's weight minus the variance's with one seed, and the same with "
            "the other seeds, summed over statistics and averaged over layers",
            (f"{batch} samples",),
            product(paper, paper) if paper else None,
            threshold=APART,
            across_seeds=True,
            remark="Layers that drift apart at random have a product of 0 on average. When "
            "ResNet-20 was first judged, the test took products as independent, and one more of "
            "its cases held.",
        )
    falls = {k: published_net(32, k)["batch"] - published_net(2, k)["batch"] for k in SWITCHES}
    found += claim(
        "f",
        "At small batches the variance of BN is suppressed more than its mean",
        suppression(model),
        "fall of BN's importance in the net from the largest batch to the smallest, for the "
        "variance minus for the mean",
        (f"{max(batches)} to {min(batches)} samples",),
        falls["variance"] - falls["mean"],
    )
    return tuple(found)


def least(rows: Rows, measure: str) -> Number:
    """The least value of a measure; None if a row lacks it."""
    values = [row.get(measure) for row in rows]
    known = [value for value in values if value is not None]
    return min(known) if known and len(known) == len(values) else None


def of_kind(blocks: Mapping[str, Mapping[str, Shares]], kind: str) -> Blocks:
    """The shares of one kind, by block."""
    return {name: kinds[kind] for name, kinds in blocks.items()}


def published_net(batch: int, kind: str) -> Shares:
    """The published shares in the net. For one kind they are means over blocks."""
    if kind == "both":
        return published.BATCH_SIZES[batch]
    blocks = of_kind(published.BLOCKS[batch], kind)
    return {s: sum(b[s] for b in blocks.values()) / len(blocks) for s in blocks["stem"]}


def chosen(rows: Rows, **where: Any) -> Mapping[str, Any] | None:
    """`{layer: weights}` of the one net with these factors; None if it is not there."""
    found = [row["importance"] for row in rows.where(**where) if "importance" in row]
    return found[0] if found else None


def net(rows: Rows, kind: str, **where: Any) -> Shares | None:
    """The mean shares of one kind over all layers of a net; None if it is not there."""
    layers = chosen(rows, **where)
    return layers and average(layers.values())[kind]


def by_depth(name: str, model: str, batch: int, kind: str) -> Effect:
    """The effect of (a), (b) or (c) in the net of one batch size."""

    def effect(rows: Rows) -> Number:
        layers = chosen(rows, model=model, batch=batch)
        if layers is None:
            return None
        return comparison.CLAIMS[name].effect(of_kind(comparison.blocks(layers), kind))

    return effect


def by_batch(model: str, kind: str) -> Effect:
    """The effect of (d) in the nets of the largest and the smallest batch."""

    def effect(rows: Rows) -> Number:
        ends = [net(rows.where(model=model), kind, batch=end) for end in (max, min)]
        return None if None in ends else comparison.CLAIMS["d"].effect(*ends)

    return effect


def product(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """How far the differences of mean and variance agree: 0 on average if they are random.

    sum_s (mean_s - variance_s) (mean'_s - variance'_s), averaged over layers or blocks
    """
    products = [
        sum(
            (one[path]["mean"][s] - one[path]["variance"][s])
            * (other[path]["mean"][s] - other[path]["variance"][s])
            for s in one[path]["mean"]
        )
        for path in one
    ]
    return sum(products) / len(products)


def separation(model: str, batch: int) -> Effect:
    """The effect of (e): the mean product of a net and those of the other seeds."""

    def effect(rows: Rows, others: Rows) -> Number:
        layers = chosen(rows, model=model, batch=batch)
        rest = [chosen(Rows([row])) for row in others.where(model=model, batch=batch)]
        products = [product(layers, other) for other in rest if layers and other]
        return sum(products) / len(products) if products else None

    return effect


def suppression(model: str) -> Effect:
    """The effect of (f)."""

    def fall(rows: Rows, kind: str) -> Number:
        largest, smallest = (net(rows.where(model=model), kind, batch=end) for end in (max, min))
        return largest["batch"] - smallest["batch"] if largest and smallest else None

    return lambda rows: subtract(fall(rows, "variance"), fall(rows, "mean"))
