"""Names for norms, so that a model takes any of them as one `norm=` argument."""

import ast
import copy
import dataclasses
import difflib
import inspect
import re
from typing import Any, NamedTuple

import keras

from keras_norms.batch import BatchNormalization
from keras_norms.batch_instance import BatchInstanceNormalization
from keras_norms.group import GroupNormalization
from keras_norms.instance import InstanceNormalization
from keras_norms.mean_only import MeanOnlyBatchNormalization
from keras_norms.model_layers import has_batch_statistics
from keras_norms.switchable import SwitchableNormalization
from keras_norms.weight import WeightNormalization


class _Named(NamedTuple):
    """What the name of a norm stands for.

    Attributes:
        cls: the class of the layer.
        defaults: arguments that a spec may replace.
        fixed: arguments that a spec must not give.
    """

    cls: type
    defaults: dict[str, Any]
    fixed: dict[str, Any] = {}


# Norms of Keras that see each token by itself.
_OF_TOKENS = (keras.layers.LayerNormalization, keras.layers.RMSNormalization)

# All norms have the same momentum and epsilon, so that a comparison compares the norms alone.
_MOMENTUM, _EPSILON = {"momentum": 0.9}, {"epsilon": 1e-5}
_WITHOUT_MEAN = {"mean_only_batch_norm": False, "synchronized": False, "ghost_batch_size": None}
_NORMS = {
    "bn": _Named(BatchNormalization, _MOMENTUM | _EPSILON),
    "ln": _Named(GroupNormalization, _EPSILON, {"groups": 1}),
    "rms": _Named(keras.layers.RMSNormalization, _EPSILON),
    "in": _Named(InstanceNormalization, _EPSILON),
    "gn": _Named(GroupNormalization, {"groups": "auto"} | _EPSILON),
    "bin": _Named(BatchInstanceNormalization, _MOMENTUM | _EPSILON),
    "sn": _Named(SwitchableNormalization, {"groups": "auto"} | _MOMENTUM | _EPSILON),
    "mobn": _Named(MeanOnlyBatchNormalization, _MOMENTUM),
    "wn": _Named(WeightNormalization, {}, _WITHOUT_MEAN | _MOMENTUM),
    "wn_mobn": _Named(WeightNormalization, _MOMENTUM, {"mean_only_batch_norm": True}),
}
NAMES = ("none", *_NORMS)
# What people may write instead of a name, without "_", "-" and spaces. It serves suggestions only.
_SYNONYMS = {name.replace("_", ""): name for name in NAMES} | {
    "batchnorm": "bn",
    "syncbn": "bn(synchronized=True)",
    "syncbatchnorm": "bn(synchronized=True)",
    "batchrenorm": "bn(renorm=True)",
    "layernorm": "ln",
    "rmsnorm": "rms",
    "instancenorm": "in",
    "groupnorm": "gn",
    "batchinstancenorm": "bin",
    "switchablenorm": "sn",
    "meanonlybatchnorm": "mobn",
    "weightnorm": "wn",
    "identity": "none",
}
# Arguments that the model gives to its norms, so that a spec must not.
_RESERVED = ("name", "batch_axis", "layer")


@dataclasses.dataclass(frozen=True)
class Norm:
    """A kind of norm, from which a model makes its layers; `keras_norms.get` returns one.

    Attributes:
        spec: the spec for which `keras_norms.get` returns an equal object.
        removes_bias: whether a bias in the layer before the norm has no effect, since the norm
            takes away the mean of each channel by itself. The means of LN, GN and SN run over
            several channels, and keep how far a bias differs from that of other channels.
        use_bias: whether a convolution before the norm has a bias in the papers' nets. It has none
            if the norm removes it, or adds `beta`.
        weight_norm: the arguments of `WeightNormalization` if this norm normalizes weights; else
            None.
        has_batch_statistics: whether training uses statistics of the batch.
        needs_spatial_axis: whether inputs need axes beside samples and channels.
        given: names of the arguments that the spec decides: all, if it is a layer's config.
    """

    spec: Any = dataclasses.field(hash=False)
    use_bias: bool = True
    removes_bias: bool = dataclasses.field(default=False, compare=False, repr=False)
    weight_norm: dict[str, Any] | None = dataclasses.field(default=None, compare=False, repr=False)
    has_batch_statistics: bool = dataclasses.field(default=False, compare=False, repr=False)
    needs_spatial_axis: bool = dataclasses.field(default=False, compare=False, repr=False)
    given: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)
    # The class and the config of the layer that normalizes activations, or None.
    _template: tuple[Any, dict[str, Any]] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    @property
    def normalizes_activations(self) -> bool:
        """Whether `normalize` returns a layer that normalizes."""
        return self._template is not None

    @property
    def is_identity(self) -> bool:
        """Whether this norm normalizes neither activations nor weights."""
        return self._template is None and self.weight_norm is None

    def normalize(
        self,
        name: str | None = None,
        batch_axis: int | tuple[int, ...] = 0,
        zero_init: bool = False,
        **arguments: Any,
    ) -> keras.Layer:
        """A new layer that normalizes an activation; `Identity` if this norm does not do that.

        Args:
            name: str or None, the layer's name.
            batch_axis: int or tuple of ints, the axes whose entries are samples.
            zero_init: whether `gamma` starts at 0, if the layer has one.
            **arguments: further arguments of the layer. Those that it does not have are left
                out, and a `dtype` in the spec comes before one given here.

        Raises:
            ValueError: if `batch_axis` is not 0 and the layer has no such argument.
        """
        if self._template is None:
            return keras.layers.Identity(name=name)
        cls, config = self._template
        config = {**config, "name": name} if name else dict(config)
        if "dtype" in arguments:
            config.setdefault("dtype", arguments.pop("dtype"))
        config.update({key: value for key, value in arguments.items() if key in config})
        if "batch_axis" in config:
            config["batch_axis"] = batch_axis
        elif batch_axis != 0 and not (issubclass(cls, _OF_TOKENS) and config["axis"] in (-1, [-1])):
            raise ValueError(
                f"{cls.__name__} has no `batch_axis`, so it cannot use batch_axis={batch_axis}. "
                f"Use a norm of keras_norms: {', '.join(NAMES)}. Received: {self.spec!r}"
            )
        if zero_init and config.get("scale") and "gamma_initializer" in config:
            config["gamma_initializer"] = "zeros"
        return cls.from_config(config)

    def wrap(self, layer: keras.Layer) -> keras.Layer:
        """`layer` under weight normalization; `layer` itself if this norm does not do that."""
        if self.weight_norm is None:
            return layer
        return WeightNormalization(layer, name=f"{layer.name}_wn", **self.weight_norm)


def get(spec: Any) -> Norm:
    """The norm that `spec` stands for.

    Args:
        spec: one of

            - a name, one of `keras_norms.NAMES`, which may have arguments as a call has them:
              `"gn(groups=16)"`, `"sn(statistics=('instance', 'layer'))"`. The number of groups
              needs no name: `"gn(16)"`;
            - None, for "none";
            - the serialized config of a layer;
            - a layer class, or a function without arguments that returns a layer;
            - a `Norm`, which is returned.

    Returns:
        A `Norm`. If the spec does not say otherwise, norms by name have momentum 0.9, epsilon
        1e-5 and groups="auto".

    Raises:
        ValueError: if the spec is none of these, or has an unknown name or argument.

    Example:
        >>> import keras_norms
        >>> norm = keras_norms.get("gn(groups=16)")
        >>> norm.normalize(name="norm1").groups
        16
        >>> keras_norms.get("bn").use_bias, keras_norms.get("wn").use_bias
        (False, True)
    """
    if isinstance(spec, Norm):
        return spec
    if spec is None:
        return Norm("none")
    if isinstance(spec, str):
        return _from_string(spec)
    try:
        if isinstance(spec, dict):
            layer = keras.saving.deserialize_keras_object(copy.deepcopy(spec))
            return _from_layer(copy.deepcopy(spec), layer)
        if callable(spec):
            norm = _from_layer(spec, spec())
            return dataclasses.replace(norm, given=frozenset()) if inspect.isclass(spec) else norm
    except TypeError as error:
        raise ValueError(f"{_expected()} Received: {spec!r} ({error})") from error
    raise ValueError(f"{_expected()} Received: {spec!r}")


def _from_string(spec: str) -> Norm:
    name, positional, arguments = _parse(spec)
    if name in _NORMS and positional:
        first = next(iter(inspect.signature(_NORMS[name].cls).parameters))
        if len(positional) > 1 or first != "groups" or first in arguments:
            raise ValueError(
                f"The arguments of a norm need their names, as in 'bn(momentum=0.9)'; only the "
                f"groups of 'gn(16)' may go without, once and first. Received: {spec!r}"
            )
        arguments = {first: positional[0], **arguments}
    canonical = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    canonical = f"{name}({canonical})" if canonical else name
    if name == "none" and not arguments and not positional:
        return Norm(canonical)
    if name not in _NORMS:
        raise ValueError(_unknown(spec))
    cls, defaults, fixed = _NORMS[name]
    refused = [key for key in arguments if key in fixed or key in _RESERVED]
    if cls is SwitchableNormalization and "group" not in arguments.get("statistics", ()):
        refused += [key for key in arguments if key == "groups"]
    if refused:
        raise ValueError(
            f"The norm {name!r} takes no argument {refused[0]!r}: its name, or the model that "
            f"uses it, decides that. Received: {spec!r}"
        )
    given = {**fixed, **arguments}
    arguments = {**defaults, **given}
    weight = cls is WeightNormalization
    # The layer made here only checks the arguments. Kernels are checked when a layer is wrapped.
    probed = {key: value for key, value in arguments.items() if not weight or key != "kernels"}
    try:
        layer = cls(keras.layers.Dense(1), **probed) if weight else cls(**probed)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The norm {spec!r} cannot be made: {error}") from error
    if weight:
        return Norm(
            canonical,
            weight_norm=arguments,
            has_batch_statistics=arguments["mean_only_batch_norm"],
        )
    return dataclasses.replace(_from_layer(canonical, layer), given=frozenset(given))


def _parse(spec: str) -> tuple[str, list[Any], dict[str, Any]]:
    """`"gn(16, epsilon=0.1)"` as `("gn", [16], {"epsilon": 0.1})`."""
    try:
        # Python reserves the word "in"; with an underscore it is a name.
        expression: Any = ast.parse("_" + spec.strip(), mode="eval").body
        if not isinstance(expression, ast.Call):
            return expression.id[1:], [], {}
        positional = [ast.literal_eval(argument) for argument in expression.args]
        arguments = {
            str(keyword.arg): ast.literal_eval(keyword.value) for keyword in expression.keywords
        }
        if len(arguments) < len(expression.keywords):
            raise ValueError("an argument is given twice")
        return expression.func.id[1:], positional, arguments  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ValueError(f"{_unknown(spec)} ({error})") from error


def _unknown(spec: str) -> str:
    """The message for a spec that is not understood: the name that is meant, if one is close."""
    word = re.sub(r"[^a-z]", "", spec.partition("(")[0].lower())
    word = re.sub("normali[sz]ation$", "norm", word)
    close = difflib.get_close_matches(word, _SYNONYMS, 1)
    known = re.match(r"\s*(\w*)", spec)[1] in NAMES  # type: ignore[index]
    if close and not known:
        return f"No norm has this name: did you mean {_SYNONYMS[close[0]]!r}? Received: {spec!r}"
    return f"{_expected()} Received: {spec!r}"


def _from_layer(spec: Any, layer: Any) -> Norm:
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.layers.Wrapper):
        raise ValueError(f"{_expected()} Received: {spec!r}, which makes {layer!r}")
    config = layer.get_config()
    del config["name"]
    if layer.dtype_policy == keras.config.dtype_policy():
        del config["dtype"]  # the norm follows the policy that holds where a model uses it
    # Keras's own norms do not say whether they remove it.
    removes_bias = getattr(
        layer, "removes_bias", isinstance(layer, keras.layers.BatchNormalization)
    )
    return Norm(
        spec,
        use_bias=not (removes_bias or config.get("center", False)),
        removes_bias=removes_bias,
        has_batch_statistics=has_batch_statistics(layer),
        needs_spatial_axis=getattr(layer, "needs_positions", False),
        given=frozenset(config),
        _template=(type(layer), config),
    )


def _expected() -> str:
    return (
        f"A norm is one of {', '.join(map(repr, NAMES))}, with arguments as in "
        "'gn(groups=16)', the config of a layer, a layer class or a function that returns a layer."
    )
