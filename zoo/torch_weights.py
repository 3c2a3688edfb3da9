"""Weights of PyTorch's ResNets in those of `zoo.resnet`."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_norms.base import Normalization
from keras_norms.weight import WeightNormalization

# What the norms of a ResNet are called: in torchvision, in the official code of SN, and elsewhere.
_NORMS = ("bn", "sn", "gn", "norm")
_LOGITS = ("fc", "linear")
# {weight of a norm here: in PyTorch}
_OF_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "mean_logits": "mean_weight",
    "variance_logits": "var_weight",
}
# Direction and length of a weight norm: `weight_norm` of PyTorch, and its successor.
_OF_WEIGHT_NORM = {
    "kernel": ("weight_v", "parametrizations.weight.original1"),
    "gain": ("weight_g", "parametrizations.weight.original0"),
}


def load(model: keras.Model, weights: str | os.PathLike | Mapping[str, Any]) -> None:
    """Puts a state dict of PyTorch into a model of `zoo.resnet`.

    The layouts are those of torchvision's ResNets with batch or group norm, of the official
    ResNets with Switchable Norm (whose variances are unbiased: `norm="sn(unbiased=True)"`), and
    of both with `weight_norm` on convolutions and logits.

    Args:
        model: built by `zoo.resnet`, with the depth, norm and classes of the weights.
        weights: `{name: array}`, or an .npz file of such arrays, as
            `np.savez(path, **{k: v.numpy() for k, v in net.state_dict().items()})` writes it.

    Raises:
        ValueError: if weights are missing, are left over, or have other shapes.

    Example:
        >>> import numpy as np, zoo
        >>> from zoo import torch_weights
        >>> model = zoo.resnet(18, 10, norm="gn", width=0.125)
        >>> names = torch_weights.names(model)
        >>> names["stage2_block1_shortcut_conv/kernel"]
        ('layer2.0.downsample.0.weight',)
        >>> state = {all[0]: np.zeros(0) for all in names.values()}
        >>> torch_weights.load(model, state)
        Traceback (most recent call last):
        ValueError: conv1.weight has the shape (0,) and not (8, 3, 7, 7).
    """
    if not isinstance(weights, Mapping):
        with np.load(weights) as file:
            weights = dict(file)
    # As `DataParallel` writes them.
    state = {name.removeprefix("module."): value for name, value in weights.items()}
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    found, missing = [], []
    for variable, path, candidates in _variables(model):
        name = next((name for name in candidates if name in state), None)
        if name is None:
            missing.append(f"{candidates[0]} for {path}")
        else:
            found.append((variable, name))
    unused = sorted(set(state) - {name for _, name in found})
    if missing or unused:
        raise ValueError(
            "The weights are not those of this model. "
            f"Missing: {', '.join(missing) or 'none'}. Left over: {', '.join(unused) or 'none'}."
        )
    values = [_converted(variable, name, np.asarray(state[name])) for variable, name in found]
    for (variable, _), value in zip(found, values, strict=True):
        variable.assign(value)


def names(model: keras.Model) -> dict[str, tuple[str, ...]]:
    """`{weight of a model of zoo.resnet: the names that it may have in PyTorch}`."""
    return {path: candidates for _, path, candidates in _variables(model)}


def _variables(model: keras.Model) -> Iterator[tuple[keras.Variable, str, tuple[str, ...]]]:
    """`(variable, its path, its names in PyTorch)` of all weights of a model."""
    for layer in model.layers:
        if not layer.weights:
            continue
        wrapped = isinstance(layer, WeightNormalization)
        plain = layer.layer if wrapped else layer
        prefixes = _prefixes(plain.name)
        for variable in layer.weights:
            if isinstance(layer, Normalization):
                leaves: tuple[str, ...] = (_OF_NORM[variable.name],)
            elif wrapped and variable.name in _OF_WEIGHT_NORM:
                leaves = _OF_WEIGHT_NORM[variable.name]
            else:
                leaves = ({"kernel": "weight"}.get(variable.name, variable.name),)
            both = tuple(f"{prefix}.{leaf}" for prefix in prefixes for leaf in leaves)
            yield variable, f"{plain.name}/{variable.name}", both


def _prefixes(layer: str) -> tuple[str, ...]:
    """What a layer of `zoo.resnet` may be called in PyTorch."""
    if layer == "logits":
        return _LOGITS
    block, _, kind = layer.rpartition("_")
    if block == "stem":
        return ("conv1",) if kind == "conv" else tuple(f"{norm}1" for norm in _NORMS)
    match = re.fullmatch(r"stage(\d+)_block(\d+)(_shortcut)?", block)
    if match is None:
        raise ValueError(f"No model of zoo.resnet has a layer with weights called {layer!r}.")
    before = f"layer{match[1]}.{int(match[2]) - 1}"
    if match[3]:
        return (f"{before}.downsample.{0 if kind == 'conv' else 1}",)
    if kind.startswith("conv"):
        return (f"{before}.{kind}",)
    return tuple(f"{before}.{norm}{kind.removeprefix('norm')}" for norm in _NORMS)


def _converted(variable: keras.Variable, name: str, value: np.ndarray) -> np.ndarray:
    """A weight of PyTorch in the layout of a variable."""
    shape = tuple(variable.shape)
    if len(shape) == 1:  # PyTorch has further axes, of size 1
        order: tuple[int, ...] = (0,)
        value = value.reshape(-1)
    else:
        order = (2, 3, 1, 0) if len(shape) == 4 else (1, 0)
    expected = tuple(shape[order.index(axis)] for axis in range(len(order)))
    if value.shape != expected:
        raise ValueError(f"{name} has the shape {value.shape} and not {expected}.")
    return value.transpose(order)
