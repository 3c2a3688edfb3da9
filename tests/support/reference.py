"""The norms in float64 numpy, written from the papers' formulas over the whole input.

Nothing here pools: every set of elements is reduced on its own, in two passes.
"""

import math

import numpy as np
from keras import ops

import keras_norms


def expected(layer, x, mask=None, training=False, weights=None, target=None):
    """What `layer` should do, from its constructor arguments and its weights.

    Args:
        layer: a built layer of `keras_norms`.
        x: array.
        mask: None, or an array that covers leading axes of `x`.
        training: whether to use batch statistics.
        weights: `{name: array}`, by default the layer's.
        target: array, to which the statistics of `x` are applied; by default `x`.

    Returns:
        `(y, moving)`: output, and `{name: array}` with the moving statistics after the call.
        `y` is without meaning where `mask` is False.
    """
    if weights is None:
        weights = {v.name: np.asarray(ops.convert_to_numpy(v), "float64") for v in layer.weights}
    target = np.asarray(x if target is None else target, "float64")
    target, _ = _flatten(target, layer.axis, layer.batch_axis)
    x, restore = _flatten(np.asarray(x, "float64"), layer.axis, layer.batch_axis)
    if mask is None:
        valid = np.ones(x.shape, bool)
    else:
        mask = np.asarray(mask, bool)
        mask = mask.reshape(mask.shape + (1,) * (len(restore.shape) - mask.ndim))
        mask = np.broadcast_to(mask, restore.shape)
        valid, _ = _flatten(mask, layer.axis, layer.batch_axis)

    moving = {name: w for name, w in weights.items() if name.startswith(("moving_", "renorm_"))}
    uses_batch = training and layer.trainable and bool(moving)
    if uses_batch:
        batch = moments(x, valid, (0, 1))
        after = moved(layer, moving, batch, valid.any((0, 1)))
    else:
        batch = moving.get("moving_mean"), moving.get("moving_variance")
        after = moving

    def standardized(statistics):
        mean, variance = statistics
        return (target - mean) / np.sqrt(variance + layer.epsilon)

    kind = type(layer)
    if kind is keras_norms.BatchNormalization:
        y = standardized(batch)
        if layer.renorm and uses_batch:
            renorm_std = np.maximum(weights["renorm_stddev"], np.sqrt(layer.epsilon))
            limits = {"rmin": 0, "rmax": np.inf, "dmax": np.inf} | layer.renorm_clipping
            r = np.sqrt(batch[1] + layer.epsilon) / renorm_std
            d = (batch[0] - weights["renorm_mean"]) / renorm_std
            y = y * np.clip(r, limits["rmin"], limits["rmax"])
            y = y + np.clip(d, -limits["dmax"], limits["dmax"])
    elif kind is keras_norms.MeanOnlyBatchNormalization:
        y = target - batch[0]
    elif kind is keras_norms.InstanceNormalization:
        y = standardized(moments(x, valid, 1))
    elif kind is keras_norms.GroupNormalization:
        y = standardized(group_moments(x, valid, layer.groups))
    elif kind is keras_norms.BatchInstanceNormalization:
        gate = weights["gate"]
        y = gate * standardized(batch) + (1 - gate) * standardized(moments(x, valid, 1))
    elif kind is keras_norms.SwitchableNormalization:
        kinds = {
            "instance": lambda: moments(x, valid, 1),
            "group": lambda: group_moments(x, valid, layer.groups),
            "layer": lambda: moments(x, valid, (1, 2)),
            "batch": lambda: batch,
        }
        no_positions = _has_no_positions(layer, restore.shape)
        names = [s for s in layer.statistics if not (s == "instance" and no_positions)]
        means, variances = zip(*(kinds[name]() for name in names), strict=True)
        y = standardized(
            (
                sum(w * m for w, m in zip(softmax(weights["mean_logits"]), means, strict=True)),
                sum(
                    w * v
                    for w, v in zip(softmax(weights["variance_logits"]), variances, strict=True)
                ),
            )
        )
    else:
        raise NotImplementedError(kind)
    return restore(weights.get("gamma", 1) * y + weights.get("beta", 0)), after


def moved(layer, moving, batch, seen):
    """The moving statistics after a batch, of which some channels may have seen nothing."""
    mean, variance = (part.ravel() for part in batch)
    std = np.sqrt(variance + layer.epsilon) if "renorm_stddev" in moving else None
    new = {"moving_mean": mean, "moving_variance": variance, "moving_stddev": std}
    new |= {"renorm_mean": mean, "renorm_stddev": std}
    after = {}
    for name, old in moving.items():
        if name not in new:  # moving_steps
            continue
        momentum = layer.renorm_momentum if name.startswith("renorm_") else layer.momentum
        momentum = float(np.dtype(layer.moving_mean.dtype).type(momentum))
        after[name] = np.where(seen, momentum * old + (1 - momentum) * new[name], old)
    if std is not None:
        variance = after["moving_stddev"] ** 2 - layer.epsilon
        after["moving_variance"] = np.where(seen, variance, moving["moving_variance"])
    return after


def moments(x, valid, axes):
    """Mean and biased variance over `axes` of the valid elements; 0 and 1 where there are none."""
    count = valid.sum(axes, keepdims=True)
    mean = np.where(valid, x, 0).sum(axes, keepdims=True) / np.maximum(count, 1)
    squares = np.where(valid, x - mean, 0) ** 2
    variance = squares.sum(axes, keepdims=True) / np.maximum(count, 1)
    return mean, np.where(count > 0, variance, 1)


def group_moments(x, valid, groups):
    """The moments of each group of channels, for each channel."""
    channels = x.shape[-1]
    groups = {-1: channels, "auto": auto_groups(channels)}.get(groups, groups)
    members = np.arange(channels) // (channels // groups)
    sets = [moments(x[..., members == g], valid[..., members == g], (1, 2)) for g in range(groups)]
    return tuple(np.concatenate(parts, -1)[..., members] for parts in zip(*sets, strict=True))


def auto_groups(channels):
    """The largest divisor of `channels` that is <= min(32, channels / 2); 1 for one channel."""
    divisors = (g for g in range(1, channels + 1) if channels % g == 0)
    return max((g for g in divisors if g <= min(32, channels / 2)), default=1)


def softmax(logits):
    e = np.exp(logits - np.max(logits))
    return e / e.sum()


def _flatten(x, axis, batch_axis):
    """`x` as (samples, positions, channels), and the way back."""
    rank = x.ndim
    batch = [a % rank for a in (batch_axis if isinstance(batch_axis, tuple) else (batch_axis,))]
    channel = axis % rank
    spatial = [a for a in range(rank) if a not in batch and a != channel]
    order = [*batch, *spatial, channel]
    shuffled = x.transpose(order)
    flat = shuffled.reshape(math.prod(x.shape[a] for a in batch), -1, x.shape[channel])

    def restore(y):
        return np.broadcast_to(y, flat.shape).reshape(shuffled.shape).transpose(np.argsort(order))

    restore.shape = x.shape
    return flat, restore


def _has_no_positions(layer, shape):
    batch = layer.batch_axis if isinstance(layer.batch_axis, tuple) else (layer.batch_axis,)
    return len(shape) == len(batch) + 1
