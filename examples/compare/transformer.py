"""A small Transformer, made by hand, that tells good reviews of IMDB from bad ones."""

import keras
import numpy as np
import tensorflow_datasets as tfds
from keras import layers, ops

WORDS, LENGTH, WIDTH = 5000, 80, 32


def build():
    """Two blocks of attention and an MLP, each with a norm after its branch."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(WORDS, WIDTH)(inputs)
    x = x + layers.Embedding(LENGTH, WIDTH)(ops.arange(LENGTH))
    for _ in range(2):
        branch = layers.MultiHeadAttention(4, WIDTH // 4, dropout=0.1)(x, x)
        x = layers.LayerNormalization()(x + branch)
        branch = layers.Dense(WIDTH)(layers.Dense(4 * WIDTH, activation="relu")(x))
        x = layers.LayerNormalization()(x + branch)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, layers.Dense(1)(x), name="transformer")
    model.compile(
        keras.optimizers.AdamW(1e-3),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
    )
    return model


def make_datasets():
    """The last 80 words of 8,000 reviews for training and of 2,000 for validation."""
    splits = ["train[:8000]", "test[:2000]"]
    parts = tfds.load("imdb_reviews", split=splits, batch_size=-1, as_supervised=True)
    (texts, labels), (others, answers) = tfds.as_numpy(parts)
    words = layers.TextVectorization(WORDS, ragged=True)
    words.adapt(texts)

    def encode(texts):
        ids = words(texts)[:, -LENGTH:].to_tensor(shape=(None, LENGTH))
        return np.asarray(ids, "int32")

    return (encode(texts), labels), (encode(others), answers)
