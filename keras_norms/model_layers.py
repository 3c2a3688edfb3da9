"""Finds the layers of a model, its norms and its variables."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_norms.base import Normalization

_FROZEN = "frozen_norms"
# Keras's own norms do not say that they are norms.
_KERAS_NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def named_layers(model: keras.Layer) -> dict[str, keras.Layer]:
    """Every layer below `model`, nested ones included, as `{path: layer}` in model order.

    A path joins layer names from the model down, and is unique. `layer.path` is not: a model
    built by the functional API does not appear in the paths of its layers. A layer that is used
    twice appears once.
    """
    found: dict[str, keras.Layer] = {}
    seen = set()

    def visit(parent: keras.Layer, prefix: str) -> None:
        for layer in parent._flatten_layers(include_self=False, recursive=False):
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            path, number = prefix + layer.name, 1
            while path in found:
                path, number = f"{prefix}{layer.name}_{number}", number + 1
            found[path] = layer
            visit(layer, path + "/")

    visit(model, "")
    return found


def is_norm(layer: Any) -> bool:
    """Whether a layer normalizes activations: one of this package or of Keras."""
    return isinstance(layer, (Normalization, *_KERAS_NORMS))


def has_batch_statistics(layer: Any) -> bool:
    """Whether a layer is a norm that trains with statistics of the batch."""
    if isinstance(layer, Normalization):
        return layer.has_batch_statistics
    return isinstance(layer, keras.layers.BatchNormalization)


def own_method(layer: Any, *names: str) -> str | None:
    """The first of these methods that the class of a layer has not from Keras or this package."""
    for cls in type(layer).__mro__:
        if cls.__module__.startswith(("keras.", "keras_norms.")):
            break
        for name in names:
            if name in vars(cls):
                return name
    return None


def frozen_norms(norms: Sequence[keras.Layer]) -> dict[str, bool]:
    """What the config of a layer says of the norms in it, if they do not train: see `freeze`."""
    return {} if all(norm.trainable for norm in norms) else {_FROZEN: True}


def take_frozen(config: dict[str, Any]) -> bool:
    """Takes out of a config what `frozen_norms` put in: whether the norms are frozen."""
    return config.pop(_FROZEN, False)


def all_variables(layer: keras.Layer) -> list[keras.Variable]:
    """All variables of `layer` and of the layers below it.

    Those are `layer.variables` and the states of stateful RNNs, which Keras leaves out.
    """
    states = [getattr(sublayer, "states", None) for sublayer in layer._flatten_layers()]
    found = [*layer.variables, *keras.tree.flatten(states)]
    return list({id(v): v for v in found if isinstance(v, keras.Variable)}.values())
