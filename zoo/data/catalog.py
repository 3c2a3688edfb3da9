"""Where examples come from: sets made here, TensorFlow Datasets, folders of images."""

import dataclasses
import os
from collections.abc import Callable
from typing import Literal

import numpy as np
import tensorflow as tf

from zoo.data import synthetic, tensorflow_datasets
from zoo.data.source import Source


def find(name: str, data_dir: str | None = None) -> Source:
    """Finds the source of examples that has this name.

    Args:
        name: see `zoo.data.load`.
        data_dir: the directory of TensorFlow Datasets; by default its own.

    Returns:
        A `Source`.

    Raises:
        ValueError: if there is no such set, or it cannot be read or downloaded.

    >>> find("digits").image_shape
    (8, 8, 1)
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name](data_dir)
    if os.path.isdir(os.path.join(name, "train")):
        return tensorflow_datasets.read_folder(name)
    try:
        return tensorflow_datasets.read(name, data_dir)
    except tensorflow_datasets.UnknownSet as error:
        raise ValueError(
            f"Unknown dataset {name!r}. Give {', '.join(map(repr, _BUILT_IN))}, the name of a set "
            "of images or text of TensorFlow Datasets, or the path of a folder with the subfolders "
            "train and test."
        ) from error


def _digits() -> Source:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("uint8")
    parts = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts
    return dataclasses.replace(
        _from_arrays("images", (train_images, train_labels), (test_images, test_labels), 10),
        image_shape=(8, 8, 1),
        decode=lambda stored: tf.cast(stored, tf.float32) / 16,
    )


def _from_arrays(
    kind: Literal["images", "vectors"],
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
) -> Source:
    """Makes a source of `(examples, labels)`, those of the training and those of the test set."""
    train_data, test_data = map(tf.data.Dataset.from_tensor_slices, (train, test))
    return Source(kind, train_data, test_data, num_classes, shuffle_buffer=len(train_data))


def _restyled(source: Source) -> Source:
    """Gives test images other styles than training images."""
    return synthetic.styled(source, synthetic.FAMILIAR, synthetic.STRANGE)


# name: function from data_dir to the source
_BUILT_IN: dict[str, Callable[[str | None], Source]] = {
    "digits": lambda data_dir: _digits(),
    "styled_digits": lambda data_dir: synthetic.styled(_digits()),
    "contrast_digits": lambda data_dir: synthetic.contrast(_digits()),
    "styled_cifar10": lambda data_dir: synthetic.styled(find("cifar10", data_dir)),
    "contrast_cifar10": lambda data_dir: synthetic.contrast(find("cifar10", data_dir)),
    "restyled_digits": lambda data_dir: _restyled(_digits()),
    "restyled_cifar10": lambda data_dir: _restyled(find("cifar10", data_dir)),
    "points": lambda data_dir: _from_arrays("vectors", *synthetic.points(), num_classes=2),
}
