"""The norms under `keras.distribution.DataParallel`, on two devices. Run by test_replicas.py.

`KERAS_BACKEND=jax XLA_FLAGS=--xla_force_host_platform_device_count=2 pytest` on this file.
"""

import jax
import keras
import numpy as np
import pytest
from keras import layers

import keras_norms
from tests.support.norms import MOVING, PER_SAMPLE

BATCH, RATE = 8, 0.02
SPECS = ("bn", "sn", "wn_mobn")


@pytest.fixture(autouse=True)
def no_distribution():
    assert len(jax.devices()) == 2
    yield
    keras.distribution.set_distribution(None)


def layers_of(norms, **options):
    """`{name: layers in a row}`."""
    return {norm.name: [norm(name=norm.name, **(options if norm.moving else {}))] for norm in norms}


def wrapped(**options):
    conv = layers.Conv2D(4, 2)
    return {"wn_mobn": [keras_norms.WeightNormalization(conv, True, name="wn_mobn", **options)]}


def recurrent(specs):
    """Of the rows of the maps."""
    rows = layers.Reshape((2, 16))
    return {
        spec: [rows, keras_norms.NormalizedLSTM(4, norm=spec, return_sequences=True, name=spec)]
        for spec in specs
    }


def trained(branches, devices, epochs=1, samples=16):
    """`(model, losses, predictions)` after training on batches of eight."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    if devices:
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    inputs = keras.Input((4, 4, 3))
    hidden = layers.Conv2D(8, 3, name="conv")(inputs)
    outputs = []
    for row in branches().values():
        x = hidden
        for layer in row:
            x = layer(x)
        outputs.append(layers.Dense(1)(layers.Flatten()(layers.ReLU()(x))))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(RATE, momentum=0.9), ["mse"] * len(outputs))
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (samples, 4, 4, 3)).astype("float32")
    x[::8] += 2  # the devices' halves differ
    y = [np.sign(x[:, 0, 0, :1])] * len(outputs)
    history = model.fit(x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0).history
    predictions = keras.tree.flatten(model.predict(x, batch_size=BATCH, verbose=0))
    if devices:
        kernel = model.get_layer("conv").kernel.value
        assert len(kernel.sharding.device_set) == 2 and kernel.is_fully_replicated
    keras.distribution.set_distribution(None)
    return model, history["loss"], predictions


def largest_difference(one, two):
    """Of losses, weights, moving statistics and predictions."""
    (model, *results), (other, *others) = one, two
    pairs = list(zip(keras.tree.flatten(results), keras.tree.flatten(others), strict=True))
    pairs += zip(model.variables, other.variables, strict=True)
    return max(np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in pairs)


DEVICES = ["cpu:0", "cpu:1"]


@pytest.mark.parametrize(
    "branches",
    [
        pytest.param(lambda: layers_of(MOVING[:4]) | wrapped(), id="batch statistics"),
        pytest.param(
            lambda: layers_of(MOVING, synchronized=True), marks=pytest.mark.slow, id="sync"
        ),
        pytest.param(lambda: layers_of(PER_SAMPLE), marks=pytest.mark.slow, id="per sample"),
        pytest.param(
            lambda: layers_of(MOVING, ghost_batch_size=4), marks=pytest.mark.slow, id="ghost"
        ),
        pytest.param(lambda: recurrent(SPECS), marks=pytest.mark.slow, id="recurrent"),
    ],
)
def test_two_devices_are_one(branches):
    """The batch statistics are those of the global batch, whatever `synchronized` says."""
    single = trained(branches, None)
    assert largest_difference(trained(branches, DEVICES), single) < 1e-5
    for variable in single[0].non_trainable_variables:
        if "moving" in variable.name:
            assert (np.asarray(variable) != ("variance" in variable.name)).any()


def test_slices_are_something_else():
    """What the test above would not find out if each device had statistics of its own."""
    whole, slices = (
        trained(lambda size=size: layers_of(MOVING[:1], ghost_batch_size=size), devices)
        for size, devices in ((None, DEVICES), (4, None))
    )
    assert largest_difference(whole, slices) > 1e-2


def test_an_uneven_batch_is_refused_by_jax():
    with pytest.raises(ValueError, match="partitioned 2 times, but the dimension size is 5"):
        trained(lambda: layers_of(MOVING[:1]), DEVICES, samples=13)
