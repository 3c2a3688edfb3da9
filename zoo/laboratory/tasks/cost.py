"""What each norm costs in a model: parameters, time of a step, memory."""

import dataclasses
import json
import os
import subprocess
import sys
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

import keras_norms
from zoo.laboratory import measuring
from zoo.training import catalog


@dataclasses.dataclass(frozen=True)
class Profile:
    """Compares norms in one model, on data made up.

    A training step is forward, backward and the update by the model's optimizer, in a graph
    without XLA. All norms are timed in turn within each round, so that a noisy machine disturbs
    all alike.

    Attributes:
        model: a name of `zoo.training.catalog.entries()`, of a model that takes numbers.
        norms: what `keras_norms.get` understands; the first one is what the others are compared
            with.
        input_shape: shape of a sample.
        num_classes: number of logits.
        width: factor of the number of channels.
        batch_size: samples of a batch.
        rounds: how many times every norm is timed.
        memory: whether to measure memory, in a process for each norm.
    """

    model: str = "resnet20"
    norms: tuple[str, ...] = ("none", "bn", "ln", "gn", "in", "bin", "sn", "wn", "wn_mobn")
    input_shape: tuple[int, ...] = (32, 32, 3)
    num_classes: int = 10
    width: float = 1.0
    batch_size: int = 32
    rounds: int = 20
    memory: bool = True
    dataset: ClassVar = None  # see `study.Task`

    def rows(self, seed, folder, data_dir):
        """Measures every norm.

        Args:
            seed: int, of the weights and the batch.
            folder: unused, nothing is written.
            data_dir: unused.

        Returns:
            A list of one dict per norm: "norm", "trainable_parameters", "parameters" (with moving
            statistics), of "training" and "inference" the median "..._ms" of a step and
            "..._ratio", "..._ratio_low" and "..._ratio_high", median and quartiles of the ratio
            to the first norm within a round; and "memory_mib", how far a training step on the CPU
            raises the resident memory at its peak, with what XLA takes to compile it, None where
            that is not to be had (no Linux).
        """
        keras.utils.set_random_seed(seed)
        built = {norm: self._build(norm) for norm in self.norms}
        batch = self._batch(self.batch_size, seed)
        steps = {
            (norm, kind): step
            for norm, model in built.items()
            for kind, step in (
                ("training", measuring.training_step(model, self._optimizer())),
                ("inference", measuring.inference_step(model)),
            )
        }
        seconds = measuring.time_in_turn(steps, batch, self.rounds)
        return [
            {
                "norm": norm,
                **parameters(model),
                **self._costs(seconds, norm, "training"),
                **self._costs(seconds, norm, "inference"),
                "memory_mib": self._peak_of_process(norm, seed) if self.memory else None,
            }
            for norm, model in built.items()
        ]

    def peak(self, norm, seed):
        """MiB by which one training step raises this process's memory; None if that is unknown."""
        model = self._build(norm)
        step = measuring.training_step(model, self._optimizer())
        step(*self._batch(1, seed))  # what the runtime itself needs
        batch = self._batch(self.batch_size, seed)
        step = step.get_concrete_function(*batch)
        try:
            return measuring.raised_memory(step, batch) / 2**20
        except OSError:
            return None

    def _build(self, norm):
        build = catalog.entries()[self.model].build
        return build(self.num_classes, norm, tuple(self.input_shape), width=self.width)

    def _optimizer(self):
        recipe = catalog.entries()[self.model].recipe
        if recipe.optimizer == "sgd":
            return keras.optimizers.SGD(recipe.learning_rate, recipe.momentum)
        return keras.optimizers.Adam(recipe.learning_rate)

    def _batch(self, size, seed):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((size, *self.input_shape), "float32")
        return tf.constant(x), tf.constant(rng.integers(self.num_classes, size=size))

    def _costs(self, seconds, norm, kind):
        times = seconds[norm, kind]
        ratios = np.percentile(times / seconds[self.norms[0], kind], [50, 25, 75])
        names = (f"{kind}_ratio", f"{kind}_ratio_low", f"{kind}_ratio_high")
        costs = {f"{kind}_ms": 1e3 * float(np.median(times))}
        return costs | dict(zip(names, map(float, ratios), strict=True))

    def _peak_of_process(self, norm, seed):
        settings = json.dumps([dataclasses.asdict(self), norm, seed])
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            # The allocator returns large blocks at once: a step would otherwise hide in the
            # memory of the one before.
            "MALLOC_MMAP_THRESHOLD_": "100000",
        }
        command = [sys.executable, "-m", "zoo.laboratory.tasks.cost", settings]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        if result.returncode:
            raise RuntimeError(f"Memory of norm={norm!r}: {result.stderr[-2000:]}")
        return json.loads(result.stdout.split()[-1])


def parameters(layer):
    """Numbers of parameters: those that are trained, and all, moving statistics included."""
    count = {"trainable_parameters": layer.trainable_variables, "parameters": layer.weights}
    return {name: sum(int(np.prod(v.shape)) for v in found) for name, found in count.items()}


@dataclasses.dataclass(frozen=True)
class LayerParameters:
    """Parameters of batch and layer norm, by what layer norm has a gamma and a beta for.

    Five maps of 10 x 10 and a sequence of 5 vectors of 10; 2 per channel, or 2 per element.
    """

    dataset: ClassVar = None  # see `study.Task`

    def rows(self, seed, folder, data_dir):
        """A dict per layer: "layer", "input", "trainable_parameters", "parameters"."""
        keras_ln = keras.layers.LayerNormalization
        cases = (
            ("bn", keras_norms.get("bn").normalize(), (None, 10, 10, 5)),
            ("ln", keras_norms.get("ln").normalize(), (None, 10, 10, 5)),
            ("keras LN (1, 2, 3)", keras_ln(axis=(1, 2, 3)), (None, 10, 10, 5)),
            ("keras LN (last axis)", keras_ln(), (None, 10, 10, 5)),
            ("ln", keras_norms.get("ln").normalize(batch_axis=(0, 1)), (20, 5, 10)),
            ("keras LN (last axis)", keras_ln(), (20, 5, 10)),
        )
        for _, layer, shape in cases:
            layer.build(shape)
        return [
            {"layer": name, "input": str(shape), **parameters(layer)}
            for name, layer, shape in cases
        ]


if __name__ == "__main__":
    settings, norm, seed = json.loads(sys.argv[1])
    print(json.dumps(Profile(**settings).peak(norm, seed)))
