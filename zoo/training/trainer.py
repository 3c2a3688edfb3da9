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
from keras_norms import analysis, optimizers
from keras_norms.callbacks import SwitchLogger
from keras_norms.tree import named_layers
from zoo import data
from zoo.data import text
from zoo.training import catalog, checkpoint, distribution, events, nonfinite, run_folder, workers
from zoo.training.callbacks import Curves, Keeper, Watch
from zoo.training.options import TrainOptions, check

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
        "seconds_per_step" (median), "resumed_at_epoch", "saved_model_difference". Of several
        workers, only the first one has the results, and writes the run folder.

    Raises:
        ValueError: for options that cannot be honoured.
        FileExistsError: if the run folder holds a run already.
        FloatingPointError: if the loss ceases to be finite.
        RuntimeError: if another worker is gone.
        zoo.training.callbacks.Terminated: at SIGTERM or SIGINT, after a checkpoint has been saved.
    """
    check(options)
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    entry, recipe, options = catalog.select_model(options)
    # Before anything else of TensorFlow, which fixes the devices at its first operation.
    strategy = distribution.strategy(options.replicas)
    run = run_folder.choose(options, strategy.num_replicas_in_sync)
    options = dataclasses.replace(options, log_dir=str(run))
    with run_folder.claim(run, options):
        return _train(options, entry, recipe, strategy, run)


def _train(options, entry, recipe, strategy, run):
    replicas = strategy.num_replicas_in_sync
    global_batch = options.batch_size * replicas
    chief = workers.is_chief()
    record = run_folder.begun(run, options)
    if record and record["results"]:
        print(f"run folder: {run}\nThis run is complete already.")
        return record
    examples = load_examples(options, entry)
    steps = examples.steps_per_epoch(global_batch)
    rate = recipe.rate(global_batch)

    keras.utils.set_random_seed(options.seed)
    with strategy.scope(), contextlib.ExitStack() as stack:
        stack.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy(options.precision)
        model = catalog.build(entry, options, examples)
        _check_effects(options, model)
        schedule = _schedule(options, rate, steps)
        # The optimizer clips the mean of the replicas, and adds up what is left.
        clipnorm = entry.clipnorm and entry.clipnorm / replicas
        _compile(model, _optimizer(options, model, schedule, clipnorm))
        weight_norm = _has_layer(model, keras_norms.WeightNormalization)
        if weight_norm and options.data_init is not False:
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
    if record is None:
        versions = run_folder.versions()
        record = {"options": dataclasses.asdict(options), "versions": versions, "results": None}
        if chief:
            run_folder.create(run, record)
    position = checkpoint.Position()
    if options.resume:
        with strategy.scope():
            position = run_folder.go_on(run, model, steps, chief)
    if chief and position == checkpoint.Position():
        run_folder.write_start(run, dataclasses.asdict(options) | facts, examples.vocabulary)
    start = time.perf_counter()
    watch, history = _fit(model, examples, options, run, facts, position)
    seconds = time.perf_counter() - start
    if not chief:
        return record
    saved, difference = run_folder.save_model(run, model), None
    if options.export:
        batches = examples.test_batches(options.batch_size)
        difference = run_folder.export(run, model, saved, batches, options.precision)
    record["results"] = {
        **_scores(history, examples.causal),
        **facts,
        "seconds": seconds,
        "seconds_per_step": statistics.median(watch.seconds) if watch.seconds else None,
        "resumed_at_epoch": position.epoch if position != checkpoint.Position() else None,
        "parameters": model.count_params(),
        "saved_model_difference": difference,
        "importance": analysis.importance(model),
        "history": history,
    }
    if examples.causal:
        sample = text.generate(saved, examples.vocabulary, seed=options.seed)
        run_folder.write_sample(run, sample, step=options.epochs * steps)
    run_folder.write_record(run, record)  # last, for it says that the run is complete
    return record


def load_examples(options, entry):
    """The `zoo.data.LabelledSet` that options ask for, in the form that the model takes."""
    return data.load(
        options.dataset,
        options.data_dir,
        options.image_size,
        options.train_examples,
        options.test_examples,
        entry.sequences,
        options.sequence_length,
        options.vocabulary_size,
    )


def _fit(model, examples, options, run, facts, position):
    """Trains from a position on: `(watch, history)`."""
    global_batch, steps = facts["global_batch"], facts["steps_per_epoch"]
    test = examples.test_batches(global_batch)

    def batches(epoch, step=0):
        return examples.train_batches(global_batch, options.seed, epoch).skip(step)

    def explain(epoch, batch):
        skipped = position.step if epoch == position.epoch else 0
        (x, *_) = next(iter(batches(epoch, skipped + batch)))
        return nonfinite.locate(model, x)

    # Keras's own fails where there are several hosts.
    engine = workers if workers.configured() else keras.Model
    chief = workers.is_chief()
    watch = Watch(explain)
    keeper = Keeper(run / "checkpoints", position, steps, write=chief)
    done = position.epoch * steps + position.step
    loggers = _loggers(options, model, run, facts, done) if chief else []
    if position.step:
        engine.evaluate(model, test, steps=1, verbose=0)  # builds the metrics, for the keeper
    if position.epoch < options.epochs:
        with keeper.listening(), events.written():
            engine.fit(
                model,
                batches(position.epoch, position.step),
                initial_epoch=position.epoch,
                epochs=options.epochs,
                steps_per_epoch=steps,
                validation_data=test,
                callbacks=[watch, *loggers, keeper],
                shuffle=False,  # the data is shuffled
                verbose=1 if sys.stdout.isatty() else 2,
            )
    return watch, keeper.history


def _has_layer(model, cls):
    return any(isinstance(layer, cls) for layer in named_layers(model).values())


def _schedule(options, rate, steps):
    schedules = keras.optimizers.schedules
    total, warmup = options.epochs * steps, options.warmup_epochs * steps
    limit = {"cosine": total, "step": total / 2, "constant": total}.get(options.schedule)
    if limit is None:
        raise ValueError(f"Unknown schedule {options.schedule!r}. Known: cosine, step, constant")
    if not 0 <= warmup < limit:
        raise ValueError(
            f"warmup_epochs leaves no time for the {options.schedule} schedule. Received: "
            f"warmup_epochs={options.warmup_epochs}, epochs={options.epochs}"
        )
    if options.schedule == "cosine" and not warmup:
        return schedules.CosineDecay(rate, total)
    if options.schedule == "cosine":
        return schedules.CosineDecay(0.0, total - warmup, warmup_target=rate, warmup_steps=warmup)
    if options.schedule == "constant" and not warmup:
        return rate
    stairs = range(1, 10) if warmup else ()
    factors = {warmup * stair / 10: (stair + 1) / 10 for stair in stairs}
    if options.schedule == "step":
        factors |= {total / 2: 0.1, total * 3 / 4: 0.01}
    # Keras changes the rate after a boundary, not at it.
    boundaries = [round(step) - 1 for step in factors]
    rates = [rate * factor for factor in (0.1 if warmup else 1.0, *factors.values())]
    return schedules.PiecewiseConstantDecay(boundaries, rates)


def _check_effects(options, model):
    """Raises a ValueError for an option that has no effect on the norms of the model."""
    gates = _has_layer(model, keras_norms.BatchInstanceNormalization)
    switches = _has_layer(model, keras_norms.SwitchableNormalization)
    effects = {
        "control_multiplier": gates or switches,
        "decay_controls": switches,
        "data_init": _has_layer(model, keras_norms.WeightNormalization),
    }
    for name, applies in effects.items():
        if getattr(options, name) is not None and not applies:
            raise ValueError(f"{name} has no effect on norm={options.norm!r}.")


def _optimizer(options, model, schedule, clipnorm):
    gates = _has_layer(model, keras_norms.BatchInstanceNormalization)
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
        skip_nonfinite=True,  # for `nonfinite.locate`
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


def _loggers(options, model, run, facts, done):
    """The callbacks that write TensorBoard's events, after so many batches of training."""
    loggers = [Curves(run / "tensorboard", options.log_every, done)]
    if optimizers.control_variables(model):
        folder = run / "tensorboard" / "switches"
        hparams = {**dataclasses.asdict(options), **facts}
        loggers.append(SwitchLogger(folder, options.log_every, True, hparams, done))
    return loggers


def _scores(history, causal):
    """What the model reached on the test examples at last."""
    scores = {name: history[f"val_{name}"][-1] for name in ("accuracy", "cross_entropy")}
    if causal:
        scores["bits_per_character"] = scores["cross_entropy"] / math.log(2)
    return scores
