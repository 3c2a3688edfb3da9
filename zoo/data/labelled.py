"""A set of labelled examples and its batches, which are pure functions of (seed, epoch, index)."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class LabelledSet:
    """A set of labelled examples, ready to be batched; `zoo.data.load` makes one.

    Attributes:
        train: the training examples, pairs `(stored example, label)` in a fixed order.
        test: the same for the test examples.
        num_classes: the number of classes.
        example_shape: the shape of a prepared example: `(side, side, channels)` of an image,
            `(steps, features)` of the rows of an image, `(steps,)` of text, `(features,)` of a
            vector.
        prepare: the function from a stored example and a seed to the prepared example. The seed,
            int64 `(2,)`, decides the augmentation; None means no augmentation.
        shuffle_buffer: the number of examples among which the next one is drawn.
        vocabulary: the token of each id, in order, where examples are text; else None. Id 0 is
            padding.
        causal: whether each step has a label: the token that follows.
    """

    train: tf.data.Dataset
    test: tf.data.Dataset
    num_classes: int
    example_shape: tuple[int, ...]
    prepare: Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor]
    shuffle_buffer: int
    vocabulary: list[str] | None = None
    causal: bool = False

    def __str__(self) -> str:
        counts = f"{len(self.train):,} training and {len(self.test):,} test"
        size = " x ".join(map(str, self.example_shape))
        if self.vocabulary is None:
            of = f"vectors of {size} numbers" if self.vectors else f"images of {size}"
            return f"{counts} {of}, {self.num_classes} classes"
        of = "windows of text" if self.causal else f"texts, {self.num_classes} classes"
        return f"{counts} {of}, {size} tokens each, vocabulary of {len(self.vocabulary):,}"

    @property
    def vectors(self) -> bool:
        """Whether the examples are vectors, whose numbers have no order."""
        return self.vocabulary is None and len(self.example_shape) == 1

    def steps_per_epoch(self, global_batch: int) -> int:
        """The number of full training batches in an epoch.

        Args:
            global_batch: samples of a batch, over all replicas.

        Raises:
            ValueError: if not even one batch is full.
        """
        steps = len(self.train) // global_batch
        if not steps:
            raise ValueError(
                f"{len(self.train)} training examples do not fill one global batch of "
                f"{global_batch}. Use a smaller batch size, fewer replicas or more examples."
            )
        return steps

    def train_batches(self, global_batch: int, seed: int, first_epoch: int = 0) -> tf.data.Dataset:
        """Shuffled and augmented training batches, epoch after epoch without end.

        Only the arguments and the number of an epoch decide what it holds. So training that
        resumes at `first_epoch` sees what uninterrupted training would have seen.

        Args:
            global_batch: samples of a batch, over all replicas. Each epoch drops the last examples
                of its order if they fill no batch.
            seed: decides the order and the augmentation.
            first_epoch: the number of the first epoch, from 0 on.

        Returns:
            An infinite `tf.data.Dataset` of `(examples, labels)`.

        Raises:
            ValueError: if not even one batch is full.
        """
        examples = self.steps_per_epoch(global_batch) * global_batch
        indexed = self.train.enumerate()
        if self.shuffle_buffer >= len(self.train):
            indexed = indexed.cache()  # outside the epochs, which would each fill a new cache

        def shuffled(epoch: tf.Tensor) -> tf.data.Dataset:
            # This function has a graph of its own. Without a seed there, the order would depend
            # on the seed of the process.
            tf.compat.v1.set_random_seed(1)
            order = tf.random.stateless_uniform((), _key(seed, epoch), None, None, tf.int64)
            data = indexed.shuffle(self.shuffle_buffer, order, reshuffle_each_iteration=False)
            return data.take(examples).map(lambda index, example: (epoch, index, *example))

        def augmented(
            epoch: tf.Tensor, index: tf.Tensor, stored: tf.Tensor, label: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            return self.prepare(stored, tf.random.fold_in(_key(seed, epoch), index)), label

        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(shuffled)
        data = epochs.map(augmented, tf.data.AUTOTUNE)
        return _batched(data, global_batch, tf.data.INFINITE_CARDINALITY)

    def test_batches(self, global_batch: int) -> tf.data.Dataset:
        """All test examples in order, in full batches.

        Many layers fail on replicas with uneven or empty batches. So the last batch is filled up
        with examples of weight 0.

        Keras divides the loss by the number of all samples, those of weight 0 too. So the other
        weights are equal, and the mean of all weights is 1. Then the loss and weighted metrics are
        exact. Weights have the shape of the labels, since Keras's losses do not broadcast them over
        steps.

        Args:
            global_batch: samples of a batch, over all replicas.

        Returns:
            A `tf.data.Dataset` of `(examples, labels, sample weights)`.
        """
        steps = -(-len(self.test) // global_batch)
        fill = self.test.take(1).repeat(steps * global_batch - len(self.test))
        data = self.test.concatenate(fill).enumerate()

        def weighted(
            index: tf.Tensor, example: tuple[tf.Tensor, tf.Tensor]
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            stored, label = example
            weight = tf.where(index < len(self.test), steps * global_batch / len(self.test), 0.0)
            return self.prepare(stored, None), label, tf.fill(tf.shape(label), weight)

        return _batched(data.map(weighted, tf.data.AUTOTUNE), global_batch, steps)


def _key(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """The seed of an epoch, int64 `(2,)`, for stateless random functions."""
    return tf.stack([tf.constant(seed, tf.int64), epoch])


def _batched(data: tf.data.Dataset, global_batch: int, steps: int) -> tf.data.Dataset:
    # Nothing is mapped after this, so that tf.distribute finds the batch to split.
    data = data.batch(global_batch, drop_remainder=True)
    # Where the number of batches is unknown, Keras counts one optimizer step too many per epoch.
    data = data.apply(tf.data.experimental.assert_cardinality(steps))
    return data.prefetch(tf.data.AUTOTUNE)
