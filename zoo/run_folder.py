"""The folder of a training run: what it is called, and what is written into it."""

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
from zoo import checkpoint, events, workers

# What a run writes into its folder.
_FILES = (
    *("run.json", "vocabulary.json", "tensorboard", "checkpoints", "model.keras", "saved_model"),
    "sample.txt",
)
# By how much logits of one model may differ, as a share of the largest.
_ROUNDING = {"float32": 1e-5, "mixed_float16": 1e-2, "mixed_bfloat16": 1e-1}


def choose(options, replicas):
    """The folder of the run; it is free, or to be overwritten or gone on with."""
    name = "-".join((options.model, options.norm, Path(options.dataset).name))
    name = f"{name}-b{options.batch_size}x{replicas}-s{options.seed}"
    run = Path(options.log_dir or Path("runs", re.sub(r"[^\w.,=-]+", "_", name)))
    found = [name for name in _FILES if (run / name).exists()]
    if found and not (options.overwrite or options.resume) and workers.is_chief():
        raise FileExistsError(
            f"{run} holds a run already ({', '.join(found)}). Choose another folder with "
            "--log-dir, go on with it by --resume, or replace it with --overwrite."
        )
    return run


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
    except (ValueError, KeyError) as error:
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


def create(run, record, vocabulary=None):
    """Makes room, and writes what is known before training."""
    for path in (run / name for name in _FILES):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (run / "checkpoints").mkdir(parents=True)
    write_record(run, record)
    if vocabulary is not None:
        (run / "vocabulary.json").write_text(json.dumps(vocabulary, indent=0) + "\n")


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
    (run / "run.json.new").write_text(json.dumps(record, indent=2) + "\n")
    os.replace(run / "run.json.new", run / "run.json")


def versions():
    """Those of Python and the packages that decide what a run does."""
    packages = ("keras", "tensorflow", "tensorflow-datasets", "tensorboard", "numpy")
    ours = {"python": platform.python_version(), "keras_norms": keras_norms.__version__}
    return ours | {package: importlib.metadata.version(package) for package in packages}


def write_sample(run, sample, step):
    """Writes what a language model writes, also to TensorBoard."""
    (run / "sample.txt").write_text(sample + "\n")
    write_text(run, "sample", f"```\n{sample}\n```", step)


def write_table(run, facts):
    """Writes the options of the run to TensorBoard."""
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    write_text(run, "run", "\n".join(["| option | value |", "| --- | --- |", *rows]), step=0)


def write_text(run, name, markdown, step):
    """Writes a text to TensorBoard."""
    with tf.summary.create_file_writer(str(run / "tensorboard")).as_default(step=step):
        tf.summary.text(name, markdown)


def save_model(run, model, batches, precision):
    """Saves and exports the model, and compares the exported logits with its own.

    Returns:
        The model as it was read back, whose variables are plain ones, not those of a strategy;
        and by how much the logits differ at most.
    """
    model.save(run / "model.keras")
    saved = keras.saving.load_model(run / "model.keras", compile=False)
    saved.export(run / "saved_model", verbose=False)
    exported = tf.saved_model.load(run / "saved_model")
    batch, *_ = next(iter(batches))
    logits = np.asarray(model(batch, training=False))
    difference = float(np.max(np.abs(exported.serve(batch) - logits)))
    if difference > _ROUNDING[precision] * max(1.0, float(np.max(np.abs(logits)))):
        print(f"warning: the logits of saved_model differ from the model's by up to {difference}")
    return saved, difference
