"""What every norm computes, in training and in inference, at every rank and layout.

Runs on every backend: `KERAS_BACKEND=jax pytest tests/layers/test_laws.py`, likewise torch.
"""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

import keras_norms
from tests.support import reference
from tests.support.norms import (
    BACKEND,
    BY_NAME,
    DTYPE,
    IMAGES,
    LAYOUTS,
    MOVING,
    NORMS,
    PER_SAMPLE,
    Layout,
    assert_close,
    over,
    pairs,
    random_layer,
    randomize,
    values,
)
from tests.support.running import compiled, constants, forward, grad, gradients, tensor, to_numpy

SMALL = Layout((3, 2, 3, 4), -1)  # for finite differences


def check(layer, x, mask=None, tolerance=1e-9):
    """Inference, then training, against the reference; moving statistics too."""
    for training in (False, True):
        y, moving = reference.expected(layer, x, mask, training)
        result = forward(layer, x, training, mask)
        assert result.shape == x.shape
        if mask is None:
            assert_close(result, y, tolerance)
        else:
            mask = np.asarray(mask, bool)
            valid = np.broadcast_to(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x.shape)
            assert_close(result[valid], y[valid], tolerance)
        after = values(layer)
        for name, value in moving.items():
            assert_close(after[name], value, tolerance)


@pytest.mark.parametrize("norm, layout", pairs())
def test_result_is_that_of_the_reference(norm, layout, rng):
    layer = random_layer(norm, layout.shape, rng, **layout.arguments)
    check(layer, rng.normal(2, 3, layout.shape))


@pytest.mark.parametrize("norm, layout", pairs(every=9))
def test_unknown_sizes(norm, layout, rng):
    """A model built for unknown sizes works at two sizes of batch and map."""
    shape = [None] * len(layout.shape)
    shape[layout.channel] = 8
    inputs = keras.Input(batch_shape=shape, dtype=DTYPE)
    layer = norm(dtype=DTYPE, **layout.arguments)
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == tuple(shape)
    randomize(layer, rng)
    for extra in (0, 1):
        sizes = [size + extra * (a != layout.channel) for a, size in enumerate(layout.shape)]
        x = rng.normal(2, 3, sizes)
        for training in (False, True):
            y, moving = reference.expected(layer, x, training=training)
            assert_close(forward(model, x, training), y)
            for name, value in moving.items():
                assert_close(values(layer)[name], value)


SUBSETS = [
    subset
    for size in (1, 2, 3, 4)
    for subset in itertools.combinations(("batch", "layer", "instance", "group"), size)
]


@pytest.mark.parametrize("statistics", SUBSETS, ids="-".join)
def test_every_subset_of_statistics(statistics, rng):
    layer = random_layer(
        BY_NAME["sn"], IMAGES.shape, rng, statistics=statistics, groups=4, name="sn"
    )
    assert layer.mean_logits.shape == layer.variance_logits.shape == (len(statistics),)
    assert (layer.moving_mean is not None) == ("batch" in statistics)
    check(layer, rng.normal(2, 3, IMAGES.shape))
    importance = layer.importance()
    for kind in ("mean", "variance"):
        logits = values(layer)[f"{kind}_logits"]
        assert tuple(importance[kind]) == statistics
        assert_close(list(importance[kind].values()), reference.softmax(logits), 1e-6)


def test_instance_statistics_are_left_out_without_spatial_axes(rng):
    layer = random_layer(BY_NAME["sn"], (6, 8), rng)
    assert layer.mean_logits.shape == (2,)
    assert list(layer.importance()["variance"]) == ["layer", "batch"]
    on_maps = random_layer(BY_NAME["sn"], (6, 1, 1, 8), rng)
    assert list(on_maps.importance()["mean"]) == ["instance", "layer", "batch"]


# Identities between norms.


def same(one, other, shape, rng, training=True, tolerance=1e-12):
    for layer in (one, other):
        if not layer.built:
            layer.build(shape)
    drawn = {w.name: rng.uniform(0.5, 2, tuple(w.shape)) for w in one.weights}
    for layer in (one, other):
        for weight in layer.weights:
            if weight.name in drawn and "logits" not in weight.name and weight.name != "gate":
                weight.assign(drawn[weight.name])
    x = rng.normal(2, 3, shape)
    assert_close(forward(one, x, training), forward(other, x, training), tolerance)
    moved = values(one), values(other)
    for name in moved[0].keys() & moved[1].keys() & {"moving_mean", "moving_variance"}:
        assert_close(moved[0][name], moved[1][name], tolerance)


PLAIN = {"dtype": DTYPE, "epsilon": 1e-5}


@pytest.mark.parametrize("groups", [8, -1])
@pytest.mark.parametrize("layout", LAYOUTS[3:6] + LAYOUTS[9:11], ids=str)
def test_one_group_per_channel_is_instance_normalization(groups, layout, rng):
    one = keras_norms.GroupNormalization(groups, **layout.arguments, **PLAIN)
    same(one, keras_norms.InstanceNormalization(**layout.arguments, **PLAIN), layout.shape, rng)
    assert one.groups == groups and one.get_config()["groups"] == groups


@pytest.mark.parametrize("shape", [(3, 4, 5, 8), (4, 5, 8), (6, 8)])
def test_one_group_is_layer_normalization_over_positions_and_channels(shape, rng):
    ours = keras_norms.GroupNormalization(1, center=False, scale=False, **PLAIN)
    axes = tuple(range(1, len(shape)))
    theirs = keras.layers.LayerNormalization(axes, center=False, scale=False, **PLAIN)
    same(ours, theirs, shape, rng, tolerance=1e-9)


@pytest.mark.parametrize("shape", [(4, 5, 8), (3, 4, 5, 8)])
def test_one_group_per_token_is_layer_normalization_over_features(shape, rng):
    tokens = tuple(range(len(shape) - 1))
    ours = keras_norms.GroupNormalization(1, batch_axis=tokens, **PLAIN)
    same(ours, keras.layers.LayerNormalization(**PLAIN), shape, rng, tolerance=1e-9)


@pytest.mark.parametrize("channels, groups", [(1, 1), (2, 1), (7, 1), (12, 6), (16, 8), (64, 32)])
def test_automatic_groups(channels, groups, rng):
    auto = keras_norms.GroupNormalization("auto", **PLAIN)
    same(auto, keras_norms.GroupNormalization(groups, **PLAIN), (2, 3, channels), rng)
    assert reference.auto_groups(channels) == groups
    assert auto.get_config()["groups"] == "auto"


ONE_HOT = {
    "instance": lambda: keras_norms.InstanceNormalization(**PLAIN),
    "group": lambda: keras_norms.GroupNormalization(4, **PLAIN),
    "layer": lambda: keras_norms.GroupNormalization(1, **PLAIN),
    "batch": lambda: keras_norms.BatchNormalization(momentum=0.9, **PLAIN),
}


@pytest.mark.parametrize("kind, training", [*((kind, True) for kind in ONE_HOT), ("batch", False)])
def test_a_one_hot_switch_is_that_norm(kind, training, rng):
    alone = keras_norms.SwitchableNormalization(statistics=(kind,), groups=4, dtype=DTYPE)
    same(alone, ONE_HOT[kind](), IMAGES.shape, rng, training)
    mixed = keras_norms.SwitchableNormalization(statistics=tuple(ONE_HOT), groups=4, dtype=DTYPE)
    mixed.build(IMAGES.shape)
    hot = 1e3 * (np.array(tuple(ONE_HOT)) == kind)
    mixed.mean_logits.assign(hot)
    mixed.variance_logits.assign(hot)
    same(mixed, ONE_HOT[kind](), IMAGES.shape, rng, training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("gate, kind", [(0, "instance"), (1, "batch")])
def test_a_closed_or_open_gate_is_that_norm(gate, kind, training, rng):
    layer = keras_norms.BatchInstanceNormalization(
        gate_initializer=keras.initializers.Constant(gate), dtype=DTYPE
    )
    same(layer, ONE_HOT[kind](), IMAGES.shape, rng, training)


def test_a_gate_interpolates_outputs_per_channel(rng):
    x = rng.normal(2, 3, IMAGES.shape)
    layer = random_layer(BY_NAME["bin"], IMAGES.shape, rng, center=False, scale=False)
    gate = values(layer)["gate"]
    plain = {"center": False, "scale": False}
    batch = forward(keras_norms.BatchNormalization(**plain, **PLAIN), x, True)
    instance = forward(keras_norms.InstanceNormalization(**plain, **PLAIN), x)
    assert_close(forward(layer, x, True), gate * batch + (1 - gate) * instance)
    assert_close(layer.importance()["gate"]["batch"], gate.mean(), 1e-6)
    assert_close(layer.importance()["gate"]["instance"], 1 - gate.mean(), 1e-6)


def test_instance_normalization_is_blind_to_contrast(rng):
    x = rng.normal(2, 3, IMAGES.shape)
    contrast, brightness = rng.uniform(0.5, 2, (3, 1, 1, 8)), rng.normal(0, 5, (3, 1, 1, 8))
    layer = random_layer(BY_NAME["in"], IMAGES.shape, rng, epsilon=0.0)
    assert_close(forward(layer, contrast * x + brightness), forward(layer, x))


# Training and inference.


@over(MOVING)
def test_moving_statistics_start_at_zero_and_one(norm):
    layer = norm()
    layer.build((2, 3, 8))
    moving = {name: v for name, v in values(layer).items() if name.startswith("moving_")}
    assert_close(moving.pop("moving_mean"), np.zeros(8), 0)
    assert norm.name == "mean_only_bn" or moving
    for value in moving.values():
        assert_close(value, np.ones(8), 0)


@pytest.mark.parametrize(
    "norm, momentum",
    [(norm, 0.25) for norm in MOVING if not norm.held]
    + [(BY_NAME[name], m) for name in ("bn", "sn") for m in (0, 1)],
    ids=str,
)
def test_momentum_is_what_a_step_keeps(norm, momentum, rng):
    layer = random_layer(norm, IMAGES.shape, rng, momentum=momentum)
    before = values(layer)
    x = rng.normal(2, 3, IMAGES.shape)
    forward(layer, x, training=True)
    batch = {"moving_mean": x.mean((0, 1, 2)), "moving_variance": x.var((0, 1, 2))}
    for name, after in values(layer).items():
        new = momentum * before[name] + (1 - momentum) * batch.get(name, before[name])
        assert_close(after, new, 1e-12 if 0 < momentum < 1 else 1e-14)


@over(MOVING)
def test_inference_uses_moving_statistics_and_leaves_them(norm, rng):
    x = rng.normal(2, 3, IMAGES.shape)
    layer = random_layer(norm, IMAGES.shape, rng)
    before, trained = values(layer), forward(layer, x, training=True)
    randomize(layer, np.random.default_rng(0))
    before = values(layer)
    inferred = forward(layer, x, training=False)
    assert np.abs(inferred - trained).max() > 0.1
    assert all((values(layer)[name] == before[name]).all() for name in before)
    assert_close(inferred, reference.expected(layer, x)[0])


@over(MOVING)
def test_synchronized_has_no_effect_on_one_replica(norm, rng):
    layer = random_layer(norm, IMAGES.shape, rng, synchronized=True)
    x = rng.normal(2, 3, IMAGES.shape)
    y, moving = reference.expected(layer, x, training=True)
    assert_close(forward(layer, x, True), y)
    for name, value in moving.items():
        assert_close(values(layer)[name], value)


@over(MOVING)
def test_an_untrainable_layer_is_frozen(norm, rng):
    x = rng.normal(2, 3, IMAGES.shape)
    layer = random_layer(norm, IMAGES.shape, rng)
    inference, before = forward(layer, x), values(layer)
    layer.trainable = False
    assert not layer.trainable_weights
    assert_close(forward(layer, x, training=True), inference, 0)
    assert all((values(layer)[name] == before[name]).all() for name in before)
    layer.trainable = True
    forward(layer, x, training=True)
    assert np.abs(values(layer)["moving_mean"] - before["moving_mean"]).max() > 1e-3


@over(PER_SAMPLE)
def test_samples_do_not_see_each_other(norm, rng):
    """The same in training and inference, at any batch size and beside any other sample."""
    x = rng.normal(2, 3, IMAGES.shape)
    layer = random_layer(norm, IMAGES.shape, rng)
    together, before = forward(layer, x), values(layer)
    assert_close(forward(layer, x, training=True), together, 0)
    assert_close(forward(layer, x[1:2]), together[1:2], 1e-12)
    other = np.concatenate([x[:1], rng.normal(9, 9, x[1:].shape)])
    assert_close(forward(layer, other)[:1], together[:1], 1e-12)
    assert all((values(layer)[name] == before[name]).all() for name in before)
    assert not layer.non_trainable_weights


@pytest.mark.parametrize("name", ["gn", "ln", "sn_no_batch"])
def test_tokens_do_not_see_each_other(name, rng):
    """With `batch_axis=(0, 1)` nothing leaks along time, as a causal model needs."""
    x = rng.normal(2, 3, (2, 5, 8))
    layer = random_layer(BY_NAME[name], x.shape, rng, batch_axis=(0, 1))
    past = forward(layer, x)[:, :3]
    x[:, 3:] = 100.0
    assert_close(forward(layer, x)[:, :3], past, 0)


# Gradients.


def differences(function, x, step=1e-5):
    """Central differences of a scalar function of an array."""
    result, flat = np.zeros(x.size), x.ravel()
    for i in range(x.size):
        ends = []
        for sign in (1, -1):
            moved = flat.copy()
            moved[i] += sign * step
            ends.append(function(moved.reshape(x.shape)))
        result[i] = (ends[0] - ends[1]) / (2 * step)
    return result.reshape(x.shape)


@pytest.mark.parametrize(
    "norm, training, masked",
    [(norm, True, masked) for norm in NORMS if not norm.held for masked in (False, True)]
    + [(norm, False, False) for norm in MOVING],
    ids=str,
)
def test_gradients_are_those_of_the_reference(norm, training, masked, rng):
    shape = SMALL.shape
    layer, x, dy = random_layer(norm, shape, rng), rng.normal(1, 2, shape), rng.normal(0, 1, shape)
    mask = np.array([[1, 1], [1, 0], [0, 0]], bool) if masked else None
    if masked:
        dy[~mask] = 0
    actual, weights = gradients(layer, x, dy, training, mask), values(layer)
    assert set(actual) == {"x"} | {v.name for v in layer.trainable_variables}
    for name, gradient in actual.items():

        def loss(value, name=name):
            changed = weights | {name: value}
            y, _ = reference.expected(layer, changed.pop("x", x), mask, training, changed)
            return np.sum(y * dy)

        assert_close(gradient, differences(loss, x if name == "x" else weights[name]), 1e-6)
        if name.endswith("logits"):
            assert np.abs(gradient).max() > 1e-3
            assert_close(gradient.sum(), 0, 1e-12)


def test_derivatives_where_all_elements_are_equal():
    """The variance is 0 there, at the edge of its range."""
    layer = keras_norms.InstanceNormalization(epsilon=1.0, center=False, scale=False, dtype=DTYPE)
    direction = tensor(np.arange(-1.5, 2)[None, :, None])

    def derivative(function):
        return lambda t: grad(function)(t)[0]

    # t d / sqrt(v t^2 + 1) = d (t - v t^3 / 2 + ...)
    third = derivative(derivative(derivative(lambda t: layer(t * direction)[0, 0, 0])))
    assert_close(to_numpy(third(tensor(np.array(0.0)))), -1.5 * -3 * 1.25, 1e-5)


@over([norm for norm in NORMS if not norm.held])
def test_second_derivatives(norm, rng):
    """The pivots inside are constants to autodiff; derivatives of all orders stay exact."""
    shape = SMALL.shape
    layer, x, dy = random_layer(norm, shape, rng), rng.normal(1, 2, shape), rng.normal(0, 1, shape)
    direction = rng.normal(0, 1, shape)
    state = constants(layer.trainable_variables), constants(layer.non_trainable_variables)

    def loss(x):
        y, _ = layer.stateless_call(*state, x, training=True)
        return ops.sum(ops.square(y) * tensor(dy))  # for a second derivative of y

    def slope(x):
        return ops.sum(grad(loss)(x)[0] * tensor(direction))

    def curvature(x):
        y, _ = reference.expected(layer, x, training=True)
        return np.sum(y**2 * dy)

    def second(step):
        ends = [differences(curvature, x + s * step * direction, 1e-4) for s in (1, -1)]
        return (ends[0] - ends[1]) / (2 * step)

    actual = to_numpy(compiled(grad(slope))(tensor(x))[0])
    assert_close(actual, second(1e-4), 1e-4)


# Single elements.


@pytest.mark.parametrize(
    "norm, shape",
    [
        (norm, shape)
        for norm in NORMS
        for shape in ((1, 1, 1, 8), (1, 8))
        if not norm.refuses_single and not norm.batch_only and norm.fits(Layout(shape, -1))
    ]
    + [(BY_NAME[name], shape) for name in ("bin", "sn") for shape in ((3, 1, 1, 8), (1, 2, 2, 8))],
    ids=str,
)
def test_single_elements_stay_finite(norm, shape, rng):
    """A set of one element has variance 0; epsilon keeps values and gradients finite."""
    layer = random_layer(norm, shape, rng, dtype="float32")
    x = rng.normal(2, 3, shape).astype("float32")
    slopes = gradients(layer, x, np.ones(shape, "float32"))
    assert all(np.isfinite(gradient).all() for gradient in slopes.values())
    for training in (True, False):
        y, moving = reference.expected(layer, x, training=training)
        assert_close(forward(layer, x, training), y, 1e-4)
        for name, value in moving.items():
            assert_close(values(layer)[name], value, 1e-5)


@pytest.mark.parametrize("name", ["gn", "ln", "in"])
def test_single_elements_of_unknown_size_stay_finite(name, rng):
    channels = {"gn": 2, "ln": 1, "in": 3}[name]
    inputs = keras.Input((None, None, channels))
    model = keras.Model(inputs, BY_NAME[name]()(inputs))
    x = rng.normal(2, 3, (2, 1, 1, channels)).astype("float32")
    assert_close(forward(model, x), np.zeros_like(x), 0)


# A drop-in for keras.layers.


@pytest.mark.parametrize("axis, shape", [(-1, (6, 4, 3)), (1, (6, 3, 4)), (-1, (6, 3))])
def test_weights_of_keras_batch_normalization_load(axis, shape, rng):
    x = rng.normal(2, 3, shape).astype("float32")
    theirs = keras.layers.BatchNormalization(axis, 0.5, 1e-2)
    for _ in range(3):
        theirs(x, training=True)
    theirs.gamma.assign(rng.normal(1, 0.3, 3))
    theirs.beta.assign(rng.normal(0, 1, 3))
    ours = keras_norms.BatchNormalization(axis, 0.5, 1e-2)
    ours.build(shape)
    ours.set_weights(theirs.get_weights())
    assert_close(forward(ours, x), forward(theirs, x), 1e-5)
    assert_close(forward(ours, x, True), forward(theirs, x, True), 1e-5)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert_close(mine, other, 1e-5)


@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": False}], ids=str)
@pytest.mark.parametrize("name", ["BatchNormalization", "GroupNormalization"])
def test_arguments_and_weights_are_those_of_keras(name, options):
    ours, theirs = getattr(keras_norms, name), getattr(keras.layers, name)
    layers = [cls(**options) for cls in (ours, theirs)]
    for layer in layers:
        layer.build((2, 4, 32))
    config, other = (layer.get_config() for layer in layers)
    shared = set(other) - {"name"}
    assert {key: config[key] for key in shared} == {key: other[key] for key in shared}
    assert [w.name for w in layers[0].weights] == [w.name for w in layers[1].weights]
    for kind in ("trainable_weights", "non_trainable_weights"):
        assert len(getattr(layers[0], kind)) == len(getattr(layers[1], kind))
    positional = {
        "BatchNormalization": (1, 0.5, 1e-2, False, True),
        "GroupNormalization": (4, 1, 1e-2, False, True),
    }[name]
    config, other = (cls(*positional).get_config() for cls in (ours, theirs))
    assert {key: config[key] for key in shared} == {key: other[key] for key in shared}


DEFAULTS = {
    "bn": {"momentum": 0.99, "epsilon": 1e-3},
    "mean_only_bn": {"momentum": 0.9},
    "gn": {"epsilon": 1e-3},
    "in": {"epsilon": 1e-3},
    "bin": {"momentum": 0.9, "epsilon": 1e-5},
    "sn": {"momentum": 0.9, "epsilon": 1e-5, "groups": 32},
}
WEIGHTS = {
    "bn": "gamma beta moving_mean moving_variance",
    "mean_only_bn": "beta moving_mean",
    "gn": "gamma beta",
    "in": "gamma beta",
    "bin": "gamma beta gate moving_mean moving_variance",
    "sn": "gamma beta mean_logits variance_logits moving_mean moving_variance",
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_and_weights(name):
    layer = BY_NAME[name]()
    layer.build((2, 4, 8))
    for key, value in DEFAULTS[name].items():
        assert getattr(layer, key) == value
    assert (layer.axis, layer.batch_axis, layer.center) == (-1, 0, True)
    assert keras_norms.GroupNormalization().groups == 32
    start = {
        "gamma": np.ones(8),
        "beta": np.zeros(8),
        "gate": np.ones(8),
        "mean_logits": np.ones(3),
        "variance_logits": np.ones(3),
        "moving_mean": np.zeros(8),
        "moving_variance": np.ones(8),
    }
    assert set(values(layer)) == set(WEIGHTS[name].split())
    for key, value in values(layer).items():
        np.testing.assert_array_equal(value, start[key])
        assert getattr(layer, key) is next(w for w in layer.weights if w.name == key)


def test_parameters():
    """Layer norm over (5, 10, 10) elements has 1,000 parameters, one per channel has 10."""
    per_element = keras.layers.LayerNormalization((1, 2, 3))
    per_element.build((None, 10, 10, 5))
    assert per_element.count_params() == 2 * 5 * 10 * 10
    for norm in (BY_NAME["ln"], BY_NAME["in"], BY_NAME["bn"]):
        layer = norm()
        layer.build((None, 10, 10, 5))
        assert sum(int(np.prod(w.shape)) for w in layer.trainable_weights) == 2 * 5
    tokens = keras_norms.GroupNormalization(1, batch_axis=(0, 1))
    tokens.build((20, 5, 10))
    assert tokens.count_params() == 20


@over()
def test_without_affine(norm, rng):
    options = (
        {"center": False} if norm.name == "mean_only_bn" else {"center": False, "scale": False}
    )
    layer = random_layer(norm, IMAGES.shape, rng, **options)
    assert not {"gamma", "beta"} & set(values(layer))
    check(layer, rng.normal(2, 3, IMAGES.shape))


def test_the_gate_is_clipped_after_an_update(rng):
    layer = random_layer(BY_NAME["bin"], IMAGES.shape, rng, dtype="float32")
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build([layer.gate])
    step = np.array([10, -10, 0, 0.05, -0.05, 1e6, -1e6, 0])
    expected = np.clip(values(layer)["gate"] - step, 0, 1)
    optimizer.apply([ops.cast(step, "float32")], [layer.gate])
    assert_close(values(layer)["gate"], expected, 1e-6)


def test_random_switches_differ_between_mean_and_variance():
    random = keras.initializers.RandomNormal(stddev=1.0)
    layers = [keras_norms.SwitchableNormalization(logits_initializer=random) for _ in range(2)]
    drawn = []
    for layer in layers:
        layer.build((None, 4, 4, 8))
        drawn += [ops.convert_to_numpy(w) for w in (layer.mean_logits, layer.variance_logits)]
    assert len({tuple(logits) for logits in drawn}) == 4


@pytest.mark.parametrize("shape", [(4, 3, 5, 8), (16, 64, 32, 8)], ids=["layer", "program"])
def test_unbiased_variances_are_those_of_the_official_code(shape, rng):
    """Which makes the variances of layer and batch from those of the samples."""
    layer = keras_norms.SwitchableNormalization(unbiased=True)
    x = rng.normal(2, 3, shape).astype("float32")
    layer.build((None, *shape[1:]))
    logits = rng.normal(size=(2, 3))
    layer.mean_logits.assign(logits[0])
    layer.variance_logits.assign(logits[1])
    flat = x.astype("float64").reshape(shape[0], -1, shape[-1])
    means = [flat.mean(1, keepdims=True)]
    variances = [flat.var(1, keepdims=True, ddof=1)]
    for axis in (2, 0):  # layer, batch
        means.append(means[0].mean(axis, keepdims=True))
        square = (variances[0] + means[0] ** 2).mean(axis, keepdims=True)
        variances.append(square - means[-1] ** 2)
    w, v = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    mean = sum(share * m for share, m in zip(w, means, strict=True))
    variance = sum(share * m for share, m in zip(v, variances, strict=True))
    expected = (flat - mean) / np.sqrt(variance + layer.epsilon)
    call = layer
    if BACKEND == "tensorflow":  # as in `fit`, where large inputs have programs of their own
        import tensorflow as tf

        call = tf.function(layer)
    y = ops.convert_to_numpy(call(ops.convert_to_tensor(x), training=True))
    assert_close(y, expected.reshape(shape), 1e-5)
    moved = ops.convert_to_numpy(layer.moving_variance)
    assert_close(moved, 0.9 + 0.1 * variances[2].ravel(), 1e-5)
