"""What everyone asks of norms, and functions that compose the answers from results.

Each takes `{study: Result}`, where a study that was not run has no rows.
"""

import collections

from keras_norms.analysis import LABELS
from keras_norms.output import markdown_table
from zoo.laboratory.judge import FAILS, HOLDS, UNDECIDED
from zoo.laboratory.prose import answers, escaped, listed
from zoo.laboratory.study import gap

WORDS = {"error": "test error", "accuracy": "test accuracy", "cross_entropy": "test loss"}
WORDS |= {"recalibrated_error": "test error with recalibrated statistics"}
WORDS |= {"both_net_batch": "the share of batch statistics in switches"}
UNITS = {"batch": "samples in a batch", "replicas": "replicas"}
CHANGES = {
    HOLDS: "rises with",
    FAILS: "falls with",
    UNDECIDED: "cannot be told from unchanged with",
}


def distributed(known):
    """What more replicas do to the error, to the time of a step, and to the weights."""
    said = change(known["distributed"], "error", "replicas", (min, max), "norm")
    rows = known["distributed"].rows.where(replicas=max)
    many = f"On {rows[0]['replicas']} replicas" if rows else ""
    bn = rows.mean("seconds_per_step", norm="bn")
    seconds = {norm: rows.mean("seconds_per_step", norm=norm) for norm in rows.values("norm")}
    times = [f"{time / bn:.2f} with {norm}" for norm, time in seconds.items() if bn and time]
    if times:
        said.append(f"{many}, a step takes, in times of that with bn, {listed(times)}.")
    for uneven, batches in ((False, "equal"), (True, "unequal")):
        own = rows.where(uneven=uneven)
        means = {norm: own.mean("weights_difference", norm=norm) for norm in own.values("norm")}
        apart = [f"{mean:.0e} with {norm}" for norm, mean in means.items() if mean is not None]
        if apart:
            said.append(
                f"{many} with {batches} batches, weights differ from those of one device after a "
                f"few steps by {listed(apart)}."
            )
    return answers(said)


# Studies, the factors that tell their tasks apart, and what is best in them.
TASKS = (
    ("sequence", ("data", "model"), "cross_entropy", min, "{:.3f}"),
    ("style", ("style is",), "accuracy", max, "{:.1%}"),
    ("batch_size", ("batch",), "error", min, "{:.1%}"),
    ("weight_norm", (), "error", min, "{:.1%}"),
)


def task(known):
    """The best norm of each task, and what switches chose."""
    lines, wins = [], collections.Counter()
    for study, factors, measure, better, form in TASKS:
        for values in dict.fromkeys(tuple(r.get(f) for f in factors) for r in known[study].rows):
            where = dict(zip(factors, values, strict=True))
            rows = known[study].rows.where(**where)
            seeds = len(known[study].facts["seeds"])
            means = {
                norm: rows.mean(measure, norm=norm)
                for norm in rows.values("norm")
                if sum(row.get(measure) is not None for row in rows.where(norm=norm)) == seeds
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
                elif norm != best and known[study].judge(lead)["verdict"] != HOLDS:
                    alike.append(norm)
            wins[best] += 1
            name = ", ".join(f"{factor} {value}" for factor, value in where.items()) or "-"
            value = f"{WORDS[measure]} {form.format(means[best])}"
            cells = (name, best, value, ", ".join(alike) or "-")
            lines.append([known[study].link, *map(escaped, cells)])
    said, tables = [], []
    if lines:
        counts = listed(f"{norm} in {count}" for norm, count in wins.most_common())
        alone = sum(line[-1] == "-" for line in lines)
        said.append(
            f"Of {len(lines)} tasks, the best mean is that of {counts}; in {alone} of them it is "
            "told apart from that of every other norm."
        )
        header = ["study", "task", "best mean", "which is", "not told apart from it"]
        tables.append(f"**The best norm by task**\n\n{markdown_table(header, lines)}")
    rows = known["preferences"].rows.where(decay=True)
    for model in rows.values("model"):
        own = rows.where(model=model).where(batch=max)
        shares = {kind: own.mean(f"both_net_{kind}") for kind in LABELS}
        named = [f"{LABELS[kind]} {mean:.2f}" for kind, mean in shares.items() if mean is not None]
        if named:
            chosen = f"Left to choose at {own[0]['batch']} samples, switches in {model} weigh"
            said.append(f"{chosen} {listed(named)}.")
    return answers(said) + tables


def batch_size(known):
    """What small batches do to the error, and to what switches choose."""
    ends = "batch", (max, min)
    said = [
        *change(known["batch_size"], "error", *ends, "norm"),
        *change(known["batch_size"], "recalibrated_error", *ends, "norm"),
        *change(known["preferences"], "both_net_batch", *ends, "model", decay=True),
    ]
    return answers(said)


def trade_off(known):
    """The norms that no other beats in both time and error, by model."""
    said, rows = [], known["cost"].rows
    for model in rows.values("model"):
        means = {
            norm: [rows.mean(m, model=model, norm=norm) for m in ("training_ratio", "error")]
            for norm in rows.where(model=model).values("norm")
        }
        plane = {norm: pair for norm, pair in means.items() if None not in pair}
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
                f"Unbeaten in {model}, by their means of both the time of a training step (over "
                f"that without a norm) and the test error: {listed(front)}."
            )
        elif times:
            named = listed(f"{norm} {times[norm]:.2f} x" for norm in sorted(times, key=times.get))
            said.append(f"In {model}, a training step takes, over that without a norm: {named}.")
    return answers(said)


# Of the longest article: the question, its studies, and what composes the answer.
QUESTIONS = (
    (
        "How do normalization layers behave in distributed training?",
        ("distributed",),
        distributed,
    ),
    (
        "Which one should you use for your task?",
        ("sequence", "style", "preferences", "weight_norm"),
        task,
    ),
    (
        "What happens when you change the batch size?",
        ("batch_size", "preferences"),
        batch_size,
    ),
    (
        "Which is the best trade-off of computation and accuracy for your network?",
        ("cost",),
        trade_off,
    ),
)


def change(result, measure, factor, ends, by, **where):
    """A sentence: what a share does as a factor goes from one end to the other; a list with it."""
    rows = result.rows.where(**where)
    values = rows.values(factor)
    start, end = (limit(values, default=None) for limit in ends)
    effects = {}
    for name in rows.values(by) if start != end else ():
        own = rows.where(**{by: name})
        if {start, end} <= set(own.values(factor)) and own.mean(measure) is not None:
            effect = gap(measure, {factor: end}, {factor: start}, **where, **{by: name})
            effects[name] = result.judge(effect)
    said = collections.defaultdict(list)
    order = sorted(effects.items(), key=lambda item: -(item[1]["mean"] or 0))
    for name, effect in order:
        if effect["mean"] is None:
            said["is not known with"].append(name)
        else:
            said[CHANGES[effect["verdict"]]].append(f"{name} ({100 * effect['mean']:+.1f})")
    parts = [f"{phrase} {listed(names)}" for phrase, names in said.items()]
    moved = f"From {start} to {end} {UNITS[factor]}, {WORDS[measure]}, in points, "
    return [f"{moved}{'; '.join(parts)}."] if parts else []
