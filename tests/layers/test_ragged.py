"""Ragged tensors: every norm gives what it gives the same rows padded and masked."""

import numpy as np
import pytest

import keras_norms
from tests.support.norms import BACKEND, BY_NAME, MOVING, assert_close, over, random_layer, values

if BACKEND != "tensorflow":
    pytest.skip("needs TensorFlow", allow_module_level=True)
import keras
import tensorflow as tf

LENGTHS = (3, 2, 5, 4)


def ragged_and_padded(rng, inner=()):
    flat = rng.normal(2, 3, (sum(LENGTHS), *inner, 8))
    ragged = tf.RaggedTensor.from_row_lengths(flat, LENGTHS)
    padded = rng.normal(50, 9, (len(LENGTHS), max(LENGTHS), *inner, 8))
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    padded[mask] = flat
    return ragged, padded, mask


@over()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("inner", [(), (3,)], ids=str)
def test_is_the_masked_result(norm, training, inner, rng):
    ragged, padded, mask = ragged_and_padded(rng, inner)
    layer = random_layer(norm, padded.shape, rng)
    start = layer.get_weights()
    expected = keras.ops.convert_to_numpy(layer(padded, training=training, mask=mask))[mask]
    after = values(layer)
    layer.set_weights(start)
    for call in (layer, tf.function(layer)):
        layer.set_weights(start)
        y = call(ragged, training=training)
        assert isinstance(y, tf.RaggedTensor)
        np.testing.assert_array_equal(y.row_lengths(), LENGTHS)
        assert_close(y.flat_values, expected)
        for name, value in values(layer).items():
            assert_close(value, after[name])


@over(MOVING)
def test_rows_without_elements(norm, rng):
    """They change nothing, and batches of nothing move nothing."""
    layer = random_layer(norm, (None, None, 8), rng)
    start = layer.get_weights()
    flat = rng.normal(2, 3, (5, 8))
    y = layer(tf.RaggedTensor.from_row_lengths(flat, (3, 2)), training=True)
    after = values(layer)
    layer.set_weights(start)
    z = layer(tf.RaggedTensor.from_row_lengths(flat, (3, 0, 2, 0)), training=True)
    assert_close(z.flat_values, y.flat_values)
    for name, value in values(layer).items():
        assert_close(value, after[name])


def test_batch_norm_is_that_of_keras(rng):
    ragged, _, _ = ragged_and_padded(rng)
    ours = keras_norms.BatchNormalization(dtype="float64")
    theirs = keras.layers.BatchNormalization(dtype="float64")
    expected = theirs(ragged, training=True)
    assert_close(ours(ragged, training=True).flat_values, expected.flat_values, 1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_recalibrate(exact, rng):
    ragged, _, _ = ragged_and_padded(rng)
    inputs = keras.Input((None, 8), ragged=True, dtype="float64")
    norm = keras_norms.BatchNormalization(dtype="float64")
    model = keras.Model(inputs, norm(inputs))
    keras_norms.recalibrate(model, [ragged], exact=exact, verbose=False)
    assert_close(norm.moving_mean, ragged.flat_values.numpy().mean(0))
    assert_close(norm.moving_variance, ragged.flat_values.numpy().var(0))


def test_conditions_of_tokens(rng):
    ragged, padded, mask = ragged_and_padded(rng, (3,))
    flat = rng.normal(size=(sum(LENGTHS), 2))
    condition = np.zeros((*mask.shape, 2))
    condition[mask] = flat
    layer = keras_norms.ConditionalInstanceNormalization(
        batch_axis=(0, 1), kernel_initializer="glorot_uniform", dtype="float64"
    )
    expected = layer([padded, condition]).numpy()[mask]
    y = layer([ragged, tf.RaggedTensor.from_row_lengths(flat, LENGTHS)])
    assert_close(y.flat_values, expected)


def test_gradients_reach_the_values(rng):
    ragged, padded, mask = ragged_and_padded(rng)
    layer = random_layer(BY_NAME["sn"], padded.shape, rng)
    flat, padded = ragged.flat_values, tf.constant(padded)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch((flat, padded))
        y = layer(ragged.with_flat_values(flat), training=True)
        one = tf.reduce_sum(tf.sin(y.flat_values))
        z = layer(padded, training=True, mask=mask)
        other = tf.reduce_sum(tf.sin(tf.boolean_mask(z, mask)))
    expected = tf.boolean_mask(tape.gradient(other, padded), mask)
    assert_close(tf.convert_to_tensor(tape.gradient(one, flat)), expected)
