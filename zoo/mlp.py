"""A multilayer perceptron."""

from collections.abc import Sequence
from typing import Any

from keras import Input, Model, layers

from zoo import builder
from zoo.blocks import classify
from zoo.norms import norm_for


@builder
def mlp(
    num_classes: int,
    norm: Any = "bn",
    input_shape: tuple[int, ...] = (10,),
    hidden: Sequence[int] = (50,),
    width: float = 1.0,
) -> Model:
    """A multilayer perceptron for classification.

        x <- relu(norm(W x + b))

    There is no b where the norm removes it. Layer norm and its like keep it: without b, they could
    not tell x from 2x. Layer names are stable: "hidden1_dense", "hidden1_norm".

    Args:
        num_classes: the number of logits.
        norm: what `keras_norms.get` understands.
        input_shape: the shape of a sample, which is flattened if it has several axes.
        hidden: the number of units of each hidden layer.
        width: multiplies the number of units of every hidden layer.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to float32 logits `(batch, num_classes)`.

    Raises:
        ValueError: for a norm that is unknown, or that pools positions (`zoo.norms`).

    >>> import zoo
    >>> model = zoo.mlp(3, norm="ln", input_shape=(4,), hidden=(8, 6))
    >>> model.output_shape, model.get_layer("hidden2_dense").units
    ((None, 3), 6)
    """
    norm = norm_for("mlp", norm)
    inputs = x = Input(input_shape, name="inputs")
    if len(input_shape) > 1:
        x = layers.Flatten(name="flatten")(x)
    for index, units in enumerate(hidden, 1):
        dense = layers.Dense(
            max(1, round(units * width)),
            use_bias=not norm.removes_bias,
            kernel_initializer="he_normal",
            name=f"hidden{index}_dense",
        )
        x = norm.normalize(f"hidden{index}_norm")(norm.wrap(dense)(x))
        x = layers.ReLU(name=f"hidden{index}_relu")(x)
    return Model(inputs, classify(x, num_classes, norm), name="mlp")
