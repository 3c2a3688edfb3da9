"""Plain graphs, XLA and eager mode agree, at sizes that a graph does not know. TensorFlow only."""

import keras
import numpy as np
import pytest

from tests.support import reference
from tests.support.norms import (
    BACKEND,
    BY_NAME,
    MOVING,
    NORMS,
    assert_close,
    over,
    random_layer,
    randomize,
    values,
)

if BACKEND != "tensorflow":
    pytest.skip("needs TensorFlow", allow_module_level=True)
import tensorflow as tf


def step(layer, dy):
    """One training step: output, gradients, and moving statistics in the layer."""

    def run(x, mask=None):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True, mask=mask)
            loss = tf.reduce_sum(y * dy)
        return y, tape.gradient(loss, [x] + [v.value for v in layer.trainable_variables])

    return run


@over()
@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.slow), True])
def test_xla_and_graph_and_eager_agree(norm, masked, rng):
    shape = (3, 4, 5, 8)
    x, dy = (rng.normal(2, 3, shape).astype("float32") for _ in range(2))
    mask = tf.constant(rng.random((3, 4)) < 0.6) if masked else None
    layer = random_layer(norm, shape, rng, dtype="float32")
    start = layer.get_weights()
    results = []
    for wrap in (lambda f: f, tf.function, lambda f: tf.function(f, jit_compile=True)):
        layer.set_weights(start)
        y, slopes = wrap(step(layer, dy))(tf.constant(x), mask)
        results.append([y, *slopes, *values(layer).values()])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert_close(one, two, 2e-4)


@over()
def test_functions_of_unknown_sizes(norm, rng):
    """Batch, positions and the mask's sizes are unknown to the graph, the mask may broadcast."""
    layer = random_layer(norm, (None, None, 8), rng)
    function = tf.function(
        lambda x, mask: layer(x, training=True, mask=mask),
        input_signature=[
            tf.TensorSpec((None, None, 8), "float64"),
            tf.TensorSpec((None, None), "bool"),
        ],
    )
    for n, t, mask_shape in ((4, 5, (4, 5)), (2, 7, (2, 7)), (4, 5, (1, 5)), (4, 5, (4, 1))):
        x, mask = rng.normal(2, 3, (n, t, 8)), rng.random(mask_shape) < 0.7
        mask[0, 0] = True
        valid = np.broadcast_to(mask, (n, t))
        y, moving = reference.expected(layer, x, mask, training=True)
        assert_close(function(x, mask).numpy()[valid], y[valid])
        for name, value in moving.items():
            assert_close(values(layer)[name], value)


@over()
@pytest.mark.parametrize("training", [False, True])
def test_a_graph_that_does_not_know_the_channels(norm, training, rng):
    layer = random_layer(norm, (None, 5, 8), rng)
    x = rng.normal(2, 3, (4, 5, 8))
    y, moving = reference.expected(layer, x, training=training)
    signature = [tf.TensorSpec((None, None, None), "float64")]
    function = tf.function(lambda x: layer(x, training=training), input_signature=signature)
    assert_close(function(x), y)
    for name, value in moving.items():
        assert_close(values(layer)[name], value)


@pytest.mark.parametrize("shape", [(4, 1), (1, 5), (1, 1)], ids=str)
def test_a_mask_of_unknown_size_broadcasts_over_two_batch_axes(shape, rng):
    layer = random_layer(BY_NAME["bn"], (None, None, 8), rng, batch_axis=(0, 1))
    function = tf.function(
        lambda x, mask: layer(x, training=True, mask=mask),
        input_signature=[
            tf.TensorSpec((None, None, 8), "float64"),
            tf.TensorSpec((None, None), "bool"),
        ],
    )
    x, mask = rng.normal(2, 3, (4, 5, 8)), rng.random(shape) < 0.7
    mask[0, 0] = True
    valid = np.broadcast_to(mask, (4, 5))
    y, moving = reference.expected(layer, x, mask, training=True)
    assert_close(function(x, mask).numpy()[valid], y[valid])
    for name, value in moving.items():
        assert_close(values(layer)[name], value)


@over(MOVING)
def test_an_empty_batch_of_unknown_size_moves_nothing(norm, rng):
    layer = random_layer(norm, (None, None, 8), rng, dtype="float32")
    before = values(layer)
    function = tf.function(
        step(layer, 1.0), input_signature=[tf.TensorSpec((None, None, 8), "float32")]
    )
    y, slopes = function(tf.zeros((0, 4, 8)))
    assert y.shape == (0, 4, 8)
    assert all(np.isfinite(slope).all() for slope in slopes)
    for name, value in values(layer).items():
        np.testing.assert_array_equal(value, before[name])


def train(norms, x, **compile_options):
    """Two steps of a model with every norm in a branch of its own; weights and predictions."""
    inputs = keras.Input((4, 4, 3))
    hidden = keras.layers.Conv2D(8, 3, kernel_initializer="he_normal")(inputs)
    layers = [norm(name=norm.name) for norm in norms]
    outputs = [keras.layers.GlobalMaxPooling2D()(layer(hidden)) for layer in layers]
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(1)
    model.layers[1].kernel.assign(rng.normal(0, 0.5, (3, 3, 3, 8)))
    for layer in layers:
        randomize(layer, rng)
    model.compile(keras.optimizers.SGD(0.01), ["mse"] * len(norms), **compile_options)
    targets = [np.ones((8, 8), "float32")] * len(norms)
    model.fit(x, targets, batch_size=4, epochs=1, shuffle=False, verbose=0)
    return [*model.get_weights(), *model.predict(x, verbose=0)]


@pytest.mark.parametrize(
    "norms",
    [
        pytest.param([BY_NAME["bin"], BY_NAME["sn_all"]], id="two"),
        pytest.param(NORMS, id="all", marks=pytest.mark.slow),
    ],
)
def test_models_train_alike_in_every_mode(norms, rng):
    x = rng.normal(0, 1, (8, 4, 4, 3)).astype("float32")
    graph = train(norms, x, jit_compile=False)
    for options in ({"jit_compile": True}, {"run_eagerly": True}):
        for one, two in zip(train(norms, x, **options), graph, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("trainable, training", [(True, False), (False, True)], ids=str)
def test_inference_of_batch_norm_is_one_multiplication_and_one_addition(trainable, training):
    layer = BY_NAME["bn"](trainable=trainable)
    shape = (2, 3, 4, 8)
    layer.build(shape)
    graph = tf.function(layer).get_concrete_function(tf.TensorSpec(shape), training=training).graph
    found = [
        op.type for op in graph.get_operations() if op.outputs and op.outputs[0].shape == shape
    ]
    assert sorted(set(found) - {"Placeholder", "Identity"}) == ["AddV2", "Mul"]
    assert found.count("Mul") == found.count("AddV2") == 1


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_inference_on_batches_of_unknown_size_does_not_ask_for_shapes(norm):
    layer = norm()
    layer.build((None, 3, 4, 8))
    inputs = tf.TensorSpec((None, 3, 4, 8))
    graph = tf.function(layer).get_concrete_function(inputs, training=False).graph
    assert "Shape" not in {op.type for op in graph.get_operations()}
