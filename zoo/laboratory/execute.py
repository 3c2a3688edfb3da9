"""Does the runs of a study, several at a time; what is done already is not done again."""

import collections
import contextlib
import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import time
import traceback

import tensorflow as tf
from tqdm import tqdm

from keras_norms.output import write_json
from zoo.data import sources
from zoo.laboratory.study import Rows
from zoo.training import distribution
from zoo.training.callbacks import Terminated


def execute(runs, seeds, folder, data_dir=None, jobs=1, replicas=1):
    """Does each run with each seed, seed by seed.

    A run is done when its folder holds `rows.json`, for the same settings. One that fails stops
    no other.

    Args:
        runs: list of `study.Run`.
        seeds: list of int.
        folder: `pathlib.Path`, below which each run has a folder of its own.
        data_dir: directory of TensorFlow Datasets.
        jobs: int, processes to share the runs and the cores of the machine.
        replicas: int, the most replicas that a run has.

    Returns:
        `(rows, seconds, failures)`: `study.Rows`, with one of factors alone for a run that failed,
        what all runs took together, and `{folder of a run: what happened}`.

    Raises:
        ValueError: if a run's data is not there, and cannot be downloaded.
        KeyboardInterrupt: at SIGINT and SIGTERM; what is running has been saved.
    """
    work = {folder / f"{run.name}-s{seed}": (run, seed) for seed in seeds for run in runs}
    missing = [place for place, (run, _) in work.items() if _read(place, run) is None]
    # Before several processes look for it, and download it all at the same time.
    for dataset in {work[place][0].task.dataset for place in missing} - {None}:
        sources.find(dataset, data_dir)
    failures = _do(missing, work, data_dir, jobs, replicas) if missing else {}
    rows, seconds = Rows(), 0.0
    for place, (run, seed) in work.items():
        # What is missing has its place too: another run must not be taken for the largest batch.
        missed = {"seconds": 0.0, "rows": [{"failed": failures.get(place)}]}
        record = _read(place, run) or missed
        seconds += record["seconds"]
        rows += [{"run": run.name, "seed": seed, **run.factors, **r} for r in record["rows"]]
    return rows, seconds, failures


def _do(places, work, data_dir, jobs, replicas):
    """Does the runs of these folders: `{folder: what failed}`."""
    failures, waiting = {}, collections.deque(places)
    threads = max(1, os.cpu_count() // jobs)
    busy, idle = {}, []
    with (
        _at_sigterm(_tell_children),
        tqdm(total=len(work), initial=len(work) - len(places), unit="run") as bar,
        contextlib.ExitStack() as workers,
    ):
        while waiting or busy:
            while waiting and len(busy) < jobs:
                worker = idle.pop() if idle else workers.enter_context(_Worker(threads, replicas))
                place = waiting.popleft()
                worker.begin(*work[place], place, data_dir)
                busy[worker.pipe] = worker, place
            for pipe in multiprocessing.connection.wait(busy):
                worker, place = busy.pop(pipe)
                try:
                    reason = pipe.recv()
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

    Not `concurrent.futures`: there a process that dies takes the others along, and one that is
    told to end begins another run.
    """

    def __init__(self, threads, replicas):
        context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, threads, replicas))
        self._process.start()
        other.close()

    def begin(self, *run):
        """Begins a run; what `_outcome` says of it can be received from the pipe."""
        self.pipe.send(run)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.pipe.close()
        self._process.join()


def _serve(pipe, threads, replicas):
    """What a worker's process does."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    with contextlib.suppress(ValueError):  # which the runs will raise
        distribution.strategy(replicas)  # TensorFlow sets up its devices once
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt, Terminated):
        while True:
            pipe.send(_outcome(*pipe.recv()))


def _outcome(*run):
    """Does a run: None, or what failed."""
    try:
        _run(*run)
    except Terminated:  # it has been told to end, and has saved itself
        raise
    except Exception as error:  # whatever a run may raise
        return f"{type(error).__name__}: {error}"


def _run(run, seed, place, data_dir):
    """Does one run, or goes on with it, and writes `rows.json`."""
    settings, before = describe(run.task), _json(place / "task.json") or {}
    if place.exists() and _work(before) != _work(settings):  # of another plan
        old = place.with_name(f"{place.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
    place.mkdir(parents=True, exist_ok=True)
    (place / "rows.json").unlink(missing_ok=True)
    write_json(place / "task.json", settings)
    start = time.perf_counter()
    with (
        open(place / "log.txt", "a") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            rows = run.task.rows(seed, place, data_dir)
        except Exception:
            traceback.print_exc()
            raise
    write_json(place / "rows.json", {"rows": rows, "seconds": time.perf_counter() - start})


def _read(place, run):
    """What a run has left, or None if it is not done, or was done with other settings."""
    if _json(place / "task.json") != describe(run.task):
        return None
    return _json(place / "rows.json")


def _json(path):
    """What a file holds; None without one, or if its writing was cut off."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _work(settings):
    """What cannot be had anew without doing it all again."""
    return {name: value for name, value in settings.items() if name != "measures"}


def describe(task):
    """The settings of a task that are not its defaults, as JSON values."""

    def plain(value):
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
def _at_sigterm(handler):
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell_children(number, frame):
    """A terminal sends SIGINT to all processes; nobody sends SIGTERM to more than one."""
    for child in multiprocessing.active_children():
        child.terminate()
    raise KeyboardInterrupt
