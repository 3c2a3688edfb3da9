"""Results that were written: read for a report, and copied to where they can be committed."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from zoo.laboratory.judge import judge_effect
from zoo.laboratory.prose import escaped, listed, table
from zoo.laboratory.results import claim_rows
from zoo.laboratory.study import Effect, Rows

# What a result.json holds.
FACTS = {
    *("study", "question", "about", "scale", "settings", "command", "date", "machine", "versions"),
    *("seeds", "calibration_seeds", "chosen_on_seeds", "minutes", "failures", "claims", "tables"),
    *("rows", "figures", "began", "commits", "criteria"),
}
# A result.json of more bytes is too large to commit. These lists leave its rows until it is not.
LIMIT, BULKY = 200_000, ("dynamics", "noise", "curves", "importance")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a study left: the content of `result.json`, and the folder of its figures."""

    folder: Path
    facts: dict[str, Any]

    @property
    def rows(self) -> Rows:
        """The rows of the judged seeds; the norm "none" is called "no norm", as in sentences."""
        called = {"none": {"norm": "no norm"}}
        rows = (row for row in self.facts["rows"] if row["seed"] in self.facts["seeds"])
        return Rows(row | called.get(row.get("norm"), {}) for row in rows)

    @property
    def name(self) -> str:
        """The study and its scale."""
        return f"{self.facts['study']} ({self.facts['scale']})"

    @property
    def anchor(self) -> str:
        """Where the report has the study in full."""
        return f"{self.facts['study']}-{self.facts['scale']}"

    @property
    def link(self) -> str:
        """The name, linked to the anchor."""
        return f"[{escaped(self.name)}](#{self.anchor})"

    @property
    def tables(self) -> list[str]:
        """Its tables, as Markdown."""
        return [
            f"**{escaped(t['title'])}**\n\n"
            + table(t["header"], [[name, *cells] for name, cells in t["cells"].items()])
            for t in self.facts["tables"]
            if t["cells"]
        ]

    def figures(self, folder: Path) -> list[str]:
        """Its figures, for Markdown in a folder."""
        shown = []
        for name, caption in self.facts["figures"].items():
            path, caption = self.folder / f"{name}.png", escaped(caption)
            link = quote(os.path.relpath(path, folder))
            there = path.exists()
            shown.append(f"![{caption}]({link})\n*{caption}*" if there else f"⚠ {caption} Missing.")
        return shown

    def judge(self, effect: Effect) -> dict[str, Any]:
        """Judges whether an effect is more than zero."""
        return judge_effect(effect, self.rows, self.facts["seeds"])


NOTHING = Result(Path(), {"rows": [], "seeds": [], "settings": {}})  # of a study that was not run


def read(paths: Iterable[str | Path]) -> list[Result]:
    """Reads results from files, from their folders, or from folders of such folders.

    Raises:
        ValueError: if there is none, or one cannot be read.
    """
    found: list[Result] = []
    for path in map(Path, paths):
        path = path / "result.json" if (path / "result.json").exists() else path
        files = [path] if path.is_file() else sorted(path.glob("*/result.json"))
        if not files:
            raise ValueError(f"{path} holds no result.json of scripts/study.py. Name other folders")
        found += map(_read, files)
    return found


def _read(path: Path) -> Result:
    """Reads one result, and makes sure that a report finds what it needs."""
    try:
        result = Result(path.parent, json.loads(path.read_text()))
        if FACTS - result.facts.keys():
            raise ValueError(f"it lacks {listed(sorted(FACTS - result.facts.keys()))}")
        _ = result.rows, result.tables, result.figures(path.parent), claim_rows(result.facts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is no result of scripts/study.py ({reason})") from error
    return result


def collect(found: Sequence[Result], folder: Path) -> None:
    """Copies results and their figures to `folder/STUDY`, small enough to be committed.

    Raises:
        ValueError: if two results are of one study.
    """
    names = [result.facts["study"] for result in found]
    if len(set(names)) < len(names):
        raise ValueError(f"Two results of one study, name one of them: {', '.join(names)}")
    for name, result in zip(names, found, strict=True):
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        figures = {f"{figure}.png" for figure in result.facts["figures"]}
        for figure in figures:
            shutil.copyfile(result.folder / figure, target / figure)
        for old in set(target.glob("*.png")) - {target / figure for figure in figures}:
            old.unlink()
        text = json.dumps(_without_bulk(result.facts), indent=1) + "\n"
        (target / "result.json").write_text(text)


def _without_bulk(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts without as many of the `BULKY` lists as it takes to be small."""
    for bulk in BULKY:
        there = any(bulk in row for row in facts["rows"])
        if there and len(json.dumps(facts, indent=1)) > LIMIT:
            rows = [{k: v for k, v in row.items() if k != bulk} for row in facts["rows"]]
            facts = facts | {"rows": rows, "left_out": [*facts.get("left_out", ()), bulk]}
    return facts
