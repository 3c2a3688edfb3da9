"""Examples as they are stored, before anything is prepared for a model."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples as they are stored; `zoo.data.catalog.find` makes one.

    Attributes:
        kind: "images", "vectors" or "texts", all with class labels; or "characters", plain text.
        train: the training examples, pairs `(stored example, label)` in a fixed order. Plain text
            has no labels, and no pairs.
        test: the same for the test examples.
        num_classes: the number of classes; None for plain text.
        image_shape: `(height, width, channels)` of images, with None where they differ in size.
        mean_std: `(means, deviations)` of the decoded images, one for each channel or one for all,
            by which they are standardized. None: those that `zoo.data.images` has for the set.
        decode: function from a stored image to a float32 image in [0, 1].
        is_folder: whether it is a folder of the user's images, which may have the name of a set.
        shuffle_buffer: number of stored images or vectors among which the next one is drawn. Text
            has 0, since it is shuffled after it is encoded.
    """

    kind: Literal["images", "vectors", "texts", "characters"]
    train: tf.data.Dataset
    test: tf.data.Dataset
    num_classes: int | None = None
    image_shape: tuple[int | None, int | None, int] | None = None
    mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    decode: Callable[[Any], tf.Tensor] | None = None
    is_folder: bool = False
    shuffle_buffer: int = 0


def decode_image(stored: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes a JPEG or PNG file `()` to float32 `(height, width, channels)` in [0, 1]."""
    image = tf.io.decode_image(stored, channels, expand_animations=False)
    return tf.cast(image, tf.float32) / 255


def first_line(error: Exception) -> str:
    """What an error says, without the operation that TensorFlow puts around it."""
    return str(error).strip().split("\n")[0].split("}} ")[-1].split(" [Op:")[0].rstrip(".")
