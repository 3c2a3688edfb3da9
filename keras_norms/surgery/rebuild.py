"""Copies a model with other layers in the place of some of its own."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras.src.models.functional import Functional  # Keras has no public name for it

from keras_norms.conditional import ConditionedInstanceNormalization
from keras_norms.model_layers import all_variables, is_norm, named_layers
from keras_norms.recurrent import NormalizedGates
from keras_norms.surgery.new_like import (
    class_for,
    compile_like,
    known_objects,
    new_like,
    not_compiled,
    take_state,
)
from keras_norms.wrapper import KernelNormalization

# {id of a layer: what stands in its place}. None lets its input through.
Replacements = Mapping[int, keras.Layer | None]
# Layers that have others inside by arguments of their own, or take more than one input.
WHOLE = (KernelNormalization, NormalizedGates, ConditionedInstanceNormalization)


def replaceable_layers(model: keras.Layer) -> dict[str, keras.Layer]:
    """The layers of a model that can be replaced, as `{path: layer}`."""
    found: dict[str, keras.Layer] = {}
    whole: tuple[str, ...] = ()
    for path, layer in named_layers(model).items():
        if not path.startswith(whole or "/"):
            found[path] = layer
        if isinstance(layer, WHOLE):
            whole += (f"{path}/",)
    return found


def rebuild(
    model: keras.Model,
    replacements: Replacements,
    keep: Callable[[keras.Variable], bool] = lambda variable: True,
) -> keras.Model:
    """A copy of a model, in which other layers stand in the place of some.

    The weights of all other layers are copied. The model itself does not change.

    Args:
        model: Functional, Sequential or subclassed. What is subclassed must have a config from
            which it can be made again, and hold its layers in attributes, lists or dicts.
        replacements: `{id of a layer: what stands in its place}`.
        keep: function of a variable of the model: whether the copy gets its value. It begins anew
            otherwise.

    Returns:
        The copy. It is compiled as the model is, with a new optimizer. A Functional or Sequential
        model of a class whose constructor takes other arguments becomes a plain one.

    Raises:
        ValueError: if a layer that is replaced is held in another way, or if no copy would compute
            what the model does.
    """
    copies = _Copies(replacements, keep)
    with known_objects(model):
        copy = copies.of(model)
        compile_like(model, copy)
    # From the model down, since this property of a layer sets those below it.
    for layer in model._flatten_layers():
        twin = copies.known(layer)
        if twin is not None and twin.trainable != layer.trainable:
            twin.trainable = layer.trainable
    return copy


class _Copies:
    """Copies of layers: one for each, however often it is asked for."""

    def __init__(self, replacements: Replacements, keep: Callable[[keras.Variable], bool]) -> None:
        self._of: dict[int, Any] = dict(replacements)
        self._keep = keep

    def known(self, layer: keras.Layer) -> keras.Layer | None:
        """The copy of a layer, if there is one."""
        return self._of.get(id(layer))

    def of(self, layer: Any) -> Any:
        """The copy of a layer, or of an operation in the graph of a model."""
        if id(layer) not in self._of:
            self._of[id(layer)] = self._new(layer)
        return self._of[id(layer)]

    def _new(self, layer: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            return self._sequential(layer)
        if isinstance(layer, Functional):
            # Keras would name the inputs anew.
            inputs = keras.tree.map_structure(_same_input, layer.input)
            class_for(layer)  # Keras chooses the same, but does not refuse
            with not_compiled(layer):
                return keras.models.clone_model(
                    layer, input_tensors=inputs, clone_function=self.of, call_function=_call
                )
        copy = new_like(layer)
        if not isinstance(layer, keras.Layer):
            return copy  # an operation, which has no weights
        _build_as(layer, copy)
        self._fill(layer, copy)
        return copy

    def _sequential(self, model: keras.Sequential) -> keras.Sequential:
        layers = [self.of(layer) for layer in model.layers]
        if model._functional is not None:  # else it is not built, or takes a list
            layers.insert(0, _same_input(model.inputs[0]))
        return class_for(model)([each for each in layers if each is not None], name=model.name)

    def _fill(self, layer: keras.Layer, copy: keras.Layer) -> None:
        """Gives the weights of a layer to its copy, and the layers that belong into it."""
        if not any(id(below) in self._of for below in layer._flatten_layers(include_self=False)):
            self._assign(all_variables(layer), all_variables(copy))
            for own, made in zip(layer._flatten_layers(), copy._flatten_layers(), strict=True):
                take_state(own, made)
                self._of[id(own)] = made
            return
        self._assign(own_variables(layer), own_variables(copy))
        take_state(layer, copy)
        for own, made in zip(children(layer), children(copy), strict=True):
            if id(own) in self._of:
                _put(copy, made, self._of[id(own)])
            elif isinstance(own, (Functional, keras.Sequential)):
                _put(copy, made, self.of(own))
            else:
                self._of[id(own)] = made
                _build_as(own, made)
                self._fill(own, made)
        if not _is_made_by_its_config(copy):
            _refuse_config(copy)

    def _assign(self, variables: list[keras.Variable], copies: list[keras.Variable]) -> None:
        for own, made in zip(variables, copies, strict=True):
            if self._keep(own):
                made.assign(keras.ops.copy(own))  # JAX frees an array that a training step replaces


def _same_input(tensor: Any) -> Any:
    """A new input of a model with the name, shape and dtype of this one."""
    layer = tensor._keras_history.operation
    return type(layer).from_config(layer.get_config()).output


def _call(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a layer of a graph with those of the recorded arguments that it takes."""
    if layer is None:
        return args[0] if args else next(iter(kwargs.values()))
    if isinstance(layer, keras.Layer) and not isinstance(layer, Functional):
        accepted = inspect.signature(layer.call).parameters.values()
        if not any(each.kind is each.VAR_KEYWORD for each in accepted):
            names = {each.name for each in accepted}
            kwargs = {name: value for name, value in kwargs.items() if name in names}
    return layer(*args, **kwargs)


def _build_as(layer: keras.Layer, copy: keras.Layer) -> None:
    """Builds a copy, if the layer is built."""
    if not layer.built or copy.built:
        return
    if type(copy).build is keras.Layer.build:
        # Keras builds the layers inside when this one calls them, which a copy has not done.
        for own, made in zip(children(layer), children(copy), strict=True):
            _build_as(own, made)
    copy.build_from_config(layer.get_build_config())


def children(layer: keras.Layer) -> list[keras.Layer]:
    """The layers that a layer holds, without those below them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The variables of a layer without those of the layers below it."""
    below = {id(v) for child in children(layer) for v in all_variables(child)}
    return [v for v in all_variables(layer) if id(v) not in below]


def _put(parent: keras.Layer, old: keras.Layer, new: keras.Layer | None) -> None:
    """Puts a layer in the place of another, in all attributes of a layer that hold it."""
    new = keras.layers.Identity(name=old.name) if new is None else new
    parent._tracker.replace_tracked_value("layers", old, new)
    changed = False
    for name, value in list(vars(parent).items()):
        if name in ("_layers", "_tracker"):
            continue
        exchanged = _exchanged(value, old, new)
        if exchanged is not value:
            setattr(parent, name, exchanged)
            changed = True
    if not changed:
        raise ValueError(
            f"{type(parent).__name__} holds the layer {old.name!r} neither in an attribute nor in "
            f"a list, tuple or dict there, so that it cannot be replaced. Received: {parent}"
        )


def _exchanged(value: Any, old: keras.Layer, new: keras.Layer) -> Any:
    """`value` with one layer for another; `value` itself if it does not hold that layer."""
    if value is old:
        return new
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        items = [_exchanged(item, old, new) for item in value]
        if any(one is not other for one, other in zip(items, value, strict=True)):
            return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, dict):
        entries = {key: _exchanged(item, old, new) for key, item in value.items()}
        if any(entries[key] is not item for key, item in value.items()):
            return entries
    return value


def _is_made_by_its_config(layer: keras.Layer) -> bool:
    """Whether the config of a layer makes one with the same layers inside."""

    def content(of: keras.Layer) -> list[Any]:
        return [
            (type(each), {**each.get_config(), "name": None} if is_norm(each) else None)
            for each in of._flatten_layers(include_self=False)
        ]

    try:
        config = layer.get_config()
    except _ConfigIsWrong:  # a layer inside says so, whenever this one is saved
        return True
    again = type(layer).from_config(config)
    _build_as(layer, again)
    return content(again) == content(layer)


class _ConfigIsWrong(ValueError):
    """A config would make another layer."""


def _refuse_config(layer: keras.Layer) -> None:
    """Makes a layer say that its config would make another one."""

    def refuse() -> None:
        raise _ConfigIsWrong(
            f"A file of this model would be wrong: {type(layer).__name__} makes its norms itself, "
            "and they have been replaced. Save its weights with `save_weights`. To load them, "
            "convert a new model in the same way, and call its `load_weights`."
        )

    layer.get_config = refuse
