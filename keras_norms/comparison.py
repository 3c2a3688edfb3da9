"""Compares what runs chose, and says what they show of the published findings.

    print(compare([analysis.read(run) for run in ("runs/b32", "runs/b2")]).text())

The papers are arXiv 1806.10779 and 1811.07727. `CLAIMS` says which number decides each of their
claims; `claims` and `batch_size_claim` measure it in runs.
"""

import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from keras_norms.analysis import (
    KINDS,
    LABELS,
    Layers,
    Preferences,
    Shares,
    Weights,
    average,
    stage,
    text_table,
)
from keras_norms.arguments import is_integer
from keras_norms.output import write_csv, write_json

# {statistic: (mean, spread)} of the runs of a group; the spread of a single run is None.
Pooled = dict[str, tuple[float, float | None]]

# Options of a run that do not say what was trained: only where it is, or which repetition.
NOT_COMPARED = ("seed", "log_dir", "data_dir", "log_every", "overwrite", "resume", "export")
# Smaller effects count as none. Runs that differ in their seed alone differ by as much, and so
# does the published figure from its digitized shares.
MARGIN = 0.02


# {block: {statistic: share}}, by depth. "stem" is the block before the stages, if there is one.
Blocks = Mapping[str, Shares]


class Claim(NamedTuple):
    """A claim of the papers, and the number that decides it.

    Attributes:
        statement: the claim.
        statistics: those whose importance the claim is about, keys of `LABELS`.
        effect: function of that importance. (a) to (c) take `Blocks`; (d) takes `{statistic:
            share}` of the net trained with the largest and with the smallest batch. A larger
            value speaks for the claim, a negative one against it.
        measured: what `effect` returns, in words.
    """

    statement: str
    statistics: tuple[str, ...]
    effect: Callable[..., float]
    measured: str


def _importance(statistic: str, blocks: Blocks, stem: bool) -> list[float]:
    """The shares of a statistic by depth, with or without those of the stem."""
    return [shares[statistic] for name, shares in blocks.items() if stem or name != "stem"]


def _earlier(blocks: Blocks) -> float:
    first, *_, last = _importance("instance", blocks, stem=False)
    return first - last


def _middle(blocks: Blocks) -> float:
    first, *inner, last = _importance("batch", blocks, stem=True)
    return statistics.fmean(inner) - max(first, last)


def _last(blocks: Blocks) -> float:
    *others, last = _importance("layer", blocks, stem=False)
    return last - max(others)


def _moved(largest: Shares, smallest: Shares) -> float:
    return min(smallest[s] - largest[s] for s in ("layer", "instance"))


# The published shares meet each criterion, but for two: `zoo.laboratory.claims.preferences`.
CLAIMS = {
    "a": Claim(
        "IN is used more in earlier layers",
        ("instance",),
        _earlier,
        "importance of IN, first stage minus the last, without the stem",
    ),
    "b": Claim(
        "BN is used most in the middle",
        ("batch",),
        _middle,
        "importance of BN, mean of the inner blocks minus the larger of the stem and the last",
    ),
    "c": Claim(
        "LN is used most in the last layers",
        ("layer",),
        _last,
        "importance of LN, last stage minus the largest of the other stages, without the stem",
    ),
    "d": Claim(
        "A smaller batch moves the preference from BN to LN and IN",
        ("batch", "layer", "instance"),
        _moved,
        "rise of the importance in the net from the largest batch to the smallest, the smaller of "
        "LN's and IN's",
    ),
}


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; those that differ only in their seed are one group.

    Attributes:
        groups: `{label: runs}`; a label gives the options in which the groups differ.
        differing: names of these options.
    """

    groups: Mapping[str, tuple[Preferences, ...]]
    differing: tuple[str, ...] = ()

    @property
    def runs(self) -> list[Preferences]:
        """All runs, group by group."""
        return [run for runs in self.groups.values() for run in runs]

    @property
    def statistics(self) -> tuple[str, ...]:
        """The statistics that any run uses, in the order of `LABELS`."""
        return tuple(s for s in LABELS if any(s in run.statistics for run in self.runs))

    def means(self) -> dict[str, dict[str, dict[str, Pooled]]]:
        """Means and spread over the runs of each group, by stage and over the net.

        Returns:
            `{label: {"net" or stage: {kind: {statistic: (mean, spread)}}}}`, "net" first. The
            spread is the standard deviation over runs, None for a single run.
        """
        return {label: _pool([run.means() for run in runs]) for label, runs in self.groups.items()}

    def table(self) -> list[dict[str, Any]]:
        """One row for each group, part of the net and kind, with the columns of the CSV file."""
        rows = []
        for label, parts in self.means().items():
            for part, kinds in parts.items():
                for kind, shares in kinds.items():
                    row: dict[str, Any] = {"run": label, "runs": len(self.groups[label])}
                    row |= {"part": part, "kind": kind}
                    for s in self.statistics:
                        row[s], row[f"{s}_spread"] = shares.get(s, (None, None))
                    rows.append(row)
        return rows

    def text(self) -> str:
        """The table for a terminal: for each part of the net the groups below each other."""
        means = self.means()
        lines: list[str] = []
        for part in _union(*means.values()):
            rows, spreads = {}, {}
            for label, parts in means.items():
                kinds = parts.get(part)
                if not kinds:
                    continue
                name = f"{label} ({len(self.groups[label])} runs)"
                name = name if len(self.groups[label]) > 1 else label
                rows[name] = {
                    kind: {s: mean for s, (mean, _) in shares.items()}
                    for kind, shares in kinds.items()
                }
                found = [sd for shares in kinds.values() for _, sd in shares.values()]
                known = [sd for sd in found if sd is not None]
                spreads[name] = f"{max(known):.2f}" if len(known) == len(found) else "-"
            lines += [*text_table(part, rows, self.statistics, "spread", spreads), ""]
        lines.append("spread: the largest standard deviation over runs that differ in their seed.")
        return "\n".join(lines)

    def to_csv(self, path: str | os.PathLike) -> None:
        """Writes `table()` to a CSV file."""
        write_csv(path, self.table())

    def to_json(self, path: str | os.PathLike) -> None:
        """Writes the groups, their runs and `table()` to a JSON file."""
        groups = {
            label: [{"name": run.name, "options": dict(run.options)} for run in runs]
            for label, runs in self.groups.items()
        }
        write_json(path, {"groups": groups, "means": self.table()})


def compare(runs: Sequence[Preferences]) -> Comparison:
    """Groups runs by their options; runs that differ only in their seed are one group.

    Args:
        runs: sequence of `Preferences`. One without options is a group of its own.

    Returns:
        `Comparison`. If the groups differ in numbers, they are in ascending order of these.

    Raises:
        ValueError: if a run is given twice, or two runs of a group have the same seed.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} is given twice. Name each run once.")
    options = [{k: v for k, v in r.options.items() if k not in NOT_COMPARED} for r in runs]
    known = [own for own in options if own]
    differing = [k for k in _union(*known) if any(o.get(k) != known[0].get(k) for o in known)]
    groups: dict[str, list[Preferences]] = {}
    values: dict[str, list] = {}
    for run, own in zip(runs, options, strict=True):
        label = " ".join(f"{k}={own.get(k)}" for k in differing) or "all"
        label = label if own else run.name
        groups.setdefault(label, []).append(run)
        values[label] = [own.get(k) for k in differing]
    if all(_is_number(value) for own in values.values() for value in own):
        groups = {label: groups[label] for label in sorted(groups, key=values.__getitem__)}
    for group in groups.values():
        seeds = [run.options.get("seed") for run in group]
        if len(set(seeds)) < len(seeds):
            same = " and ".join(run.name for run in group)
            raise ValueError(f"{same} share options and seed: leave out all but one of each seed.")
    return Comparison({label: tuple(group) for label, group in groups.items()}, tuple(differing))


def claims(preferences: Preferences) -> list[str]:
    """Says what one run shows of claims (a) to (c), a sentence each.

    Args:
        preferences: `Preferences` of a model with switches over IN, LN and BN.

    Returns:
        The sentences. A model to which the claims do not apply gets one that says why.
    """
    layers = {path: weights for path, weights in preferences.last.items() if "mean" in weights}
    if not layers:
        net = preferences.means()["net"]["gate"]
        return [
            "Claims (a) to (d) are about Switchable Normalization. The gates of this model give "
            f"BN {net['batch']:.2f} and IN {net['instance']:.2f} on average."
        ]
    if len(layers) < 3:
        return [f"Claims (a) to (c) need at least 3 layers with switches, not {len(layers)}."]
    shares = {name: kinds["both"] for name, kinds in blocks(layers).items()}

    def judge(name: str) -> str:
        statement, (statistic,), effect, _ = CLAIMS[name]
        text, label = f"({name}) {statement}", LABELS[statistic]
        found = {name: block.get(statistic, math.nan) for name, block in shares.items()}
        if math.isnan(sum(found.values())):
            return f"{text}: cannot be judged, without finite weights of {label}."
        listed = ", ".join(f"{share:.2f} in {name}" for name, share in found.items())
        return f"{text}: {_verdict(effect(shares))} ({label} takes {listed})."

    sentences = [judge(name) for name in "abc"]
    changes = [
        abs(change)
        for kinds in preferences.change().values()
        for shares in kinds.values()
        for change in shares.values()
    ]
    if changes and max(changes) < 0.05:
        sentences.append(
            f"No weight has moved by more than {max(changes):.2f} from its start: train longer "
            "before you conclude anything."
        )
    return sentences


def blocks(layers: Layers) -> dict[str, dict[str, dict[str, float]]]:
    """Means over the layers of each block of a net, by depth.

    The names of layers tell their blocks: "stem", if there is one, and the stages. If they tell
    fewer than three stages, the thirds of the layers behind the stem take their place.

    Args:
        layers: `{path: what `layer.importance()` returns}`, by depth.

    Returns:
        `{block: {kind: {statistic: share}}}`, by depth.
    """
    stages: dict[str, list[Weights]] = {}
    for path, weights in layers.items():
        stages.setdefault(stage(path), []).append(weights)
    stem = {"stem": stages.pop("stem")} if "stem" in stages else {}
    if len(stages) < 3:
        rest = [weights for part in stages.values() for weights in part]
        cuts = [round(i * len(rest) / 3) for i in range(4)]
        names = ("first third", "middle third", "last third")
        stages = {name: rest[cuts[i] : cuts[i + 1]] for i, name in enumerate(names)}
    return {name: average(part) for name, part in (stem | stages).items()}


def batch_size_claim(comparison: Comparison) -> str:
    """Says in a sentence what runs at several batch sizes show of claim (d).

    Args:
        comparison: `Comparison` of runs whose option `batch_size` is the samples per replica.
    """
    statement, compared, effect, _ = CLAIMS["d"]
    text = f"(d) {statement}"
    means = comparison.means()
    sizes: dict[int, tuple[str, Pooled]] = {}
    for label, runs in comparison.groups.items():
        size, net = runs[0].options.get("batch_size"), means[label].get("net", {})
        if size is not None and set(compared) <= set(net.get("both", ())):
            sizes.setdefault(size, (label, net["both"]))
    if len(sizes) < 2:
        return f"{text}: needs runs with switches at several batch sizes; give them together."
    small, large = min(sizes), max(sizes)
    (small_label, at_small), (large_label, at_large) = sizes[small], sizes[large]
    shares = ", ".join(
        f"{LABELS[s]} {at_large[s][0]:.2f} to {at_small[s][0]:.2f}" for s in compared
    )
    means_at = ({s: pooled[s][0] for s in compared} for pooled in (at_large, at_small))
    verdict = _verdict(effect(*means_at))
    count = [len(comparison.groups[label]) for label in (large_label, small_label)]
    others = [option for option in comparison.differing if option != "batch_size"]
    caveat = f" The runs also differ in {', '.join(others)}." if others else ""
    return (
        f"{text}: {verdict} (from {large} to {small} samples per replica: {shares}; "
        f"{count[0]} and {count[1]} runs).{caveat}"
    )


def _verdict(effect: float) -> str:
    """What the effect of a claim says of it, in words."""
    if math.isnan(effect):
        return "cannot be judged, the weights are not finite"
    if abs(effect) < MARGIN:
        return "no clear difference here"
    return "so it is here" if effect > 0 else "not so here"


def _pool(runs: Sequence[Mapping[str, Mapping[str, Shares]]]) -> dict[str, dict[str, Pooled]]:
    """Mean and spread of `{part: {kind: shares}}` over runs, "net" first."""
    pooled: dict[str, dict[str, Pooled]] = {}
    for part in sorted(_union(*runs), key=lambda name: name != "net"):
        for kind in KINDS:
            have = [run[part][kind] for run in runs if kind in run.get(part, ())]
            for s in (s for s in LABELS if any(s in shares for shares in have)):
                values = [shares.get(s, 0.0) for shares in have]
                spread = statistics.stdev(values) if len(values) > 1 else None
                entry = (statistics.fmean(values), spread)
                pooled.setdefault(part, {}).setdefault(kind, {})[s] = entry
    return pooled


def _union(*mappings: Iterable[str]) -> list[str]:
    """The keys of all mappings, each once, in order of appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _is_number(value: Any) -> bool:
    return is_integer(value) or isinstance(value, float)
