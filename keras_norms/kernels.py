"""Which kernels a layer has, and which of their axes are output units."""

import math
import typing
from collections.abc import Mapping

import keras
from keras import layers, ops

from keras_norms.moments import Tensor


class Kind(typing.NamedTuple):
    """Layers that have the same kernels.

    Attributes:
        names: the names of the layers in `keras.layers`, with spaces between them.
        kernels: `{attribute of the kernel: (name of its gain, its axes of output units)}`.
        affine: whether the layers compute `activation(w.x + bias)`.
        single: whether `w` is one kernel.
    """

    names: str
    kernels: Mapping[str, tuple[str, tuple[int, ...]]]
    affine: bool = True
    single: bool = True


_SEPARABLE = {"pointwise_kernel": ("gain", (-1,)), "depthwise_kernel": ("depthwise_gain", (-2, -1))}
_RNN = {"kernel": ("gain", (-1,)), "recurrent_kernel": ("recurrent_gain", (-1,))}
_EQUATION = ()  # stands for axes that the equation of the layer names
KINDS = (
    Kind("Dense Conv1D Conv2D Conv3D", {"kernel": ("gain", (-1,))}),
    Kind("Conv1DTranspose Conv2DTranspose Conv3DTranspose", {"kernel": ("gain", (-2,))}),
    Kind("DepthwiseConv1D DepthwiseConv2D", {"kernel": ("gain", (-2, -1))}),
    Kind("SeparableConv1D SeparableConv2D", _SEPARABLE, single=False),
    Kind("EinsumDense", {"kernel": ("gain", _EQUATION)}),
    Kind("Embedding", {"embeddings": ("gain", (0,))}, affine=False),
    Kind("SimpleRNN GRU LSTM", _RNN, affine=False),
)


def layers_with_kernels(layer: keras.Layer) -> dict[str, keras.Layer]:
    """The layers that hold the kernels of `layer`, as `{prefix of their gains: layer}`."""
    if isinstance(layer, layers.Bidirectional):
        return {"forward_": layer.forward_layer, "backward_": layer.backward_layer}
    return {"": layer}


def kind_of(layer: keras.Layer) -> Kind:
    """The kind of a layer.

    Raises:
        ValueError: if no kind names the layer.
    """
    for kind in KINDS:
        if isinstance(layer, tuple(getattr(layers, name) for name in kind.names.split())):
            return kind
    known = " ".join(kind.names for kind in KINDS).replace(" ", ", ")
    raise ValueError(
        f"A norm of weights needs a layer whose kernel it knows: {known}, or Bidirectional "
        f"around an RNN. Received: layer={layer}"
    )


def einsum_units(layer: layers.EinsumDense) -> tuple[str, tuple[int, ...]]:
    """Labels of the output units of an EinsumDense layer, and their axes in the kernel.

    Raises:
        ValueError: if all or none of the kernel's axes are output units.
    """
    operands, output = layer.equation.split("->")
    kernel = operands.split(",")[1]
    units = "".join(label for label in kernel if label in output)
    if not 0 < len(units) < len(kernel):
        raise ValueError(
            "A norm of weights needs an EinsumDense kernel with axes that are output units "
            f"and axes that are summed over. Received: equation={layer.equation!r}"
        )
    return units, tuple(kernel.index(label) for label in units)


def why_not_affine(layer: keras.Layer) -> str | None:
    """Why `layer` does not compute `w.x + bias` per output unit; None if it does."""
    if not all(kind_of(part).affine for part in layers_with_kernels(layer).values()):
        return f"{type(layer).__name__} does not compute activation(w.x + bias)"
    if isinstance(layer, layers.EinsumDense):
        units, _ = einsum_units(layer)
        if not layer.equation.endswith(units):
            return f"the units {units!r} are not the last axes of the output in {layer.equation!r}"
    return None


def channel_axis(layer: keras.Layer) -> int:
    """The axis of the layer's output that holds the output units."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def unit_sizes(layer: keras.Layer) -> tuple[int, ...]:
    """The sizes of the output's axes of units: several for EinsumDense, else one, as -1."""
    if isinstance(layer, layers.EinsumDense):
        return tuple(layer.kernel.shape[axis] for axis in einsum_units(layer)[1])
    return (-1,)


def join_units(layer: keras.Layer, x: Tensor) -> Tensor:
    """`x` with its axes of units joined into one. Only EinsumDense may have several."""
    sizes = unit_sizes(layer)
    if len(sizes) == 1:
        return x
    return ops.reshape(x, (*ops.shape(x)[: -len(sizes)], math.prod(sizes)))


def with_bias(layer: keras.Layer) -> dict:
    """The part of the config of `layer` that gives every unit a bias."""
    if not isinstance(layer, layers.EinsumDense):
        return {"use_bias": True}
    covered = set(einsum_units(layer)[0]) | set(layer.bias_axes or "")
    output = layer.equation.split("->")[1]
    return {"bias_axes": "".join(label for label in output if label in covered)}
