"""A U-Net as tutorials describe it, which finds the ink of digits on a noisy ground."""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits


def build():
    """Two convolutions with a norm on each of three levels, down and up again."""

    def convolve(x, channels):
        for _ in range(2):
            x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        return x

    inputs = x = keras.Input((32, 32, 1))
    skipped = []
    for channels in (8, 16):
        x = convolve(x, channels)
        skipped.append(x)
        x = layers.MaxPooling2D()(x)
    x = convolve(x, 32)
    for channels in (16, 8):
        x = layers.Conv2DTranspose(channels, 2, strides=2)(x)
        x = convolve(layers.Concatenate()([x, skipped.pop()]), channels)
    model = keras.Model(inputs, layers.Conv2D(1, 1, activation="sigmoid")(x), name="unet")
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.BinaryCrossentropy(),
        metrics=[keras.metrics.BinaryIoU([1], name="iou")],
    )
    return model


def make_datasets():
    """1,200 and 200 images of two overlapping digits, with the mask of their ink."""
    digits = load_digits().images.astype("float32").repeat(2, 1).repeat(2, 2) / 16
    random = np.random.default_rng(0)

    def draw(part, count):
        image, mask = np.zeros((2, count, 32, 32, 1), "float32")
        for i in range(count):
            for digit in part[random.integers(0, len(part), 2)]:
                top, left = random.integers(0, 17, 2)
                place = (i, slice(top, top + 16), slice(left, left + 16), 0)
                image[place] += digit * random.uniform(0.3, 1)
                mask[place] = np.maximum(mask[place], digit > 0.5)
        ground = random.uniform(-1, 1, (count, 1, 1, 1)) + random.normal(0, 0.3, image.shape)
        return (image + ground).astype("float32"), mask

    return draw(digits[:1400], 1200), draw(digits[1400:], 200)
