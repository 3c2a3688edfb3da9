"""The report of studies: what their results say, as Markdown, and that as a page of HTML."""

import base64
import collections
import dataclasses
import html
import itertools
import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import quote, unquote

import markdown

from keras_norms.output import markdown_table
from zoo.laboratory import results
from zoo.laboratory.judge import CONFIDENCE, FAILS, HOLDS, UNDECIDED, judge
from zoo.laboratory.prose import answers, escaped, listed, table
from zoo.laboratory.questions import QUESTIONS
from zoo.laboratory.studies import studies
from zoo.laboratory.study import Claim, Rows

TITLE, RUN = "Which normalization layer?", "python scripts/study.py"
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
        """Those of the seeds that are judged, with norms as sentences call them."""
        called = {"none": {"norm": "no norm"}}
        rows = (row for row in self.facts["rows"] if row["seed"] in self.facts["seeds"])
        return Rows(row | called.get(row.get("norm"), {}) for row in rows)

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

    def figures(self, folder):
        """Its figures, for Markdown that lies in a folder."""
        shown = []
        for name, caption in self.facts["figures"].items():
            path, caption = self.folder / f"{name}.png", escaped(caption)
            link = quote(os.path.relpath(path, folder))
            there = path.exists()
            shown.append(f"![{caption}]({link})\n*{caption}*" if there else f"⚠ {caption} Missing.")
        return shown

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
            raise ValueError(f"{path} holds no result.json of scripts/study.py. Name other folders")
        found += map(_read, files)
    return found


def _read(path):
    try:
        result = Result(path.parent, json.loads(path.read_text()))
        _study(result, path.parent)
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
            there = any(bulk in row for row in facts["rows"])
            if there and len(json.dumps(facts, indent=1)) > LIMIT:
                rows = [{k: v for k, v in row.items() if k != bulk} for row in facts["rows"]]
                facts |= {"rows": rows, "left_out": [*facts.get("left_out", ()), bulk]}
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            shutil.copyfile(result.folder / figure, target / figure)
        for old in set(target.glob("*.png")) - {target / figure for figure in figures}:
            old.unlink()
        (target / "result.json").write_text(json.dumps(facts, indent=1) + "\n")


def mark(verdict):
    """A verdict, told by symbol and word."""
    return f"{SYMBOLS[verdict]} {verdict}"


def document(found, folder):
    """The report of results, as Markdown that lies in a folder."""
    found = sorted(found, key=lambda r: (r.facts["study"], SCALES.index(r.facts["scale"])))
    known = {result.facts["study"]: result for result in found}  # of the largest scale
    asked = {name: "" for _, names, _ in QUESTIONS for name in names}
    planned = asked | {name: study.question for name, study in studies().items()}
    missing = {
        name: f"⚠ {escaped(name)} is **not run**. {escaped(question)} `{RUN} {name}` runs it."
        for name, question in planned.items()
        if name not in known
    }
    nothing = Result(Path(), {"rows": [], "seeds": [], "settings": {}})
    parts = []
    for number, (question, names, compose) in enumerate(QUESTIONS, 1):
        content = compose(dict.fromkeys(asked, nothing) | known)
        content += [missing[name] for name in names if name in missing]
        content += _seen([known[name] for name in names if name in known], folder)
        parts.append((f"question-{number}", question, content))
    judged = [result for result in found if result.facts["scale"] != "smoke"]
    lines = [
        [mark(c["verdict"]), f"({escaped(c['name'])}) {escaped(c['statement'])}", result.link]
        for result in judged
        for c in result.facts["claims"]
    ]
    claims = markdown_table(["verdict", "claim", "study"], lines)
    parts.append(("claims", "All claims", [claims]))
    parts += [(r.link.split("#")[1][:-1], escaped(r.name), _study(r, folder)) for r in found]
    parts += [("missing", "Not run", list(missing.values()))] * bool(missing)
    count = collections.Counter(line[0] for line in lines)
    blocks = [
        f"# {TITLE}",
        f"Published claims: {len(lines)}, judged by {len(judged)} of the studies. "
        f"{', '.join(f'{mark(v)}: {count[mark(v)]}' for v in SYMBOLS)}. A claim holds where the "
        f"{CONFIDENCE:.0%} confidence interval of its mean effect over seeds lies above a "
        "threshold, does not where it lies below, and is undecided otherwise, or with one seed; "
        "by chance, that goes wrong once in twenty times either way. "
        "± is the standard deviation over seeds. Each sentence is composed from the results.",
        "\n".join(f"- [{title}](#{anchor})" for anchor, title, _ in parts),
    ]
    for anchor, title, content in parts:
        blocks += [f'## <a id="{anchor}"></a>{title}', *content]
    return "\n\n".join(blocks) + "\n"


def _seen(found, folder):
    """What a question takes from its studies: the verdicts, the first figures and tables."""
    lines = []
    for result, verdict in itertools.product(found, SYMBOLS):
        named = [c["statement"] for c in result.facts["claims"] if c["verdict"] == verdict]
        if named:
            lines.append(
                [
                    mark(verdict),
                    "<br>".join(f"• {escaped(statement)}" for statement in named),
                    result.link,
                ]
            )
    claims = [markdown_table(["verdict", "published", "study"], lines)] if lines else []
    shown = [part for result in found for part in (*result.figures(folder)[:1], *result.tables[:1])]
    return [*(line for result in found for line in _warnings(result)), *claims, *shown]


def _warnings(result):
    """What to know before believing a result; nothing, mostly."""
    facts, said = result.facts, []
    if facts["scale"] == "smoke":
        said.append("of smoke scale, which shows that the study runs, and nothing about norms")
    if not facts["seeds"]:
        said.append("only of seeds on which criteria were chosen, so that nothing is judged")
    if facts["failures"]:
        said.append(f"{len(facts['failures'])} runs failed")
    if "left_out" in facts:
        said.append(f"without {listed(facts['left_out'])} in result.json, to be small")
    return [f"⚠ {result.link}: {escaped('; '.join(said))}."] if said else []


def _study(result, folder):
    """A study in full."""
    facts, lines = result.facts, []
    for claim, line in zip(facts["claims"], results.claim_rows(facts)[1], strict=True):
        name, source, measured = map(escaped, line[:3])
        told = {"by seed": claim["effects"].values()}
        if claim["interval"]:
            told = {f"{CONFIDENCE:.0%} interval": claim["interval"]} | told
        if claim["calibration"]:
            told["on calibration seeds, not judged"] = claim["calibration"].values()
        for what, values in told.items():
            shown = ("-" if v is None else claim["form"].format(v) for v in values)
            measured += f"<br>{what}: {', '.join(shown)}"
        remark = f"<br>{escaped(claim['remark'])}" if claim["remark"] else ""
        lines.append([name + remark, source, measured, mark(claim["verdict"])])
    header = ["claim", "source", "measured", "verdict"]
    made = {fact: escaped(facts[fact]) for fact in ("date", "machine")}
    made["minutes"] = f"{facts['minutes']:.1f}"
    for fact in ("seeds", "calibration_seeds", "chosen_on_seeds"):
        made[fact.replace("_", " ")] = ", ".join(map(str, facts[fact])) or "none"
    made["versions"] = escaped(", ".join(" ".join(item) for item in facts["versions"].items()))
    made["command"] = f"<code>{escaped(facts['command'])}</code>"
    made["settings"] = f"<code>{escaped(json.dumps(facts['settings']))}</code>"
    return [
        *answers([facts["question"]]),
        *([escaped(facts["about"])] if facts["about"] else []),
        *_warnings(result),
        *(f"⚠ failed: {escaped(f'{run}: {why}')}" for run, why in facts["failures"].items()),
        markdown_table(header, lines) if lines else "No claims are judged.",
        *result.tables,
        *result.figures(folder),
        markdown_table(["how it was made", ""], made.items()),
    ]


def page(text, folder):
    """A document as one file of HTML: its figures are in it, and nothing is loaded."""

    def picture(match):
        path = Path(os.path.normpath(folder / unquote(html.unescape(match[1]))))
        data = path.read_bytes()
        width = int.from_bytes(data[16:20]) * 2 // 3  # of PNG, at 150 dots per inch: 100 on a page
        shape = f'width="{width}"' + ' class="wide"' * (width > 700)
        return f'{shape} src="data:image/png;base64,{base64.b64encode(data).decode()}"'

    body = markdown.markdown(text, extensions=["tables"], output_format="html")
    body = re.sub(r'src="(.*?\.png)"', picture, body)
    body = body.replace("<p>⚠", '<p class="warning">⚠')
    for verdict in SYMBOLS:
        name = verdict.split()[0]
        pill = f'<td><span class="verdict {name}">{mark(verdict)}</span></td>'
        body = body.replace(f"<td>{mark(verdict)}</td>", pill)
    style = (Path(__file__).with_name("report.css")).read_text()
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{TITLE}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}</style>\n<main>\n{body}\n</main>\n</html>\n"
    )
