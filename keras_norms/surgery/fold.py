"""Norms that inference does not need: their affine maps go into the layers beside them."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from keras_norms.batch_instance import BatchInstanceNormalization
from keras_norms.kernels import channel_axis, einsum_units, kind_of, with_bias
from keras_norms.mean_only import MeanOnlyBatchNormalization
from keras_norms.model_layers import is_norm, own_method
from keras_norms.moving import MovingNormalization
from keras_norms.surgery.graph import Graph, Stays
from keras_norms.surgery.rebuild import rebuild, replaceable_layers
from keras_norms.surgery.report import Change, Report, title
from keras_norms.surgery.strip import strip
from keras_norms.switchable import SwitchableNormalization

# A share of other statistics that float32 does not see.
_NOTHING = 1e-6


def fold(model: keras.Model) -> tuple[keras.Model, Report]:
    """A copy of a model for inference, without the norms that inference can do without.

        gamma * (w.x + b - mean) / std + beta = (a w).x + (a (b - mean) + beta),  a = gamma / std

    Where a norm takes moving statistics, it is an affine map of each channel at inference. It goes
    into the kernel and bias of the layer before it. If that cannot be, it goes into those of the
    layer after it, unless that layer pads its input with zeros. Such norms are batch
    normalization, mean-only batch normalization, and switchable and batch-instance normalization
    whose switches or gates have chosen the batch. Normalized kernels become plain ones, as in
    `keras_norms.strip`. Other norms stay. The model itself does not change.

    Args:
        model: a built Functional or Sequential model; models nested in it are folded too.

    Returns:
        `(copy, report)`: the report says for each norm where it went, or why it stayed.

    Raises:
        ValueError: as `keras_norms.strip`.

    Example:
        >>> import keras, keras_norms
        >>> conv = keras.layers.Conv2D(4, 3, name="conv")
        >>> norm = keras_norms.BatchNormalization(name="norm")
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), conv, norm])
        >>> copy, report = keras_norms.fold(model)
        >>> print(report)
        | layer | before | after | note |
        | --- | --- | --- | --- |
        | norm | BatchNormalization | removed | is in the layer conv |
    """
    model, report = strip(model)
    everything = replaceable_layers(model)
    graph = Graph([model, *everything.values()])
    folded: dict[int, keras.Layer | None] = {}
    for path, layer in everything.items():
        if not is_norm(layer):
            continue
        try:
            host = _fold(layer, graph, folded)
        except Stays as reason:
            report.append(Change(path, title(layer), None, str(reason)))
        else:
            report.append(Change(path, title(layer), "removed", f"is in the layer {host.name}"))
    return rebuild(model, folded), report


class _Affine(NamedTuple):
    """`scale * x + shift` for each entry of an axis."""

    scale: np.ndarray
    shift: np.ndarray
    axis: int


def _fold(norm: keras.Layer, graph: Graph, folded: dict[int, keras.Layer | None]) -> keras.Layer:
    """Folds a norm into a neighbour, which is returned, and notes both in `folded`."""
    shape, affine = graph.shape(norm), _affine_of(norm)  # what is in a graph is built
    affine = affine._replace(axis=affine.axis % len(shape))
    reasons = []
    for find, put in ((graph.before, _into_outputs), (graph.after, _into_inputs)):
        try:
            neighbour = find(norm)
            if id(neighbour) in folded:
                raise Stays(f"{neighbour.name} has taken another norm")
            kernel, bias = put(neighbour, affine, len(shape))
        except Stays as reason:
            reasons.append(str(reason))
            continue
        folded[id(neighbour)] = _with_weights(neighbour, kernel, bias)
        folded[id(norm)] = None
        return neighbour
    raise Stays("; ".join(reasons))


def _affine_of(norm: keras.Layer) -> _Affine:
    """The map that a norm is at inference."""
    if not isinstance(norm, (MovingNormalization, layers.BatchNormalization)):
        raise Stays("normalizes each sample by itself")
    own = own_method(norm, "call", "__call__", "build")
    if own:
        raise Stays(f"computes what its own `{own}` says")
    if getattr(norm, "max_steps", None) is not None:
        raise Stays("has statistics for each time step")
    if isinstance(norm, (SwitchableNormalization, BatchInstanceNormalization)):
        shares = norm.importance().values()
        others = max(1 - share.get("batch", 0.0) for share in shares)
        if others > _NOTHING:
            raise Stays(f"takes {others:.1%} of its statistics from other than the batch")
    mean = _array(norm.moving_mean)
    scale = np.ones_like(mean)
    if not isinstance(norm, MeanOnlyBatchNormalization):
        scale = 1 / np.sqrt(_array(norm.moving_variance) + norm.epsilon)
        scale = scale if norm.gamma is None else scale * _array(norm.gamma)
    shift = -mean * scale
    return _Affine(scale, shift if norm.beta is None else shift + _array(norm.beta), norm.axis)


def _array(value: Any) -> np.ndarray:
    """A weight with the precision in which products of weights are not rounded."""
    return np.asarray(keras.ops.convert_to_numpy(value), "float64")


def _kernel_of(layer: Any) -> tuple[str, np.ndarray]:
    """The name of the last kernel of a layer that computes `w.x + b`, and its value."""
    try:
        kind = kind_of(layer)
    except ValueError:
        raise Stays(f"{layer.name} is no layer with a kernel") from None
    own = own_method(layer, "call", "__call__", "build", "convolution_op", "kernel")
    if not kind.affine or own:
        reason = f", but what its own `{own}` says" if own else ""
        raise Stays(f"{layer.name} does not compute w.x + b{reason}")
    name = next(iter(kind.kernels))
    variable = getattr(layer, name)
    if getattr(layer, "lora_enabled", False) or "float" not in str(variable.dtype):
        raise Stays(f"{layer.name} is quantized or has LoRA enabled")
    return name, _array(variable)


def _bias_of(layer: Any) -> np.ndarray:
    return np.zeros(()) if layer.bias is None else _array(layer.bias)


def _into_outputs(layer: Any, affine: _Affine, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a layer whose output is then mapped."""
    name, kernel = _kernel_of(layer)
    scale, shift, axis = affine
    if layer.activation is not keras.activations.linear:
        raise Stays(f"{layer.name} has an activation")
    if isinstance(layer, layers.EinsumDense):
        axes = _einsum_axes(layer, axis, rank)
        # A bias has the last axes of the output.
        per_bias = (-1,) + (1,) * (rank - 1 - axis)
        bias = _bias_of(layer) * scale.reshape(per_bias) + shift.reshape(per_bias)
        return _times(kernel, scale, axes), bias
    if channel_axis(layer) % rank != axis:
        raise Stays(f"{layer.name} has its channels on another axis")
    axes = kind_of(layer).kernels[name][1]
    return _times(kernel, scale, axes), _bias_of(layer) * scale + shift


def _einsum_axes(layer: layers.EinsumDense, axis: int, rank: int) -> tuple[int, ...]:
    """The axis of an EinsumDense kernel that makes an axis of the output."""
    output = layer.equation.split("->")[1]
    try:
        units, axes = einsum_units(layer)
    except ValueError:
        raise Stays(f"{layer.name} has no units that sum over others") from None
    if len(output) != rank or output[axis] not in units:
        raise Stays(f"{layer.name} has no weights for each channel")
    return (axes[units.index(output[axis])],)


def _into_inputs(layer: Any, affine: _Affine, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a layer whose input was mapped before."""
    _, kernel = _kernel_of(layer)
    depthwise = isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D))
    plain = isinstance(layer, (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D))
    if not (depthwise or plain):
        raise Stays(f"{layer.name} takes no norm before it")
    if channel_axis(layer) % rank != affine.axis:
        raise Stays(f"{layer.name} has its channels on another axis")
    if getattr(layer, "groups", 1) > 1:
        raise Stays(f"{layer.name} has groups of channels")
    pads = getattr(layer, "padding", "valid") != "valid" and max(layer.kernel_size) > 1
    if pads and np.any(affine.shift):
        raise Stays(f"{layer.name} pads its input with zeros, which the norm would have shifted")
    shifted = _times(kernel, affine.shift, (-2,))
    summed = tuple(range(kernel.ndim - (2 if depthwise else 1)))
    return _times(kernel, affine.scale, (-2,)), _bias_of(layer) + shifted.sum(summed).reshape(-1)


def _times(kernel: np.ndarray, scale: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """A kernel times one number for each entry of these axes, in their order."""
    shape = [1] * kernel.ndim
    for axis in axes:
        shape[axis] = kernel.shape[axis]
    return kernel * scale.reshape(shape)


def _with_weights(layer: Any, kernel: np.ndarray, bias: np.ndarray) -> keras.Layer:
    """A layer like this one, with other values for its last kernel and its bias."""
    new = type(layer).from_config({**layer.get_config(), **with_bias(layer)})
    new.build_from_config(layer.get_build_config())
    for name in kind_of(layer).kernels:
        getattr(new, name).assign(keras.ops.copy(getattr(layer, name)))
    getattr(new, _kernel_of(layer)[0]).assign(kernel)
    new.bias.assign(np.broadcast_to(bias, new.bias.shape))
    return new
