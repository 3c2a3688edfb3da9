"""How a model is optimized: the learning rate over time, the optimizer, the loss."""

from typing import Any, TypeAlias

import keras
from keras import ops

from keras_norms import optimizers
from zoo.training.options import TrainOptions

Rate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule


def learning_rate_schedule(options: TrainOptions, rate: float, steps_per_epoch: int) -> Rate:
    """The learning rate as a function of the step, or a number if it is constant.

    Args:
        options: schedule, epochs and warm-up.
        rate: the highest rate.
        steps_per_epoch: number of steps.

    Raises:
        ValueError: for an unknown schedule, or a warm-up that leaves no time for it.
    """
    schedules = keras.optimizers.schedules
    total, warmup = options.epochs * steps_per_epoch, options.warmup_epochs * steps_per_epoch
    limits = {"cosine": total, "step": total / 2, "constant": total, "linear_half": total / 2}
    limit = limits.get(options.schedule)
    if limit is None:
        known = ", ".join(limits)
        raise ValueError(f"Unknown schedule {options.schedule!r}. Known: {known}")
    if not 0 <= warmup < limit:
        raise ValueError(
            f"warmup_epochs leaves no time for the {options.schedule} schedule. Received: "
            f"warmup_epochs={options.warmup_epochs}, epochs={options.epochs}"
        )
    if options.schedule == "cosine" and not warmup:
        return schedules.CosineDecay(rate, total)
    if options.schedule == "cosine":
        return schedules.CosineDecay(0.0, total - warmup, warmup_target=rate, warmup_steps=warmup)
    if options.schedule == "linear_half":
        return LinearHalf(rate, total, warmup)
    if options.schedule == "constant" and not warmup:
        return rate
    stairs = range(1, 10) if warmup else ()
    factors = {warmup * stair / 10: (stair + 1) / 10 for stair in stairs}
    if options.schedule == "step":
        factors |= {total / 2: 0.1, total * 3 / 4: 0.01}
    # Keras changes the rate one step after a boundary.
    boundaries = [round(step) - 1 for step in factors]
    rates = [rate * factor for factor in (0.1 if warmup else 1.0, *factors.values())]
    return schedules.PiecewiseConstantDecay(boundaries, rates)


@keras.saving.register_keras_serializable("zoo")
class LinearHalf(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that is constant for half of the steps, and then falls linearly to 0.

    Args:
        rate: the highest rate.
        steps: all of them.
        warmup: steps in which the rate first rises linearly from 0.

    Reference:
        [Weight Normalization](https://arxiv.org/abs/1602.07868), section 5.1.
    """

    def __init__(self, rate: float, steps: int, warmup: int = 0) -> None:
        self.rate, self.steps, self.warmup = rate, steps, warmup

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rise = step / self.warmup if self.warmup else 1.0
        return self.rate * ops.clip(ops.minimum(rise, 2 - 2 * step / self.steps), 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "steps": self.steps, "warmup": self.warmup}


def make_optimizer(
    options: TrainOptions, model: keras.Model, rate: Rate, clipnorm: float | None
) -> keras.Optimizer:
    """The optimizer that options ask for, with the papers' treatment of gates and switches.

    Args:
        options: as `select_model` completed them.
        model: the model, which is built.
        rate: what `learning_rate_schedule` returned.
        clipnorm: the global norm to which gradients are clipped, or None.
    """
    if options.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, options.momentum, global_clipnorm=clipnorm)
    else:
        optimizer = keras.optimizers.Adam(rate, global_clipnorm=clipnorm)
    optimizer = optimizers.configure_optimizer(
        optimizer,
        model,
        control_multiplier=options.control_multiplier or 1.0,
        decay_controls=bool(options.decay_controls),
        l2=options.l2 or 0.0,
        skip_nonfinite=True,  # keeps the weights for `nonfinite.locate`
    )
    if options.precision == "mixed_float16":
        # Keras's own, which `compile` would take, looks for overflow on the first replica only.
        optimizer = optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def compile_model(model: keras.Model, optimizer: keras.Optimizer | str) -> None:
    """Compiles a classifier or language model: cross-entropy and accuracy of its logits."""
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # Weights of 0 exclude the examples that fill up the last test batch.
        weighted_metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseCategoricalCrossentropy("cross_entropy", from_logits=True),
        ],
        jit_compile=False,
    )
