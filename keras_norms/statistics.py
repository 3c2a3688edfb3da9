"""Moving statistics of a model: compute them anew, hold them still."""

import contextlib
import itertools
import math

import keras
import numpy as np
from keras import ops

from keras_norms.base import Normalization
from keras_norms.moments import pool
from keras_norms.moving import MovingNormalization, steps_seen
from keras_norms.tree import all_variables, named_layers

_KERAS_NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def freeze(model):
    """Puts every norm of `model` in inference mode and holds its weights, for fine-tuning.

    Compile the model again afterwards, as after any change of `trainable`.

    Raises:
        ValueError: if the model has no norm.
    """
    _set_trainable(model, False)


def unfreeze(model):
    """Takes every norm of `model` out of inference mode and trains its weights again.

    Compile the model again afterwards.

    Raises:
        ValueError: if the model has no norm.
    """
    _set_trainable(model, True)


def recalibrate(model, data, steps=None, exact=False):
    """Replaces moving statistics by those of `data` under the weights as they are now.

        mean = E[m_b],  variance = E[v_b + (m_b - mean)^2]

    over all batches b, each weighted by its number of elements. Norms run in training mode,
    all other layers in inference mode, and no variable but the moving statistics changes. Works
    on every layer with batch statistics, `keras.layers.BatchNormalization` included.

    In one pass (the papers' batch average) a norm sees inputs that the norms before it
    normalized with the statistics of each batch; the result is exact, whatever the split into
    batches, for the first norm. With `exact=True` it is for all: one pass for each norm, in
    the order of the data, after the norms before it have their final statistics. The norms inside
    of one `NormalizedLSTM` share a pass, since each of its steps depends on those before; they
    are exact where the data is one batch.

    Args:
        model: a built `keras.Model`.
        data: iterable of batches `x` or `(x, y, ...)`. `exact=True` iterates once per norm, so
            it must start anew each time, as a list or a `tf.data.Dataset` does.
        steps: int, how many batches to use; all by default.
        exact: whether to make one pass for each norm.

    Returns:
        The number of batches used.

    Raises:
        ValueError: if there is no data, or no norm with batch statistics.

    Reference:
        [Differentiable Learning-to-Normalize](https://arxiv.org/abs/1806.10779), section 3.1,
        "batch average".
    """
    norms = [layer for layer in named_layers(model).values() if _has_batch_statistics(layer)]
    if not norms:
        raise ValueError(f"The model {model.name!r} has no built layer with batch statistics.")
    moving = {id(variable) for norm in norms for variable in _moving(norm)}
    moving |= {id(norm.moving_steps) for norm in norms if getattr(norm, "max_steps", None)}
    others = [variable for variable in all_variables(model) if id(variable) not in moving]
    values = [ops.convert_to_numpy(variable) for variable in others]
    try:
        if not exact:
            return _recalibrate(model, norms, data, steps, "recalibrate")
        if iter(data) is data:
            raise ValueError(
                "exact=True iterates over `data` once per norm. Pass a list or a dataset that "
                f"starts anew each time. Received: {type(data).__name__}"
            )
        norms = _in_order_of_data(model, norms, data)
        passes = _passes(model, norms)
        for number, together in enumerate(passes, 1):
            title = f"recalibrate {number}/{len(passes)}: {together[0].name}"
            used = _recalibrate(model, together, data, steps, title)
        return used
    finally:
        for variable, value in zip(others, values, strict=True):
            variable.assign(value)


def _recalibrate(model, norms, data, steps, title):
    """One pass over the data: pools the batch statistics of `norms` and assigns the result."""
    pooled = {id(norm): _Pooled() for norm in norms}
    print(title)
    progress = keras.utils.Progbar(steps or _length(data), unit_name="batch")
    used = 0
    with contextlib.ExitStack() as stack:
        for norm in norms:
            stack.enter_context(_measuring(norm, pooled[id(norm)]))
        for batch in itertools.islice(data, steps):
            model(_inputs(batch), training=False)
            used += 1
            progress.update(used, finalize=used == progress.target)
    if not used:
        raise ValueError("`data` holds no batch. Pass batches x or (x, y, ...).")
    if progress.target is None:
        progress.update(used, finalize=True)
    for norm in norms:
        pooled[id(norm)].assign_to(norm)
    return used


def _measuring(norm, pooled):
    """Makes `norm` run in training mode and hand the statistics of each call to `pooled`."""
    ours = isinstance(norm, MovingNormalization)
    return _measuring_ours(norm, pooled) if ours else _measuring_keras(norm, pooled)


@contextlib.contextmanager
def _measuring_ours(norm, pooled):
    trainable, normalize = norm.trainable, norm.normalize

    def normalize_in_training(inputs, training=None, mask=None, first_step=0):
        return normalize(inputs, True, mask, first_step)

    def measure(batch, first_step=0):
        batch = norm.in_moving_shape(pool(batch, norm.pooled_axes), first_step)
        mean, variance, count = map(ops.convert_to_numpy, batch)
        pooled.add(count, mean, variance)

    norm.trainable = True
    norm.normalize, norm.update_moving = normalize_in_training, measure
    try:
        yield
    finally:
        del norm.normalize, norm.update_moving
        norm.trainable = trainable


@contextlib.contextmanager
def _measuring_keras(norm, pooled):
    before = [ops.convert_to_numpy(variable) for variable in _moving(norm)]
    momentum, trainable = norm.momentum, norm.trainable
    call = norm.call

    def measured_call(inputs, training=None, mask=None):
        outputs = call(inputs, training=True, mask=mask)
        pooled.add(_count(inputs, mask, norm.axis), *map(ops.convert_to_numpy, _moving(norm)))
        return outputs

    # Without momentum the moving statistics are those of the last batch, if they were finite.
    for variable in _moving(norm):
        variable.assign(ops.zeros(variable.shape))
    norm.momentum, norm.trainable, norm.call = 0.0, True, measured_call
    try:
        yield
    finally:
        del norm.call
        norm.momentum, norm.trainable = momentum, trainable
        for variable, value in zip(_moving(norm), before, strict=True):
            variable.assign(value)


class _Pooled:
    """Mean and variance of the union of batches, in float64 by the law of total variance."""

    def __init__(self):
        self.count = self.mean = self.variance = 0.0

    def add(self, count, mean, variance=0.0):
        total = np.maximum(self.count + count, 1)
        new, old = count / total, self.count / total
        distance = mean.astype("float64") - self.mean
        self.variance = old * self.variance + new * variance + old * new * distance**2
        self.mean = self.mean + new * distance
        self.count = self.count + count

    def assign_to(self, norm):
        for variable, value in zip(_moving(norm), (self.mean, self.variance), strict=False):
            old = ops.convert_to_numpy(variable)
            variable.assign(np.where(self.count > 0, value, old).astype(old.dtype))
        if getattr(norm, "max_steps", None):
            norm.moving_steps.assign(steps_seen(self.count))


def _in_order_of_data(model, norms, data):
    """`norms` in the order in which one batch passes them."""
    order = {}

    def recorded(norm, call):
        def recorded_call(*args, **kwargs):
            order.setdefault(id(norm), norm)
            return call(*args, **kwargs)

        return recorded_call

    # A loop over time applies its norms, and calls none of them.
    entries = [(n, "normalize" if isinstance(n, MovingNormalization) else "call") for n in norms]
    for norm, entry in entries:
        setattr(norm, entry, recorded(norm, getattr(norm, entry)))
    try:
        for batch in itertools.islice(data, 1):
            model(_inputs(batch), training=False)
    finally:
        for norm, entry in entries:
            delattr(norm, entry)
    return list(order.values()) or norms


def _passes(model, norms):
    """`norms` one by one, but those of one loop over time together."""
    loops = {
        id(norm): layer
        for layer in named_layers(model).values()
        for norm in getattr(layer, "loop_norms", ())
    }
    passes = {}
    for norm in norms:
        passes.setdefault(id(loops.get(id(norm), norm)), []).append(norm)
    return list(passes.values())


def _has_batch_statistics(layer):
    if isinstance(layer, keras.layers.BatchNormalization) and layer.renorm:
        raise ValueError(f"Batch renormalization is not supported. Received: layer {layer.name!r}")
    kinds = (MovingNormalization, keras.layers.BatchNormalization)
    return isinstance(layer, kinds) and layer.moving_mean is not None


def _moving(norm):
    variables = (norm.moving_mean, getattr(norm, "moving_variance", None))
    return [variable for variable in variables if variable is not None]


def _count(inputs, mask, axis):
    """How many elements of `inputs` each channel has, those that the mask drops aside."""
    shape = inputs.shape
    if mask is None:
        return math.prod(shape) / shape[axis]
    mask = ops.convert_to_numpy(mask).astype(bool)
    mask = np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)
    return np.moveaxis(mask, axis, -1).reshape(-1, shape[axis]).sum(0)


def _inputs(batch):
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def _length(data):
    """The number of batches if it is known without iterating, else None."""
    try:
        return len(data)
    except TypeError:
        return None


def _set_trainable(model, trainable):
    kinds = (Normalization, *_KERAS_NORMS)
    norms = [layer for layer in named_layers(model).values() if isinstance(layer, kinds)]
    if not norms:
        raise ValueError(f"The model {model.name!r} has no normalization layer.")
    for norm in norms:
        norm.trainable = trainable
