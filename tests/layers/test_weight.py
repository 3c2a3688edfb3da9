import threading
import time
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_norms import (
    BatchNormalization,
    WeightNormalization,
    WeightStandardization,
    data_dependent_init,
)
from tests.support.child import JAX, ROOT, run_code

MEAN_ONLY = {"mean_only_batch_norm": True}


def array(tensor):
    return ops.convert_to_numpy(tensor)


def normal(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def randomize(layer, seed=1):
    """Random weights, none of them near zero, so that nothing holds by accident."""
    generator = np.random.default_rng(seed)
    for weight in layer.weights:
        if "float" in weight.dtype:
            signs = generator.choice([-1.0, 1.0], weight.shape)
            weight.assign(signs * generator.uniform(0.5, 1.5, weight.shape))


def get(layer, path):
    for name in path.split("."):
        layer = getattr(layer, name)
    return layer


def copy(layer, shape, **changes):
    new = type(layer).from_config({**layer.get_config(), **changes})
    new.build(shape)
    return new


def snapshot(layer):
    return {variable.path: array(variable) for variable in layer.variables}


def changed(layer, before):
    return {
        variable.path.split("/")[-1]
        for variable in layer.variables
        if not np.array_equal(array(variable), before[variable.path])
    }


def tape_gradients(layer, x, upstream, variables):
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x) * upstream)
    return [g.numpy() for g in tape.gradient(loss, [x] + [v.value for v in variables])]


# layer, shape of its input, {gain: (kernel, the axes over which ||v|| sums)}
CASES = {
    "dense": (lambda **k: layers.Dense(4, **k), (5, 3), {"gain": ("kernel", (0,))}),
    "dense_no_bias": (
        lambda **k: layers.Dense(4, use_bias=False, **k),
        (5, 2, 3),
        {"gain": ("kernel", (0,))},
    ),
    "conv1d": (
        lambda **k: layers.Conv1D(4, 3, padding="causal", **k),
        (2, 7, 3),
        {"gain": ("kernel", (0, 1))},
    ),
    "conv2d": (
        lambda **k: layers.Conv2D(4, 3, strides=2, **k),
        (2, 7, 6, 3),
        {"gain": ("kernel", (0, 1, 2))},
    ),
    "conv3d": (
        lambda **k: layers.Conv3D(4, 2, **k),
        (2, 4, 3, 3, 2),
        {"gain": ("kernel", (0, 1, 2, 3))},
    ),
    "conv1d_transpose": (
        lambda **k: layers.Conv1DTranspose(4, 3, **k),
        (2, 5, 3),
        {"gain": ("kernel", (0, 2))},
    ),
    "conv2d_transpose": (
        lambda **k: layers.Conv2DTranspose(4, 3, strides=2, padding="same", **k),
        (2, 5, 4, 3),
        {"gain": ("kernel", (0, 1, 3))},
    ),
    "conv3d_transpose": (
        lambda **k: layers.Conv3DTranspose(4, 2, **k),
        (2, 3, 3, 2, 3),
        {"gain": ("kernel", (0, 1, 2, 4))},
    ),
    "depthwise_conv1d": (
        lambda **k: layers.DepthwiseConv1D(3, depth_multiplier=2, **k),
        (2, 6, 3),
        {"gain": ("kernel", (0,))},
    ),
    "depthwise_conv2d": (
        lambda **k: layers.DepthwiseConv2D(3, depth_multiplier=2, **k),
        (2, 6, 6, 3),
        {"gain": ("kernel", (0, 1))},
    ),
    "separable_conv1d": (
        lambda **k: layers.SeparableConv1D(4, 3, depth_multiplier=2, **k),
        (2, 6, 3),
        {"gain": ("pointwise_kernel", (0, 1)), "depthwise_gain": ("depthwise_kernel", (0,))},
    ),
    "separable_conv2d": (
        lambda **k: layers.SeparableConv2D(4, 3, **k),
        (2, 6, 6, 3),
        {"gain": ("pointwise_kernel", (0, 1, 2)), "depthwise_gain": ("depthwise_kernel", (0, 1))},
    ),
    "einsum": (
        lambda **k: layers.EinsumDense("...x,xy->...y", 4, bias_axes="y", **k),
        (2, 3, 6),
        {"gain": ("kernel", (0,))},
    ),
    "einsum_heads": (
        lambda **k: layers.EinsumDense("abc,cde->abde", (None, 5, 4), bias_axes="de", **k),
        (2, 3, 6),
        {"gain": ("kernel", (0,))},
    ),
    "einsum_from_heads": (
        lambda **k: layers.EinsumDense("abde,dec->abc", (None, 4), bias_axes="c", **k),
        (2, 3, 5, 2),
        {"gain": ("kernel", (0, 1))},
    ),
}
CHANNELS = list(CASES)  # layers that compute activation(w.x + bias)
INITIALIZED = [name for name in CHANNELS if "separable" not in name]
CASES |= {
    "conv2d_groups": (
        lambda **k: layers.Conv2D(4, (3, 2), groups=2, **k),
        (2, 6, 6, 4),
        {"gain": ("kernel", (0, 1, 2))},
    ),
    "einsum_units_inside": (
        lambda **k: layers.EinsumDense("ab...,bc->ac...", 4, **k),
        (2, 3, 6),
        {"gain": ("kernel", (0,))},
    ),
    "embedding": (lambda **k: layers.Embedding(7, 4, **k), (2, 3), {"gain": ("embeddings", (1,))}),
    "simple_rnn": (
        lambda **k: layers.SimpleRNN(4, **k),
        (2, 5, 3),
        {"gain": ("cell.kernel", (0,)), "recurrent_gain": ("cell.recurrent_kernel", (0,))},
    ),
    "lstm": (
        lambda **k: layers.LSTM(4, return_sequences=True, **k),
        (2, 5, 3),
        {"gain": ("cell.kernel", (0,)), "recurrent_gain": ("cell.recurrent_kernel", (0,))},
    ),
    "gru": (
        lambda **k: layers.GRU(4, use_bias=False, **k),
        (2, 5, 3),
        {"gain": ("cell.kernel", (0,)), "recurrent_gain": ("cell.recurrent_kernel", (0,))},
    ),
    "bidirectional": (
        lambda **k: layers.Bidirectional(layers.LSTM(4, **k), **k),
        (2, 5, 3),
        {
            f"{way}_{gain}": (f"{way}_layer.cell.{kernel}", (0,))
            for way in ("forward", "backward")
            for gain, kernel in (("gain", "kernel"), ("recurrent_gain", "recurrent_kernel"))
        },
    ),
}


def inputs(name, dtype="float64", batch=None):
    shape = CASES[name][1]
    shape = (batch or shape[0], *shape[1:])
    if name == "embedding":
        return np.random.default_rng(0).integers(0, 7, shape)
    return normal(*shape, dtype=dtype)


def direction(v, axes):
    return v / np.sqrt(np.sum(v**2, axes, keepdims=True))


@pytest.mark.parametrize("name", CASES)
def test_computes_the_plain_layer_with_gain_times_direction(name):
    make, shape, gains = CASES[name]
    layer, x = make(dtype="float64"), inputs(name)
    plain = copy(layer, shape)
    wrapper = WeightNormalization(layer)
    wrapper.build(shape)
    plain.set_weights(layer.get_weights())
    # At build nothing changes, and there is no second kernel.
    np.testing.assert_array_equal(array(wrapper(x)), array(plain(x)))
    assert len(wrapper.weights) == len(plain.weights) + len(gains)
    assert layer.get_config() == plain.get_config()
    randomize(wrapper)
    plain.set_weights(layer.get_weights())
    for gain, (kernel, axes) in gains.items():
        gain = getattr(wrapper, gain)
        v = array(get(layer, kernel))
        unit = direction(v, axes)
        assert gain.shape == (v.size // np.prod([v.shape[axis] for axis in axes]),)
        length = np.sqrt(np.sum(v**2, axes, keepdims=True))
        get(plain, kernel).assign(array(gain).reshape(length.shape) * unit)
    np.testing.assert_allclose(array(wrapper(x)), array(plain(x)), rtol=1e-9, atol=1e-9)
    removed = wrapper.remove()
    assert type(removed) is type(layer) and removed.get_config() == plain.get_config()
    np.testing.assert_allclose(array(removed(x)), array(plain(x)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_every_weight(name):
    import tensorflow as tf

    make, shape, gains = CASES[name]
    wrapper = WeightNormalization(make(dtype="float64"))
    wrapper.build(shape)
    randomize(wrapper)
    trainable = wrapper.trainable_weights
    assert {weight.name for weight in trainable} >= set(gains)
    with tf.GradientTape() as tape:
        y = wrapper(inputs(name))
        loss = tf.reduce_sum(tf.square(y) * normal(*y.shape, dtype="float64"))
    for weight, gradient in zip(trainable, tape.gradient(loss, trainable), strict=True):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 1e-6, weight.path


@pytest.mark.parametrize(
    "name, make",
    [
        ("wn_dense", lambda **k: layers.Dense(8, **k)),
        ("wn_conv2d_valid", lambda **k: layers.Conv2D(8, 3, **k)),
        ("wn_conv2d_transpose_valid", lambda **k: layers.Conv2DTranspose(8, 3, **k)),
    ],
)
def test_oracle(name, make):
    with np.load(ROOT / "tests" / "data" / "reference.npz") as data:
        case = {key.split("/")[1]: data[key] for key in data.files if key.split("/")[0] == name}
    wrapper = WeightNormalization(make(use_bias=False, dtype="float64"))
    wrapper.build(case["x"].shape)
    wrapper.layer.kernel.assign(case["v"])
    wrapper.gain.assign(case["gain"])
    np.testing.assert_allclose(array(wrapper(case["x"])), case["y"], atol=1e-6)
    np.testing.assert_allclose(array(wrapper.remove().kernel), case["kernel"], atol=1e-6)
    _, dv, d_gain = tape_gradients(
        wrapper, case["x"], case["dy"], [wrapper.layer.kernel, wrapper.gain]
    )
    np.testing.assert_allclose(dv, case["dv"], atol=1e-6)
    np.testing.assert_allclose(d_gain, case["d_gain"], atol=1e-6)


def test_zero_directions_stay_finite():
    wrapper = WeightNormalization(layers.Dense(3))
    wrapper.build((5, 2))
    v = normal(2, 3)
    v[:, 1] = 0
    wrapper.layer.kernel.assign(v)
    wrapper.gain.assign([2.0, 2.0, 2.0])
    x = normal(5, 2)
    y = array(wrapper(x))
    np.testing.assert_array_equal(y[:, 1], 0)
    gradients = tape_gradients(wrapper, x, np.ones((5, 3)), [wrapper.layer.kernel, wrapper.gain])
    assert np.isfinite(y).all() and all(np.isfinite(g).all() for g in gradients)
    zero = WeightNormalization(layers.Dense(3, kernel_initializer="zeros"))
    np.testing.assert_array_equal(array(zero(x)), 0)
    np.testing.assert_array_equal(array(zero.gain), 0)


def test_kernels_chooses():
    x = normal(2, 5, 3)
    wrapper = WeightNormalization(layers.GRU(4), kernels=["recurrent_kernel"])
    wrapper(x)
    assert [w.name for w in wrapper.weights if "gain" in w.name] == ["recurrent_gain"]
    wrapper.layer.cell.recurrent_kernel.assign(2 * wrapper.layer.cell.recurrent_kernel)
    y = array(wrapper(x))
    wrapper.layer.cell.recurrent_kernel.assign(2 * wrapper.layer.cell.recurrent_kernel)
    np.testing.assert_allclose(array(wrapper(x)), y, atol=1e-6)  # scaling v has no effect
    wrapper.layer.cell.kernel.assign(2 * wrapper.layer.cell.kernel)
    assert np.abs(array(wrapper(x)) - y).max() > 1e-3  # scaling the plain kernel has


def units_of(name):
    """The number of axes of units in the output."""
    return 2 if name == "einsum_heads" else 1


@pytest.mark.parametrize("name", CHANNELS)
def test_mean_only_batch_norm(name):
    make, shape, gains = CASES[name]
    layer, x = make(activation="tanh", dtype="float64"), inputs(name)
    wrapper = WeightNormalization(layer, **MEAN_ONLY)
    wrapper.build(shape)
    randomize(wrapper)
    linear = copy(layer, shape, activation=None)
    for gain, (kernel, axes) in gains.items():
        unit = direction(array(get(layer, kernel)), axes)
        length = np.sqrt(np.sum(unit**2, axes, keepdims=True))
        get(linear, kernel).assign(unit * array(getattr(wrapper, gain)).reshape(length.shape))
    z = array(linear(x))  # the bias of a new layer is zero
    mean = z.mean(tuple(range(z.ndim - units_of(name))))
    moving = array(wrapper.mean_only_batch_norm.moving_mean).reshape(mean.shape)
    bias = 0 if layer.bias is None else array(layer.bias)
    y = array(wrapper(x, training=True))
    np.testing.assert_allclose(y, np.tanh(z - mean + bias), atol=1e-6)
    moved = array(wrapper.mean_only_batch_norm.moving_mean).reshape(mean.shape)
    np.testing.assert_allclose(moved, 0.9 * moving + 0.1 * mean, atol=1e-6)
    y = array(wrapper(x, training=False))
    np.testing.assert_allclose(y, np.tanh(z - moved + bias), atol=1e-6)
    assert layer.get_config() == make(activation="tanh", dtype="float64").get_config() | {
        "name": layer.name
    }
    plain = wrapper.remove()
    assert type(plain) is type(layer) and plain.name == layer.name
    np.testing.assert_allclose(array(plain(x)), y, atol=1e-6)
    wrapper.trainable = False
    np.testing.assert_array_equal(array(wrapper(x, training=True)), y)


def test_mean_only_threads_keep_the_activation():
    """A call sets it aside, while other threads may call the same layer."""
    inner = Slow(3, activation="relu")
    layer = WeightNormalization(inner, **MEAN_ONLY)
    x = np.ones((2, 4), "float32")
    layer(x)
    threads = [threading.Thread(target=layer, args=(x,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inner.activation is keras.activations.relu


class Slow(keras.layers.Dense):
    """So slow that calls of several threads overlap: the first ends before the second."""

    waits = (0.0, 0.1, 0.2, 0.3, 0.4)
    calls = 0

    def call(self, inputs):
        self.calls += 1
        time.sleep(self.waits[self.calls - 1])
        return super().call(inputs)


def test_mean_only_remove_keeps_a_bias_that_is_not_per_unit():
    layer = layers.EinsumDense("abc,cde->abde", (3, 5, 4), bias_axes="be", dtype="float64")
    wrapper, x = WeightNormalization(layer, **MEAN_ONLY), normal(2, 3, 6, dtype="float64")
    wrapper(x)
    randomize(wrapper)
    plain = wrapper.remove()
    assert plain.bias_axes == "bde"
    np.testing.assert_allclose(array(plain(x)), array(wrapper(x)), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*does not support masking")  # Conv passes none on
@pytest.mark.parametrize(
    "make",
    [
        lambda **k: layers.Conv2D(4, 3, **k),
        lambda **k: layers.Conv2DTranspose(4, 3, **k),
        lambda **k: layers.DepthwiseConv2D(3, depth_multiplier=2, **k),
        lambda **k: layers.SeparableConv2D(4, 3, **k),
    ],
)
def test_channels_first_is_channels_last_transposed(make):
    # 5 wide: where width equals channels, Keras on TensorFlow adds the bias of a plain
    # channels_first layer along the width.
    x, mask = normal(4, 6, 7, 3), np.ones((4, 4, 5), "bool")
    mask[0] = mask[1, 2:] = False
    last = WeightNormalization(make(activation="tanh"), **MEAN_ONLY)
    first = WeightNormalization(make(activation="tanh", data_format="channels_first"), **MEAN_ONLY)
    last.build(x.shape)
    first.build((4, 3, 6, 7))
    randomize(last)
    first.set_weights(last.get_weights())
    x_first = x.transpose(0, 3, 1, 2)
    if isinstance(last.layer, layers.Conv2DTranspose):
        mask = np.pad(mask, ((0, 0), (0, 4), (0, 4)))  # the output is larger
    for options in ({"training": True}, {"training": True, "mask": mask}, {"training": False}):
        y = array(last(x, **options))
        np.testing.assert_allclose(
            array(first(x_first, **options)).transpose(0, 2, 3, 1), y, atol=1e-5
        )
    np.testing.assert_allclose(array(first.remove()(x_first)).transpose(0, 2, 3, 1), y, atol=1e-5)
    if not isinstance(last.layer, layers.SeparableConv2D):
        y = array(last.initialize(x, mask))
        y_first = array(first.initialize(x_first, mask))
        np.testing.assert_allclose(y_first.transpose(0, 2, 3, 1), y, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*does not support masking")  # Conv passes none on
@pytest.mark.parametrize(
    "make", [lambda: layers.Dense(4), lambda: layers.Conv1D(4, 3, padding="same")]
)
def test_mask_excludes_positions_from_the_mean(make):
    wrapper = WeightNormalization(make(), **MEAN_ONLY, momentum=0.0)
    x = normal(3, 6, 2)
    mask = np.arange(6) < np.array([[6], [4], [2]])
    wrapper.build(x.shape)
    randomize(wrapper)
    moving = array(wrapper.mean_only_batch_norm.moving_mean)
    z = array(wrapper(x)) - array(wrapper.layer.bias) + moving  # w.x
    mean = z[mask].mean(0)
    y = array(wrapper(x, mask=mask, training=True))
    np.testing.assert_allclose(y, z - mean + array(wrapper.layer.bias), atol=1e-5)
    np.testing.assert_allclose(array(wrapper.mean_only_batch_norm.moving_mean), mean, atol=1e-5)
    before = snapshot(wrapper)
    wrapper(x, mask=np.zeros_like(mask), training=True)
    assert not changed(wrapper, before)
    samples = np.array([True, False, True])
    wrapper(x, mask=samples, training=True)
    np.testing.assert_allclose(
        array(wrapper.mean_only_batch_norm.moving_mean), z[samples].mean((0, 1)), atol=1e-5
    )
    with pytest.raises(ValueError, match=r"Received: mask.shape=\(3, 5\)"):
        wrapper(x, mask=mask[:, :5], training=True)


def test_mask_of_an_embedding_reaches_mean_and_rnn():
    ids = np.array([[1, 2, 3], [4, 0, 0]])
    embed = WeightNormalization(layers.Embedding(5, 4, mask_zero=True))
    dense = WeightNormalization(layers.Dense(3, use_bias=False), **MEAN_ONLY, momentum=0.0)
    rnn = WeightNormalization(layers.LSTM(2, return_sequences=True))
    model = keras.Sequential([keras.Input((None,), dtype="int32"), embed, dense, rnn])
    assert embed.supports_masking and dense.supports_masking and rnn.supports_masking
    assert not WeightNormalization(layers.Conv1D(1, 1)).supports_masking
    np.testing.assert_array_equal(array(embed.compute_mask(ids, None)), ids != 0)
    model(ids, training=True)
    z = array(embed(ids)) @ array(dense.remove().kernel)
    np.testing.assert_allclose(
        array(dense.mean_only_batch_norm.moving_mean), z[ids != 0].mean(0), atol=1e-6
    )
    y = array(model(ids))
    np.testing.assert_allclose(y[1, 1:], np.repeat(y[1, :1], 2, 0))  # a masked step repeats


def expected_init(wrapper, kernel, axes, x, units=1):
    """gain and bias for `x` by the formula, with a plain layer whose kernel is v / ||v||."""
    options = {"use_bias": False} if hasattr(wrapper.layer, "use_bias") else {"bias_axes": None}
    plain = copy(wrapper.layer, x.shape, activation=None, **options)
    get(plain, kernel).assign(direction(array(get(wrapper.layer, kernel)), axes))
    t = array(plain(x))
    around = tuple(range(t.ndim - units))
    return 1 / t.std(around).ravel(), -(t.mean(around) / t.std(around)).ravel()


@pytest.mark.parametrize("mean_only", [False, True])
@pytest.mark.parametrize("name", INITIALIZED)
def test_initialize(name, mean_only):
    make, shape, gains = CASES[name]
    wrapper = WeightNormalization(make(dtype="float64"), mean_only_batch_norm=mean_only)
    x = inputs(name, batch=16) + 3.0
    wrapper.build(shape)
    randomize(wrapper)
    v = array(wrapper.layer.kernel)
    y = array(wrapper.initialize(x))
    units = units_of(name)
    gain, bias = expected_init(wrapper, *gains["gain"], x, units)
    np.testing.assert_array_equal(array(wrapper.layer.kernel), v)
    np.testing.assert_allclose(array(wrapper.gain), gain, rtol=1e-5)
    around = tuple(range(y.ndim - units))
    np.testing.assert_allclose(y.std(around), 1, rtol=1e-5)
    np.testing.assert_array_equal(y, array(wrapper(x)))
    if mean_only:
        moving = array(wrapper.mean_only_batch_norm.moving_mean)
        np.testing.assert_allclose(moving, -bias, rtol=1e-5)
        if wrapper.layer.bias is not None:
            np.testing.assert_array_equal(array(wrapper.layer.bias), 0)
    if wrapper.layer.bias is not None and not mean_only:
        np.testing.assert_allclose(array(wrapper.layer.bias).ravel(), bias, rtol=1e-5)
    if wrapper.layer.bias is not None or mean_only:
        np.testing.assert_allclose(y.mean(around), 0, atol=1e-6)
    # From the direction alone: the length of v has no effect.
    wrapper.layer.kernel.assign(4.5 * v)
    np.testing.assert_allclose(array(wrapper.initialize(x)), y, atol=1e-6)


def test_initialize_is_accurate_builds_and_survives_constant_units():
    x = normal(256, 1) + 1e4
    wrapper = WeightNormalization(layers.Dense(1, activation="relu"))
    y = array(wrapper.initialize(x))  # builds
    assert y.min() == 0 and abs(y.std() - 0.58) < 0.1
    wrapper.layer.activation = keras.activations.linear
    y = array(wrapper(x)).astype("float64")
    assert abs(y.std() - 1) < 1e-2 and abs(y.mean()) < 1e-2
    for mean_only in (False, True):
        wrapper = WeightNormalization(layers.Dense(8), mean_only_batch_norm=mean_only)
        x = np.full((32, 7), 0.3, "float32")
        x[::2] = np.nextafter(x[0, 0], np.float32(1))  # constant, to the rounding
        y = array(wrapper.initialize(x))
        np.testing.assert_array_equal(array(wrapper.gain), 1)
        np.testing.assert_allclose(y, 0, atol=1e-6)


def test_initialize_leaves_masked_positions_out():
    x, mask = normal(4, 5, 3), np.arange(5) < np.array([[5], [3], [1], [2]])
    wrapper = WeightNormalization(layers.Dense(2))
    y = array(wrapper.initialize(x, mask=mask))
    np.testing.assert_allclose(y[mask].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(y[mask].std(0), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        layers.LSTM(2),
        layers.Embedding(3, 2),
        layers.SeparableConv1D(2, 3),
        layers.Bidirectional(layers.GRU(2)),
        layers.EinsumDense("abc,cd->abd", (None, 4), bias_axes="a"),
        layers.EinsumDense("ab...,bc->ac...", 4),
    ],
    ids=lambda layer: layer.name,
)
def test_initialize_refuses(layer):
    with pytest.raises(ValueError, match="Data-dependent initialization needs another layer"):
        WeightNormalization(layer).initialize(normal(2, 5, 3))


class Everything(keras.Model):
    """A model with layers in all places (nested, shared, wrapped) and all kinds of state."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        inner = [keras.Input((None, 4)), WeightNormalization(layers.Dense(4), name="nested")]
        self.inner = keras.Sequential(inner, name="inner")
        self.shared = WeightNormalization(layers.Dense(4), **MEAN_ONLY, name="shared")
        self.dropout = layers.Dropout(0.5, seed=1)
        self.norm = layers.BatchNormalization()
        self.rnn = WeightNormalization(layers.LSTM(4, dropout=0.5, stateful=True), name="rnn")
        self.unused = WeightNormalization(layers.Dense(1), name="unused")
        self.last = WeightNormalization(layers.Dense(2, use_bias=False), name="last")

    def call(self, x):
        x = self.shared(self.inner(self.shared(x)) * 3 + 1)
        return self.last(self.rnn(self.norm(self.dropout(x))))


def test_data_dependent_init():
    model, x = Everything(), normal(8, 5, 4) * 2 + 1
    model(x)
    randomize(model)
    before, states = snapshot(model), [array(state) for state in model.rnn.layer.states]
    with pytest.warns(UserWarning, match="left out") as record:
        paths = data_dependent_init(model, (x, np.zeros(8)))
    assert paths == ["shared", "inner/nested", "last"]
    message = str(record[0].message)
    assert "rnn (LSTM does not compute" in message and "unused (not called)" in message
    assert record[0].filename == __file__
    shared, nested = model.shared, model.inner.layers[0]
    may_change = [shared.gain, shared.layer.bias, shared.mean_only_batch_norm.moving_mean]
    may_change += [nested.gain, nested.layer.bias, model.last.gain]
    changes = {path for path, value in snapshot(model).items() if (value != before[path]).any()}
    assert changes == {variable.path for variable in may_change}
    for state in model.rnn.layer.states:  # `model.variables` leaves them out
        np.testing.assert_array_equal(array(state), states.pop(0))
    first = array(model.shared(x))
    np.testing.assert_allclose(first.std((0, 1)), 1, rtol=1e-5)
    nested = array(model.inner(first))
    np.testing.assert_allclose(nested.std((0, 1)), 1, rtol=1e-5)
    np.testing.assert_allclose(nested.mean((0, 1)), 0, atol=1e-6)
    assert all("call" not in vars(layer) for layer in (model.shared, model.last, model.rnn))


def test_data_dependent_init_builds_and_is_exact_layer_by_layer():
    x = normal(32, 8, 8, 3)
    model = keras.Sequential(
        [
            WeightNormalization(layers.Conv2D(6, 3, activation="relu")),
            layers.GlobalAveragePooling2D(),
            WeightNormalization(layers.Dense(5)),
        ]
    )
    assert data_dependent_init(model, x) == [layer.name for layer in model.layers[::2]]
    conv, pool, dense = model.layers
    conv.layer.activation = keras.activations.linear
    z = array(conv(x))
    np.testing.assert_allclose(z.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(z.std((0, 1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(array(dense(pool(np.maximum(z, 0)))).std(0), 1, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*does not support masking")
def test_data_dependent_init_of_what_masks_and_wrappers_surround():
    ids = np.array([[1, 2, 3, 0, 0], [2, 1, 0, 0, 0]])
    embedded = layers.Embedding(4, 6, mask_zero=True)
    conv = WeightNormalization(layers.Conv1D(4, 3), name="conv")  # which takes no mask
    model = keras.Sequential([keras.Input((5,), dtype="int32"), embedded, conv])
    assert data_dependent_init(model, ids) == ["conv"]
    steps = layers.TimeDistributed(WeightNormalization(layers.Dense(4), name="step"))
    model = keras.Sequential([keras.Input((5, 3)), steps, WeightNormalization(layers.Dense(2))])
    with pytest.warns(UserWarning, match="step .*TimeDistributed calls it for each step"):
        assert len(data_dependent_init(model, normal(8, 5, 3))) == 1


def test_data_dependent_init_refuses_and_restores():
    with pytest.raises(ValueError, match="needs a model with WeightNormalization"):
        data_dependent_init(keras.Sequential([keras.Input((3,)), layers.Dense(2)]), normal(2, 3))
    wrapper = WeightNormalization(layers.Dense(2))
    model = keras.Sequential([keras.Input((3,)), wrapper, layers.Dense(2)])
    before = snapshot(model)
    broken = model.layers[1]
    broken.call = lambda inputs, training=None: 1 / 0
    with pytest.raises(ZeroDivisionError):
        data_dependent_init(model, normal(4, 3))
    del broken.call
    assert not changed(model, before) and "call" not in vars(wrapper)
    model(normal(4, 3))
    assert not changed(model, before)


def test_nothing_initializes_by_itself():
    x = normal(8, 5, 4) * 3 + 2
    model = keras.Sequential(
        [
            keras.Input((None, 4)),
            WeightNormalization(layers.Dense(6), **MEAN_ONLY),
            WeightNormalization(layers.Dense(2)),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse")
    before = snapshot(model)
    model.predict(x, verbose=0)
    model.evaluate(x, np.zeros((8, 5, 2)), verbose=0)
    assert not changed(model, before)
    model.fit(x, np.zeros((8, 5, 2)), verbose=0)
    assert changed(model, before) == {"moving_mean"}


def small_model(*more):
    """Takes sequences of any length. Its dropout advances a seed but drops nothing."""
    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            WeightNormalization(layers.Conv1D(4, 3, activation="relu"), **MEAN_ONLY),
            *more,
            WeightNormalization(layers.LSTM(3, dropout=1e-9, seed=1)),
            WeightNormalization(layers.Dense(2, use_bias=False)),
        ]
    )
    randomize(model)
    return model


def test_fit_is_the_same_in_every_mode():
    x, y, results = normal(8, 6, 3), normal(8, 2), []
    for mode in ({"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}):
        model = small_model()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", **mode)
        before = model.get_weights()
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        results.append(model.get_weights())
        seed = model.layers[1].layer.cell.seed_generator.state
        np.testing.assert_array_equal(array(seed), [1, 4])  # after four steps
        assert all((a != b).any() for a, b in zip(before, results[-1], strict=True))
    for eager, graph, compiled in zip(*results, strict=True):
        np.testing.assert_allclose(graph, eager, atol=1e-5)
        np.testing.assert_allclose(compiled, eager, atol=1e-5)


def test_save_load_and_export_are_exact(tmp_path):
    import tensorflow as tf

    inner = layers.Bidirectional(layers.GRU(2, return_sequences=True))
    model, x = small_model(WeightNormalization(inner)), normal(4, 6, 3)
    model(x, training=True)
    y = array(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded(x)), y)
    for old, new in zip(model.weights, loaded.weights, strict=True):
        assert new.name == old.name
        np.testing.assert_array_equal(array(new), array(old))
    model.save_weights(tmp_path / "model.weights.h5")
    other = keras.models.clone_model(model)
    randomize(other, seed=7)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(array(other(x)), y)
    model.export(tmp_path / "export", verbose=False)
    served = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_array_equal(served.serve(x).numpy(), model.predict(x, verbose=0))


@pytest.mark.parametrize("name", CASES)
def test_config_is_stable_and_round_trips(name):
    make, shape, _ = CASES[name]
    options = {"momentum": 0.5, "name": "wrapper"}
    if name in CHANNELS:
        options |= {"mean_only_batch_norm": True, "synchronized": True}
    if name == "lstm":
        options["kernels"] = ("kernel",)
    wrapper = WeightNormalization(make(), **options)
    config = wrapper.get_config()
    assert {key: config[key] for key in options} == options | (
        {"kernels": ["kernel"]} if name == "lstm" else {}
    )
    x = inputs(name, "float32")
    y = array(wrapper(x))
    assert wrapper.get_config() == config
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(wrapper))
    assert again.get_config() == config
    again.set_weights(wrapper.get_weights())
    np.testing.assert_array_equal(array(again(x)), y)
    spec = wrapper.compute_output_spec(keras.KerasTensor((None, *shape[1:])))
    assert spec.dtype == "float32"
    assert list(spec.shape) == list(wrapper.layer.compute_output_shape((None, *shape[1:])))


def test_mixed_precision_normalizes_in_float32():
    x = normal(4, 5, 3)
    for make in (
        lambda **k: WeightNormalization(layers.Dense(4, activation="relu", **k), **MEAN_ONLY),
        lambda **k: WeightNormalization(layers.Conv1D(4, 3, **k)),
        lambda **k: WeightNormalization(layers.Bidirectional(layers.LSTM(4, **k), **k)),
    ):
        exact = make()
        exact.build(x.shape)
        randomize(exact)
        mixed = make(dtype="mixed_float16")
        # Built in the call of a model, where Keras would read the kernel in float16.
        model = keras.Sequential([mixed])
        y = model(x)
        for gain in [w for w in mixed.weights if w.name.endswith("gain")]:
            assert gain.dtype == "float32"
        if hasattr(mixed, "gain"):
            kernel = array(mixed.layer.kernel)
            norm = np.sqrt(np.sum(kernel**2, tuple(range(kernel.ndim - 1))))
            np.testing.assert_allclose(array(mixed.gain), norm, rtol=1e-6)
        mixed.set_weights(exact.get_weights())
        y = mixed(x, training=True)
        assert keras.backend.standardize_dtype(y.dtype) == "float16"
        np.testing.assert_allclose(array(y), array(exact(x, training=True)), atol=2e-2)
    keras.config.set_dtype_policy("mixed_float16")
    model = small_model()
    model.compile("adam", "mse")
    history = model.fit(x, normal(4, 2), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all(np.isfinite(array(weight)).all() for weight in model.weights)


def test_a_huge_kernel_of_a_mixed_layer_does_not_overflow():
    wrapper = WeightNormalization(layers.Dense(2, use_bias=False, dtype="mixed_float16"))
    wrapper.build((4, 3))
    wrapper.layer.kernel.assign(np.full((3, 2), 1e5))  # too large for float16
    wrapper.gain.assign([1.0, 1.0])
    np.testing.assert_allclose(array(wrapper(np.ones((4, 3)))), np.sqrt(3), rtol=1e-3)


def test_dropout_seeds_advance():
    wrapper = WeightNormalization(layers.LSTM(4, dropout=0.5, seed=1))
    x = normal(2, 5, 3)
    first, second = (array(wrapper(x, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    plain = layers.LSTM(4, dropout=0.5, seed=1)
    plain.build(x.shape)
    plain.set_weights(wrapper.layer.get_weights())
    np.testing.assert_array_equal(array(plain(x, training=True)), first)
    np.testing.assert_array_equal(array(plain(x, training=True)), second)
    model = keras.Sequential([keras.Input((5, 3)), wrapper])
    model.compile("sgd", "mse")
    before = array(wrapper.layer.cell.seed_generator.state)
    model.fit(x, normal(2, 4), epochs=3, verbose=0)
    assert array(wrapper.layer.cell.seed_generator.state)[1] == before[1] + 3


@pytest.mark.parametrize("bidirectional", [False, True])
def test_states_of_a_stateful_rnn_advance(bidirectional):
    make = (lambda r: layers.Bidirectional(r)) if bidirectional else (lambda r: r)
    x = normal(2, 5, 3)
    wrapper = WeightNormalization(make(layers.GRU(4, stateful=True)))
    first = array(wrapper(x))
    plain = wrapper.remove()
    second = array(wrapper(x))
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_allclose(array(plain(x)), second, atol=1e-6)  # from the same state
    wrapper.reset_state()
    np.testing.assert_allclose(array(wrapper(x)), first, atol=1e-6)
    assert len(wrapper.states) == (2 if bidirectional else 1)


def test_states_are_reset_as_those_of_a_plain_model():
    make = [
        lambda: layers.LSTM(3, stateful=True, return_sequences=True),
        lambda: layers.Bidirectional(layers.GRU(2, stateful=True)),
        lambda: layers.Dense(2),
    ]
    plain = keras.Sequential([new() for new in make])
    wrapped = keras.Sequential([WeightNormalization(new()) for new in make])
    x = normal(2, 5, 3)
    first = array(wrapped(x))
    assert np.abs(array(wrapped(x)) - first).max() > 1e-3
    plain(x)
    for model in (plain, wrapped):
        assert [hasattr(layer, "reset_state") for layer in model.layers] == [True, True, False]
        for layer in model.layers[:2]:
            layer.reset_state()
    np.testing.assert_allclose(array(wrapped(x)), first, atol=1e-6)
    state = wrapped.layers[0].get_initial_state(2)
    assert [tuple(part.shape) for part in state] == [(2, 3), (2, 3)]


# What code outside asks of a layer, by the kind of layer.
OFFERED = {
    "dense": "units bias activation use_bias kernel_initializer kernel_regularizer lora_enabled",
    "conv2d": "filters bias activation kernel_size strides padding data_format groups rank",
    "depthwise_conv2d": "depth_multiplier bias kernel_size",
    "separable_conv2d": "filters bias depth_multiplier pointwise_regularizer",
    "einsum": "equation bias bias_axes activation",
    "embedding": "input_dim output_dim mask_zero",
    "lstm": "units use_bias return_sequences return_state stateful states unroll",
    "bidirectional": "merge_mode return_sequences stateful states",
}


@pytest.mark.parametrize("name", OFFERED)
def test_offers_what_the_wrapped_layer_has(name):
    make, shape, gains = CASES[name]
    wrapper = WeightNormalization(make(dtype="float64"))
    kernels = [kernel for kernel, _ in gains.values() if "." not in kernel]
    assert not any(hasattr(wrapper, kernel) for kernel in kernels if name != "separable_conv2d")
    wrapper.build(shape)
    randomize(wrapper)
    for attribute in OFFERED[name].split():
        assert getattr(wrapper, attribute) is getattr(wrapper.layer, attribute)
    removed = wrapper.remove()
    for kernel in kernels:  # `w`, not `v`
        np.testing.assert_array_equal(array(getattr(wrapper, kernel)), array(get(removed, kernel)))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        wrapper.nothing  # noqa: B018


def test_a_kernel_that_is_not_normalized_is_the_variable():
    wrapper = WeightNormalization(layers.SeparableConv1D(2, 3), kernels=["pointwise_kernel"])
    wrapper.build((2, 5, 3))
    assert wrapper.depthwise_kernel is wrapper.layer.depthwise_kernel
    assert wrapper.pointwise_kernel is not wrapper.layer.pointwise_kernel


@pytest.mark.parametrize(
    ("wrapper", "name"),
    [
        (WeightNormalization(layers.LSTM(2)), "cell"),
        (WeightNormalization(layers.Bidirectional(layers.GRU(2))), "forward_layer"),
        (WeightNormalization(layers.Bidirectional(layers.GRU(2))), "backward_layer"),
    ],
)
def test_does_not_offer_layers_whose_kernels_are_directions(wrapper, name):
    assert not hasattr(wrapper, name)
    with pytest.raises(AttributeError, match=rf"are `v`, not.*`\.layer\.{name}`"):
        getattr(wrapper, name)


def test_attributes_of_the_wrapped_layer_are_only_read():
    wrapper = WeightNormalization(layers.Dense(2))
    wrapper.build((3, 4))
    for name in ("activation", "units", "kernel"):
        with pytest.raises(AttributeError, match=rf"set `\.layer\.{name}`"):
            setattr(wrapper, name, None)
    wrapper.note = "of the user"
    assert wrapper.note == "of the user" and not hasattr(wrapper.layer, "note")


KERAS_SKIPS = pytest.mark.filterwarnings("ignore:.* does not have a `quantize` method:UserWarning")


@KERAS_SKIPS
@pytest.mark.parametrize("name", ["dense", "embedding", "einsum_heads", "conv2d"])
def test_new_kernels_are_refused_before_anything_changes(name):
    make, shape, _ = CASES[name]
    wrapper, x = WeightNormalization(make()), inputs(name, "float32")
    y, before = array(wrapper(x)), snapshot(wrapper)
    model = keras.Sequential([wrapper])
    model(x)
    refused = [lambda: wrapper.enable_lora(2), lambda: wrapper.layer.enable_lora(2)]
    if name != "conv2d":  # Keras quantizes no convolution
        for mode in ("int8", "int4", "float8"):
            for layer in (wrapper, wrapper.layer):
                refused.append(lambda layer=layer, mode=mode: layer.quantize(mode))
            with pytest.warns(UserWarning, match=r"remove\(\)"):
                model.quantize(mode)
    for attempt in refused:
        with pytest.raises(NotImplementedError, match=r"remove\(\)"):
            attempt()
    assert not changed(wrapper, before) and len(wrapper.variables) == len(before)
    np.testing.assert_array_equal(array(wrapper(x)), y)
    plain = wrapper.remove()
    plain.enable_lora(2)
    np.testing.assert_allclose(array(plain(x)), y, atol=1e-6)
    if name != "conv2d":
        plain = wrapper.remove()
        plain.quantize("int8")
        np.testing.assert_allclose(array(plain(x)), y, atol=0.05 * np.abs(y).max())


@KERAS_SKIPS
def test_weight_standardization_offers_and_refuses_the_same():
    wrapper, x = WeightStandardization(layers.Dense(3)), normal(2, 4)
    model = keras.Sequential([wrapper])
    y = array(model(x))
    np.testing.assert_allclose(array(wrapper.kernel), array(wrapper.remove().kernel))
    assert wrapper.units == 3 and wrapper.bias is wrapper.layer.bias
    refusal = r"WeightStandardization .*`remove\(\)`"
    with pytest.raises(NotImplementedError, match=refusal):
        wrapper.enable_lora(2)
    with pytest.warns(UserWarning, match=refusal):
        model.quantize("int8")
    np.testing.assert_array_equal(array(model(x)), y)
    with pytest.raises(ValueError, match=r"WeightStandardization\(Bidirectional\("):
        layers.Bidirectional(WeightStandardization(layers.GRU(2)))


@KERAS_SKIPS
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's
def test_the_plain_layers_of_a_model_are_quantized(tmp_path):
    """Those before and those after a wrapped one; norms and wrapped layers stay as they are."""
    first, last, wrapped = layers.Dense(4), layers.Dense(2), WeightNormalization(layers.Dense(3))
    rest = [WeightNormalization(layers.Conv1D(4, 3)), BatchNormalization()]
    model, x = keras.Sequential([first, wrapped, *rest, last]), normal(2, 5, 3)
    y = array(model(x))
    with pytest.warns(UserWarning, match=r"kernel of 'dense_2'.*remove\(\)"):
        model.quantize("int8")
    assert first.quantization_mode == last.quantization_mode == "int8"
    assert wrapped.layer.quantization_mode is None and wrapped.kernel.dtype == "float32"
    quantized = array(model(x))
    np.testing.assert_allclose(quantized, y, atol=0.05 * np.abs(y).max())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded(x)), quantized)


@pytest.mark.parametrize(
    "options",
    [{}, {"backward_layer": WeightNormalization(layers.GRU(2, go_backwards=True))}],
    ids=["one", "two"],
)
def test_bidirectional_goes_inside(options):
    wrapper = WeightNormalization(layers.GRU(2))
    with pytest.raises((ValueError, AttributeError), match=r"WeightNormalization\(Bidirectional\("):
        layers.Bidirectional(wrapper, **options)


def test_initial_state_and_returned_states():
    x, state = normal(2, 5, 3), [normal(2, 4, seed=1), normal(2, 4, seed=2)]
    wrapper = WeightNormalization(layers.LSTM(4, return_state=True))
    sequence = keras.Input((None, 3))
    states = [keras.Input((4,)), keras.Input((4,))]
    outputs = wrapper(sequence, initial_state=states)
    assert [tuple(output.shape) for output in outputs] == [(None, 4)] * 3
    model = keras.Model([sequence, *states], outputs)
    expected = wrapper.layer(x, initial_state=[ops.convert_to_tensor(s) for s in state])
    for given, wanted in zip(model([x, *state]), expected, strict=True):
        np.testing.assert_allclose(array(given), array(wanted), atol=1e-6)
    assert np.abs(array(wrapper(x)[0]) - array(expected[0])).max() > 1e-3


@pytest.mark.parametrize("mean_only", [False, True])
def test_losses_arrive_once(mean_only):
    x = normal(4, 3)
    options = {"kernel_regularizer": "l2", "activity_regularizer": "l2", "activation": "relu"}
    wrapper = WeightNormalization(layers.Dense(2, **options), mean_only_batch_norm=mean_only)
    model = keras.Sequential([keras.Input((3,)), wrapper])
    y = array(model(x))
    kernel = 0.01 * np.sum(array(wrapper.layer.kernel) ** 2)
    activity = 0.01 * np.sum(y**2) / 4
    assert activity > 0
    np.testing.assert_allclose(sorted(map(float, model.losses)), sorted([kernel, activity]), 1e-5)
    model(x)
    assert len(model.losses) == 2
    _, _, losses = model.stateless_call(
        [v.value for v in model.trainable_variables],
        [v.value for v in model.non_trainable_variables],
        x,
        return_losses=True,
    )
    np.testing.assert_allclose(sorted(map(float, losses)), sorted([kernel, activity]), 1e-5)


def test_losses_of_inner_layers_arrive_once():
    rnn = layers.Bidirectional(layers.LSTM(2, activity_regularizer="l2"))
    model = keras.Sequential([keras.Input((5, 3)), WeightNormalization(rnn)])
    variables = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    _, _, losses = model.stateless_call(variables, others, normal(2, 5, 3), return_losses=True)
    assert len(losses) == 2
    model(normal(2, 5, 3))
    assert len(model.losses) == 2


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: WeightNormalization("dense"), "isn't a supported layer type"),
        (lambda: WeightNormalization(layers.ReLU()), "Received: layer=<ReLU"),
        (lambda: WeightNormalization(layers.BatchNormalization()), "whose kernel it knows: Dense"),
        (lambda: WeightNormalization(layers.MultiHeadAttention(2, 2)), "Received: layer=<Multi"),
        (lambda: WeightNormalization(layers.RNN(layers.LSTMCell(2))), "Received: layer=<RNN"),
        (lambda: WeightNormalization(layers.Dense(2), kernels=()), r"among \['kernel'\]"),
        (
            lambda: WeightNormalization(layers.LSTM(2), kernels=["bias"]),
            r"among \['kernel', 'recurrent_kernel'\] .* Received: kernels=\['bias'\]",
        ),
        (lambda: WeightNormalization(layers.LSTM(2), True), "LSTM does not compute"),
        (lambda: WeightNormalization(layers.Embedding(2, 2), True), "mean_only_batch_norm=False"),
        (lambda: WeightNormalization(layers.EinsumDense("ab...,bc->ac...", 4), True), "last axes"),
        (lambda: WeightNormalization(layers.Dense(2), True, momentum=2.0), "momentum=2.0"),
        (lambda: WeightNormalization(layers.EinsumDense("ab,b->ab", 4)).build((2, 4)), "summed"),
        (lambda: WeightNormalization(layers.EinsumDense("ab,b->a", ())).build((2, 4)), "summed"),
        (lambda: WeightNormalization(layers.Dense(4, lora_rank=2)).build((2, 4)), "LoRA"),
        (
            lambda: WeightNormalization(layers.Dense(4, dtype="int8_from_float32")).build((2, 4)),
            "quantized",
        ),
        (lambda: WeightNormalization(layers.Dense(4)).remove(), "call it before `remove"),
    ],
)
def test_refuses(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def scenario():
    """Numbers on which all backends must agree, up to rounding."""
    model, x, y = small_model(), normal(8, 6, 3) + 1, normal(8, 2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "data_dependent_init left out")
        data_dependent_init(model, x)
    numbers = {"initialized": array(model(x))}
    model.compile(keras.optimizers.SGD(0.1), "mse")
    numbers["loss"] = model.fit(x, y, 4, 2, shuffle=False, verbose=0).history["loss"]
    return numbers | {f"{i} {v.name}": array(v) for i, v in enumerate(model.variables)}


@pytest.mark.process
@pytest.mark.parametrize(
    "environment", [JAX, pytest.param({"KERAS_BACKEND": "torch"}, marks=pytest.mark.slow)]
)
def test_other_backends_agree(environment, tmp_path):
    pytest.importorskip(environment["KERAS_BACKEND"])
    run_code(
        """
        import sys
        import numpy as np
        from tests.layers import test_weight
        np.savez(sys.argv[1], **test_weight.scenario())
        """,
        tmp_path / "numbers.npz",
        **environment,
    )
    expected = scenario()
    with np.load(tmp_path / "numbers.npz") as numbers:
        assert set(numbers.files) == set(expected)
        for name in numbers.files:
            np.testing.assert_allclose(numbers[name], expected[name], atol=2e-5, err_msg=name)
