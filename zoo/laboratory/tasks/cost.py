"""What each norm costs in a model: parameters, time of a step, memory."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

import keras_norms
from keras_norms import timing
from zoo.laboratory import measuring
from zoo.training import catalog


@dataclasses.dataclass(frozen=True)
class Profile:
    """Compares what norms cost in one model, on random data.

    A training step has a forward pass, a backward pass and an update by the model's optimizer. It
    is a graph without XLA. How it is timed: see `timing.compare_times`.

    Attributes:
        model: the name, in `zoo.training.catalog.entries()`, of a model that takes numbers.
        norms: what `keras_norms.get` understands. All are compared with the first one.
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
    dataset: ClassVar[str | None] = None  # see `study.Task`

    def rows(self, seed: int, folder: Path | None, data_dir: str | None) -> list[dict[str, Any]]:
        """Measures every norm.

        Args:
            seed: of the weights and the batch.
            folder: unused, nothing is written.
            data_dir: unused.

        Returns:
            One dict for each norm:

            - "norm".
            - "trainable_parameters", "parameters": see `count_parameters`.
            - "training_ms", "inference_ms": milliseconds of a step, the median.
            - "training_ratio", "inference_ratio": of that time to the time with the first norm,
              the median. "..._ratio_low", "..._ratio_high": its quartiles.
            - "memory_mib": see `peak`; None without `memory`.
        """
        keras.utils.set_random_seed(seed)
        models = {norm: self._build(norm) for norm in self.norms}
        batch = self._batch(self.batch_size, seed)
        training, inference = (
            timing.compare_times(
                {norm: make_step(model) for norm, model in models.items()},
                batch,
                base=self.norms[0],
                rounds=self.rounds,
            )
            for make_step in (self._training_step, measuring.inference_step)
        )
        return [
            {
                "norm": norm,
                **count_parameters(model),
                **_named("training", training[norm]),
                **_named("inference", inference[norm]),
                "memory_mib": self._memory_in_child(norm, seed) if self.memory else None,
            }
            for norm, model in models.items()
        ]

    def peak(self, norm: str, seed: int) -> float | None:
        """MiB that one training step takes in this process: see `measuring.peak_memory`."""
        small, batch = (self._batch(size, seed) for size in (1, self.batch_size))
        peak = measuring.peak_memory(self._training_step(self._build(norm)), small, batch)
        return None if peak is None else peak / 2**20

    def _memory_in_child(self, norm: str, seed: int) -> float | None:
        settings = json.dumps([dataclasses.asdict(self), norm, seed])
        return measuring.run_child("-m", "zoo.laboratory.tasks.cost", settings)

    def _build(self, norm: str) -> keras.Model:
        build = catalog.entries()[self.model].build
        return build(self.num_classes, norm, tuple(self.input_shape), width=self.width)

    def _training_step(self, model: keras.Model) -> timing.Step:
        recipe = catalog.entries()[self.model].recipe
        if recipe.optimizer == "sgd":
            optimizer = keras.optimizers.SGD(recipe.learning_rate, recipe.momentum)
        else:
            optimizer = keras.optimizers.Adam(recipe.learning_rate)
        return measuring.training_step(model, optimizer)

    def _batch(self, size: int, seed: int) -> tuple[tf.Tensor, tf.Tensor]:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((size, *self.input_shape), "float32")
        return tf.constant(x), tf.constant(rng.integers(self.num_classes, size=size))


def _named(kind: str, cost: timing.Cost) -> dict[str, float]:
    return {
        f"{kind}_ms": cost.ms,
        f"{kind}_ratio": cost.ratio,
        f"{kind}_ratio_low": cost.low,
        f"{kind}_ratio_high": cost.high,
    }


def count_parameters(layer: keras.Layer) -> dict[str, int]:
    """Counts the parameters that are trained, and all of them, with moving statistics."""
    groups = {"trainable_parameters": layer.trainable_variables, "parameters": layer.weights}
    return {name: sum(int(np.prod(v.shape)) for v in found) for name, found in groups.items()}


@dataclasses.dataclass(frozen=True)
class LayerParameters:
    """Counts the parameters of batch norm and of both conventions of layer norm.

    Layer norm has a gamma and a beta either for every channel or for every element. Inputs are 5
    maps of 10 x 10, and a sequence of 5 vectors of 10.
    """

    dataset: ClassVar[str | None] = None  # see `study.Task`

    def rows(self, seed: int, folder: Path | None, data_dir: str | None) -> list[dict[str, Any]]:
        """One dict for each layer: "layer", "input", "trainable_parameters", "parameters"."""
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
            {"layer": name, "input": str(shape), **count_parameters(layer)}
            for name, layer, shape in cases
        ]


if __name__ == "__main__":
    settings, norm, seed = json.loads(sys.argv[1])
    print(json.dumps(Profile(**settings).peak(norm, seed)))
