"""Steps of classifiers whose time is measured, and their memory in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_norms.timing import Step, peak_of

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def training_step(model: keras.Model, optimizer: keras.Optimizer) -> Step:
    """A compiled function `(x, y) -> loss` that trains a classifier."""
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=False)
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return train_on(model, optimizer, x, y)

    return step


def train_on(
    model: keras.Model, optimizer: keras.Optimizer, x: tf.Tensor, y: tf.Tensor
) -> tf.Tensor:
    """Trains a classifier for one step, and returns the loss before it."""
    with tf.GradientTape() as tape:
        loss = LOSS(y, model(x, training=True))
    weights = [variable.value for variable in model.trainable_variables]
    gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
    optimizer.apply(gradients, model.trainable_variables)
    return loss


def inference_step(model: keras.Model) -> Step:
    """A compiled function `(x, y) -> sum of the logits`, in inference mode."""

    @tf.function(jit_compile=False)
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(model(x, training=False))

    return step


def peak_memory(
    step: tf.types.experimental.PolymorphicFunction,
    small: Sequence[tf.Tensor],
    inputs: Sequence[tf.Tensor],
) -> int | None:
    """Bytes by which one call raises the resident memory of this process at its peak.

    XLA compiles during the call, so its memory counts too. Run this in a process of its own
    (`run_child`): otherwise the call may reuse memory that was freed before, and seem to need less.

    Args:
        step: function that `tf.function` has compiled.
        small: a small batch for an earlier call that is not measured. In it, TensorFlow takes the
            memory that it needs for itself.
        inputs: the batch to measure.

    Returns:
        The bytes, or None where they cannot be measured (only Linux tells them).
    """
    step(*small)
    step = step.get_concrete_function(*inputs)
    return peak_of(lambda: step(*inputs))


def run_child(*arguments: str) -> Any:
    """Runs Python in a process made for measuring memory, and reads the JSON that it prints last.

    The process sees no GPU. Its allocator returns large blocks to the system at once. If it kept
    them, a step could reuse them, and would seem to need no memory.

    Args:
        *arguments: of `python`, for instance `"-m", "package.module"`.

    Raises:
        RuntimeError: if the process fails; the message ends with what it wrote to stderr.
    """
    settings = {"CUDA_VISIBLE_DEVICES": "-1", "MALLOC_MMAP_THRESHOLD_": "100000"}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])
