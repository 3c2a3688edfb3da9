"""What a training or inference step costs: its time, compared with others, and its memory."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np
import tensorflow as tf

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
Name = TypeVar("Name", bound=Hashable)
Step = Callable[..., Any]  # a function of tensors that returns a tensor or several


class Cost(NamedTuple):
    """The time of a step, and its ratio to the time of another step, the base.

    Attributes:
        first: seconds of the first call, which compiles.
        ms: milliseconds of a later call, the median over rounds.
        ratio: the median over rounds of the ratio within a round.
        low: the lower quartile of that ratio.
        high: the upper quartile of that ratio.
    """

    first: float
    ms: float
    ratio: float
    low: float
    high: float


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


def compare_times(
    steps: Mapping[Name, Step],
    inputs: Sequence[tf.Tensor],
    base: Name,
    rounds: int,
    repeats: int = 1,
) -> dict[Name, Cost]:
    """Times steps in turn within each round, so that a noisy machine disturbs all alike.

    Args:
        steps: `{name: function of the inputs}`; each returns a tensor or several.
        inputs: the tensors that every step gets.
        base: the name of the step to compare all with.
        rounds: how many times every step is timed.
        repeats: calls in one timing.

    Returns:
        `{name: Cost}`.
    """

    def seconds(step: Step, repeats: int = 1) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            result = step(*inputs)
        _wait_for(result)
        return (time.perf_counter() - start) / repeats

    first = {name: seconds(step) for name, step in steps.items()}
    for step in steps.values():
        seconds(step)  # not counted: a second call is not yet as fast as later ones
    progress = keras.utils.Progbar(rounds, unit_name="round")
    measured: dict[Name, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            measured[name].append(seconds(step, repeats))
        with contextlib.redirect_stdout(sys.stderr):
            progress.add(1)
    times = {name: np.array(values) for name, values in measured.items()}
    return {
        name: Cost(
            first[name],
            1e3 * float(np.median(own)),
            *map(float, np.percentile(own / times[base], [50, 25, 75])),
        )
        for name, own in times.items()
    }


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
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # sets the peak to what is resident now
        before = _resident_bytes("VmRSS")
        step(*inputs)
        return _resident_bytes("VmHWM") - before
    except OSError:
        return None


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


def _wait_for(result: Any) -> None:
    """Waits until a computation has ended, by reading one element of its result."""
    first = tf.nest.flatten(result)[0]
    first[(0,) * first.shape.rank].numpy()


def _resident_bytes(field: str) -> int:
    """Resident memory of this process: "VmRSS" is that of now, "VmHWM" the peak."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return 1024 * int(line.split()[1])
