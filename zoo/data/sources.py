"""Where examples come from: sets made here, TensorFlow Datasets, folders of images."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import math
import os
import threading
from collections.abc import Callable
from typing import Literal

import tensorflow as tf

from zoo.data import synthetic

# Sets up to this size are read once before training, so that what is broken in them is known.
_CHECKED_BYTES = 2**30
_READABLE = set()  # folders that this process has read so
# Encoded images among which the next one is drawn: most sets as a whole.
_SHUFFLE_BYTES = 2**30
# Of images in folders, as TensorFlow Datasets wants them.
_ENDINGS = (".jpeg", ".jpg", ".png")
_TEST_SPLITS = ("test", "validation", "val")


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples as they are stored; `find` makes one.

    Attributes:
        kind: "images", "vectors" or "texts", all with class labels, or "characters", which is plain
            text.
        train: `tf.data.Dataset` of `(stored image, vector or text, label)` in a fixed order, or of
            texts alone.
        test: the same for the test examples.
        num_classes: int, or None for plain text.
        image_shape: `(height, width, channels)`, some of them None where images differ in size.
        decode: function from a stored image to float32 in [0, 1].
        shuffle_buffer: int, number of stored images or vectors among which the next one is drawn.
    """

    kind: Literal["images", "vectors", "texts", "characters"]
    train: tf.data.Dataset
    test: tf.data.Dataset
    num_classes: int | None = None
    image_shape: tuple | None = None
    decode: Callable | None = None
    shuffle_buffer: int | None = None


def find(name, data_dir):
    """The `Source` of that name; see `zoo.data.load`."""
    if name in _MADE:
        return _MADE[name](data_dir)
    import tensorflow_datasets as tfds

    if os.path.isdir(os.path.join(name, "train")):
        _check_folder(name)
        return _from_builder(name, tfds.ImageFolder(name, shape=(None, None, 3)))
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # which files of a set that are broken lead to
        stored = os.path.join(data_dir or tfds.core.constants.DATA_DIR, name.split("/")[0])
        parsed = name and "Parsing builder name" not in str(error)
        if parsed and os.path.isdir(os.path.expanduser(stored)):
            raise _unreadable(name, stored, error) from error
        raise ValueError(
            f"Unknown dataset {name!r}. Give {', '.join(map(repr, _MADE))}, the name of a set "
            "of images or text of TensorFlow Datasets, or the path of a folder with the subfolders "
            "train and test."
        ) from error
    if not builder.is_prepared():
        _download(name, builder)
    try:
        source = _from_builder(name, builder)
        if builder.data_path not in _READABLE and _bytes(builder.info) <= _CHECKED_BYTES:
            for part in (source.train, source.test):
                part.reduce(0, lambda count, _: count + 1)
            _READABLE.add(builder.data_path)
    except tf.errors.OpError as error:
        raise _unreadable(name, builder.data_path, error) from error
    return source


def _cause(error):
    """The first line of a message; TensorFlow's begin and end with an operation."""
    return str(error).strip().split("\n")[0].split("}} ")[-1].split(" [Op:")[0].rstrip(".")


def _unreadable(name, path, error):
    return ValueError(
        f"The dataset {name!r} in {path} cannot be read: {_cause(error)}. Correct the name, "
        "prepare the set again, or name another directory by data_dir."
    )


def _digits():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("uint8")
    parts = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts
    train, test = (train_images, train_labels), (test_images, test_labels)
    return dataclasses.replace(
        _from_arrays("images", train, test, num_classes=10),
        image_shape=(8, 8, 1),
        decode=lambda stored: tf.cast(stored, tf.float32) / 16,
    )


def _from_arrays(kind, train, test, num_classes):
    """A source of examples in memory, made from `(examples, labels)` for training and test."""
    train, test = map(tf.data.Dataset.from_tensor_slices, (train, test))
    return Source(kind, train, test, num_classes, shuffle_buffer=len(train))


# The source of each set that is made here, as a function of data_dir.
_MADE = {
    "digits": lambda data_dir: _digits(),
    "styled_digits": lambda data_dir: synthetic.styled(_digits()),
    "contrast_digits": lambda data_dir: synthetic.contrast(_digits()),
    "styled_cifar10": lambda data_dir: synthetic.styled(find("cifar10", data_dir)),
    "contrast_cifar10": lambda data_dir: synthetic.contrast(find("cifar10", data_dir)),
    "points": lambda data_dir: _from_arrays("vectors", *synthetic.points(), num_classes=2),
}


# Folders of images.


def _check_folder(root):
    """Raises a ValueError for a class without images, or an image that cannot be decoded."""
    splits = {
        split: _images_by_class(os.path.join(root, split))
        for split in ("train", *_TEST_SPLITS)
        if os.path.isdir(os.path.join(root, split))
    }
    for split, classes in splits.items():
        if not classes:
            raise ValueError(
                f"{os.path.join(root, split)} needs a folder for each class, with its images."
            )
        for name, paths in classes.items():
            if not paths:
                raise ValueError(
                    f"{os.path.join(root, split, name)} holds no images ({', '.join(_ENDINGS)}). "
                    "Put some there, or remove the folder."
                )
            if name not in splits["train"]:
                raise ValueError(
                    f"{os.path.join(root, split, name)} is a class without training images. "
                    f"Those of train are {', '.join(sorted(splits['train']))}."
                )
    if _folder_bytes(root) > _CHECKED_BYTES:
        return
    paths = [path for classes in splits.values() for paths in classes.values() for path in paths]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for path, cause in zip(paths, pool.map(_defect, paths), strict=True):
            if cause:
                raise ValueError(
                    f"{path} cannot be read as an image: {cause}. Repair it or remove it."
                )


def _images_by_class(folder):
    return {
        entry.name: sorted(
            image.path for image in os.scandir(entry) if image.name.lower().endswith(_ENDINGS)
        )
        for entry in os.scandir(folder)
        if entry.is_dir()
    }


def _defect(path):
    """What is wrong with an image, or None."""
    try:
        with tf.device("CPU"):
            _decode(tf.io.read_file(path), channels=3)
    except tf.errors.OpError as error:
        return _cause(error)


def _folder_bytes(path):
    walk = os.walk(path, followlinks=True)
    return sum(os.path.getsize(os.path.join(at, file)) for at, _, files in walk for file in files)


def _decode(stored, channels):
    image = tf.io.decode_image(stored, channels, expand_animations=False)
    return tf.cast(image, tf.float32) / 255


# TensorFlow Datasets.


def _download(name, builder):
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
        # Not from Google's bucket: without access to it, TFDS tries for minutes.
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)
    except Exception as error:
        raise ValueError(
            f"{missing}, and preparing it failed: {_cause(error)}. {advice}."
        ) from error


def _reachable(url, seconds=5):
    """Whether something answers, within seconds even where looking up the name hangs."""
    import requests

    answers = []

    def ask():
        with contextlib.suppress(requests.RequestException):
            answers.append(requests.head(url, timeout=seconds))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)


def _from_builder(name, builder):
    import tensorflow_datasets as tfds

    info = builder.info
    kind, key, label_key = _kind(name, info)
    # Encoded images are what the shuffle buffer and the cache hold.
    decoders = {key: tfds.decode.SkipDecoding()} if kind == "images" else None
    uncached = tfds.ReadConfig(try_autocache=False)

    def read(split):
        data = builder.as_dataset(split=split, decoders=decoders, read_config=uncached)
        if label_key is None:
            return data.map(lambda example: example[key])
        return data.map(lambda example: (example[key], example[label_key]))

    def usable(split):
        if split not in info.splits:
            return False
        # ImageNet's test labels, for one, are not public, and stored as -1.
        return label_key is None or all(label >= 0 for _, label in read(split).take(1))

    test = next((split for split in _TEST_SPLITS if usable(split)), None)
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
    train_bytes = train.num_bytes or _folder_bytes(os.path.join(name, "train"))
    return dataclasses.replace(
        source,
        image_shape=shape,
        decode=functools.partial(_decode, channels=shape[-1]),
        shuffle_buffer=math.ceil(train.num_examples * min(1, _SHUFFLE_BYTES / train_bytes)),
    )


def _bytes(info):
    return sum(split.num_bytes for split in info.splits.values())


def _kind(name, info):
    """The kind of source, and the keys of the features of its inputs and labels."""
    import tensorflow_datasets as tfds

    features = dict(info.features)

    def first(kind):
        # Where there are several: the supervised pair, what is called text, the order.
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
