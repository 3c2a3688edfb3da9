"""Labelled examples as `tf.data` pipelines that are pure functions of (seed, epoch, index)."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from zoo.data import images, sources, text


@dataclasses.dataclass(frozen=True)
class LabelledSet:
    """A set of labelled examples, ready to be batched; `load` makes one.

    Attributes:
        train: `tf.data.Dataset` of `(stored example, label)` in a fixed order.
        test: the same for the test examples.
        num_classes: int.
        example_shape: shape of the prepared examples: `(side, side, channels)` of images,
            `(steps, features)` of the rows of images, `(steps,)` of text, `(features,)` of vectors.
        prepare: function `(stored example, seed)` -> prepared example; augmented as that seed
            says, or not at all where it is None.
        shuffle_buffer: int, number of examples among which the next one is drawn.
        vocabulary: list of the tokens whose ids the examples hold, or None where they hold
            numbers. Id 0 is padding.
        causal: whether a label is, at each step of its example, the id of the token that follows.
    """

    train: tf.data.Dataset
    test: tf.data.Dataset
    num_classes: int
    example_shape: tuple
    prepare: Callable
    shuffle_buffer: int
    vocabulary: list | None = None
    causal: bool = False

    def __str__(self):
        counts = f"{len(self.train):,} training and {len(self.test):,} test"
        size = " x ".join(map(str, self.example_shape))
        if self.vocabulary is None:
            of = f"vectors of {size} numbers" if self.vectors else f"images of {size}"
            return f"{counts} {of}, {self.num_classes} classes"
        of = "windows of text" if self.causal else f"texts, {self.num_classes} classes"
        return f"{counts} {of}, {size} tokens each, vocabulary of {len(self.vocabulary):,}"

    @property
    def vectors(self):
        """Whether the examples are vectors, of numbers that have no order."""
        return self.vocabulary is None and len(self.example_shape) == 1

    def steps_per_epoch(self, global_batch):
        """Number of full training batches in an epoch.

        Args:
            global_batch: int, samples of a batch over all replicas.

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

    def train_batches(self, global_batch, seed, first_epoch=0):
        """Shuffled and augmented training batches, epoch after epoch without end.

        What an epoch holds depends on the arguments and its number only, so that training which
        is resumed at `first_epoch` sees what uninterrupted training would have seen.

        Args:
            global_batch: int, samples of a batch over all replicas. Each epoch drops the
                examples that fill no batch, others each time.
            seed: int, of the order and the augmentation.
            first_epoch: int, the epoch to start at.

        Returns:
            An infinite `tf.data.Dataset` of `(examples, labels)`.
        """
        examples = self.steps_per_epoch(global_batch) * global_batch
        indexed = self.train.enumerate()
        if self.shuffle_buffer >= len(self.train):
            indexed = indexed.cache()  # outside of the epoch, so that the next one reads it

        def shuffled(epoch):
            # For the graph of this function: the process's seed would enter the order.
            tf.compat.v1.set_random_seed(1)
            order = tf.random.stateless_uniform((), _key(seed, epoch), None, None, tf.int64)
            data = indexed.shuffle(self.shuffle_buffer, order, reshuffle_each_iteration=False)
            return data.take(examples).map(lambda index, example: (epoch, index, *example))

        def augmented(epoch, index, stored, label):
            return self.prepare(stored, tf.random.fold_in(_key(seed, epoch), index)), label

        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(shuffled)
        data = epochs.map(augmented, tf.data.AUTOTUNE)
        return _batched(data, global_batch, tf.data.INFINITE_CARDINALITY)

    def test_batches(self, global_batch):
        """All test examples, in batches that are all full.

        The last batch is filled up with examples of weight 0, since replicas with uneven or empty
        batches fail in many layers. The other weights are equal, and make the mean weight 1:
        weighted metrics, and the loss, which Keras divides by all samples, are exact. They have
        the shape of the labels, since Keras's losses do not spread them over steps.

        Args:
            global_batch: int, samples of a batch over all replicas.

        Returns:
            A `tf.data.Dataset` of `(examples, labels, sample weights)`.
        """
        steps = -(-len(self.test) // global_batch)
        fill = self.test.take(1).repeat(steps * global_batch - len(self.test))
        data = self.test.concatenate(fill).enumerate()

        def weighted(index, example):
            stored, label = example
            weight = tf.where(index < len(self.test), steps * global_batch / len(self.test), 0.0)
            return self.prepare(stored, None), label, tf.fill(tf.shape(label), weight)

        return _batched(data.map(weighted, tf.data.AUTOTUNE), global_batch, steps)


def load(
    name,
    data_dir=None,
    image_size=None,
    train_examples=None,
    test_examples=None,
    sequences=False,
    sequence_length=None,
    vocabulary_size=None,
):
    """Loads a set of labelled examples.

    Images are scaled to [0, 1] and standardized by channel: with the set's own constants for
    digits, mnist, fashion_mnist, cifar10 and cifar100, about 1/2 by 1/4 for those whose style is
    made here, ImageNet's for other colour images, and to [-1, 1] for other grey ones. Training
    images up to a side of 64 are shifted by up to an eighth of it and mirrored, larger ones are
    random resized crops and mirrored; digits of any kind are not mirrored. Test images are central
    squares. As sequences they are read row by row.

    Vectors are left as they are, neither standardized nor augmented.

    Texts with class labels become the ids of their words, the `vocabulary_size` most frequent ones
    of the training texts in use. The end of a longer text is kept; shorter ones are padded with 0.

    Plain text becomes the ids of its characters, those of training and test text, in windows whose
    labels are the characters that follow.

    Args:
        name: "digits" (scikit-learn's), "styled_digits", "contrast_digits" or "points", which need
            no network; "styled_cifar10" or "contrast_cifar10" (see `zoo.data.synthetic`); the name
            of a set of TensorFlow Datasets with images or texts and class labels, or with plain
            text; or the path of a folder with the subfolders "train" and "test" (or "validation",
            "val"), which hold a folder of images for every class.
        data_dir: directory of TensorFlow Datasets, where sets are looked for before anything is
            downloaded to it; TFDS's own by default.
        image_size: int, the side to which images are brought; by default theirs, or 224 if they
            differ or are not square.
        train_examples: int, use the first so many images, texts or windows; None for all.
        test_examples: int, likewise.
        sequences: whether images are for a model of sequences. Text always is, vectors never.
        sequence_length: int, words of a text (200 by default) or characters of a window (128).
        vocabulary_size: int, number of ids, with those of padding and of unknown words; 10,000 by
            default.

    Returns:
        A `LabelledSet`.

    Raises:
        ValueError: if there is no such set, or it holds nothing of these kinds, is not on disk and
            cannot be downloaded, or has fewer examples than asked for; if it is text and
            `sequences` is False; for an option that has no effect on it.
    """
    source = sources.find(name, data_dir)
    if source.kind in ("texts", "characters") and not sequences:
        raise ValueError(f"{name!r} is text, which takes a model of sequences: lstm, transformer.")
    make, effective = {
        "images": (functools.partial(_images, name=name, rows=sequences), {"image_size"}),
        "vectors": (_vectors, set()),
        "texts": (_texts, {"sequence_length", "vocabulary_size"}),
        "characters": (_characters, {"sequence_length"}),
    }[source.kind]
    options = {
        "image_size": image_size,
        "sequence_length": sequence_length,
        "vocabulary_size": vocabulary_size,
    }
    given = {option: value for option, value in options.items() if value is not None}
    for option in given.keys() - effective:
        raise ValueError(f"{option} has no effect on dataset={name!r}.")
    return make(source, train_examples, test_examples, **given)


def _images(source, train_examples, test_examples, name, rows, image_size=None):
    shape, prepare = images.preparation(name, source, image_size, rows)
    return LabelledSet(
        train=_first(source.train, train_examples, "train"),
        test=_first(source.test, test_examples, "test"),
        num_classes=source.num_classes,
        example_shape=shape,
        prepare=prepare,
        shuffle_buffer=source.shuffle_buffer,
    )


def _vectors(source, train_examples, test_examples):
    return LabelledSet(
        train=_first(source.train, train_examples, "train"),
        test=_first(source.test, test_examples, "test"),
        num_classes=source.num_classes,
        example_shape=tuple(source.train.element_spec[0].shape),
        prepare=lambda vector, seed: vector,
        shuffle_buffer=source.shuffle_buffer,
    )


def _texts(source, train_examples, test_examples, sequence_length=200, vocabulary_size=10_000):
    train = _first(source.train, train_examples, "train")
    test = _first(source.test, test_examples, "test")
    vocabulary = text.words_of(train.map(lambda stored, label: stored), vocabulary_size)
    encode = text.word_encoder(vocabulary, sequence_length)

    def encoded(data):
        batches = [(encode(texts), labels) for texts, labels in data.batch(512)]
        return tuple(np.concatenate(part) for part in zip(*batches, strict=True))

    return _in_memory(encoded(train), encoded(test), source.num_classes, vocabulary)


def _characters(source, train_examples, test_examples, sequence_length=128):
    parts = [
        "\n".join(stored.decode() for stored in part.as_numpy_iterator())
        for part in (source.train, source.test)
    ]
    # Of both, and of the whole: so that the bits per character of any two runs compare.
    vocabulary = text.characters_of(*parts)
    encode = text.character_encoder(vocabulary)
    train, test = (text.windows(encode(part), sequence_length) for part in parts)
    whole = _in_memory(train, test, len(vocabulary), vocabulary, causal=True)
    return dataclasses.replace(
        whole,
        train=_first(whole.train, train_examples, "train"),
        test=_first(whole.test, test_examples, "test"),
    )


def _in_memory(train, test, num_classes, vocabulary, causal=False):
    """A set of ids, made from `(ids, labels)` for training and test."""
    return LabelledSet(
        train=tf.data.Dataset.from_tensor_slices(train),
        test=tf.data.Dataset.from_tensor_slices(test),
        num_classes=num_classes,
        example_shape=train[0].shape[1:],
        prepare=lambda ids, seed: ids,
        shuffle_buffer=len(train[0]),
        vocabulary=vocabulary,
        causal=causal,
    )


def _key(seed, epoch):
    return tf.stack([tf.constant(seed, tf.int64), epoch])


def _batched(data, global_batch, steps):
    # Outermost, so that tf.distribute finds the batch to split.
    data = data.batch(global_batch, drop_remainder=True)
    # Keras counts an optimizer step too many per epoch where the number is unknown.
    data = data.apply(tf.data.experimental.assert_cardinality(steps))
    return data.prefetch(tf.data.AUTOTUNE)


def _first(data, examples, split):
    if examples is not None and not 1 <= examples <= len(data):
        raise ValueError(
            f"The set has {len(data)} {split} examples. Received: {split}_examples={examples}"
        )
    return data if examples is None else data.take(examples)
