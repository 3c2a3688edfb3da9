"""From options to a trained model and its run folder."""

import contextlib
import dataclasses
import math
import statistics
import sys
import time

import keras
import tensorflow as tf

import keras_norms
from keras_norms import analysis, callbacks, optimizers
from keras_norms.tree import named_layers
from zoo import data, models, run_folder, text
from zoo.options import TrainOptions, check

__all__ = ["TrainOptions", "train"]


def train(options):
    """Trains a model and writes its run folder.

    Args:
        options: `TrainOptions`.

    Returns:
        What `run.json` holds, as a dict: "options" with the folder and the recipe in use,
        "versions" and "results": "history" of `fit`, "accuracy" and "cross_entropy" on the test
        examples, "bits_per_character" of a language model, "importance" of the statistics by
        layer, "parameters", "global_batch", "scaled_learning_rate", "steps_per_epoch", "seconds",
        "seconds_per_step" (median), "saved_model_difference".

    Raises:
        ValueError: for options that cannot be honoured.
        FileExistsError: if the run folder holds a run already.
        FloatingPointError: if the loss ceases to be finite.
    """
    check(options)
    entry, recipe, options = models.resolve(options)
    # Before anything else of TensorFlow, which fixes the devices at its first operation.
    strategy = _strategy(options.replicas)
    replicas = strategy.num_replicas_in_sync
    global_batch = options.batch_size * replicas
    run = run_folder.choose(options, replicas)
    options = dataclasses.replace(options, log_dir=str(run))
    examples = data.load(
        options.dataset,
        options.data_dir,
        options.image_size,
        options.train_examples,
        options.test_examples,
        entry.sequences,
        options.sequence_length,
        options.vocabulary_size,
    )
    steps = examples.steps_per_epoch(global_batch)
    rate = recipe.rate(global_batch)

    keras.utils.set_random_seed(options.seed)
    with strategy.scope(), contextlib.ExitStack() as stack:
        stack.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy(options.precision)
        model = models.build(entry, options, examples)
        schedule = _schedule(options, rate, steps)
        # Keras clips the share of each replica, before the shares are added up.
        clipnorm = entry.clipnorm and entry.clipnorm / replicas
        _compile(model, _optimizer(options, model, schedule, clipnorm))
        if _has_layer(model, keras_norms.WeightNormalization):
            batch, _ = next(iter(examples.train_batches(global_batch, options.seed)))
            keras_norms.data_dependent_init(model, batch)
    scaling = f" = {recipe.learning_rate:g} * {global_batch} / {recipe.reference_batch}"
    print(
        f"{options.model}, norm {options.norm}: {model.count_params():,} parameters\n"
        f"{options.dataset}: {examples}\n"
        f"global batch: {global_batch} = {options.batch_size} x {replicas} replica(s), "
        f"{steps} steps per epoch\n"
        f"learning rate: {rate:g}{scaling if recipe.reference_batch else ''}, "
        f"{options.schedule} over {options.epochs} epochs\n"
        f"run folder: {run}"
    )

    facts = {"global_batch": global_batch, "scaled_learning_rate": rate, "steps_per_epoch": steps}
    versions = run_folder.versions()
    record = {"options": dataclasses.asdict(options), "versions": versions, "results": None}
    run_folder.create(run, record, examples.vocabulary)
    watch = _Watch()
    start = time.perf_counter()
    history = model.fit(
        examples.train_batches(global_batch, options.seed),
        epochs=options.epochs,
        steps_per_epoch=steps,
        validation_data=examples.test_batches(global_batch),
        callbacks=[watch, *_loggers(options, model, run, facts)],
        shuffle=False,  # the data is shuffled
        verbose=1 if sys.stdout.isatty() else 2,
    ).history
    seconds = time.perf_counter() - start
    saved, difference = run_folder.save_model(
        run, model, examples.test_batches(options.batch_size), options.precision
    )
    record["results"] = {
        **_scores(history, examples.causal),
        **facts,
        "seconds": seconds,
        "seconds_per_step": statistics.median(watch.seconds),
        "parameters": model.count_params(),
        "saved_model_difference": difference,
        "importance": analysis.importance(model),
        "history": history,
    }
    run_folder.write_record(run, record)
    if examples.causal:
        sample = text.generate(saved, examples.vocabulary, seed=options.seed)
        run_folder.write_sample(run, sample, step=options.epochs * steps)
    return record


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


def _optimizer(options, model, schedule, clipnorm):
    gates = _has_layer(model, keras_norms.BatchInstanceNormalization)
    switches = _has_layer(model, keras_norms.SwitchableNormalization)
    for name, applies in (("control_multiplier", gates or switches), ("decay_controls", switches)):
        if getattr(options, name) is not None and not applies:
            raise ValueError(f"{name} has no effect on norm={options.norm!r}.")
    if options.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(schedule, options.momentum, global_clipnorm=clipnorm)
    else:
        optimizer = keras.optimizers.Adam(schedule, global_clipnorm=clipnorm)
    # The papers' recipes: gates move fast and free, switches like any other weight.
    multiplier = options.control_multiplier
    optimizer = optimizers.configure_optimizer(
        optimizer,
        model,
        control_multiplier=(10.0 if gates else 1.0) if multiplier is None else multiplier,
        decay_controls=options.decay_controls is not False,
        l2=options.l2,
    )
    if options.precision == "mixed_float16":
        # Keras would do it in `compile`, and lose the state when the model is loaded elsewhere.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _compile(model, optimizer):
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # Weighted, so that what fills the last test batch does not count.
        weighted_metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseCategoricalCrossentropy("cross_entropy", from_logits=True),
        ],
        jit_compile=False,
    )


def _loggers(options, model, run, facts):
    """The callbacks that write checkpoints and TensorBoard's events."""
    facts = {**dataclasses.asdict(options), **facts}
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    table = "\n".join(["| option | value |", "| --- | --- |", *rows])
    run_folder.write_text(run, "run", table, step=0)
    loggers = [keras.callbacks.TensorBoard(run / "tensorboard", update_freq=options.log_every)]
    if optimizers.control_variables(model):
        folder = run / "tensorboard" / "switches"
        loggers.append(callbacks.SwitchLogger(folder, options.log_every, hparams=facts))
    save = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: run_folder.save_checkpoint(run, model)
    )
    return [*loggers, save]


def _scores(history, causal):
    """What the model reached on the test examples at last."""
    scores = {name: history[f"val_{name}"][-1] for name in ("accuracy", "cross_entropy")}
    if causal:
        scores["bits_per_character"] = scores["cross_entropy"] / math.log(2)
    return scores


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
