"""The report of studies, as Markdown that is composed from their results."""

import collections
import datetime
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from keras_norms.intervals import ERROR
from keras_norms.output import markdown_table
from keras_norms.prose import answers, escaped, listed
from zoo.laboratory.archive import NOTHING, Result
from zoo.laboratory.judge import FAILS, HOLDS, NOT_TESTED, UNDECIDED
from zoo.laboratory.questions import CHOICES, QUESTIONS
from zoo.laboratory.results import RULE, Facts, conditions, effect_text
from zoo.laboratory.studies import studies
from zoo.laboratory.study import SCALES

TITLE, RUN = "Which normalization layer?", "python scripts/study.py"
SYMBOLS = {HOLDS: "✔", FAILS: "✘", UNDECIDED: "?", NOT_TESTED: "–"}


def mark(verdict: str) -> str:
    """A verdict, as symbol and words."""
    return f"{SYMBOLS[verdict]} {verdict}"


# The colour of each verdict on a page.
MARKS = {mark(verdict): verdict.replace(" ", "-") for verdict in SYMBOLS}


def document(found: Sequence[Result], folder: Path) -> str:
    """The report of results, as Markdown for a file in a folder."""
    found = sorted(found, key=lambda r: (r.facts["study"], list(SCALES).index(r.facts["scale"])))
    # Of several scales that count, the largest comes last.
    known = {result.facts["study"]: result for result in found if result.counts}
    missing = _missing(set(known))
    count: collections.Counter[str] = collections.Counter()
    for result in known.values():
        count.update(claim["verdict"] for claim in result.facts["claims"])
    claims = sum(len(_by_statement(result.facts)) for result in known.values())
    parts = [
        *_opening([known[name] for name in CHOICES if name in known], folder),
        *_answered_questions(known, missing, folder),
        *([("claims", "All claims", _verdicts(known.values()))] if claims else []),
        *((result.anchor, escaped(result.name), _study(result, folder)) for result in found),
        *([("missing", "No verdicts yet", list(missing.values()))] if missing else []),
    ]
    verdicts = ", ".join(f"{mark(verdict)}: {count[verdict]}" for verdict in SYMBOLS)
    blocks = [
        f"# {TITLE}",
        f"These are {claims} claims in {count.total()} cases, judged by {len(known)} of "
        f"{len(known) + len(missing)} studies. The others were not run at a scale that gives "
        f"verdicts. {verdicts}. "
        f"{RULE} ± is the standard deviation over seeds. Published effects are computed from the "
        "figures of papers, read to about 0.01. Samples are those that share statistics, and "
        '"both" is the mean of the weights for mean and variance. All sentences are composed from '
        "the results.",
        "\n".join(f"- [{title}](#{anchor})" for anchor, title, _ in parts),
    ]
    for anchor, title, content in parts:
        blocks += [f'## <a id="{anchor}"></a>{title}', *content]
    return "\n\n".join(blocks) + "\n"


def _opening(found: Sequence[Result], folder: Path) -> list[tuple[str, str, list[str]]]:
    """What switches choose: the figures, and a sentence for each claim."""
    return [
        (
            f"opening-{result.anchor}",
            escaped(result.facts["question"]),
            [_strength(result), *result.figures(folder), *answers(_in_sentences(result))],
        )
        for result in found
    ]


def _in_sentences(result: Result) -> list[str]:
    """What a study found of each of its claims, over all cases; a sentence each."""
    said = []
    for claims in _by_statement(result.facts):
        first, *more = claims
        case = f" in {first['case']}" * bool(first["case"])
        sentence = (
            f"({first['name']}) {first['statement']}: {_IN_SINGULAR[first['verdict']]}{case}, "
        )
        sentence += f"with an effect of {effect_text(first)}"
        if first["published"] is not None:
            sentence += f" (published: {first['form'].format(first['published'])})"
        if more:
            counts = collections.Counter(claim["verdict"] for claim in claims)
            sentence += f". Of its {len(claims)} cases, " + listed(
                f"{counts[v]} {_IN_SINGULAR[v] if counts[v] == 1 else _IN_PLURAL[v]}"
                for v in SYMBOLS
                if counts[v]
            )
        said.append(f"{sentence}.")
    return said


_IN_SINGULAR = {
    HOLDS: "holds",
    FAILS: "does not hold",
    UNDECIDED: "is undecided",
    NOT_TESTED: "is not tested",
}
_IN_PLURAL = {
    HOLDS: "hold",
    FAILS: "do not hold",
    UNDECIDED: "are undecided",
    NOT_TESTED: "are not tested",
}


def _by_statement(facts: Facts) -> list[list[Facts]]:
    """The claims of a study, in lists of those that differ in their case alone."""
    found: dict[tuple[str, str], list[Facts]] = {}
    for claim in facts["claims"]:
        found.setdefault((claim["name"], claim["statement"]), []).append(claim)
    return list(found.values())


def _strength(result: Result) -> str:
    """How much evidence there is: runs, seeds, and how well their nets do."""
    rows = [row["accuracy"] for row in result.rows if row.get("accuracy") is not None]
    seeds = len(result.facts["seeds"])
    nets = f"{len(rows)} nets at {min(rows):.0%} to {max(rows):.0%} accuracy, " if rows else ""
    return f"Evidence: {result.link}, {nets}{seeds} seeds."


def _missing(known: set[str]) -> dict[str, str]:
    """For each study that has no verdicts, a line that says so."""
    planned = {name: "" for _, names, _ in QUESTIONS for name in names}
    planned |= {name: study.question for name, study in studies().items()}
    return {
        name: f"⚠ {escaped(name)} has **no verdicts yet**. {escaped(question)} "
        f"`{RUN} {name} --scale evidence` tests it."
        for name, question in planned.items()
        if name not in known
    }


def _answered_questions(
    known: Mapping[str, Result], missing: Mapping[str, str], folder: Path
) -> list[tuple[str, str, list[str]]]:
    """The anchor, the title and the content of the part of each question."""
    nothing = {name: NOTHING for _, names, _ in QUESTIONS for name in names}
    parts = []
    for number, (question, names, compose) in enumerate(QUESTIONS, 1):
        content = compose(nothing | dict(known))
        content += [missing[name] for name in names if name in missing]
        content += _evidence([known[name] for name in names if name in known], folder)
        parts.append((f"question-{number}", question, content))
    return parts


def _evidence(found: Sequence[Result], folder: Path) -> list[str]:
    """What a question shows of its studies: the verdicts, the first figure and table of each."""
    shown = [
        part
        for result in found
        # The figures of the opening have been seen.
        for part in (
            *result.figures(folder)[: result.facts["study"] not in CHOICES],
            *result.tables[:1],
        )
    ]
    strength = [_strength(result) for result in found]
    warnings = [warning for result in found for warning in _warnings(result)]
    return [*strength, *warnings, *_verdicts(found), *shown]


def _verdicts(found: Iterable[Result]) -> list[str]:
    """A table of the claims of studies, in a list: how many cases of each have which verdict."""
    lines = []
    for result in found:
        for claims in _by_statement(result.facts):
            counts = collections.Counter(claim["verdict"] for claim in claims)
            cells = [str(counts[verdict] or "") for verdict in SYMBOLS]
            name = escaped(f"({claims[0]['name']}) {claims[0]['statement']}")
            lines.append([name, *cells, result.link])
    return [markdown_table(["claim", *map(mark, SYMBOLS), "cases in"], lines)] if lines else []


def _warnings(result: Result) -> list[str]:
    """Why a result deserves less trust, in one line; no line for most results."""
    facts, said = result.facts, []
    if not result.counts:
        said.append(f"{facts['scale']} scale is a quick look, which gives no verdicts")
    elif not facts["criteria"]:
        said.append("it is not known when its criteria were fixed")
    elif facts["began"] and _time(facts["criteria"]["date"]) > _time(facts["began"]):
        said.append("its criteria were last changed after the first run had begun")
    if not facts["seeds"]:
        said.append("all seeds are those on which criteria were chosen, so nothing is judged")
    if facts["failures"]:
        said.append(f"{len(facts['failures'])} runs failed")
    diverged = sum("diverged" in row for row in result.rows)
    if diverged:
        said.append(f"{diverged} runs diverged, and are in no mean and no figure")
    return [f"⚠ {result.link}: {escaped('; '.join(said))}."] if said else []


_time = datetime.datetime.fromisoformat


def _study(result: Result, folder: Path) -> list[str]:
    """A study in full."""
    facts = result.facts
    return [
        *answers([facts["question"]]),
        *([escaped(facts["about"])] if facts["about"] else []),
        *_warnings(result),
        *(f"⚠ failed: {escaped(f'{run}: {why}')}" for run, why in facts["failures"].items()),
        *(_claims(facts) if result.counts else []),
        *result.tables,
        *result.figures(folder),
        markdown_table(["how it was made", ""], _origin(result).items()),
    ]


def _claims(facts: Facts) -> list[str]:
    """A study's claims with all that was measured: a table of their cases, then what they mean."""
    lines, meanings = [], []
    for claims in _by_statement(facts):
        first = claims[0]
        name = escaped(f"({first['name']}) {first['statement']}")
        for claim in claims:
            form = claim["form"].format
            measured = escaped(effect_text(claim))
            numbers = {"by seed": claim["effects"].values()}
            if claim["interval"]:
                numbers = {f"{1 - ERROR:.0%} interval": claim["interval"]} | numbers
            if claim["calibration"]:
                numbers["on calibration seeds, not judged"] = claim["calibration"].values()
            for what, values in numbers.items():
                shown = ("-" if v is None else form(v) for v in values)
                measured += f"<br>{what}: {', '.join(shown)}"
            paper = "" if claim["published"] is None else form(claim["published"])
            p = "" if claim["corrected"] is None else f"{claim['corrected']:.2g}"
            shown_name = name if claim is first else ""
            cells = [shown_name, escaped(claim["case"]), measured, paper, p, mark(claim["verdict"])]
            lines.append(cells)
        meaning = (
            f"({first['name']}) {first['measured']}; holds above "
            f"{first['form'].format(first['threshold'])}."
        )
        parts = escaped(meaning), f"Source: {_linked(first['source'])}.", escaped(first["remark"])
        meanings.append(f"- {' '.join(filter(None, parts))}")
    if not lines:
        return ["No claims are judged."]
    header = ["claim", "case", "effect", "published", "p", "verdict"]
    return [
        markdown_table(header, lines),
        "What the effects are:\n\n" + "\n".join(meanings),
        *map(escaped, conditions(facts)),
    ]


def _linked(source: str) -> str:
    """The source of a claim, with links to its papers.

    Its articles are those of docs/STUDIES.md.
    """
    source = escaped(source).replace("ARTICLES", "articles, no.")
    return re.sub(r"\b\d{4}\.\d{5}\b", r"[\g<0>](https://arxiv.org/abs/\g<0>)", source)


def _origin(result: Result) -> dict[str, str]:
    """When, where and how a result was made."""
    facts = result.facts
    made = {fact: escaped(facts[fact]) for fact in ("date", "machine")}
    made["minutes"] = f"{facts['minutes']:.1f}"
    for fact in ("seeds", "calibration_seeds", "chosen_on_seeds"):
        made[fact.replace("_", " ")] = ", ".join(map(str, facts[fact])) or "none"
    made["first run began"] = facts["began"] or "unknown"
    made["commits of the runs"] = ", ".join(facts["commits"]) or "unknown"
    made["criteria last changed"] = " ".join((facts["criteria"] or {"": "unknown"}).values())
    made["versions"] = escaped(", ".join(" ".join(item) for item in facts["versions"].items()))
    made["command"] = f"<code>{escaped(facts['command'])}</code>"
    made["settings"] = f"<code>{escaped(json.dumps(facts['settings']))}</code>"
    return made
