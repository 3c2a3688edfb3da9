"""Which norm works in which model: one table for the builders, the tests and the docs."""

import typing

import keras_norms
from zoo.markdown import table


class Host(typing.NamedTuple):
    """A kind of model: whether its norms may pool positions, and which, or why not."""

    positions: bool
    why: str


MODELS = {
    "resnet": Host(True, "height and width"),
    "convnet": Host(True, "height and width"),
    "transformer": Host(True, "time"),
    "causal_transformer": Host(False, "a step must not depend on later ones"),
    "lstm": Host(False, "its norms see one step at a time"),
    "mlp": Host(False, "a vector has none"),
}
# norm: {model: whether it works there}
SUPPORT = {
    name: {
        model: host.positions or not keras_norms.get(name).needs_spatial_axis
        for model, host in MODELS.items()
    }
    for name in keras_norms.NAMES
}


def resolve(spec, model):
    """The norm that `spec` stands for, in a model that it works in.

    Args:
        spec: what `keras_norms.get` understands.
        model: str, a key of `MODELS`.

    Returns:
        A `keras_norms.Norm`.

    Raises:
        ValueError: for an unknown norm, or one that pools positions where `model` has none; the
            message names those that work.

    >>> resolve("gn(groups=16)", "mlp").spec
    'gn(groups=16)'
    """
    norm = keras_norms.get(spec)
    if norm.needs_spatial_axis and not MODELS[model].positions:
        working = ", ".join(repr(name) for name in SUPPORT if SUPPORT[name][model])
        raise ValueError(
            f"The norm {spec!r} pools positions (pixels, time steps), of which the {model} model "
            f"offers none: {MODELS[model].why}. Use one of {working}. Received: norm={spec!r}"
        )
    return norm


def markdown():
    """`SUPPORT` as a table in Markdown, a row per norm."""
    lines = (
        [f"`{name}`", *("yes" if works else "no" for works in row.values())]
        for name, row in SUPPORT.items()
    )
    return table(["norm", *MODELS], lines)
