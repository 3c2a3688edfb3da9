"""The folder of a training run: its name, who may write into it, and what is written."""

import contextlib
import dataclasses
import enum
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import keras_norms
from keras_norms.output import markdown_table, write_json
from zoo.training import checkpoint, events, workers
from zoo.training.options import TrainOptions

try:
    import fcntl
except ImportError:  # Windows, where folders are not locked
    fcntl = None  # type: ignore[assignment]


class Part(enum.StrEnum):
    """What a run writes into its folder: names of files and folders."""

    RECORD = "run.json"
    VOCABULARY = "vocabulary.json"
    EVENTS = "tensorboard"
    CHECKPOINTS = "checkpoints"
    MODEL = "model.keras"
    EXPORT = "saved_model"
    SAMPLE = "sample.txt"


# Largest difference between logits of the exported and the original model, as a share of the
# largest logit.
_ROUNDING = {"float32": 1e-5, "mixed_float16": 1e-2, "mixed_bfloat16": 1e-1}


def choose(options: TrainOptions, replicas: int) -> Path:
    """The folder of a run: the one that options name, or one named after the options."""
    name = "-".join((options.model, options.norm, Path(options.dataset).name))
    name = f"{name}-b{options.batch_size}x{replicas}-s{options.seed}"
    return Path(options.log_dir or Path("runs", re.sub(r"[^\w.,=-]+", "_", name)))


@contextlib.contextmanager
def reserve(run: Path, options: TrainOptions) -> Iterator[None]:
    """Makes the run folder, and keeps other processes out of it.

    The lock ends with the process, however that ends. A new folder is removed again if nothing is
    written into it.

    Raises:
        OSError: if another process trains in this folder; if it cannot be written; or if it holds
            a run, and `options` do not say what to do with that.
    """
    if not workers.is_chief():
        yield
        return
    elsewhere = "Choose another folder with --log-dir."
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_folder(run))
            stack.enter_context(_lock(run / "lock"))
        except (FileExistsError, NotADirectoryError) as error:
            raise OSError(f"{run} is no folder, but a file or below one. {elsewhere}") from error
        except BlockingIOError as error:
            raise OSError(f"{run} is in use: another process trains in it. {elsewhere}") from error
        except OSError as error:
            raise OSError(f"{run} cannot be written: {error.strerror}. {elsewhere}") from error
        found = [part for part in Part if (run / part).exists()]
        if found and not (options.overwrite or options.resume):
            raise FileExistsError(
                f"{run} holds a run already ({', '.join(found)}). Choose another folder with "
                "--log-dir, go on with it by --resume, or replace it with --overwrite."
            )
        if found and options.resume and Part.RECORD not in found:
            raise FileExistsError(
                f"{run} holds {', '.join(found)}, but no {Part.RECORD}, so no run to go on with. "
                "Choose another folder with --log-dir, or replace them with --overwrite."
            )
        yield


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Makes a folder, and at the end removes it if it is new and still empty."""
    missing: list[Path] = []
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # it is not empty, or could not be made
                folder.rmdir()


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Locks a file, which is deleted at the end.

    Raises:
        BlockingIOError: if another process has locked it.
    """
    held = False
    while not held:
        with open(path, "w") as file:
            try:
                if fcntl:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:  # the file system has no locks
                pass
            # Another process may have deleted the file after it was opened here. A lock on a
            # deleted file keeps nobody out, so that a new file is needed.
            held = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
            if held:
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)


def read_resumable(run: Path, options: TrainOptions) -> dict[str, Any] | None:
    """The record of the run that `options` resume; None if there is none.

    Raises:
        ValueError: if it was started with other options, or cannot be read.
    """
    path = run / Part.RECORD
    if not options.resume or not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        before = record["options"]
        results = record["results"]
        if not isinstance(before, dict) or not isinstance(results, dict | None):
            raise ValueError("it is no record of a run")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}). Replace the run with --overwrite."
        ) from error
    now = json.loads(json.dumps(dataclasses.asdict(options)))
    may_differ = ("resume", "overwrite", "log_dir", "data_dir")
    other = [name for name in now if name not in may_differ and now[name] != before.get(name)]
    if other == ["epochs"] and options.epochs > before["epochs"]:
        if options.schedule == "constant":
            return record | {"options": now, "results": None}
        raise ValueError(
            f"{run} was begun with epochs={before['epochs']}, and the {options.schedule} schedule "
            "spreads the learning rate over all of them. A longer run would have had other rates "
            "from the start. Only runs with --schedule constant can be made longer."
        )
    if other:
        changes = ", ".join(f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in other)
        raise ValueError(
            f"{run} was begun with other options: {changes}. Resume it with those, or choose "
            "another folder with --log-dir."
        )
    return record


def refuse_other_facts(run: Path, record: dict[str, Any], facts: dict[str, Any]) -> None:
    """Raises a ValueError if what follows from the options is not what it was: other devices."""
    before = record.get("facts", {})
    other = [name for name in before if before[name] != facts[name]]
    if other:
        changes = ", ".join(f"{name} was {before[name]}, is {facts[name]}" for name in other)
        raise ValueError(
            f"{run} was begun on other devices or data: {changes}. Resume it on as many devices "
            "(--replicas, TF_CONFIG), or choose another folder with --log-dir."
        )


def create(run: Path, record: dict[str, Any]) -> None:
    """Removes what an earlier run has left, and writes what is known before training."""
    for path in (run / part for part in Part):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    write_record(run, record)  # first, since a run without a record cannot be resumed
    (run / Part.CHECKPOINTS).mkdir()


def restore(
    run: Path, model: keras.Model, steps_per_epoch: int, chief: bool = True
) -> checkpoint.Position:
    """Restores the last checkpoint, and removes what was logged after it.

    Args:
        run: the run folder.
        model: the model as it was before training, compiled.
        steps_per_epoch: number of steps.
        chief: whether this process writes the run folder.

    Returns:
        The position from which to train.
    """
    position = checkpoint.restore(run / Part.CHECKPOINTS, model)
    if position.is_start:
        if chief:
            shutil.rmtree(run / Part.EVENTS, ignore_errors=True)
        return position
    print(f"resumed after {position.epoch} epochs and {position.step} steps")
    if chief:
        iterations = int(ops.convert_to_numpy(model.optimizer.iterations))
        batches = position.batches(steps_per_epoch)
        events.cut(run / Part.EVENTS, batches, iterations)
    return position


def write_record(run: Path, record: dict[str, Any]) -> None:
    """Writes the record, as a whole or not at all."""
    write_json(run / Part.RECORD, record)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that influence a run."""
    packages = ("keras", "tensorflow", "tensorflow-datasets", "tensorboard", "numpy")
    ours = {"python": platform.python_version(), "keras_norms": keras_norms.__version__}
    return ours | {package: importlib.metadata.version(package) for package in packages}


def write_sample(run: Path, sample: str, step: int) -> None:
    """Writes the sample of a language model into a file and to TensorBoard."""
    (run / Part.SAMPLE).write_text(sample + "\n")
    _write_text_event(run, "sample", f"```\n{sample}\n```", step)


def write_vocabulary(run: Path, vocabulary: list[str]) -> None:
    """Writes the vocabulary, with which the exported model reads new text."""
    (run / Part.VOCABULARY).write_text(json.dumps(vocabulary, indent=0) + "\n")


def write_options(run: Path, options: dict[str, Any]) -> None:
    """Writes a table of the options to TensorBoard."""
    _write_text_event(run, "run", markdown_table(["option", "value"], options.items()), step=0)


def _write_text_event(run: Path, name: str, text: str, step: int) -> None:
    with tf.summary.create_file_writer(str(run / Part.EVENTS)).as_default(step=step):
        tf.summary.text(name, text)


def save_model(run: Path, model: keras.Model) -> keras.Model:
    """Saves the model, and reads it back.

    Returns:
        The model that was read back. Unlike the original's, its variables belong to no
        distribution strategy.

    Raises:
        OSError: if it cannot be written.
    """
    with _save_errors(run):
        model.save(run / Part.MODEL)
        return keras.saving.load_model(run / Part.MODEL, compile=False)


def export(
    run: Path, model: keras.Model, saved: keras.Model, batches: tf.data.Dataset, precision: str
) -> float:
    """Exports the saved model, and warns if its logits differ from the original's.

    Args:
        run: the run folder.
        model: the model that was trained.
        saved: what `save_model` returned.
        batches: test batches, the first of which is used.
        precision: of the layers' computations, which decides how large a difference is rounding.

    Returns:
        The largest difference between the logits.

    Raises:
        OSError: if it cannot be written.
    """
    with _save_errors(run):
        saved.export(run / Part.EXPORT, verbose=False)
    exported = tf.saved_model.load(run / Part.EXPORT)
    batch, *_ = next(iter(batches))
    logits = np.asarray(model(batch, training=False))
    difference = float(np.max(np.abs(exported.serve(batch) - logits)))
    if difference > _ROUNDING[precision] * max(1.0, float(np.max(np.abs(logits)))):
        print(f"warning: the logits of saved_model differ from the model's by up to {difference}")
    return difference


@contextlib.contextmanager
def _save_errors(run: Path) -> Iterator[None]:
    """Adds to an error that the training is not lost."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise OSError(
            f"{run}: the model cannot be saved: {error}. Training is done, and its end is the "
            "last checkpoint: make room, and save the model with --resume."
        ) from error
