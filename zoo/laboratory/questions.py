"""The four questions that everyone asks of norms, and functions that compose the answers.

Each function takes `{study: Result}`, in which a study that was not run has no rows, and returns
paragraphs of Markdown.
"""

import collections
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from keras_norms.analysis import LABELS
from keras_norms.output import markdown_table
from keras_norms.prose import answers, escaped, listed
from zoo.laboratory.archive import Result
from zoo.laboratory.judge import FAILS, HOLDS, UNDECIDED
from zoo.laboratory.study import Rows, gap

Results = Mapping[str, Result]

# The studies of what switches choose.
CHOICES = ("blocks", "preferences")
# What measures and factors are called in sentences.
WORDS = {
    "error": "test error",
    "accuracy": "test accuracy",
    "cross_entropy": "test loss",
    "recalibrated_error": "test error with recalibrated statistics",
    "both_net_batch": "share of batch statistics in switches",
}
UNITS = {"batch": "samples in a batch", "replicas": "replicas"}
CHANGES = {
    HOLDS: "rises with",
    FAILS: "falls with",
    UNDECIDED: "shows no clear change with",
}
# A study, the factors that tell its tasks apart, the measure, which one is best, and its format.
TASKS: tuple[tuple[str, tuple[str, ...], str, Callable[..., Any], str], ...] = (
    ("sequence", ("data", "model"), "cross_entropy", min, "{:.3f}"),
    ("style", ("style is",), "accuracy", max, "{:.1%}"),
    ("batch_size", ("batch",), "error", min, "{:.1%}"),
    ("weight_norm", (), "error", min, "{:.1%}"),
)


def distributed(known: Results) -> list[str]:
    """What more replicas do to the error, to the time of a step, and to the weights."""
    said = change(known["distributed"], "error", "replicas", (min, max), "norm")
    rows = known["distributed"].rows.where(replicas=max)
    many = f"On {rows[0]['replicas']} replicas" if rows else ""
    bn = rows.mean("seconds_per_step", norm="bn")
    seconds = {norm: rows.mean("seconds_per_step", norm=norm) for norm in rows.values("norm")}
    times = [f"{time / bn:.2f} with {norm}" for norm, time in seconds.items() if bn and time]
    if times:
        said.append(f"{many}, the time of a step, relative to that with bn, is {listed(times)}.")
    for uneven, batches in ((False, "equal"), (True, "unequal")):
        own = rows.where(uneven=uneven)
        means = {norm: own.mean("weights_difference", norm=norm) for norm in own.values("norm")}
        apart = [f"{mean:.0e} with {norm}" for norm, mean in means.items() if mean is not None]
        if apart:
            said.append(
                f"{many} with {batches} batches, weights differ after a few steps from those on "
                f"one device by {listed(apart)}."
            )
    return answers(said)


def task(known: Results) -> list[str]:
    """The best norm of each task, how soon it pays in an LSTM, and what switches chose."""
    best = [
        (known[study].link, *cells)
        for study, factors, measure, better, form in TASKS
        for cells in best_norms(known[study], factors, measure, better, form)
    ]
    said, tables = [], []
    if best:
        wins = collections.Counter(norm for _, _, norm, *_ in best).most_common()
        (first, most), *others = wins
        counts = listed(
            [f"{first} has the best mean in {most}", *(f"{n} in {k}" for n, k in others)]
        )
        alone = sum(others == "-" for *_, others in best)
        said.append(
            f"Of {len(best)} tasks, {counts}; in {alone} of them that norm is clearly better than "
            "every other."
        )
        header = ["study", "task", "best mean", "which is", "not clearly worse"]
        lines = [[link, *map(escaped, cells)] for link, *cells in best]
        tables.append(f"**The best norm by task**\n\n{markdown_table(header, lines)}")
    said += speed(known["sequence"])
    for rows in (known[study].rows for study in CHOICES):
        for model in rows.values("model"):
            said += choice(rows.where(model=model).where(batch=max), model)
    return answers(said) + tables


def choice(rows: Rows, model: str) -> list[str]:
    """A sentence in a list: the mean shares of the statistics in nets of one kind."""
    shares = {kind: rows.mean(f"both_net_{kind}") for kind in LABELS}
    named = [f"{LABELS[kind]} {mean:.2f}" for kind, mean in shares.items() if mean is not None]
    if not named:
        return []
    return [
        f"With {rows[0]['batch']} samples, the switches of {model} choose {listed(named)}. "
        "Shares do not say which norm is best by itself."
    ]


def batch_size(known: Results) -> list[str]:
    """What small batches do to the error, and to what switches choose."""
    ends = "batch", (max, min)
    said = [
        *change(known["batch_size"], "error", *ends, "norm"),
        *change(known["batch_size"], "recalibrated_error", *ends, "norm"),
    ]
    for study in CHOICES:
        said += change(known[study], "both_net_batch", *ends, "model")
    return answers(said)


def trade_off(known: Results) -> list[str]:
    """The norms that no other norm beats in both time and error, by model."""
    said, rows = [], known["cost"].rows
    for model in rows.values("model"):
        means = {
            norm: [rows.mean(m, model=model, norm=norm) for m in ("training_ratio", "error")]
            for norm in rows.where(model=model).values("norm")
        }
        plane = {
            norm: (time, error)
            for norm, (time, error) in means.items()
            if time is not None and error is not None
        }
        front = [
            f"{norm} ({time:.2f} x, {error:.1%})"
            for norm, (time, error) in sorted(plane.items(), key=lambda item: item[1])
            if not any(
                t <= time and e <= error for t, e in plane.values() if (t, e) != (time, error)
            )
        ]
        times = {norm: time for norm, (time, _) in means.items() if time is not None}
        if front:
            said.append(
                f"In {model}, nothing beats these in both the time of a training step, relative "
                f"to no norm, and the test error (means over seeds): {listed(front)}."
            )
        elif times:
            ranked = sorted(times.items(), key=lambda item: item[1])
            named = listed(f"{norm} {time:.2f} x" for norm, time in ranked)
            said.append(f"In {model}, a training step takes, relative to no norm: {named}.")
    return answers(said)


# The questions of the longest article, the studies about them, and what composes the answer.
QUESTIONS: tuple[tuple[str, tuple[str, ...], Callable[[Results], list[str]]], ...] = (
    (
        "How do normalization layers behave in distributed training?",
        ("distributed",),
        distributed,
    ),
    (
        "Which one should you use for your task?",
        ("sequence", "style", *CHOICES, "weight_norm"),
        task,
    ),
    (
        "What happens when you change the batch size?",
        ("batch_size", *CHOICES),
        batch_size,
    ),
    (
        "Which is the best trade-off of computation and accuracy for your network?",
        ("cost",),
        trade_off,
    ),
)


def best_norms(
    result: Result,
    factors: tuple[str, ...],
    measure: str,
    better: Callable[..., Any],
    form: str,
) -> list[tuple[str, str, str, str]]:
    """The norm of the best mean in each task of a study, and those that cannot be told from it.

    A norm takes part if every seed has given its measure.

    Returns:
        Tuples of the task, the best norm, its mean, and the other norms.
    """
    found = []
    for values in dict.fromkeys(tuple(row.get(f) for f in factors) for row in result.rows):
        where = dict(zip(factors, values, strict=True))
        rows = result.rows.where(**where)
        means = {
            norm: rows.mean(measure, norm=norm)
            for norm in rows.values("norm")
            if _count(rows.where(norm=norm), measure) == len(result.facts["seeds"])
        }
        if len(means) < 2:
            continue
        best = better(means, key=means.get)
        alike = []
        for norm in rows.values("norm"):
            more, less = (best, norm) if better is max else (norm, best)
            lead = gap(measure, {"norm": more}, {"norm": less}, **where)
            if norm not in means:
                alike.append(f"{norm} (without some of its runs)")
            elif norm != best and result.judge(lead)["verdict"] != HOLDS:
                alike.append(norm)
        name = ", ".join(f"{factor} {value}" for factor, value in where.items()) or "-"
        value = f"{WORDS[measure]} {form.format(means[best])}"
        found.append((name, best, value, ", ".join(alike) or "-"))
    return found


def _count(rows: Rows, measure: str) -> int:
    return sum(row.get(measure) is not None for row in rows)


def speed(result: Result) -> list[str]:
    """A sentence in a list: how soon LN takes an LSTM to the best loss of one without a norm."""
    shares = []
    for data in result.rows.values("data"):
        ratios = []
        for seed in result.facts["seeds"]:
            rows = result.rows.where(data=data, model="LSTM", seed=seed)
            plain, ln = (rows.curve("val_loss", norm=norm) for norm in ("no norm", "ln"))
            if plain and ln and min(ln) <= min(plain):
                epochs = next(epoch for epoch, loss in enumerate(ln, 1) if loss <= min(plain))
                ratios.append(epochs / (1 + plain.index(min(plain))))
        if ratios and len(ratios) == len(result.facts["seeds"]):
            shares.append(f"{statistics.median(ratios):.0%} of the epochs on {data}")
    if not shares:
        return []
    return [
        "To reach the lowest test loss of an LSTM without a norm, one with ln needs "
        f"{listed(shares)} (medians over seeds)."
    ]


def change(
    result: Result,
    measure: str,
    factor: str,
    ends: tuple[Callable[..., Any], Callable[..., Any]],
    by: str,
    **where: Any,
) -> list[str]:
    """A sentence in a list: how a share changes between two values of a factor.

    Args:
        result: of the study.
        measure: the share.
        factor: what has the two values, a key of `UNITS`.
        ends: `(min, max)` or `(max, min)`: which value is the first, and which the last.
        by: the factor that the sentence tells apart, for instance "norm".
        **where: factors that are fixed.

    Returns:
        One sentence, or none if there are no such runs.
    """
    rows = result.rows.where(**where)
    values = rows.values(factor)
    start, end = (limit(values, default=None) for limit in ends)
    found = {}
    for name in rows.values(by) if start != end else ():
        own = rows.where(**{by: name})
        if {start, end} <= set(own.values(factor)) and own.mean(measure) is not None:
            effect = gap(measure, {factor: end}, {factor: start}, **where, **{by: name})
            found[name] = result.judge(effect)
    groups = collections.defaultdict(list)
    for name, judged in sorted(found.items(), key=lambda item: -(item[1]["mean"] or 0)):
        if judged["mean"] is None:
            groups["is not known with"].append(name)
        else:
            groups[CHANGES[judged["verdict"]]].append(f"{name} ({100 * judged['mean']:+.1f})")
    if not groups:
        return []
    parts = "; ".join(f"{phrase} {listed(names)}" for phrase, names in groups.items())
    return [f"From {start} to {end} {UNITS[factor]}, the {WORDS[measure]} (in points) {parts}."]
