"""Plain layers in the place of those whose kernels are normalized."""

import collections

import keras

from keras_norms.surgery.rebuild import rebuild, replaceable_layers
from keras_norms.surgery.report import Change, Report, title
from keras_norms.wrapper import KernelNormalization


def strip(model: keras.Model) -> tuple[keras.Model, Report]:
    """A copy of a model without `WeightNormalization` and `WeightStandardization`.

    Each wrapped layer becomes a plain one that computes the same at inference. Its kernel is the
    normalized one, and its bias includes the moving mean of mean-only batch normalization. Such a
    model can be quantized, and LoRA can be enabled. The model itself does not change.

    Args:
        model: built, as for `keras_norms.convert`.

    Returns:
        `(copy, report)`: the report says for each wrapped layer what it became.

    Raises:
        ValueError: if a wrapped layer is not built.

    Example:
        >>> import keras, keras_norms
        >>> layer = keras_norms.WeightNormalization(keras.layers.Dense(3), name="dense_wn")
        >>> model = keras.Sequential([keras.Input((8,)), layer])
        >>> copy, report = keras_norms.strip(model)
        >>> print(report)
        | layer | before | after | note |
        | --- | --- | --- | --- |
        | dense_wn | WeightNormalization | keras.layers.Dense | computes the same |
    """
    layers = replaceable_layers(model)
    wrapped = {k: layer for k, layer in layers.items() if isinstance(layer, KernelNormalization)}
    # A graph needs a name for each layer. Names of wrapped layers may occur twice.
    names = collections.Counter(
        layer.layer.name if path in wrapped else layer.name for path, layer in layers.items()
    )
    replacements: dict[int, keras.Layer | None] = {}
    report = Report()
    for path, layer in wrapped.items():
        plain = layer.remove()
        if names[plain.name] > 1:
            plain.name = layer.name
        replacements[id(layer)] = plain
        report.append(Change(path, title(layer), title(plain), "computes the same"))
    return rebuild(model, replacements), report
