"""Statistics in at least float32, accurate at any mean, whatever the compute dtype.

Runs on every backend, as test_laws does.
"""

import keras
import numpy as np
import pytest
from keras.src.backend import AutocastScope

from tests.support import reference
from tests.support.norms import (
    BACKEND,
    BY_NAME,
    MOVING,
    NORMS,
    assert_close,
    in_turn,
    needs_tensorflow,
    over,
    random_layer,
    values,
)
from tests.support.running import forward, gradients, tensor

HALF = ("mixed_float16", "mixed_bfloat16")


def image(rng, shape, mean, std):
    """Samples and channels of different means, in float32."""
    x = rng.standard_normal(shape, "float32")
    return x * np.float32(std) + np.float32(mean)


@over()
@pytest.mark.parametrize(
    "shape, mean, std",
    [
        ((2, 65536, 4), 1e4, 1),
        ((64, 64, 64, 4), 1e4, 1),
        ((8, 16, 16, 4), 1e4, 1),
        ((8, 16, 16, 4), 1e3, 0.01),
        ((8, 16, 16, 4), -1e3, 0.01),
    ],
    ids=str,
)
def test_large_means(norm, shape, mean, std, rng):
    """Within 1e-2 standard deviations of the exact result on the same float32 numbers."""
    x = image(rng, shape, mean, std)
    options = {} if norm.name == "mean_only_bn" else {"epsilon": 1e-3 * std**2}
    layer = norm(momentum=0.0, **options) if norm.moving else norm(**options)
    exact, moving = reference.expected(built(layer, shape), x, training=True)
    scale = std if norm.name == "mean_only_bn" else 1
    assert np.abs(forward(layer, x, True) - exact).max() < 1e-2 * scale
    if norm.moving:
        assert np.abs(values(layer)["moving_mean"] - moving["moving_mean"]).max() < 1e-2 * std
        if "moving_variance" in moving:
            error = values(layer)["moving_variance"] / moving["moving_variance"] - 1
            assert np.abs(error).max() < 1e-2


@over([norm for norm in NORMS if norm.moving])
def test_large_means_at_inference(norm, rng):
    x = image(rng, (8, 16, 16, 4), 1e4, 1)
    layer = built(norm(), x.shape)
    layer.moving_mean.assign(np.full(4, 1e4))
    exact, _ = reference.expected(layer, x)
    assert np.abs(forward(layer, x) - exact).max() < 1e-2


def built(layer, shape):
    layer.build(shape)
    return layer


@over()
def test_samples_of_very_different_means(norm, rng):
    """Pooling 1e4 and -1e4 loses no digit of the variance within a sample."""
    x = image(rng, (2, 64, 64, 4), 0, 1)
    x += np.float32([[[[1e4]]], [[[-1e4]]]])
    layer = built(norm(), x.shape)
    exact, _ = reference.expected(layer, x, training=True)
    scale = np.abs(exact).max() if norm.name == "mean_only_bn" else 1
    assert np.abs(forward(layer, x, True) - exact).max() < 1e-2 * scale


@over()
@pytest.mark.parametrize("policy", HALF)
def test_mixed_precision(norm, policy, rng):
    """float32 weights and statistics, output in the compute dtype."""
    shape = (4, 5, 5, 8)
    layer = random_layer(norm, shape, rng, dtype=policy)
    assert {keras.backend.standardize_dtype(w.dtype) for w in layer.weights} == {"float32"}
    x = keras.ops.cast(rng.normal(2, 3, shape), layer.compute_dtype)
    exact_input = keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))
    for training in (True, False):
        exact, moving = reference.expected(layer, exact_input, training=training)
        y = layer(x, training=training)
        assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
        y = keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))
        rounding = {"float16": 2**-11, "bfloat16": 2**-8}[layer.compute_dtype]
        np.testing.assert_allclose(y, exact, rtol=1.1 * rounding, atol=1e-4)
        for name, value in moving.items():
            assert_close(values(layer)[name], value, 1e-5)


@over()
@pytest.mark.parametrize("policy", HALF)
@pytest.mark.parametrize("size", [1e5, 1e10, 1e15])
def test_inputs_above_the_range_of_float16(norm, policy, size, rng):
    """Finite and right wherever the exact result fits."""
    if norm.name == "mean_only_bn" and policy == "mixed_float16":
        size = 1e4  # its result is as large as its input
    x = image(rng, (4, 5, 5, 8), 0, size)
    layer = built(norm(dtype=policy), x.shape)
    exact, _ = reference.expected(layer, x, training=True)
    y = keras.ops.convert_to_numpy(keras.ops.cast(layer(x, training=True), "float32"))
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y, exact, rtol=1e-2, atol=1e-2 * np.abs(exact).max())


@over()
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_up_to_where_squares_end(norm, policy, rng):
    """Deviations of 1e17, whose squares float32 just holds; see the docstring of the base."""
    x = image(rng, (4, 5, 5, 8), 0, 1e17)
    layer = built(norm(dtype=policy), x.shape)
    exact, _ = reference.expected(layer, x, training=True)
    y = keras.ops.convert_to_numpy(keras.ops.cast(layer(x, training=True), "float32"))
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y, exact, rtol=1e-2, atol=1e-2 * np.abs(exact).max())


@over()
def test_constant_inputs(norm):
    """Rounding makes E[x^2] - E[x]^2 of some of these negative; no variance may be."""
    x = np.empty((2, 4099, 8), "float32")
    x[...] = 1e12 * np.array([1.1, 2.3, 3.3, 7.7, 1.1, 2.3, 3.3, 7.7])
    layer = built(norm(momentum=0.0) if norm.moving else norm(), x.shape)
    assert np.isfinite(forward(layer, x, True)).all()
    assert (values(layer).get("moving_variance", np.zeros(1)) >= 0).all()


@over()
def test_inside_the_autocast_scope_of_another_layer(norm, rng):
    """Every weight is read in float32, logits and gates too."""
    shape = (4, 5, 5, 8)
    layer = random_layer(norm, shape, rng, dtype="float32")
    x = rng.normal(2, 3, shape).astype("float32")
    for variable in layer.weights:
        if variable.name == "beta":
            variable.assign(keras.ops.full(variable.shape, 70000.0))  # above float16's range
    exact, _ = reference.expected(layer, x, training=True)
    with AutocastScope("float16"):
        y = layer(x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    np.testing.assert_allclose(keras.ops.convert_to_numpy(y), exact, rtol=1e-5, atol=1e-4)


@needs_tensorflow  # Keras promotes float64 to float32 on the other backends
@over()
@pytest.mark.parametrize("given", ["float64", "float32"])
def test_float64_stays_float64(norm, given, rng):
    shape = (4, 5, 5, 8)
    layer = random_layer(norm, shape, rng, dtype="float64")
    x = rng.normal(2, 3, shape).astype(given)
    for training in (False, True):
        exact, moving = reference.expected(layer, x, training=training)
        y = layer(x, training=training)
        assert keras.backend.standardize_dtype(y.dtype) == "float64"
        np.testing.assert_allclose(y, exact, rtol=1e-12, atol=1e-12)
        for name, value in moving.items():
            np.testing.assert_allclose(values(layer)[name], value, rtol=1e-12, atol=1e-12)


@over()
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_integers(norm, dtype, rng):
    x = rng.integers(0, 255, (4, 5, 5, 8)).astype(dtype)
    layer = random_layer(norm, x.shape, rng, dtype="float32")
    exact, _ = reference.expected(layer, x, training=True)
    y = layer(keras.ops.convert_to_tensor(x), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    np.testing.assert_allclose(keras.ops.convert_to_numpy(y), exact, rtol=1e-4, atol=1e-3)


@over()
@pytest.mark.parametrize("policy", HALF)
def test_gradients_in_mixed_precision(norm, policy, rng):
    """Weights get float32 gradients, equal to those of float32 up to the rounding of outputs."""
    shape = (4, 5, 5, 8)
    layer = random_layer(norm, shape, rng, dtype=policy)
    x, dy = rng.normal(2, 3, shape).astype("float32"), rng.normal(0, 1, shape).astype("float32")
    half = keras.ops.convert_to_numpy(
        keras.ops.cast(keras.ops.cast(dy, layer.compute_dtype), "float32")
    )
    single = norm(dtype="float32")
    single.build(shape)
    for mine, theirs in zip(single.weights, layer.weights, strict=True):
        mine.assign(theirs)
    exact = gradients(single, x, half)
    for name, value in gradients(layer, x, half).items():
        assert value.dtype == "float32"
        np.testing.assert_allclose(value, exact[name], rtol=2e-2, atol=2e-2)


@pytest.mark.skipif(BACKEND == "torch", reason="torch has no half precision convolution on CPU")
def test_a_mixed_precision_model_trains(rng):
    keras.config.set_dtype_policy("mixed_float16")
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(8, 3)(inputs)
    for name in ("bn", "sn_all", "bin"):
        x = BY_NAME[name]()(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    model.compile("sgd", "mse")
    data = rng.normal(0, 1, (8, 4, 4, 3)), np.ones((8, 8))
    history = model.fit(*data, batch_size=4, epochs=3, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert history.history["loss"][-1] < history.history["loss"][0]


@pytest.mark.parametrize("norm, dtype", in_turn(MOVING, ("float16", "bfloat16")))
def test_moving_statistics_arrive_in_pure_half_precision(norm, dtype, rng):
    """They take steps of 1 percent, which a weight in half precision would lose on the way."""
    x = rng.normal(2, 1, (512, 2, 8))
    layer = built(norm(dtype=dtype, momentum=0.99), x.shape)
    batch = x.astype("float32").mean((0, 1)), x.astype("float32").var((0, 1))
    _, found = layer.normalize(tensor(x.astype("float32")), True)
    for _ in range(600):
        layer.update_moving(found)  # the same step 600 times
    names = [name for name in ("moving_mean", "moving_variance") if name in values(layer)]
    for name, expected in zip(names, batch, strict=False):
        np.testing.assert_allclose(values(layer)[name], expected, rtol=0.01)
    for variable in layer.weights:
        controls = variable.name in layer.control_weights
        precise = controls or variable.name.startswith(("moving_", "renorm_"))
        assert variable.dtype == ("float32" if precise else dtype)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("norm", MOVING, ids=str)
def test_the_momentum_is_rounded_once(norm, masked):
    layer = norm(momentum=0.99, dtype="float32", moving_mean_initializer="zeros")
    x = np.full((4, 3, 8), 255.0, "float32")
    mask = tensor(np.ones((4, 3), bool)) if masked else None
    layer(tensor(x), training=True, mask=mask)
    expected = (1 - np.float32(0.99)) * np.float32(255)
    np.testing.assert_allclose(values(layer)["moving_mean"], expected, rtol=2e-7)
