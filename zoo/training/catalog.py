"""The models that can be trained by name, and how each is trained."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras

import keras_norms
from zoo.convnet import convnet
from zoo.data import LabelledSet
from zoo.data.effects import refuse_unused
from zoo.lstm import lstm
from zoo.mlp import mlp
from zoo.resnet import CIFAR, IMAGENET, resnet
from zoo.training.options import TrainOptions
from zoo.transformer import transformer


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        optimizer: "sgd" or "adam".
        learning_rate: the rate at the reference batch.
        reference_batch: the global batch that `learning_rate` is for. Other batches scale it in
            proportion. None: one rate for all batches.
        momentum: of the optimizer, or None if it has none.
        l2: coefficient of the weights in the gradient.
    """

    optimizer: str
    learning_rate: float
    reference_batch: int | None
    momentum: float | None
    l2: float

    def rate(self, global_batch: int) -> float:
        """The learning rate for batches of `global_batch` samples."""
        return self.learning_rate * global_batch / (self.reference_batch or global_batch)


SGD = Recipe("sgd", 0.1, reference_batch=128, momentum=0.9, l2=1e-4)
ADAM = Recipe("adam", 1e-3, reference_batch=None, momentum=None, l2=0.0)
# The options that override a field of the recipe.
_OVERRIDES = ("optimizer", "learning_rate", "momentum", "l2")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model that has a name.

    Attributes:
        build: its builder, `(num_classes, norm, input_shape, width=..., ...)`.
        recipe: how it is trained by default.
        clipnorm: the global norm to which gradients are clipped; None for no clipping.
        sequences: whether it takes sequences, of vectors or of tokens. Others take images.
        vectors: whether it also takes single vectors.
        options: the fields of `TrainOptions` that its builder takes beside norm and width.
    """

    build: Callable[..., keras.Model]
    recipe: Recipe = SGD
    clipnorm: float | None = None
    sequences: bool = False
    vectors: bool = False
    options: tuple[str, ...] = ()


def entries() -> dict[str, Entry]:
    """`{name: Entry}` of all models."""
    imagenet = dataclasses.replace(SGD, reference_batch=256)
    of_lstm = ("depth", "bidirectional", "dropout")
    of_transformer = ("depth", "placement", "dropout")
    return {
        **{f"resnet{depth}": Entry(functools.partial(resnet, depth)) for depth in CIFAR},
        **{
            f"resnet{depth}": Entry(functools.partial(resnet, depth), imagenet)
            for depth in IMAGENET
        },
        # The four stages of ImageNet's, with as many channels as CIFAR's.
        "resnet18_small": Entry(_resnet18_small),
        # The weight norm paper trains it with Adam.
        "convpool": Entry(functools.partial(convnet, "convpool"), ADAM),
        "conv6": Entry(functools.partial(convnet, "conv6")),
        "mlp": Entry(mlp, vectors=True),
        "lstm": Entry(lstm, ADAM, clipnorm=1.0, sequences=True, options=of_lstm),
        "transformer": Entry(
            transformer, ADAM, clipnorm=1.0, sequences=True, options=of_transformer
        ),
    }


def _resnet18_small(
    num_classes: int, norm: Any, input_shape: tuple[int, int, int], width: float
) -> keras.Model:
    return resnet(18, num_classes, norm, input_shape, width / 4, stem="small")


def select_model(options: TrainOptions) -> tuple[Entry, Recipe, TrainOptions]:
    """Finds the model that options ask for, and how it is to be trained.

    Args:
        options: what the user asked for.

    Returns:
        `(entry, recipe, options)`. The recipe is the model's, changed by the options. The options
        are those given, completed by the recipe.

    Raises:
        ValueError: for an unknown model or norm, or an option that has no effect on the model, the
            optimizer or the norm.
    """
    known = entries()
    if options.model not in known:
        raise ValueError(f"Unknown model {options.model!r}. Known: {', '.join(known)}")
    entry = known[options.model]
    recipe = entry.recipe
    if options.optimizer not in (None, recipe.optimizer):
        recipe = {"sgd": SGD, "adam": ADAM}[options.optimizer]
    _refuse_unused(options, entry, recipe)
    recipe = dataclasses.replace(recipe, **_set_options(options, _OVERRIDES))
    in_use = {name: getattr(recipe, name) for name in _OVERRIDES} | _norm_defaults(options)
    return entry, recipe, dataclasses.replace(options, **in_use)


def _norm_defaults(options: TrainOptions) -> dict[str, Any]:
    """The options that concern the norm, completed; None where they have no effect."""
    norm = keras_norms.get(options.norm)
    controls = getattr(norm.normalize(), "control_weights", ())
    defaults = {
        # The papers train gates ten times as fast as weights, and switches like weights.
        "control_multiplier": (10.0 if "gate" in controls else 1.0) if controls else None,
        "decay_controls": True if "mean_logits" in controls else None,
        "data_init": True if norm.weight_norm is not None else None,
    }
    return defaults | _set_options(options, defaults)


def _refuse_unused(options: TrainOptions, entry: Entry, recipe: Recipe) -> None:
    """Raises a ValueError for an option without effect on the model, the optimizer or the norm.

    What has no effect on the data is refused by `zoo.data.load`.
    """
    norm = keras_norms.get(options.norm)
    controls = getattr(norm.normalize(), "control_weights", ())
    of_models = {name for known in entries().values() for name in known.options}
    for choice, effects in {
        f"model={options.model!r}": {name: name in entry.options for name in of_models},
        f"optimizer={recipe.optimizer!r}": {"momentum": recipe.momentum is not None},
        f"norm={options.norm!r}": {
            "control_multiplier": bool(controls),
            "decay_controls": "mean_logits" in controls,  # gates never decay
            "data_init": norm.weight_norm is not None,
        },
    }.items():
        refuse_unused(vars(options), effects, choice)


def build(entry: Entry, options: TrainOptions, examples: LabelledSet) -> keras.Model:
    """Builds the model for a set of examples: a language model if its labels have steps.

    Raises:
        ValueError: if the examples are vectors, and the model takes none.
    """
    if examples.vectors and not entry.vectors:
        able = ", ".join(name for name, known in entries().items() if known.vectors)
        raise ValueError(
            f"{options.dataset!r} holds vectors, which take the model {able}. "
            f"Received: model={options.model!r}"
        )
    arguments = _set_options(options, entry.options)
    if examples.vocabulary is not None:
        arguments |= {"vocabulary": len(examples.vocabulary), "causal": examples.causal}
    return entry.build(
        examples.num_classes, options.norm, examples.example_shape, width=options.width, **arguments
    )


def _set_options(options: TrainOptions, names: Iterable[str]) -> dict[str, Any]:
    """`{name: value}` of those options that are not left to their default, None."""
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}
