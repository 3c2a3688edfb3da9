"""The arithmetic that every normalization shares, as pure functions.

    instance moments  ->  pool  ->  standardize  ->  affine

All tensors keep the rank of the activation (reduced axes have size 1), so every step broadcasts
and the activation itself is never reshaped or transposed.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

Tensor = typing.Any  # of any backend; a NumPy array where a value is known beforehand
Shape = Sequence[typing.Any]  # of ints, and None or scalars where a size is not known


@dataclasses.dataclass(frozen=True)
class Axes:
    """The role of every axis of an activation: samples, positions, features."""

    batch: tuple[int, ...]
    spatial: tuple[int, ...]
    channel: int


class Moments(typing.NamedTuple):
    """Mean and variance of sets of elements, and how many elements each set has.

    `variance` is None for sets of one element. `count` broadcasts against `mean`: an axis of
    size 1 says that all sets along that axis have the same size. It is a NumPy array where the
    size is known beforehand, so that no set is empty.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor


def finite_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x` with 0 for what the mask drops and is not finite.

    The gradient of padding is multiplied by 0, which would leave a NaN as it is.
    """
    if mask is None:
        return x
    return ops.where(ops.logical_or(mask, ops.isfinite(x)), x, 0)


def instance_moments(
    x: Tensor, axes: Axes, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Moments]:
    """Moments of each channel of each sample, the only statistics that read the activation.

        x = pivot + centred,  mean = pivot + E[centred],  variance = E[centred^2] - E[centred]^2

    The identities hold for any constant pivot, so its gradient is exactly zero. A pivot close
    to the mean makes them exact in floating point as well: `E[centred]` is what the first sum
    lost to rounding.

    Args:
        x: activation in float32 or float64.
        axes: `Axes` of `x`.
        mask: None, or a boolean tensor of the rank of `x`, broadcastable to it.

    Returns:
        `(centred, pivot, moments)`. An empty sample has mean 0 and variance 1.
    """
    size = elements(x, axes.spatial)
    if mask is None:
        count = constant(size, x)
    elif all(mask.shape[axis] == 1 for axis in axes.spatial):
        # This mask keeps or drops whole samples, so the moments of a kept one are as without it.
        count, mask = ops.cast(mask, x.dtype) * ops.cast(size, x.dtype), None
    else:
        mask = _expand(mask, axes.spatial, x)
        count = ops.sum(ops.cast(mask, x.dtype), axes.spatial, keepdims=True)
    if not axes.spatial:
        return x, 0.0, Moments(x, None, count)

    def average(values: Tensor) -> Tensor:
        if mask is None:
            return ops.mean(values, axes.spatial, keepdims=True)
        total = ops.sum(ops.where(mask, values, 0), axes.spatial, keepdims=True)
        return total / ops.maximum(count, 1)

    pivot = average(x)
    if not isinstance(count, np.ndarray):
        pivot = ops.where(count > 0, pivot, 0)
    pivot = ops.stop_gradient(pivot)
    centred = x - pivot
    offset = average(centred)
    variance = average(ops.square(centred)) - ops.square(offset)
    # Not `maximum`, whose slope at 0 is one half on JAX.
    variance = ops.where(variance < 0, 0, variance)
    return centred, pivot, finite(pivot + offset, variance, count)


def pool(moments: Moments, axes: tuple[int, ...]) -> Moments:
    """Moments of the union of sets, by the law of total variance.

        mean = E[m],  variance = E[v + (m - mean)^2]

    where `E` weighs each set by its count. A union without elements has mean 0, variance 1.

    Args:
        moments: `Moments` of the sets.
        axes: tuple of ints, the axes along which sets are united.
    """
    means, variances, count = moments
    if variances is not None and all(means.shape[axis] == 1 for axis in axes):
        return moments
    if any(count.shape[axis] != 1 for axis in axes):
        count = _expand(count, axes, means)
        total = ops.sum(count, axes, keepdims=True)

        def average(values: Tensor) -> Tensor:
            # `where`, because a set without elements may hold anything, NaN included.
            values = ops.where(count > 0, values * count, 0)
            return ops.sum(values, axes, keepdims=True) / ops.maximum(total, 1)
    else:
        size = elements(means, axes)
        # A union of no sets is empty, which a NumPy array would deny.
        known = isinstance(size, int) and size
        total = count * (size if known else ops.cast(size, count.dtype))

        def average(values: Tensor) -> Tensor:
            return ops.mean(values, axes, keepdims=True)

    mean = average(means)
    spread = ops.square(means - mean)
    return finite(mean, average(spread if variances is None else variances + spread), total)


def pool_groups(moments: Moments, axis: int, groups: int) -> Moments:
    """`pool` over the channels of each of `groups` equal groups, repeated for each channel."""
    channels = moments.mean.shape[axis]
    if groups == 1:
        return pool(moments, (axis,))
    if groups == channels:
        mean, variance, count = moments
        return Moments(mean, ops.zeros_like(mean) if variance is None else variance, count)

    before, size = (slice(None),) * axis, channels // groups

    def split(tensor: Tensor) -> Tensor:
        if tensor is None or tensor.shape[axis] == 1:
            return None if tensor is None else tensor[(*before, None)]
        shape = shape_to_keep(tensor)
        return ops.reshape(tensor, shape[:axis] + (groups, size) + shape[axis + 1 :])

    # A product, because XLA cannot differentiate `repeat` inside of a loop over time.
    ones = ops.ones((size,) + (1,) * (len(moments.mean.shape) - axis - 1), moments.mean.dtype)

    def join(tensor: Tensor) -> Tensor:
        if tensor.shape[axis] == 1:
            return tensor[(*before, slice(None), 0)]
        shape = shape_to_keep(tensor)
        return ops.reshape(tensor * ones, shape[:axis] + (channels,) + shape[axis + 2 :])

    return Moments(*map(join, pool(Moments(*map(split, moments)), (axis + 1,))))


def pool_slices(
    moments: Moments, axis: int, size: int, axes: tuple[int, ...]
) -> tuple[Moments, Moments]:
    """`pool` over `axes` of each slice of `size` entries along `axis`; the last may be smaller.

    Args:
        moments: `Moments` of the sets.
        axis: int, one of `axes`.
        size: int, entries of a slice.
        axes: tuple of ints, the axes along which the sets of a slice are united.

    Returns:
        `(entries, slices)`: `Moments` with a set for each slice along `axis`, first repeated for
        each of its entries.
    """
    length = ops.shape(moments.mean)[axis]
    if isinstance(length, int):
        size = max(1, min(size, length))
    missing = -length % size
    slices = -(-length // size)
    before = (slice(None),) * axis

    def split(tensor: Tensor) -> Tensor:
        if tensor is None:
            return None
        if not (isinstance(missing, int) and missing == 0):
            tensor = ops.pad(tensor, [(0, missing * (i == axis)) for i in range(len(tensor.shape))])
        elif tensor.shape[axis] == 1:
            return tensor[(*before, None)]
        shape = ops.shape(tensor)
        return ops.reshape(tensor, shape[:axis] + (slices, size) + shape[axis + 1 :])

    if not (isinstance(missing, int) and missing == 0):
        # What fills up the last slice counts nothing.
        moments = moments._replace(count=_expand(moments.count, (axis,), moments.mean))
    inner = [other + (other >= axis) for other in axes]
    pooled = pool(Moments(*map(split, moments)), tuple(inner))
    ones = ops.ones((size,) + (1,) * (len(moments.mean.shape) - axis - 1), moments.mean.dtype)

    def repeat(tensor: Tensor) -> Tensor:
        shape = ops.shape(tensor)
        shape = shape[:axis] + (slices * size,) + shape[axis + 2 :]
        return ops.reshape(tensor * ones, shape)[(*before, slice(0, length))]

    count = ops.broadcast_to(pooled.count, ops.shape(pooled.mean))
    entries = Moments(repeat(pooled.mean), repeat(pooled.variance), repeat(count))
    return entries, Moments(*(part[(*before, slice(None), 0)] for part in pooled))


def pool_replicas(moments: Moments) -> Moments:
    """`pool` over the replicas of `tf.distribute`; the moments themselves where there is one.

    One differentiable all-reduce: each replica writes its moments into its own slot of a zero
    tensor, and the sum of those tensors holds all of them on every replica.
    """
    context = replica_context()
    if context is None:
        return moments
    packed = ops.stack([ops.broadcast_to(part, ops.shape(moments.mean)) for part in moments])
    replicas = context.num_replicas_in_sync
    slot = ops.one_hot(context.replica_id_in_sync_group, replicas, dtype=packed.dtype)
    slot = ops.reshape(slot, (replicas,) + (1,) * len(packed.shape))
    packed = _sum_over_replicas(context, slot * packed)
    return Moments(*(part[0] for part in pool(Moments(*ops.unstack(packed, axis=1)), (0,))))


def average(moments: Moments, axes: tuple[int, ...]) -> Moments:
    """Count-weighted mean of the sets' own means and variances."""
    mean, variance, count = moments
    if all(mean.shape[axis] == 1 for axis in axes):
        return moments
    count = ops.broadcast_to(count, ops.shape(mean))
    total = ops.sum(count, axes, keepdims=True)
    weight = count / ops.maximum(total, 1)
    mean, variance = (ops.sum(part * weight, axes, keepdims=True) for part in (mean, variance))
    return Moments(mean, variance, total)


def average_replicas(moments: Moments) -> Moments:
    """Count-weighted mean of the replicas' own means and variances, equal on all replicas."""
    context = replica_context()
    if context is None:
        return moments
    mean, variance, count = moments
    count = ops.broadcast_to(count, ops.shape(mean))
    total = _sum_over_replicas(context, ops.stack([mean * count, variance * count, count]))
    weight = ops.maximum(total[2], 1)
    return Moments(total[0] / weight, total[1] / weight, total[2])


def _sum_over_replicas(context: typing.Any, values: Tensor) -> Tensor:
    """The sum of `values` over the replicas of `tf.distribute`, on each of them.

    Like any custom gradient, that of `all_reduce` is looked for in all that the result depends on,
    which is the graph of all replicas. The search ends at `stop_gradient`.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def total(values: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return context.all_reduce("SUM", tf.stop_gradient(values)), total

    return total(values)


def affine(
    mean: Tensor, inverse_std: Tensor | None, gamma: Tensor | None, beta: Tensor | None
) -> tuple[Tensor | None, Tensor]:
    """`(scale, shift)` with `gamma * (x - mean) * inverse_std + beta = scale * x + shift`.

    Args:
        mean: tensor that broadcasts against `x`.
        inverse_std: the same, or None for 1.
        gamma: the same, or None for 1.
        beta: the same, or None for 0.

    Returns:
        Two tensors; `scale` is None for 1.
    """
    factors = [factor for factor in (inverse_std, gamma) if factor is not None]
    scale = math.prod(factors[1:], start=factors[0]) if factors else None
    mean = mean if scale is None else mean * scale
    return scale, -mean if beta is None else beta - mean


def finite(mean: Tensor, variance: Tensor, count: Tensor) -> Moments:
    """`Moments`, with mean 0 and variance 1 where there are no elements."""
    if not isinstance(count, np.ndarray):
        some = count > 0
        mean, variance = ops.where(some, mean, 0), ops.where(some, variance, 1)
    return Moments(mean, variance, count)


def elements(x: Tensor, axes: tuple[int, ...]) -> typing.Any:
    """How many elements lie along `axes`, an int where that is known."""
    # `ops.shape` is an operation, even where the size that is wanted is known.
    sizes = [ops.shape(x)[a] if x.shape[a] is None else x.shape[a] for a in axes]
    # Known sizes first: the product of two ints is no operation.
    return math.prod(sorted(sizes, key=lambda size: not isinstance(size, int)))


def shape_to_keep(x: Tensor) -> tuple[typing.Any, ...]:
    """The shape of `x` for `reshape`: -1 says which size is not known, without an operation."""
    sizes = tuple(x.shape)
    if sizes.count(None) == 1 and 0 not in sizes:
        return tuple(-1 if size is None else size for size in sizes)
    return ops.shape(x) if None in sizes else sizes


def constant(size: typing.Any, like: Tensor) -> Tensor:
    """The count of sets that all have `size` elements, in rank and dtype of `like`."""
    shape = (1,) * len(like.shape)
    if isinstance(size, int) and size:
        return np.full(shape, size, keras.backend.standardize_dtype(like.dtype))
    return ops.reshape(ops.cast(size, like.dtype), shape)


def _expand(tensor: Tensor, axes: tuple[int, ...], like: Tensor) -> Tensor:
    """`tensor` broadcast along `axes` to the size of `like`."""
    shape, full = list(ops.shape(tensor)), ops.shape(like)
    for axis in axes:
        shape[axis] = full[axis]
    return ops.broadcast_to(tensor, shape)


def replica_context() -> typing.Any:
    """The replica context of `tf.distribute`, or None where there are no other replicas."""
    if keras.config.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None
