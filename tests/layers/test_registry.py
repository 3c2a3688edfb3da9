"""keras_norms.get."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_norms

SPECS = (
    *keras_norms.NAMES,
    "gn(groups=4)",
    "sn(statistics=('instance', 'layer'))",
    "in(scale=False)",
)


@pytest.mark.parametrize("spec", SPECS)
def test_spec_round_trips(spec):
    norm = keras_norms.get(spec)
    assert keras_norms.get(norm.spec) == norm
    assert keras_norms.get(norm) is norm
    assert norm.spec == spec


def test_spelling_does_not_matter():
    assert keras_norms.get(" gn( groups = 4 )") == keras_norms.get("gn(groups=4)")
    assert keras_norms.get(None) == keras_norms.get("none") == keras_norms.get("none()")
    assert keras_norms.get("gn(groups=4)") != keras_norms.get("gn(groups=2)")


def test_groups_need_no_name():
    norm = keras_norms.get("gn(8, epsilon=0.1)")
    assert norm == keras_norms.get("gn(groups=8, epsilon=0.1)")
    assert norm.spec == "gn(groups=8, epsilon=0.1)"
    assert norm.normalize().groups == 8 and norm.normalize().epsilon == 0.1
    for spec in ("in(1e-5)", "bn(0.9)", "gn(8, 3)", "gn(8, groups=4)", "wn(8)", "sn(8)"):
        with pytest.raises(ValueError, match="need their names.* Received: "):
            keras_norms.get(spec)
    with pytest.raises(ValueError, match="'ln' takes no argument 'groups'"):
        keras_norms.get("ln(8)")


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("GN", "gn"),
        ("gnn", "gn"),
        ("GN(8)", "gn"),
        ("syncbn", "bn(synchronized=True)"),
        ("SyncBatchNorm", "bn(synchronized=True)"),
        ("sync-bn", "bn(synchronized=True)"),
        ("BatchNormalization", "bn"),
        ("batch_norm(epsilon=0.1)", "bn"),
        ("batch", "bn"),
        ("LayerNorm", "ln"),
        ("group normalisation", "gn"),
        ("weight_norm", "wn"),
        ("wnmobn", "wn_mobn"),
        ("None", "none"),
    ],
)
def test_a_close_name_is_suggested(spec, meant):
    with pytest.raises(ValueError) as error:
        keras_norms.get(spec)
    assert f"did you mean {meant!r}? Received: {spec!r}" in str(error.value)
    keras_norms.get(meant)  # it is one


def test_every_synonym_is_a_norm():
    for meant in keras_norms.registry._SYNONYMS.values():
        keras_norms.get(meant)


@pytest.mark.parametrize(
    ("spec", "cls"),
    [
        ("none", layers.Identity),
        ("bn", keras_norms.BatchNormalization),
        ("ln", keras_norms.GroupNormalization),
        ("rms", layers.RMSNormalization),
        ("in", keras_norms.InstanceNormalization),
        ("gn", keras_norms.GroupNormalization),
        ("wn", layers.Identity),
        ("wn_mobn", layers.Identity),
        ("bin", keras_norms.BatchInstanceNormalization),
        ("sn", keras_norms.SwitchableNormalization),
    ],
)
def test_names(spec, cls):
    norm = keras_norms.get(spec)
    layer = norm.normalize("norm1", zero_init=True)
    assert type(layer) is cls and layer.name == "norm1"
    assert norm.normalize().name != norm.normalize().name
    assert layer(np.ones((2, 4, 4, 8))).shape == (2, 4, 4, 8)
    # All norms have the same numbers, so that a comparison compares the norms alone.
    assert getattr(layer, "epsilon", 1e-5) == 1e-5
    assert getattr(layer, "momentum", 0.9) == 0.9
    if getattr(layer, "gamma", None) is not None:
        assert not np.any(layer.gamma)
    if spec not in ("in", "bin"):
        assert norm.normalize(batch_axis=(0, 1))(np.ones((2, 3, 8))).shape == (2, 3, 8)
    dense = layers.Dense(3, name="dense1")
    wrapped = norm.wrap(dense)
    if spec.startswith("wn"):
        assert isinstance(wrapped, keras_norms.WeightNormalization)
        assert wrapped.layer is dense and wrapped.name == "dense1_wn"
        assert (wrapped.mean_only_batch_norm is not None) == (spec == "wn_mobn")
    else:
        assert wrapped is dense
    assert norm.use_bias == (spec in ("none", "rms", "wn", "wn_mobn"))


def test_arguments_arrive():
    layer = keras_norms.get("bn(momentum=0.5, epsilon=0.1, synchronized=True)").normalize()
    assert (layer.momentum, layer.epsilon, layer.synchronized) == (0.5, 0.1, True)
    for spec, use_bias in (("bn(center=False)", False), ("ln(center=False)", True)):
        assert keras_norms.get(spec).use_bias == use_bias, "only where it has an effect"
    wrapped = keras_norms.get("wn_mobn(momentum=0.5)").wrap(layers.Dense(2))
    wrapped.build((None, 3))
    assert wrapped.mean_only_batch_norm and wrapped.momentum == 0.5
    assert keras_norms.get("ln").normalize().groups == 1
    assert keras_norms.get("bn(dtype='float64')").normalize().compute_dtype == "float64"
    lstm = keras_norms.get("wn(kernels=('recurrent_kernel',))").wrap(layers.LSTM(2))
    lstm.build((None, 3, 4))
    assert not hasattr(lstm, "gain") and lstm.recurrent_gain.shape == (8,)


BIAS_SPECS = (
    *(spec for spec in SPECS if not spec.startswith("wn")),
    *("gn(groups=-1)", "sn(statistics=('instance', 'batch'))", "sn(statistics=('layer',))"),
    *("bn(center=False)", "bn(renorm=True)", layers.BatchNormalization, layers.LayerNormalization),
)


@pytest.mark.parametrize("spec", BIAS_SPECS)
def test_a_norm_knows_whether_it_removes_a_bias(spec):
    """If the output changes with a bias of its own for each channel, it is not removed."""
    norm = keras_norms.get(spec)
    x = np.random.default_rng(0).normal(size=(4, 6, 8)).astype("float32")
    bias = np.linspace(-1, 1, 8, dtype="float32")
    plain, biased = (norm.normalize()(inputs, training=True) for inputs in (x, x + bias))
    change = np.abs(keras.ops.convert_to_numpy(plain - biased)).max()
    assert change < 1e-5 if norm.removes_bias else change > 1e-2


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (3, 1), (16, 8), (24, 12), (64, 32)])
def test_plain_gn_divides_the_channels(channels, groups):
    layer = keras_norms.get("gn").normalize()
    x = np.random.default_rng(0).normal(size=(2, 4, channels)).astype("float32")
    plain = keras_norms.GroupNormalization(groups, epsilon=1e-5)
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (layer(x), plain(x))))


def test_ln_per_token_is_keras_layer_normalization():
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    layer = keras_norms.get("ln").normalize(batch_axis=(0, 1))
    outputs = layer(x), layers.LayerNormalization(epsilon=1e-5)(x)
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, outputs), atol=1e-6)


def test_config_class_and_function():
    config = keras.saving.serialize_keras_object(keras_norms.GroupNormalization(4, epsilon=0.5))
    for spec in (config, lambda: keras_norms.GroupNormalization(4, epsilon=0.5)):
        norm = keras_norms.get(spec)
        layer = norm.normalize("n", batch_axis=(0, 1), zero_init=True)
        assert (layer.groups, layer.epsilon, layer.batch_axis, layer.name) == (4, 0.5, (0, 1), "n")
        assert not norm.use_bias and norm.spec == spec and keras_norms.get(norm.spec) == norm
        assert layer is not norm.normalize("n")
    norm = keras_norms.get(layers.BatchNormalization)
    assert type(norm.normalize("n")) is layers.BatchNormalization
    assert norm.normalize(zero_init=True).gamma_initializer.get_config() == {}
    with pytest.raises(ValueError, match=r"BatchNormalization has no `batch_axis`.*\(0, 1\)"):
        norm.normalize("n", batch_axis=(0, 1))


def test_follows_the_dtype_policy_where_it_is_used():
    norm = keras_norms.get("bn")
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert norm.normalize().compute_dtype == "bfloat16"
    finally:
        keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize(
    "spec",
    [
        "batch",
        "other",
        "",
        "gn(16, 32)",
        "gn(0)",
        "gn(groups=0)",
        "gn(groups=x)",
        "gn(group=4)",
        "gn(",
        "gn; bn",
        "none(epsilon=1)",
        "none(1)",
        "ln(groups=2)",
        "wn(mean_only_batch_norm=True)",
        "bn(batch_axis=1)",
        "bn(name='x')",
        "wn_mobn(epsilon=1)",
        "sn(statistics=('batch', 'batch'))",
        "__import__('os')",
        "bn(epsilon=1e-3, epsilon=1e-2)",
        "wn(momentum=0.5)",
        "sn(groups=4)",
        3,
        dict,
        layers.Bidirectional,
        layers.Dense,
        lambda x: x,
        {"class_name": "Nothing", "config": {}},
    ],
)
def test_bad_spec_is_a_value_error_that_names_what_was_received(spec):
    with pytest.raises(ValueError) as error:
        keras_norms.get(spec)
    if isinstance(spec, (str, int)):
        assert repr(spec) in str(error.value)
    if spec in ("other", "", 3):
        assert all(repr(name) in str(error.value) for name in keras_norms.NAMES)
