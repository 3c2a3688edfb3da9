"""Plain convolutional networks for small images."""

from typing import Any, Literal, NamedTuple

from keras import Input, Model, layers

from zoo import builder
from zoo.blocks import classify, conv_norm
from zoo.norms import norm_for


class Kind(NamedTuple):
    """What distinguishes the networks of this module.

    Attributes:
        stages: for each stage its convolutions, `(channels, kernel size, padding)`.
        negative_slope: the slope of the rectifiers below 0.
        noise: the standard deviation of the Gaussian noise on the input.
        dropout: the rate of dropout between stages.
        quarters: whether the logits see the means of the quarters of the last maps, and not only
            those of whole maps.
    """

    stages: tuple[tuple[tuple[int, int, Literal["same", "valid"]], ...], ...]
    negative_slope: float = 0.0
    noise: float = 0.0
    dropout: float = 0.0
    quarters: bool = False


KINDS = {
    "convpool": Kind(
        stages=(
            ((96, 3, "same"),) * 3,
            ((192, 3, "same"),) * 3,
            ((192, 3, "valid"), (192, 1, "same"), (192, 1, "same")),
        ),
        negative_slope=0.1,
        noise=0.15,
        dropout=0.5,
    ),
    "conv6": Kind(
        stages=tuple(((channels, 3, "same"),) * 2 for channels in (64, 128, 256)), quarters=True
    ),
}


@builder
def convnet(
    kind: str,
    num_classes: int,
    norm: Any = "bn",
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    width: float = 1.0,
) -> Model:
    """A convolutional network without shortcuts, for image classification.

        x <- relu(norm(conv(x)))

    Max-pooling separates the stages.

    "convpool" is ConvPool-CNN-C of the weight normalization paper, with its dropout, leaky
    rectifiers and noise on the input. The noise has a fixed size, so standardize the inputs. Its
    logits are computed from the mean of each last map.

    "conv6" is our plain net of six convolutions. Instance norm gives each map the same mean and
    variance, whatever the image shows, so that the mean after the rectifier hardly changes. That
    is why the logits are computed from the means of the four quarters of each last map.

    Layer names are stable: "stage2_conv1", "stage2_norm1".

    Both are made for 32 x 32 pixels and work with 8 x 8 or more. Pooling keeps an odd last row or
    column. The one unpadded convolution of "convpool" is padded on maps smaller than 4 x 4.

    Args:
        kind: "convpool" or "conv6".
        num_classes: the number of logits.
        norm: what `keras_norms.get` understands.
        input_shape: `(height, width, channels)`.
        width: multiplies the number of channels of every convolution.

    Returns:
        A `keras.Model` from images `(batch, *input_shape)` to float32 logits
        `(batch, num_classes)`.

    Raises:
        ValueError: for an unknown kind or norm.

    Reference:
        [Weight Normalization](https://arxiv.org/abs/1602.07868), appendix A, for "convpool".

    >>> import zoo
    >>> model = zoo.convnet("conv6", 10, norm="gn", input_shape=(8, 8, 1), width=0.25)
    >>> model.output_shape, type(model.get_layer("stage2_norm1")).__name__
    ((None, 10), 'GroupNormalization')
    """
    norm = norm_for("convnet", norm)
    if kind not in KINDS:
        known = ", ".join(map(repr, KINDS))
        raise ValueError(f"`kind` must be one of {known}. Received: kind={kind!r}")
    stages, negative_slope, noise, dropout, quarters = KINDS[kind]

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
            x = conv_norm(
                x,
                max(1, round(channels * width)),
                size,
                norm,
                name,
                index,
                padding="same" if small else padding,
            )
            x = layers.ReLU(negative_slope=negative_slope, name=f"{name}_relu{index}")(x)
    if quarters:
        x = layers.Flatten(name="flatten")(layers.AdaptiveAveragePooling2D(2, name="pool")(x))
    else:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
    return Model(images, classify(x, num_classes, norm), name=kind)
