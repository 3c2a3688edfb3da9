"""Optimizers that treat logits, gates, gains and biases as the papers do."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import ops

from keras_norms.base import Normalization, register
from keras_norms.model_layers import named_layers
from keras_norms.moments import Tensor, replica_context

_NO_DECAY = ("gamma", "beta", "gain", "bias", "gate")
# Options of Keras's optimizers that update under a condition, which replicas do not support.
_CONDITIONAL = ("gradient_accumulation_steps", "ema_overwrite_frequency")


def control_variables(model: keras.Model) -> list[keras.Variable]:
    """The variables that choose between statistics: the logits of SN and the gates of BIN.

    Example:
        >>> import keras, keras_norms
        >>> norm = keras_norms.SwitchableNormalization()
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), norm])
        >>> [variable.name for variable in keras_norms.control_variables(model)]
        ['mean_logits', 'variance_logits']
    """
    return [
        getattr(layer, name)
        for layer in named_layers(model).values()
        if isinstance(layer, Normalization)
        for name in layer.control_weights
    ]


def no_decay_variables(model: keras.Model) -> list[keras.Variable]:
    """Every gamma, beta, gain, bias and gate: decay is meant for the other weights, the kernels.

    Example:
        >>> import keras, keras_norms
        >>> norm = keras_norms.BatchNormalization()
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), norm])
        >>> [variable.name for variable in keras_norms.no_decay_variables(model)]
        ['bias', 'gamma', 'beta']
    """
    scales = [
        layer.scale
        for layer in named_layers(model).values()
        if isinstance(layer, keras.layers.RMSNormalization)
    ]
    return scales + [
        variable
        for variable in model.trainable_variables + model.non_trainable_variables
        if variable.name in _NO_DECAY or variable.name.endswith(("_gain", "_bias"))
    ]


def configure_optimizer(
    optimizer: keras.Optimizer,
    model: keras.Model,
    control_multiplier: float = 1.0,
    decay_controls: bool = False,
    l2: float = 0.0,
    skip_nonfinite: bool = False,
) -> keras.Optimizer:
    """A copy of `optimizer` that treats control variables, gains and biases as the papers do.

        rate(control) = control_multiplier * rate
        gradient(weight) += l2 * weight

    `l2` is part of the gradient and so of the momentum, as in the papers' recipes. The
    `weight_decay` of Keras's optimizers is not part of the momentum, and `control_multiplier`
    does not multiply its rate. Neither changes `no_decay_variables(model)`.

    Under `tf.distribute`, `global_clipnorm` clips the mean of the replicas' gradients. A saved
    model keeps all of these settings.

    Args:
        optimizer: a `keras.optimizers` optimizer, not yet used.
        model: a built model.
        control_multiplier: float, factor of the learning rate of `control_variables(model)` (10
            in the paper of batch-instance normalization).
        decay_controls: whether the logits decay, as they do in the official code of switchable
            normalization. Gates never decay.
        l2: float, coefficient of the weights in the gradient.
        skip_nonfinite: whether to take all gradients as 0, on all replicas, if any holds a NaN
            or infinity. The weights are then still those that led to it.

    Returns:
        A new optimizer; its class is a subclass of the class of `optimizer`.

    Raises:
        ValueError: if the optimizer has been used, wraps another or has exclusions of its own;
            if the model is not built; or if one of these variables shares its path with
            another variable.

    Reference:
        [Switchable](https://arxiv.org/abs/1806.10779) and
        [Batch-Instance Normalization](https://arxiv.org/abs/1805.07925), training details.

    Example:
        >>> import keras, keras_norms
        >>> norm = keras_norms.BatchInstanceNormalization()
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), norm])
        >>> adam = keras.optimizers.Adam(1e-3)
        >>> optimizer = keras_norms.configure_optimizer(adam, model, control_multiplier=10.0)
        >>> isinstance(optimizer, keras.optimizers.Adam), optimizer.control_multiplier
        (True, 10.0)
    """
    cls = type(optimizer)
    if isinstance(optimizer, _Configured) or issubclass(cls, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "Configure the plain optimizer, before anything wraps it or configures it. "
            f"Received: {cls.__name__}"
        )
    if optimizer.built:
        raise ValueError(
            "The optimizer has been used, and its state would be lost. Configure it before "
            f"training. Received: {cls.__name__} after {int(optimizer.iterations)} steps"
        )
    if any(getattr(optimizer, f"_exclude_from_weight_decay{end}", ()) for end in ("", "_pattern")):
        raise ValueError(
            "The config of an optimizer does not hold what `exclude_from_weight_decay` excludes, "
            "so a copy would lose it. Call this method on the configured optimizer. Received: "
            f"{cls.__name__} with exclusions"
        )
    if not model.built:
        raise ValueError(f"Build the model first. Received: model {model.name!r} without weights")
    controls = control_variables(model)
    no_decay = no_decay_variables(model) + ([] if decay_controls else controls)
    return _configured(cls).from_config(
        {
            **optimizer.get_config(),
            "control_multiplier": control_multiplier,
            "control_paths": _paths(controls, model),
            "l2": l2,
            "no_decay_paths": _paths(no_decay, model),
            "skip_nonfinite": skip_nonfinite,
        }
    )


def _paths(variables: Sequence[keras.Variable], model: keras.Model) -> list[str]:
    """The paths of variables. A loaded optimizer finds the variables again by these."""
    members = {id(variable) for variable in variables}
    paths = {variable.path for variable in variables}
    for variable in model.variables:
        if variable.path in paths and id(variable) not in members:
            raise ValueError(
                f"Two variables have the path {variable.path!r} and only one of them is a "
                "control, gain or bias. Give their layers different names."
            )
    return sorted(paths)


class _Configured(keras.Optimizer):
    """Mixin of the classes that `configure_optimizer` makes."""

    def __init__(
        self,
        *args: Any,
        control_multiplier: float = 1.0,
        control_paths: Iterable[str] = (),
        l2: float = 0.0,
        no_decay_paths: Iterable[str] = (),
        skip_nonfinite: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.control_multiplier = float(control_multiplier)
        self.control_paths = tuple(control_paths)
        self.l2 = float(l2)
        self.no_decay_paths = tuple(no_decay_paths)
        self.skip_nonfinite = bool(skip_nonfinite)

    def apply(self, grads: Sequence, trainable_variables: Sequence | None = None) -> Any:
        for name in _CONDITIONAL if replica_context() is not None else ():
            if getattr(self, name):
                raise ValueError(
                    f"Leave `{name}` out on several replicas. It makes the update depend on a "
                    "condition, inside of which TensorFlow's replicas cannot exchange gradients. "
                    f"Received: {name}={getattr(self, name)}"
                )
        context = replica_context() if self.global_clipnorm else None
        if self.skip_nonfinite or self.global_clipnorm:
            grads = _dense(grads)
        if context is not None:
            # The mean comes before Keras clips, so that the clipped gradient does not depend on
            # the number of replicas.
            reduced = iter(context.all_reduce("MEAN", [g for g in grads if g is not None]))
            grads = [g if g is None else next(reduced) for g in grads]
        if self.skip_nonfinite:
            tests = [ops.all(ops.isfinite(g)) for g in grads if g is not None]
            finite = _on_all_replicas(ops.all(ops.stack(tests)))
            variables = trainable_variables or self._trainable_variables
            # What float8 calls the gradient of a scale is its new value.
            kept = [v if getattr(v, "overwrite_with_gradient", False) else 0 for v in variables]
            pairs = zip(grads, kept, strict=True)
            grads = [g if g is None else ops.where(finite, g, old) for g, old in pairs]
        return super().apply(grads, trainable_variables)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:  # Keras ignores a second call too
            return
        no_decay = {self._var_key(v) for v in variables if v.path in self.no_decay_paths}
        # Beside what the user has excluded, which the public method would forget.
        excluded = getattr(self, "_exclude_from_weight_decay", None) or set()
        self._exclude_from_weight_decay = excluded | no_decay
        # By index, since the variables that TensorFlow hands to `update_step` have no path.
        self._rate_factors = tuple(
            self.control_multiplier if v.path in self.control_paths else 1.0 for v in variables
        )
        self._l2_factors = tuple(
            0.0 if v.path in self.no_decay_paths else self.l2 for v in variables
        )
        super().build(variables)

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        rate = learning_rate * self._rate_factors[self._get_variable_index(variable)]
        super().update_step(self._with_l2(gradient, variable), variable, rate)

    def _parallel_update_step(
        self, gradients: Sequence, variables: Sequence, learning_rate: Tensor
    ) -> None:
        """`update_step` for all variables at once, which Keras calls instead on PyTorch."""
        factors = [self._rate_factors[self._get_variable_index(v)] for v in variables]
        gradients = [self._with_l2(*pair) for pair in zip(gradients, variables, strict=True)]
        product = getattr(self, "_u_product", None)  # Nadam's, which one step multiplies once
        before = None if product is None else ops.copy(product)
        for factor in set(factors):
            chosen = [i for i, other in enumerate(factors) if other == factor]
            if product is not None:
                product.assign(before)
            super()._parallel_update_step(
                [gradients[i] for i in chosen],
                [variables[i] for i in chosen],
                learning_rate * factor,
            )

    def _with_l2(self, gradient: Tensor, variable: Any) -> Tensor:
        l2 = self._l2_factors[self._get_variable_index(variable)]
        return ops.add(gradient, l2 * variable) if l2 else gradient

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "control_multiplier": self.control_multiplier,
            "control_paths": list(self.control_paths),
            "l2": self.l2,
            "no_decay_paths": list(self.no_decay_paths),
            "skip_nonfinite": self.skip_nonfinite,
        }


@register
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Keras's optimizer for mixed_float16, with the steps skipped in which any gradient overflows.

    Keras's own class misses two kinds of overflow on TensorFlow, and weights become infinite: in
    the embedding of a token that occurs more than once in a batch, and on all replicas of
    `tf.distribute` but the first. `compile` wraps a plain optimizer in Keras's own class, so wrap
    it in this one before.

    Args:
        *args: arguments of `keras.optimizers.LossScaleOptimizer`.
        **kwargs: the same.

    Example:
        >>> import keras, keras_norms
        >>> optimizer = keras_norms.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        >>> weight = keras.Variable([1.0])
        >>> optimizer.apply([keras.ops.array([float("inf")])], [weight])
        >>> float(weight.numpy()[0])  # the step was skipped
        1.0
    """

    def check_finite(self, grads: Sequence) -> Tensor:
        return _on_all_replicas(super().check_finite(_dense(grads)))


def _dense(grads: Sequence) -> list:
    """Gradients as tensors.

    On TensorFlow the gradient of an embedding is a list of slices, and an index may have several.
    Keras's `isfinite` looks at the last slice of each index only.
    """
    if keras.config.backend() != "tensorflow":
        return [g if g is None else ops.convert_to_tensor(g) for g in grads]
    import tensorflow as tf

    return [
        tf.math.unsorted_segment_sum(g.values, g.indices, g.dense_shape[0])
        if isinstance(g, tf.IndexedSlices)
        else g
        for g in grads
    ]


def _on_all_replicas(condition: Tensor) -> Tensor:
    """Whether a boolean scalar is true on every replica of `tf.distribute`."""
    context = replica_context()
    if context is None:
        return condition
    return context.all_reduce("SUM", 1 - ops.cast(condition, "float32")) == 0


_CLASSES: dict[type, type] = {}


def _configured(cls: type) -> Any:
    """The registered subclass of `cls` of which `configure_optimizer` makes its optimizers."""
    if cls not in _CLASSES:
        _CLASSES[cls] = register(type(f"Configured{cls.__name__}", (_Configured, cls), {}))
    return _CLASSES[cls]


# Registered at import, so that a model saved with one of these loads in another process.
for _name in ("SGD", "Adam", "AdamW", "Adamax", "Nadam", "RMSprop", "Adagrad", "Adadelta"):
    _configured(getattr(keras.optimizers, _name))
for _name in ("Lion", "Lamb", "Ftrl", "Adafactor", "Muon"):
    _configured(getattr(keras.optimizers, _name))
