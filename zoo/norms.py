"""Which norm works in which model: one table for the builders, the tests and the docs."""

from typing import Any, NamedTuple

import keras_norms
from keras_norms.registry import Norm


class ModelKind(NamedTuple):
    """What a kind of model offers its norms.

    Attributes:
        has_positions: whether norms may pool positions (pixels, time steps).
        reason: which positions these are, or why there are none.
    """

    has_positions: bool
    reason: str


MODELS = {
    "resnet": ModelKind(True, "height and width"),
    "convnet": ModelKind(True, "height and width"),
    "transformer": ModelKind(True, "time"),
    "causal_transformer": ModelKind(False, "a step must not depend on later ones"),
    "lstm": ModelKind(False, "its norms see one step at a time"),
    "mlp": ModelKind(False, "a vector has none"),
}
# norm: {model: whether it works there}
SUPPORT = {
    name: {
        model: kind.has_positions or not keras_norms.get(name).needs_spatial_axis
        for model, kind in MODELS.items()
    }
    for name in keras_norms.NAMES
}


def norm_for(model: str, spec: Any) -> Norm:
    """The norm that `spec` stands for, if it works in that kind of model.

    Args:
        model: a key of `MODELS`.
        spec: what `keras_norms.get` understands.

    Raises:
        ValueError: for an unknown norm, or one that pools positions where `model` has none. The
            message names the norms that work.

    >>> norm_for("mlp", "gn(groups=16)").spec
    'gn(groups=16)'
    """
    norm = keras_norms.get(spec)
    if norm.needs_spatial_axis and not MODELS[model].has_positions:
        working = ", ".join(repr(name) for name in SUPPORT if SUPPORT[name][model])
        raise ValueError(
            f"The norm {spec!r} pools positions (pixels, time steps), of which the {model} model "
            f"offers none: {MODELS[model].reason}. Use one of {working}. Received: norm={spec!r}"
        )
    return norm
