"""Data that is made here: points under a rule, and images with a style that is known.

What the styles are for: a network that is normalized by statistics of single images does not see
their contrast, which does no harm where that is a nuisance, and is fatal where it is the label.
"""

import dataclasses

import numpy as np
import tensorflow as tf

# Factors, the largest of which leaves an image as it is: all stay in [0, 1], and none is clipped.
_LOWEST, _HIGHEST = 0.1, 1.0
LEVELS = np.geomspace(_LOWEST, _HIGHEST, 4, dtype="float32")


def points():
    """Points of 10 features, uniform in [0, 1], with label 1 where their sum exceeds 5.

    Returns:
        `(train, test)`, each `(features, labels)` of 1,000 points.
    """

    def drawn(split):
        features = _random(split).random((1000, 10), "float32")
        return features, (features.sum(1, dtype="float64") > 5).astype("int64")

    return drawn("train"), drawn("test")


def styled(source):
    """The images in a random contrast and random colours, which tell nothing about the label.

        y = 1/2 + contrast (paper + (ink - paper) x - 1/2)

    The contrast is log-uniform in [0.1, 1]; where an image was 0 it has the colour of the paper, in
    [0, 1/2] for each channel, and where it was 1 that of the ink, in [1/2, 1]. Ink is the lighter
    one throughout, so that the mean and the variance of each channel are all there is to a style.

    Args:
        source: `zoo.data.sources.Source` of images with one channel or three.

    Returns:
        A `Source` of images with three channels. Every image has one style, in all epochs.
    """

    def draw(random, count):
        return {
            "contrast": np.exp(random.uniform(*np.log((_LOWEST, _HIGHEST)), count)),
            "paper": random.uniform(0, 0.5, (count, 3)),
            "ink": random.uniform(0.5, 1, (count, 3)),
        }

    def decode(stored):
        image, style = stored
        coloured = style["paper"] + (style["ink"] - style["paper"]) * source.decode(image)
        return _contrasted(coloured, style["contrast"])

    def example(image, label, style):
        return (image, style), label

    shape = (*source.image_shape[:2], 3)
    return _with_draws(source, draw, example, image_shape=shape, decode=decode)


def contrast(source):
    """The images in one of four contrasts, log-spaced from 0.1 to 1, which is their label.

        y = 1/2 + contrast (x - 1/2)

    Args:
        source: `zoo.data.sources.Source` of images, whose labels are left out.

    Returns:
        A `Source` of images with as many channels.
    """

    def draw(random, count):
        return random.integers(len(LEVELS), size=count)

    def decode(stored):
        image, level = stored
        return _contrasted(source.decode(image), tf.gather(LEVELS, level))

    def example(image, label, level):
        return (image, level), level

    return _with_draws(source, draw, example, num_classes=len(LEVELS), decode=decode)


def _contrasted(image, factor):
    # About what images are standardized to 0 by, and padded with: a contrast is then a factor of
    # all that a network sees, and its borders do not give it away.
    return 0.5 + factor * (image - 0.5)


def _with_draws(source, draw, example, **changes):
    """The source with `example(image, label, what was drawn for it)` in place of each example."""

    def joined(data, split):
        draws = tf.nest.map_structure(_narrow, draw(_random(split), len(data)))
        pairs = tf.data.Dataset.zip(data, tf.data.Dataset.from_tensor_slices(draws))
        return pairs.map(lambda stored, drawn: example(*stored, drawn))

    train, test = joined(source.train, "train"), joined(source.test, "test")
    return dataclasses.replace(source, train=train, test=test, **changes)


def _narrow(array):
    return array.astype("float32") if array.dtype == "float64" else array


def _random(split):
    """The generator of all draws for that split, the same one each time."""
    return np.random.default_rng(("train", "test").index(split))
