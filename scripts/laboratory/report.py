"""The report of studies: what their results say, composed once and written in two formats.

A report is a list of blocks, `Heading` to `Figure`, of texts: strings, `Link`, `Mark`, `Code`, or
tuples of them. Answers are composed from the results alone.
"""

import base64
import collections
import dataclasses
import functools
import html
import json
import shutil
from pathlib import Path

from keras_norms.analysis import LABELS
from laboratory import results
from laboratory.judge import CONFIDENCE, FAILS, HOLDS, UNDECIDED, judge
from laboratory.study import Claim, Rows, gap, studies

TITLE = "Which normalization layer?"
SYMBOLS = {HOLDS: "✔", FAILS: "✘", UNDECIDED: "?"}
SCALES = ("smoke", "cpu", "full")
# Lists in the rows, which are left out where result.json gets too large to be committed.
BULKY, LIMIT = ("dynamics", "noise", "curves", "importance"), 200_000

@dataclasses.dataclass(frozen=True)
class Result:
    """What a study has left: the facts of `result.json`, and the folder with its figures."""

    folder: Path
    facts: dict

    @property
    def rows(self):
        """Those of the seeds that are judged."""
        return Rows(row for row in self.facts["rows"] if row["seed"] in self.facts["seeds"])

    @property
    def name(self):
        return f"{self.facts['study']} ({self.facts['scale']})"

    @property
    def link(self):
        return f"[{escaped(self.name)}](#{self.facts['study']}-{self.facts['scale']})"

    @property
    def tables(self):
        return [
            f"**{escaped(t['title'])}**\n\n"
            + table(t["header"], [[name, *cells] for name, cells in t["cells"].items()])
            for t in self.facts["tables"]
            if t["cells"]
        ]

    @property
    def figures(self):
        return [
            f"![{escaped(caption)}]({self.folder / name}.png)\n*{escaped(caption)}*"
            for name, caption in self.facts["figures"].items()
        ]

    def judge(self, effect):
        """Whether an effect is more than zero."""
        return judge(Claim("", "", "", effect, ""), self.rows, self.facts["seeds"])


def read(paths):
    """The results in files and folders, or one folder below.

    Raises:
        ValueError: if there is none, or one cannot be read.
    """
    found = []
    for path in map(Path, paths):
        path = path / "result.json" if (path / "result.json").exists() else path
        files = [path] if path.is_file() else sorted(path.glob("*/result.json"))
        if not files:
            raise ValueError(f"{path} holds no result.json, as `scripts/study.py` writes it")
        found += map(_read, files)
    return found


def _read(path):
    try:
        result = Result(path.parent, json.loads(path.read_text()))
        _study(result)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is no result of scripts/study.py ({reason})") from error
    return result


def collect(found, folder):
    """Copies results with their figures to `folder/STUDY`, small enough to be committed."""
    names = [result.facts["study"] for result in found]
    if len(set(names)) < len(names):
        raise ValueError(f"Two results of one study, name one of them: {', '.join(names)}")
    for name, result in zip(names, found, strict=True):
        facts, figures = dict(result.facts), {f"{name}.png" for name in result.facts["figures"]}
        for bulk in BULKY:
            if len(json.dumps(facts, indent=1)) > LIMIT:
                rows = [{k: v for k, v in row.items() if k != bulk} for row in facts["rows"]]
                facts |= {"rows": rows, "left_out": [*facts.get("left_out", ()), bulk]}
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            shutil.copyfile(result.folder / figure, target / figure)
        for old in set(target.glob("*.png")) - {target / figure for figure in figures}:
            old.unlink()
        (target / "result.json").write_text(json.dumps(facts, indent=1) + "\n")


# The questions: functions that compose their answers from `{study: Result}`, where a study that
# was not run has no rows.

WORDS = {"error": "test error", "accuracy": "test accuracy", "cross_entropy": "test loss"}
WORDS |= {"recalibrated_error": "test error with recalibrated statistics"}
WORDS |= {"both_net_batch": "the share of batch statistics in switches"}
UNITS = {"batch": "samples in a batch", "replicas": "replicas"}
CHANGES = {HOLDS: "higher by", FAILS: "lower by", UNDECIDED: "not told apart from unchanged:"}


def distributed(known):
    """What more replicas do to the error and to the time of a step."""
    rows = known["distributed"].rows
    times = [
        f"{norm} {end / start:.2f}"
        for norm in rows.values("norm")
        if (start := rows.mean("seconds_per_step", norm=norm, replicas=min))
        and (end := rows.mean("seconds_per_step", norm=norm, replicas=max))
    ]
    said = change(known["distributed"], "error", "replicas", (min, max), "norm")
    if times:
        said.append(f"A step on the most replicas, in times of one on the fewest: {listed(times)}.")
    return [Text(line, "answer") for line in said]


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
            means = {norm: rows.mean(measure, norm=norm) for norm in rows.values("norm")}
            means = {norm: mean for norm, mean in means.items() if mean is not None}
            if len(means) < 2:
                continue
            best = better(means, key=means.get)
            alike = []
            for norm in means:
                more, less = (best, norm) if better is max else (norm, best)
                lead = gap(measure, {"norm": more}, {"norm": less}, **where)
                if norm != best and known[study].judge(lead)["verdict"] != HOLDS:
                    alike.append(norm)
            wins[best] += 1
            name = ", ".join(f"{factor} {value}" for factor, value in where.items()) or "-"
            value = f"{WORDS[measure]} {form.format(means[best])}"
            lines.append([known[study].link, name, best, value, ", ".join(alike) or "-"])
    blocks = []
    if lines:
        counts = listed(f"{norm} in {count}" for norm, count in wins.most_common())
        alone = sum(line[-1] == "-" for line in lines)
        said = f"Of {len(lines)} tasks, the best mean has {counts}; in {alone} of them it is told "
        header = ["study", "task", "best mean", "which is", "not told apart from it"]
        blocks = [
            Text(f"{said}apart from that of every other norm.", "answer"),
            Table("The best norm by task", header, lines, "words"),
        ]
    rows = known["preferences"].rows.where(decay=True)
    for model in rows.values("model"):
        own = rows.where(model=model, batch=max)
        shares = {kind: own.mean(f"both_net_{kind}", model=model) for kind in LABELS}
        named = [f"{LABELS[kind]} {mean:.2f}" for kind, mean in shares.items() if mean is not None]
        said = f"Left to choose, the switches of {model} weigh {listed(named)}."
        blocks += [Text(said, "answer")] * bool(named)
    return blocks


def batch_size(known):
    """What small batches do to the error, and to what switches choose."""
    ends = "batch", (max, min)
    said = [
        *change(known["batch_size"], "error", *ends, "norm"),
        *change(known["batch_size"], "recalibrated_error", *ends, "norm"),
        *change(known["preferences"], "both_net_batch", *ends, "model", decay=True),
    ]
    return [Text(line, "answer") for line in said]


def trade_off(known):
    """The norms that no other beats in both time and error, by model."""
    blocks, rows, trained = [], known["cost"].rows, known["batch_size"]
    for model in rows.values("model"):
        own = rows.where(model=model)
        same = trained.facts["settings"].get("model") == model
        plane = {}
        for norm in own.values("norm"):
            time, error = own.mean("training_ratio", norm=norm), own.mean("error", norm=norm)
            if error is None and same:
                error = trained.rows.where(batch=max).mean("error", norm=norm)
            if time is not None:
                plane[norm] = time, error
        told = {n: f"{n} ({t:.2f} x, {e:.1%})" for n, (t, e) in plane.items() if e is not None}
        front = [
            norm
            for norm in sorted(told, key=plane.get)
            if not any(
                plane[other] != plane[norm]
                and all(a <= b for a, b in zip(plane[other], plane[norm], strict=True))
                for other in told
            )
        ]
        said = f"In {model}, by the means, none is both faster in training and more accurate than "
        said += f"{listed(told[norm] for norm in front)}." if front else ""
        if not told:
            named = [f"{n} {plane[n][0]:.2f}" for n in sorted(plane, key=plane.get)]
            said = f"The relative time of a training step in {model} is {listed(named)}."
        blocks += [Text(said, "answer")] * bool(plane)
    return blocks


# Of the longest article: the question, its studies, and what composes the answer.
QUESTIONS = (
    (
        "How do normalization layers behave in distributed training?",
        ("distributed",),
        distributed,
    ),
    (
        "Which one should you use for your task?",
        ("sequence", "style", "preferences", "weight_norm", "batch_size"),
        task,
    ),
    (
        "What happens when you change the batch size?",
        ("batch_size", "preferences"),
        batch_size,
    ),
    (
        "Which is the best trade-off of computation and accuracy for your network?",
        ("cost", "batch_size"),
        trade_off,
    ),
)


def change(result, measure, factor, ends, by, **where):
    """A sentence: what a share does as a factor goes from one end to the other; a list with it."""
    rows = result.rows.where(**where)
    values = rows.values(factor)
    start, end = (limit(values, default=None) for limit in ends)
    said = {verdict: [] for verdict in CHANGES}
    for name in rows.values(by) if start != end else ():
        effect = gap(measure, {factor: end}, {factor: start}, **where, **{by: name})
        found = result.judge(effect)
        if found["mean"] is not None:
            said[found["verdict"]].append((found["mean"], name))
    parts = [
        f"{CHANGES[verdict]} {listed(f'{name} {100 * m:+.1f}' for m, name in sorted(names))}"
        for verdict, names in said.items()
        if names
    ]
    start = f"At {end} {UNITS[factor]} instead of {start}, {WORDS[measure]}, in points, is "
    return [f"{start}{'; '.join(parts)}."] if parts else []


def listed(words):
    """Words, with "and" before the last."""
    *words, last = words
    return f"{', '.join(words)} and {last}" if words else last


