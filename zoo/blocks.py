"""What several models are made of: the input of sequences, a normalized convolution, the logits."""

from typing import Literal

from keras import Input, KerasTensor, layers

from keras_norms.registry import Norm


def sequence_input(shape: tuple[int | None, ...] | None, vocabulary: int | None) -> KerasTensor:
    """The input of a model that reads sequences of vectors or of tokens.

    Args:
        shape: `(steps, features)` of vectors, or `(steps,)` of tokens.
        vocabulary: the number of tokens; None for vectors.

    Returns:
        The input "sequences" or, of int32, "tokens".

    Raises:
        ValueError: if the shape does not fit.

    >>> sequence_input((9, 4), vocabulary=None).shape, sequence_input((9,), vocabulary=65).shape
    ((None, 9, 4), (None, 9))
    """
    form = ("steps", "features") if vocabulary is None else ("steps",)
    if shape is None or len(shape) != len(form):
        raise ValueError(
            "`input_shape` must be (steps, features) for vectors, or (steps,) with a `vocabulary`. "
            f"Received: input_shape={shape}, vocabulary={vocabulary}"
        )
    if vocabulary is None:
        return Input(shape, name="sequences")
    return Input(shape, dtype="int32", name="tokens")


def conv_norm(
    x: KerasTensor,
    channels: int,
    size: int,
    norm: Norm,
    name: str,
    index: int | str = "",
    stride: int = 1,
    padding: Literal["same", "valid"] = "same",
    zero_init: bool = False,
) -> KerasTensor:
    """A convolution and its norm, for a rectifier to follow.

        y = norm(conv(x))

    Args:
        x: maps `(batch, height, width, channels of x)`.
        channels: the number of channels of y.
        size: the side of the square kernel, in pixels.
        norm: decides about the bias and the weight norm of the convolution too.
        name: the layers' names start with it.
        index: the layers' names end with it: "stage2_conv1", "stage2_norm1".
        stride: the distance between two places of the kernel, in pixels.
        padding: "same" adds size // 2 zeros on every side, "valid" none.
        zero_init: whether the gamma of the norm starts at 0, if it has one.

    >>> import keras, keras_norms
    >>> images = keras.Input((8, 8, 3))
    >>> conv_norm(images, 16, 3, keras_norms.get("bn"), "stem", stride=2).shape
    (None, 4, 4, 16)
    """
    if padding == "same" and stride > 1:
        # With a stride, Keras's "same" would pad an even input on its far side only.
        padding = "valid"
        if size > 1:
            x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad{index}")(x)
    conv = layers.Conv2D(
        channels,
        size,
        stride,
        padding,
        use_bias=norm.use_bias,
        kernel_initializer="he_normal",
        name=f"{name}_conv{index}",
    )
    return norm.normalize(f"{name}_norm{index}", zero_init=zero_init)(norm.wrap(conv)(x))


def classify(x: KerasTensor, num_classes: int, norm: Norm) -> KerasTensor:
    """The logits: a dense layer in float32, whatever the precision of the model.

        logits = W x + b

    Args:
        x: features `(..., features)`.
        num_classes: the number of logits.
        norm: may normalize W.

    Returns:
        Logits `(..., num_classes)`.

    >>> import keras, keras_norms
    >>> classify(keras.Input((9, 128)), 10, keras_norms.get("wn")).shape
    (None, 9, 10)
    """
    dense = layers.Dense(num_classes, dtype="float32", name="logits")
    return norm.wrap(dense)(x)
