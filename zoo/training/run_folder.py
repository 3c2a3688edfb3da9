"""The folder of a training run: what it is called, and what is written into it."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import keras_norms
from keras_norms.output import markdown_table, write_json
from zoo.training import checkpoint, events, workers

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

# What a run writes into its folder.
_FILES = (
    *("run.json", "vocabulary.json", "tensorboard", "checkpoints", "model.keras", "saved_model"),
    "sample.txt",
)
# By how much logits of one model may differ, as a share of the largest.
_ROUNDING = {"float32": 1e-5, "mixed_float16": 1e-2, "mixed_bfloat16": 1e-1}


def choose(options, replicas):
    """The folder of the run."""
    name = "-".join((options.model, options.norm, Path(options.dataset).name))
    name = f"{name}-b{options.batch_size}x{replicas}-s{options.seed}"
    return Path(options.log_dir or Path("runs", re.sub(r"[^\w.,=-]+", "_", name)))


@contextlib.contextmanager
def claim(run, options):
    """Keeps the folder for this run, which ends with the process however that ends.

    Nothing is left of a folder that has not been there before if nothing is written into it.

    Raises:
        OSError: if another process trains in this folder, if it cannot be written, or if it
            holds a run and `options` do not say what to do with that.
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
        found = [name for name in _FILES if (run / name).exists()]
        if found and not (options.overwrite or options.resume):
            raise FileExistsError(
                f"{run} holds a run already ({', '.join(found)}). Choose another folder with "
                "--log-dir, go on with it by --resume, or replace it with --overwrite."
            )
        if found and options.resume and not (run / "run.json").exists():
            raise FileExistsError(
                f"{run} holds {', '.join(found)}, but no run.json, so no run to go on with. "
                "Choose another folder with --log-dir, or replace them with --overwrite."
            )
        yield


@contextlib.contextmanager
def _folder(path):
    """A folder, which is removed if it was not there before and stays empty."""
    missing = []
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # not empty, or never made
                folder.rmdir()


@contextlib.contextmanager
def _lock(path):
    """A file that no other process locks meanwhile; the end of this one unlocks it."""
    held = False
    while not held:
        with open(path, "w") as file:
            try:
                if fcntl:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:  # a file system that knows no locks
                pass
            # Who has had it before may have removed it just now.
            held = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
            if held:
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)


def begun(run, options):
    """The record of the run to go on with, or None if there is none.

    Raises:
        ValueError: if it was begun with other options, or cannot be read.
    """
    path = run / "run.json"
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
    free = ("resume", "overwrite", "log_dir", "data_dir")
    other = [name for name in now if name not in free and now[name] != before.get(name)]
    if other:
        changes = ", ".join(f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in other)
        raise ValueError(
            f"{run} was begun with other options: {changes}. Resume it with those, or choose "
            "another folder with --log-dir."
        )
    return record


def create(run, record):
    """Makes room, and writes what is known before training."""
    for path in (run / name for name in _FILES):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    write_record(run, record)  # first, for without it nothing is gone on with
    (run / "checkpoints").mkdir()


def go_on(run, model, steps, chief=True):
    """Restores the last checkpoint, and forgets what was logged after it.

    Args:
        run: `pathlib.Path`, the run folder.
        model: the model as it was before training, compiled.
        steps: int, those of an epoch.
        chief: whether this process writes the run folder.

    Returns:
        The `checkpoint.Position` from which to train.
    """
    position = checkpoint.restore(run / "checkpoints", model)
    if position == checkpoint.Position():
        if chief:
            shutil.rmtree(run / "tensorboard", ignore_errors=True)
        return position
    print(f"resumed after {position.epoch} epochs and {position.step} steps")
    batches = position.epoch * steps + position.step
    iterations = int(ops.convert_to_numpy(model.optimizer.iterations))
    if chief:
        events.forget(run / "tensorboard", position.epoch, batches, iterations)
    return position


def write_record(run, record):
    """Writes `run.json`, as a whole or not at all."""
    write_json(run / "run.json", record)


def versions():
    """Those of Python and the packages that decide what a run does."""
    packages = ("keras", "tensorflow", "tensorflow-datasets", "tensorboard", "numpy")
    ours = {"python": platform.python_version(), "keras_norms": keras_norms.__version__}
    return ours | {package: importlib.metadata.version(package) for package in packages}


def write_sample(run, sample, step):
    """Writes what a language model writes, also to TensorBoard."""
    (run / "sample.txt").write_text(sample + "\n")
    write_text(run, "sample", f"```\n{sample}\n```", step)


def write_start(run, facts, vocabulary=None):
    """Writes the options of the run to TensorBoard, and the vocabulary of text."""
    if vocabulary is not None:
        (run / "vocabulary.json").write_text(json.dumps(vocabulary, indent=0) + "\n")
    write_text(run, "run", markdown_table(["option", "value"], facts.items()), step=0)


def write_text(run, name, text, step):
    """Writes a text to TensorBoard."""
    with tf.summary.create_file_writer(str(run / "tensorboard")).as_default(step=step):
        tf.summary.text(name, text)


def save_model(run, model):
    """Saves the model.

    Returns:
        The model as it was read back, whose variables are plain ones, not those of a strategy.

    Raises:
        OSError: if it cannot be written.
    """
    with _saving(run):
        model.save(run / "model.keras")
        return keras.saving.load_model(run / "model.keras", compile=False)


def export(run, model, saved, batches, precision):
    """Exports the model as it was saved, and compares the exported logits with the model's own.

    Returns:
        By how much the logits differ at most.

    Raises:
        OSError: if it cannot be written.
    """
    with _saving(run):
        saved.export(run / "saved_model", verbose=False)
    exported = tf.saved_model.load(run / "saved_model")
    batch, *_ = next(iter(batches))
    logits = np.asarray(model(batch, training=False))
    difference = float(np.max(np.abs(exported.serve(batch) - logits)))
    if difference > _ROUNDING[precision] * max(1.0, float(np.max(np.abs(logits)))):
        print(f"warning: the logits of saved_model differ from the model's by up to {difference}")
    return difference


@contextlib.contextmanager
def _saving(run):
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise OSError(
            f"{run}: the model cannot be saved: {error}. Training is done, and its end is the "
            "last checkpoint: make room, and save the model with --resume."
        ) from error
