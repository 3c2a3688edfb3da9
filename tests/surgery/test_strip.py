"""keras_norms.strip: plain layers that compute the same, and what becomes possible with them."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_norms
import zoo
from keras_norms.model_layers import named_layers
from keras_norms.wrapper import KernelNormalization
from tests.surgery.models import outputs, randomize, relative

WRAP, STANDARDIZE = keras_norms.WeightNormalization, keras_norms.WeightStandardization


def mixed():
    """Wrapped layers at the top, in a nested model, under a wrapper, and with equal names."""
    inputs = keras.Input((6, 8, 8, 3))
    frames = keras.Sequential(
        [WRAP(layers.Conv2D(4, 3), mean_only_batch_norm=True), STANDARDIZE(layers.Conv2D(4, 3))]
    )
    x = layers.TimeDistributed(frames)(inputs)
    x = layers.Reshape((6, 64))(x)
    x = WRAP(layers.Bidirectional(layers.LSTM(3, return_sequences=True)))(x)
    for name in ("one", "two"):
        x = WRAP(layers.Dense(8, name="dense"), name=name)(x)
    return keras.Model(inputs, layers.Dense(2)(x))


@pytest.fixture
def model(rng):
    model = mixed()
    randomize(model, rng)
    for variable in model.variables:
        if variable.path.endswith("gain"):
            variable.assign(rng.uniform(0.5, 2, variable.shape))
    return model


def test_plain_layers_compute_the_same(model, rng, tmp_path):
    x = rng.normal(size=(2, 6, 8, 8, 3)).astype("float32")
    y = outputs(model, x)
    copy, report = keras_norms.strip(model)
    assert len(report) == 5 and not report.left
    assert {change.note for change in report} == {"computes the same"}
    assert not [x for x in named_layers(copy).values() if isinstance(x, KernelNormalization)]
    assert relative(outputs(copy, x), y) < 1e-6
    np.testing.assert_array_equal(outputs(model, x), y)
    copy.save(tmp_path / "copy.keras")
    loaded = keras.models.load_model(tmp_path / "copy.keras")
    np.testing.assert_array_equal(outputs(loaded, x), outputs(copy, x))


def test_a_model_without_them_is_copied(rng):
    model = zoo.resnet(20, 10, norm="bn", width=0.25)
    copy, report = keras_norms.strip(model)
    assert report == [] and copy is not model
    for one, other in zip(model.variables, copy.variables, strict=True):
        np.testing.assert_array_equal(one, other)


def small():
    inputs = keras.Input((8,))
    x = WRAP(layers.Dense(16, activation="relu"), mean_only_batch_norm=True)(inputs)
    return keras.Model(inputs, WRAP(layers.Dense(4))(x))


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_what_is_stripped_is_quantized_as_plain_layers_are(mode, rng, tmp_path):
    model = small()
    randomize(model, rng)
    x = rng.normal(size=(64, 8)).astype("float32")
    y = outputs(model, x)
    copy, _ = keras_norms.strip(model)
    inputs = keras.Input((8,))
    twin = keras.Model(inputs, layers.Dense(4)(layers.Dense(16, activation="relu")(inputs)))
    twin.set_weights(copy.get_weights())
    for each in (copy, twin):
        each.quantize(mode)
    assert relative(outputs(copy, x), y) < {"int8": 0.03, "int4": 0.4}[mode]
    np.testing.assert_array_equal(outputs(copy, x), outputs(twin, x))
    copy.save(tmp_path / "copy.keras")
    loaded = keras.models.load_model(tmp_path / "copy.keras")
    np.testing.assert_array_equal(outputs(loaded, x), outputs(copy, x))


def test_lora_adapts_what_is_stripped(rng):
    model = small()
    x, y = (rng.normal(size=(64, n)).astype("float32") for n in (8, 4))
    copy, _ = keras_norms.strip(model)
    before = outputs(copy, x)
    for layer in copy.layers[1:]:
        layer.enable_lora(2)
    np.testing.assert_allclose(outputs(copy, x), before, rtol=1e-5, atol=1e-6)
    names = [v.name for v in copy.trainable_variables]
    assert names == ["bias", "lora_kernel_a", "lora_kernel_b"] * 2
    copy.compile("adam", "mse")
    copy.fit(x, y, epochs=2, verbose=0)
    assert relative(outputs(copy, x), before) > 1e-3


def test_a_layer_without_weights_is_an_error():
    model = keras.Sequential([WRAP(layers.Dense(3))])
    with pytest.raises(ValueError, match="has no weights yet"):
        keras_norms.strip(model)
