"""What a step of a model costs: its time, in turn with others, and its memory at the peak."""

import contextlib
import sys
import time

import keras
import numpy as np
import tensorflow as tf

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def training_step(model, optimizer):
    """A compiled function `(x, y) -> loss` that trains a classifier."""
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=False)
    def step(x, y):
        return train_on(model, optimizer, x, y)

    return step


def train_on(model, optimizer, x, y):
    """One step of training a classifier; its loss before."""
    with tf.GradientTape() as tape:
        loss = LOSS(y, model(x, training=True))
    weights = [variable.value for variable in model.trainable_variables]
    gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
    optimizer.apply(gradients, model.trainable_variables)
    return loss


def inference_step(model):
    """A compiled function `(x, y) -> sum of the logits`, in inference mode."""

    @tf.function(jit_compile=False)
    def step(x, y):
        return tf.reduce_sum(model(x, training=False))

    return step


def time_in_turn(steps, inputs, rounds, repeats=1):
    """Times all steps in turn, so that a noisy machine disturbs all alike.

    Args:
        steps: `{name: function of the inputs}`, each returns a tensor or several.
        inputs: tuple of tensors.
        rounds: int, how many times every step is timed.
        repeats: int, steps in one timing.

    Returns:
        Seconds of every step in every round, as `{name: array of shape (rounds,)}`.
    """
    for step in steps.values():
        _wait(step(*inputs)), _wait(step(*inputs))
    seconds = {name: [] for name in steps}
    progress = keras.utils.Progbar(rounds, unit_name="round")
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(repeats):
                result = step(*inputs)
            _wait(result)
            seconds[name].append((time.perf_counter() - start) / repeats)
        with contextlib.redirect_stdout(sys.stderr):
            progress.add(1)
    return {name: np.array(times) for name, times in seconds.items()}


def raised_memory(step, inputs):
    """Bytes by which a step raises the resident memory of this process at its peak.

    If the step is yet to be compiled, that counts too; if it ran before, it finds the memory that
    TensorFlow kept. Blocks that were freed before hide what a step takes, unless the allocator
    returns large ones at once: set MALLOC_MMAP_THRESHOLD_=100000 in the environment.

    Raises:
        OSError: where there is no Linux.
    """
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark starts anew
    before = _resident("VmRSS")
    step(*inputs)
    return _resident("VmHWM") - before


def _wait(result):
    """Until a tensor is there."""
    first = tf.nest.flatten(result)[0]
    first[(0,) * first.shape.rank].numpy()


def _resident(field):
    """Bytes of resident memory: "VmRSS" now, "VmHWM" at its peak."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return 1024 * int(line.split()[1])
