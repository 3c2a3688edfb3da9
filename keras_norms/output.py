"""Writes results as JSON, CSV and Markdown."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any


def write_json(path: str | PathLike, content: Any) -> None:
    """Writes JSON that any reader accepts, the whole file or none of it.

    Args:
        path: the file.
        content: what JSON can hold. Other objects are written as their text, and numbers that
            are not finite as null.
    """
    new = Path(f"{path}.new")
    new.write_text(json.dumps(finite(content), indent=1, default=str) + "\n")
    new.replace(path)


def finite(value: Any) -> Any:
    """A copy of lists, dicts and numbers, with None for numbers that are not finite.

    A run that diverged has NaN among its results, and JSON has no NaN.

    >>> finite({"losses": [2.5, float("nan")]})
    {'losses': [2.5, None]}
    """
    if isinstance(value, Mapping):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: str | PathLike, rows: Sequence[Mapping]) -> None:
    """Writes a CSV file with a header.

    Args:
        path: the file.
        rows: at least one, all with the same keys, which make the header.
    """
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def markdown_table(header: Iterable, lines: Iterable[Iterable]) -> str:
    """A table in Markdown.

    Args:
        header: the names of the columns.
        lines: for each line its cells. They are shown as text, with "/" for "|".

    >>> print(markdown_table(["norm", "error"], [["bn", 0.1]]))
    | norm | error |
    | --- | --- |
    | bn | 0.1 |
    """
    rows = ([str(cell).replace("|", "/") for cell in line] for line in (header, *lines))
    first, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([first, "| --- " * first.count(" | ") + "| --- |", *others])
