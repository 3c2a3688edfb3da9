"""Walks the layers of a model."""

import keras


def named_layers(model):
    """Every layer below `model`, nested ones included, as `{path: layer}` in model order.

    A path joins layer names from the model down, and is unique: `layer.path` is not, since a
    model built by the functional API does not appear in the paths of its layers. A layer that
    is used twice appears once.
    """
    found, seen = {}, set()

    def visit(parent, prefix):
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


def all_variables(layer):
    """All variables of `layer` and below; Keras leaves the states of stateful RNNs out."""
    states = [getattr(sublayer, "states", None) for sublayer in layer._flatten_layers()]
    found = [*layer.variables, *keras.tree.flatten(states)]
    return list({id(v): v for v in found if isinstance(v, keras.Variable)}.values())
