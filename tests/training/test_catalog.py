"""Every model of the catalog is built by its name, with its recipe, or refuses an option."""

import keras
import pytest
import tensorflow as tf

from zoo import data
from zoo.training import catalog
from zoo.training.options import TrainOptions

NOWHERE = tf.data.Dataset.range(0)
IMAGES = data.LabelledSet(NOWHERE, NOWHERE, 3, (8, 8, 1), None, 0)
ROWS = data.LabelledSet(NOWHERE, NOWHERE, 3, (8, 8), None, 0)
TEXTS = data.LabelledSet(NOWHERE, NOWHERE, 3, (8,), None, 0, ["", "[UNK]", "a", "b"])
VECTORS = data.LabelledSet(NOWHERE, NOWHERE, 2, (8,), None, 0)
VERSE = data.LabelledSet(NOWHERE, NOWHERE, 4, (8,), None, 0, ["", "a", "b", "c"], causal=True)


def build(examples, **options):
    entry, _, options = catalog.select_model(TrainOptions(norm="ln", width=0.1, **options))
    return catalog.build(entry, options, examples)


@pytest.mark.parametrize("name", ["resnet20", "convpool", "conv6", "mlp"])
def test_models_of_images(name):
    assert not catalog.entries()[name].sequences
    assert build(IMAGES, model=name).output_shape == (None, 3)


@pytest.mark.parametrize("name", catalog.entries())
def test_vectors_are_for_models_of_vectors(name):
    if name == "mlp":
        assert build(VECTORS, model=name).output_shape == (None, 2)
        return
    message = f"'points' holds vectors, which take the model mlp. Received: model='{name}'"
    with pytest.raises(ValueError, match=message):
        build(VECTORS, model=name, dataset="points")


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_models_of_sequences(name):
    assert catalog.entries()[name].sequences
    assert build(ROWS, model=name).output_shape == (None, 3)
    texts, language = (build(examples, model=name) for examples in (TEXTS, VERSE))
    assert texts.output_shape == (None, 3) and language.output_shape == (None, 8, 4)
    assert keras.backend.standardize_dtype(language.input.dtype) == "int32"
    assert language.get_layer("embedding").input_dim == 4


def test_options_reach_their_builders():
    def names(**options):
        return {layer.name for layer in build(ROWS, **options).layers}

    assert "layer3" in names(model="lstm", depth=3)
    assert "layer1_bidirectional" in names(model="lstm", bidirectional=True)
    assert "block3_mlp_norm" in names(model="transformer", depth=3)
    pre, post = (names(model="transformer", placement=place) for place in ("pre", "post"))
    assert pre - post == {"final_norm"}
    model = build(ROWS, model="transformer", dropout=0.3)
    rates = {layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)}
    assert rates == {0.3}


def test_the_small_resnet_18_has_16_to_128_channels():
    model = catalog.entries()["resnet18_small"].build(3, "ln", (32, 32, 3), width=1.0)
    norms = [layer for layer in model.layers if layer.name.endswith("norm1")]
    assert [layer.gamma.shape[-1] for layer in norms][::2] == [16, 32, 64, 128]
    assert not [layer for layer in model.layers if "pool_pad" in layer.name]


def test_recipes():
    def recipe(**options):
        return catalog.select_model(TrainOptions(**options))[1]

    assert recipe(model="resnet20").rate(64) == pytest.approx(0.05)
    assert recipe(model="resnet18").rate(64) == pytest.approx(0.025)
    for name in ("convpool", "lstm", "transformer"):
        assert recipe(model=name) == catalog.ADAM and catalog.ADAM.rate(64) == 1e-3
    assert recipe(model="lstm", optimizer="sgd") == catalog.SGD
    assert recipe(model="resnet20", optimizer="adam") == catalog.ADAM
    changed = recipe(model="resnet18", learning_rate=1.0, momentum=0.5, l2=0.0)
    assert (changed.rate(256), changed.momentum, changed.l2) == (1, 0.5, 0)
    options = catalog.select_model(TrainOptions(model="lstm", l2=0.1))[2]
    assert (options.optimizer, options.learning_rate, options.l2) == ("adam", 1e-3, 0.1)


@pytest.mark.parametrize(
    "option, model",
    [
        ({"depth": 3}, "resnet20"),
        ({"placement": "pre"}, "lstm"),
        ({"bidirectional": False}, "transformer"),
        ({"dropout": 0.1}, "mlp"),
    ],
)
def test_options_without_effect_are_refused(option, model):
    (name,) = option
    with pytest.raises(ValueError, match=f"^{name} has no effect on model='{model}'.$"):
        catalog.select_model(TrainOptions(model=model, **option))


def test_momentum_is_of_sgd():
    with pytest.raises(ValueError, match="^momentum has no effect on optimizer='adam'.$"):
        catalog.select_model(TrainOptions(model="lstm", momentum=0.9))
    assert catalog.select_model(TrainOptions(model="lstm", momentum=0.8, optimizer="sgd"))
