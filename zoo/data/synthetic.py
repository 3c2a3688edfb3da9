"""Data made here: points with a rule for their labels, and images in a known style.

Styles test norms. A norm with statistics of single images hides their contrast from the network.
That does no harm where contrast is a nuisance, and is fatal where it is the label.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.data.source import Source

# The range of contrasts. At most 1, so that all images stay in [0, 1] and none is clipped.
_LOWEST, _HIGHEST = 0.1, 1.0
# Contrasts are changed about this grey. It becomes 0 when images are standardized.
_GREY = 0.5
# Ranges of a style: of the contrast, of the paper's channels, of the ink's. No style is both in
# FAMILIAR and in STRANGE, which has the lower contrasts and the paler colours.
Ranges = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
ALL: Ranges = (_LOWEST, _HIGHEST), (0.0, 0.5), (0.5, 1.0)
FAMILIAR: Ranges = (0.5, 1.0), (0.0, 0.2), (0.8, 1.0)
STRANGE: Ranges = (0.1, 0.5), (0.2, 0.4), (0.6, 0.8)
LEVELS = np.geomspace(_LOWEST, _HIGHEST, 4, dtype="float32")


def points() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Draws points of 10 features, uniform in [0, 1], with label 1 where their sum exceeds 5.

        label = 1 if x1 + ... + x10 > 5, else 0

    Returns:
        `(train, test)`, each float32 features `(1000, 10)` and int64 labels `(1000,)`.

    >>> (features, labels), test = points()
    >>> features.shape, labels.shape
    ((1000, 10), (1000,))
    """

    def draw(split: str) -> tuple[np.ndarray, np.ndarray]:
        features = _random(split).random((1000, 10), "float32")
        return features, (features.sum(1, dtype="float64") > 5).astype("int64")

    return draw("train"), draw("test")


def styled(source: Source, train: Ranges = ALL, test: Ranges = ALL) -> Source:
    """Gives images a random contrast and random colours, which tell nothing about the label.

        y = 1/2 + contrast (paper + (ink - paper) x - 1/2)

    The contrast is log-uniform in its range, by default [0.1, 1]. Each channel of the paper is
    uniform, by default in [0, 1/2], and each channel of the ink, by default in [1/2, 1]. The ink is
    always lighter than the paper, so that the mean and the variance of each channel describe a
    style completely.

    Args:
        source: images x with one channel or three.
        train: the ranges of training images.
        test: the ranges of test images.

    Returns:
        Images y with three channels. An image has the same style in all epochs.
    """

    def draw(split: str, count: int) -> dict[str, np.ndarray]:
        random = _random(split)
        contrast, paper, ink = {"train": train, "test": test}[split]
        return {
            "contrast": np.exp(random.uniform(np.log(contrast[0]), np.log(contrast[1]), count)),
            "paper": random.uniform(paper[0], paper[1], (count, 3)),
            "ink": random.uniform(ink[0], ink[1], (count, 3)),
        }

    def decode(stored: tuple[tf.Tensor, dict[str, tf.Tensor]]) -> tf.Tensor:
        image, style = stored
        assert source.decode
        coloured = style["paper"] + (style["ink"] - style["paper"]) * source.decode(image)
        return _change_contrast(coloured, style["contrast"])

    def example(image: tf.Tensor, label: tf.Tensor, style: dict[str, tf.Tensor]) -> tuple:
        return (image, style), label

    assert source.image_shape
    shape = (*source.image_shape[:2], 3)
    return _with_draws(source, draw, example, image_shape=shape, decode=decode)


def contrast(source: Source) -> Source:
    """Gives each image one of four contrasts, log-spaced from 0.1 to 1, as its label.

        y = 1/2 + contrast (x - 1/2)

    Args:
        source: images x; their labels are dropped.

    Returns:
        Images y with as many channels.
    """

    def draw(split: str, count: int) -> np.ndarray:
        return _random(split).integers(len(LEVELS), size=count)

    def decode(stored: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image, level = stored
        assert source.decode
        return _change_contrast(source.decode(image), tf.gather(LEVELS, level))

    def example(image: tf.Tensor, label: tf.Tensor, level: tf.Tensor) -> tuple:
        return (image, level), level

    return _with_draws(source, draw, example, num_classes=len(LEVELS), decode=decode)


def _change_contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    # Standardization maps grey to 0, and padding is 0 too. So the contrast multiplies all that a
    # network sees. Borders of another value would give the contrast away.
    return _GREY + factor * (image - _GREY)


def _with_draws(source: Source, draw: Callable, example: Callable, **changes: Any) -> Source:
    """Draws something for each example of a source.

    Args:
        source: the source.
        draw: the function from a split and a number of examples to arrays of that length.
        example: the function from an image, its label and what was drawn for them to the new
            example.
        **changes: other fields of the new source.
    """

    def joined(data: tf.data.Dataset, split: str) -> tf.data.Dataset:
        draws = tf.nest.map_structure(_narrow, draw(split, len(data)))
        pairs = tf.data.Dataset.zip(data, tf.data.Dataset.from_tensor_slices(draws))
        return pairs.map(lambda stored, drawn: example(*stored, drawn))

    train, test = joined(source.train, "train"), joined(source.test, "test")
    standardization = (_GREY,), (0.25,)
    return dataclasses.replace(source, train=train, test=test, mean_std=standardization, **changes)


def _narrow(array: np.ndarray) -> np.ndarray:
    """The array with at most 32 bits a float."""
    return array.astype("float32") if array.dtype == "float64" else array


def _random(split: str) -> np.random.Generator:
    """The random generator of a split. It starts in the same state each time."""
    return np.random.default_rng(("train", "test").index(split))
