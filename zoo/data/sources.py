"""Where examples come from: sets made here, TensorFlow Datasets, folders of images."""

import contextlib
import dataclasses
import functools
import math
import os
import threading
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.data import synthetic
from zoo.data.folders import TEST_SPLITS, check_folder, folder_bytes
from zoo.data.source import Source, decode_image, first_line

# Sets up to this size are read as a whole before training, which shows what is broken in them.
_CHECKED_BYTES = 2**30
# Directories of sets that this process has read as a whole.
_CHECKED: set[os.PathLike] = set()
# The shuffle buffer holds encoded images up to this size. That is all of most sets.
_SHUFFLE_BYTES = 2**30


def find(name: str, data_dir: str | None = None) -> Source:
    """The source of examples that has this name.

    Args:
        name: see `zoo.data.load`.
        data_dir: directory of TensorFlow Datasets; by default its own.

    Raises:
        ValueError: if there is no such set, or it cannot be read or downloaded.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name](data_dir)
    import tensorflow_datasets as tfds

    if os.path.isdir(os.path.join(name, "train")):
        check_folder(name, _CHECKED_BYTES)
        return _from_tfds(name, tfds.ImageFolder(name, shape=(None, None, 3)))
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # TFDS raises many kinds for the broken files of a set
        stored = os.path.join(data_dir or tfds.core.constants.DATA_DIR, name.split("/")[0])
        parsed = name and "Parsing builder name" not in str(error)
        if parsed and os.path.isdir(os.path.expanduser(stored)):
            raise _unreadable(name, stored, error) from error
        raise ValueError(
            f"Unknown dataset {name!r}. Give {', '.join(map(repr, _BUILT_IN))}, the name of a set "
            "of images or text of TensorFlow Datasets, or the path of a folder with the subfolders "
            "train and test."
        ) from error
    if not builder.is_prepared():
        _download(name, builder)
    try:
        source = _from_tfds(name, builder)
        size = sum(split.num_bytes for split in builder.info.splits.values())
        if builder.data_path not in _CHECKED and size <= _CHECKED_BYTES:
            for part in (source.train, source.test):
                part.reduce(0, lambda count, _: count + 1)
            _CHECKED.add(builder.data_path)
    except tf.errors.OpError as error:
        raise _unreadable(name, builder.data_path, error) from error
    return source


def _unreadable(name: str, path: str | os.PathLike, error: Exception) -> ValueError:
    return ValueError(
        f"The dataset {name!r} in {path} cannot be read: {first_line(error)}. Correct the name, "
        "prepare the set again, or name another directory by data_dir."
    )


# Sets made here.


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
    kind: Any,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
) -> Source:
    """A source in memory, from the `(examples, labels)` of its training and its test set."""
    train_data, test_data = map(tf.data.Dataset.from_tensor_slices, (train, test))
    return Source(kind, train_data, test_data, num_classes, shuffle_buffer=len(train_data))


# name: function from data_dir to the source
_BUILT_IN = {
    "digits": lambda data_dir: _digits(),
    "styled_digits": lambda data_dir: synthetic.styled(_digits()),
    "contrast_digits": lambda data_dir: synthetic.contrast(_digits()),
    "styled_cifar10": lambda data_dir: synthetic.styled(find("cifar10", data_dir)),
    "contrast_cifar10": lambda data_dir: synthetic.contrast(find("cifar10", data_dir)),
    "points": lambda data_dir: _from_arrays("vectors", *synthetic.points(), num_classes=2),
}


# TensorFlow Datasets.


def _download(name: str, builder: Any) -> None:
    import tensorflow_datasets as tfds

    missing = f"The dataset {name!r} is not prepared in {builder.data_path}"
    advice = "Name the directory that holds it by data_dir, or use digits, which needs no network"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        raise ValueError(
            f"{missing}, and TensorFlow Datasets cannot download it. Prepare it with "
            f"`tfds build {name}` and its --manual_dir. {advice}."
        )
    urls = list(builder.url_infos or ["https://storage.googleapis.com"])
    if not _reachable(urls[0]):
        raise ValueError(f"{missing}, and {urls[0]} cannot be reached. {advice}.")
    try:
        # Not from Google's bucket, since TFDS tries for minutes where it cannot be reached.
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    except Exception as error:
        raise ValueError(
            f"{missing}, and preparing it failed: {first_line(error)}. {advice}."
        ) from error


def _reachable(url: str, seconds: float = 5) -> bool:
    """Whether something answers within this time, even if looking up the name hangs."""
    import requests

    answers = []

    def ask() -> None:
        with contextlib.suppress(requests.RequestException):
            answers.append(requests.head(url, timeout=seconds))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)


def _from_tfds(name: str, builder: Any) -> Source:
    """The source of a set that a builder of TensorFlow Datasets can read."""
    import tensorflow_datasets as tfds

    info = builder.info
    kind, key, label_key = _kind_and_keys(name, info)
    # Images stay encoded, so that the shuffle buffer and the cache need less memory.
    decoders = {key: tfds.decode.SkipDecoding()} if kind == "images" else None
    uncached = tfds.ReadConfig(try_autocache=False)

    def read(split: str) -> tf.data.Dataset:
        data = builder.as_dataset(split=split, decoders=decoders, read_config=uncached)
        if label_key is None:
            return data.map(lambda example: example[key])
        return data.map(lambda example: (example[key], example[label_key]))

    def usable(split: str) -> bool:
        if split not in info.splits:
            return False
        # Secret labels are stored as -1, for one in ImageNet's test split.
        return label_key is None or all(label >= 0 for _, label in read(split).take(1))

    test = next((split for split in TEST_SPLITS if usable(split)), None)
    if test is None or "train" not in info.splits:
        raise ValueError(
            f"The dataset {name!r} needs train and test (or validation, val) splits"
            f"{' with labels' if label_key else ''}. It has: {', '.join(info.splits) or 'none'}."
        )
    source = Source(kind, read("train"), read(test))
    if label_key is not None:
        source = dataclasses.replace(source, num_classes=info.features[label_key].num_classes)
    if kind != "images":
        return source
    train, shape = info.splits["train"], info.features[key].shape
    # TFDS does not tell the size of a folder of images.
    train_bytes = train.num_bytes or folder_bytes(os.path.join(name, "train"))
    return dataclasses.replace(
        source,
        image_shape=shape,
        decode=functools.partial(decode_image, channels=shape[-1]),
        shuffle_buffer=math.ceil(train.num_examples * min(1, _SHUFFLE_BYTES / train_bytes)),
    )


def _kind_and_keys(name: str, info: Any) -> tuple[Any, str, str | None]:
    """The kind of a source, and the keys of the features for its inputs and its labels."""
    import tensorflow_datasets as tfds

    features = dict(info.features)

    def first(kind: type) -> str | None:
        # Among several features the supervised pair comes first, then what is called text.
        keys = (*(info.supervised_keys or ()), "text", *features)
        return next((key for key in keys if isinstance(features.get(key), kind)), None)

    kinds = (tfds.features.Image, tfds.features.Text, tfds.features.ClassLabel)
    image, text, label = map(first, kinds)
    if image and label:
        return "images", image, label
    if text and label:
        return "texts", text, label
    if text and not image:
        return "characters", text, None
    raise ValueError(f"{name!r} holds no images or texts with class labels, and no plain text.")
