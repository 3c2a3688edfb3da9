"""How far training on replicas is from training on one device."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from zoo.training import catalog, distribution

Copies = Sequence[np.ndarray]  # what each replica has of a tensor or variable


class Step(NamedTuple):
    """What one training step gave on each replica.

    Attributes:
        outputs: of the layer.
        input_gradients: of the loss.
        gradients: of the loss with respect to each of the layer's `trainable_variables`, each
            replica's own share: their sum is the gradient of the loss of the global batch.
    """

    outputs: Copies
    input_gradients: Copies
    gradients: Sequence[Copies]


def step_on_replicas(
    strategy: tf.distribute.Strategy,
    layer: keras.Layer,
    parts: Sequence[Copies],
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    optimizer: keras.Optimizer | None = None,
    compiled: bool = False,
) -> Step:
    """Does one training step of a layer or a model on all replicas.

    Args:
        strategy: the replicas.
        layer: built in the scope of the strategy.
        parts: the inputs, the targets and, if there is one, the mask; of each one array for every
            replica.
        loss: function `(outputs, targets)`, the share of a replica in the loss of the global batch.
        optimizer: applies the sum of the replicas' gradients. None leaves the trainable weights
            as they are.
        compiled: whether the step is a graph.
    """
    weights = layer.trainable_variables

    def local(
        x: tf.Tensor, target: tf.Tensor, mask: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        masked = {} if mask is None else {"mask": mask}
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, training=True, **masked)
            value = loss(outputs, target)
        gradients = tape.gradient(value, [x, *(weight.value for weight in weights)])
        if optimizer is not None:
            optimizer.apply(gradients[1:], weights)
        return outputs, gradients

    def run(*inputs: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        return strategy.run(local, args=inputs)

    inputs = [distribution.split(strategy, part) for part in parts]
    outputs, gradients = (tf.function(run) if compiled else run)(*inputs)
    held = [
        [value.numpy() for value in strategy.experimental_local_results(each)]
        for each in (outputs, *gradients)
    ]
    return Step(held[0], held[1], held[2:])


class Trained(NamedTuple):
    """What some training steps left.

    Attributes:
        step: the last one.
        trainable: paths of the layer's trainable variables, in the order of `step.gradients`.
        variables: `{path: copies}` of all variables of the layer and of its optimizer.
    """

    step: Step
    trainable: list[str]
    variables: dict[str, Copies]


def train_on_replicas(
    build: Callable[[], keras.Layer],
    split: Sequence[int],
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    learning_rate: float,
) -> Trained:
    """Trains a new layer or model with SGD, a step for each global batch.

    Args:
        build: function that makes it, built and with the same weights every time.
        split: samples of a batch for each replica; one number is one device.
        batches: of `(inputs, targets)`.
        loss: see `step_on_replicas`.
        learning_rate: of SGD.
    """
    keras.utils.clear_session()  # the names of variables begin anew
    strategy = distribution.strategy(len(split))
    with strategy.scope():
        layer = build()
        optimizer = keras.optimizers.SGD(learning_rate)
        optimizer.build(layer.trainable_variables)
    for batch in batches:
        parts = [np.split(array, np.cumsum(split)[:-1]) for array in batch]
        step = step_on_replicas(strategy, layer, parts, loss, optimizer)
    variables = (*layer.variables, *optimizer.variables)
    return Trained(
        step,
        [variable.path for variable in layer.trainable_variables],
        {variable.path: distribution.copies(variable) for variable in variables},
    )


def differences(several: Trained, one: Trained) -> dict[str, float | None]:
    """The largest differences between training on several replicas and on one device.

    Returns:
        dict, with None where there is nothing to compare:

        - "outputs", "input_gradients", "weight_gradients": of the last step.
        - "logit_gradients_sum": no difference, but the largest sum of the gradients of a switch's
          logits. It has to be 0.
        - "statistics": of the moving statistics. "weights": of all other variables.
        - "between_replicas", "gamma_beta_between_replicas": not from one device, but between the
          replicas' copies of all variables, and of gamma and beta alone.
    """
    moving = {path for path in one.variables if "moving" in path}
    affine = [path for path in one.variables if path.endswith(("gamma", "beta"))]
    spreads = {path: np.ptp(copies, axis=0) for path, copies in several.variables.items()}

    def of_variables(paths: Iterable[str]) -> float | None:
        return _largest(several.variables[p][0] - one.variables[p][0] for p in paths)

    return {
        "outputs": _largest([_joined(several.step.outputs) - _joined(one.step.outputs)]),
        "input_gradients": _largest(
            [_joined(several.step.input_gradients) - _joined(one.step.input_gradients)]
        ),
        "weight_gradients": _largest(
            np.sum(own, axis=0) - np.sum(other, axis=0)
            for own, other in zip(several.step.gradients, one.step.gradients, strict=True)
        ),
        "logit_gradients_sum": _largest(
            np.sum(own, axis=1)
            for path, own in zip(several.trainable, several.step.gradients, strict=True)
            if path.endswith("logits")
        ),
        "weights": of_variables(one.variables.keys() - moving),
        "statistics": of_variables(moving),
        "between_replicas": _largest(spreads.values()),
        "gamma_beta_between_replicas": _largest(spreads[path] for path in affine),
    }


def _joined(copies: Copies) -> np.ndarray:
    """The whole batch."""
    return np.concatenate(copies)


def _largest(arrays: Iterable[np.ndarray]) -> float | None:
    """The largest absolute value; None without an array."""
    return max((float(np.abs(array).max()) for array in arrays), default=None)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Trains a model for a few steps on replicas and on one device, on the same global batches.

    The loss is the mean over the global batch, and each replica adds the share of its samples. So
    only the statistics, and rounding, can make a difference.

    Attributes:
        norm: what `keras_norms.get` understands.
        replicas: how many.
        uneven: whether all replicas but the first get half of an equal share, and the first one
            gets the rest.
        model: the name, in `zoo.training.catalog.entries()`, of a model that takes images.
        width: factor of the number of channels.
        global_batch: samples of all replicas together; a multiple of twice `replicas`.
        steps: training steps.
        learning_rate: of SGD.
    """

    norm: str
    replicas: int
    uneven: bool = False
    model: str = "conv6"
    width: float = 0.25
    global_batch: int = 64
    steps: int = 3
    learning_rate: float = 0.05
    dataset: ClassVar[str | None] = None  # see `study.Task`

    def rows(self, seed: int, folder: Path | None, data_dir: str | None) -> list[dict[str, Any]]:
        """See `study.Task`.

        Returns:
            One dict of what `differences` finds after the last step: "weights_difference",
            "statistics_difference", "between_replicas" and "gamma_beta_between_replicas".
        """

        def build() -> keras.Model:
            keras.utils.set_random_seed(seed)
            entry = catalog.entries()[self.model]
            return entry.build(10, self.norm, (16, 16, 3), width=self.width)

        def loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
            losses = keras.ops.sparse_categorical_crossentropy(labels, logits, True)
            return tf.reduce_sum(losses) / self.global_batch

        one, several = (
            train_on_replicas(build, split, self._batches(seed), loss, self.learning_rate)
            for split in ([self.global_batch], self.split())
        )
        found = differences(several, one)
        return [
            {
                "weights_difference": found["weights"],
                "statistics_difference": found["statistics"],
                "between_replicas": found["between_replicas"],
                "gamma_beta_between_replicas": found["gamma_beta_between_replicas"],
            }
        ]

    def split(self) -> list[int]:
        """The samples of each replica."""
        share = self.global_batch // self.replicas
        if not self.uneven or self.replicas == 1:
            return [share] * self.replicas
        others = [share // 2] * (self.replicas - 1)
        return [self.global_batch - sum(others), *others]

    def _batches(self, seed: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        random = np.random.default_rng(seed)
        for _ in range(self.steps):
            # Samples of one batch differ in their means, as those of a data set do.
            images = random.normal(0, 1, (self.global_batch, 16, 16, 3))
            images += random.normal(0, 1, (self.global_batch, 1, 1, 3))
            labels = random.integers(0, 10, self.global_batch)
            yield images.astype("float32"), labels.astype("int32")
