"""The report of a comparison, as Markdown that is composed from its facts."""

import re
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from keras_norms.intervals import FEWEST
from keras_norms.prose import escaped, table
from keras_norms.selection import words
from keras_norms.selection.judging import (
    AMONG,
    BEST,
    FAILED,
    FEW,
    NOT_LEARNT,
    NOTHING,
    OPEN,
    WORSE,
    Facts,
    Place,
    rank,
    reference_has_learnt,
    runs_of,
)

TITLE = "Which norm for this model?"
SYMBOLS = {
    BEST: "✔",
    AMONG: "✔",
    OPEN: "?",
    WORSE: "✘",
    FEW: "?",
    NOT_LEARNT: "–",
    FAILED: "–",
    NOTHING: "–",
}
_CLASSES = {
    "✔": "short holds",
    "?": "short undecided",
    "✘": "short does-not",
    "–": "short not-tested",
}


def mark(verdict: str) -> str:
    """A verdict, as symbol and words."""
    return f"{SYMBOLS[verdict]} {verdict}"


# The colour of each verdict on a page.
MARKS = {mark(verdict): _CLASSES[symbol] for verdict, symbol in SYMBOLS.items()}
RANKING = (
    "norm",
    "verdict",
    "metric",
    "90 % interval",
    "behind",
    "recalibrated",
    "seeds",
)


def ranking_rows(facts: Facts, size: int) -> list[list[str]]:
    """The cells of the ranking at a batch size, with the columns of `RANKING`."""
    return [
        [
            place.norm,
            mark(place.verdict),
            words.form(facts, place.estimate.mean) if place.estimate else "–",
            words.interval(facts, place.estimate) if place.estimate else "–",
            _behind(facts, place),
            "–" if place.recalibrated is None else words.form(facts, place.recalibrated),
            str(len(place.values)),
        ]
        for place in rank(facts, size).places
    ]


COSTS = ("norm", "step", "share", "quartiles", "inference", "folded", "memory", "weights")


def cost_rows(facts: Facts) -> list[list[str]]:
    """The cells of the costs, with the columns of `COSTS`."""
    return [
        [
            norm,
            _time(costs["step"]),
            f"{costs['step']['ratio']:.2f}",
            f"{costs['step']['low']:.2f} to {costs['step']['high']:.2f}",
            _time(costs["inference"]),
            _time(costs["folded"]),
            "–" if costs["memory"] is None else f"{costs['memory']:.3g} MiB",
            f"{costs['parameters']:,}",
        ]
        for norm, costs in facts["costs"].items()
    ]


def titled(facts: Facts, size: int) -> str:
    """The title of a ranking."""
    return f"{facts['monitor']} with {words.batches(facts, size)}"


def document(facts: Facts, figures: Mapping[str, str]) -> str:
    """The report.

    Args:
        facts: of a comparison.
        figures: `{name of a file: caption}`.
    """
    why, code = words.advice(facts)
    blocks = [
        f"# {TITLE}",
        f"{escaped(facts['model'])}, {facts['samples'][0]:,} training and {facts['samples'][1]:,} "
        f"validation samples. {len(facts['norms'])} norms, {_seeds(facts)} seeds, "
        f"{facts['steps']:,} steps with batches of {facts['batch_sizes'][0]}.",
        *_warnings(facts),
        "## The ranking",
    ]
    for size in facts["batch_sizes"]:
        blocks += [f"**{escaped(titled(facts, size))}**", table(RANKING, ranking_rows(facts, size))]
    blocks += [_RULE, *_figure(figures, "curves.png")]
    for question, answer in words.answers(facts).items():
        blocks += [f"## {question}", _coded(answer)]
        if question == words.TRADE:
            blocks += [
                table(COSTS, cost_rows(facts)),
                f"Times are medians for a batch of {facts['batch_sizes'][0]}. Share: the step in "
                f"steps with {facts['norms'][0]}, measured in turn. Folded: inference after "
                "`keras_norms.fold`. Memory: what a step adds at its peak, at least.",
                *_figure(figures, "trade.png"),
            ]
        if question == words.REPLICAS and facts["replicas"]:
            lines = [[n, "–" if v is None else f"{v:.1e}"] for n, v in facts["replicas"].items()]
            blocks += [table(("norm", "relative difference of outputs"), lines)]
    if facts["switches"]:
        blocks += ["## What the model itself prefers", escaped(words.switches(facts))]
        blocks += _figure(figures, "switches.png")
    blocks += ["## What to do next", escaped(why)]
    if code:
        blocks.append("\n".join(f"    {line}" for line in code.splitlines()))
    blocks += ["## How it was made", table(("", ""), _origin(facts))]
    return "\n\n".join(blocks) + "\n"


_RULE = (
    "Intervals are those of the mean over seeds. Each norm is compared with the first by their "
    "differences on the same seeds: same data order, same initial weights. Worse: by more than "
    "chance, at 10 %, corrected for the number of norms. Recalibrated: moving statistics computed "
    "again."
)


def _coded(answer: str) -> str:
    """An answer, in which code stays code."""
    parts = re.split("( *`[^`]*` *)", answer)
    return "".join(part if "`" in part else escaped(part) for part in parts)


def _behind(facts: Facts, place: Place) -> str:
    if place.behind is None:
        return "–"
    return words.gap(facts, place.behind.mean)


def _time(cost: Mapping[str, float] | None) -> str:
    if cost is None:
        return "–"
    return f"{cost['ms']:.3g} ms"


def _figure(figures: Mapping[str, str], name: str) -> list[str]:
    return [f"![{figures[name]}]({name})\n*{figures[name]}*"] if name in figures else []


def _seeds(facts: Facts) -> int:
    return len({run["seed"] for run in facts["runs"]})


def _warnings(facts: Facts) -> Iterable[str]:
    if not facts["runs"]:
        yield "⚠ No run is complete: there was not enough time."
    elif not reference_has_learnt(facts):
        yield f"⚠ {words.nothing(facts)}"
    if facts["runs"] and _seeds(facts) < FEWEST:
        yield f"⚠ Fewer than {FEWEST} seeds: the table is a quick look, and no norm is judged."
    if facts["missing"]:
        yield f"⚠ {facts['missing']} of the runs that were asked for did not fit into the time."
    for run in facts["runs"]:
        if run["failed"]:
            where = f"{run['norm']}, batches of {run['batch_size']}, seed {run['seed']}"
            yield f"⚠ {escaped(where)}: {escaped(run['failed'])}."


def _origin(facts: Facts) -> list[list[Any]]:
    lines = [
        ["options", ", ".join(f"{k}={v}" for k, v in facts["options"].items()) or "defaults"],
        ["date", facts["date"]],
        ["time", f"{facts['seconds'] / 60:.1f} minutes"],
        ["machine", facts["machine"]],
        ["versions", ", ".join(f"{k} {v}" for k, v in facts["versions"].items())],
    ]
    if facts.get("command"):
        lines.insert(0, ["command", facts["command"]])
    if facts["baseline"]:
        value = words.form(facts, facts["baseline"]["value"])
        lines.append(["learnt", f"better than {facts['baseline']['what']}: {value}"])
    return lines


def curve_rows(facts: Facts) -> list[dict[str, Any]]:
    """A row for each point of each curve: what the CSV file holds."""
    names = sorted({name for run in facts["runs"] for point in run["curve"] for name in point})
    return [
        {key: run[key] for key in ("norm", "batch_size", "seed")}
        | {name: point.get(name) for name in names}
        for run in facts["runs"]
        for point in run["curve"]
    ]


def means_by_step(facts: Facts, norm: str, size: int) -> dict[int, dict[str, float]]:
    """`{step: {metric: mean over seeds}}` of a norm at a batch size."""
    found: dict[int, dict[str, list[float]]] = {}
    for run in runs_of(facts, norm, size):
        for point in run["curve"]:  # empty if the run failed
            for name, value in point.items():
                if name != "step" and value is not None:
                    found.setdefault(point["step"], {}).setdefault(name, []).append(value)
    return {
        step: {name: statistics.fmean(values) for name, values in metrics.items()}
        for step, metrics in found.items()
    }
