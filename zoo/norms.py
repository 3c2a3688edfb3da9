"""Which norm works in which model: one table for the builders, the tests and the docs."""

import inspect
import sys
import types
import typing
from collections.abc import Callable

import keras_norms
from keras_norms.registry import Norm


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


def norm_for(model: str, spec: typing.Any) -> Norm:
    """The norm that `spec` stands for, if it works in that kind of model.

    Args:
        model: a key of `MODELS`.
        spec: what `keras_norms.get` understands.

    Raises:
        ValueError: for an unknown norm, or one that pools positions where `model` has none; the
            message names those that work.

    >>> norm_for("mlp", "gn(groups=16)").spec
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


class _Callable(types.ModuleType):
    """A module that is called like the function of its own name."""

    def __call__(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


_F = typing.TypeVar("_F", bound=Callable)


def builder(function: _F) -> _F:
    """Makes the module of a builder callable, so that neither hides the other in `zoo`."""
    module = sys.modules[function.__module__]
    module.__class__ = _Callable
    module.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function
