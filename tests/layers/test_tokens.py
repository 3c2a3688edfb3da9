"""The short way of `keras_norms.tokens` computes what the layer does, or leaves it to it."""

import keras
import numpy as np
import pytest

import keras_norms
from tests.support.norms import BACKEND, BY_NAME, assert_close, random_layer

if BACKEND != "tensorflow":
    pytest.skip("needs TensorFlow", allow_module_level=True)
import tensorflow as tf

from keras_norms import tokens
from tests.support.both_ways import both, function

SHAPES = {(3, 5, 8): (0, 1), (6, 8): 0, (2, 3, 4, 8): (0, 1, 2)}


@pytest.fixture
def calls(monkeypatch):
    """The number of groups of each call."""
    found, apply = [], tokens.normalize

    def counted(layer, *arguments):
        found.append(layer.token_groups)
        return apply(layer, *arguments)

    monkeypatch.setattr(tokens, "normalize", counted)
    return found


def layer_of(shape, rng, groups=2, **options):
    options = {"groups": groups, "batch_axis": SHAPES[shape]} | options
    return random_layer(BY_NAME["gn"], shape, rng, **options)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_ways_agree(shape, groups, jit_compile, rng, calls):
    layer = layer_of(shape, rng, groups)
    x, dy = rng.normal(3, 2, shape), rng.normal(0, 1, shape)
    for one, other in both(layer, x, dy, jit_compile=jit_compile):
        assert_close(other, one, 1e-9)
    assert calls == [groups]


def test_gradients_have_a_known_shape(rng, calls):
    """Of a tape inside of a graph, which takes the shape that a function was traced with."""
    layer = layer_of((6, 8), rng)

    @tf.function
    def slopes(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        dx = tape.gradient(y, x)
        assert dx.shape == y.shape == (6, 8)
        return dx

    slopes(tf.zeros((6, 8), "float64"))
    assert calls


@pytest.mark.parametrize("known", [(None, None, 8), (3, None, 8), (None, 5, 8)], ids=str)
def test_sizes_that_are_not_known(known, rng, calls):
    layer = layer_of((3, 5, 8), rng)
    x, dy = rng.normal(3, 2, (3, 5, 8)), rng.normal(0, 1, (3, 5, 8))
    for one, other in both(layer, x, dy, signature=[tf.TensorSpec(known, "float64")]):
        assert_close(other, one, 1e-9)
    assert calls


@pytest.mark.parametrize("options", [{"scale": False}, {"center": False}], ids=str)
def test_without_a_weight(options, rng, calls):
    layer = layer_of((6, 8), rng, **options)
    x, dy = rng.normal(3, 2, (6, 8)), rng.normal(0, 1, (6, 8))
    for one, other in both(layer, x, dy):
        assert_close(other, one, 1e-9)
    assert calls


def test_gradients_of_gradients(rng, calls):
    layer = layer_of((6, 8), rng)
    x, dy = rng.normal(3, 2, (6, 8)), rng.normal(0, 1, (6, 8))
    for one, other in both(layer, x, dy, order=2):
        assert_close(other, one, 1e-9)
    assert calls


def test_forward_mode(rng, calls):
    layer = layer_of((6, 8), rng)
    x, tangent = (tf.constant(rng.normal(3, 2, (6, 8))) for _ in range(2))

    @tf.function
    def jvp():
        with tf.autodiff.ForwardAccumulator(x, tangent) as forward:
            y = layer(x, training=True)
        return forward.jvp(y)

    step = 1e-5
    ahead, behind = (layer(x + sign * step * tangent) for sign in (1, -1))
    assert_close(jvp(), (ahead - behind) / (2 * step), 1e-7)
    assert calls


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy, rng, calls):
    half = policy.removeprefix("mixed_")
    layer = layer_of((3, 5, 8), rng, dtype=policy)
    x, dy = tf.cast(rng.normal(3, 2, (3, 5, 8)), half), rng.normal(0, 1, (3, 5, 8))
    for one, other in both(layer, x, dy):
        assert_close(other, one, 0.05)
    y, dx, *slopes = function(layer, dy)(x)
    assert calls and (y.dtype, dx.dtype) == (half, half)
    assert {slope.dtype for slope in slopes} == {tf.float32}


def test_accuracy_at_large_means(rng, calls):
    shape = (64, 64)
    x = rng.standard_normal(shape, "float32") + np.float32(1e4)
    layer = keras_norms.GroupNormalization(1)
    layer.build(shape)
    centred = x.astype("float64") - x.astype("float64").mean(-1, keepdims=True)
    exact = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.epsilon)
    assert_close(function(layer, 0.0)(tf.constant(x))[0], exact, 2e-3)
    assert calls


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("norm", ["ln", "gn(groups=2)"])
def test_a_loop_over_time(norm, jit_compile, rng, calls):
    layer = keras_norms.NormalizedLSTM(4, norm=norm, return_sequences=True, dtype="float64")
    x, dy = rng.normal(0, 1, (3, 5, 2)), rng.normal(0, 1, (3, 5, 4))
    layer.build(x.shape)
    layer.set_weights([rng.uniform(0.5, 1, weight.shape) for weight in layer.get_weights()])
    for one, other in both(layer, x, dy, jit_compile=jit_compile):
        assert_close(other, one, 1e-9)
    assert calls


def test_a_cell(rng, calls):
    cell = keras_norms.NormalizedLSTMCell(4, norm="ln", dtype="float64")
    layer = keras.layers.RNN(cell, return_sequences=True, dtype="float64")
    x, dy = rng.normal(0, 1, (3, 5, 2)), rng.normal(0, 1, (3, 5, 4))
    layer.build(x.shape)
    layer.set_weights([rng.uniform(0.5, 1, weight.shape) for weight in layer.get_weights()])
    for one, other in both(layer, x, dy):
        assert_close(other, one, 1e-9)
    assert calls


def test_layers_share_functions(rng, calls):
    """A new model adds no gradient, which TensorFlow would keep for good."""
    from tensorflow.python.framework import ops as framework

    def train():
        layer = layer_of((6, 8), rng, dtype="float32")
        function(layer, 0.0)(tf.zeros((6, 8)))

    train()
    before = len(framework._gradient_registry.list())
    train()
    assert len(calls) == 2 and len(framework._gradient_registry.list()) == before


def test_where_the_layer_computes_itself(rng, calls):
    x, mask = tf.constant(rng.normal(0, 1, (3, 5, 8))), tf.ones((3, 5), tf.bool)

    class Other(keras_norms.GroupNormalization):
        """Somebody else's layer."""

    options = {"groups": 2, "batch_axis": (0, 1), "dtype": "float64"}
    ways = {
        "a mask": (keras_norms.GroupNormalization(**options), {"mask": mask}),
        "no training": (keras_norms.GroupNormalization(**options), {"training": False}),
        "another's": (Other(**options), {}),
        "channels first": (keras_norms.GroupNormalization(2, 1, batch_axis=(0, 2)), {}),
        "positions": (keras_norms.GroupNormalization(2), {}),
        "switched off": (keras_norms.GroupNormalization(**options), {}),
    }
    ways["switched off"][0].fusible = False
    for layer, arguments in ways.values():
        inputs = x if layer.axis == -1 else tf.zeros((3, 4, 5))
        call = tf.function(layer.__call__, autograph=False)
        call(inputs, **{"training": True} | arguments)
    assert not calls
