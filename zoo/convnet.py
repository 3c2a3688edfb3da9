"""Plain convolutional networks for small images."""

import typing

from keras import Input, Model, layers

from zoo.norms import builder, norm_for


class Kind(typing.NamedTuple):
    """Stages of convolutions `(channels, size, padding)`, and what stands around them."""

    stages: tuple
    slope: float = 0.0
    noise: float = 0.0
    dropout: float = 0.0


KINDS = {
    "convpool": Kind(
        stages=(
            ((96, 3, "same"),) * 3,
            ((192, 3, "same"),) * 3,
            ((192, 3, "valid"), (192, 1, "same"), (192, 1, "same")),
        ),
        slope=0.1,
        noise=0.15,
        dropout=0.5,
    ),
    "conv6": Kind(stages=tuple(((channels, 3, "same"),) * 2 for channels in (64, 128, 256))),
}


@builder
def convnet(kind, num_classes, norm="bn", input_shape=(32, 32, 3), width=1.0):
    """A convolutional network without shortcuts, for image classification.

        x <- relu(norm(conv(x))),  a max-pool between stages, the mean of the last maps

    "convpool" is ConvPool-CNN-C as in the weight normalization paper, with its noise on the input,
    dropout and leaky rectifiers; inputs should be standardized, as the noise is absolute. "conv6"
    is our plain net of six convolutions. Layer names are stable: "stage2_conv1", "stage2_norm1".

    Made for 32 x 32 pixels, both work from 8 x 8 on: pools keep an odd last row or column, and
    the one convolution of "convpool" that has no padding gets it on maps of less than 4 x 4.

    Args:
        kind: "convpool" or "conv6".
        num_classes: int, the number of logits.
        norm: what `keras_norms.get` understands.
        input_shape: `(height, width, channels)`.
        width: float, factor of the number of channels everywhere.

    Returns:
        A `keras.Model` from images `(batch, *input_shape)` to float32 logits
        `(batch, num_classes)`.

    Raises:
        ValueError: for an unknown kind or norm.

    Reference:
        [Weight Normalization](https://arxiv.org/abs/1602.07868), appendix A, for "convpool".
    """
    norm = norm_for("convnet", norm)
    if kind not in KINDS:
        known = ", ".join(map(repr, KINDS))
        raise ValueError(f"`kind` must be one of {known}. Received: kind={kind!r}")
    stages, slope, noise, dropout = KINDS[kind]

    images = x = Input(input_shape, name="images")
    if noise:
        x = layers.GaussianNoise(noise, name="noise")(x)
    for stage, convolutions in enumerate(stages, 1):
        name = f"stage{stage}"
        if stage > 1:
            x = layers.MaxPooling2D(2, padding="same", name=f"{name}_pool")(x)
            if dropout:
                x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
        for index, (channels, size, padding) in enumerate(convolutions, 1):
            small = any(side is not None and side < 4 for side in x.shape[1:3])
            conv = layers.Conv2D(
                max(1, round(channels * width)),
                size,
                padding="same" if small else padding,
                use_bias=norm.use_bias,
                kernel_initializer="he_normal",
                name=f"{name}_conv{index}",
            )
            x = norm.normalize(f"{name}_norm{index}")(norm.wrap(conv)(x))
            x = layers.ReLU(negative_slope=slope, name=f"{name}_relu{index}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    classifier = layers.Dense(num_classes, dtype="float32", name="logits")
    return Model(images, norm.wrap(classifier)(x), name=kind)
