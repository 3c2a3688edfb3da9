"""The result of a study: a dict for `result.json`, the figures, and the tables as text."""

import datetime
import gzip
import importlib
import inspect
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_norms import comparison
from keras_norms.figures import pixels
from keras_norms.intervals import ERROR, FEWEST
from keras_norms.output import finite, markdown_table, write_json
from zoo.laboratory import judge as judging
from zoo.laboratory import provenance
from zoo.laboratory.execute import Executed
from zoo.laboratory.judge import NOT_TESTED, effects, judge
from zoo.laboratory.study import Number, Rows, Study, Table
from zoo.training import run_folder

Facts = dict[str, Any]  # the content of `result.json`


def result(
    name: str,
    study: Study,
    scale: str,
    seeds: Sequence[int],
    command: str,
    done: Executed,
    jobs: int,
) -> Facts:
    """All that is known after the runs, as JSON values.

    Claims are judged without the calibration seeds, whose effects stand beside the verdict.

    Args:
        name: of the study.
        study: the study.
        scale: the name of the scale.
        seeds: those that were run.
        command: repeats the study elsewhere.
        done: what the runs left.
        jobs: how many of them shared the machine.
    """
    rows = done.rows
    judged = [seed for seed in seeds if seed not in study.calibration]
    calibration = [seed for seed in seeds if seed in study.calibration]
    return {
        "study": name,
        "question": study.question,
        "about": study.about,
        "scale": scale,
        "settings": study.scales[scale].settings,
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} x {platform.machine()}",
        "versions": run_folder.versions(),
        "seeds": judged,
        "calibration_seeds": calibration,
        "chosen_on_seeds": list(study.calibration),
        "minutes": done.seconds / jobs / 60,
        "failures": {place.name: reason for place, reason in done.failures.items()},
        "began": done.began,
        "commits": done.commits,
        "criteria": provenance.last_change(criteria(name)),
        "claims": _claims(study, rows, judged, calibration),
        "tables": [_table(table, rows, judged or calibration) for table in study.tables],
    }


def criteria(name: str) -> list[Path]:
    """The files that say what a study claims and what decides it."""
    claims = importlib.import_module(f"zoo.laboratory.claims.{name}")
    homes = ("zoo.laboratory.claims", comparison.__name__)
    used = [module for value in vars(claims).values() if (module := inspect.getmodule(value))]
    decides = [module for module in used if module.__name__.startswith(homes)]
    return sorted({Path(str(module.__file__)) for module in (*decides, claims, judging)})


def _claims(study: Study, rows: Rows, seeds: list[int], calibration: list[int]) -> list[Facts]:
    """Each `study.Claim` with its verdict."""
    facts = ("name", "statement", "source", "measured", "threshold", "form", "remark", "case")
    found = []
    for claim, verdict in zip(study.claims, judge(study.claims, rows, seeds), strict=True):
        learnt = claim.learnt
        condition = learnt and {n: getattr(learnt, n) for n in ("statement", "least", "form")}
        found.append(
            {fact: getattr(claim, fact) for fact in (*facts, "published")}
            | verdict
            | {"learnt": condition and condition | {"values": verdict["learnt"]}}
            | {"calibration": effects(claim, rows, calibration)}
        )
    return found


def _table(table: Table, rows: Rows, seeds: list[int]) -> Facts:
    """A `study.Table` with its cells as text."""
    rows = Rows(row for row in rows if row["seed"] in seeds).where(**table.where)
    lost = Rows(row for row in rows if "diverged" in row)
    rows = Rows(row for row in rows if table.measure in row and table.rows in row)
    columns = rows.values(table.columns) if table.columns else [table.measure]
    cells = {}
    for name in Rows([*rows, *lost]).values(table.rows):
        chosen = [{table.columns: c} if table.columns else {} for c in columns]
        places = [{table.rows: name, **c} for c in chosen]
        cells[str(name)] = [
            _cell(
                table.form, *rows.mean_and_spread(table.measure, **place), len(lost.where(**place))
            )
            for place in places
        ]
    header = [table.rows, *(f"{table.columns} {c}" if table.columns else c for c in columns)]
    return {"title": table.title, "header": header, "cells": cells}


def _cell(form: str, mean: Number, spread: Number, lost: int = 0) -> str:
    """A mean and its spread as text, and how many seeds diverged and are not in it."""
    without = f" ({lost} diverged)" * bool(lost)
    if mean is None:
        return f"-{without}"
    about = "" if spread is None else f" ± {form.format(spread).lstrip('+')}"
    return form.format(mean) + about + without


def claim_rows(facts: Facts) -> tuple[list[str], list[list[str]]]:
    """The table of claims: header and lines, as text."""
    header = ["claim", "source", "measured", "verdict"]
    lines = []
    for claim in facts["claims"]:
        measured = f"{claim['measured']}: {measured_value(claim)}"
        lines.append([claim_name(claim), claim["source"], measured, claim["verdict"]])
    return header, lines


def claim_name(claim: Facts) -> str:
    """A claim and the nets that it was judged on."""
    return f"({claim['name']}) {claim['statement']}" + f" [{claim['case']}]" * bool(claim["case"])


def measured_value(claim: Facts) -> str:
    """The mean effect of a claim, with what it is compared with."""
    form = claim["form"].format
    said = [effect_text(claim)]
    if claim["published"] is not None:
        said.append(f"published {form(claim['published'])}")
    if claim["threshold"]:
        said.append(f"holds above {form(claim['threshold'])}")
    if claim["corrected"] is not None:
        said.append(f"p {claim['corrected']:.2g}")
    return ", ".join(said)


def effect_text(claim: Facts) -> str:
    """The mean effect of a claim, its spread, and the number of seeds."""
    count = sum(effect is not None for effect in claim["effects"].values())
    return f"{_cell(claim['form'], claim['mean'], claim['spread'])}, n={count}"


def text(facts: Facts) -> str:
    """The result for a terminal."""
    lines = [f"{facts['study']}: {facts['question']}", ""]
    for claim in facts["claims"]:
        lines += [
            f"{claim['verdict'].upper():>10}  {claim_name(claim)}",
            f"            {claim['measured']}: {measured_value(claim)}  [{claim['source']}]",
        ]
        if any(value is not None for value in claim["calibration"].values()):
            told = ", ".join(_cell(claim["form"], v, None) for v in claim["calibration"].values())
            lines.append(f"            on calibration seeds, not judged: {told}")
        if claim["remark"]:
            lines.append(f"            {claim['remark']}")
    for condition in conditions(facts):
        lines += ["", condition]
    for table in facts["tables"]:
        lines += ["", table["title"], *_columns(table)]
    seeds = ", ".join(map(str, facts["seeds"])) or "none"
    lines += ["", f"{RULE} Judged seeds: {seeds}. ± is the standard deviation over seeds."]
    lines += [f"FAILED    {place}: {reason}" for place, reason in facts["failures"].items()]
    return "\n".join(lines)


# The rule of verdicts, in words.
RULE = (
    "A claim holds if its mean effect lies above its threshold, and does not if it lies below, "
    "where a t test tells them apart. Holm's correction covers all claims of a study, and p is "
    f"corrected. So with a probability of at least {1 - ERROR:.0%} none of its decisions is wrong, "
    "if effects are normal over seeds. Other claims are undecided, as are those with fewer than "
    f"{FEWEST} seeds. A claim is not tested if its nets have not learnt."
)


def conditions(facts: Facts) -> list[str]:
    """What shows that nets have learnt, and whether they have; a sentence for each condition."""
    found: dict[str, str] = {}
    for claim in facts["claims"]:
        learnt = claim["learnt"]
        if not learnt:
            continue
        values = [value for value in learnt["values"].values() if value is not None]
        seen = f": least {learnt['form'].format(min(values))}" if values else ": not measured"
        missed = " Claims about these nets are not tested." * (claim["verdict"] == NOT_TESTED)
        found[learnt["statement"]] = f"Learnt means that {learnt['statement']}{seen}.{missed}"
    return list(found.values())


def _columns(table: Facts) -> list[str]:
    """A table as lines of aligned columns."""
    grid = [table["header"], *([name, *cells] for name, cells in table["cells"].items())]
    widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
    return [
        name.ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        for name, *cells in grid
    ]


def write(folder: Path, facts: Facts, study: Study, rows: Rows) -> list[str]:
    """Writes a result: its facts, its rows, a picture of each figure, and all for TensorBoard.

    Returns:
        Lines that say which files there are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # First without figures, so that the numbers are safe if drawing fails.
    write_json(folder / RESULT, facts | {"figures": {}})
    write_rows(folder / ROWS, rows)
    pictures = draw(folder, facts, study, read_rows(folder / ROWS))
    captions = {name: study.figures[name].caption for name in pictures}
    facts["figures"] = captions
    write_json(folder / RESULT, facts)
    _write_events(folder / "tensorboard", facts, pictures)
    return [
        *(f"figure: {folder / name}.png: {caption}" for name, caption in captions.items()),
        f"result: {folder / RESULT}",
        f"tensorboard --logdir {folder / 'tensorboard'}",
    ]


def draw(folder: Path, facts: Facts, study: Study, rows: Rows) -> dict[str, Any]:
    """Draws the figures of a study into a folder, and returns those that there are by name."""
    complete = (row for row in rows if not row.keys() & {"diverged", "failed"})
    seeds = facts["seeds"] or facts["calibration_seeds"]  # as in the tables
    drawable = Rows(row for row in complete if row["seed"] in seeds)
    pictures = {name: figure.draw(drawable) for name, figure in study.figures.items()}
    pictures = {name: picture for name, picture in pictures.items() if picture is not None}
    for name, picture in pictures.items():
        # Without the version of matplotlib, so that equal pictures are equal files.
        picture.savefig(folder / f"{name}.png", metadata={"Software": None})
    return pictures


# The files of a result: all facts, and the rows, which figures are drawn from.
RESULT, ROWS = "result.json", "rows.json.gz"


def write_rows(path: Path, rows: Rows) -> None:
    """Writes rows in few bytes: compressed, with 5 digits. Equal rows are equal files."""
    text = json.dumps(_rounded(finite(list(rows))), separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def read_rows(path: Path) -> Rows:
    """Reads what `write_rows` wrote."""
    return Rows(json.loads(gzip.decompress(path.read_bytes())))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def _write_events(folder: Path, facts: Facts, pictures: Mapping[str, Any]) -> None:
    """Writes claims, tables and pictures for TensorBoard, in place of older ones."""
    shutil.rmtree(folder, ignore_errors=True)
    with tf.summary.create_file_writer(str(folder)).as_default(step=0):
        tf.summary.text("claims", markdown_table(*claim_rows(facts)))
        for table in facts["tables"]:
            lines = [[name, *cells] for name, cells in table["cells"].items()]
            tf.summary.text(table["title"], markdown_table(table["header"], lines))
        for name, drawn in pictures.items():
            caption = facts["figures"][name]
            tf.summary.image(name, pixels(drawn)[None], description=caption)
