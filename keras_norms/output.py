"""How results are written: JSON, CSV and Markdown."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any


def write_json(path: str | PathLike, content: Any) -> None:
    """Writes JSON that any reader accepts, as a whole or not at all."""

    def finite(value: Any) -> Any:
        # JSON has no NaN, which a run that diverged leaves.
        if isinstance(value, Mapping):
            return {key: finite(v) for key, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    new = Path(f"{path}.new")
    new.write_text(json.dumps(finite(content), indent=1, default=str) + "\n")
    new.replace(path)


def write_csv(path: str | PathLike, rows: Sequence[Mapping]) -> None:
    """Writes rows, dicts with the same keys, below a header."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def markdown_table(header: Iterable, lines: Iterable[Iterable]) -> str:
    """A table in Markdown: the header, then one line each; all cells are shown as text.

    >>> print(markdown_table(["norm", "error"], [["bn", 0.1]]))
    | norm | error |
    | --- | --- |
    | bn | 0.1 |
    """
    rows = ([str(cell).replace("|", "/") for cell in line] for line in (header, *lines))
    first, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([first, "| --- " * first.count(" | ") + "| --- |", *others])
