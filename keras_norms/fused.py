"""A training step of a normalization as two XLA programs, under TensorFlow on CPUs.

    forward:   y = scale * (x - pivot) + shift
    backward:  dx = scale * dy + slope * (x - pivot) + rest

The programs stand in a graph that need not be compiled itself. Scale and shift come from the
layer, whatever it is, and how they follow from the moments and the weights is differentiated by
TensorFlow. All the rest is done by hand: gradients need no more of the activation than its two
sums over positions, of `dy` and of `dy * (x - pivot)`. From the forward to the backward pass `x`
is kept, and the moments of each channel of each sample.
"""

import functools
import json
import math

import keras
from keras import ops

from keras_norms.moments import Moments, constant, replica_context

# Below this many elements the programs cost as much as they save.
LEAST_ELEMENTS = 2**17
USUAL_BATCH = 32  # where the size of the batch is not known


def serves(layer, inputs, training, mask):
    """Whether `apply` can take the place of `Normalization.apply`, which can do everything.

    It can in training, in a TensorFlow graph, on the CPU, on one replica, without a mask, where
    samples come first, then positions, then channels, and all sizes but the batch's are known;
    and it does if the activation is large.
    """
    if keras.config.backend() != "tensorflow" or not training or mask is not None:
        return False
    import tensorflow as tf

    axes, (batch, *sizes) = layer.axes, inputs.shape
    return bool(
        not tf.executing_eagerly()
        and layer.trainable
        and layer.fusible
        and inputs.dtype.is_floating
        and axes.batch + axes.spatial + (axes.channel,) == tuple(range(len(sizes) + 1))
        and layer.moment_axes.spatial
        and all(sizes)
        and math.prod(sizes) * (batch or USUAL_BATCH) >= LEAST_ELEMENTS
        and replica_context() is None
        and all(device.device_type == "CPU" for device in tf.config.list_logical_devices())
    )


def apply(layer, inputs):
    """What `Normalization.apply` returns in training."""
    import tensorflow as tf

    forward, backward = _programs(_Kind(layer))

    @tf.custom_gradient
    def run(x, *weights):
        y, moved, saved = forward(x, weights)

        def gradient(dy, *_):
            dx, d_weights = backward(x, dy, saved, weights)
            return dx, *d_weights

        return (y, moved), gradient

    y, moved = run(inputs, *map(ops.convert_to_tensor, layer.variables))
    return y, Moments(*moved) if moved else None


class _Kind:
    """A layer, equal to any other that the same programs serve."""

    def __init__(self, layer):
        self.layer = layer
        self.ours = type(layer).__module__.startswith("keras_norms.")
        config = layer.get_config()
        for name in list(config):
            if name == "name" or name.endswith(("_initializer", "_regularizer", "_constraint")):
                del config[name]
        shape = layer.input_spec.ndim, layer.input_spec.axes
        settings = json.dumps([shape, config], sort_keys=True, default=repr)
        # Other people's layers may depend on more than their config says.
        self._key = type(layer) if self.ours else id(layer), settings

    def __eq__(self, other):
        return self._key == other._key

    def __hash__(self):
        return hash(self._key)


@functools.lru_cache(64)
def _programs(kind):
    import tensorflow as tf

    layer = kind.layer
    variables, spatial = layer.variables, layer.moment_axes.spatial
    program = functools.partial(tf.function, jit_compile=True, autograph=False)

    def coefficients(x, pivot, offset, variance, weights):
        # Our layers take means about any origin. About 0, large ones would be rounded coarsely.
        origin = _first(x, range(len(x.shape))) if kind.ours else 0.0
        pivot = pivot - origin
        instance = Moments(pivot + offset, variance, constant(_count(x, spatial), x))
        with keras.StatelessScope(zip(variables, weights, strict=True)):
            *found, moved = layer.coefficients(x, pivot, instance, training=True)
        return *found, moved and moved._replace(mean=moved.mean + origin)

    @program
    def forward(x, weights):
        x = _cast(x, layer)
        pivot = _first(x, spatial)
        offset = _mean(x - pivot, spatial)
        variance = _mean(ops.square(x - pivot), spatial) - ops.square(offset)
        variance = ops.maximum(variance, 0)
        scale, shift, moved = coefficients(x, pivot, offset, variance, weights)
        scale, shift = _settled(scale, shift)
        y = (x - pivot) * scale + shift
        return ops.cast(y, layer.compute_dtype), moved or (), (pivot, offset, variance)

    @program
    def backward(x, dy, saved, weights):
        dtype, x, dy = x.dtype, _cast(x, layer), _cast(dy, layer)
        pivot, offset, variance = saved
        with tf.GradientTape() as tape:
            tape.watch((offset, variance, weights))
            scale, shift, _ = coefficients(x, pivot, offset, variance, weights)
        d_scale = _sum_like(scale, dy * (x - pivot), spatial)
        d_shift = _sum_like(shift, dy, spatial)
        d_offset, d_variance, d_weights = tape.gradient(
            (scale, shift), (offset, variance, weights), (d_scale, d_shift)
        )
        size = _size(x, spatial)
        slope = 2 * d_variance / size
        scale, slope, rest = _settled(scale, slope, d_offset / size - slope * offset)
        dx = dy * scale + ((x - pivot) * slope + rest)
        return ops.cast(dx, dtype), d_weights

    return forward, backward


def _cast(x, layer):
    return ops.cast(x, keras.backend.result_type(x.dtype, layer.compute_dtype, "float32"))


def _count(x, axes):
    return math.prod(ops.shape(x)[axis] for axis in axes)


def _size(x, axes):
    """What to divide a sum by, which is 1 for a sum of nothing."""
    count = _count(x, axes)
    return count if isinstance(count, int) else ops.cast(ops.maximum(count, 1), x.dtype)


def _first(x, axes):
    """The first element of each set, or 0.

    As one of the set it is no further from the mean than `sqrt(size)` standard deviations, which
    bounds what rounding does to the variance about it.
    """
    first = x[tuple(slice(0, 1 if axis in axes else None) for axis in range(len(x.shape)))]
    return ops.sum(first, axes, keepdims=True)


def _mean(values, axes):
    return _sum(values, axes) / _size(values, axes)


def _sum(values, axes):
    """`ops.sum` with `keepdims`, of axes that precede the last.

    XLA:CPU is twice as fast at it where neighbours are added element by element first.
    """
    shape = ops.shape(values)
    size = math.prod(shape[axis] for axis in axes if axis)
    near = max(n for n in range(1, 9) if size % n == 0)
    parts = ops.reshape(values, (-1, size // near, near, shape[-1]))
    values = ops.sum(sum(parts[:, :, i] for i in range(near)), 1)
    values = ops.reshape(values, [1 if i and i in axes else n for i, n in enumerate(shape)])
    return ops.sum(values, 0, keepdims=True) if 0 in axes else values


def _sum_like(small, values, spatial):
    """The sum of `values` over the axes along which `small` has size 1."""
    values = _sum(values, spatial)
    axes = [a for a, size in enumerate(small.shape) if size == 1 and values.shape[a] != 1]
    return ops.sum(values, axes, keepdims=True) if axes else values


def _settled(*tensors):
    """The tensors as they are, but computed before they meet an activation.

    XLA would compute them anew for each of its elements; across a branch it does not.
    """
    import tensorflow as tf

    probe = tf.reduce_any(tf.math.is_nan(tf.reshape(tensors[0], (-1,))[:1]))
    return tf.cond(probe, lambda: [tensor + 0 for tensor in tensors], lambda: list(tensors))
