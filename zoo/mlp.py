"""A multilayer perceptron."""

from keras import Input, Model, layers

from zoo.norms import builder, norm_for


@builder
def mlp(num_classes, norm="bn", input_shape=(10,), hidden=(50,), width=1.0):
    """A multilayer perceptron for classification.

        x <- relu(norm(w.x))

    Layer names are stable: "hidden1_dense", "hidden1_norm".

    Args:
        num_classes: int, the number of logits.
        norm: what `keras_norms.get` understands.
        input_shape: shape of a sample, flattened if it has several axes.
        hidden: numbers of units of the hidden layers.
        width: float, factor of the number of hidden units everywhere.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to float32 logits `(batch, num_classes)`.

    Raises:
        ValueError: for a norm that is unknown, or pools positions (`zoo.norms`).
    """
    norm = norm_for("mlp", norm)
    inputs = x = Input(input_shape, name="inputs")
    if len(input_shape) > 1:
        x = layers.Flatten(name="flatten")(x)
    for index, units in enumerate(hidden, 1):
        dense = layers.Dense(
            max(1, round(units * width)),
            use_bias=norm.use_bias,
            kernel_initializer="he_normal",
            name=f"hidden{index}_dense",
        )
        x = norm.normalize(f"hidden{index}_norm")(norm.wrap(dense)(x))
        x = layers.ReLU(name=f"hidden{index}_relu")(x)
    classifier = layers.Dense(num_classes, dtype="float32", name="logits")
    return Model(inputs, norm.wrap(classifier)(x), name="mlp")
