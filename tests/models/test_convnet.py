"""zoo.convnet and zoo.mlp."""

import keras
import numpy as np
import pytest

import keras_norms
from zoo import convnet, mlp
from zoo.norms import SUPPORT

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
LABELS = np.array([0, 1, 2, 0])

BUILDERS = {
    "convpool": lambda spec: convnet("convpool", 3, spec, (8, 8, 1), width=1 / 16),
    "conv6": lambda spec: convnet("conv6", 3, spec, (8, 8, 1), width=1 / 16),
    "mlp": lambda spec: mlp(3, spec, (8, 8, 1), hidden=(8, 4)),
}
CONVNETS = ("convpool", "conv6")
ROWS = {"convpool": "convnet", "conv6": "convnet", "mlp": "mlp"}
WORKING = [(b, spec) for spec in SUPPORT for b in BUILDERS if SUPPORT[spec][ROWS[b]]]
REFUSED = [(b, spec) for spec in SUPPORT for b in BUILDERS if not SUPPORT[spec][ROWS[b]]]


def parameters(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.mark.parametrize(
    ("builder", "spec"),
    [
        # One of the two convolutional nets for each norm.
        pytest.param(*pair, marks=pytest.mark.slow if pair[0] == CONVNETS[i % 2] else ())
        for i, spec in enumerate(SUPPORT)
        for pair in WORKING
        if pair[1] == spec
    ],
)
def test_every_norm_trains_a_step_and_survives_saving(builder, spec, tmp_path):
    model = BUILDERS[builder](spec)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    before = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    assert np.isfinite(model.train_on_batch(IMAGES, LABELS))
    moved = [np.any(old != new) for old, new in zip(before, model.trainable_variables, strict=True)]
    assert np.mean(moved) > 0.5
    logits = model(IMAGES, training=False)
    assert logits.shape == (4, 3) and len(np.unique(logits)) > 3
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits, loaded(IMAGES, training=False))


@pytest.mark.parametrize(("builder", "spec"), REFUSED)
def test_norms_that_a_vector_cannot_have(builder, spec):
    assert builder == "mlp"
    with pytest.raises(ValueError, match=f"{spec!r} pools positions.*Use one of 'none', 'bn'"):
        BUILDERS[builder](spec)


# Kernels, stage by stage:
#   convpool: 3*3*3*96 + 2 * 9*96*96,  9*96*192 + 2 * 9*192*192,  9*192*192 + 2 * 192*192
#   conv6:    9*3*64 + 9*64*64,  9*64*128 + 9*128*128,  9*128*256 + 9*256*256
# and the classifier, 192*10 + 10 or 4*256*10 + 10. Each of the 3*96 + 6*192 = 1440 or
# 2 * (64 + 128 + 256) = 896 maps has gamma and beta with "bn", a bias with "none", a bias and a
# gain with "wn", which gives a gain to each of the 10 logits too.
CONVPOOL = 168_480 + 829_440 + 405_504 + 1_930
CONV6 = 38_592 + 221_184 + 884_736 + 10_250


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        ("convpool", "bn", CONVPOOL + 2 * 1440),
        ("convpool", "none", CONVPOOL + 1440),
        ("convpool", "wn", CONVPOOL + 2 * 1440 + 10),
        ("conv6", "bn", CONV6 + 2 * 896),
        ("conv6", "none", CONV6 + 896),
    ],
)
def test_number_of_trainable_parameters(kind, spec, expected):
    assert parameters(convnet(kind, 10, spec)) == expected


def test_convpool_is_the_net_of_the_paper():
    model = convnet("convpool", 10, width=1 / 16)
    side = {name: model.get_layer(name).output.shape[1] for name in _convolutions(model)}
    assert list(side.values()) == [32] * 3 + [16] * 3 + [6] * 3
    assert [model.get_layer(name).kernel_size[0] for name in side] == [3] * 7 + [1] * 2
    assert model.get_layer("noise").stddev == 0.15
    assert [layer.rate for layer in _of(model, keras.layers.Dropout)] == [0.5, 0.5]
    assert {layer.negative_slope for layer in _of(model, keras.layers.ReLU)} == {0.1}


def test_conv6_is_plain():
    model = convnet("conv6", 10)
    assert [model.get_layer(name).filters for name in _convolutions(model)] == [
        *(64, 64, 128, 128, 256, 256)
    ]
    assert not _of(model, (keras.layers.Dropout, keras.layers.GaussianNoise))
    assert {layer.negative_slope for layer in _of(model, keras.layers.ReLU)} == {0}


def test_conv6_sees_what_instance_norm_leaves():
    """Of two images, the logits differ by far more than the mean of each map does."""
    images = np.random.default_rng(0).normal(size=(16, 32, 32, 3)).astype("float32")
    model = convnet("conv6", 10, "in", width=1 / 4)
    maps = keras.ops.convert_to_numpy(
        keras.Model(model.input, model.get_layer("stage3_relu2").output)(images)
    )
    pooled = keras.ops.convert_to_numpy(
        keras.Model(model.input, model.get_layer("flatten").output)(images)
    )
    assert pooled.std(0).mean() > 5 * maps.mean((1, 2)).std(0).mean()
    quarter = maps[:, :4, :4].mean((1, 2))
    np.testing.assert_allclose(pooled[:, :64], quarter, rtol=1e-5)


@pytest.mark.parametrize("kind", ["convpool", "conv6"])
def test_names_are_readable_and_the_norm_stands_before_the_activation(kind):
    model = convnet(kind, 10, "bn", (8, 8, 1), width=1 / 16)
    count = 3 if kind == "convpool" else 2
    for stage in (1, 2, 3):
        for index in range(1, count + 1):
            conv, norm, relu = (
                model.get_layer(f"stage{stage}_{role}{index}") for role in ("conv", "norm", "relu")
            )
            assert norm.input is conv.output and relu.input is norm.output
            assert norm.batch_axis == 0 and not conv.use_bias
    assert len(_convolutions(model)) == 3 * count


@pytest.mark.parametrize("kind", ["convpool", "conv6"])
@pytest.mark.parametrize("side", [8, 9, 12, 28, None])
def test_sizes(kind, side):
    """`in` refuses maps of a single pixel."""
    model = convnet(kind, 10, "in", (side, side, 1), width=1 / 16)
    size = side or 20
    assert model(np.zeros((2, size, size, 1), "float32")).shape == (2, 10)


def test_mlp():
    model = mlp(3, "ln", hidden=(50, 20), width=0.1)
    assert [layer.name for layer in model.layers if "norm" in layer.name] == [
        *("hidden1_norm", "hidden2_norm")
    ]
    # Dense with bias, gamma and beta; width 0.1 makes the units 5 and 2.
    assert parameters(model) == (10 * 5 + 3 * 5) + (5 * 2 + 3 * 2) + (2 * 3 + 3)
    # A sample is flattened: only the order of its values counts.
    flat, images = mlp(3, "bn", (64,)), mlp(3, "bn", (8, 8, 1))
    images.set_weights(flat.get_weights())
    np.testing.assert_array_equal(images(IMAGES), flat(IMAGES.reshape(4, 64)))
    keras_norms.recalibrate(flat, [IMAGES.reshape(4, 64)])
    hidden = keras.Model(flat.input, flat.get_layer("hidden1_norm").output)
    hidden = keras.ops.convert_to_numpy(hidden(IMAGES.reshape(4, 64)))
    np.testing.assert_allclose(hidden.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(hidden.std(0), 1, atol=1e-3)


@pytest.mark.parametrize("spec", SUPPORT)
def test_an_mlp_has_every_bias_that_has_an_effect(spec):
    if not SUPPORT[spec]["mlp"]:
        return
    model = mlp(3, spec)
    dense = model.layers[1]
    assert getattr(dense, "layer", dense).use_bias == (spec not in ("bn", "mobn"))


@pytest.mark.parametrize("spec", ["ln", "rms", "gn", "sn"])
def test_an_mlp_sees_the_scale_of_a_sample(spec):
    """By the bias before the norm: of W x alone, layer norm would hide it."""
    model = mlp(3, spec)
    dense = model.get_layer("hidden1_dense")
    rng = np.random.default_rng(0)
    dense.bias.assign(rng.normal(size=50))
    x = rng.uniform(size=(4, 10)).astype("float32")
    logits, doubled = (keras.ops.convert_to_numpy(model(each)) for each in (x, 2 * x))
    assert np.abs(logits - doubled).max() > 1e-2


@pytest.mark.parametrize("builder", BUILDERS)
def test_weight_norm_wraps_every_layer_with_weights(builder):
    model = BUILDERS[builder]("wn")
    kernels = (keras.layers.Conv2D, keras.layers.Dense)
    assert not _of(model, kernels)
    wrapped = [layer.layer for layer in _of(model, keras_norms.WeightNormalization)]
    assert len(wrapped) == {"convpool": 10, "conv6": 7, "mlp": 3}[builder]
    assert all(isinstance(layer, kernels) and layer.use_bias for layer in wrapped)
    assert wrapped[-1].name == "logits"


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_logits_are_float32_under_mixed_precision(builder, policy):
    keras.config.set_dtype_policy(policy)
    model = BUILDERS[builder]("sn")
    logits = model(IMAGES, training=True)
    assert logits.dtype == "float32" and np.all(np.isfinite(logits))
    norms = _of(model, keras_norms.SwitchableNormalization)
    assert {layer.compute_dtype for layer in norms} == {policy.removeprefix("mixed_")}


@pytest.mark.slow
@pytest.mark.parametrize(("builder", "spec"), WORKING)
def test_exported_models_are_exact(builder, spec, tmp_path):
    import tensorflow as tf

    model = BUILDERS[builder](spec)
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(IMAGES), model(IMAGES), atol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="`kind` must be one of 'convpool', 'conv6'.*'vgg'"):
        convnet("vgg", 10)
    for build in BUILDERS.values():
        with pytest.raises(ValueError, match="Received: 'batch'"):
            build("batch")


def _of(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def _convolutions(model):
    return [layer.name for layer in _of(model, keras.layers.Conv2D)]
