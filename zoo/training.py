"""From options to a trained model and its run folder."""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

import keras_norms
from keras_norms import analysis, callbacks, optimizers
from keras_norms.tree import named_layers
from zoo import data
from zoo.resnet import CIFAR, IMAGENET, resnet

# What a run writes into its folder.
_FILES = ("run.json", "tensorboard", "checkpoints", "model.keras", "saved_model")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Trains an image classifier with the normalization of your choice.

    The run folder gets TensorBoard events, a checkpoint after every epoch, `model.keras`, an
    exported SavedModel, and `run.json` with options, versions and results.
    """

    model: str = "resnet20"
    """resnet20, 32, 44, 56, 110 (CIFAR nets), resnet18, 34, 50, 101 or 152 (ImageNet nets)."""
    norm: str = "sn"
    """none, bn, ln, rms, in, gn, bin, sn, wn or wn_mobn, with arguments if wanted, as in
    "gn(groups=16)" or "bn(synchronized=True)"."""
    dataset: str = "digits"
    """digits (no network needed), the name of an image classification set of TensorFlow Datasets
    (cifar10, mnist, ...), or the path of a folder with train/CLASS/IMAGE and test/CLASS/IMAGE."""
    data_dir: str | None = None
    """Directory of TensorFlow Datasets, searched before anything is downloaded to it. None: its
    own, ~/tensorflow_datasets."""
    image_size: int | None = None
    """Side to which images are brought. None: theirs, or 224 where they differ in size."""
    train_examples: int | None = None
    """Train on the first so many examples. None: on all."""
    test_examples: int | None = None
    """Test on the first so many examples. None: on all."""
    width: float = 1.0
    """Factor of the number of channels of all layers."""
    batch_size: int = 32
    """Samples of a batch per replica."""
    epochs: int = 30
    """Passes over the training examples."""
    learning_rate: float = 0.1
    """Rate at a global batch of 128 (CIFAR nets) or 256 (ImageNet nets), scaled by the global
    batch in use; the resulting rate is printed."""
    schedule: Literal["cosine", "step"] = "cosine"
    """How the rate falls: along a cosine to 0, or to a tenth after 1/2 and 3/4 of the steps."""
    warmup_epochs: int = 0
    """Epochs in which the rate first rises from 0: linearly, or in ten stairs (step)."""
    momentum: float = 0.9
    """Momentum of SGD."""
    l2: float = 1e-4
    """L2 regularization, added to the gradient of all weights but gamma, beta, gain and bias."""
    control_multiplier: float | None = None
    """Factor of the rate of switches and gates. None: 10 for bin, 1 for sn."""
    decay_controls: bool | None = None
    """Whether `l2` includes the logits of switches. None: yes. Gates are never decayed."""
    replicas: int | None = None
    """GPUs to use, or logical CPU devices where there is no GPU. None: all GPUs, or one CPU."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    """Precision of the layers' computations; weights and statistics stay in float32."""
    seed: int = 0
    """Seed of the initial weights, of the order of the images and of their augmentation."""
    log_dir: str | None = None
    """The run folder. None: runs/MODEL-NORM-DATASET-bBATCHxREPLICAS-sSEED."""
    log_every: Literal["epoch"] | int = "epoch"
    """Write the curves, switches and gates every epoch, or every so many steps too."""
    overwrite: bool = False
    """Replace the run that the run folder holds."""


def train(options):
    """Trains a model and writes its run folder.

    Args:
        options: `TrainOptions`.

    Returns:
        What `run.json` holds, as a dict: "options" with the `log_dir` in use, "versions" and
        "results": "history" of `fit`, "accuracy" and "cross_entropy" on the test images,
        "importance" of the statistics by layer, "parameters", "global_batch",
        "scaled_learning_rate", "steps_per_epoch", "seconds", "seconds_per_step" (median),
        "saved_model_difference".

    Raises:
        ValueError: for options that cannot be honoured.
        FileExistsError: if the run folder holds a run already.
        FloatingPointError: if the loss ceases to be finite.
    """
    for name in "width batch_size epochs learning_rate image_size replicas log_every".split():
        value = getattr(options, name)
        if value not in (None, "epoch") and value <= 0:
            raise ValueError(f"{name} must be positive. Received: {name}={value}")
    depth = _depth(options.model)
    # Before anything else of TensorFlow, which fixes the devices at its first operation.
    strategy = _strategy(options.replicas)
    replicas = strategy.num_replicas_in_sync
    global_batch = options.batch_size * replicas
    run = _run_folder(options, replicas)
    options = dataclasses.replace(options, log_dir=str(run))
    images = data.load(
        options.dataset,
        options.data_dir,
        options.image_size,
        options.train_examples,
        options.test_examples,
    )
    steps = images.steps_per_epoch(global_batch)
    reference = 128 if depth in CIFAR else 256
    rate = options.learning_rate * global_batch / reference

    keras.utils.set_random_seed(options.seed)
    with strategy.scope(), contextlib.ExitStack() as stack:
        stack.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy(options.precision)
        model = resnet(
            depth, images.num_classes, options.norm, images.example_shape, width=options.width
        )
        model.compile(
            _optimizer(options, model, _schedule(options, rate, steps)),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            # Weighted, so that what fills the last test batch does not count.
            weighted_metrics=[
                keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
                keras.metrics.SparseCategoricalCrossentropy("cross_entropy", from_logits=True),
            ],
            jit_compile=False,
        )
        if _has_layer(model, keras_norms.WeightNormalization):
            batch, _ = next(iter(images.train_batches(global_batch, options.seed)))
            keras_norms.data_dependent_init(model, batch)
    print(
        f"{options.model}, norm {options.norm}: {model.count_params():,} parameters\n"
        f"{options.dataset}: {len(images.train):,} training and {len(images.test):,} test images "
        f"of {' x '.join(map(str, images.example_shape))}, {images.num_classes} classes\n"
        f"global batch: {global_batch} = {options.batch_size} x {replicas} replica(s), "
        f"{steps} steps per epoch\n"
        f"learning rate: {rate:g} = {options.learning_rate:g} * {global_batch} / {reference}, "
        f"{options.schedule} over {options.epochs} epochs\n"
        f"run folder: {run}"
    )

    facts = {"global_batch": global_batch, "scaled_learning_rate": rate, "steps_per_epoch": steps}
    record = {"options": dataclasses.asdict(options), "versions": _versions(), "results": None}
    _make_run_folder(run, record)
    checkpoint = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: _checkpoint(model, run))
    watch = _Watch()
    start = time.perf_counter()
    history = model.fit(
        images.train_batches(global_batch, options.seed),
        epochs=options.epochs,
        steps_per_epoch=steps,
        validation_data=images.test_batches(global_batch),
        callbacks=[watch, *_loggers(options, model, run, facts), checkpoint],
        shuffle=False,  # the data is shuffled
        verbose=1 if sys.stdout.isatty() else 2,
    ).history
    record["results"] = {
        "accuracy": history["val_accuracy"][-1],
        "cross_entropy": history["val_cross_entropy"][-1],
        **facts,
        "seconds": time.perf_counter() - start,
        "seconds_per_step": statistics.median(watch.seconds),
        "parameters": model.count_params(),
        "saved_model_difference": _save(model, run, images.test_batches(options.batch_size)),
        "importance": analysis.importance(model),
        "history": history,
    }
    _write_json(run, record)
    return record


def _depth(model):
    match = re.fullmatch(r"resnet(\d+)", model)
    if not match or int(match[1]) not in CIFAR | IMAGENET:
        known = ", ".join(f"resnet{depth}" for depth in (*CIFAR, *IMAGENET))
        raise ValueError(f"Unknown model {model!r}. Known: {known}")
    return int(match[1])


def _strategy(replicas):
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if replicas and replicas > len(gpus):
            raise ValueError(f"There are {len(gpus)} GPUs. Received: replicas={replicas}")
        return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(replicas or len(gpus))])
    replicas = replicas or 1
    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * replicas
    with contextlib.suppress(RuntimeError):  # the devices are set up already
        tf.config.set_logical_device_configuration(cpu, logical)
    found = len(tf.config.list_logical_devices("CPU"))
    if found < replicas:
        raise ValueError(
            f"TensorFlow has already set up {found} logical CPU device(s) in this process, too few "
            f"for {replicas} replicas. Train before anything else of TensorFlow runs."
        )
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)],
        # The default collectives fail for the second strategy of a process.
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def _run_folder(options, replicas):
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


def _make_run_folder(run, record):
    for path in (run / name for name in _FILES):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (run / "checkpoints").mkdir(parents=True)
    _write_json(run, record)


def _write_json(run, record):
    (run / "run.json").write_text(json.dumps(record, indent=2) + "\n")


def _versions():
    packages = ("keras", "tensorflow", "tensorflow-datasets", "tensorboard", "numpy")
    ours = {"python": platform.python_version(), "keras_norms": keras_norms.__version__}
    return ours | {package: importlib.metadata.version(package) for package in packages}


def _has_layer(model, cls):
    return any(isinstance(layer, cls) for layer in named_layers(model).values())


def _schedule(options, rate, steps):
    schedules = keras.optimizers.schedules
    total, warmup = options.epochs * steps, options.warmup_epochs * steps
    limit = {"cosine": total, "step": total / 2}.get(options.schedule)
    if limit is None:
        raise ValueError(f"Unknown schedule {options.schedule!r}. Known: cosine, step")
    if not 0 <= warmup < limit:
        raise ValueError(
            f"warmup_epochs must end before the {options.schedule} schedule falls. Received: "
            f"warmup_epochs={options.warmup_epochs}, epochs={options.epochs}"
        )
    if options.schedule == "cosine" and not warmup:
        return schedules.CosineDecay(rate, total)
    if options.schedule == "cosine":
        return schedules.CosineDecay(0.0, total - warmup, warmup_target=rate, warmup_steps=warmup)
    stairs = range(1, 10) if warmup else ()
    factors = {warmup * stair / 10: (stair + 1) / 10 for stair in stairs}
    factors |= {total / 2: 0.1, total * 3 / 4: 0.01}
    # Keras changes the rate after a boundary, not at it.
    boundaries = [round(step) - 1 for step in factors]
    rates = [rate * factor for factor in (0.1 if warmup else 1.0, *factors.values())]
    return schedules.PiecewiseConstantDecay(boundaries, rates)


def _optimizer(options, model, schedule):
    gates = _has_layer(model, keras_norms.BatchInstanceNormalization)
    switches = _has_layer(model, keras_norms.SwitchableNormalization)
    for name, applies in (("control_multiplier", gates or switches), ("decay_controls", switches)):
        if getattr(options, name) is not None and not applies:
            raise ValueError(f"{name} has no effect on norm={options.norm!r}.")
    # The papers' recipes: gates move fast and free, switches like any other weight.
    multiplier = options.control_multiplier
    optimizer = optimizers.configure_optimizer(
        keras.optimizers.SGD(schedule, options.momentum),
        model,
        control_multiplier=(10.0 if gates else 1.0) if multiplier is None else multiplier,
        decay_controls=options.decay_controls is not False,
        l2=options.l2,
    )
    if options.precision == "mixed_float16":
        # Keras would do it in `compile`, and lose the state when the model is loaded elsewhere.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _loggers(options, model, run, facts):
    """The callbacks that write TensorBoard's events."""
    facts = {**dataclasses.asdict(options), **facts}
    with tf.summary.create_file_writer(str(run / "tensorboard")).as_default(step=0):
        rows = [f"| {name} | {value} |" for name, value in facts.items()]
        tf.summary.text("run", "\n".join(["| option | value |", "| --- | --- |", *rows]))
    loggers = [keras.callbacks.TensorBoard(run / "tensorboard", update_freq=options.log_every)]
    if optimizers.control_variables(model):
        folder = run / "tensorboard" / "switches"
        loggers.append(callbacks.SwitchLogger(folder, options.log_every, hparams=facts))
    return loggers


class _Watch(keras.callbacks.Callback):
    """Times the steps, and ends training where the loss is no number any more."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds.append(time.perf_counter() - self._begin)
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"The loss is {logs['loss']} after {len(self.seconds)} steps. A lower learning "
                "rate, a warm-up or another norm may help."
            )


def _checkpoint(model, run):
    """Saves the model with its optimizer; who is killed meanwhile still has the epoch before."""
    model.save(run / "checkpoints" / "next.keras")
    os.replace(run / "checkpoints" / "next.keras", run / "checkpoints" / "last.keras")


def _save(model, run, batches):
    """Saves and exports the model; by how much the exported logits differ from its own."""
    model.save(run / "model.keras")
    # Read back, the variables are plain ones, not those of a strategy.
    saved = keras.saving.load_model(run / "model.keras", compile=False)
    saved.export(run / "saved_model", verbose=False)
    exported = tf.saved_model.load(run / "saved_model")
    batch, *_ = next(iter(batches))
    logits = np.asarray(model(batch, training=False))
    difference = float(np.max(np.abs(exported.serve(batch) - logits)))
    if difference > 1e-5 * max(1.0, float(np.max(np.abs(logits)))):
        print(f"warning: the logits of saved_model differ from the model's by up to {difference}")
    return difference
