"""The folder of a training run: what it is called, and what is written into it."""

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

import keras_norms

# What a run writes into its folder.
_FILES = (
    *("run.json", "vocabulary.json", "tensorboard", "checkpoints", "model.keras", "saved_model"),
    "sample.txt",
)
# By how much logits of one model may differ, as a share of the largest.
_ROUNDING = {"float32": 1e-5, "mixed_float16": 1e-2, "mixed_bfloat16": 1e-1}


def choose(options, replicas):
    """The folder of the run; it is free, or to be overwritten."""
    name = "-".join((options.model, options.norm, Path(options.dataset).name))
    name = f"{name}-b{options.batch_size}x{replicas}-s{options.seed}"
    run = Path(options.log_dir or Path("runs", re.sub(r"[^\w.,=-]+", "_", name)))
    found = [name for name in _FILES if (run / name).exists()]
    if found and not options.overwrite:
        raise FileExistsError(
            f"{run} holds a run already ({', '.join(found)}). Choose another folder with "
            "--log-dir, or replace it with --overwrite."
        )
    return run


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


def write_record(run, record):
    """Writes `run.json`."""
    (run / "run.json").write_text(json.dumps(record, indent=2) + "\n")


def versions():
    """Those of Python and the packages that decide what a run does."""
    packages = ("keras", "tensorflow", "tensorflow-datasets", "tensorboard", "numpy")
    ours = {"python": platform.python_version(), "keras_norms": keras_norms.__version__}
    return ours | {package: importlib.metadata.version(package) for package in packages}


def write_sample(run, sample, step):
    """Writes what a language model writes, also to TensorBoard."""
    (run / "sample.txt").write_text(sample + "\n")
    write_text(run, "sample", f"```\n{sample}\n```", step)


def write_text(run, name, markdown, step):
    """Writes a text to TensorBoard."""
    with tf.summary.create_file_writer(str(run / "tensorboard")).as_default(step=step):
        tf.summary.text(name, markdown)


def save_checkpoint(run, model):
    """Saves the model with its optimizer; who is killed meanwhile still has the epoch before."""
    model.save(run / "checkpoints" / "next.keras")
    os.replace(run / "checkpoints" / "next.keras", run / "checkpoints" / "last.keras")


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
