"""A training step of a normalization as two XLA programs, under TensorFlow on CPUs.

    forward:   y = scale * (x - pivot) + shift
    backward:  dx = scale * dy + slope * (x - pivot) + rest

The programs stand in a graph that need not be compiled itself. Scale and shift come from the
layer, in float64, and how they follow from the moments and the weights is differentiated by
TensorFlow. All the rest is done by hand: gradients need no more of the activation than its two
sums over positions, of `dy` and of `dy * (x - pivot)`. From the forward to the backward pass `x`
is kept, and three numbers for each channel of each sample.
"""

import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from keras import ops

from keras_norms import programs
from keras_norms.moments import Moments, Tensor, constant, elements, finite, replica_context

if TYPE_CHECKING:
    from keras_norms.base import Normalization

Weights = Mapping[str, Tensor]


class Sums(NamedTuple):
    """Sums over positions, that a program keeps for its backward pass.

    Attributes:
        few: of a few elements, whose mean is the pivot.
        total: of `x - pivot`.
        squares: of `(x - pivot)^2`.
    """

    few: Tensor
    total: Tensor
    squares: Tensor


# With fewer elements in a sample the programs cost as much as they save, in usual batches of 32.
# The batch does not count: a run would change over where its last batch is smaller.
LEAST_ELEMENTS = 2**12


def can_fuse(
    layer: "Normalization", inputs: Tensor, training: bool | None, mask: Tensor | None
) -> bool:
    """Whether `normalize` can take the place of `Normalization.normalize`.

    It can on CPUs, without synchronized replicas, where samples come first, then positions, then
    channels, and all sizes but the batch's are known. For a small activation it does not, as that
    gains nothing.
    """
    if not programs.can_serve(layer, inputs, training, mask):
        return False
    axes, (_, *sizes) = layer.axes, inputs.shape
    return bool(
        axes.batch + axes.spatial + (axes.channel,) == tuple(range(len(sizes) + 1))
        and layer.moment_axes.spatial
        and all(sizes)
        and math.prod(sizes) >= LEAST_ELEMENTS
        and not (getattr(layer, "synchronized", False) and replica_context() is not None)
        and programs.on_cpus()
    )


def normalize(
    layer: "Normalization", inputs: Tensor, weights: Mapping[str, Any]
) -> tuple[Tensor, Moments | None]:
    """What `Normalization.normalize` returns in training."""
    import tensorflow as tf

    settings = {
        name: value
        for name, value in layer.arguments().items()
        if not name.endswith(("_initializer", "_regularizer", "_constraint"))
    }
    run = programs.shared(
        _make_program,
        type(layer),
        json.dumps(settings),
        layer.compute_dtype,
        tuple(inputs.shape[1:]),
        inputs.dtype,
    )
    y, batch = run(inputs, {name: tf.convert_to_tensor(w) for name, w in weights.items()})
    return y, Moments(*batch) if batch else None


def _make_program(
    cls: type["Normalization"],
    settings: str,
    compute_dtype: str,
    sizes: tuple[int, ...],
    input_dtype: Any,
) -> Callable:
    """A function `(x, weights) -> (y, batch)`, for all layers and inputs with these properties.

    `weights` are those of the layer by name, so that layers share a program and no model is
    kept alive by one.
    """
    import tensorflow as tf

    # Holds the settings; it is never built and has no weights.
    layer = cls(**json.loads(settings), name="fused")
    layer.set_input_shape((None, *sizes))
    spatial = layer.moment_axes.spatial
    dtype = layer.statistics_dtype(input_dtype)
    compiled = functools.partial(tf.function, jit_compile=True, autograph=False)

    def coefficients(x: Tensor, pivot: Tensor, sums: Sums, weights: Weights) -> Any:
        # In float64, where neither large means nor far pivots cost precision.
        pivot, total, squares = (ops.cast(t, "float64") for t in (pivot, sums.total, sums.squares))
        size = _size(x, spatial, "float64")
        offset = total / size
        variance = ops.maximum(squares / size - ops.square(offset), 0)
        mean, count = pivot + offset, elements(x, spatial)
        instance = finite(mean, variance, constant(count, mean))
        scale, shift, batch = layer.coefficients(mean, pivot, instance, weights, training=True)
        # Of the type that the layer computes by itself, as another replica may.
        scale, shift, *moments = (ops.cast(t, dtype) for t in (scale, shift, *(batch or ())))
        return scale, shift, tuple(moments)

    @compiled
    def forward(x: Tensor, weights: Weights) -> tuple[Tensor, Any, Sums]:
        x = ops.cast(x, dtype)
        few = _few(x, spatial)
        pivot = _pivot(x, few, spatial)
        centred = x - pivot
        sums = Sums(few, _sum(centred, spatial), _sum(ops.square(centred), spatial))
        scale, shift, batch = coefficients(x, pivot, sums, weights)
        scale, shift = _computed_once(scale, shift)
        return ops.cast(centred * scale + shift, compute_dtype), batch, sums

    @compiled
    def backward(
        x: Tensor, sums: Sums, weights: Weights, dy: Tensor, d_batch: Any
    ) -> tuple[Tensor, list]:
        x, dy = ops.cast(x, dtype), ops.cast(dy, dtype)
        pivot = _pivot(x, sums.few, spatial)
        centred = x - pivot
        scale, shift, batch = coefficients(x, pivot, sums, weights)
        d_scale = _sum_like(scale, _sum(dy * centred, spatial))
        d_shift = _sum_like(shift, ops.sum(dy, spatial, keepdims=True))
        # Not by a tape: those of forward-mode differentiation stop what tapes record.
        d_total, d_squares, *d_weights = tf.gradients(
            [scale, shift, *batch[:2]],
            [sums.total, sums.squares, *weights.values()],
            [d_scale, d_shift, *d_batch[:2]],
        )
        scale, slope, rest = _computed_once(scale, 2 * d_squares, d_total)
        dx = dy * scale + (centred * slope + rest)
        return ops.cast(dx, input_dtype), d_weights

    def run(x: Tensor, weights: Weights) -> tuple[Tensor, Any]:
        names, values = list(weights), list(weights.values())

        @tf.custom_gradient
        def with_gradient(x: Tensor, *values: Tensor) -> tuple[Any, Callable]:
            weights = dict(zip(names, values, strict=True))
            y, batch, sums = forward(x, weights)

            def gradient(dy: Tensor, *d_batch: Tensor) -> tuple:
                dx, d_weights = backward(x, sums, weights, dy, d_batch)
                return dx, *d_weights

            return (y, batch), gradient

        return with_gradient(x, *values)

    # TensorFlow registers a custom gradient for good: here once, not in every graph.
    return tf.function(run, autograph=False)


def _size(x: Tensor, axes: tuple[int, ...], dtype: Any) -> Any:
    """What to divide a sum by, which is 1 for a sum of nothing."""
    count = elements(x, axes)
    return max(count, 1) if isinstance(count, int) else ops.cast(ops.maximum(count, 1), dtype)


def _few(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The sum of a few elements of each set, eight at most."""
    first, *others = axes
    slices = [slice(None)] * len(x.shape)
    slices[first] = slice(0, 8)
    for axis in others:
        slices[axis] = slice(0, 1)
    # No result depends on the pivot but by rounding, so its gradient is exactly zero.
    return ops.stop_gradient(ops.sum(x[tuple(slices)], axes, keepdims=True))


def _pivot(x: Tensor, few: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The mean of those few elements.

    An element is at most `sqrt(size)` standard deviations from the mean of its set, so that the
    variance loses `size` roundings at worst, where all eight are outliers, and mostly none.
    """
    size = _size(x, axes[:1], x.dtype)
    return few / (min(size, 8) if isinstance(size, int) else ops.minimum(size, 8))


def _sum(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """`ops.sum` with `keepdims`, of axes that precede the last.

    XLA:CPU is twice as fast at sums of what it has to compute where neighbours are added element
    by element first. It adds up a tensor that it need not compute faster by itself.
    """
    import tensorflow as tf

    shape = ops.shape(values)
    size = math.prod(shape[axis] for axis in axes if axis)
    near = max(n for n in range(1, 9) if size % n == 0)
    parts = tf.unstack(ops.reshape(values, (-1, size // near, near, shape[-1])), axis=2)
    values = ops.sum(tf.add_n(parts), 1)
    values = ops.reshape(values, [1 if i and i in axes else n for i, n in enumerate(shape)])
    return ops.sum(values, 0, keepdims=True) if 0 in axes else values


def _sum_like(small: Tensor, values: Tensor) -> Tensor:
    """The sum of `values` over the axes along which `small` has size 1."""
    axes = [a for a, size in enumerate(small.shape) if size == 1 and values.shape[a] != 1]
    return ops.sum(values, axes, keepdims=True) if axes else values


def _computed_once(*tensors: Tensor) -> list[Tensor]:
    """The tensors, computed before they are combined with an activation.

    Otherwise XLA moves their formula into the loop over the activation and computes it anew for
    each element. It does not move a division, hence this one, by 1. It cannot leave that out,
    since it does not know that the divisor of a NaN makes no difference.
    """
    return [t / (1 + ops.cast(ops.isnan(t), t.dtype)) for t in tensors]
