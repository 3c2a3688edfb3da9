"""Padded entries count in no statistic.

Runs on every backend, as test_laws does.
"""

import keras
import numpy as np
import pytest
from keras import ops

import keras_norms
from keras_norms import moments
from tests.support import reference
from tests.support.norms import (
    BY_NAME,
    DTYPE,
    MOVING,
    NORMS,
    Layout,
    assert_close,
    in_turn,
    over,
    random_layer,
    randomize,
    values,
)
from tests.support.running import forward, gradients, tensor, to_numpy

LAST = Layout((4, 5, 8), -1)
FIRST = Layout((4, 8, 5), 1)
IMAGES = Layout((3, 4, 5, 8), -1)
VECTORS = Layout((6, 8), -1)
LENGTHS = np.arange(5) < np.array([[5], [2], [0], [3]])

MASKS = {
    "lengths": (LAST, LENGTHS),
    "broadcast over samples": (LAST, np.array([[1, 1, 0, 1, 0]], bool)),
    "broadcast over positions": (LAST, np.array([[1], [0], [1], [1]], bool)),
    "samples": (LAST, np.array([1, 0, 1, 1], bool)),
    "as numbers": (LAST, LENGTHS.astype("int32")),
    "channels": (FIRST, np.arange(8) < np.array([[8], [3], [0], [5]])),
    "elements": (FIRST, np.random.default_rng(1).random((4, 8, 5)) < 0.6),
    "pixels": (IMAGES, np.random.default_rng(1).random((3, 4, 5)) < 0.6),
    "rows": (IMAGES, np.random.default_rng(1).random((3, 4)) < 0.6),
    "vectors": (VECTORS, np.array([1, 0, 1, 1, 0, 1], bool)),
    "features": (VECTORS, np.random.default_rng(1).random((6, 8)) < 0.6),
}


def cases():
    return [
        pytest.param(norm, *MASKS[name], id=f"{norm}-{name}")
        for norm in NORMS
        for name in MASKS
        if norm.fits(MASKS[name][0])
    ]


def extended(mask, shape):
    """The mask over every element: what is missing is extended at its end."""
    mask = np.asarray(mask, bool)
    return np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


@pytest.mark.parametrize("norm, layout, mask", cases())
def test_result_is_that_of_the_reference(norm, layout, mask, rng):
    """Whatever the padding holds, NaN included; moving statistics too."""
    layer = random_layer(norm, layout.shape, rng, axis=layout.axis)
    x = rng.normal(2, 3, layout.shape)
    valid = extended(mask, x.shape)
    x[~valid] = np.nan
    y, moving = reference.expected(layer, x, mask, training=True)
    assert_close(forward(layer, x, True, mask)[valid], y[valid])
    for name, value in moving.items():
        assert_close(values(layer)[name], value)
    y, _ = reference.expected(layer, x, mask)
    assert_close(forward(layer, x, False, mask)[valid], y[valid])


@pytest.mark.parametrize("padding", [1e6, np.nan], ids=str)
@pytest.mark.parametrize("norm, axis", in_turn(NORMS, (-1, 1)))
def test_result_is_that_on_truncated_input(norm, axis, padding, rng):
    """Three steps of padding change nothing: neither values, nor gradients, nor statistics."""
    full = (4, 8, 8) if axis == 1 else (4, 5 + 3, 8)
    time = 2 if axis == 1 else 1
    layer = random_layer(norm, full, rng, axis=axis)
    other = norm(dtype=DTYPE, axis=axis)
    other.build(full)
    for mine, theirs in zip(other.weights, layer.weights, strict=True):
        mine.assign(theirs)
    x, dy = rng.normal(2, 3, full), rng.normal(0, 1, full)
    mask = np.zeros((4, 1, 8) if axis == 1 else (4, 8), bool)
    mask[..., :5] = True
    valid = extended(mask, full)
    x[~valid], dy[~valid] = padding, 0
    short, short_dy = (np.take(a, range(5), time) for a in (x, dy))

    slopes, expected = gradients(layer, x, dy, True, mask), gradients(other, short, short_dy)
    assert_close(np.take(slopes["x"], range(5), time), expected.pop("x"))
    assert (slopes.pop("x")[~valid] == 0).all()
    for name, value in expected.items():
        assert_close(slopes[name], value)
    for training in (True, False):
        y = forward(layer, x, training, mask)
        assert_close(np.take(y, range(5), time), forward(other, short, training))
        for name, value in values(other).items():
            assert_close(values(layer)[name], value)


@over([norm for norm in NORMS if not norm.moving])
def test_each_sample_is_as_if_alone_and_truncated(norm, rng):
    layer = random_layer(norm, (4, 5, 8), rng)
    x = rng.normal(2, 3, (4, 5, 8))
    padded = np.where(LENGTHS[..., None], x, np.nan)
    y = forward(layer, padded, mask=LENGTHS)
    for sample, length in enumerate((5, 2, 0, 3)):
        if length:
            alone = forward(layer, x[sample : sample + 1, :length])
            assert_close(y[sample, :length], alone[0])


@over(MOVING)
@pytest.mark.parametrize("shape", [(4, 5), (4, 1), (1, 5), (4,)], ids=str)
@pytest.mark.parametrize("synchronized", [False, True])
def test_a_fully_masked_batch_moves_nothing(norm, shape, synchronized, rng):
    layer = random_layer(norm, (4, 5, 8), rng, synchronized=synchronized)
    before = values(layer)
    y = forward(layer, rng.normal(2, 3, (4, 5, 8)), True, np.zeros(shape, bool))
    assert np.isfinite(y).all()
    for name, value in values(layer).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("shape", [(4, 5), (4,), (1, 5), (4, 5, 8)], ids=str)
def test_moments_of_no_elements_are_zero_and_one(shape):
    """Of a sample, of a group and of the batch: what they hold, NaN included, does not matter."""
    axes = moments.Axes((0,), (1,), 2)
    mask = tensor(np.zeros(shape + (1,) * (3 - len(shape)), bool))
    _, _, instance = moments.instance_moments(tensor(np.full((4, 5, 8), np.nan)), axes, mask)
    group = moments.pool_groups(instance, 2, 4)
    for mean, variance, count in (instance, group, moments.pool(group, (0,))):
        assert (to_numpy(count) == 0).all()
        assert (to_numpy(mean) == 0).all() and (to_numpy(variance) == 1).all()


@over(MOVING)
def test_a_masked_channel_does_not_move(norm, rng):
    layer = random_layer(norm, (4, 8, 5), rng, axis=1)
    before = values(layer)
    mask = np.ones((4, 8), bool)
    mask[:, 2] = False
    forward(layer, rng.normal(2, 3, (4, 8, 5)), True, mask)
    after = values(layer)
    for name in after:
        if name.startswith("moving_"):
            assert ((after[name] == before[name]) == (np.arange(8) == 2)).all()


@over([norm for norm in NORMS if norm.options.get("groups", 1) == 1])
def test_one_channel(norm, rng):
    x = rng.normal(2, 3, (4, 5, 1))
    layer = random_layer(norm, x.shape, rng)
    y, moving = reference.expected(layer, x, LENGTHS, training=True)
    assert_close(forward(layer, x, True, LENGTHS)[LENGTHS], y[LENGTHS])
    for name, value in moving.items():
        assert_close(values(layer)[name], value)


@pytest.mark.parametrize("name", ["ln", "gn", "sn", "sn_no_batch", "bn"])
def test_per_token_norms_on_valid_tokens(name, rng):
    """A per-token norm does not need the mask; batch statistics leave padded tokens out."""
    norm = BY_NAME[name]
    layer = random_layer(norm, (4, 5, 8), rng, batch_axis=(0, 1))
    x = rng.normal(2, 3, (4, 5, 8))
    y, moving = reference.expected(layer, x, LENGTHS, training=True)
    without = forward(layer, x, training=not norm.moving)
    masked = forward(layer, x, True, LENGTHS)
    assert_close(masked[LENGTHS], y[LENGTHS])
    for key, value in moving.items():
        assert_close(values(layer)[key], value)
    if not norm.moving:
        assert_close(masked[LENGTHS], without[LENGTHS], 1e-12)


@pytest.mark.parametrize(
    "shape", [(4, 1), (1, 5), (4,), (1, 1)], ids=["samples", "steps", "vector", "scalar"]
)
def test_masks_broadcast_over_two_batch_axes(shape, rng):
    layer = random_layer(BY_NAME["bn"], (4, 5, 8), rng, batch_axis=(0, 1))
    x, mask = rng.normal(2, 3, (4, 5, 8)), rng.random(shape) < 0.7
    mask.flat[0] = True
    valid = extended(mask, x.shape)
    y, moving = reference.expected(layer, x, mask, training=True)
    assert_close(forward(layer, x, True, mask)[valid], y[valid])
    for name, value in moving.items():
        assert_close(values(layer)[name], value)


@over()
@pytest.mark.parametrize("source", ["Embedding", "Masking"])
def test_masks_of_keras_layers_arrive(norm, source, rng):
    """Through `_keras_mask`, and on to the layer behind."""
    ids = np.array([[3, 1, 2, 0, 0], [1, 0, 0, 0, 0], [2, 2, 3, 1, 2]], "int32")
    if source == "Embedding":
        first = keras.layers.Embedding(4, 8, mask_zero=True)
        x = ids
    else:
        first, x = keras.layers.Masking(0.0), rng.normal(2, 3, (3, 5, 8)).astype("float32")
        x[ids == 0] = 0
    layer = norm(name="norm")
    inputs = keras.Input(x.shape[1:], dtype=x.dtype.name)
    hidden = layer(first(inputs))
    assert hidden._keras_mask is not None
    pooled = keras.layers.GlobalAveragePooling1D()(hidden)
    model = keras.Model(inputs, [hidden, pooled])
    embedded = np.asarray(ops.convert_to_numpy(first(ops.convert_to_tensor(x))))
    expected, moving = reference.expected(layer, embedded, ids > 0, training=True)
    hidden, pooled = (ops.convert_to_numpy(t) for t in model(x, training=True))
    assert_close(hidden[ids > 0], expected[ids > 0], 1e-4)
    for name, value in moving.items():
        assert_close(values(layer)[name], value, 1e-5)
    means = [expected[i][ids[i] > 0].mean(0) for i in range(3)]
    assert_close(pooled, means, 1e-4)


@over()
def test_a_mask_that_is_an_input_of_the_model(norm, rng):
    inputs = keras.Input((None, 8), dtype=DTYPE), keras.Input((None,), dtype="bool")
    layer = norm(dtype=DTYPE)
    model = keras.Model(inputs, layer(inputs[0], mask=inputs[1]))
    randomize(layer, rng)
    x = rng.normal(2, 3, (4, 5, 8)).astype(DTYPE)
    y, moving = reference.expected(layer, x, LENGTHS, training=True)
    result = ops.convert_to_numpy(model([tensor(x), tensor(LENGTHS)], training=True))
    assert_close(result[LENGTHS], y[LENGTHS])
    for name, value in moving.items():
        assert_close(values(layer)[name], value)


@over()
def test_a_mask_with_too_many_axes_is_refused(norm, rng):
    layer = random_layer(norm, (4, 5, 8), rng)
    with pytest.raises(ValueError, match=r"leading axes.*\n?.*\(4, 5, 8, 1\).*\(4, 5, 8\)"):
        forward(layer, rng.normal(2, 3, (4, 5, 8)), True, np.ones((4, 5, 8, 1), bool))


def test_padding_is_not_counted_as_keras_group_normalization_does(rng):
    """Keras's own layer says that it supports masking and lets padding move valid outputs."""
    x = rng.normal(0, 1, (2, 6, 4)).astype("float32")
    mask = np.arange(6) < np.array([[6], [3]])
    ours = keras_norms.GroupNormalization(2)
    before = forward(ours, x, mask=mask)
    x[~mask] = 9
    assert_close(forward(ours, x, mask=mask)[mask], before[mask], 1e-6)
