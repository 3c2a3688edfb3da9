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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import growth
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
    "models-xla": (models.compiled, 20),
    "predictions": (models.predictions, 20),
    "sizes": (models.sizes, 1),
    "sequence-models": (models.sequential, 20),
    "replicas": (models.replicated, 15),
    "folded": (models.folded, 20),
    "growth-batch": (growth.batch, 8),
    "growth-depth": (growth.depth, 8),
    "growth-replicas": (growth.replicas, 8),
    "growth-tokens": (growth.tokens, 8),
    "growth-steps": (growth.steps, 8),
}
Known = dict[str, dict[str, Any]]  # {table: its provenance and columns}, as in performance.json
OURS = ("BN", "mean-only BN", "IN", "LN (GN, 1 group)", "GN (32 groups)", "SN", "BIN")
RESNET = str((models.BATCH, *models.IMAGE))
LSTM = str(recurrent.SHAPES[1])
BASE = "keras BN"


class Aim(NamedTuple):
    """What was wanted before it was measured.

    Attributes:
        of: what the aim is about.
        table: a name of `TABLES`.
        end: the end of the titles of the columns.
        most: the largest ratio of each row.
        base: the row to compare with, or what is added to the name of a row to get it.
    """

    of: str
    table: str
    end: str
    most: Mapping[str, float]
    base: str = BASE


AIMS = (
    Aim("step of a layer, plain", "images", "plain", dict.fromkeys(OURS, 0.5)),
    Aim("step of a layer, XLA", "images", "XLA", dict.fromkeys(OURS, 0.5)),
    Aim("step of a ResNet-20", "models", RESNET, {"bn": 0.8, "gn": 0.8, "sn": 0.8}),
    Aim(
        "first step of a ResNet-20",
        "models",
        "first step",
        {"bn": 1.3, "ln": 1.3, "gn": 1.3, "in": 1.3, "bin": 1.3, "sn": 1.6},
    ),
    Aim("inference of a ResNet-20", "predictions", RESNET, {"ln": 1.2, "gn": 1.2, "in": 1.2}),
    Aim(
        "first inference of a ResNet-20",
        "predictions",
        "first step",
        {"bn": 1.5, "gn": 1.5, "sn": 1.5},
    ),
    Aim(
        "step of a layer, per token",
        "sequences",
        "per token, plain",
        {"LN (GN, 1 group)": 1.0, "GN (32 groups)": 1.1, "SN": 1.3},
        "keras LN",
    ),
    Aim(
        "step of an LSTM",
        "recurrent",
        f"{LSTM}, plain",
        {
            "NormalizedLSTM(ln)": 1.47,
            "NormalizedLSTM(rms)": 1.25,
            "NormalizedLSTM(bn)": 1.7,
            "NormalizedLSTM(sn)": 2.4,
        },
        recurrent.BASE,
    ),
    Aim("20 sizes", "sizes", "20 sizes", {"bn": 1.1, "gn": 1.1, "sn": 1.1}, models.UNFUSED),
)
CHANGE = 0.15  # smaller changes of a ratio are not reported


@dataclasses.dataclass
class Options:
    """What to measure."""

    tables: tuple[str, ...] = tuple(TABLES)
    """Names of the tables to measure; all others keep their figures."""
    rounds: int | None = None
    """How many times every step is timed. None: as often as each table needs."""
    check: bool = False
    """Compare with the figures of `output` instead of writing them."""
    output: Path = Path("docs/PERFORMANCE.md")
    """Markdown file, of which the figures replace all below "## Figures". The numbers go to
    performance.json beside it."""


def measure(name: str, rounds: int) -> list[timing.Column]:
    """Measures the columns of a table in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "columns.json"
        command = [sys.executable, __file__, "--measure", name, str(rounds), str(path)]
        subprocess.run(command, check=True)
        return [timing.Column(*column) for column in json.loads(path.read_text())]


def columns_of(known: Known, name: str) -> list[timing.Column]:
    """The columns of a table that was measured; none if it was not."""
    return [timing.Column(*column) for column in known.get(name, {}).get("columns", ())]


def table(columns: Sequence[timing.Column]) -> str:
    """A Markdown table, a line for each row of the columns."""
    header = ["", *(column.title for column in columns)]
    bases = ["1.00 is", *(_base(column) for column in columns)]
    names = dict.fromkeys(name for column in columns for name in column.cells)
    lines = [[name, *(_cell(column.cells.get(name)) for column in columns)] for name in names]
    return markdown_table(header, [bases, *lines])


def _base(column: timing.Column) -> str:
    return column.base if column.ms is None else f"{column.base}: {column.ms:.1f} ms"


def _cell(ratio: timing.Cell | None) -> str:
    if ratio is None:
        return ""
    median, low, high = ratio
    return f"{median:.2f}" if low == high else f"{median:.2f} [{low:.2f}, {high:.2f}]"


def aims(known: Known) -> str:
    """A Markdown table of `AIMS`, which says of each whether it was reached."""
    lines = []
    for aim in AIMS:
        columns = [c for c in columns_of(known, aim.table) if c.title.endswith(aim.end)]
        for row, most in aim.most.items() if columns else ():
            base = row + aim.base if row + aim.base in columns[0].cells else aim.base
            found = [column.cells[row][0] / column.cells[base][0] for column in columns]
            missed = sum(ratio > most for ratio in found)
            result = f"missed in {missed} of {len(found)}" if missed else "reached"
            shown = " / ".join(f"{ratio:.2f}" for ratio in found)
            lines.append([f"{aim.of}, {row}", base, f"{most:.2f}", shown, result])
    return markdown_table(["aim", "of", "at most", "measured", ""], lines)


def describe_changes(
    name: str, columns: Sequence[timing.Column], before: Sequence[timing.Column]
) -> list[str]:
    """A line for each new ratio, and for each that changed by more than `CHANGE`.

    Where the quartiles overlap, the change may be noise, and has no line.
    """
    old: dict[str, Mapping[str, timing.Cell]] = {c.title: c.cells for c in before}
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


def main(options: Options) -> None:
    unknown = set(options.tables) - set(TABLES)
    if unknown:
        sys.exit(f"Unknown tables {sorted(unknown)}. Known: {', '.join(TABLES)}")
    record = options.output.with_name("performance.json")
    if options.check and not record.exists():
        sys.exit(f"Nothing to compare with: {record} does not exist. Measure without --check.")
    known: Known = json.loads(record.read_text()) if record.exists() else {}
    changes = []
    for name in options.tables:
        print(f"== {name}", file=sys.stderr)
        rounds = options.rounds or TABLES[name][1]
        columns = measure(name, rounds)
        print(f"\n{_title(name)}\n\n{table(columns)}\n")
        if options.check:
            changes += describe_changes(name, columns, columns_of(known, name))
            continue
        command = f"python benchmarks/performance.py --tables {name} --rounds {rounds}"
        # After each table, so that an interruption loses one table at most.
        known[name] = {"provenance": timing.provenance(command), "columns": columns}
        write_json(record, known)
    if options.check:
        none = f"No ratio changed by more than {CHANGE:.0%} and beyond its quartiles."
        print("\n".join(changes or [none]))
        return
    sections = [f"### Aims\n\n{aims(known)}"]
    sections += [section(known, name) for name in TABLES if name in known]
    timing.write_figures(options.output, *sections, *growth_figure(known, options.output))


def growth_figure(known: Known, output: Path) -> list[str]:
    """Draws how costs grow, beside the Markdown file, and returns what that file says of it."""
    columns = {name: columns_of(known, f"growth-{name}") for name in growth.GROWTHS}
    measured = {name: found for name, found in columns.items() if found}
    if not measured:
        return []
    path = output.with_name("growth.png")
    growth.figure(measured).savefig(path, dpi=150)
    return [f"### How costs grow\n\n![Lines that rise grow faster than Keras's norm]({path.name})"]


def section(known: Known, name: str) -> str:
    """The part of the Markdown file about a table."""
    title = _title(name).rstrip(".")
    return f"### {title}\n\n{known[name]['provenance']}\n\n{table(columns_of(known, name))}"


def _title(name: str) -> str:
    return TABLES[name][0].__doc__ or name


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        name, rounds, path = sys.argv[2:]
        write_json(path, list(TABLES[name][0](int(rounds))))
    else:
        main(tyro.cli(Options, description=__doc__))
