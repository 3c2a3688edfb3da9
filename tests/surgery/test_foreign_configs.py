"""Configs of layers elsewhere make the layers here, and files that hold such layers load."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_norms
from tests.surgery.models import conv, outputs, randomize, relative

INITIALIZERS = {
    "beta_initializer": {"class_name": "Zeros", "config": {}},
    "gamma_initializer": {"class_name": "Ones", "config": {}},
}
NO_OPTIONS = {
    f"{name}_{option}": None
    for name in ("beta", "gamma")
    for option in ("regularizer", "constraint")
}
COMMON = {"name": "norm", "trainable": True, "dtype": "float32", **INITIALIZERS, **NO_OPTIONS}
MOVING = {
    "moving_mean_initializer": {"class_name": "Zeros", "config": {}},
    "moving_variance_initializer": {"class_name": "Ones", "config": {}},
}
# What tf.keras.layers.BatchNormalization of Keras 2 writes, with its defaults.
KERAS_2 = (
    COMMON
    | MOVING
    | {
        "axis": [3],
        "momentum": 0.99,
        "epsilon": 0.001,
        "center": True,
        "scale": True,
    }
)
# What tensorflow_addons.layers.GroupNormalization and its subclass InstanceNormalization write.
ADDONS = COMMON | {"groups": 2, "axis": -1, "epsilon": 1e-3, "center": True, "scale": True}
# What keras_contrib.layers.InstanceNormalization writes.
CONTRIB = COMMON | {"axis": 3, "epsilon": 1e-3, "center": True, "scale": False}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (keras_norms.BatchNormalization, lambda: layers.BatchNormalization(1, 0.5, 0.1)),
        (keras_norms.BatchNormalization, lambda: layers.BatchNormalization(renorm=True)),
        (keras_norms.GroupNormalization, lambda: layers.GroupNormalization(2, scale=False)),
    ],
)
def test_configs_of_keras(ours, theirs):
    config = theirs().get_config()
    assert ours.from_config(config).get_config().items() >= config.items()


def test_configs_of_keras_2():
    layer = keras_norms.BatchNormalization.from_config(KERAS_2)
    assert (layer.axis, layer.momentum, layer.epsilon) == (3, 0.99, 0.001)
    assert isinstance(layer.gamma_initializer, keras.initializers.Ones)
    more = {"fused": True, "virtual_batch_size": None, "adjustment": None, "renorm": False}
    assert keras_norms.BatchNormalization.from_config(KERAS_2 | more).axis == 3
    with pytest.raises(ValueError, match="no argument `virtual_batch_size`.*_size=8"):
        keras_norms.BatchNormalization.from_config(KERAS_2 | {"virtual_batch_size": 8})


def test_configs_of_addons(rng):
    layer = keras_norms.GroupNormalization.from_config(ADDONS)
    assert (layer.groups, layer.epsilon) == (2, 1e-3)
    for groups in (-1, 7):  # before and after it is built on 7 channels
        layer = keras_norms.InstanceNormalization.from_config(ADDONS | {"groups": groups})
        assert layer(np.ones((2, 4, 7), "float32")).shape == (2, 4, 7)
    dense = keras.saving.serialize_keras_object(layers.Dense(3))
    config = {"name": "wn", "trainable": True, "dtype": "float32", "data_init": True}
    layer = keras_norms.WeightNormalization.from_config(config | {"layer": dense})
    x = rng.normal(size=(4, 5)).astype("float32")
    np.testing.assert_allclose(layer(x), layer.layer(x), rtol=1e-6)


def test_configs_of_keras_contrib():
    layer = keras_norms.InstanceNormalization.from_config(CONTRIB)
    assert (layer.axis, layer.scale) == (3, False)
    with pytest.raises(ValueError, match="all channels together. Use GroupNormalization"):
        keras_norms.InstanceNormalization.from_config(CONTRIB | {"axis": None})


def test_what_no_layer_has_is_an_error():
    for cls in (keras_norms.BatchNormalization, keras_norms.GroupNormalization):
        with pytest.raises((TypeError, ValueError), match="speed"):
            cls.from_config(cls().get_config() | {"speed": 2})


def model_of_keras(rng):
    inputs = keras.Input((8, 8, 3))
    x = layers.GroupNormalization(2)(conv(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    randomize(model, rng)
    return model, rng.normal(size=(2, 8, 8, 3)).astype("float32")


def modules_of_norms(model):
    norms = [layer for layer in model.layers if "Normalization" in type(layer).__name__]
    return [type(layer).__module__.partition(".")[0] for layer in norms]


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
def test_an_h5_file_with_layers_of_keras_loads_with_these(rng, tmp_path):
    model, x = model_of_keras(rng)
    model.save(tmp_path / "model.h5")
    names = ("BatchNormalization", "GroupNormalization")
    ours = {name: getattr(keras_norms, name) for name in names}
    loaded = keras.models.load_model(tmp_path / "model.h5", custom_objects=ours)
    assert modules_of_norms(loaded) == ["keras_norms"] * 2
    assert relative(outputs(loaded, x), outputs(model, x)) < 1e-6


def test_a_keras_file_is_loaded_and_then_converted(rng, tmp_path):
    """In such a file, Keras asks `custom_objects` for none of its own layers."""
    model, x = model_of_keras(rng)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    kinds = {keras.layers.BatchNormalization: "bn", keras.layers.GroupNormalization: "gn"}
    copy, _ = keras_norms.convert(loaded, lambda path, layer: kinds.get(type(layer)))
    assert modules_of_norms(copy) == ["keras_norms"] * 2
    assert relative(outputs(copy, x), outputs(model, x)) < 1e-6


# Weights of plain layers in wrapped ones.


@pytest.mark.parametrize(
    ("plain", "shape"),
    [
        (lambda: layers.Dense(4), (5,)),
        (lambda: layers.Conv2D(4, 3), (8, 8, 3)),
        (lambda: layers.LSTM(4), (6, 3)),
        (lambda: layers.Bidirectional(layers.GRU(4)), (6, 3)),
        (lambda: layers.SeparableConv2D(4, 3), (8, 8, 3)),
    ],
)
def test_plain_weights_go_into_a_wrapped_layer(plain, shape, rng, tmp_path):
    x = rng.normal(size=(2, *shape)).astype("float32")
    pretrained, wrapper = plain(), keras_norms.WeightNormalization(plain())
    y, before = pretrained(x), wrapper(x)
    wrapper.layer.set_weights(pretrained.get_weights())
    assert relative(np.asarray(wrapper(x)), np.asarray(y)) < 1e-5
    assert relative(np.asarray(before), np.asarray(y)) > 1e-2
    # Its own files load as before, and keep the gains.
    model = keras.Sequential([keras.Input(shape), wrapper])
    for variable in model.variables:
        if "gain" in variable.name:
            variable.assign(rng.uniform(1, 2, variable.shape))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs(loaded, x), outputs(model, x))


@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")
def test_a_file_of_a_plain_model_is_refused_by_a_wrapped_one(tmp_path):
    inputs = keras.Input((5,))
    keras.Model(inputs, layers.Dense(4, name="d")(inputs)).save_weights(tmp_path / "x.weights.h5")
    wrapped = keras_norms.WeightNormalization(layers.Dense(4), name="d")
    with pytest.raises(ValueError, match="could not be loaded"):
        keras.Model(inputs, wrapped(inputs)).load_weights(tmp_path / "x.weights.h5")
