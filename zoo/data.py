"""Labelled images as `tf.data` pipelines that are pure functions of (seed, epoch, index)."""

import contextlib
import dataclasses
import functools
import math
import os
import threading
from collections.abc import Callable

import tensorflow as tf

# Mean and standard deviation by channel, of the training images in [0, 1].
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_MEAN_STD = {
    "digits": ((0.305,), (0.376,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
# Their mirror images mean something else, or nothing.
_NOT_MIRRORED = {"digits", "mnist", "emnist", "kmnist", "svhn_cropped", "omniglot"}
# Above this side, images are cropped at random scales; up to it, at random places.
_SMALL_SIDE = 64
# Encoded images among which the next one is drawn: most sets as a whole.
_SHUFFLE_BYTES = 2**30
_TEST_SPLITS = ("test", "validation", "val")


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A set of labelled images, ready to be batched; `load` makes one.

    Attributes:
        train: `tf.data.Dataset` of `(stored image, label)` in a fixed order.
        test: the same for the test images.
        num_classes: int.
        image_shape: `(side, side, channels)` of the prepared images.
        prepare: function `(stored image, seed)` -> float32 image of `image_shape`, standardized;
            augmented as that seed says, or not at all where it is None.
        shuffle_buffer: int, number of examples among which the next one is drawn.
    """

    train: tf.data.Dataset
    test: tf.data.Dataset
    num_classes: int
    image_shape: tuple
    prepare: Callable
    shuffle_buffer: int

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
            An infinite `tf.data.Dataset` of `(images, labels)`.
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
        """All test images, in batches that are all full.

        The last batch is filled up with images of weight 0, since replicas with uneven or empty
        batches fail in many layers. The other weights are equal, and make the mean weight 1:
        weighted metrics, and the loss, which Keras divides by all samples, are exact.

        Args:
            global_batch: int, samples of a batch over all replicas.

        Returns:
            A `tf.data.Dataset` of `(images, labels, sample weights)`.
        """
        steps = -(-len(self.test) // global_batch)
        fill = self.test.take(1).repeat(steps * global_batch - len(self.test))
        data = self.test.concatenate(fill).enumerate()

        def weighted(index, example):
            stored, label = example
            weight = tf.where(index < len(self.test), steps * global_batch / len(self.test), 0.0)
            return self.prepare(stored, None), label, weight

        return _batched(data.map(weighted, tf.data.AUTOTUNE), global_batch, steps)


def load(name, data_dir=None, image_size=None, train_examples=None, test_examples=None):
    """Loads a set of labelled images.

    Images are scaled to [0, 1] and standardized by channel: with the set's own constants for
    digits, mnist, fashion_mnist, cifar10 and cifar100, ImageNet's for other colour images, and to
    [-1, 1] for other grey ones. Training images up to a side of 64 are shifted by up to an eighth
    of it and mirrored, larger ones are random resized crops and mirrored; digits of any kind
    are not mirrored. Test images are central squares.

    Args:
        name: "digits" (scikit-learn's, no network needed), the name of an image classification
            set of TensorFlow Datasets, or the path of a folder with the subfolders "train" and
            "test" (or "validation", "val"), which hold a folder of images for every class.
        data_dir: directory of TensorFlow Datasets, where sets are looked for before anything is
            downloaded to it; TFDS's own by default.
        image_size: int, the side to which images are brought; by default theirs, or 224 if they
            differ or are not square.
        train_examples: int, use the first so many only; None for all.
        test_examples: int, likewise.

    Returns:
        An `ImageSet`.

    Raises:
        ValueError: if there is no such set, or it holds no labelled images, is not on disk and
            cannot be downloaded, or has fewer examples than asked for.
    """
    source = _digits() if name == "digits" else _tfds(name, data_dir)
    height, width, channels = source.image_shape
    side = image_size or (height if height and height == width else 224)
    # A folder may have the name of a set.
    base = None if os.path.isdir(name) else name.split("/")[0].split(":")[0]
    default = _IMAGENET if channels == 3 else ((0.5,) * channels,) * 2
    return dataclasses.replace(
        source,
        train=_first(source.train, train_examples, "train"),
        test=_first(source.test, test_examples, "test"),
        image_shape=(side, side, channels),
        prepare=functools.partial(
            _prepare,
            decode=source.prepare,
            stored_shape=source.image_shape,
            side=side,
            mean_std=_MEAN_STD.get(base, default),
            mirror=base not in _NOT_MIRRORED,
        ),
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


# Where images come from. Each function returns an `ImageSet` whose `prepare` only decodes.


def _digits():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("uint8")
    parts = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts
    from_arrays = tf.data.Dataset.from_tensor_slices
    return ImageSet(
        train=from_arrays((train_images, train_labels)),
        test=from_arrays((test_images, test_labels)),
        num_classes=10,
        image_shape=(8, 8, 1),
        prepare=lambda stored: tf.cast(stored, tf.float32) / 16,
        shuffle_buffer=len(train_labels),
    )


def _tfds(name, data_dir):
    import tensorflow_datasets as tfds

    if os.path.isdir(os.path.join(name, "train")):
        return _from_builder(name, tfds.ImageFolder(name, shape=(None, None, 3)))
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ValueError(
            f"Unknown dataset {name!r}. Give 'digits', the name of an image classification set of "
            "TensorFlow Datasets, or the path of a folder with the subfolders train and test."
        ) from error
    if not builder.is_prepared():
        _download(name, builder)
    return _from_builder(name, builder)


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
        cause = str(error).strip().split("\n")[0]
        raise ValueError(f"{missing}, and preparing it failed: {cause}. {advice}.") from error


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
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    features = dict(info.features)
    keys = info.supervised_keys or [
        next((key for key, feature in features.items() if isinstance(feature, kind)), None)
        for kind in kinds
    ]
    image, label = (features.get(key) for key in keys)
    if not (isinstance(image, kinds[0]) and isinstance(label, kinds[1])):
        raise ValueError(f"{name!r} is not a set of images with class labels.")
    image_key, label_key = keys
    encoded = {image_key: tfds.decode.SkipDecoding()}  # what the shuffle buffer and cache hold
    uncached = tfds.ReadConfig(try_autocache=False)

    def read(split):
        data = builder.as_dataset(split=split, decoders=encoded, read_config=uncached)
        return data.map(lambda example: (example[image_key], example[label_key]))

    def labelled(split):
        # ImageNet's test labels, for one, are not public, and stored as -1.
        return split in info.splits and all(label >= 0 for _, label in read(split).take(1))

    test = next((split for split in _TEST_SPLITS if labelled(split)), None)
    if test is None or "train" not in info.splits:
        raise ValueError(
            f"The dataset {name!r} needs train and test (or validation, val) splits with "
            f"labels. It has: {', '.join(info.splits) or 'none'}."
        )
    train = info.splits["train"]
    train_bytes = train.num_bytes or _folder_bytes(os.path.join(name, "train"))
    return ImageSet(
        train=read("train"),
        test=read(test),
        num_classes=label.num_classes,
        image_shape=image.shape,
        prepare=functools.partial(_decode, channels=image.shape[-1]),
        shuffle_buffer=math.ceil(train.num_examples * min(1, _SHUFFLE_BYTES / train_bytes)),
    )


def _folder_bytes(path):
    """The size that TFDS does not tell of a folder of images."""
    walk = os.walk(path, followlinks=True)
    return sum(os.path.getsize(os.path.join(at, file)) for at, _, files in walk for file in files)


def _decode(stored, channels):
    image = tf.io.decode_image(stored, channels, expand_animations=False)
    return tf.cast(image, tf.float32) / 255


# From a decoded image to one that the model takes.


def _prepare(stored, seed, decode, stored_shape, side, mean_std, mirror):
    image = decode(stored)
    image.set_shape(stored_shape)
    large = side > _SMALL_SIDE
    if large and seed is not None:
        image = _random_resized_crop(image, side, seed)
    else:
        image = _square(image, side, 0.875 if large else 1.0)
    mean, std = mean_std
    image = (image - tf.constant(mean)) / tf.constant(std)
    if seed is None:
        return image
    where, flip = tf.unstack(tf.random.split(seed, 2))
    if not large:
        # After standardizing: what comes in from the border is the mean.
        pad = side // 8
        padded = tf.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        image = tf.image.stateless_random_crop(padded, image.shape, where)
    return tf.image.stateless_random_flip_left_right(image, flip) if mirror else image


def _square(image, side, fraction):
    """The central square with `fraction` of the shorter side, resized to `side`."""
    if fraction == 1.0 and image.shape[:2] == (side, side):
        return image
    shape = tf.shape(image)[:2]
    extent = tf.cast(tf.math.round(fraction * tf.cast(tf.reduce_min(shape), tf.float32)), tf.int32)
    top, left = tf.unstack((shape - extent) // 2)
    image = tf.image.crop_to_bounding_box(image, top, left, extent, extent)
    return tf.image.resize(image, (side, side), antialias=True)


def _random_resized_crop(image, side, seed):
    """A crop of 8 to 100 % of the area and an aspect of 3/4 to 4/3, resized to `side`."""
    whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image), whole, seed, 0.0, aspect_ratio_range=(3 / 4, 4 / 3), area_range=(0.08, 1.0)
    )
    crop = tf.ensure_shape(tf.slice(image, begin, extent), (None, None, image.shape[-1]))
    return tf.image.resize(crop, (side, side), antialias=True)
