"""Optimizers that treat switches, gates and scales as their papers do."""

import keras
from keras import ops

from keras_norms.base import Normalization, register
from keras_norms.moments import replica_context
from keras_norms.tree import named_layers

_NO_DECAY = ("gamma", "beta", "gain", "bias", "gate")
_BRANCHES = ("gradient_accumulation_steps", "ema_overwrite_frequency")


def control_variables(model):
    """The variables that choose between statistics: the logits of SN and the gates of BIN."""
    return [
        getattr(layer, name)
        for layer in named_layers(model).values()
        if isinstance(layer, Normalization)
        for name in layer.control_weights
    ]


def no_decay_variables(model):
    """Every gamma, beta, gain, bias and gate: decay of these is no regularization of weights."""
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
    optimizer,
    model,
    control_multiplier=1.0,
    decay_controls=False,
    l2=0.0,
    skip_nonfinite=False,
):
    """A copy of `optimizer` that knows which variables of `model` are controls, gains, biases.

        rate(control) = control_multiplier * rate
        gradient(weight) += l2 * weight

    `l2` enters the gradient, and with it the momentum, as in the papers' recipes; the
    `weight_decay` of Keras's optimizers is decoupled from the momentum, and its rate is not
    multiplied. Neither touches `no_decay_variables(model)`. Under `tf.distribute`,
    `global_clipnorm` clips the mean over the replicas, whose sum is the update. All of it is kept
    through `model.save`.

    Args:
        optimizer: a `keras.optimizers` optimizer, not yet used.
        model: a built model.
        control_multiplier: float, factor of the rate of `control_variables(model)`, in the
            update itself (10 in the paper of batch-instance normalization).
        decay_controls: whether decay includes the logits, as the official code of switchable
            normalization does. Gates never decay.
        l2: float, coefficient of the weights in the gradient.
        skip_nonfinite: whether gradients that hold a NaN or infinity, on any replica, count as 0
            on all, so that the weights are still those that led to it.

    Returns:
        A new optimizer, whose class is a subclass of that of `optimizer`.

    Raises:
        ValueError: if the optimizer is in use, wraps another or has exclusions of its own, if
            the model is not built, or if the path of one of these variables is that of another
            variable too.

    Reference:
        [Switchable](https://arxiv.org/abs/1806.10779) and
        [Batch-Instance Normalization](https://arxiv.org/abs/1805.07925), training details.
    """
    cls = type(optimizer)
    if isinstance(optimizer, _Configured) or issubclass(cls, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            f"Configure the plain optimizer, not one that changes another. Received: {cls.__name__}"
        )
    if optimizer.built:
        raise ValueError(
            "The optimizer has been used, and its state would be lost. Configure it before "
            f"training. Received: {cls.__name__} after {int(optimizer.iterations)} steps"
        )
    if any(getattr(optimizer, f"_exclude_from_weight_decay{end}", ()) for end in ("", "_pattern")):
        raise ValueError(
            "Keras does not keep what `exclude_from_weight_decay` was told. Call it on the "
            f"configured optimizer. Received: {cls.__name__} with exclusions"
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


def _paths(variables, model):
    """The variables' paths, by which they are found again after loading."""
    members = {id(variable) for variable in variables}
    paths = {variable.path for variable in variables}
    for variable in model.variables:
        if variable.path in paths and id(variable) not in members:
            raise ValueError(
                f"Two variables have the path {variable.path!r} and only one of them is a "
                "control, gain or bias. Give their layers different names."
            )
    return sorted(paths)


class _Configured:
    """Mixin of the classes that `configure_optimizer` makes."""

    def __init__(
        self,
        *args,
        control_multiplier=1.0,
        control_paths=(),
        l2=0.0,
        no_decay_paths=(),
        skip_nonfinite=False,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.control_multiplier = float(control_multiplier)
        self.control_paths = tuple(control_paths)
        self.l2 = float(l2)
        self.no_decay_paths = tuple(no_decay_paths)
        self.skip_nonfinite = bool(skip_nonfinite)

    def apply(self, grads, trainable_variables=None):
        for name in _BRANCHES if replica_context() is not None else ():
            if getattr(self, name):
                raise ValueError(
                    f"Keras's optimizers do not support `{name}` on several replicas: it is a "
                    "condition, and TensorFlow's replicas cannot exchange gradients inside of one. "
                    f"Leave it out. Received: {name}={getattr(self, name)}"
                )
        context = replica_context() if self.global_clipnorm else None
        if self.skip_nonfinite or self.global_clipnorm:
            grads = _dense(grads)
        if context is not None:
            # Before Keras clips it: what it clips does not depend on the number of replicas.
            reduced = iter(context.all_reduce("MEAN", [g for g in grads if g is not None]))
            grads = [g if g is None else next(reduced) for g in grads]
        if self.skip_nonfinite:
            tests = [ops.all(ops.isfinite(g)) for g in grads if g is not None]
            finite = _on_all_replicas(ops.all(ops.stack(tests)))
            grads = [g if g is None else ops.where(finite, g, 0) for g in grads]
        return super().apply(grads, trainable_variables)

    def build(self, variables):
        spared = [v for v in variables if v.path in self.no_decay_paths]
        if not self.built:
            self.exclude_from_weight_decay(var_list=spared)
        spared = {id(v) for v in spared}
        # By index: what TensorFlow hands to `update_step` has no path.
        self._rate_factors = tuple(
            self.control_multiplier if v.path in self.control_paths else 1.0 for v in variables
        )
        self._l2_factors = tuple(0.0 if id(v) in spared else self.l2 for v in variables)
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        rate = learning_rate * self._rate_factors[self._get_variable_index(variable)]
        super().update_step(self._with_l2(gradient, variable), variable, rate)

    def _parallel_update_step(self, gradients, variables, learning_rate):
        """What Keras calls in place of `update_step` on PyTorch."""
        factors = [self._rate_factors[self._get_variable_index(v)] for v in variables]
        gradients = [self._with_l2(*pair) for pair in zip(gradients, variables, strict=True)]
        for factor in set(factors):
            chosen = [i for i, other in enumerate(factors) if other == factor]
            super()._parallel_update_step(
                [gradients[i] for i in chosen],
                [variables[i] for i in chosen],
                learning_rate * factor,
            )

    def _with_l2(self, gradient, variable):
        l2 = self._l2_factors[self._get_variable_index(variable)]
        return ops.add(gradient, l2 * variable) if l2 else gradient

    def get_config(self):
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
    """Keras's optimizer for mixed_float16, which skips a step wherever a gradient overflows.

    Keras's own misses two kinds of overflow, and the weights end as infinities: on TensorFlow, in
    the embedding of a token that occurs more than once in a batch, and on any replica of
    `tf.distribute` but the first. What `compile` makes of an optimizer by itself is Keras's own.

    Args:
        *args: arguments of `keras.optimizers.LossScaleOptimizer`.
        **kwargs: the same.
    """

    def check_finite(self, grads):
        return _on_all_replicas(super().check_finite(_dense(grads)))


def _dense(grads):
    """Gradients as tensors. On TensorFlow an embedding has slices, several of some indices.

    Keras's `isfinite` sees the last slice of an index only.
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


def _on_all_replicas(condition):
    """Whether a boolean scalar is true on every replica of `tf.distribute`."""
    context = replica_context()
    if context is None:
        return condition
    return context.all_reduce("SUM", 1 - ops.cast(condition, "float32")) == 0


_CLASSES = {}


def _configured(cls):
    """The subclass of an optimizer class that `configure_optimizer` makes, registered."""
    if cls not in _CLASSES:
        _CLASSES[cls] = register(type(f"Configured{cls.__name__}", (_Configured, cls), {}))
    return _CLASSES[cls]


# Registered at import, so that a model saved with one of these loads in another process.
for _name in ("SGD", "Adam", "AdamW", "Adamax", "Nadam", "RMSprop", "Adagrad", "Adadelta"):
    _configured(getattr(keras.optimizers, _name))
for _name in ("Lion", "Lamb", "Ftrl", "Adafactor", "Muon"):
    _configured(getattr(keras.optimizers, _name))
