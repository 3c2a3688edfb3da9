"""The claims of `preferences`, in a net whose blocks are those of the published figure."""

from scipy import stats

from keras_norms import comparison
from zoo.laboratory.claims import preferences, published
from zoo.laboratory.study import Claim, Effect, Number, Rows

MODEL = "ResNet-18, small"
BATCHES = (32, 8, 2)
# The upper 5% point of Spearman's correlation of 15 pairs that have nothing to do with each other.
CRITICAL = 0.446


def agreement(batch: int, kind: str) -> Effect:
    """An effect: the rank correlation of the shares by block with the published ones."""
    paper = preferences.of_kind(published.BLOCKS[batch], kind)

    def effect(rows: Rows) -> Number:
        layers = preferences.chosen(rows, model=MODEL, batch=batch)
        if layers is None:
            return None
        ours = preferences.of_kind(comparison.blocks(layers), kind)
        pairs = [
            (own[statistic], theirs[statistic])
            for own, theirs in zip(ours.values(), paper.values(), strict=True)
            for statistic in theirs
        ]
        return float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)

    return effect


def _claims() -> tuple[Claim, ...]:
    shared = preferences.claims(MODEL, BATCHES, least_accuracy=0.75)
    return shared + tuple(
        Claim(
            "g",
            "The shares by block are like the published ones",
            preferences.SOURCE,
            agreement(batch, kind),
            "rank correlation of the 15 shares of three statistics in five blocks",
            CRITICAL,
            "{:+.2f}",
            "Shares that have nothing to do with the published ones exceed the threshold once in "
            "twenty times.",
            case=f"{MODEL}, {batch} samples, {kind}",
            learnt=shared[0].learnt,
        )
        for batch in published.BLOCKS
        for kind in ("mean", "variance")
    )


CLAIMS = _claims()
