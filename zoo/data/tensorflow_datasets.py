"""Sources that TensorFlow Datasets (TFDS) reads: its sets, and folders of images.

TFDS is imported where it is used, since sets that are made here do without it.
"""

import contextlib
import dataclasses
import functools
import math
import os
import threading
from typing import Any, Literal

import tensorflow as tf

from zoo.data.folders import TEST_SPLITS, check_folder, folder_bytes
from zoo.data.source import Source, decode_image, first_line

# Sets up to this size are read as a whole before training, which shows what is broken in them.
_CHECKED_BYTES = 2**30
# Directories of sets that this process has read as a whole.
_CHECKED: set[os.PathLike] = set()
# The shuffle buffer holds encoded images up to this size. That is all of most sets.
_SHUFFLE_BYTES = 2**30


class UnknownSet(ValueError):
    """There is no set of this name."""


def read_folder(root: str) -> Source:
    """Reads a folder of images: `root/train/class/image.png`.

    Args:
        root: the folder that holds the splits.

    Raises:
        ValueError: if a split, a class or an image is missing or cannot be read.
    """
    import tensorflow_datasets as tfds

    check_folder(root, _CHECKED_BYTES)
    source = _read(root, tfds.ImageFolder(root, shape=(None, None, 3)))
    return dataclasses.replace(source, is_folder=True)


def read(name: str, data_dir: str | None = None) -> Source:
    """Reads a set of TFDS, which is downloaded if it is not there.

    Args:
        name: the name that TFDS gives it, as "cifar10".
        data_dir: the directory of TFDS; by default its own.

    Raises:
        UnknownSet: if there is no such set.
        ValueError: if the set cannot be read or downloaded, or holds nothing to learn from.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # TFDS raises many kinds for the broken files of a set
        stored = os.path.join(data_dir or tfds.core.constants.DATA_DIR, name.split("/")[0])
        parsed = name and "Parsing builder name" not in str(error)
        if parsed and os.path.isdir(os.path.expanduser(stored)):
            raise _unreadable(name, stored, error) from error
        raise UnknownSet(name) from error
    if not builder.is_prepared():
        _download(name, builder)
    try:
        source = _read(name, builder)
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


def _download(name: str, builder: Any) -> None:
    """Downloads and prepares a set, or says within seconds why it cannot."""
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
        # TFDS would try Google's bucket for minutes where it cannot be reached.
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    except Exception as error:
        raise ValueError(
            f"{missing}, and preparing it failed: {first_line(error)}. {advice}."
        ) from error


def _reachable(url: str, seconds: float = 5) -> bool:
    """Whether a server answers in time. A thread waits, since looking up its name may hang."""
    import requests

    answers = []

    def ask() -> None:
        with contextlib.suppress(requests.RequestException):
            answers.append(requests.head(url, timeout=seconds))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)


def _read(name: str, builder: Any) -> Source:
    """Reads what a builder of TFDS has prepared."""
    import tensorflow_datasets as tfds

    info = builder.info
    kind, key, label_key = _find_features(name, info)
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
        # A secret label is stored as -1, as in ImageNet's test split.
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


def _find_features(
    name: str, info: Any
) -> tuple[Literal["images", "texts", "characters"], str, str | None]:
    """The kind of a set, the key of its images or texts, and the key of its labels, if any."""
    import tensorflow_datasets as tfds

    features = dict(info.features)

    def first(kind: type) -> str | None:
        # Of several features, the supervised pair comes first, then the one called text.
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
