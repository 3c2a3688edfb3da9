"""What all normalizations with batch statistics share: the moving ones that inference uses."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_norms.arguments import Initializer, initializer, positive, share
from keras_norms.base import Normalization
from keras_norms.moments import (
    Axes,
    Moments,
    Shape,
    Tensor,
    average,
    average_replicas,
    pool,
    pool_replicas,
    pool_slices,
    replica_context,
)


class MovingNormalization(Normalization):
    """Base of the normalizations with batch statistics, which inference replaces by moving ones.

        moving = momentum * moving + (1 - momentum) * batch

    Args:
        axis: int, the channel axis.
        momentum: float in [0, 1], what one training step keeps of the moving statistics (1
            minus PyTorch's momentum). A step that computes the layer again for its gradient, as
            `keras.remat` and `tf.recompute_grad` do, moves them each time: keep the layer out of
            what is computed again, or use `keras_norms.recalibrate` after training.
        epsilon: float, added to the variance.
        center: whether to add `beta`.
        scale: whether to multiply by `gamma`.
        moving_mean_initializer: initializer of `moving_mean`.
        moving_variance_initializer: initializer of `moving_variance`.
        synchronized: whether batch statistics are those of all replicas of `tf.distribute`
            together. No effect elsewhere: other backends' batch statistics are global already.
        ghost_batch_size: None, or int: take the batch statistics over slices of so many samples
            each; the last may be smaller. Replicas with so many samples each, not synchronized,
            give the same result. The slices are those of the first axis in `batch_axis`.
        max_steps: None, or int: keep the statistics of each time step apart, as recurrent batch
            normalization does. Time is the last of the (two or more) axes in `batch_axis`, and
            the moving statistics have shape `(max_steps, channels)`; the last one serves all
            later steps. Inference uses the last step that training has seen for those it has not.
        **kwargs: arguments of `Normalization`.

    Raises:
        ValueError: for an argument that is out of its range, for statistics that are both
            synchronized and those of slices, or as in `Normalization`. At build: for `max_steps`
            without an axis of time.
    """

    # Whether it uses moments of single samples beside those of the batch.
    _needs_sample_moments = True

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        *,
        moving_mean_initializer: Initializer = "zeros",
        moving_variance_initializer: Initializer = "ones",
        synchronized: bool = False,
        ghost_batch_size: int | None = None,
        max_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis=axis, epsilon=epsilon, center=center, scale=scale, **kwargs)
        self.momentum = share("momentum", momentum)
        self.moving_mean_initializer = initializer(
            "moving_mean_initializer", moving_mean_initializer
        )
        self.moving_variance_initializer = initializer(
            "moving_variance_initializer", moving_variance_initializer
        )
        self.synchronized = bool(synchronized)
        self.ghost_batch_size = (
            None if ghost_batch_size is None else positive("ghost_batch_size", ghost_batch_size)
        )
        if self.synchronized and self.ghost_batch_size:
            raise ValueError(
                "Statistics are either those of all replicas together or of slices of the batch. "
                f"Received: synchronized=True, ghost_batch_size={ghost_batch_size}"
            )
        self.max_steps = None if max_steps is None else positive("max_steps", max_steps)
        self.moving_mean: keras.Variable = None
        self.moving_variance: keras.Variable = None
        self.moving_steps: keras.Variable = None

    @property
    def has_batch_statistics(self) -> bool:
        return True

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        if self.max_steps is not None and len(self.axes.batch) < 2:
            raise ValueError(
                "`max_steps` needs the axis of time in `batch_axis`, as in batch_axis=(0, 1). "
                f"Received: max_steps={self.max_steps}, batch_axis={self.batch_axis}"
            )
        if self.has_batch_statistics:
            self._build_moving(input_shape[self.axes.channel])

    @property
    def moment_axes(self) -> Axes:
        if self._needs_sample_moments or self.ghost_batch_size or self.max_steps:
            return self.axes
        # The whole batch at once.
        return Axes((), tuple(sorted(self.axes.batch + self.axes.spatial)), self.axes.channel)

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        outputs, batch = self.normalize(inputs, training, mask)
        if batch is not None:
            self.update_moving(batch)
        return outputs

    def updates_moving(self, training: bool | None) -> bool:
        """Whether a call updates the moving statistics."""
        return bool(training and self.trainable and self.has_batch_statistics)

    def update_moving(self, batch: Moments, first_step: Any = 0) -> None:
        """Updates the moving statistics by those of a batch, to the same value on every replica.

        Args:
            batch: `Moments` from `normalize`. What has no elements updates nothing.
            first_step: int or int32 scalar, the number of the first time step in `batch`.
        """
        batch = self.in_moving_shape(average(batch, self.pooled_axes), first_step)
        if not self.synchronized:
            batch = average_replicas(batch)
        self._move(batch)
        if self.max_steps is not None:
            self.moving_steps.assign(ops.maximum(self.moving_steps, steps_seen(batch.count)))

    def in_moving_shape(self, batch: Moments, first_step: Any) -> Moments:
        """`Moments` of a batch in the shape of the moving statistics."""
        if self.max_steps is None:
            mean, variance, count = batch
            # A count that is known beforehand stays known.
            flat = np.reshape if isinstance(count, np.ndarray) else ops.reshape
            return Moments(
                ops.reshape(mean, (-1,)), ops.reshape(variance, (-1,)), flat(count, (-1,))
            )
        shape = ops.shape(batch.mean)
        channel, time = self.axes.channel, self._time

        def by_step(part: Tensor) -> Tensor:
            part = ops.broadcast_to(part, shape)
            if channel < time:
                part = ops.swapaxes(part, channel, time)
            return ops.reshape(part, (-1, shape[channel]))

        mean, variance, count = map(by_step, batch)
        steps = first_step + ops.arange(shape[time], dtype="int32")
        rows = ops.minimum(steps, self.max_steps - 1)

        def total(values: Tensor) -> Tensor:
            return ops.segment_sum(values, rows, num_segments=self.max_steps)

        weight = ops.maximum(total(count), 1)
        return Moments(total(mean * count) / weight, total(variance * count) / weight, total(count))

    @property
    def pooled_axes(self) -> tuple[int, ...]:
        """The axes of samples that share statistics: all but time, where steps have their own."""
        return tuple(axis for axis in self.axes.batch if axis != self._time)

    def _move(self, batch: Moments) -> None:
        mean, variance, count = batch
        kept = self._kept(count, self.momentum)
        self._move_one(self.moving_mean, mean, kept)
        if self.moving_variance is not None:
            self._move_one(self.moving_variance, variance, kept)

    def _kept(self, count: Tensor, momentum: float) -> Any:
        """What a step keeps of the moving statistics: all, where there are no elements.

        Rounded here, so that this share and the other sum to 1, and all calls take the same.
        """
        kept = np.dtype(self.moving_mean.dtype).type(momentum)
        return kept if isinstance(count, np.ndarray) else ops.where(count > 0, kept, 1)

    @staticmethod
    def _move_one(moving: keras.Variable, value: Tensor, kept: Any) -> None:
        """Moves a moving statistic toward `value`, a finite one."""
        moving.assign(moving * kept + ops.cast(value, moving.dtype) * (1 - kept))

    def _build_moving(self, channels: int) -> None:
        self._add_moving("moving_mean", channels)
        self._add_moving("moving_variance", channels)

    def _add_moving(self, name: str, channels: int, **kwargs: Any) -> None:
        shape = (channels,) if self.max_steps is None else (self.max_steps, channels)
        weight = self._add_weight(name, *shape, precise=True, trainable=False, **kwargs)
        setattr(self, name, weight)
        if self.max_steps is not None and self.moving_steps is None:
            # How many steps have statistics; training need not have seen all.
            self.moving_steps = self._add_weight(
                "moving_steps", precise=True, initializer="zeros", trainable=False
            )

    def _needs_moments(self, training: bool | None) -> bool:
        return self._needs_sample_moments or self.updates_moving(training)

    def _batch_moments(
        self, x: Tensor, instance: Any, training: bool | None, first_step: Any
    ) -> tuple[Moments | None, Moments | None]:
        if not self.has_batch_statistics:
            return None, None
        if not self.updates_moving(training):
            mean, variance = (
                None if moving is None else self._of_steps(x, moving, first_step)
                for moving in (self.moving_mean, self.moving_variance)
            )
            return Moments(mean, variance, None), None
        axes = self.pooled_axes
        if self.ghost_batch_size:
            return pool_slices(instance, self.axes.batch[0], self.ghost_batch_size, axes)
        batch = pool(instance, axes)
        batch = pool_replicas(batch) if self.synchronized else batch
        return batch, batch

    def refuse_single_values(self, x: Tensor, training: bool | None) -> None:
        if self._needs_sample_moments or not self.updates_moving(training):
            return
        if replica_context() is not None:  # other replicas may have more
            return
        sizes = {axis: x.shape[axis] for axis in (*self.pooled_axes, *self.axes.spatial)}
        if self.ghost_batch_size and sizes[self.axes.batch[0]] is not None:
            first = self.axes.batch[0]
            sizes[first] = min(sizes[first], self.ghost_batch_size)
        if None not in sizes.values() and math.prod(sizes.values()) == 1:
            raise ValueError(
                f"{type(self).__name__} would take the statistics of a batch from one value for "
                "each channel, and its output would not depend on the input. Train on more "
                "samples or positions, or use statistics of single samples (GroupNormalization). "
                f"Received: inputs.shape={tuple(x.shape)}, ghost_batch_size="
                f"{self.ghost_batch_size}"
            )

    @property
    def _time(self) -> Any:
        return None if self.max_steps is None else self.axes.batch[-1]

    def _of_steps(self, x: Tensor, moving: keras.Variable, first_step: Any) -> Tensor:
        """Moving statistics in the rank of `x`, those of its time steps where steps differ."""
        if self.max_steps is None:
            return self._per_channel(moving, x.dtype)
        last = ops.maximum(ops.cast(self.moving_steps, "int32"), 1) - 1
        steps = first_step + ops.arange(ops.shape(x)[self._time], dtype="int32")
        rows = ops.cast(ops.take(moving, ops.minimum(steps, last), axis=0), x.dtype)
        if self.axes.channel < self._time:
            rows = ops.transpose(rows)
        shape = [1] * len(x.shape)
        shape[self.axes.channel] = rows.shape[self.axes.channel > self._time]
        shape[self._time] = -1
        return ops.reshape(rows, shape)


def steps_seen(count: Tensor) -> Tensor:
    """The number of rows up to the last one that is not empty."""
    rows = ops.arange(1, count.shape[0] + 1, dtype=count.dtype)
    return ops.max(ops.where(ops.any(count > 0, axis=1), rows, 0))
