"""The claims of `preferences`, in a net whose blocks are those of the published figure."""

from statistics import fmean

from scipy import stats

from keras_norms import comparison
from keras_norms.comparison import Blocks
from zoo.laboratory.claims import preferences, published
from zoo.laboratory.study import Claim, Effect, Number, Rows

MODEL = "ResNet-18, small"
BATCHES = (32, 8, 2)
# Shares that have nothing to do with the published ones exceed it once in twenty times, at most.
CRITICAL = 0.6


def agreement(batch: int, kind: str) -> Effect:
    """An effect: the rank correlation of how shares differ from block to block, with the paper."""
    paper = differences(preferences.of_kind(published.BLOCKS[batch], kind))

    def effect(rows: Rows) -> Number:
        layers = preferences.chosen(rows, model=MODEL, batch=batch)
        if layers is None:
            return None
        ours = differences(preferences.of_kind(comparison.blocks(layers), kind))
        if max(map(abs, ours)) < 1e-6:  # as before training
            return 0.0
        return float(stats.spearmanr(ours, paper).statistic)

    return effect


def differences(blocks: Blocks) -> list[float]:
    """Each share minus its mean over blocks, in the order of blocks and of names of statistics.

    With the means, shares that are the same in all blocks would agree with any others.
    """
    names = sorted(next(iter(blocks.values())))
    means = {name: fmean(block[name] for block in blocks.values()) for name in names}
    return [block[name] - means[name] for block in blocks.values() for name in names]


def _claims() -> tuple[Claim, ...]:
    shared = preferences.claims(MODEL, BATCHES, least_accuracy=0.75)
    return shared + tuple(
        Claim(
            "g",
            "Shares differ from block to block as the published ones do",
            preferences.SOURCE,
            agreement(batch, kind),
            "rank correlation of the 15 shares of three statistics in five blocks, each minus its "
            "mean over blocks",
            CRITICAL,
            "{:+.2f}",
            "Shares that have nothing to do with the published ones exceed the threshold once in "
            "twenty times. This criterion is ours. It replaced a weaker one five hours after the "
            "first run had begun, before any judged net had been looked at.",
            case=f"{MODEL}, {batch} samples, {kind}",
            learnt=shared[0].learnt,
        )
        for batch in published.BLOCKS
        for kind in ("mean", "variance")
    )


CLAIMS = _claims()
