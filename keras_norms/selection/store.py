"""The folder of a comparison: its settings, and a file for each run that is complete."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keras_norms.output import write_json
from keras_norms.selection.plan import Run


class Store:
    """Runs that are complete, in memory and, if there is a folder, on disk.

    Args:
        folder: where they are, or None.
        settings: what the runs depend on.
        resume: whether the folder may hold runs of the same settings.

    Raises:
        ValueError: if the folder holds a comparison that is not to be resumed, or another one.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any], resume: bool) -> None:
        self._folder = folder
        self._runs: dict[Run, Any] = {}
        if folder is None:
            if resume:
                raise ValueError("`resume` needs the `folder` of the comparison.")
            return
        folder.mkdir(parents=True, exist_ok=True)
        record = folder / "settings.json"
        if record.exists():
            if not resume:
                raise ValueError(
                    f"{folder} holds a comparison. Resume it (`resume=True`, --resume), or name "
                    "another folder."
                )
            before = json.loads(record.read_text())
            plain = json.loads(json.dumps(settings))
            differing = [k for k in plain if before.get(k) != plain[k]]
            if differing:
                changes = ", ".join(f"{k}: {before.get(k)} and {plain[k]}" for k in differing)
                raise ValueError(
                    f"{folder} holds another comparison. Name another folder. They differ in "
                    f"{changes}"
                )
        else:
            write_json(record, settings)

    def once(self, name: str, key: Any, function: Callable[[], Any]) -> Any:
        """What a function returns, which is kept and returned again for the same key."""
        kept = self._read(f"{name}.json")
        key = json.loads(json.dumps(key))
        if kept is None or kept["key"] != key:
            kept = {"key": key, "value": function()}
            if self._folder is not None:
                write_json(self._folder / f"{name}.json", kept)
        return kept["value"]

    def read(self, run: Run) -> dict[str, Any] | None:
        """What a complete run found, or None."""
        if run not in self._runs:
            self._runs[run] = self._read(f"runs/{_name(run)}.json")
        return self._runs[run]

    def write(self, run: Run, found: Mapping[str, Any]) -> None:
        """Keeps what a run found: the whole file is there, or none."""
        self._runs[run] = dict(found)
        if self._folder is not None:
            (self._folder / "runs").mkdir(exist_ok=True)
            write_json(self._folder / "runs" / f"{_name(run)}.json", found)

    def _read(self, name: str) -> Any:
        path = self._folder / name if self._folder is not None else None
        return json.loads(path.read_text()) if path is not None and path.exists() else None


def _name(run: Run) -> str:
    norm = re.sub(r"\W+", "-", run.norm).strip("-")
    return f"{norm}-b{run.size}-s{run.seed}{'-switches' * run.switches}"
