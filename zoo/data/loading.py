"""Loads a set by its name, as labelled examples that a model can take."""

import dataclasses

import numpy as np
import tensorflow as tf

from zoo.data import catalog, images, text
from zoo.data.effects import refuse_unused
from zoo.data.labelled import LabelledSet
from zoo.data.source import Source


def load(
    name: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    train_examples: int | None = None,
    test_examples: int | None = None,
    sequences: bool = False,
    sequence_length: int | None = None,
    vocabulary_size: int | None = None,
    draw_seed: int | None = None,
) -> LabelledSet:
    """Loads a set of labelled examples.

    Images are scaled to [0, 1], then standardized by channel. For digits, mnist, fashion_mnist,
    cifar10 and cifar100 the constants are the set's own. For sets whose style is made here they
    are mean 1/2 and deviation 1/4. Other colour images get ImageNet's constants. Other grey ones
    are scaled to [-1, 1].

    Training images with sides up to 64 pixels are shifted by up to an eighth of the side. Larger
    ones become random resized crops. Half of both are mirrored, those of a folder too, but the
    characters and digits of known sets never are. Test images are central squares. A model of
    sequences reads an image row by row.

    Vectors stay as they are, neither standardized nor augmented.

    Texts with class labels become the ids of their words. The vocabulary holds the most frequent
    words of the training texts in use. Longer texts keep their end. Shorter texts are padded with
    0 at their end.

    Plain text becomes the ids of its characters. The vocabulary holds all characters of the
    training and the test text. The labels of a window are the characters that follow.

    Args:
        name: "digits" (scikit-learn's), "styled_digits", "restyled_digits", "contrast_digits" or
            "points", which need no network; "styled_cifar10", "restyled_cifar10" or
            "contrast_cifar10" (see `zoo.data.synthetic`);
            the name of a set of TensorFlow Datasets that holds images or texts with class labels,
            or plain text; or the path of a folder with the subfolders "train" and "test" (or
            "validation", "val"), each with a folder of images for every class.
        data_dir: the directory of TensorFlow Datasets, by default its own. A set that is not there
            is downloaded to it.
        image_size: the side of prepared images, in pixels. By default it is the stored images',
            or 224 if these differ in size or are not square.
        train_examples: the number of training images, texts or windows to use. None for all.
        test_examples: the number of test examples to use, from the first on. None for all.
        sequences: whether the model reads sequences, so that images become sequences of rows.
            Text needs such a model.
        sequence_length: the number of words of a text (200 by default), or of characters of a
            window (128 by default).
        vocabulary_size: the largest number of ids for words, those of padding and of unknown words
            included; 10,000 by default.
        draw_seed: the seed that draws the training examples to use. None: they are the first.

    Returns:
        A `LabelledSet`.

    Raises:
        ValueError: if there is no such set, or if it cannot be read or downloaded. If it holds
            nothing of these kinds, or fewer examples than asked for. If it is text and `sequences`
            is False. If an option has no effect on it.

    >>> print(load("digits", train_examples=100))
    100 training and 360 test images of 8 x 8 x 1, 10 classes
    """
    source = catalog.find(name, data_dir)
    if source.kind in ("texts", "characters") and not sequences:
        raise ValueError(f"{name!r} is text, which takes a model of sequences: lstm, transformer.")
    options = {
        "image_size": image_size,
        "sequence_length": sequence_length,
        "vocabulary_size": vocabulary_size,
    }
    effects = {
        "image_size": source.kind == "images",
        "sequence_length": source.kind in ("texts", "characters"),
        "vocabulary_size": source.kind == "texts",
    }
    refuse_unused(options, effects, f"dataset={name!r}")
    given = {key: value for key, value in options.items() if value is not None}
    if source.kind == "characters":
        whole = _load_characters(source, **given)
        train = _some(whole.train, train_examples, "train", draw_seed)
        test = _some(whole.test, test_examples, "test")
        return dataclasses.replace(whole, train=train, test=test)
    assert source.num_classes
    train = _some(source.train, train_examples, "train", draw_seed)
    test = _some(source.test, test_examples, "test")
    if source.kind == "texts":
        return _load_texts(train, test, source.num_classes, **given)
    if source.kind == "vectors":
        shape, prepare = tuple(train.element_spec[0].shape), lambda vector, seed: vector
    else:
        shape, prepare = images.choose_preparation(name, source, image_size, rows=sequences)
    return LabelledSet(train, test, source.num_classes, shape, prepare, source.shuffle_buffer)


def _load_texts(
    train: tf.data.Dataset,
    test: tf.data.Dataset,
    num_classes: int,
    sequence_length: int = 200,
    vocabulary_size: int = 10_000,
) -> LabelledSet:
    vocabulary = text.word_vocabulary(train.map(lambda stored, label: stored), vocabulary_size)
    encode = text.word_encoder(vocabulary, sequence_length)

    def encoded(data: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
        batches = [(encode(texts), labels) for texts, labels in data.batch(512)]
        ids, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
        return ids, labels

    return _in_memory(encoded(train), encoded(test), num_classes, vocabulary)


def _load_characters(source: Source, sequence_length: int = 128) -> LabelledSet:
    parts = [
        "\n".join(stored.decode() for stored in part.as_numpy_iterator())
        for part in (source.train, source.test)
    ]
    # Bits per character can be compared between runs of one vocabulary only. So the vocabulary is
    # that of the whole text, however many windows are in use.
    vocabulary = text.character_vocabulary(*parts)
    encode = text.character_encoder(vocabulary)
    train, test = (text.windows(encode(part), sequence_length) for part in parts)
    return _in_memory(train, test, len(vocabulary), vocabulary, causal=True)


def _in_memory(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    vocabulary: list[str],
    causal: bool = False,
) -> LabelledSet:
    """Makes a set of `(ids, labels)`, those of the training and those of the test examples."""
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


def _some(
    data: tf.data.Dataset, examples: int | None, split: str, draw_seed: int | None = None
) -> tf.data.Dataset:
    """A number of the examples of a split: the first ones, or those that a seed draws.

    Those that are drawn keep their order. None for all.
    """
    if examples is None:
        if draw_seed is not None:
            raise ValueError("draw_examples has no effect without train_examples.")
        return data
    if not 1 <= examples <= len(data):
        raise ValueError(
            f"The set has {len(data)} {split} examples. Received: {split}_examples={examples}"
        )
    if draw_seed is None:
        return data.take(examples)
    drawn = np.zeros(len(data), bool)
    drawn[np.random.default_rng(draw_seed).choice(len(data), examples, replace=False)] = True
    kept = data.enumerate().filter(lambda index, example: tf.gather(drawn, index))
    kept = kept.map(lambda index, example: example)
    return kept.apply(tf.data.experimental.assert_cardinality(examples))
