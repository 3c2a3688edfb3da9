"""Training on several hosts, where `fit` of Keras 3 fails: the same steps, callbacks and curves."""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf


def configured() -> bool:
    """Whether TF_CONFIG names this process as one of several workers."""
    return len(_workers()) > 1


def strategy() -> tf.distribute.Strategy:
    """A MultiWorkerMirroredStrategy over the workers of TF_CONFIG."""
    return tf.distribute.MultiWorkerMirroredStrategy()


def is_chief() -> bool:
    """Whether this process writes the run folder. Of several workers, only the first does."""
    config = _config()
    task = config.get("task", {})
    first = "chief" if config.get("cluster", {}).get("chief") else "worker"
    return task.get("type", first) == first and task.get("index", 0) == 0


def fit(
    model: keras.Model,
    data: tf.data.Dataset,
    initial_epoch: int,
    epochs: int,
    steps_per_epoch: int,
    validation_data: tf.data.Dataset,
    callbacks: Sequence[keras.callbacks.Callback],
    verbose: int,
    shuffle: bool = False,
) -> None:
    """Does what `model.fit` does with these arguments, on all workers in step.

    Every worker calls it with the same data, and takes its share of every batch. The data is not
    shuffled.

    Raises:
        RuntimeError: if another worker has stopped.
    """
    assert not shuffle
    strategy = model.distribute_strategy
    train_step = _reduced(strategy, model.train_step)
    test_step = _reduced(strategy, model.test_step)
    train, test = _distributed(strategy, data), _distributed(strategy, validation_data)
    chief = is_chief()
    calls = keras.callbacks.CallbackList(
        callbacks,
        add_progbar=chief and verbose != 0,
        verbose=verbose if chief else 0,
        epochs=epochs,
        steps=steps_per_epoch,
        model=model,
    )
    try:
        batches = iter(train)
        model.stop_training = False
        calls.on_train_begin()
        logs: dict[str, float] = {}
        for epoch in range(initial_epoch, epochs):
            model.reset_metrics()
            calls.on_epoch_begin(epoch)
            for step in range(steps_per_epoch):
                calls.on_train_batch_begin(step)
                logs = _floats(train_step(next(batches)))
                calls.on_train_batch_end(step, logs)
                if model.stop_training:  # a resumed epoch has fewer steps
                    break
            logs = _floats(model.get_metrics_result())
            tested = _test(model, test_step, test)
            logs |= {f"val_{name}": value for name, value in tested.items()}
            calls.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        calls.on_train_end(logs)
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError) as error:
        raise RuntimeError(
            "Another worker is gone, or cannot be reached. Start all workers again with --resume."
        ) from error


def evaluate(
    model: keras.Model, data: tf.data.Dataset, steps: int, verbose: int = 0
) -> dict[str, float]:
    """Does what `model.evaluate` does with these arguments, on all workers in step."""
    strategy = model.distribute_strategy
    step = _reduced(strategy, model.test_step)
    return _test(model, step, _distributed(strategy, data.take(steps)))


def _test(model: keras.Model, step: Callable, data: Any) -> dict[str, float]:
    model.reset_metrics()
    for batch in data:
        step(batch)
    return _floats(model.get_metrics_result())  # over all workers, by the sample weights


def _reduced(strategy: tf.distribute.Strategy, step: Callable) -> Callable:
    """A function that runs a step on every replica, and returns the means of its results."""

    @tf.function
    def reduced(batch: Any) -> dict[str, tf.Tensor]:
        logs = strategy.run(step, args=(batch,))
        return {name: strategy.reduce("MEAN", value, axis=None) for name, value in logs.items()}

    return reduced


def _distributed(strategy: tf.distribute.Strategy, data: tf.data.Dataset) -> Any:
    options = tf.data.Options()
    # Batches equal those of a single process, since each worker makes all of them and takes a part.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return strategy.experimental_distribute_dataset(data.with_options(options))


def _floats(logs: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in logs.items()}


def _config() -> dict[str, Any]:
    return json.loads(os.environ.get("TF_CONFIG") or "{}")


def _workers() -> list[str]:
    """The addresses of all workers."""
    cluster = _config().get("cluster", {})
    return [*cluster.get("chief", []), *cluster.get("worker", [])]
