"""Turns stored images into standardized and augmented ones, or into sequences of their rows."""

import functools
from collections.abc import Callable

import tensorflow as tf

from zoo.data.source import Source

_Constants = tuple[tuple[float, ...], tuple[float, ...]]
# Mean and standard deviation of each channel, over the training images in [0, 1].
_IMAGENET: _Constants = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_MEAN_STD: dict[str | None, _Constants] = {
    "digits": ((0.305,), (0.376,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
# The mirror image of a character means something else, or nothing.
_NOT_MIRRORED = {
    *("digits", "styled_digits", "restyled_digits", "contrast_digits"),
    *("mnist", "mnist_corrupted", "binary_alpha_digits", "emnist", "kmnist", "cmaterdb"),
    *("svhn_cropped", "omniglot", "binarized_mnist"),
}
# Crops of larger images have random scales and places. Those of others have random places.
_SMALL_SIDE = 64


def choose_preparation(
    name: str, source: Source, image_size: int | None = None, rows: bool = False
) -> tuple[tuple[int, ...], Callable[[tf.Tensor, tf.Tensor | None], tf.Tensor]]:
    """Chooses how the images of a set are prepared for a model.

        y = (x - mean) / std,  with x in [0, 1]

    Args:
        name: the name of the set. It decides the mean and the std, and whether images are mirrored.
        source: a source of images.
        image_size: the side of prepared images, in pixels. By default it is the stored images',
            or 224 if these differ in size or are not square.
        rows: whether an image becomes the sequence of its rows, `(height, width * channels)`.

    Returns:
        `(shape, prepare)`: the shape of a prepared image, and a function from a stored image and a
        seed to the prepared float32 image. The seed decides the augmentation; None means none.

    Reference:
        [Deep Residual Learning](https://arxiv.org/abs/1512.03385), section 4.2, for random shifts,
        and [Going Deeper with Convolutions](https://arxiv.org/abs/1409.4842), section 6, for random
        resized crops.
    """
    assert source.image_shape
    height, width, channels = source.image_shape
    side = image_size or (height if height and height == width else 224)
    # A folder may have the name of a set, but not its constants.
    base = None if source.is_folder else name.split("/")[0].split(":")[0]
    default = _IMAGENET if channels == 3 else ((0.5,) * channels,) * 2
    shape = (side, side * channels) if rows else (side, side, channels)
    return shape, functools.partial(
        _prepare,
        source=source,
        side=side,
        shape=shape,
        mean_std=source.mean_std or _MEAN_STD.get(base, default),
        mirror=base not in _NOT_MIRRORED,
    )


def _prepare(
    stored: tf.Tensor,
    seed: tf.Tensor | None,
    source: Source,
    side: int,
    shape: tuple[int, ...],
    mean_std: _Constants,
    mirror: bool,
) -> tf.Tensor:
    assert source.decode
    image = source.decode(stored)
    image.set_shape(source.image_shape)
    large = side > _SMALL_SIDE
    if large and seed is not None:
        image = _random_resized_crop(image, side, seed)
    else:
        image = _square(image, side, 0.875 if large else 1.0)
    mean, std = mean_std
    image = (image - tf.constant(mean)) / tf.constant(std)
    if seed is not None:
        where, flip = tf.unstack(tf.random.split(seed, 2))
        if not large:
            # Zeros are the mean, since the image is standardized.
            pad = side // 8
            padded = tf.pad(image, ((pad, pad), (pad, pad), (0, 0)))
            image = tf.image.stateless_random_crop(padded, image.shape, where)
        if mirror:
            image = tf.image.stateless_random_flip_left_right(image, flip)
    return tf.reshape(image, shape)


def _square(image: tf.Tensor, side: int, fraction: float) -> tf.Tensor:
    """The central square with `fraction` of the shorter side, resized to `side`."""
    if fraction == 1.0 and image.shape[:2] == (side, side):
        return image
    shape = tf.shape(image)[:2]
    extent = tf.cast(tf.math.round(fraction * tf.cast(tf.reduce_min(shape), tf.float32)), tf.int32)
    top, left = tf.unstack((shape - extent) // 2)
    image = tf.image.crop_to_bounding_box(image, top, left, extent, extent)
    return tf.image.resize(image, (side, side), antialias=True)


def _random_resized_crop(image: tf.Tensor, side: int, seed: tf.Tensor) -> tf.Tensor:
    """A crop of 8 to 100 % of the area and an aspect of 3/4 to 4/3, resized to `side`."""
    whole = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image), whole, seed, 0.0, aspect_ratio_range=(3 / 4, 4 / 3), area_range=(0.08, 1.0)
    )
    crop = tf.ensure_shape(tf.slice(image, begin, extent), (None, None, image.shape[-1]))
    return tf.image.resize(crop, (side, side), antialias=True)
