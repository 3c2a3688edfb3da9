"""Training on several hosts, where `fit` of Keras 3 fails: the same steps, callbacks and curves."""

import json
import os

import keras
import tensorflow as tf


def configured():
    """Whether TF_CONFIG names this process as one of several workers."""
    return len(_workers()) > 1


def strategy():
    """A MultiWorkerMirroredStrategy over the workers of TF_CONFIG."""
    return tf.distribute.MultiWorkerMirroredStrategy()


def is_chief():
    """Whether this process writes the run folder: the first worker does, or the only one."""
    task = _config().get("task", {})
    return task.get("type", "worker") in ("worker", "chief") and task.get("index", 0) == 0


def fit(
    model,
    data,
    initial_epoch,
    epochs,
    steps_per_epoch,
    validation_data,
    callbacks,
    verbose,
    shuffle=False,
):
    """What `model.fit` does with these arguments, on all workers in step; `shuffle` is False.

    Every worker calls it with the same data, of which each takes its share of every batch.

    Raises:
        RuntimeError: if another worker is gone.
    """
    strategy = model.distribute_strategy
    train_step = _reduced(strategy, model.train_step)
    test_step = _reduced(strategy, model.test_step)
    train, test = _distributed(strategy, data), _distributed(strategy, validation_data)
    chief = is_chief()
    callbacks = keras.callbacks.CallbackList(
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
        callbacks.on_train_begin()
        logs = {}
        for epoch in range(initial_epoch, epochs):
            model.reset_metrics()
            callbacks.on_epoch_begin(epoch)
            for step in range(steps_per_epoch):
                callbacks.on_train_batch_begin(step)
                logs = _floats(train_step(next(batches)))
                callbacks.on_train_batch_end(step, logs)
                if model.stop_training:  # the rest of an epoch is done
                    break
            logs = _floats(model.get_metrics_result())
            tested = _test(model, test_step, test)
            logs |= {f"val_{name}": value for name, value in tested.items()}
            callbacks.on_epoch_end(epoch, logs)
            if model.stop_training:
                break
        callbacks.on_train_end(logs)
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError) as error:
        raise RuntimeError(
            "Another worker is gone, or cannot be reached. Start all workers again with --resume."
        ) from error


def evaluate(model, data, steps, verbose=0):
    """What `model.evaluate` does with these arguments, on all workers in step."""
    strategy = model.distribute_strategy
    step = _reduced(strategy, model.test_step)
    return _test(model, step, _distributed(strategy, data.take(steps)))


def _test(model, step, data):
    model.reset_metrics()
    for batch in data:
        step(batch)
    return _floats(model.get_metrics_result())  # of all workers, weighted as they should be


def _reduced(strategy, step):
    """The step on every replica, and the means of what it returns."""

    @tf.function
    def reduced(batch):
        logs = strategy.run(step, args=(batch,))
        return {name: strategy.reduce("MEAN", value, axis=None) for name, value in logs.items()}

    return reduced


def _distributed(strategy, data):
    options = tf.data.Options()
    # Each worker makes the whole batch and takes its part: batches are those of one process.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return strategy.experimental_distribute_dataset(data.with_options(options))


def _floats(logs):
    return {name: float(value) for name, value in logs.items()}


def _config():
    return json.loads(os.environ.get("TF_CONFIG") or "{}")


def _workers():
    cluster = _config().get("cluster", {})
    return [*cluster.get("chief", []), *cluster.get("worker", [])]
