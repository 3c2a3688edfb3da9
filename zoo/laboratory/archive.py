"""Results that were written: read for a report, and copied to where they can be committed."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from keras_norms.prose import escaped, listed, table
from zoo.laboratory.judge import judge_effect
from zoo.laboratory.results import RESULT, ROWS, claim_rows, draw, read_rows
from zoo.laboratory.studies import studies
from zoo.laboratory.study import SCALES, Effect, Rows

# What a result.json holds.
FACTS = {
    *("study", "question", "about", "scale", "settings", "command", "date", "machine", "versions"),
    *("seeds", "calibration_seeds", "chosen_on_seeds", "minutes", "failures", "claims", "tables"),
    *("figures", "began", "commits", "criteria"),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a study left.

    Attributes:
        folder: where it lies, with its figures.
        facts: the content of its `result.json`.
        every_row: all that its runs measured.
    """

    folder: Path
    facts: dict[str, Any]
    every_row: Rows

    @property
    def rows(self) -> Rows:
        """The rows of the judged seeds; the norm "none" is called "no norm", as in sentences."""
        rows = (row for row in self.every_row if row["seed"] in self.facts["seeds"])
        return Rows(row | {"norm": "no norm"} if row.get("norm") == "none" else row for row in rows)

    @property
    def counts(self) -> bool:
        """Whether its scale gives verdicts."""
        return SCALES[self.facts["scale"]]

    def redraw(self) -> None:
        """Draws its figures anew, from its rows."""
        draw(self.folder, self.facts, studies()[self.facts["study"]], self.every_row)

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


NOTHING = Result(Path(), {"seeds": [], "settings": {}}, Rows())  # of a study that was not run


def read(paths: Iterable[str | Path]) -> list[Result]:
    """Reads results from files, from their folders, or from folders of such folders.

    Raises:
        ValueError: if there is none, or one cannot be read.
    """
    found: list[Result] = []
    for path in map(Path, paths):
        path = path / RESULT if (path / RESULT).exists() else path
        files = [path] if path.is_file() else sorted(path.glob(f"*/{RESULT}"))
        if not files:
            raise ValueError(f"{path} holds no {RESULT} of scripts/study.py. Name other folders")
        found += map(_read, files)
    return found


def _read(path: Path) -> Result:
    """Reads one result, and makes sure that a report finds what it needs."""
    try:
        facts = json.loads(path.read_text())
        result = Result(path.parent, facts, read_rows(path.with_name(ROWS)))
        if FACTS - result.facts.keys():
            raise ValueError(f"it lacks {listed(sorted(FACTS - result.facts.keys()))}")
        _ = result.rows, result.tables, result.figures(path.parent), claim_rows(result.facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is no result of scripts/study.py ({reason})") from error
    return result


def collect(found: Sequence[Result], folder: Path) -> None:
    """Copies results to `folder/STUDY`, to be committed, and draws their figures there.

    Raises:
        ValueError: if two results are of one study, or one would replace that of a larger scale.
    """
    names = [result.facts["study"] for result in found]
    if len(set(names)) < len(names):
        raise ValueError(f"Two results of one study, name one of them: {', '.join(names)}")
    for name, result in zip(names, found, strict=True):
        there = folder / name / RESULT
        before = _read(there).facts["scale"] if there.exists() else result.facts["scale"]
        if list(SCALES).index(before) > list(SCALES).index(result.facts["scale"]):
            raise ValueError(
                f"{there.parent} holds a result of the larger scale {before!r}. Collect into "
                "another folder, or remove that one."
            )
    for name, result in zip(names, found, strict=True):
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        if not target.samefile(result.folder):
            for old in target.glob("*.png"):
                old.unlink()
            for file in (RESULT, ROWS):
                shutil.copyfile(result.folder / file, target / file)
        dataclasses.replace(result, folder=target).redraw()
