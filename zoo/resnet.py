"""Residual networks (He et al., 2015): the CIFAR and the ImageNet family."""

from collections.abc import Callable
from typing import Any, Literal

from keras import Input, KerasTensor, Model, layers

from keras_norms.registry import Norm
from zoo import builder
from zoo.blocks import classify, conv_norm
from zoo.norms import norm_for

# depth: (block, blocks per stage)
CIFAR = {depth: ("basic", ((depth - 2) // 6,) * 3) for depth in (20, 32, 44, 56, 110)}
IMAGENET = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


@builder
def resnet(
    depth: int,
    num_classes: int,
    norm: Any = "bn",
    input_shape: tuple[int | None, int | None, int] | None = None,
    width: float = 1.0,
    stem: Literal["small", "large"] | None = None,
) -> Model:
    """A residual network for image classification.

        x <- relu(x + F(x)),  F = conv, norm, relu, conv, norm

    Every block starts as its shortcut: the gamma of its last norm, if it has one, starts at 0.
    Layer names are stable: "stem_norm", "stage2_block1_norm2".

    Args:
        depth: 20, 32, 44, 56 or 110 for a CIFAR network, whose shortcuts have no weights. 18, 34,
            50, 101 or 152 for an ImageNet network, whose bottlenecks have their stride in the 3x3
            convolution.
        num_classes: the number of logits.
        norm: what `keras_norms.get` understands.
        input_shape: `(height, width, channels)`. By default (32, 32, 3) with a small stem and
            (224, 224, 3) with a large one.
        width: multiplies the number of channels of every convolution.
        stem: "small" is a 3x3 convolution. "large" halves the sides twice, by a 7x7 convolution
            and by max-pooling. By default it is small in CIFAR networks, large in others. The four
            stages of an ImageNet network suit 32 x 32 pixels with a small stem.

    Returns:
        A `keras.Model` from images `(batch, *input_shape)` to float32 logits
        `(batch, num_classes)`.

    Raises:
        ValueError: for an unknown depth, norm or stem.

    Reference:
        [Deep Residual Learning](https://arxiv.org/abs/1512.03385), sections 3.4 and 4.2, and
        [Accurate, Large Minibatch SGD](https://arxiv.org/abs/1706.02677), section 5.1, for the
        stride and the zero gamma.

    >>> import zoo
    >>> model = zoo.resnet(20, 10, norm="sn", input_shape=(8, 8, 3), width=0.25)
    >>> model.output_shape, type(model.get_layer("stage2_block1_norm2")).__name__
    ((None, 10), 'SwitchableNormalization')
    """
    norm = norm_for("resnet", norm)
    if depth not in CIFAR | IMAGENET:
        known = ", ".join(map(str, (*CIFAR, *IMAGENET)))
        raise ValueError(f"`depth` must be one of {known}. Received: depth={depth}")
    cifar = depth in CIFAR
    stem = stem or ("small" if cifar else "large")
    if stem not in ("small", "large"):
        raise ValueError(f"`stem` must be 'small' or 'large'. Received: stem={stem!r}")
    large = stem == "large"
    block_type, counts = (CIFAR | IMAGENET)[depth]
    block = {"basic": _basic, "bottleneck": _bottleneck}[block_type]
    shortcut = _padded_shortcut if cifar else _projected_shortcut
    base = max(1, round((16 if cifar else 64) * width))

    images = x = Input(input_shape or ((224, 224, 3) if large else (32, 32, 3)), name="images")
    x = conv_norm(x, base, 7 if large else 3, norm, "stem", stride=2 if large else 1)
    x = layers.ReLU(name="stem_relu")(x)
    if large:
        x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)
    for stage, blocks in enumerate(counts, 1):
        for index in range(1, blocks + 1):
            stride = 2 if stage > 1 and index == 1 else 1
            name = f"stage{stage}_block{index}"
            x = block(x, base * 2 ** (stage - 1), stride, norm, shortcut, name)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return Model(images, classify(x, num_classes, norm), name=f"resnet{depth}")


def _basic(
    x: KerasTensor, channels: int, stride: int, norm: Norm, shortcut: Callable, name: str
) -> KerasTensor:
    residual = conv_norm(x, channels, 3, norm, name, 1, stride)
    residual = layers.ReLU(name=f"{name}_relu1")(residual)
    residual = conv_norm(residual, channels, 3, norm, name, 2, zero_init=True)
    return _join(residual, shortcut(x, channels, stride, norm, name), name)


def _bottleneck(
    x: KerasTensor, channels: int, stride: int, norm: Norm, shortcut: Callable, name: str
) -> KerasTensor:
    residual = conv_norm(x, channels, 1, norm, name, 1)
    residual = layers.ReLU(name=f"{name}_relu1")(residual)
    residual = conv_norm(residual, channels, 3, norm, name, 2, stride)
    residual = layers.ReLU(name=f"{name}_relu2")(residual)
    residual = conv_norm(residual, 4 * channels, 1, norm, name, 3, zero_init=True)
    return _join(residual, shortcut(x, 4 * channels, stride, norm, name), name)


def _join(residual: KerasTensor, shortcut: KerasTensor, name: str) -> KerasTensor:
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([shortcut, residual]))


def _padded_shortcut(
    x: KerasTensor, channels: int, stride: int, norm: Norm, name: str
) -> KerasTensor:
    """Every `stride`-th pixel, with zeros for the new channels (the paper's option A)."""
    if stride > 1:
        x = layers.MaxPooling2D(1, stride, name=f"{name}_shortcut_pool")(x)
    missing = channels - x.shape[-1]
    if missing:
        # "channels_first" makes the layer pad the last axis, which holds the channels here.
        amount = ((0, 0), (missing // 2, missing - missing // 2))
        x = layers.ZeroPadding2D(amount, "channels_first", name=f"{name}_shortcut_pad")(x)
    return x


def _projected_shortcut(
    x: KerasTensor, channels: int, stride: int, norm: Norm, name: str
) -> KerasTensor:
    """A 1x1 convolution where the shape changes (the paper's option B)."""
    if stride == 1 and x.shape[-1] == channels:
        return x
    return conv_norm(x, channels, 1, norm, f"{name}_shortcut", stride=stride)
