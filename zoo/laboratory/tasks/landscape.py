"""How smooth the loss is along its gradient during training, with and without covariate shift."""

import contextlib
import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_norms
from zoo import data
from zoo.laboratory.measuring import LOSS, training_step
from zoo.laboratory.tasks.train import test_accuracy
from zoo.training import catalog
from zoo.training.options import TrainOptions


@dataclasses.dataclass(frozen=True)
class Landscape:
    """Trains a model with SGD, and probes the loss along its gradient at regular steps.

    What is probed is the training loss on the batch of the step. Each point computes its own
    batch statistics, but has the dropout and the shift of the step.

    Attributes:
        model: a name of `zoo.training.catalog.entries()`.
        norm: what `keras_norms.get` understands.
        dataset: what `zoo.data.load` understands.
        width: factor of the number of channels.
        train_examples: how many; None for all.
        test_examples: how many; None for all.
        batch_size: samples of a batch.
        steps: training steps.
        learning_rate: the same at all steps.
        shift: whether a `CovariateShift` follows every norm, or stands in its place with "none".
        every: steps from one probe to the next.
        lengths: of the steps along the gradient, in multiples of the learning rate.

    Reference:
        [How Does Batch Normalization Help Optimization?](https://arxiv.org/abs/1805.11604),
        section 2.1 for the shift, section 3.1 for the measures.
    """

    model: str = "conv6"
    norm: str = "bn"
    dataset: str = "digits"
    width: float = 1.0
    train_examples: int | None = None
    test_examples: int | None = None
    batch_size: int = 128
    steps: int = 300
    learning_rate: float = 0.1
    shift: bool = False
    every: int = 10
    lengths: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0, 4.0)

    def rows(self, seed: int, folder: Path | None, data_dir: str | None) -> list[dict[str, Any]]:
        """Trains once.

        Args:
            seed: of the weights, the examples and their order, and the shift.
            folder: unused, nothing is written.
            data_dir: directory of TensorFlow Datasets, or None.

        Returns:
            One dict. For every measure of `probe` it holds the median over training, "median_...",
            in which values that are not finite count as infinite; "curves" holds all values by
            step. "final_loss" is the mean training loss of the last `every` steps. "diverged_at"
            is the step whose loss was not finite, which ends the training, or None.
            "test_accuracy" is that after the training.
        """
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        model, examples = self._model_and_examples(data_dir, seed)
        batches = examples.train_batches(self.batch_size, seed)
        if keras_norms.get(self.norm).weight_norm is not None:
            keras_norms.data_dependent_init(model, next(iter(batches)))
        step = training_step(model, keras.optimizers.SGD(self.learning_rate))
        evaluate = loss_and_gradients(model)
        lengths = [self.learning_rate * length for length in self.lengths]
        losses: list[float] = []
        measured: dict[int, dict[str, float]] = {}
        diverged_at = None
        progress = keras.utils.Progbar(self.steps)
        for number, (x, y) in enumerate(batches.take(self.steps)):
            if number % self.every == 0:
                weights = [variable.value for variable in model.trainable_variables]
                here = functools.partial(evaluate, x=x, y=y)
                measured[number] = probe(here, weights, lengths)
            losses.append(float(step(x, y)))
            with contextlib.redirect_stdout(sys.stderr):
                progress.update(number + 1)
            if not math.isfinite(losses[-1]):
                diverged_at = number
                break
        row = {
            **_summary(measured),
            "final_loss": float(np.mean(losses[-self.every :])),
            "test_accuracy": test_accuracy(model, examples),
            "diverged_at": diverged_at,
        }
        return [row]

    def _model_and_examples(
        self, data_dir: str | None, seed: int
    ) -> tuple[keras.Model, data.LabelledSet]:
        entry = catalog.entries()[self.model]
        if self.shift and self.model == "lstm":
            raise ValueError("A shift cannot follow the norms inside of an LSTM: use shift=False.")
        examples = data.load(
            self.dataset,
            data_dir,
            train_examples=self.train_examples,
            test_examples=self.test_examples,
            sequences=entry.sequences,
            # Verdicts shall not depend on which examples come first in a set.
            draw_seed=seed if self.train_examples is not None else None,
        )
        norm: Any = shifted(self.norm) if self.shift else self.norm
        options = TrainOptions(model=self.model, norm=norm, width=self.width)
        return catalog.build(entry, options, examples), examples


def probe(
    loss_and_gradients: Callable[[Sequence[tf.Tensor]], tuple[Any, list[tf.Tensor]]],
    weights: Sequence[tf.Tensor],
    lengths: Sequence[float],
) -> dict[str, float]:
    """Measures a loss and its gradient at points along the negative gradient.

    With the gradient g at the weights w, the points are w - length g, and

        smoothness = max over lengths of ||g(w - length g) - g|| / ||length g||

    Args:
        loss_and_gradients: pure function `weights -> (loss, gradients)`.
        weights: the tensors w.
        lengths: positive, in units of the learning rate.

    Returns:
        "loss" and "gradient_norm" at w. Over the points, "loss_low", "loss_high" and their
        difference "loss_range"; "change_low" and "change_high" of the distance ||g(point) - g||,
        which says how badly g predicts the gradient there. "relative_change" is the largest
        distance in units of ||g||, which does not depend on the scale of the loss. "smoothness"
        is the effective beta. Gradient descent is stable while it is below 2 / rate.
    """
    loss, gradients = loss_and_gradients(weights)
    norm = float(tf.linalg.global_norm(gradients))
    losses, changes = [], []
    for length in lengths:
        point = [w - length * g for w, g in zip(weights, gradients, strict=True)]
        loss_there, gradients_there = loss_and_gradients(point)
        change = [b - a for a, b in zip(gradients, gradients_there, strict=True)]
        losses.append(float(loss_there))
        changes.append(float(tf.linalg.global_norm(change)))
    with np.errstate(divide="ignore", invalid="ignore"):
        measures = {
            "loss": loss,
            "gradient_norm": norm,
            "loss_low": np.min(losses),
            "loss_high": np.max(losses),
            "loss_range": np.ptp(losses),
            "change_low": np.min(changes),
            "change_high": np.max(changes),
            "relative_change": np.max(changes) / norm,
            "smoothness": np.max(np.array(changes) / (np.array(lengths) * norm)),
        }
    return {name: float(value) for name, value in measures.items()}


def loss_and_gradients(
    model: keras.Model,
) -> Callable[..., tuple[tf.Tensor, list[tf.Tensor]]]:
    """A compiled function `(weights, x, y) -> (loss, gradients)` of the training loss.

    It changes no weights, no moving statistics and no states of random generators. So all calls
    between two steps draw the same noise.
    """

    @tf.function
    def evaluate(
        weights: list[tf.Tensor], x: tf.Tensor, y: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        others = [variable.value for variable in model.non_trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, _ = model.stateless_call(weights, others, x, training=True)
            loss = LOSS(y, logits)
        gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
        return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]

    # As tensors: the graph would capture variables, with their values in the first call.
    return lambda weights, x, y: evaluate([tf.convert_to_tensor(w) for w in weights], x, y)


class CovariateShift(keras.layers.Layer):
    """Scales and shifts every unit in training, by numbers that change at every step.

        y_ij = s_ij x_ij + m_ij,  m_ij ~ U(mu_j - r, mu_j + r),  s_ij ~ N(sigma_j, r)
        mu_j ~ U(-mean, mean),  sigma_j ~ U(1, scale)

    for sample i and unit j. All of it is drawn anew at every step. A unit is a channel at all its
    positions. At inference, inputs pass unchanged.

    Args:
        mean: largest distance of the mean of the shift from 0.
        scale: largest mean of the factor.
        spread: r, how much the shift and the factor of a unit differ between samples.
        **kwargs: arguments of `keras.layers.Layer`.

    Reference:
        [How Does Batch Normalization Help Optimization?](https://arxiv.org/abs/1805.11604),
        section 2.1 and the algorithm of "noisy" batch norm in its appendix.
    """

    def __init__(
        self, mean: float = 0.5, scale: float = 1.25, spread: float = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.mean, self.scale, self.spread = mean, scale, spread
        self.supports_masking = True
        self.seeds = keras.random.SeedGenerator()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training:
            return inputs
        ones = (1,) * (len(inputs.shape) - 2)
        unit = (1, *ones, inputs.shape[-1])
        sample = (keras.ops.shape(inputs)[0], *ones, inputs.shape[-1])
        uniform = functools.partial(keras.random.uniform, dtype=inputs.dtype, seed=self.seeds)
        normal = functools.partial(keras.random.normal, dtype=inputs.dtype, seed=self.seeds)
        shift = uniform(unit, -self.mean, self.mean) + uniform(sample, -self.spread, self.spread)
        factor = uniform(unit, 1.0, self.scale) + normal(sample, 0.0, self.spread)
        return inputs * factor + shift

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {"mean": self.mean, "scale": self.scale, "spread": self.spread}
        return {**super().get_config(), **own}


class _Shifted(keras_norms.registry.Norm):
    """A norm that makes each of its layers with a `CovariateShift` behind it."""

    def normalize(
        self,
        name: str | None = None,
        batch_axis: int | tuple[int, ...] = 0,
        zero_init: bool = False,
        **arguments: Any,
    ) -> keras.Sequential:
        norm = super().normalize(name, batch_axis, zero_init, **arguments)
        return keras.Sequential([norm, CovariateShift()], name=name and f"{name}_shifted")


def shifted(spec: Any) -> keras_norms.registry.Norm:
    """The `Norm` that `spec` stands for, with a `CovariateShift` behind each of its layers."""
    norm = keras_norms.get(spec)
    return _Shifted(**{field.name: getattr(norm, field.name) for field in dataclasses.fields(norm)})


def _summary(measured: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """The medians and the curves of measures, from `{step: measures}`."""
    names = next(iter(measured.values()))
    curves = {name: [measures[name] for measures in measured.values()] for name in names}
    medians = {
        f"median_{name}": float(np.median(np.nan_to_num(values, nan=np.inf, posinf=np.inf)))
        for name, values in curves.items()
    }
    return medians | {"curves": {"step": list(measured), **curves}}
