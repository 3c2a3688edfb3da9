"""The model with each of the norms: compiled copies that begin alike."""

import contextlib
import math
import warnings
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_norms.base import register
from keras_norms.data_init import data_dependent_init
from keras_norms.model_layers import all_variables, has_batch_statistics, is_norm, named_layers
from keras_norms.optimizers import configure_optimizer
from keras_norms.registry import get
from keras_norms.selection.data import Samples
from keras_norms.surgery.convert import convert
from keras_norms.surgery.rebuild import rebuild

FUNCTION = "Or pass a function that takes a norm and returns a compiled model"


class Recipe(NamedTuple):
    """What is the same for all norms.

    Attributes:
        base: the batch size for which the learning rate of the model is meant.
        ghost: whether other batch sizes are those of ghost batches.
        keep_weights: whether all weights but those of norms are the model's, and not new.
        configure_optimizer: whether the optimizer exempts norms and biases from decay.
    """

    base: int
    ghost: bool = False
    keep_weights: bool = False
    configure_optimizer: bool = False


class Candidates:
    """The models of a comparison.

    Args:
        source: a compiled model, or a function of a norm that returns one.
        train: the training data; weight norms are initialized from its first batch.
        recipe: what is the same for all norms.
    """

    def __init__(self, source: Any, train: Samples, recipe: Recipe) -> None:
        self.source, self.train, self.recipe = source, train, recipe
        self._base: tuple[int, keras.Model] | None = None  # a seed, and the model it draws
        self._traced: dict[tuple[str, int], keras.Model] = {}

    @property
    def is_function(self) -> bool:
        """Whether the user's function makes the models."""
        return not isinstance(self.source, keras.Model)

    def check(self) -> None:
        """Refuses what no copy can be made of, before anything is trained."""
        if self.is_function:
            if not callable(self.source):
                raise ValueError(
                    "`model` must be a compiled Keras model, or a function that takes a norm and "
                    f"returns one. Received: {type(self.source).__name__}"
                )
            return
        model = self.source
        if not model.compiled:
            raise ValueError("`model` is not compiled. Call its `compile` first.")
        if not model.built:
            raise ValueError("`model` is not built. Call it on a batch first.")
        if not any(is_norm(layer) and layer.trainable for layer in named_layers(model).values()):
            raise ValueError(
                "`model` has no norm that could be replaced. Put one where norms belong; those of "
                "frozen layers stay. "
                f"{FUNCTION}."
            )
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        for end in ("", "_pattern"):
            if getattr(optimizer, f"_exclude_from_weight_decay{end}", None):
                raise ValueError(
                    "The config of the optimizer does not hold what `exclude_from_weight_decay` "
                    f"excludes, so copies would lose it. {FUNCTION}."
                )

    def size(self, norm: str, size: int) -> int:
        """The size that matters: ghost batches do nothing to norms without batch statistics."""
        known = self._traced.get((norm, self.recipe.base))
        if self.recipe.ghost and known is not None:
            batch = any(has_batch_statistics(layer) for layer in named_layers(known).values())
            return size if batch else self.recipe.base
        return size

    def get(self, norm: str, size: int, seed: int) -> keras.Model:
        """The model with a norm, as it is before its first step with a seed.

        It is the same object for all seeds, so that its steps are compiled once.
        """
        new = self.make(norm, size, seed)
        model = self._traced.setdefault((norm, size), new)
        if model is not new:
            pairs = zip(_state(model), _state(new), strict=True)
            for own, other in pairs:
                own.assign(keras.ops.copy(other))
        return model

    def make(self, norm: str, size: int, seed: int) -> keras.Model:
        """A new compiled model.

        Raises:
            ValueError: if the norm cannot be put into the model.
        """
        keras.utils.set_random_seed(seed)
        model = self._of_function(norm) if self.is_function else self._converted(norm, seed)
        if get(norm).weight_norm is not None:
            with warnings.catch_warnings(), contextlib.suppress(ValueError):
                warnings.simplefilter(
                    "ignore"
                )  # layers that cannot be initialized stay as they are
                data_dependent_init(model, next(self.train.batches(self.recipe.base, seed)))
        if self.recipe.ghost and size != self.recipe.base:
            _use_ghost_batches(model, size)
        self._prepare_optimizer(model, 1.0 if self.recipe.ghost else size / self.recipe.base)
        return model

    def _of_function(self, norm: str) -> keras.Model:
        model = self.source(norm)
        if not isinstance(model, keras.Model) or not model.compiled or not model.built:
            raise ValueError(
                f"The function must return a built and compiled Keras model. Received: {model!r} "
                f"for the norm {norm!r}"
            )
        return model

    def _converted(self, norm: str, seed: int) -> keras.Model:
        try:
            if self._base is None or self._base[0] != seed:
                self._base = seed, self._new_base()
            keras.utils.set_random_seed(seed)
            copy, _ = convert(self._base[1], norm, where=_is_trained, transfer=False)
        except ValueError as error:
            raise ValueError(
                f"The norm {norm!r} cannot be put into this model. Leave it out of `norms`. "
                f"{FUNCTION}. {error}"
            ) from error
        return copy

    def _new_base(self) -> keras.Model:
        """The user's model with the weights that a seed draws."""
        model = self.source
        norms = [layer for layer in named_layers(model).values() if is_norm(layer)]
        norms = [norm for norm in norms if norm.trainable]
        of_norms = {id(variable) for norm in norms for variable in all_variables(norm)}

        def keep(variable: keras.Variable) -> bool:
            if id(variable) in of_norms or "seed_generator_state" in variable.path:
                return False
            # What is not trained has been made elsewhere: a frozen part, means of the data.
            return self.recipe.keep_weights or not variable.trainable

        return rebuild(model, {}, keep)

    def _prepare_optimizer(self, model: keras.Model, factor: float) -> None:
        optimizer = model.optimizer
        if self.recipe.configure_optimizer:
            plain = type(optimizer).from_config(optimizer.get_config())
            optimizer = model.optimizer = configure_optimizer(plain, model)
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if factor != 1:
            rate = inner.get_config()["learning_rate"]
            if isinstance(rate, dict):
                schedule = keras.optimizers.schedules.deserialize(rate)
                inner.learning_rate = StretchedSchedule(schedule, factor)
            else:
                inner.learning_rate = rate * factor
        if not optimizer.built:
            optimizer.build(model.trainable_variables)


@register
class StretchedSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule for batches of another size: the linear rule, at the same number of samples.

        rate(step) = factor * schedule(factor * step)

    Args:
        schedule: for batches of the first size.
        factor: the size of the batches, in sizes of the first.
    """

    def __init__(self, schedule: Any, factor: float) -> None:
        self.schedule, self.factor = schedule, factor

    def __call__(self, step: Any) -> Any:
        return self.factor * self.schedule(ops.floor(self.factor * ops.cast(step, "float32")))

    def get_config(self) -> dict[str, Any]:
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "StretchedSchedule":
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]), config["factor"])


def parameters(model: keras.Model) -> int:
    """The number of trainable weights."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def _state(model: keras.Model) -> list[keras.Variable]:
    return [*all_variables(model), *model.optimizer.variables]


def _use_ghost_batches(model: keras.Model, size: int) -> None:
    for path, layer in named_layers(model).items():
        if has_batch_statistics(layer):
            if not hasattr(layer, "ghost_batch_size"):
                raise ValueError(
                    f"`ghost=True` needs norms of keras_norms. Received: {type(layer).__name__} at "
                    f"{path}"
                )
            layer.ghost_batch_size = size


def _is_trained(path: str, layer: keras.Layer) -> bool:
    """Whether a norm is one to replace. Frozen ones belong to what was learnt before."""
    return layer.trainable
