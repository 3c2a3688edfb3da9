"""An LSTM that writes, character by character, in the words of Shakespeare."""

import keras
import numpy as np
import tensorflow_datasets as tfds
from keras import layers

LENGTH, CHARACTERS = 64, 66


def build():
    """Two LSTMs, each with a norm on its outputs."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(CHARACTERS, 32)(inputs)
    for _ in range(2):
        x = layers.LayerNormalization()(layers.LSTM(96, return_sequences=True)(x))
    model = keras.Model(inputs, layers.Dense(CHARACTERS)(x), name="lstm")
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def make_datasets():
    """Windows of 64 characters, whose targets are the characters that follow."""
    parts = tfds.as_numpy(tfds.load("tiny_shakespeare"))
    texts = {name: next(iter(part))["text"] for name, part in parts.items()}
    known = np.unique(np.frombuffer(b"".join(texts.values()), "uint8"))
    assert len(known) < CHARACTERS

    def windows(text, count):
        ids = np.searchsorted(known, np.frombuffer(text, "uint8")).astype("int32")
        starts = LENGTH * np.arange(min(count, (len(ids) - 1) // LENGTH))
        return tuple(ids[starts[:, None] + np.arange(LENGTH) + shift] for shift in (0, 1))

    return windows(texts["train"], 8000), windows(texts["validation"], 400)
