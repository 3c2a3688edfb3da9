"""Measures what every norm costs, in layers, models and on replicas, as ratios within one run.

    python benchmarks/performance.py            # measure, and write docs/PERFORMANCE.md
    python benchmarks/performance.py --check    # measure, and compare with what is written there

All rows of a column are timed in turn, so that a noisy machine disturbs all alike. A figure is the
median over rounds of the ratio within a round; the quartiles follow in brackets. Every table has a
process of its own. `--check` says what became slower or faster, and never fails for it.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import layers
import models
import recurrent
import timing
import tyro

from keras_norms.output import markdown_table, write_json

TABLES = {
    "images": (layers.training, 30),
    "accuracy": (layers.accuracy, 1),
    "inference": (layers.inference, 30),
    "sequences": (layers.sequences, 20),
    "recurrent": (recurrent.training, 10),
    "models": (models.convolutional, 30),
    "sequence-models": (models.sequential, 20),
    "replicas": (models.replicated, 15),
}
OURS = ("BN", "mean-only BN", "IN", "LN (GN, 1 group)", "GN (32 groups)", "SN", "BIN")
# The aims: (table, end of the titles of its columns, rows, largest ratio).
AIMS = (
    ("images", "plain", ("BN", "mean-only BN"), 0.40),
    ("images", "plain", ("IN", "GN (32 groups)", "SN", "BIN"), 0.55),
    ("images", "XLA", OURS, 0.50),
    ("models", "3)", ("bn",), 0.75),
    ("models", "3)", ("gn", "sn"), 0.85),
)
CHANGE = 0.15  # smaller changes of a ratio are not reported


@dataclasses.dataclass
class Options:
    """What to measure."""

    tables: tuple[str, ...] = tuple(TABLES)
    """Names of the tables to measure; all others keep their figures."""
    rounds: int | None = None
    """How many times every step is timed. None: the number of each table."""
    check: bool = False
    """Compare with the figures of `output` instead of writing them."""
    output: Path = Path("docs/PERFORMANCE.md")
    """Figures replace all that this file has below "## Figures". Their numbers go to
    performance.json beside it."""


def measure(name, rounds):
    """The columns of a table, measured in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "columns.json"
        command = [sys.executable, __file__, "--measure", name, str(rounds), str(path)]
        subprocess.run(command, check=True)
        return [timing.Column(*column) for column in json.loads(path.read_text())]


def table(columns):
    """A Markdown table, a line for each row of the columns."""
    header = ["", *(column.title for column in columns)]
    bases = ["1.00 is", *(_base(column) for column in columns)]
    names = dict.fromkeys(name for column in columns for name in column.cells)
    lines = [[name, *(_cell(column.cells.get(name)) for column in columns)] for name in names]
    return markdown_table(header, [bases, *lines])


def _base(column):
    return column.base if column.ms is None else f"{column.base}: {column.ms:.1f} ms"


def _cell(ratio):
    if ratio is None:
        return ""
    median, low, high = ratio
    return f"{median:.2f}" if low == high else f"{median:.2f} [{low:.2f}, {high:.2f}]"


def aims(known):
    """A Markdown table of `AIMS`, and of which of them were reached."""
    lines = []
    for name, end, rows, limit in AIMS:
        columns = [timing.Column(*c) for c in known.get(name, {}).get("columns", ())]
        columns = [column for column in columns if column.title.endswith(end)]
        for row in rows if columns else ():
            found = [column.cells[row][0] for column in columns]
            missed = sum(ratio > limit for ratio in found)
            result = f"missed in {missed} of {len(found)}" if missed else "reached"
            shown = " / ".join(f"{ratio:.2f}" for ratio in found)
            kind = end if name == "images" else "ResNet-20"
            lines.append([f"{row}, {kind}", f"{limit:.2f}", shown, result])
    return markdown_table(["aim", "at most", "measured", ""], lines)


def compare(name, columns, before):
    """Lines about ratios whose quartiles do not overlap and that changed by more than `CHANGE`."""
    old = {column.title: column.cells for column in before}
    lines = []
    for column in columns:
        for row, ratio in column.cells.items():
            former = old.get(column.title, {}).get(row)
            if former is None:
                lines.append(f"{name}, {column.title}, {row}: new, {_cell(ratio)}")
                continue
            apart = ratio[1] > former[2] or ratio[2] < former[1]
            if apart and abs(ratio[0] / former[0] - 1) > CHANGE:
                word = "slower" if ratio[0] > former[0] else "faster"
                lines.append(
                    f"{name}, {column.title}, {row}: {word}, {_cell(former)} -> {_cell(ratio)}"
                )
    return lines


def main(options):
    unknown = set(options.tables) - set(TABLES)
    if unknown:
        sys.exit(f"Unknown tables {sorted(unknown)}. Known: {', '.join(TABLES)}")
    record = options.output.with_name("performance.json")
    if options.check and not record.exists():
        sys.exit(f"Nothing to compare with: {record} does not exist. Measure without --check.")
    known = json.loads(record.read_text()) if record.exists() else {}
    changes = []
    for name in options.tables:
        print(f"== {name}", file=sys.stderr)
        rounds = options.rounds or TABLES[name][1]
        columns = measure(name, rounds)
        title = TABLES[name][0].__doc__
        print(f"\n{title}\n\n{table(columns)}\n")
        if options.check:
            before = [timing.Column(*c) for c in known.get(name, {}).get("columns", ())]
            changes += compare(name, columns, before)
            continue
        command = f"python benchmarks/performance.py --tables {name} --rounds {rounds}"
        # After each table, so that an interruption loses one table at most.
        known[name] = {"provenance": timing.provenance(command), "columns": columns}
        write_json(record, known)
    if options.check:
        print("\n".join(changes or [f"No ratio changed clearly, and by more than {CHANGE:.0%}."]))
        return
    reached = f"### Aims\n\n{aims(known)}"
    sections = (section(name, known[name]) for name in TABLES if name in known)
    timing.write_figures(options.output, reached, *sections)


def section(name, found):
    title = TABLES[name][0].__doc__.rstrip(".")
    columns = [timing.Column(*column) for column in found["columns"]]
    return f"### {title}\n\n{found['provenance']}\n\n{table(columns)}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        name, rounds, path = sys.argv[2:]
        write_json(path, list(TABLES[name][0](int(rounds))))
    else:
        main(tyro.cli(Options, description=__doc__))
