"""What wrappers share that compute the kernels of a layer anew at each call."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import layers, ops
from keras.src.backend import AutocastScope  # Keras has no public way to read a variable uncast

from keras_norms.kernels import einsum_units, kind_of, layers_with_kernels
from keras_norms.model_layers import all_variables
from keras_norms.moments import Shape, Tensor

Values = dict[int, Tensor]  # {id of a variable: the value to use in place of its own}


class KernelNormalization(layers.Wrapper):
    """Base of the wrappers that normalize the kernels of a layer.

    The kernel of the wrapped layer is `v`. At each call the layer uses `w`, which a subclass
    computes from `v` in `normalized`. What the layer holds does not change. Its attributes can be
    read here; those that are normalized kernels are `w`.

    Args:
        layer: a layer that `keras_norms.kernels` knows.
        kernels: names of the kernels to normalize; by default all.
        **kwargs: arguments of `keras.layers.Layer`. By default `dtype` is that of `layer`.

    Raises:
        ValueError: if the layer has no floating-point kernel to normalize, or not the `kernels`
            named, or if Bidirectional is outside of the wrapper, not inside.
    """

    def __init__(
        self,
        layer: keras.Layer,
        kernels: Sequence[str] | set[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if "go_backwards" in kwargs:
            raise ValueError(self._bidirectional_goes_inside())
        kwargs.setdefault("dtype", getattr(layer, "dtype_policy", None))
        super().__init__(layer, **kwargs)
        self.autocast = False  # the wrapped layer casts the inputs itself
        self.supports_masking = layer.supports_masking
        known = {
            name for part in layers_with_kernels(layer).values() for name in kind_of(part).kernels
        }
        listed = isinstance(kernels, (tuple, list, set)) and len(kernels) > 0
        if kernels is not None and not (listed and all(k in sorted(known) for k in kernels)):
            raise ValueError(
                f"`kernels` must list names among {sorted(known)} for a {type(layer).__name__} "
                f"layer. Received: kernels={kernels!r}"
            )
        self.kernels = kernels

    def __getattr__(self, name: str) -> Any:
        """What only the wrapped layer has."""
        if hasattr(super(), "__getattr__"):  # with torch, which keeps layers in a place of its own
            with contextlib.suppress(AttributeError):
                return super().__getattr__(name)
        if name == "layer" or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name in ("go_backwards", "use_cudnn"):  # only Bidirectional asks for them
            raise AttributeError(self._bidirectional_goes_inside())
        value = getattr(self.layer, name)
        parts = list(layers_with_kernels(self.layer).values())
        parts += [part.cell for part in parts if hasattr(part, "cell")]
        if any(value is part for part in parts):
            raise AttributeError(
                f"The kernels of {name!r} are `v`, not the `w` in use. If you need them, ask the "
                f"wrapped layer: `.layer.{name}`."
            )
        if isinstance(value, keras.Variable):
            for gain, kernel, axes in self._kernels():
                if value is kernel and not self.built:
                    raise AttributeError(f"Build layer {self.name!r} before you read {name!r}.")
                if value is kernel:
                    return self.normalized(gain, kernel, axes)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        own = name.startswith("_") or name in vars(self) or hasattr(type(self), name)
        if not own and getattr(self, "built", False) and hasattr(self.layer, name):
            raise AttributeError(
                f"{name!r} is an attribute of the wrapped layer, which {self.name!r} only reads: "
                f"set `.layer.{name}`."
            )
        super().__setattr__(name, value)

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        self.layer.quantize(mode, type_check=type_check, config=config)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        for _, kernel, _ in self._kernels():
            if not isinstance(kernel, keras.Variable) or "float" not in kernel.dtype:
                raise ValueError(
                    f"{type(self).__name__} needs a kernel that is a floating-point variable: "
                    "wrap a layer that is not quantized and has no LoRA enabled. "
                    f"Received: layer={self.layer}"
                )
        self._refuse_other_kernels()

    def normalized(self, name: str, kernel: keras.Variable, axes: Sequence[int]) -> Tensor:
        """`w` in the shape and dtype of the kernel.

        Args:
            name: str, which tells the kernels of a layer apart: "gain" for its main kernel, else
                with what `keras_norms.kernels` puts before it.
            kernel: the variable that holds `v`.
            axes: the axes of the kernel that are output units.
        """
        raise NotImplementedError

    def call(
        self,
        inputs: Tensor,
        initial_state: Any = None,
        mask: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        arguments = self._arguments(initial_state, mask, training)
        return call_with(self.layer, self._weights(), inputs, **arguments)

    def remove(self) -> keras.Layer:
        """A new plain layer that computes what this one does at inference.

        Returns:
            A built layer with the class, config and name of the wrapped one and the kernel `w`.

        Raises:
            ValueError: if this layer is not built.
        """
        return self._plain({})

    def _plain(self, changes: dict[str, Any], bias: Tensor | None = None) -> keras.Layer:
        """`remove()`, with changes of the config, and with a bias in place of the layer's own."""
        if not self.built:
            raise ValueError(f"Layer {self.name!r} has no weights yet: call it before `remove()`.")
        layer, weights = self.layer, self._weights()
        plain = type(layer).from_config({**layer.get_config(), **changes})
        plain.build_from_config(layer.get_build_config())
        old, new = all_variables(layer), all_variables(plain)
        if bias is not None:
            plain.bias.assign(ops.reshape(bias, plain.bias.shape))
            old = [variable for variable in old if variable is not layer.bias]
            new = [variable for variable in new if variable is not plain.bias]
        for target, source in zip(new, old, strict=True):
            target.assign(ops.copy(weights.get(id(source), value_of(source))))
        return plain

    def compute_mask(self, inputs: Tensor, previous_mask: Any) -> Any:
        return self.layer.compute_mask(inputs, previous_mask)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.layer.compute_output_shape(input_shape)

    def compute_output_spec(
        self, inputs: Any, initial_state: Any = None, mask: Any = None, training: bool | None = None
    ) -> Any:
        arguments = self._arguments(initial_state, mask, training)
        return self.layer.compute_output_spec(inputs, **arguments)

    def get_config(self) -> dict[str, Any]:
        kernels = None if self.kernels is None else list(self.kernels)
        return {**_without_build(super().get_config()), "kernels": kernels}

    def _bidirectional_goes_inside(self) -> str:
        name = type(self).__name__
        return (
            f"Bidirectional cannot run the layer that {name} wraps backwards in time. Write "
            f"{name}(Bidirectional(...)), which normalizes both directions."
        )

    def _refuse_other_kernels(self) -> None:
        """Makes the wrapped layer refuse what replaces its kernel, which is not the `w` in use.

        The refusal is that layer's own, since Keras quantizes and adapts the innermost layers.
        `Model.quantize` takes this error as a layer that cannot be quantized: it warns and goes on.
        """
        layer, wrapper = self.layer, type(self).__name__
        quantizes = type(layer).quantize is not keras.Layer.quantize
        for name in ["quantize"] * quantizes + ["enable_lora"] * hasattr(layer, "enable_lora"):

            def refuse(*args: Any, name: str = name, **kwargs: Any) -> None:
                raise NotImplementedError(
                    f"{name!r} would replace the kernel of {layer.name!r}, from which {wrapper} "
                    "computes the one in use. First put the plain layer that `remove()` returns "
                    "in the place of the wrapper."
                )

            setattr(layer, name, refuse)

    def _kernels(self) -> Iterator[tuple[str, keras.Variable, tuple[int, ...]]]:
        """`(name of the gain, kernel, axes of its units)` of every kernel to normalize."""
        for prefix, part in layers_with_kernels(self.layer).items():
            for attribute, (gain, axes) in kind_of(part).kernels.items():
                if self.kernels is None or attribute in self.kernels:
                    kernel = getattr(getattr(part, "cell", part), attribute)
                    yield prefix + gain, kernel, axes or einsum_units(part)[1]

    def _weights(self) -> Values:
        """`w` of every kernel to normalize, by the id of the kernel."""
        return {
            id(kernel): self.normalized(name, kernel, axes)
            for name, kernel, axes in self._kernels()
        }

    def _arguments(
        self, initial_state: Any, mask: Tensor | None, training: bool | None
    ) -> dict[str, Any]:
        """Those arguments of a call that the wrapped layer accepts."""
        arguments = {"mask": mask, "training": training}
        accepted = self.layer.call_signature_parameters
        arguments = {name: value for name, value in arguments.items() if name in accepted}
        return arguments if initial_state is None else {**arguments, "initial_state": initial_state}


def _without_build(config: Any) -> Any:
    """A config without the shapes that Keras adds to it once a layer is built."""
    if not isinstance(config, dict):
        return config
    return {key: _without_build(value) for key, value in config.items() if key != "build_config"}


def value_of(variable: keras.Variable) -> Tensor:
    """The value of a variable in its own dtype. Within a call, Keras would cast it."""
    with AutocastScope(None):
        return ops.convert_to_tensor(variable.value)


def summed_axes(kernel: keras.Variable, axes: Sequence[int]) -> tuple[int, ...]:
    """All axes of a kernel but `axes`, which are those of its output units."""
    rank = len(kernel.shape)
    units = [axis % rank for axis in axes]
    return tuple(axis for axis in range(rank) if axis not in units)


def precise(kernel: keras.Variable) -> Tensor:
    """`v` in at least float32."""
    v = value_of(kernel)
    return ops.cast(v, keras.backend.result_type(v.dtype, "float32"))


def call_with(layer: keras.Layer, values: Values, inputs: Tensor, **arguments: Any) -> Tensor:
    """Calls `layer` with `values` in place of what its variables hold.

    The variables keep what they hold. Gradients flow through `values` to what these are computed
    from.
    """
    variables = all_variables(layer)
    before = {id(variable): value_of(variable) for variable in variables} | values
    scope = keras.StatelessScope(collect_losses=True)
    for variable in variables:  # all of them, since this scope hides the updates of outer scopes
        scope.add_update((variable, before[id(variable)]))
    with scope:
        outputs = layer(inputs, **arguments)
        losses = [(sublayer, sublayer._get_own_losses()) for sublayer in layer._flatten_layers()]
    for variable in variables:  # the call may update seeds of dropout and states of RNNs
        after = scope.get_current_value(variable)
        if after is not before[id(variable)]:
            variable.assign(after)
    for sublayer, own in losses:
        sublayer.add_loss(own)
    return outputs
