"""How far training on replicas is from training on one device, step by step."""

import dataclasses
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from zoo.training import catalog, distribution


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Trains a model for a few steps on replicas and on one device, on the same global batches.

    The loss is the mean over the global batch, and gradients are added up, as every replica's
    samples deserve; so what differs comes from the statistics.

    Attributes:
        norm: what `keras_norms.get` understands.
        replicas: int.
        uneven: whether all replicas but the first have half of their share, and it has the rest.
        model: a name of `zoo.training.catalog.entries()`, of one that takes images.
        width: factor of the number of channels.
        global_batch: int, samples over all replicas; a multiple of twice the replicas.
        steps: int, training steps.
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
    dataset: ClassVar = None  # see `study.Task`

    def rows(self, seed, folder, data_dir):
        """See `study.Task`.

        Returns:
            One dict: the largest differences to one device of "weights_difference" and
            "statistics_difference" (moving ones, None if there are none), and of what replicas
            hold, "between_replicas" over all variables and "gamma_beta_between_replicas".
        """
        one, _ = self._train(1, [self.global_batch], seed)
        several, copies = self._train(self.replicas, self.split(), seed)
        moving = [path for path in one if "moving" in path]
        return [
            {
                "weights_difference": _largest(one, several, set(one) - set(moving)),
                "statistics_difference": _largest(one, several, moving),
                "between_replicas": max(copies.values()),
                "gamma_beta_between_replicas": max(
                    (d for path, d in copies.items() if path.endswith(("gamma", "beta"))),
                    default=None,
                ),
            }
        ]

    def split(self):
        """Samples of each replica."""
        share = self.global_batch // self.replicas
        if not self.uneven or self.replicas == 1:
            return [share] * self.replicas
        others = [share // 2] * (self.replicas - 1)
        return [self.global_batch - sum(others), *others]

    def _train(self, replicas, split, seed):
        """`({path: value}, {path: largest difference between replicas})` of all variables."""
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        strategy = distribution.strategy(replicas)
        with strategy.scope():
            build = catalog.entries()[self.model].build
            model = build(10, self.norm, (16, 16, 3), width=self.width)
            optimizer = keras.optimizers.SGD(self.learning_rate)
            optimizer.build(model.trainable_variables)

        def local(images, labels):
            weights = [variable.value for variable in model.trainable_variables]
            with tf.GradientTape() as tape:
                logits = model(images, training=True)
                losses = keras.ops.sparse_categorical_crossentropy(labels, logits, True)
                loss = tf.reduce_sum(losses) / self.global_batch
            optimizer.apply(tape.gradient(loss, weights), model.trainable_variables)

        random = np.random.default_rng(seed)
        for _ in range(self.steps):
            # Samples differ in their means, as batches of one source of many do.
            images = random.normal(0, 1, (self.global_batch, 16, 16, 3))
            images += random.normal(0, 1, (self.global_batch, 1, 1, 3))
            labels = random.integers(0, 10, self.global_batch)
            arrays = images.astype("float32"), labels.astype("int32")
            parts = (np.split(array, np.cumsum(split)[:-1]) for array in arrays)
            strategy.run(local, args=[distribution.split(strategy, part) for part in parts])
        held = {
            variable.path: np.array(distribution.copies(variable))
            for variable in (*model.variables, *optimizer.variables)
            if "float" in str(variable.dtype)
        }
        values = {path: copies[0] for path, copies in held.items()}
        return values, {path: float(np.ptp(copies, axis=0).max()) for path, copies in held.items()}


def _largest(some, others, paths):
    """The largest difference of the variables at these paths, or None if there are none."""
    return max((float(np.abs(some[p] - others[p]).max()) for p in paths), default=None)
