"""Names for norms, so that a model takes any of them as one `norm=` argument."""

import ast
import copy
import dataclasses
import typing

import keras

from keras_norms.batch import BatchNormalization
from keras_norms.batch_instance import BatchInstanceNormalization
from keras_norms.group import GroupNormalization
from keras_norms.instance import InstanceNormalization
from keras_norms.mean_only import MeanOnlyBatchNormalization
from keras_norms.switchable import SwitchableNormalization
from keras_norms.weight import WeightNormalization

# Comparisons should compare norms: one momentum and one epsilon for all that have them.
_DEFAULTS = {"momentum": 0.9, "epsilon": 1e-5}

# name: (class, arguments that the name stands for, arguments that it sets unless told otherwise)
_NORMS = {
    "bn": (BatchNormalization, {}, _DEFAULTS),
    "ln": (GroupNormalization, {"groups": 1}, {"epsilon": 1e-5}),
    "rms": (keras.layers.RMSNormalization, {}, {"epsilon": 1e-5}),
    "in": (InstanceNormalization, {}, {"epsilon": 1e-5}),
    "gn": (GroupNormalization, {}, {"groups": "auto", "epsilon": 1e-5}),
    "bin": (BatchInstanceNormalization, {}, _DEFAULTS),
    "sn": (SwitchableNormalization, {}, {"groups": "auto", **_DEFAULTS}),
    "mobn": (MeanOnlyBatchNormalization, {}, {"momentum": 0.9}),
    "wn": (
        WeightNormalization,
        {
            "mean_only_batch_norm": False,
            "momentum": 0.9,
            "synchronized": False,
            "ghost_batch_size": None,
        },
        {},
    ),
    "wn_mobn": (WeightNormalization, {"mean_only_batch_norm": True}, {"momentum": 0.9}),
}
NAMES = ("none", *_NORMS)
# What the model around the norm decides, not the spec.
_RESERVED = ("name", "batch_axis", "layer")


@dataclasses.dataclass(frozen=True)
class Norm:
    """A norm that a model can use anywhere; `keras_norms.get` makes one.

    Attributes:
        spec: what `keras_norms.get` turns into an equal object.
        use_bias: whether the layer before the norm keeps its bias: not if the norm adds a
            `beta` of its own.
        weight_norm: the arguments of `WeightNormalization`, if this norm is one; else None.
        has_batch_statistics: whether training uses statistics of the batch.
        needs_spatial_axis: whether it refuses activations that have samples and channels only.
    """

    spec: typing.Any = dataclasses.field(hash=False)
    use_bias: bool = True
    weight_norm: dict[str, typing.Any] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )
    has_batch_statistics: bool = dataclasses.field(default=False, compare=False, repr=False)
    needs_spatial_axis: bool = dataclasses.field(default=False, compare=False, repr=False)
    _template: typing.Any = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def is_identity(self) -> bool:
        """Whether it neither normalizes activations nor weights."""
        return self._template is None and self.weight_norm is None

    def normalize(
        self,
        name: str | None = None,
        batch_axis: int | tuple[int, ...] = 0,
        zero_init: bool = False,
        **arguments: typing.Any,
    ) -> keras.Layer:
        """A new layer that normalizes an activation; the identity if this norm does not.

        Args:
            name: str or None, the layer's name.
            batch_axis: int or tuple of ints, the axes whose entries are samples.
            zero_init: whether `gamma` starts at 0, where the layer has one.
            **arguments: what the model wants of the layer's other arguments, where it has them.
                `dtype` holds unless the spec has one.

        Raises:
            ValueError: if the layer has no `batch_axis` and needs one other than 0.
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
        elif batch_axis != 0 and not issubclass(cls, keras.layers.RMSNormalization):
            raise ValueError(
                f"{cls.__name__} has no `batch_axis`, so it cannot use batch_axis={batch_axis}. "
                f"Use a norm of keras_norms: {', '.join(NAMES)}. Received: {self.spec!r}"
            )
        if zero_init and config.get("scale") and "gamma_initializer" in config:
            config["gamma_initializer"] = "zeros"
        return cls.from_config(config)

    def wrap(self, layer: keras.Layer) -> keras.Layer:
        """`layer` under weight normalization; `layer` itself if this norm is not one."""
        if self.weight_norm is None:
            return layer
        return WeightNormalization(layer, name=f"{layer.name}_wn", **self.weight_norm)


def get(spec: typing.Any) -> Norm:
    """The norm that `spec` stands for.

    Args:
        spec: None or "none"; a name, "bn", "ln", "rms", "in", "gn", "bin", "sn", "mobn", "wn"
            or "wn_mobn", with arguments in call syntax if wanted, as in `"gn(groups=16)"` or
            `"sn(statistics=('instance', 'layer'))"`; the serialized config of a layer; a layer
            class; a function without arguments that returns a layer; or what `get` returned.

    Returns:
        A `Norm`. Named norms use momentum 0.9 and epsilon 1e-5, and groups="auto".

    Raises:
        ValueError: for an unknown name or argument, or anything else that is no norm.

    >>> get("gn(groups=16)").normalize(name="norm1").groups
    16
    >>> get("wn").use_bias, get("bn").use_bias
    (True, False)
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
            return _from_layer(spec, spec())
    except TypeError as error:
        raise ValueError(f"{_expected()} Received: {spec!r} ({error})") from error
    raise ValueError(f"{_expected()} Received: {spec!r}")


def _from_string(spec):
    name, arguments = _parse(spec)
    canonical = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    canonical = f"{name}({canonical})" if canonical else name
    if name == "none" and not arguments:
        return Norm(canonical)
    if name not in _NORMS:
        raise ValueError(f"{_expected()} Received: {spec!r}")
    cls, fixed, defaults = _NORMS[name]
    refused = [key for key in arguments if key in fixed or key in _RESERVED]
    if cls is SwitchableNormalization and "group" not in arguments.get("statistics", ()):
        refused += [key for key in arguments if key == "groups"]
    if refused:
        raise ValueError(
            f"The norm {name!r} takes no argument {refused[0]!r}: the name or the model around "
            f"it decides that. Received: {spec!r}"
        )
    arguments = {**defaults, **fixed, **arguments}
    weight = cls is WeightNormalization
    # Which kernels there are is known when a layer is wrapped.
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
    return _from_layer(canonical, layer)


def _parse(spec):
    """`"gn(groups=16)"` as `("gn", {"groups": 16})`."""
    try:
        # The underscore makes a name of "in", which Python reserves.
        call = ast.parse("_" + spec.strip(), mode="eval").body
        function = call.func if isinstance(call, ast.Call) else call
        keywords = call.keywords if isinstance(call, ast.Call) else []
        if isinstance(call, ast.Call) and call.args:
            raise ValueError("arguments need their names")
        arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in keywords}
        if len(arguments) < len(keywords):
            raise ValueError("an argument is given twice")
        return function.id[1:], arguments
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ValueError(f"{_expected()} Received: {spec!r} ({error})") from error


def _from_layer(spec, layer):
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.layers.Wrapper):
        raise ValueError(f"{_expected()} Received: {spec!r}, which makes {layer!r}")
    config = layer.get_config()
    del config["name"]
    if layer.dtype_policy == keras.config.dtype_policy():
        del config["dtype"]  # so that it follows the policy where it is used
    of_keras = isinstance(layer, keras.layers.BatchNormalization)
    return Norm(
        spec,
        use_bias=not config.get("center", False),
        has_batch_statistics=of_keras or getattr(layer, "has_batch_statistics", False),
        needs_spatial_axis=getattr(layer, "needs_positions", False),
        _template=(type(layer), config),
    )


def _expected():
    return (
        f"A norm is one of {', '.join(map(repr, NAMES))}, with arguments as in "
        "'gn(groups=16)', the config of a layer, a layer class or a function that returns a layer."
    )
