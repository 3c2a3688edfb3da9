"""How smooth the loss is along its gradient while a model trains, and what covariate shift does."""

import contextlib
import dataclasses
import functools
import math
import sys

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
    """Trains a model with SGD, and looks along the gradient at every so many steps.

    The function that is probed is the training loss of the step's batch: batch statistics are
    those of the batch at each point, and dropout and shift are drawn as in the step.

    Attributes:
        model: a name of `zoo.training.catalog.entries()`.
        norm: what `keras_norms.get` understands.
        dataset: what `zoo.data.load` understands.
        width: factor of the number of channels.
        train_examples: int, or None for all.
        test_examples: int, or None for all.
        batch_size: samples of a batch.
        steps: training steps.
        learning_rate: of all steps.
        shift: whether `CovariateShift` follows every norm (or its place, where there is none).
        every: steps from one measurement to the next.
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

    def rows(self, seed, folder, data_dir):
        """Trains once.

        Args:
            seed: int, of the weights, the order of the data and the shift.
            folder: unused, nothing is written.
            data_dir: directory of TensorFlow Datasets, or None.

        Returns:
            A list of one dict: of every measure of `probe` the "median_..." over training, in
            which what is not finite counts as infinite, and in "curves" its values by step;
            "final_loss", the mean training loss of the last `every` steps, "test_accuracy", and
            "diverged_at", the step whose loss was not finite and ended the training, or None.
        """
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        model, examples = self._model_and_examples(data_dir)
        batches = examples.train_batches(self.batch_size, seed)
        if keras_norms.get(self.norm).weight_norm is not None:
            keras_norms.data_dependent_init(model, next(iter(batches)))
        step = training_step(model, keras.optimizers.SGD(self.learning_rate))
        evaluate = loss_and_gradients(model)
        lengths = [self.learning_rate * length for length in self.lengths]
        losses, measured, diverged_at = [], {}, None
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

    def _model_and_examples(self, data_dir):
        entry = catalog.entries()[self.model]
        if self.shift and self.model == "lstm":
            raise ValueError("No shift can follow the norms inside of an LSTM: use shift=False.")
        examples = data.load(
            self.dataset,
            data_dir,
            train_examples=self.train_examples,
            test_examples=self.test_examples,
            sequences=entry.sequences,
        )
        norm = shifted(self.norm) if self.shift else self.norm
        options = TrainOptions(model=self.model, norm=norm, width=self.width)
        return catalog.build(entry, options, examples), examples


def probe(loss_and_gradients, weights, lengths):
    """Measures of a loss L along its negative gradient g, at the points w - length g.

        smoothness = max over lengths of ||g(w - length g) - g|| / ||length g||

    Args:
        loss_and_gradients: pure function `weights -> (loss, gradients)`.
        weights: list of tensors w.
        lengths: positive floats, in units of the learning rate.

    Returns:
        A dict of floats: "loss" and "gradient_norm" at w; "loss_low", "loss_high" and their
        difference "loss_range" over the points; "change_low" and "change_high" of the distance
        ||g(point) - g||, the (un)predictiveness of the gradient; "relative_change", the largest
        distance in units of ||g||, which does not depend on the scale of the loss; and
        "smoothness", the effective beta, of which gradient descent bears 2 / rate at most.
    """
    loss, gradients = loss_and_gradients(weights)
    norm = float(tf.linalg.global_norm(gradients))
    losses, changes = [], []
    for length in lengths:
        moved = [w - length * g for w, g in zip(weights, gradients, strict=True)]
        moved_loss, moved_gradients = loss_and_gradients(moved)
        change = [b - a for a, b in zip(gradients, moved_gradients, strict=True)]
        losses.append(float(moved_loss))
        changes.append(float(tf.linalg.global_norm(change)))
    losses, changes = np.array(losses), np.array(changes)
    with np.errstate(divide="ignore", invalid="ignore"):
        measures = {
            "loss": loss,
            "gradient_norm": norm,
            "loss_low": losses.min(),
            "loss_high": losses.max(),
            "loss_range": np.ptp(losses),
            "change_low": changes.min(),
            "change_high": changes.max(),
            "relative_change": changes.max() / norm,
            "smoothness": (changes / (np.array(lengths) * norm)).max(),
        }
    return {name: float(value) for name, value in measures.items()}


def loss_and_gradients(model):
    """A compiled function `(weights, x, y) -> (loss, gradients)` of the training loss.

    It changes nothing: neither weights nor moving statistics nor the states of random generators,
    so that all calls between two steps draw the same noise.
    """

    @tf.function
    def evaluate(weights, x, y):
        others = [variable.value for variable in model.non_trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, _ = model.stateless_call(weights, others, x, training=True)
            loss = LOSS(y, logits)
        gradients = tape.gradient(loss, weights, unconnected_gradients="zero")
        return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]

    # A list of variables would be captured, and fixed at what they are in the first call.
    return lambda weights, x, y: evaluate([tf.convert_to_tensor(w) for w in weights], x, y)


class CovariateShift(keras.layers.Layer):
    """Scales and moves every unit, in training, in a way that changes at every step.

        y_ij = s_ij x_ij + m_ij,  m_ij ~ U(mu_j - r, mu_j + r),  s_ij ~ N(sigma_j, r)
        mu_j ~ U(-mean, mean),  sigma_j ~ U(1, scale)

    for sample i and unit j, with new mu_j and sigma_j at every step. A unit is a channel, at all
    its positions. Inference is the identity.

    Args:
        mean: float, largest distance of the shift's mean from 0.
        scale: float, largest mean of the factor.
        spread: float, r.
        **kwargs: arguments of `keras.layers.Layer`.

    Reference:
        [How Does Batch Normalization Help Optimization?](https://arxiv.org/abs/1805.11604),
        section 2.1 and the algorithm of "noisy" batch norm in its appendix.
    """

    def __init__(self, mean=0.5, scale=1.25, spread=0.1, **kwargs):
        super().__init__(**kwargs)
        self.mean, self.scale, self.spread = mean, scale, spread
        self.supports_masking = True
        self.seeds = keras.random.SeedGenerator()

    def call(self, inputs, training=None):
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

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        own = {"mean": self.mean, "scale": self.scale, "spread": self.spread}
        return {**super().get_config(), **own}


class _Shifted(keras_norms.registry.Norm):
    """A norm whose layers a `CovariateShift` follows."""

    def normalize(self, name=None, **arguments):
        norm = super().normalize(name, **arguments)
        return keras.Sequential([norm, CovariateShift()], name=name and f"{name}_shifted")


def shifted(spec):
    """The `Norm` that `spec` stands for, with a `CovariateShift` after each of its layers."""
    norm = keras_norms.get(spec)
    return _Shifted(**{field.name: getattr(norm, field.name) for field in dataclasses.fields(norm)})


def _summary(measured):
    """Medians and curves of measures, from `{step: measures}`."""
    names = next(iter(measured.values()))
    curves = {name: [measures[name] for measures in measured.values()] for name in names}
    medians = {
        f"median_{name}": float(np.median(np.nan_to_num(values, nan=np.inf, posinf=np.inf)))
        for name, values in curves.items()
    }
    return medians | {"curves": {"step": list(measured), **curves}}
