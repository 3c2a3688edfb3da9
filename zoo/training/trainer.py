"""From options to a trained model and its run folder."""

import contextlib
import dataclasses
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import keras_norms
from keras_norms import analysis, optimizers
from keras_norms.callbacks import SwitchLogger
from zoo import data
from zoo.data import text
from zoo.training import (
    catalog,
    checkpoint,
    distribution,
    events,
    nonfinite,
    optimization,
    run_folder,
    workers,
)
from zoo.training.callbacks import (
    CheckpointSaver,
    FiniteLossCheck,
    ResumableTensorBoard,
    StepTimer,
)
from zoo.training.options import BOOKKEEPING, TrainOptions, check
from zoo.training.progress import ProgressLines
from zoo.training.run_folder import Part


def train(options: TrainOptions) -> dict[str, Any]:
    """Trains a model and writes its run folder.

    Args:
        options: what to train, and how.

    Returns:
        What `run.json` holds:

        - "options": those in use, completed by the folder and the recipe;
        - "versions" of the packages;
        - "results": "accuracy" and "cross_entropy" on the test examples, "bits_per_character" of a
          language model, "importance" of the statistics by layer, "history" by epoch,
          "parameters", "global_batch", "scaled_learning_rate", "steps_per_epoch", "seconds",
          "seconds_per_step" (median), "resumed_at_epoch" and "saved_model_difference".

        Of several workers, only the first has results and writes the run folder.

    Raises:
        ValueError: for options that cannot be honoured.
        FileExistsError: if the run folder holds a run already.
        FloatingPointError: if the loss becomes NaN or infinite.
        RuntimeError: if another worker has stopped.
        zoo.training.callbacks.Terminated: at SIGTERM or SIGINT, after a checkpoint.
    """
    check(options)
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    entry, recipe, options = catalog.select_model(options)
    # TensorFlow fixes its devices at its first operation, so the strategy comes before any.
    strategy = distribution.strategy(options.replicas)
    folder = run_folder.choose(options, strategy.num_replicas_in_sync)
    options = dataclasses.replace(options, log_dir=str(folder))
    with run_folder.reserve(folder, options):
        record = run_folder.read_resumable(folder, options)
        if record and record["results"]:
            print(
                f"run folder: {folder}\nThis run is complete already. To train on, give more "
                "--epochs; the schedule has to be constant."
            )
            return record
        examples = load_examples(options, entry)
        return _train(_Setup(options, entry, recipe, strategy, folder, examples), record)


def load_examples(options: TrainOptions, entry: catalog.Entry) -> data.LabelledSet:
    """Loads the examples that options ask for, in the form that the model takes."""
    return data.load(
        options.dataset,
        options.data_dir,
        image_size=options.image_size,
        train_examples=options.train_examples,
        test_examples=options.test_examples,
        sequences=entry.sequences,
        sequence_length=options.sequence_length,
        vocabulary_size=options.vocabulary_size,
        draw_seed=options.seed if options.draw_examples else None,
    )


@dataclasses.dataclass(frozen=True)
class _Setup:
    """All that a run consists of before there is a model."""

    options: TrainOptions
    entry: catalog.Entry
    recipe: catalog.Recipe
    strategy: tf.distribute.Strategy
    folder: Path
    examples: data.LabelledSet

    @property
    def replicas(self) -> int:
        return self.strategy.num_replicas_in_sync

    @property
    def global_batch(self) -> int:
        return self.options.batch_size * self.replicas

    @property
    def steps_per_epoch(self) -> int:
        return self.examples.steps_per_epoch(self.global_batch)

    @property
    def learning_rate(self) -> float:
        return self.recipe.rate(self.global_batch)

    @property
    def facts(self) -> dict[str, Any]:
        """What follows from the options, and is logged and recorded beside them."""
        return {
            "global_batch": self.global_batch,
            "scaled_learning_rate": self.learning_rate,
            "steps_per_epoch": self.steps_per_epoch,
        }

    def train_batches(self, epoch: int = 0, step: int = 0) -> tf.data.Dataset:
        """Training batches from a step of an epoch on."""
        batches = self.examples.train_batches(self.global_batch, self.options.seed, epoch)
        return batches.skip(step)


def _train(setup: _Setup, record: dict[str, Any] | None) -> dict[str, Any]:
    """Trains from the last checkpoint on, or from the start if `record` is None."""
    options, folder, chief = setup.options, setup.folder, workers.is_chief()
    model = _build_model(setup)
    print(_describe(setup, model))
    if record is None:
        versions = run_folder.versions()
        record = {"options": dataclasses.asdict(options), "versions": versions}
        record |= {"facts": setup.facts, "results": None}
        if chief:
            run_folder.create(folder, record)
    else:
        run_folder.refuse_other_facts(folder, record, setup.facts)
        if chief:
            run_folder.write_record(folder, record)  # of a run that may have got more epochs
    position = checkpoint.Position()
    if options.resume:
        with setup.strategy.scope():
            position = run_folder.restore(folder, model, setup.steps_per_epoch, chief)
    if chief and position.is_start:
        if setup.examples.vocabulary is not None:
            run_folder.write_vocabulary(folder, setup.examples.vocabulary)
        run_folder.write_options(folder, dataclasses.asdict(options) | setup.facts)
    start = time.perf_counter()
    step_seconds, history = _fit(setup, model, position)
    seconds = time.perf_counter() - start
    if not chief:
        return record
    record["results"] = {
        **_scores(history, setup.examples.causal),
        **setup.facts,
        "seconds": seconds,
        "seconds_per_step": statistics.median(step_seconds) if step_seconds else None,
        "resumed_at_epoch": None if position.is_start else position.epoch,
        "parameters": model.count_params(),
        "saved_model_difference": _save(setup, model),
        "importance": analysis.importance(model),
        "history": history,
    }
    run_folder.write_record(folder, record)  # last, since it says that the run is complete
    return record


def _build_model(setup: _Setup) -> keras.Model:
    """The compiled model, with its initial weights."""
    options = setup.options
    schedule = optimization.learning_rate_schedule(
        options, setup.learning_rate, setup.steps_per_epoch
    )
    keras.utils.set_random_seed(options.seed)
    with setup.strategy.scope(), contextlib.ExitStack() as stack:
        stack.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy(options.precision)
        model = catalog.build(setup.entry, options, setup.examples)
        # The update adds up what the optimizer clips, which is the mean over the replicas.
        clipnorm = setup.entry.clipnorm and setup.entry.clipnorm / setup.replicas
        optimizer = optimization.make_optimizer(options, model, schedule, clipnorm)
        optimization.compile_model(model, optimizer)
        if options.data_init:
            batch, _ = next(iter(setup.train_batches()))
            keras_norms.data_dependent_init(model, batch)
    return model


def _describe(setup: _Setup, model: keras.Model) -> str:
    options, recipe = setup.options, setup.recipe
    scaling = f" = {recipe.learning_rate:g} * {setup.global_batch} / {recipe.reference_batch}"
    return (
        f"{options.model}, norm {options.norm}: {model.count_params():,} parameters\n"
        f"{options.dataset}: {setup.examples}\n"
        f"global batch: {setup.global_batch} = {options.batch_size} x {setup.replicas} replica(s), "
        f"{setup.steps_per_epoch} steps per epoch\n"
        f"learning rate: {setup.learning_rate:g}{scaling if recipe.reference_batch else ''}, "
        f"{options.schedule} over {options.epochs} epochs\n"
        f"run folder: {setup.folder}"
    )


def _fit(
    setup: _Setup, model: keras.Model, position: checkpoint.Position
) -> tuple[list[float], dict[str, list[float]]]:
    """Trains from a position on: `(seconds of each step, history of all epochs)`."""
    steps, chief = setup.steps_per_epoch, workers.is_chief()
    test = setup.examples.test_batches(setup.global_batch)

    def explain(epoch: int, batch: int) -> str:
        skipped = position.step if epoch == position.epoch else 0
        x, *_ = next(iter(setup.train_batches(epoch, skipped + batch)))
        return nonfinite.locate(model, x)

    timer = StepTimer()
    shows_bar = sys.stdout.isatty()
    lines = ProgressLines(setup.options.epochs, steps)
    checkpoints, event_folder = setup.folder / Part.CHECKPOINTS, setup.folder / Part.EVENTS
    saver = CheckpointSaver(checkpoints, event_folder, position, steps, write=chief)
    loggers = _loggers(setup, model, position.batches(steps)) if chief else []
    # Keras's own `fit` fails on several hosts.
    engine = workers if workers.configured() else keras.Model
    if position.step:
        engine.evaluate(model, test, steps=1, verbose=0)  # builds the metrics for the saver
    if position.epoch < setup.options.epochs:
        with (
            saver.deferred_signals(),
            events.write_errors(),
            contextlib.nullcontext() if shows_bar or not chief else lines,
        ):
            engine.fit(
                model,
                setup.train_batches(position.epoch, position.step),
                initial_epoch=position.epoch,
                epochs=setup.options.epochs,
                steps_per_epoch=steps,
                validation_data=test,
                callbacks=[timer, FiniteLossCheck(explain), lines, *loggers, saver],
                shuffle=False,  # the batches are shuffled already
                verbose=1 if shows_bar else 2,
            )
    return timer.seconds, saver.history


def _loggers(setup: _Setup, model: keras.Model, batches: int) -> list[keras.callbacks.Callback]:
    """The callbacks that write TensorBoard's events, after `batches` of earlier training."""
    folder, every = setup.folder / Part.EVENTS, setup.options.log_every
    loggers: list[keras.callbacks.Callback] = [ResumableTensorBoard(folder, every, batches)]
    if optimizers.control_variables(model):
        options = dataclasses.asdict(setup.options) | {"replicas": setup.replicas}
        hparams = {name: value for name, value in options.items() if name not in BOOKKEEPING}
        hparams |= setup.facts
        loggers.append(SwitchLogger(folder / "switches", every, True, hparams, batches))
    return loggers


def _save(setup: _Setup, model: keras.Model) -> float | None:
    """Saves the trained model in all its forms; the difference of the exported one, if any."""
    options, examples, difference = setup.options, setup.examples, None
    saved = run_folder.save_model(setup.folder, model)
    if options.export:
        batches = examples.test_batches(options.batch_size)
        difference = run_folder.export(setup.folder, model, saved, batches, options.precision)
    if examples.causal:
        assert examples.vocabulary
        sample = text.generate(saved, examples.vocabulary, seed=options.seed)
        run_folder.write_sample(setup.folder, sample, options.epochs * setup.steps_per_epoch)
    return difference


def _scores(history: dict[str, list[float]], causal: bool) -> dict[str, float]:
    """The scores on the test examples after the last epoch."""
    scores = {name: history[f"val_{name}"][-1] for name in ("accuracy", "cross_entropy")}
    if causal:
        scores["bits_per_character"] = scores["cross_entropy"] / math.log(2)
    return scores
