"""Models with a `norm=` argument: `zoo.resnet(20, 10, norm="sn")`.

Every builder has a module of its own name, which can be called like the builder in it:
`zoo.resnet(20, 10)` is `zoo.resnet.resnet(20, 10)`.
"""

import importlib
import inspect
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # a type checker cannot know that these modules can be called
    from zoo.convnet import convnet
    from zoo.lstm import lstm
    from zoo.mlp import mlp
    from zoo.resnet import resnet
    from zoo.transformer import transformer

__all__ = ["convnet", "lstm", "mlp", "resnet", "transformer"]


def __getattr__(name: str) -> Any:
    """Imports a builder when it is first used, so that importing `zoo` does not load Keras."""
    if name in __all__:
        return importlib.import_module(f"zoo.{name}")
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


class _CallableModule(types.ModuleType):
    """A module that is called like the function of its own name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


_Builder = TypeVar("_Builder", bound=Callable)


def builder(function: _Builder) -> _Builder:
    """Makes the module of a builder callable, since both have one name in `zoo`."""
    module = sys.modules[function.__module__]
    module.__class__ = _CallableModule
    module.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function
