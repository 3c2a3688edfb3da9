"""The synthetic set of an article: is the sum of ten uniform features above 5?"""

import keras
import numpy as np
from keras import layers


def build():
    """A multilayer perceptron of 10, 50 and 2 units."""
    hidden = [layers.Dense(50), layers.BatchNormalization(), layers.ReLU()]
    model = keras.Sequential([keras.Input((10,)), *hidden, layers.Dense(2)], name="mlp")
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def make_datasets():
    """1,000 points each for training and validation."""
    random = np.random.default_rng(0)

    def draw():
        x = random.random((1000, 10), "float32")
        return x, (x.sum(1) > 5).astype("int32")

    return draw(), draw()
