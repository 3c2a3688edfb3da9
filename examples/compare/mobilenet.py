"""Keras's MobileNetV3Small, from scratch, on a part of CIFAR-10."""

import keras
import tensorflow_datasets as tfds


def build():
    """The model of keras.applications, as it is."""
    model = keras.applications.MobileNetV3Small((32, 32, 3), weights=None, classes=10)
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    return model


def make_datasets():
    """5,000 images for training and 1,000 for validation, with values from 0 to 255."""
    splits = ["train[:5000]", "test[:1000]"]
    parts = tfds.load("cifar10", split=splits, batch_size=-1, as_supervised=True)
    return [tuple(part) for part in tfds.as_numpy(parts)]
