"""New layers and models like those that exist, with all that a config does not hold."""

import contextlib
import inspect
import tempfile
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.saving.serialization_lib import SafeModeScope

# What a config may name, and a file may find by that name to be something else.
_BY_REFERENCE = ("activation", "recurrent_activation", "function")


def new_like(layer: Any) -> Any:
    """A new layer, or operation of a graph, of the same class and config."""
    # A model in memory is not a file from elsewhere: functions without a name are welcome.
    with SafeModeScope(safe_mode=False):
        return type(layer).from_config(layer.get_config())


def take_state(layer: keras.Layer, copy: keras.Layer) -> None:
    """Gives a copy what neither variables nor the config of a layer hold.

    Those are functions, tables of words, and what preprocessing layers compute of their variables.
    """
    for name in _BY_REFERENCE:
        value = vars(layer).get(name)
        if callable(value) and not isinstance(value, keras.Layer):
            setattr(copy, name, value)
    if hasattr(layer, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            copy.load_assets(folder)
    if hasattr(copy, "finalize_state"):
        copy.finalize_state()


def class_for(model: keras.Model) -> type:
    """The class of a copy of a Functional or Sequential model.

    It is that of the model, unless its constructor takes other arguments.

    Raises:
        ValueError: if the copy would compute something else.
    """
    base, cls = keras.Sequential, type(model)
    keeps = cls.__init__ is base.__init__
    if not isinstance(model, keras.Sequential):
        base, keeps = Functional, functional_like_constructor(cls)
    if not keeps and cls.call is not base.call:
        raise ValueError(
            f"{cls.__name__} has a `call` of its own, and no copy can be made of it, since its "
            f"constructor does not take what {base.__name__} takes. Received: {model}"
        )
    return cls if keeps else base


def compile_like(model: keras.Model, copy: keras.Model) -> None:
    """Compiles a copy as a model is, with a new optimizer and new metrics.

    Losses have no state, and are shared: not all have a config that says what they are made with.
    """
    if not getattr(model, "compiled", False):
        return
    if type(copy).compile is not keras.Model.compile:
        copy.compile_from_config(model.get_compile_config())  # which warns that it does nothing
        return

    def renewed(value: Any) -> Any:
        stateful = isinstance(value, (keras.optimizers.Optimizer, keras.metrics.Metric))
        return new_like(value) if stateful else value

    config = {
        name: keras.tree.map_structure(renewed, value)
        for name, value in dict(model._compile_config.config).items()
    }
    copy.compile(**config)
    if copy.built and getattr(copy, "optimizer", None) is not None:
        copy.optimizer.build(copy.trainable_variables)


@contextlib.contextmanager
def not_compiled(model: keras.Model) -> Iterator[None]:
    """Lets a model seem not compiled: Keras would compile a copy by a config that may not do."""
    compiled = model.compiled
    model.compiled = False
    try:
        yield
    finally:
        model.compiled = compiled


def known_objects(model: keras.Layer) -> contextlib.AbstractContextManager[Any]:
    """A scope in which Keras knows the classes and functions in the configs of a model."""
    layers = list(model._flatten_layers())
    held = [*layers, *(value for layer in layers for value in vars(layer).values())]
    if getattr(model, "compiled", False):
        held += keras.tree.flatten(dict(model._compile_config.config))
        held.append(getattr(getattr(model, "optimizer", None), "_learning_rate", None))
    kinds = {each if inspect.isroutine(each) else type(each) for each in held}
    theirs = {kind for kind in kinds if not _is_known(kind)}
    return keras.saving.custom_object_scope({kind.__name__: kind for kind in theirs})


def _is_known(kind: Any) -> bool:
    """Whether Keras finds a class or function without being told."""
    return (getattr(kind, "__module__", None) or "keras.").startswith(("keras.", "builtins"))
