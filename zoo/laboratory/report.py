"""The report of studies, as Markdown that is composed from their results."""

import collections
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from keras_norms.output import markdown_table
from zoo.laboratory.archive import NOTHING, Result
from zoo.laboratory.judge import CONFIDENCE, FAILS, HOLDS, UNDECIDED
from zoo.laboratory.prose import answers, escaped, listed
from zoo.laboratory.questions import QUESTIONS
from zoo.laboratory.results import claim_rows
from zoo.laboratory.studies import studies

TITLE, RUN = "Which normalization layer?", "python scripts/study.py"
SYMBOLS = {HOLDS: "✔", FAILS: "✘", UNDECIDED: "?"}
SCALES = ("smoke", "cpu", "full")


def mark(verdict: str) -> str:
    """A verdict, as symbol and words."""
    return f"{SYMBOLS[verdict]} {verdict}"


def document(found: Sequence[Result], folder: Path) -> str:
    """The report of results, as Markdown for a file in a folder."""
    found = sorted(found, key=lambda r: (r.facts["study"], SCALES.index(r.facts["scale"])))
    missing = _missing({result.facts["study"] for result in found})
    judged = [result for result in found if result.facts["scale"] != "smoke"]
    claims = [
        [mark(c["verdict"]), f"({escaped(c['name'])}) {escaped(c['statement'])}", result.link]
        for result in judged
        for c in result.facts["claims"]
    ]
    parts = [
        *_answered_questions(found, missing, folder),
        ("claims", "All claims", [markdown_table(["verdict", "claim", "study"], claims)]),
        *((result.anchor, escaped(result.name), _study(result, folder)) for result in found),
        *([("missing", "Not run", list(missing.values()))] if missing else []),
    ]
    count = collections.Counter(line[0] for line in claims)
    blocks = [
        f"# {TITLE}",
        f"These are {len(claims)} published claims, judged by {len(judged)} of the studies. "
        f"{', '.join(f'{mark(v)}: {count[mark(v)]}' for v in SYMBOLS)}. The mean effect over "
        f"seeds has a {CONFIDENCE:.0%} confidence interval. A claim holds where that lies above "
        "the claim's threshold, and does not where it lies below. It is undecided otherwise, or "
        "with one seed. By chance, that goes wrong once in twenty times in either direction. ± "
        "is the standard deviation over seeds. All sentences are composed from the results.",
        "\n".join(f"- [{title}](#{anchor})" for anchor, title, _ in parts),
    ]
    for anchor, title, content in parts:
        blocks += [f'## <a id="{anchor}"></a>{title}', *content]
    return "\n\n".join(blocks) + "\n"


def _missing(known: set[str]) -> dict[str, str]:
    """For each study that was not run, a line that says so."""
    planned = {name: "" for _, names, _ in QUESTIONS for name in names}
    planned |= {name: study.question for name, study in studies().items()}
    return {
        name: f"⚠ {escaped(name)} is **not run**. {escaped(question)} `{RUN} {name}` runs it."
        for name, question in planned.items()
        if name not in known
    }


def _answered_questions(
    found: Sequence[Result], missing: dict[str, str], folder: Path
) -> list[tuple[str, str, list[str]]]:
    """The anchor, the title and the content of the part of each question."""
    asked = {name for _, names, _ in QUESTIONS for name in names}
    known = {result.facts["study"]: result for result in found}  # the largest scale comes last
    parts = []
    for number, (question, names, compose) in enumerate(QUESTIONS, 1):
        content = compose(dict.fromkeys(asked, NOTHING) | known)
        content += [missing[name] for name in names if name in missing]
        content += _evidence([known[name] for name in names if name in known], folder)
        parts.append((f"question-{number}", question, content))
    return parts


def _evidence(found: Sequence[Result], folder: Path) -> list[str]:
    """What a question shows of its studies: the verdicts, the first figure and table of each."""
    lines = []
    for result, verdict in itertools.product(found, SYMBOLS):
        named = [c["statement"] for c in result.facts["claims"] if c["verdict"] == verdict]
        if named:
            statements = "<br>".join(f"• {escaped(statement)}" for statement in named)
            lines.append([mark(verdict), statements, result.link])
    claims = [markdown_table(["verdict", "published", "study"], lines)] if lines else []
    shown = [part for result in found for part in (*result.figures(folder)[:1], *result.tables[:1])]
    return [*(line for result in found for line in _warnings(result)), *claims, *shown]


def _warnings(result: Result) -> list[str]:
    """Why a result deserves less trust, in one line; no line for most results."""
    facts, said = result.facts, []
    if facts["scale"] == "smoke":
        said.append("smoke scale shows that a study works, and nothing about norms")
    if not facts["seeds"]:
        said.append("all seeds are those on which criteria were chosen, so nothing is judged")
    if facts["failures"]:
        said.append(f"{len(facts['failures'])} runs failed")
    if "left_out" in facts:
        said.append(f"stored without {listed(facts['left_out'])}, to stay small")
    return [f"⚠ {result.link}: {escaped('; '.join(said))}."] if said else []


def _study(result: Result, folder: Path) -> list[str]:
    """A study in full."""
    facts = result.facts
    return [
        *answers([facts["question"]]),
        *([escaped(facts["about"])] if facts["about"] else []),
        *_warnings(result),
        *(f"⚠ failed: {escaped(f'{run}: {why}')}" for run, why in facts["failures"].items()),
        _claims(result),
        *result.tables,
        *result.figures(folder),
        markdown_table(["how it was made", ""], _origin(result).items()),
    ]


def _claims(result: Result) -> str:
    """The table of a study's claims, with all that was measured."""
    lines = []
    for claim, line in zip(result.facts["claims"], claim_rows(result.facts)[1], strict=True):
        name, source, measured = map(escaped, line[:3])
        numbers = {"by seed": claim["effects"].values()}
        if claim["interval"]:
            numbers = {f"{CONFIDENCE:.0%} interval": claim["interval"]} | numbers
        if claim["calibration"]:
            numbers["on calibration seeds, not judged"] = claim["calibration"].values()
        for what, values in numbers.items():
            shown = ("-" if v is None else claim["form"].format(v) for v in values)
            measured += f"<br>{what}: {', '.join(shown)}"
        remark = f"<br>{escaped(claim['remark'])}" if claim["remark"] else ""
        lines.append([name + remark, source, measured, mark(claim["verdict"])])
    header = ["claim", "source", "measured", "verdict"]
    return markdown_table(header, lines) if lines else "No claims are judged."


def _origin(result: Result) -> dict[str, str]:
    """When, where and how a result was made."""
    facts = result.facts
    made = {fact: escaped(facts[fact]) for fact in ("date", "machine")}
    made["minutes"] = f"{facts['minutes']:.1f}"
    for fact in ("seeds", "calibration_seeds", "chosen_on_seeds"):
        made[fact.replace("_", " ")] = ", ".join(map(str, facts[fact])) or "none"
    made["versions"] = escaped(", ".join(" ".join(item) for item in facts["versions"].items()))
    made["command"] = f"<code>{escaped(facts['command'])}</code>"
    made["settings"] = f"<code>{escaped(json.dumps(facts['settings']))}</code>"
    return made
