"""Compares what runs chose, and says what they show of the published findings.

    print(compare([analysis.read(run) for run in ("runs/b32", "runs/b2")]).text())

`claims` and `batch_size_claim` judge the findings of arXiv 1806.10779 and 1811.07727.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from keras_norms.analysis import (
    KINDS,
    LABELS,
    Preferences,
    average,
    text_table,
)
from keras_norms.output import write_csv, write_json

# Options of a run that say where it is or repeat it, and not what was trained.
NOT_COMPARED = ("seed", "log_dir", "data_dir", "log_every", "overwrite")
# Smaller differences of shares are called none: runs that differ only in their seed, and the
# published figure as digitized, differ by that much.
MARGIN = 0.02


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; those that differ only in their seed are one group.

    Attributes:
        groups: `{label: runs}`; labels say in which options the groups differ.
        differing: names of the options in which any groups differ.
    """

    groups: Mapping[str, tuple[Preferences, ...]]
    differing: tuple[str, ...] = ()

    @property
    def runs(self):
        """All runs, group by group."""
        return [run for runs in self.groups.values() for run in runs]

    def means(self):
        """Means and spread over the runs of each group, by stage and over the net.

        Returns:
            `{label: {"net" or stage: {kind: {statistic: (mean, spread)}}}}`, "net" first. The
            spread is the standard deviation over runs, None for a single run.
        """
        return {label: _pool([run.means() for run in runs]) for label, runs in self.groups.items()}

    def table(self):
        """One row for each part of the net, group and kind: the columns of the CSV file."""
        used = {s for run in self.runs for s in run.statistics}
        rows = []
        for label, parts in self.means().items():
            for part, kinds in parts.items():
                for kind, shares in kinds.items():
                    row = {"run": label, "runs": len(self.groups[label])}
                    row |= {"part": part, "kind": kind}
                    for s in (s for s in LABELS if s in used):
                        row[s], row[f"{s}_spread"] = shares.get(s, (None, None))
                    rows.append(row)
        return rows

    def text(self):
        """The table for a terminal: for each part of the net the groups below each other."""
        means = self.means()
        used = [s for s in LABELS if any(s in run.statistics for run in self.runs)]
        lines = []
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
                spread = [sd for shares in kinds.values() for _, sd in shares.values()]
                spreads[name] = f"{max(spread):.2f}" if None not in spread else "-"
            lines += [*text_table(part, rows, used, "spread", spreads), ""]
        lines.append("spread: the largest standard deviation over runs that differ in their seed.")
        return "\n".join(lines)

    def to_csv(self, path):
        """Writes `table()` to a CSV file."""
        write_csv(path, self.table())

    def to_json(self, path):
        """Writes the groups, their runs and `table()` to a JSON file."""
        groups = {
            label: [{"name": run.name, "options": dict(run.options)} for run in runs]
            for label, runs in self.groups.items()
        }
        write_json(path, {"groups": groups, "means": self.table()})


def compare(runs):
    """Groups runs by their options, those that differ only in their seed together.

    Args:
        runs: sequence of `Preferences`. One without options is a group of its own.

    Returns:
        `Comparison`; groups stand in the order of the numbers by which they differ, if they do.

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
    groups, values = {}, {}
    for run, own in zip(runs, options, strict=True):
        label = " ".join(f"{k}={own.get(k)}" for k in differing) or "all"
        label = label if own else run.name
        groups.setdefault(label, []).append(run)
        values[label] = [own.get(k) for k in differing]
    if all(_is_number(value) for own in values.values() for value in own):
        groups = {label: groups[label] for label in sorted(groups, key=values.get)}
    for group in groups.values():
        seeds = [run.options.get("seed") for run in group]
        if len(set(seeds)) < len(seeds):
            names = " and ".join(run.name for run in group)
            raise ValueError(f"{names} share options and seed: leave out all but one of each seed.")
    return Comparison({label: tuple(group) for label, group in groups.items()}, tuple(differing))


def claims(preferences):
    """Says of claims (a) to (c) of the papers what one run shows, a sentence each.

    The paper's importance (the average over mean and variance weights) is compared between the
    first, the middle and the last third of the layers, by depth.

    Args:
        preferences: `Preferences` of a model with switches over IN, LN and BN.

    Returns:
        list of str.
    """
    layers = [weights for weights in preferences.last.values() if "mean" in weights]
    if not layers:
        net = preferences.means()["net"]["gate"]
        return [
            "Claims (a) to (d) are about Switchable Normalization. The gates of this model give "
            f"BN {net['batch']:.2f} and IN {net['instance']:.2f} on average."
        ]
    if len(layers) < 3:
        return [f"Claims (a) to (c) need at least 3 layers with switches, not {len(layers)}."]
    by_depth = [part["both"] for part in thirds(layers)]

    def claim(text, statistic, advantage):
        shares = [third.get(statistic, math.nan) for third in by_depth]
        if math.isnan(sum(shares)):
            return f"{text}: cannot be judged, without finite weights of {LABELS[statistic]}."
        values = "{:.2f}, {:.2f}, {:.2f}".format(*shares)
        return (
            f"{text}: {_verdict(advantage(*shares))} ({LABELS[statistic]} takes {values} of the "
            "first, middle and last third of the layers)."
        )

    sentences = [
        claim("(a) IN is used more in earlier layers", "instance", lambda a, b, c: a - c),
        claim("(b) BN is used most in the middle", "batch", lambda a, b, c: lead(b, a, c)),
        claim("(c) LN is used most in the last layers", "layer", lambda a, b, c: lead(c, a, b)),
    ]
    moves = [
        abs(move)
        for kinds in preferences.change().values()
        for shares in kinds.values()
        for move in shares.values()
    ]
    if moves and max(moves) < 0.05:
        sentences.append(
            f"No weight has moved by more than {max(moves):.2f} from its start: train longer "
            "before reading anything into this."
        )
    return sentences


def thirds(layers):
    """Means over the first, the middle and the last third of layers.

    Args:
        layers: sequence of what `layer.importance()` gives, by depth; at least 3.

    Returns:
        A list of three `{kind: {statistic: share}}`.
    """
    cuts = [round(i * len(layers) / 3) for i in range(4)]
    return [average(layers[cuts[i] : cuts[i + 1]]) for i in range(3)]


def batch_size_claim(comparison):
    """Says of claim (d), on the batch size, what runs at several batch sizes show: a sentence.

    Args:
        comparison: `Comparison`; `batch_size` is the samples per replica.

    Returns:
        str.
    """
    text = "(d) A smaller batch moves the preference from BN to LN and IN"
    means = comparison.means()
    sizes = {}
    for label, runs in comparison.groups.items():
        size, net = runs[0].options.get("batch_size"), means[label].get("net", {})
        if size is not None and {"instance", "layer", "batch"} <= set(net.get("both", ())):
            sizes.setdefault(size, (label, net["both"]))
    if len(sizes) < 2:
        return f"{text}: needs runs with switches at several batch sizes; give them together."
    small, large = min(sizes), max(sizes)
    (small_label, to), (large_label, start) = sizes[small], sizes[large]
    drop = start["batch"][0] - to["batch"][0]
    shares = ", ".join(
        f"{LABELS[s]} {start[s][0]:.2f} to {to[s][0]:.2f}" for s in ("batch", "layer", "instance")
    )
    count = [len(comparison.groups[label]) for label in (large_label, small_label)]
    others = [option for option in comparison.differing if option != "batch_size"]
    caveat = f" The runs also differ in {', '.join(others)}." if others else ""
    return (
        f"{text}: {_verdict(drop)} (from {large} to {small} samples per replica: {shares}; "
        f"{count[0]} and {count[1]} runs).{caveat}"
    )


def _verdict(advantage):
    if math.isnan(advantage):
        return "cannot be judged, the weights are not finite"
    if abs(advantage) < MARGIN:
        return "no clear difference here"
    return "so it is here" if advantage > 0 else "not so here"


def lead(share, *others):
    """By how much a share leads the largest other one; negative only if it is no tie with it."""
    return share - max(others)


def _pool(runs):
    """Mean and spread of `{part: {kind: {statistic: share}}}` over runs, "net" first."""
    pooled = {}
    for part in sorted(_union(*runs), key=lambda name: name != "net"):
        for kind in KINDS:
            have = [run[part][kind] for run in runs if kind in run.get(part, ())]
            for s in (s for s in LABELS if any(s in shares for shares in have)):
                values = [shares.get(s, 0.0) for shares in have]
                spread = statistics.stdev(values) if len(values) > 1 else None
                entry = (statistics.fmean(values), spread)
                pooled.setdefault(part, {}).setdefault(kind, {})[s] = entry
    return pooled


def _union(*mappings):
    """The keys of all, in the order met."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)
