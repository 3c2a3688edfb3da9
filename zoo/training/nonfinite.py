"""Where a NaN or an infinity comes from."""

from typing import Any

import keras
from keras import ops


def locate(model: keras.Model, batch: Any) -> str:
    """Names the first layer whose output is not finite.

    Args:
        model: a functional model, with the weights of the step whose loss was not finite.
        batch: the inputs of that step.

    Returns:
        A clause for an error message.
    """
    for variable in model.variables:
        if "float" in variable.dtype and not _finite(variable):
            return f"the weight {variable.path} is not finite"
    layers = [op for op in model.operations if not isinstance(op, keras.layers.InputLayer)]
    probe = keras.Model(model.input, [layer.output for layer in layers])
    with keras.StatelessScope():  # leaves random states and moving statistics unchanged
        outputs = probe(batch, training=True)
    for layer, output in zip(layers, outputs, strict=True):
        if not all(map(_finite, keras.tree.flatten(output))):
            return f"the first value that is not finite arises in layer {layer.name!r}"
    return "all outputs of layers are finite, so it arises in the loss or in a gradient"


def _finite(tensor: Any) -> bool:
    tensor = ops.convert_to_tensor(tensor)
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype)):
        return True
    return bool(ops.all(ops.isfinite(tensor)))
