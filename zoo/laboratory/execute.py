"""Does the runs of a study, several at a time, and none that is done already."""

import collections
import contextlib
import dataclasses
import datetime
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Self

import tensorflow as tf
from tqdm import tqdm

from keras_norms.output import write_json
from zoo.data import catalog
from zoo.laboratory import provenance
from zoo.laboratory.study import Rows, Run, Task
from zoo.training import distribution
from zoo.training.callbacks import Terminated

# {folder of a run: the run and its seed}
Work = Mapping[Path, tuple[Run, int]]


class Executed(NamedTuple):
    """What all runs left.

    Attributes:
        rows: the results, with the factors of their runs; the factors alone of a run that failed.
        seconds: the time of the runs, added up.
        failures: `{folder of a run: what happened}`.
        began: when the first run began, in ISO format; None if no run is done.
        commits: those of the code at the beginning of the runs.
    """

    rows: Rows
    seconds: float
    failures: dict[Path, str]
    began: str | None
    commits: list[str]


def execute(
    runs: Sequence[Run],
    seeds: Sequence[int],
    folder: Path,
    data_dir: str | None = None,
    jobs: int = 1,
    replicas: int = 1,
) -> Executed:
    """Does each run with each seed, seed by seed.

    A run is done when its folder holds a `rows.json` of the same settings. A run that fails does
    not stop the others.

    Args:
        runs: what to do.
        seeds: with which seeds.
        folder: below it, each run with each seed has a folder of its own.
        data_dir: directory of TensorFlow Datasets.
        jobs: how many processes share the runs and the cores of the machine.
        replicas: the most replicas that a run has.

    Raises:
        ValueError: if the data of a run is missing and cannot be downloaded.
        KeyboardInterrupt: at SIGINT and SIGTERM, once the unfinished runs have saved themselves.
    """
    work = {folder / f"{run.name}-s{seed}": (run, seed) for seed in seeds for run in runs}
    missing = [place for place, (run, _) in work.items() if _read_record(place, run.task) is None]
    # Before the workers start, because several would download the same data at once.
    for dataset in {work[place][0].task.dataset for place in missing}:
        if dataset is not None:
            catalog.find(dataset, data_dir)
    failures = _run_all(missing, work, data_dir, jobs, replicas) if missing else {}
    rows, seconds, began, commits = Rows(), 0.0, [], []
    for place, (run, seed) in work.items():
        # A failed run has a row too: without it, `batch=max` would select another batch.
        without: dict[str, Any] = {"seconds": 0.0, "rows": [{"failed": failures.get(place)}]}
        record = _read_record(place, run.task) or without
        seconds += record["seconds"]
        rows += [{"run": run.name, "seed": seed, **run.factors, **r} for r in record["rows"]]
        began += [record["began"]] if "began" in record else []
        commits += [record["commit"]] if record.get("commit") else []
    first = min(began, default=None)
    return Executed(rows, seconds, failures, first, sorted(set(commits)))


def _run_all(
    places: Sequence[Path], work: Work, data_dir: str | None, jobs: int, replicas: int
) -> dict[Path, str]:
    """Does the runs of these folders, and returns `{folder: what failed}`."""
    failures: dict[Path, str] = {}
    waiting = collections.deque(places)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    busy: dict[Any, tuple[_Worker, Path]] = {}
    idle: list[_Worker] = []
    with (
        _at_sigterm(_end_children),
        tqdm(total=len(work), initial=len(work) - len(places), unit="run") as bar,
        contextlib.ExitStack() as workers,
    ):
        while waiting or busy:
            while waiting and len(busy) < jobs:
                worker = idle.pop() if idle else workers.enter_context(_Worker(threads, replicas))
                place = waiting.popleft()
                worker.begin(*work[place], place, data_dir)
                busy[worker.pipe] = worker, place
            for pipe in multiprocessing.connection.wait(list(busy)):
                worker, place = busy.pop(pipe)
                try:
                    reason = worker.pipe.recv()
                    idle.append(worker)
                except EOFError:
                    reason = "its process has died"
                bar.set_postfix_str(place.name)
                if reason is not None:
                    failures[place] = reason
                    bar.write(f"{place.name} failed: {reason} (see {place / 'log.txt'})")
                bar.update()
    return failures


class _Worker:
    """A process that does one run after the other, until its pipe is closed.

    `concurrent.futures` will not do: there, a process that dies ends all others, and one that is
    told to end begins another run.
    """

    def __init__(self, threads: int, replicas: int) -> None:
        context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, threads, replicas))
        self._process.start()
        other.close()

    def begin(self, run: Run, seed: int, place: Path, data_dir: str | None) -> None:
        """Begins a run. When it ends, the pipe delivers what `_outcome` returns."""
        self.pipe.send((run, seed, place, data_dir))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.pipe.close()
        self._process.join()


def _serve(pipe: multiprocessing.connection.Connection, threads: int, replicas: int) -> None:
    """Does the runs that come through the pipe, in the process of a worker."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # First, since TensorFlow sets up its devices only once. If there are too few, each run that
    # needs them says so.
    with contextlib.suppress(ValueError):
        distribution.strategy(replicas)
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt, Terminated):
        while True:
            pipe.send(_outcome(*pipe.recv()))


def _outcome(run: Run, seed: int, place: Path, data_dir: str | None) -> str | None:
    """Does a run, and returns None or what failed."""
    try:
        _do(run.task, seed, place, data_dir)
    except Terminated:  # the run has saved itself, and the process has to end
        raise
    except Exception as error:  # whatever a run may raise
        return f"{type(error).__name__}: {error}"
    return None


def _do(task: Task, seed: int, place: Path, data_dir: str | None) -> None:
    """Does a run, or continues it, and writes its `rows.json`."""
    settings, record = describe(task), _read_json(place / "task.json") or {}
    before = record.get("settings", {})
    if place.exists() and _without_measures(before) != _without_measures(settings):
        old = place.with_name(f"{place.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
        record = {}
    place.mkdir(parents=True, exist_ok=True)
    (place / "rows.json").unlink(missing_ok=True)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    origin = {"began": now, "commit": provenance.commit()}
    write_json(place / "task.json", origin | record | {"settings": settings})
    start = time.perf_counter()
    with (
        open(place / "log.txt", "a") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            rows = task.rows(seed, place, data_dir)
        except Exception:
            traceback.print_exc()
            raise
    write_json(place / "rows.json", {"rows": rows, "seconds": time.perf_counter() - start})


def _read_record(place: Path, task: Task) -> dict[str, Any] | None:
    """What a run left in its folder; None if it is not done, or has other settings."""
    origin, results = (_read_json(place / name) for name in ("task.json", "rows.json"))
    if not origin or not results or origin.get("settings") != describe(task):
        return None
    return origin | results


def _read_json(path: Path) -> Any:
    """The content of a file; None if there is no file, or its writing was cut off."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _without_measures(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that say what is trained.

    Where only the measures are new, they are taken of the model that was trained before.
    """
    return {name: value for name, value in settings.items() if name != "measures"}


def describe(task: Task) -> dict[str, Any]:
    """The settings of a task that differ from its defaults, as JSON values."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            defaults = {f.name: f.default for f in dataclasses.fields(value)}
            changed = {k: plain(v) for k, v in fields.items() if v != defaults[k]}
            return {"task": type(value).__name__} | changed
        if isinstance(value, dict):
            return {str(key): plain(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        return value.__name__ if callable(value) else value

    return plain(task)


@contextlib.contextmanager
def _at_sigterm(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Lets a function handle SIGTERM for the time of a `with` block."""
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_children(number: int, frame: FrameType | None) -> None:
    """Passes SIGTERM on to the workers, because it reaches this process alone.

    SIGINT needs no such help: a terminal sends it to all of them.
    """
    for child in multiprocessing.active_children():
        child.terminate()
    raise KeyboardInterrupt
