"""The result of a study: a dict for `result.json`, and what of it is shown."""

import datetime
import os
import platform
import shutil

import tensorflow as tf

from keras_norms.figures import pixels
from keras_norms.output import markdown_table, write_json
from zoo.laboratory.judge import CONFIDENCE, judge
from zoo.training import run_folder


def result(name, study, scale, seeds, command, rows, seconds, failures):
    """All that is known after the runs, as JSON values.

    Claims are judged on the seeds that nothing was chosen on; what the others gave is told beside.
    """
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
        "minutes": seconds / 60,
        "failures": {place.name: reason for place, reason in failures.items()},
        "claims": [_claim(claim, rows, judged, calibration) for claim in study.claims],
        "tables": [_table(table, rows, judged or calibration) for table in study.tables],
        "rows": list(rows),
    }


def _claim(claim, rows, seeds, calibration):
    facts = ("name", "statement", "source", "measured", "threshold", "form", "remark")
    return {
        **{fact: getattr(claim, fact) for fact in facts},
        **judge(claim, rows, seeds),
        "calibration": judge(claim, rows, calibration)["effects"],
    }


def _table(table, rows, seeds):
    """The cells of a `study.Table`, as text."""
    rows = type(rows)(row for row in rows if row["seed"] in seeds).where(**table.where)
    rows = type(rows)(row for row in rows if table.measure in row and table.rows in row)
    columns = rows.values(table.columns) if table.columns else [table.measure]
    cells = {}
    for name in rows.values(table.rows):
        chosen = [{table.columns: c} if table.columns else {} for c in columns]
        found = [rows.mean_and_spread(table.measure, **{table.rows: name}, **c) for c in chosen]
        cells[str(name)] = [_cell(table.form, *each) for each in found]
    header = [table.rows, *(f"{table.columns} {c}" if table.columns else c for c in columns)]
    return {"title": table.title, "header": header, "cells": cells}


def _cell(form, mean, spread):
    if mean is None:
        return "-"
    about = "" if spread is None else f" ± {form.format(spread).lstrip('+')}"
    return form.format(mean) + about


def claim_rows(result):
    """The table of claims: header and lines, as text."""
    header = ["claim", "source", "measured", "verdict"]
    lines = []
    for claim in result["claims"]:
        value = _cell(claim["form"], claim["mean"], claim["spread"])
        count = sum(effect is not None for effect in claim["effects"].values())
        measured = f"{claim['measured']}: {value}, n={count}"
        if claim["threshold"]:
            measured += f" (holds above {claim['form'].format(claim['threshold'])})"
        name = f"({claim['name']}) {claim['statement']}"
        lines.append([name, claim["source"], measured, claim["verdict"]])
    return header, lines


def text(result):
    """The result for a terminal."""
    lines = [f"{result['study']}: {result['question']}", ""]
    for claim in result["claims"]:
        value = _cell(claim["form"], claim["mean"], claim["spread"])
        holds = f", holds above {claim['form'].format(claim['threshold'])}"
        lines += [
            f"{claim['verdict'].upper():>9}  ({claim['name']}) {claim['statement']}",
            f"           {claim['measured']}: {value}{holds}  [{claim['source']}]",
        ]
        if any(value is not None for value in claim["calibration"].values()):
            shown = ", ".join(_cell(claim["form"], v, None) for v in claim["calibration"].values())
            lines.append(f"           on calibration seeds, not judged: {shown}")
        if claim["remark"]:
            lines.append(f"           {claim['remark']}")
    for table in result["tables"]:
        lines += ["", table["title"], *_columns(table)]
    seeds = ", ".join(map(str, result["seeds"])) or "none"
    lines += [
        "",
        f"Verdicts: where the {CONFIDENCE:.0%} confidence interval of the mean lies, of seeds "
        f"{seeds}. ± is the standard deviation over seeds.",
    ]
    lines += [f"FAILED    {place}: {reason}" for place, reason in result["failures"].items()]
    return "\n".join(lines)


def _columns(table):
    grid = [table["header"], *([name, *cells] for name, cells in table["cells"].items())]
    widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
    return [
        name.ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        for name, *cells in grid
    ]


def write(folder, result, study, rows):
    """Writes `result.json`, a picture of each figure, and all of it for TensorBoard.

    Returns:
        Lines that say what is where.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "result.json", result | {"figures": {}})  # whatever happens to the figures
    pictures = {}
    whole = (row for row in rows if not row.keys() & {"diverged", "failed"})
    seen = type(rows)(row for row in whole if row["seed"] in shown(result))
    for name, figure in study.figures.items():
        drawn = figure.draw(seen)
        if drawn is not None:
            drawn.savefig(folder / f"{name}.png")
            pictures[name] = drawn
    result["figures"] = {name: study.figures[name].caption for name in pictures}
    write_json(folder / "result.json", result)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    with tf.summary.create_file_writer(str(folder / "tensorboard")).as_default(step=0):
        tf.summary.text("claims", markdown_table(*claim_rows(result)))
        for table in result["tables"]:
            lines = [[name, *cells] for name, cells in table["cells"].items()]
            tf.summary.text(table["title"], markdown_table(table["header"], lines))
        for name, drawn in pictures.items():
            caption = study.figures[name].caption
            tf.summary.image(name, pixels(drawn)[None], description=caption)
    lines = [f"figure: {folder / name}.png: {study.figures[name].caption}" for name in pictures]
    return [
        *lines,
        f"result: {folder / 'result.json'}",
        f"tensorboard --logdir {folder / 'tensorboard'}",
    ]


def shown(result):
    """The seeds that tables and figures show: those that are judged, or all if there are none."""
    return result["seeds"] or result["calibration_seeds"]
