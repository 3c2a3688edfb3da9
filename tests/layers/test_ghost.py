"""`ghost_batch_size`: statistics of slices of the batch are those of as many batches."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_norms
from tests.support import reference
from tests.support.norms import (
    BY_NAME,
    MOVING,
    Layout,
    assert_close,
    needs_tensorflow,
    over,
    random_layer,
    values,
)
from tests.support.running import forward, gradients

SHAPE = (10, 3, 4, 8)
SIZES = (1, 4, 5, 10, 16)


def slices(array, size):
    return [array[i : i + size] for i in range(0, len(array), size)]


def expected(layer, x, size, mask=None):
    """Output and moving statistics of the slices, each of them normalized as a batch."""
    weights = values(layer)
    masks = [None] * len(x) if mask is None else slices(mask, size)
    parts = [
        reference.expected(layer, part, own, True, weights)
        for part, own in zip(slices(x, size), masks, strict=False)
    ]
    counts = [
        np.prod(part.shape[:-1]) if own is None else own.sum()
        for part, own in zip(slices(x, size), masks, strict=False)
    ]
    moved = {
        name: np.average([moving[name] for _, moving in parts], 0, weights=counts)
        for name in parts[0][1]
    }
    return np.concatenate([y for y, _ in parts]), moved


@over(MOVING)
@pytest.mark.parametrize("size", SIZES)
def test_slices_are_batches(norm, size, rng):
    layer = random_layer(norm, SHAPE, rng, ghost_batch_size=size)
    x = rng.normal(2, 3, SHAPE)
    y, moved = expected(layer, x, size)
    assert_close(forward(layer, x, training=True), y)
    assert_moved(norm, layer, moved)


def assert_moved(norm, layer, moved):
    for name, value in moved.items():
        # The deviation moves by the root of the slices' mean variance, no mean of their own roots.
        if not norm.held or name.endswith("_mean"):
            assert_close(values(layer)[name], value)


@over(MOVING)
def test_masks(norm, rng):
    layer = random_layer(norm, SHAPE, rng, ghost_batch_size=4)
    x, mask = rng.normal(2, 3, SHAPE), rng.random(SHAPE[:3]) < 0.6
    mask[4:8] = False  # a slice of nothing but padding
    y, moved = expected(layer, x, 4, mask)
    assert_close(forward(layer, x, training=True, mask=mask)[mask], y[mask])
    assert_moved(norm, layer, moved)


@over(MOVING)
def test_gradients_of_a_slice_ignore_the_others(norm, rng):
    layer = random_layer(norm, SHAPE, rng, ghost_batch_size=5)
    single = random_layer(norm, SHAPE, rng)
    for mine, theirs in zip(single.weights, layer.weights, strict=True):
        mine.assign(ops.convert_to_numpy(theirs))
    x, dy = rng.normal(2, 3, SHAPE), rng.normal(0, 1, SHAPE)
    parts = [gradients(single, *pair) for pair in zip(slices(x, 5), slices(dy, 5), strict=True)]
    actual = gradients(layer, x, dy)
    assert_close(actual.pop("x"), np.concatenate([part.pop("x") for part in parts]))
    for name, slope in actual.items():
        assert_close(slope, sum(part[name] for part in parts))


@needs_tensorflow
@over(MOVING)
def test_unknown_batch_size(norm, rng):
    import tensorflow as tf

    layer = random_layer(norm, SHAPE, rng, ghost_batch_size=4)
    x = rng.normal(2, 3, SHAPE)
    y, _ = expected(layer, x, 4)
    call = tf.function(
        lambda x: layer(x, training=True),
        input_signature=[tf.TensorSpec((None, *SHAPE[1:]), "float64")],
    )
    assert_close(call(x), y)


def test_tokens_and_steps(rng):
    layout = Layout((6, 5, 8), -1, (0, 1))
    for steps in (None, 5):
        options = {**layout.arguments, "ghost_batch_size": 3, "max_steps": steps}
        layer = random_layer_of_steps(options, layout.shape, rng)
        x = rng.normal(2, 3, layout.shape)
        y = forward(layer, x, training=True)
        for begin in (0, 3):
            part = x[begin : begin + 3]
            axes = (0, 1) if steps is None else 0
            mean, std = part.mean(axes, keepdims=True), part.std(axes, keepdims=True)
            assert_close(y[begin : begin + 3], (part - mean) / np.sqrt(std**2 + layer.epsilon))


def random_layer_of_steps(options, shape, rng):
    layer = BY_NAME["bn"](dtype="float64", **options)
    layer.build(shape)
    return layer


def test_inference_and_recalibration_know_no_slices(rng):
    x = rng.normal(2, 3, SHAPE).astype("float32")
    x[4:] += 5  # the mean of the slices' variances is not the variance
    net = keras.Sequential(
        [keras.Input(SHAPE[1:]), keras_norms.BatchNormalization(ghost_batch_size=4, name="norm")]
    )
    keras_norms.recalibrate(net, [x])
    norm = net.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean, x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, x.var((0, 1, 2)), rtol=1e-5)
    y = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + norm.epsilon)
    actual = ops.convert_to_numpy(net(x, training=False))
    np.testing.assert_allclose(actual, y, rtol=1e-4, atol=1e-4)


def test_mean_only_batch_norm_of_a_wrapped_layer(rng):
    dense = keras.layers.Dense(4, dtype="float64")
    options = {"mean_only_batch_norm": True, "ghost_batch_size": 4, "dtype": "float64"}
    layer = keras_norms.WeightNormalization(dense, **options)
    layer.build((10, 3))
    x = rng.normal(2, 3, (10, 3))
    linear = np.concatenate([part - part.mean(0) for part in slices(x, 4)])
    assert_close(forward(layer, x, training=True), linear @ ops.convert_to_numpy(dense.kernel))
    moved = 0.1 * x.mean(0) @ ops.convert_to_numpy(dense.kernel)
    assert_close(values(layer.mean_only_batch_norm)["moving_mean"], moved)
    again = keras_norms.WeightNormalization.from_config(layer.get_config())
    assert again.mean_only_batch_norm.ghost_batch_size == again.ghost_batch_size == 4


def test_errors():
    with pytest.raises(ValueError, match="synchronized=True, ghost_batch_size=4"):
        keras_norms.BatchNormalization(synchronized=True, ghost_batch_size=4)
    with pytest.raises(ValueError, match="`ghost_batch_size` must be a positive int"):
        keras_norms.BatchNormalization(ghost_batch_size=0)
    assert keras_norms.get("sn(ghost_batch_size=8)").normalize().ghost_batch_size == 8
    wrapped = keras_norms.get("wn_mobn(ghost_batch_size=8)").wrap(keras.layers.Dense(2))
    assert wrapped.mean_only_batch_norm.ghost_batch_size == 8
    with pytest.raises(ValueError, match="'wn' takes no argument 'ghost_batch_size'"):
        keras_norms.get("wn(ghost_batch_size=8)")
