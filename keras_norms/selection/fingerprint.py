"""Tells models apart, so that a comparison does not go on with another one."""

import hashlib
import json
from typing import Any

import keras

from keras_norms.model_layers import all_variables, named_layers


def fingerprint(model: keras.Model, source: keras.Model | None, keep_weights: bool) -> str:
    """A text that differs for models that train otherwise.

    Args:
        model: with the first norm.
        source: the user's model, from which runs get weights; None if a function makes models.
        keep_weights: whether they get all of its weights, and not those of frozen layers alone.
    """
    digest = hashlib.sha256()
    layers = [_settings_of(layer) for layer in named_layers(model).values()]
    shapes = [tuple(variable.shape) for variable in model.variables]
    compiled = _nameless(model.get_compile_config())
    content = [layers, shapes, compiled, keras.config.backend()]
    digest.update(json.dumps(content, default=str).encode())
    if source is not None:
        for variable in source.variables if keep_weights else _frozen(source):
            digest.update(keras.ops.convert_to_numpy(variable).tobytes())
    return digest.hexdigest()[:16]


def _settings_of(layer: keras.Layer) -> list[Any]:
    """The class and the config of a layer; without the config where it has none."""
    try:
        return [type(layer).__name__, _nameless(layer.get_config())]
    except Exception:  # whatever a class of the user may raise
        return [type(layer).__name__]


def _frozen(model: keras.Model) -> list[keras.Variable]:
    """The weights of frozen layers, which all runs have."""
    frozen = [layer for layer in named_layers(model).values() if not layer.trainable]
    return [variable for layer in frozen for variable in all_variables(layer)]


def _nameless(config: Any) -> Any:
    """A config without names, which Keras counts up with each object of a class."""
    if isinstance(config, dict):
        return {key: _nameless(value) for key, value in config.items() if key != "name"}
    if isinstance(config, (list, tuple)):
        return [_nameless(each) for each in config]
    return config
