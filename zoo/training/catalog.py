"""The models that can be trained by name, and how each is trained."""

import dataclasses
import functools
from collections.abc import Callable

from zoo.convnet import convnet
from zoo.lstm import lstm
from zoo.mlp import mlp
from zoo.resnet import CIFAR, IMAGENET, resnet
from zoo.transformer import transformer

# Options that only some builders know.
_OPTIONS = ("depth", "placement", "bidirectional", "dropout")
# Options whose default is the recipe's.
_RECIPE = ("optimizer", "learning_rate", "momentum", "l2")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        optimizer: "sgd" or "adam".
        learning_rate: float.
        reference_batch: int, the global batch that `learning_rate` is for; at others the rate is
            proportional to theirs. None: the rate is that of any batch.
        momentum: float, or None where the optimizer has none.
        l2: float, L2 regularization in the gradient.
    """

    optimizer: str
    learning_rate: float
    reference_batch: int | None
    momentum: float | None
    l2: float

    def rate(self, global_batch):
        """The learning rate for batches of `global_batch` samples."""
        return self.learning_rate * global_batch / (self.reference_batch or global_batch)


SGD = Recipe("sgd", 0.1, reference_batch=128, momentum=0.9, l2=1e-4)
ADAM = Recipe("adam", 1e-3, reference_batch=None, momentum=None, l2=0.0)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model that has a name.

    Attributes:
        build: its builder, `(num_classes, norm, input_shape, width=..., ...)`.
        recipe: how it is trained by default.
        clipnorm: float, the norm to which the gradient of all weights is clipped, or None.
        sequences: whether it takes sequences, of vectors or tokens; or else images.
        vectors: whether it takes single vectors too.
        options: those of `TrainOptions` that its builder knows beside norm and width.
    """

    build: Callable
    recipe: Recipe = SGD
    clipnorm: float | None = None
    sequences: bool = False
    vectors: bool = False
    options: tuple = ()


def entries():
    """`{name: Entry}` of all models."""
    imagenet = dataclasses.replace(SGD, reference_batch=256)
    recurrent, attentive = ("depth", "bidirectional", "dropout"), ("depth", "placement", "dropout")
    return {
        **{f"resnet{depth}": Entry(functools.partial(resnet, depth)) for depth in CIFAR},
        **{
            f"resnet{depth}": Entry(functools.partial(resnet, depth), imagenet)
            for depth in IMAGENET
        },
        # With Adam, as in the weight norm paper.
        "convpool": Entry(functools.partial(convnet, "convpool"), ADAM),
        "conv6": Entry(functools.partial(convnet, "conv6")),
        "mlp": Entry(mlp, vectors=True),
        "lstm": Entry(lstm, ADAM, clipnorm=1.0, sequences=True, options=recurrent),
        "transformer": Entry(transformer, ADAM, clipnorm=1.0, sequences=True, options=attentive),
    }


def select_model(options):
    """The model that options ask for, and how it is to be trained.

    Args:
        options: `zoo.training.options.TrainOptions`.

    Returns:
        `(entry, recipe, options)`: its `Entry`, its `Recipe` with what the options say about it,
        and the options with what they left to the recipe.

    Raises:
        ValueError: for an unknown model, or an option that has no effect on it.
    """
    known = entries()
    if options.model not in known:
        raise ValueError(f"Unknown model {options.model!r}. Known: {', '.join(known)}")
    entry = known[options.model]
    for name in _OPTIONS:
        if getattr(options, name) is not None and name not in entry.options:
            raise ValueError(f"{name} has no effect on model={options.model!r}.")
    recipe = entry.recipe
    if options.optimizer not in (None, recipe.optimizer):
        recipe = {"sgd": SGD, "adam": ADAM}[options.optimizer]
    if options.momentum is not None and recipe.momentum is None:
        raise ValueError(f"momentum has no effect on optimizer={recipe.optimizer!r}.")
    recipe = dataclasses.replace(recipe, **_given(options, _RECIPE))
    in_use = {name: getattr(recipe, name) for name in _RECIPE}
    return entry, recipe, dataclasses.replace(options, **in_use)


def build(entry, options, examples):
    """The model for a `zoo.data.LabelledSet`: a language model where its labels have steps.

    Raises:
        ValueError: if the set holds vectors, and the model takes none.
    """
    if examples.vectors and not entry.vectors:
        able = ", ".join(name for name, known in entries().items() if known.vectors)
        raise ValueError(
            f"{options.dataset!r} holds vectors, which take the model {able}. "
            f"Received: model={options.model!r}"
        )
    given = _given(options, entry.options)
    if examples.vocabulary is not None:
        given |= {"vocabulary": len(examples.vocabulary), "causal": examples.causal}
    return entry.build(
        examples.num_classes, options.norm, examples.example_shape, width=options.width, **given
    )


def _given(options, names):
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}
