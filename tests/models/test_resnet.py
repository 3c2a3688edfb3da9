"""zoo.resnet."""

import keras
import numpy as np
import pytest

import keras_norms
from zoo import resnet
from zoo.resnet import CIFAR

IMAGES = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")


def parameters(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


@pytest.mark.parametrize(
    ("depth", "classes", "expected"),
    [
        (20, 10, 269_722),
        (18, 1000, 11_689_512),
        (34, 1000, 21_797_672),
        (50, 1000, 25_557_032),
        pytest.param(101, 1000, 44_549_160, marks=pytest.mark.slow),
        pytest.param(152, 1000, 60_192_808, marks=pytest.mark.slow),
    ],
)
def test_number_of_trainable_parameters(depth, classes, expected):
    assert parameters(resnet(depth, classes)) == expected


@pytest.mark.parametrize(
    "depth", [20, 32, 44, *(pytest.param(n, marks=pytest.mark.slow) for n in (56, 110))]
)
def test_depth_counts_layers_with_weights(depth):
    model = resnet(depth, 10, width=0.25)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) + 1 == depth


FAMILIES = [
    pytest.param(8, (8, 8, 3)),
    pytest.param(20, (8, 8, 3), marks=pytest.mark.slow),
    pytest.param(50, (64, 64, 3), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("spec", keras_norms.NAMES)
@pytest.mark.parametrize(("depth", "input_shape"), FAMILIES)
def test_every_norm_trains_a_step_and_survives_saving(
    depth, input_shape, spec, tmp_path, monkeypatch
):
    monkeypatch.setitem(CIFAR, 8, ("basic", (1, 1, 1)))  # as quick as it can be
    images = np.random.default_rng(0).normal(size=(4, *input_shape)).astype("float32")
    model = resnet(depth, 3, spec, input_shape, width=0.125)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    assert np.isfinite(model.train_on_batch(images, np.array([0, 1, 2, 0])))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(images, training=False), loaded(images, training=False))


def test_blocks_start_as_the_identity_and_names_are_readable():
    model = resnet(20, 10, "sn", width=0.25)
    names = [layer.name for layer in model.layers if "norm" in layer.name]
    blocks = [f"stage{s}_block{b}_norm{n}" for s in (1, 2, 3) for b in (1, 2, 3) for n in (1, 2)]
    assert names == ["stem_norm", *blocks]
    for name in names:
        gamma = keras.ops.convert_to_numpy(model.get_layer(name).gamma)
        assert np.all(gamma == (0 if name.endswith("norm2") else 1)), name
    assert list(keras_norms.importance(model)) == names


def test_convolutions_have_a_bias_only_where_the_norm_has_none():
    for spec, bias in (("bn", False), ("none", True), ("wn", True), ("ln(center=False)", True)):
        model = resnet(20, 10, spec, width=0.25)
        layers = [getattr(layer, "layer", layer) for layer in model.layers]
        convolutions = [layer for layer in layers if isinstance(layer, keras.layers.Conv2D)]
        assert len(convolutions) == 19
        assert all(layer.use_bias == bias for layer in convolutions), spec


def test_shortcut_drops_pixels_and_pads_channels():
    # With gamma 0 in every block, the network is its stem and its shortcuts.
    model = resnet(20, 10, "bn", (16, 16, 3), width=0.25)
    stem = keras.Model(model.input, model.get_layer("stage1_block3_relu").output)
    last = keras.Model(model.input, model.get_layer("stage3_block3_relu").output)
    stem, last = stem(IMAGES), last(IMAGES)
    np.testing.assert_allclose(last[..., 6:10], stem[:, ::4, ::4], rtol=1e-6)
    assert not np.any(last[..., :6]) and not np.any(last[..., 10:])


def test_stride_of_a_bottleneck_is_in_its_3x3():
    model = resnet(50, 10, input_shape=(64, 64, 3), width=0.125)
    strides = [model.get_layer(f"stage2_block1_conv{n}").strides[0] for n in (1, 2, 3)]
    assert strides == [1, 2, 1]


def test_logits_are_float32_under_mixed_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = resnet(20, 10, "sn", width=0.25)
    finally:
        keras.config.set_dtype_policy(policy)
    assert model.output.dtype == "float32"
    assert model.get_layer("stage1_block1_norm1").compute_dtype == "bfloat16"


def test_a_small_stem_keeps_the_pixels():
    def maps(stem):
        model = resnet(18, 10, width=0.25, input_shape=(32, 32, 3), stem=stem)
        ends = [f"stage{stage}_block2_relu" for stage in (1, 2, 3, 4)]
        return [model.get_layer(name).output.shape[1:] for name in ["stem_relu", *ends]]

    channels = (16, 16, 32, 64, 128)
    assert maps("small") == [(n, n, c) for n, c in zip((32, 32, 16, 8, 4), channels, strict=True)]
    assert maps(None) == maps("large")
    assert maps("large") == [(n, n, c) for n, c in zip((16, 8, 4, 2, 1), channels, strict=True)]


def test_errors():
    with pytest.raises(ValueError, match="`stem` must be 'small' or 'large'.*stem='medium'"):
        resnet(18, 10, stem="medium")
    with pytest.raises(ValueError, match="`depth` must be one of 20, 32.*depth=21"):
        resnet(21, 10)
    with pytest.raises(ValueError, match="Received: 'batch'"):
        resnet(20, 10, "batch")
