"""What SwitchLogger has written below a folder, read once and kept as arrays.

Each call of `Store.read` goes on where the last one ended, so that no byte is parsed twice. A file
that ends within an event is being written: the rest is read next time.
"""

import dataclasses
import os
import re
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util import tensor_util

from keras_norms.analysis import LABELS, split_tag, stage

# {(layer path, kind, statistic): column}
Columns = dict[tuple[str, str, str], int]
BINS = 20  # of the histograms of gates, over [0, 1]
CHUNK = 1 << 20  # bytes that are read at a time
QUIET = 60.0  # seconds after which a file that ends within an event is no longer being written
_HEADER = struct.Struct("<QI")  # the length of a record, and the checksum of this length
# A scalar of a switch or gate as TensorFlow writes it: step, tag, value. It is ten times as fast as
# parsing the protocol buffer. What does not look like this is parsed.
_SCALAR = re.compile(
    rb"\x09.{8}\x10([\x80-\xff]*[\x00-\x7f])\x2a..?\x0a..?\x0a(.)((?:switch|gate)/[\x20-\x7e]+)"
    rb"\x42\x0a\x08\x01\x12\x00\x22\x04(.{4})",
    re.DOTALL,
)
_OURS = (b"switch/", b"gate/", b"gates/", b"_hparams_/session_start_info")


class Run:
    """The weights and gates in the events of one folder.

    Attributes:
        name: the folder, seen from the log-dir.
        columns: where the weight of a layer, kind and statistic stands in a row of `rows()`.
        options: the hyperparameters of the run; `{}` if none were logged.
        generation: changes when rows that were once given out are no longer true.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.columns: Columns = {}
        self.options: dict[str, Any] = {}
        self.generation = 0
        self._steps: list[int] = []
        self._values = np.zeros((64, 0), np.float32)
        self._known = np.zeros((64, 0), bool)  # which values of a row have been read
        self._gates: dict[int, dict[str, np.ndarray]] = {}  # {step: {path: counts by bin}}

    def put(self, key: tuple[str, str, str], step: int, value: float) -> None:
        """Adds a weight. As in `analysis.read`, a step replaces itself and all later ones."""
        column = self.columns.setdefault(key, len(self.columns))
        self._make_room(column)
        if not self._steps or step != self._steps[-1]:
            self._go_to(step)
        row = len(self._steps) - 1
        if self._known[row, column] and self._values[row, column] != np.float32(value):
            self.generation += 1
        self._values[row, column] = value
        self._known[row, column] = True

    def put_gates(self, path: str, step: int, buckets: np.ndarray) -> None:
        """Adds a histogram of gates: `buckets` has rows of left edge, right edge and count."""
        self._gates.setdefault(step, {})[path] = rebin(buckets)

    def rows(self) -> tuple[list[int], np.ndarray]:
        """The steps at which all weights are known, and their weights, of shape (steps, columns).

        If a run was killed while it wrote, its last step is incomplete.
        """
        used = len(self._steps)
        (complete,) = np.nonzero(self._known[:used].all(axis=1))
        values = self._values[:used]
        steps = [self._steps[row] for row in complete]
        return steps, values if len(complete) == used else values[complete]

    def is_mixed(self) -> bool:
        """Whether there are several steps, and at none of them are all weights known."""
        used = len(self._steps)
        return used > 1 and not self._known[:used].all(axis=1).any()

    def gates(self) -> tuple[list[int], list[str], np.ndarray]:
        """Steps, layer paths, and the counts of gates, of shape (steps, layers, BINS)."""
        paths = list(dict.fromkeys(path for gates in self._gates.values() for path in gates))
        steps = sorted(step for step, gates in self._gates.items() if len(gates) == len(paths))
        counts = [[self._gates[step][path] for path in paths] for step in steps]
        return steps, paths, np.array(counts, np.float32).reshape(len(steps), len(paths), BINS)

    def describe(self) -> dict[str, Any]:
        """What the page has to know before it asks for weights, ready for JSON."""
        layers: dict[str, dict[str, dict[str, int]]] = {}
        for (path, kind, statistic), column in self.columns.items():
            layers.setdefault(path, {}).setdefault(kind, {})[statistic] = column
        steps, _ = self.rows()
        return {
            "name": self.name,
            "generation": self.generation,
            "rows": len(steps),
            "gates": bool(self._gates),
            "options": self.options,
            "layers": [
                {"path": path, "stage": stage(path), "weights": weights}
                for path, weights in layers.items()
            ],
        }

    def _go_to(self, step: int) -> None:
        while self._steps and self._steps[-1] > step:  # the run was resumed before that
            self._steps.pop()
            self.generation += 1
        for later in [s for s in self._gates if s > step]:
            del self._gates[later]
        if not self._steps or self._steps[-1] != step:
            self._steps.append(step)
            self._make_room(len(self.columns) - 1)
            self._known[len(self._steps) - 1] = False

    def _make_room(self, column: int) -> None:
        rows, columns = self._values.shape
        more_columns = max(0, column + 1 - columns)
        more_rows = rows if len(self._steps) > rows else 0
        if more_columns or more_rows:
            self.generation += bool(more_columns)  # rows have become longer
            room = ((0, more_rows), (0, more_columns))
            self._values, self._known = np.pad(self._values, room), np.pad(self._known, room)


@dataclasses.dataclass
class File:
    """An event file, and how far it has been read."""

    inode: int
    place: int = 0
    problem: str = ""


class Store:
    """All runs with switches or gates below some folders.

    Args:
        roots: `{prefix of the names of runs: folder}`.

    Attributes:
        runs: `{name: Run}` with switches, gates or hyperparameters. Hold `lock` while you use them.
        version: changes when anything was read, or is gone.
        reading: whether a pass over the files is under way.
        passes: the number of passes that have ended.
        lock: held while runs change.

    Example:
        >>> import keras_norms, pathlib, tempfile
        >>> from keras_norms.tensorboard.store import Store
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (pathlib.Path(folder) / "events.out.tfevents.1").write_bytes(b"")
        ...     store = Store({"": folder})
        ...     store.read()
        ...     store.runs, list(store.problems().values())
        ({}, ['is empty: nothing was logged to it yet'])
    """

    def __init__(self, roots: Mapping[str, str | os.PathLike]) -> None:
        self.roots = {prefix: os.fspath(folder) for prefix, folder in roots.items()}
        self.runs: dict[str, Run] = {}
        self.version = 0
        self.reading = False
        self.passes = 0
        self.lock = threading.Lock()
        self._files: dict[str, File] = {}
        self._pass = threading.Lock()

    def refresh(self) -> threading.Thread | None:
        """Begins a pass over the files in the background, unless one is under way."""
        if self.reading:
            return None
        self.reading = True
        thread = threading.Thread(target=self.read, name="norms", daemon=True)
        thread.start()
        return thread

    def read(self) -> None:
        """Reads what has been written since the last call."""
        with self._pass:
            self.reading = True
            try:
                folders = dict(self._folders())
                found = {path for paths in folders.values() for path in paths}
                with self.lock:
                    gone = [path for path in self._files if path not in found]
                    for path in gone:
                        del self._files[path]
                    for name in [name for name in self.runs if name not in folders]:
                        del self.runs[name]
                    self.version += bool(gone)
                cut = {os.path.dirname(path) for path in gone}
                for name, paths in folders.items():
                    self._read_folder(name, paths, os.path.dirname(paths[0]) in cut)
            finally:
                self.reading = False
                self.passes += 1

    def problems(self) -> dict[str, str]:
        """`{path: what is wrong with it}` of event files, and of runs that cannot be shown."""
        problems = {path: file.problem for path, file in self._files.items() if file.problem}
        for name, run in self.runs.items():
            if run.is_mixed():
                problems[name] = (
                    "has no step at which all its layers were logged: do two models share the "
                    "folder? Log each run to a folder of its own"
                )
        return problems

    def shown(self) -> list[Run]:
        """The runs with switches or gates; others have hyperparameters alone."""
        return [run for run in list(self.runs.values()) if run.columns]

    def files(self) -> int:
        """The number of event files that were found."""
        return len(self._files)

    def _folders(self) -> Iterator[tuple[str, list[str]]]:
        for prefix, root in self.roots.items():
            for folder, inside, names in os.walk(root, followlinks=True):
                inside[:] = sorted(one for one in inside if not _leads_back(folder, one))
                paths = [os.path.join(folder, n) for n in sorted(names) if "tfevents" in n]
                if paths:
                    name = os.path.relpath(folder, root)
                    yield (f"{prefix}/{name}" if prefix else name), paths

    def _read_folder(self, name: str, paths: list[str], cut: bool) -> None:
        known = {path: self._files.get(path) for path in paths}
        if cut or any(file and _is_another(path, file) for path, file in known.items()):
            with self.lock:  # overwritten, or cut by a run that was resumed: read it anew
                if old := self.runs.get(name):
                    self.runs[name] = Run(name)
                    self.runs[name].generation = old.generation + 1
                for path in paths:
                    self._files.pop(path, None)
                self.version += 1
        for path in paths:
            try:
                problem = self._read_file(name, path)
            except OSError as error:
                problem = f"cannot be read: {error.strerror}. Check that TensorBoard may read it"
            with self.lock:
                file = self._files.setdefault(path, File(0))
                self.version += problem != file.problem
                file.problem = problem

    def _read_file(self, name: str, path: str) -> str:
        """Reads what is new in a file. Returns what is wrong with it."""
        status = os.stat(path)
        with self.lock:
            file = self._files.setdefault(path, File(status.st_ino))
        if file.problem.startswith("is broken"):
            return file.problem
        with open(path, "rb") as stream:
            stream.seek(file.place)
            rest = b""
            while chunk := stream.read(CHUNK):
                data = rest + chunk
                with self.lock:
                    used, problem = self._parse(name, data)
                    self.version += bool(used)
                file.place += used
                rest = data[used:]
                if problem:
                    return f"is broken at byte {file.place:,}: {problem}"
        if not status.st_size:
            return "is empty: nothing was logged to it yet"
        if rest and time.time() - status.st_mtime > QUIET:
            return (
                f"ends within an event, {len(rest)} bytes of it: the run was killed, or its disk "
                "is full. What was written before is shown"
            )
        return ""

    def _parse(self, name: str, data: bytes) -> tuple[int, str]:
        """Adds the whole records in `data`. Returns how many bytes they take, and what is wrong."""
        place, size, run = 0, len(data), self.runs.get(name)
        keys: dict[bytes, tuple[str, str, str] | None] = {}
        while place + 12 <= size:
            length, checksum = _HEADER.unpack_from(data, place)
            start, end = place + 12, place + 12 + length
            if end + 4 > size:
                if masked_crc32c(data[place : place + 8]) != checksum:
                    return place, _BROKEN
                break
            if found := _SCALAR.match(data, start, end):
                step, tag_size, tag, value = found.groups()
                if tag not in keys:
                    keys[tag] = split_tag(tag.decode()) if tag_size[0] == len(tag) else None
                if key := keys[tag]:
                    run = run or self.runs.setdefault(name, Run(name))
                    run.put(key, _varint(step), *struct.unpack("<f", value))
                    place = end + 4
                    continue
            record = data[start:end]
            if any(prefix in record for prefix in _OURS):
                try:
                    run = self._add(name, Event.FromString(record)) or run
                except Exception:  # of protobuf, which has several, or of what is in a tensor
                    return place, _BROKEN
            elif masked_crc32c(data[place : place + 8]) != checksum:
                return place, _BROKEN
            place = end + 4
        return place, ""

    def _add(self, name: str, event: Any) -> Run | None:
        """Adds all that is ours in an event. Returns its run if there was any."""
        run = self.runs.get(name)
        for value in event.summary.value:
            plugin = value.metadata.plugin_data.plugin_name
            if key := split_tag(value.tag):
                run = run or self.runs.setdefault(name, Run(name))
                run.put(key, event.step, _number(value))
            elif value.tag.startswith("gates/") and plugin == "histograms":
                run = run or self.runs.setdefault(name, Run(name))
                path = value.tag.removeprefix("gates/")
                run.put_gates(path, event.step, tensor_util.make_ndarray(value.tensor))
            elif plugin == "hparams":
                data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                if options := data.session_start_info.hparams:
                    run = run or self.runs.setdefault(name, Run(name))
                    run.options = {
                        option: getattr(content, content.WhichOneof("kind"))
                        for option, content in sorted(options.items())
                        if content.WhichOneof("kind") != "null_value"
                    }
        return run


_BROKEN = "its length or content is no event. Copy the file again, or leave it out of the log-dir"


def rebin(buckets: np.ndarray) -> np.ndarray:
    """The counts of a histogram over other buckets in `BINS` equal bins over [0, 1].

    Args:
        buckets: array of shape (buckets, 3): left edge, right edge, count.

    Returns:
        array of shape (BINS,), with the same sum. The gates of a bucket are taken to be spread
        evenly in it; a bucket as wide as all of [0, 1] is TensorFlow's for equal values.

    Example:
        >>> rebin(np.array([[0.0, 0.1, 4.0], [0.0, 1.0, 2.0]]))[[0, 1, 10]].tolist()
        [2.0, 2.0, 2.0]
    """
    counts, edges = np.zeros(BINS), np.linspace(0, 1, BINS + 1)
    for left, right, count in np.asarray(buckets, float):
        width = right - left
        if width < 1e-9 or width > 1 - 1e-6:
            place = np.clip((left + right) / 2 * BINS, 0, BINS - 1)
            counts[int(place)] += count if np.isfinite(count) else 0
        else:
            inside = np.minimum(edges[1:], right) - np.maximum(edges[:-1], left)
            counts += count * np.clip(inside, 0, None) / width
    return counts


def _number(value: Any) -> float:
    """A scalar, as TensorFlow 2 writes it or as `simple_value`."""
    if value.HasField("tensor"):
        return float(tensor_util.make_ndarray(value.tensor).item())
    return value.simple_value


def _varint(data: bytes) -> int:
    """A number in base 128, lowest digit first."""
    number = 0
    for byte in reversed(data):
        number = number << 7 | byte & 127
    return number


def _is_another(path: str, file: File) -> bool:
    """Whether a path no longer leads to the file of which a part has been read."""
    try:
        status = Path(path).stat()
    except OSError:
        return True
    return status.st_ino != file.inode or status.st_size < file.place


def _leads_back(folder: str, name: str) -> bool:
    """Whether a folder is a link to one that it is in, which has no end."""
    path = Path(folder, name)
    return path.is_symlink() and Path(folder).resolve().is_relative_to(path.resolve())


def statistics(runs: Mapping[str, Run]) -> list[str]:
    """The statistics that any run uses, in the order of `LABELS`."""
    used = {s for run in runs.values() for _, _, s in run.columns}
    if any(kind == "gate" for run in runs.values() for _, kind, _ in run.columns):
        used |= {"instance"}  # which is what the gate of batch statistics leaves
    return [s for s in LABELS if s in used]
