"""Moving statistics of a model: compute them again, freeze and unfreeze them."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_norms import patching
from keras_norms.arguments import positive
from keras_norms.model_layers import all_variables, has_batch_statistics, is_norm, named_layers
from keras_norms.moments import Moments, Tensor, pool
from keras_norms.moving import MovingNormalization, steps_seen


def freeze(model: keras.Model) -> None:
    """Puts every norm of a model in inference mode and stops training its weights.

    For fine-tuning on small batches, whose statistics are poor. Compile the model again
    afterwards, as after any change of `trainable`.

    Raises:
        ValueError: if the model has no norm.

    Example:
        >>> import keras, keras_norms
        >>> model = keras.Sequential([keras.Input((3,)), keras_norms.BatchNormalization()])
        >>> keras_norms.freeze(model)
        >>> len(model.trainable_variables)
        0
    """
    _set_trainable(model, False)


def unfreeze(model: keras.Model) -> None:
    """Lets every norm of a model train again, after `freeze`.

    Compile the model again afterwards.

    Raises:
        ValueError: if the model has no norm.

    Example:
        >>> import keras, keras_norms
        >>> model = keras.Sequential([keras.Input((3,)), keras_norms.BatchNormalization()])
        >>> keras_norms.freeze(model)
        >>> keras_norms.unfreeze(model)
        >>> [variable.name for variable in model.trainable_variables]
        ['gamma', 'beta']
    """
    _set_trainable(model, True)


def recalibrate(
    model: keras.Model,
    data: Any,
    steps: int | None = None,
    exact: bool = False,
    batch_size: int | None = None,
    verbose: bool = True,
) -> int:
    """Replaces moving statistics by those of `data` under the present weights.

        mean = E[m_b],  variance = E[v_b + (m_b - mean)^2]

    The expectations are over all batches b, each weighted by its number of elements. Norms run
    in training mode and all other layers in inference mode. No variable but the moving statistics
    changes. Works for every norm with batch statistics, `keras.layers.BatchNormalization`
    included.

    One pass is the papers' batch average. In it the inputs of a norm depend on how the data is
    split into batches, since the norms before it use the statistics of each batch. Only the
    result of the first norm is exact, that is, the same for every split.

    With `exact=True` the result of every norm is. The norms take one pass each, in the order of
    the data, so that the norms before already have their final statistics. The norms inside of
    one recurrent layer share a pass, since each of its steps depends on those before. They are
    exact if the data is one batch.

    Args:
        model: a built `keras.Model`.
        data: an array of samples, or a dict of arrays, as `fit` takes them for `x`; or an
            iterable of batches: `x`, `(x, y)` or `(x, y, weights)`. With `exact=True` it is
            iterated once per norm, so it must start again each time, as a list or a
            `tf.data.Dataset` does.
        steps: int, how many batches to use; by default all.
        exact: whether to make one pass for each norm.
        batch_size: int, the samples of a batch, where `data` is an array; by default 32.
        verbose: whether to show the progress.

    Returns:
        The number of batches used.

    Raises:
        ValueError: if there is no data, if there is no norm with batch statistics, if the model
            called none of them, or if batches are given and a `batch_size` as well.

    Reference:
        [Differentiable Learning-to-Normalize](https://arxiv.org/abs/1806.10779), section 3.1,
        "batch average".

    Example:
        >>> import keras, keras_norms
        >>> norm = keras_norms.BatchNormalization()
        >>> model = keras.Sequential([keras.Input((1,)), norm])
        >>> batches = [keras.ops.array([[1.0], [3.0]]), keras.ops.array([[5.0], [7.0]])]
        >>> keras_norms.recalibrate(model, batches, verbose=False)
        2
        >>> float(norm.moving_mean[0]), float(norm.moving_variance[0])
        (4.0, 5.0)
    """
    norms = [layer for layer in named_layers(model).values() if _has_moving_statistics(layer)]
    if not norms:
        raise ValueError(f"The model {model.name!r} has no built layer with batch statistics.")
    data = _in_batches(data, batch_size)
    moving = {id(variable) for norm in norms for variable in _moving(norm)}
    moving |= {id(norm.moving_steps) for norm in norms if getattr(norm, "max_steps", None)}
    others = [variable for variable in all_variables(model) if id(variable) not in moving]
    values = [ops.convert_to_numpy(variable) for variable in others]
    try:
        if not exact:
            return _recalibrate(model, norms, data, steps, "recalibrate" if verbose else None)
        if iter(data) is data:
            raise ValueError(
                "exact=True iterates over `data` once per norm. Pass a list, or a dataset that "
                f"starts again each time. Received: {type(data).__name__}"
            )
        norms = _in_order_of_data(model, norms, data)
        passes = _passes(model, norms)
        for number, together in enumerate(passes, 1):
            title = f"recalibrate {number}/{len(passes)}: {together[0].name}"
            used = _recalibrate(model, together, data, steps, title if verbose else None)
        return used
    finally:
        for variable, value in zip(others, values, strict=True):
            variable.assign(value)


def _recalibrate(
    model: keras.Model, norms: Sequence, data: Iterable, steps: int | None, title: str | None
) -> int:
    """One pass over the data: pools the batch statistics of `norms` and assigns the result.

    Args:
        model: the model.
        norms: those whose statistics are replaced.
        data: iterable of batches.
        steps: how many to use, or None.
        title: what to print above the progress; None for no output.

    Returns:
        The number of batches used.
    """
    pooled = {id(norm): _Pooled() for norm in norms}
    known = [number for number in (steps, _length(data)) if number is not None]
    progress = keras.utils.Progbar(
        min(known, default=None), verbose=0 if title is None else 1, unit_name="batch"
    )
    if title is not None:
        print(title)
    used = 0
    with contextlib.ExitStack() as stack:
        for norm in norms:
            stack.enter_context(_measuring(norm, pooled[id(norm)]))
        for batch in itertools.islice(data, steps):
            patching.run(model, batch)
            used += 1
            progress.update(used, finalize=used == progress.target)
    if not used:
        raise ValueError("`data` holds no batch. Pass batches x or (x, y, ...).")
    if used != progress.target:  # which was not known, or the data ended before
        progress.target = used
        progress.update(used, finalize=True)
    if not any(part.measured for part in pooled.values()):
        raise ValueError(
            f"The model {model.name!r} ran, but called none of its norms "
            f"({', '.join(norm.name for norm in norms)}), so nothing was measured. Use the model "
            "whose layers these are, not an exported copy of it inside of another one."
        )
    for norm in norms:
        pooled[id(norm)].assign_to(norm)
    return used


def _measuring(norm: Any, pooled: "_Pooled") -> contextlib.AbstractContextManager[None]:
    """Makes `norm` run in training mode and add the statistics of each call to `pooled`."""
    ours = isinstance(norm, MovingNormalization)
    return _measuring_ours(norm, pooled) if ours else _measuring_keras(norm, pooled)


@contextlib.contextmanager
def _measuring_ours(norm: Any, pooled: "_Pooled") -> Iterator[None]:
    trainable, normalize = norm.trainable, norm.normalize

    def normalize_in_training(
        inputs: Tensor, training: Any = None, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Moments | None]:
        return normalize(inputs, True, *args, **kwargs)

    def measure(batch: Moments, first_step: Any = 0) -> None:
        batch = norm.in_moving_shape(pool(batch, norm.pooled_axes), first_step)
        mean, variance, count = map(ops.convert_to_numpy, batch)
        pooled.add(count, mean, variance)

    norm.trainable = True
    try:
        # A batch of one value is welcome: the batches are pooled.
        with patching.replaced(
            norm,
            normalize=normalize_in_training,
            update_moving=measure,
            refuse_single_values=lambda inputs, training: None,
        ):
            yield
    finally:
        norm.trainable = trainable


@contextlib.contextmanager
def _measuring_keras(norm: Any, pooled: "_Pooled") -> Iterator[None]:
    before = [ops.convert_to_numpy(variable) for variable in _moving(norm)]
    momentum, trainable = norm.momentum, norm.trainable
    call = norm.call

    def measured_call(inputs: Tensor, training: Any = None, mask: Tensor | None = None) -> Tensor:
        outputs = call(inputs, training=True, mask=mask)
        pooled.add(_count(inputs, mask, norm.axis), *map(ops.convert_to_numpy, _moving(norm)))
        return outputs

    # With momentum 0 a call leaves its own statistics as the moving ones: 0 * moving + 1 * batch.
    # That holds for finite moving statistics, so they start at 0.
    for variable in _moving(norm):
        variable.assign(ops.zeros(variable.shape))
    norm.momentum, norm.trainable = 0.0, True
    try:
        with patching.replaced(norm, call=measured_call):
            yield
    finally:
        norm.momentum, norm.trainable = momentum, trainable
        for variable, value in zip(_moving(norm), before, strict=True):
            variable.assign(value)


class _Pooled:
    """Mean and variance of the union of batches, in float64 by the law of total variance."""

    def __init__(self) -> None:
        self.measured = False
        self.count: Any = 0.0
        self.mean: Any = 0.0
        self.variance: Any = 0.0

    def add(self, count: Any, mean: np.ndarray, variance: Any = 0.0) -> None:
        self.measured = True
        total = np.maximum(self.count + count, 1)
        new, old = count / total, self.count / total
        distance = mean.astype("float64") - self.mean
        self.variance = old * self.variance + new * variance + old * new * distance**2
        self.mean = self.mean + new * distance
        self.count = self.count + count

    def assign_to(self, norm: Any) -> None:
        if not self.measured:
            return
        values = [self.mean, self.variance]
        if getattr(norm, "moving_stddev", None) is not None:
            values.append(np.sqrt(self.variance + norm.epsilon))
        for variable, value in zip(_moving(norm), values, strict=False):
            old = ops.convert_to_numpy(variable)
            variable.assign(np.where(self.count > 0, value, old).astype(old.dtype))
        if getattr(norm, "max_steps", None):
            norm.moving_steps.assign(steps_seen(self.count))


def _in_order_of_data(model: keras.Model, norms: list, data: Iterable) -> list:
    """`norms` in the order in which one batch passes them."""
    order: dict[int, Any] = {}

    def recorded(norm: Any, call: Callable) -> Callable:
        def recorded_call(*args: Any, **kwargs: Any) -> Any:
            order.setdefault(id(norm), norm)
            return call(*args, **kwargs)

        return recorded_call

    # Recurrent layers use the method `normalize` of their norms, and do not call them.
    entries = [(n, "normalize" if isinstance(n, MovingNormalization) else "call") for n in norms]
    with contextlib.ExitStack() as stack:
        for norm, entry in entries:
            method = recorded(norm, getattr(norm, entry))
            stack.enter_context(patching.replaced(norm, **{entry: method}))
        for batch in itertools.islice(data, 1):
            patching.run(model, batch)
    return list(order.values()) or norms


def _passes(model: keras.Model, norms: Sequence) -> list[list]:
    """Groups `norms` by pass: each on its own, except that one loop over time is one group."""
    loops = {
        id(norm): layer
        for layer in named_layers(model).values()
        for norm in getattr(layer, "loop_norms", ())
    }
    passes: dict[int, list] = {}
    for norm in norms:
        passes.setdefault(id(loops.get(id(norm), norm)), []).append(norm)
    return list(passes.values())


def _has_moving_statistics(layer: Any) -> bool:
    """Whether a layer is a built norm with batch statistics.

    Raises:
        ValueError: if it is Keras's batch normalization with `renorm`.
    """
    if not has_batch_statistics(layer) or layer.moving_mean is None:
        return False
    of_keras = isinstance(layer, keras.layers.BatchNormalization)
    if of_keras and getattr(layer, "renorm", False):  # which Keras has since 3.15
        raise ValueError(
            "Statistics of Keras's batch renormalization cannot be measured. Use "
            f"keras_norms.BatchNormalization(renorm=True). Received: layer {layer.name!r}"
        )
    return True


def _moving(norm: Any) -> list[keras.Variable]:
    """The moving statistics of a norm that are to be replaced."""
    names = ("moving_mean", "moving_variance", "moving_stddev")
    variables = (getattr(norm, name, None) for name in names)
    return [variable for variable in variables if variable is not None]


def _count(inputs: Tensor, mask: Tensor | None, axis: int) -> Any:
    """How many elements of `inputs` each channel has, without those that the mask drops."""
    shape = inputs.shape
    if mask is None:
        return math.prod(shape) / shape[axis]
    mask = ops.convert_to_numpy(mask).astype(bool)
    mask = np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)
    return np.moveaxis(mask, axis, -1).reshape(-1, shape[axis]).sum(0)


def _in_batches(data: Any, batch_size: int | None) -> Iterable:
    """`data` as an iterable of batches."""
    parts = keras.tree.flatten(data) if isinstance(data, dict) else [data]
    if not all(hasattr(part, "shape") and hasattr(part, "__getitem__") for part in parts):
        if batch_size is not None:
            raise ValueError(
                "`batch_size` divides an array into batches, and these are batches already. "
                f"Received: batch_size={batch_size}, data={type(data).__name__}"
            )
        return data
    count, size = (
        parts[0].shape[0],
        32 if batch_size is None else positive("batch_size", batch_size),
    )
    return [
        keras.tree.map_structure(lambda part, i=i: part[i : i + size], data)
        for i in range(0, count, size)
    ]


def _length(data: Iterable) -> int | None:
    """The number of batches if it is known without iterating, else None."""
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        return None


def _set_trainable(model: keras.Model, trainable: bool) -> None:
    norms = [layer for layer in named_layers(model).values() if is_norm(layer)]
    if not norms:
        raise ValueError(f"The model {model.name!r} has no normalization layer.")
    for norm in norms:
        norm.trainable = trainable
