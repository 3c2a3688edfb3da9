"""Other norms for a model that exists."""

import fnmatch
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_norms.batch import BatchNormalization
from keras_norms.batch_instance import BatchInstanceNormalization
from keras_norms.group import GroupNormalization, number_of_groups
from keras_norms.instance import InstanceNormalization
from keras_norms.kernels import kind_of, with_bias
from keras_norms.model_layers import is_norm, own_method
from keras_norms.registry import Norm, get
from keras_norms.surgery.graph import Graph, Stays
from keras_norms.surgery.rebuild import WHOLE, rebuild, replaceable_layers
from keras_norms.surgery.report import Change, Report, title
from keras_norms.switchable import SwitchableNormalization

# By this much a logit exceeds the others: their statistics get 2e-9 each, less than float32 sees.
ALONE = 20.0
_PER_POSITION = (keras.layers.LayerNormalization, keras.layers.RMSNormalization)
# Weights of norms. Switches and gates mean something only among the same statistics.
_WEIGHTS = (
    *("gamma", "beta", "moving_mean", "moving_variance"),
    *("moving_stddev", "renorm_mean", "renorm_stddev"),
)
_CHOICES = ("mean_logits", "variance_logits", "gate")


def convert(
    model: keras.Model,
    to: Any,
    where: str | Callable[[str, keras.Layer], bool] | None = None,
    transfer: bool = True,
) -> tuple[keras.Model, Report]:
    """A copy of a model with other norms.

    What a norm and its successor both have is kept: name, axis, epsilon, momentum, `gamma`,
    `beta`, moving statistics, their initializers, regularizers and constraints, `trainable`, the
    dtype policy. All other weights are copied. The model itself does not change.

    Some norms contain others, and then the copy computes what the model computes: switchable
    normalization starts with its switches at the statistic of the norm before it, so far that they
    hardly learn, and batch-instance normalization with its gates. With others the model has to be
    trained on.

    Norms that a layer of Keras normalizes position by position, as `LayerNormalization` does, are
    followed by norms whose samples are single positions.

    A norm of weights, as "wn", takes the norms away, and wraps the layers before them. "none" takes
    them away only. With both, these layers get a bias where the norm added one. All of their
    weights are kept.

    Args:
        model: Functional, Sequential or subclassed, of Keras, of KerasHub or your own. Norms are
            found in nested models and in wrappers, and in all layers that hold their layers in
            attributes, lists or dicts.
        to: the norm to use, as for `keras_norms.get`; or a function of `(path, layer)` that
            returns such a norm, or None to leave the layer as it is. Arguments that are given, as
            in `"gn(epsilon=1e-5)"`, come before those of the layer.
        where: which norms to convert: None for all; a pattern for their paths, as in
            `"conv4_*"`; or a function of `(path, layer)` that returns a bool.
        transfer: whether the new norms begin with the weights of the old ones.

    Returns:
        `(copy, report)`: the report says for each norm what it became, or why it was left.

    Raises:
        ValueError: if some places cannot take the norm (all are listed), or if `where` is a
            pattern that no norm matches.

    Example:
        >>> import keras, keras_norms
        >>> model = keras.applications.ResNet50(weights=None)
        >>> copy, report = keras_norms.convert(model, to="gn")
        >>> print(report[0].path, report[0].after)
        conv1_bn GroupNormalization
        >>> len(report.changed), len(report.left)
        (53, 0)
    """
    layers = replaceable_layers(model)
    norms = {path: layer for path, layer in layers.items() if is_norm(layer)}
    graph = Graph([model, *layers.values()])
    chosen = _chooser(where, norms)
    wanted = to if _is_function_of_place(to) else lambda path, layer: to
    replacements: dict[int, keras.Layer | None] = {}
    report, refusals = Report(), []
    for path, layer in norms.items():
        spec = wanted(path, layer) if chosen(path, layer) else None
        if spec is None:
            report.append(Change(path, title(layer), None, "not selected"))
        elif isinstance(layer, WHOLE):
            report.append(Change(path, title(layer), None, "has a second input"))
        else:
            try:
                norm = get(spec)
                if not norm.normalizes_activations:
                    note = _take_away(layer, norm, graph, replacements)
                    report.append(Change(path, title(layer), "removed", note))
                    continue
                new = successor(layer, norm)
            except ValueError as error:
                refusals.append(f"{path}: {error}")
                continue
            if _are_equal(layer, new):
                report.append(Change(path, title(layer), None, "is this norm already"))
                continue
            note = _transfer(layer, new) if transfer else "its weights are new"
            replacements[id(layer)] = new
            report.append(Change(path, title(layer), title(new), note))
    if refusals:
        raise ValueError(
            f"{len(refusals)} of {len(norms)} norms cannot be converted. Leave them out with "
            "`where`, or give each its own norm: `to` may be a function of (path, layer).\n"
            + "\n".join(refusals)
        )
    return rebuild(model, replacements), report


def successor(layer: keras.Layer, norm: Norm) -> keras.Layer:
    """A new layer of this norm with what `layer` has: built, if that is built.

    Raises:
        ValueError: if the norm cannot stand in the place of `layer`.
    """
    shape = (layer.get_build_config() or {}).get("input_shape") if layer.built else None
    kept = {
        name: value
        for name, value in layer.get_config().items()
        if name not in norm.given and value is not None
    }
    axis, batch_axis = _axes(layer, shape)
    new = norm.normalize(**{**kept, "axis": axis, "batch_axis": batch_axis})
    if shape is not None:
        new.build(shape)
    return new


def _take_away(
    layer: keras.Layer, norm: Norm, graph: Graph, replacements: dict[int, keras.Layer | None]
) -> str:
    """Removes a norm, for one that is not of activations, and says what the layer before became.

    Raises:
        ValueError: if that layer has to be wrapped, and cannot.
    """
    replacements[id(layer)] = None
    try:
        graph.shape(layer)
        before = graph.producer(layer)
        kind_of(before)
        if id(before) not in replacements:
            biased = getattr(layer, "center", False)
            replacements[id(before)] = _wrapped(before, norm, biased)
    except (Stays, ValueError) as reason:
        if norm.weight_norm is not None:
            raise ValueError(
                f"{norm.spec!r} normalizes the weights of the layer before: {reason}"
            ) from reason
        return "train it"
    if norm.weight_norm is None:
        return f"{before.name} keeps its weights; train it"
    return f"{before.name} is wrapped; train it"


def _wrapped(layer: keras.Layer, norm: Norm, biased: bool) -> keras.Layer:
    """A layer with the weights of this one, and a bias if asked, under a norm of weights."""
    config = layer.get_config()
    if biased and {"use_bias", "bias_axes"} & set(config):
        config |= with_bias(layer)
    plain = type(layer).from_config(config)
    new = norm.wrap(plain)
    new.build(layer.get_build_config()["input_shape"])
    weights = {variable.name: variable for variable in layer.weights}
    # The gains follow: `WeightNormalization` sees that plain weights are put in.
    plain.set_weights([keras.ops.copy(weights.get(own.name, own)) for own in plain.weights])
    return new


def _axes(layer: keras.Layer, shape: tuple[int | None, ...] | None) -> tuple[int, Any]:
    """The channel axis of a norm, and the axes whose entries are samples."""
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    if len(axes) > 1:
        raise ValueError(f"it normalizes over several axes together: axis={tuple(axes)}")
    (axis,) = axes
    if isinstance(layer, _PER_POSITION):
        if shape is None:
            raise ValueError("it is not built, so that the rank of its input is not known")
        return axis, tuple(a for a in range(len(shape)) if a != axis % len(shape))
    return axis, getattr(layer, "batch_axis", 0)


def _are_equal(one: keras.Layer, other: keras.Layer) -> bool:
    return type(one) is type(other) and one.get_config() == other.get_config()


def _transfer(layer: keras.Layer, new: keras.Layer) -> str:
    """Gives the weights of a norm to its successor, and says what follows from that."""
    if not new.built:
        return "built when it is called"
    kind, same_kind = statistic(layer), statistic(layer) == statistic(new)
    kept = []
    before, after = _weights(layer), _weights(new)
    for name in (*_WEIGHTS, *_CHOICES * same_kind):
        if name in before and name in after and before[name].shape == after[name].shape:
            after[name].assign(keras.ops.copy(before[name]))
            kept.append(name)
    same = (same_kind or _choose(new, kind)) and new.epsilon == layer.epsilon
    same = same and not own_method(layer, "call", "__call__", "build")
    if same and set(kept) >= set(before):
        return "computes the same"
    return f"keeps {', '.join(kept)}; train it" if kept else "its weights are new; train it"


def _weights(layer: keras.Layer) -> dict[str, keras.Variable]:
    """The weights of a norm by the names that this package uses."""
    attributes = {name: name for name in (*_WEIGHTS, *_CHOICES)}
    if isinstance(layer, keras.layers.RMSNormalization):
        attributes["gamma"] = "scale"
    found = {name: getattr(layer, attribute, None) for name, attribute in attributes.items()}
    return {name: value for name, value in found.items() if isinstance(value, keras.Variable)}


def statistic(layer: keras.Layer) -> tuple[Any, ...]:
    """What a built norm normalizes by: a name, and all that changes it but epsilon."""
    shape = layer.get_build_config()["input_shape"]
    axis, batch_axis = _axes(layer, shape)
    samples = {a % len(shape) for a in np.atleast_1d(batch_axis)}
    if isinstance(layer, (BatchNormalization, keras.layers.BatchNormalization)):
        return ("batch",)
    if isinstance(layer, keras.layers.LayerNormalization):
        return ("layer", samples)
    if isinstance(layer, InstanceNormalization):
        return ("instance", samples)
    if isinstance(layer, (GroupNormalization, keras.layers.GroupNormalization)):
        groups, channels = number_of_groups(layer.groups, shape[axis]), shape[axis]
        kind = {channels: ("instance", samples), 1: ("layer", samples)}
        return kind.get(groups, ("group", samples, groups))
    if isinstance(layer, SwitchableNormalization):
        return ("switch", samples, layer.statistics, layer.groups, layer.unbiased)
    return (type(layer), samples)


def _choose(new: keras.Layer, kind: tuple[Any, ...]) -> bool:
    """Sets switches or gates to one statistic, and says whether the norm is that norm then."""
    name = kind[0]
    if isinstance(new, BatchInstanceNormalization) and name in ("batch", "instance"):
        new.gate.assign(np.full(new.gate.shape, name == "batch", new.gate.dtype))
        return True
    if isinstance(new, SwitchableNormalization) and name in new.importance()["mean"]:
        chosen = [ALONE * (each == name) for each in new.importance()["mean"]]
        new.mean_logits.assign(chosen)
        new.variance_logits.assign(chosen)
        return name == "batch" or not new.unbiased and kind[2:] in ((), (new.groups,))
    return False


def _chooser(
    where: str | Callable[[str, keras.Layer], bool] | None, norms: dict[str, keras.Layer]
) -> Callable[[str, keras.Layer], bool]:
    """`where` as a function of `(path, layer)`."""
    if where is None:
        return lambda path, layer: True
    if callable(where):
        return where
    pattern = where
    if not fnmatch.filter(norms, pattern):
        raise ValueError(
            f"`where` matches no norm. The norms are {', '.join(norms) or 'none'}. "
            f"Received: where={where!r}"
        )
    return lambda path, layer: fnmatch.fnmatchcase(path, pattern)


def _is_function_of_place(to: Any) -> bool:
    """Whether `to` is a function of `(path, layer)`, and not a norm."""
    if isinstance(to, (type, Norm)) or not callable(to):
        return False
    parameters = inspect.signature(to).parameters.values()
    return sum(each.default is each.empty for each in parameters) == 2
