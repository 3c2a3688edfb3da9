"""keras_norms.fold: what inference computes stays, and norms that can go are gone."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_norms
import zoo
from keras_norms.model_layers import is_norm, named_layers
from tests.surgery.models import Subclassed, make, outputs, randomize, relative

NORMS = {
    "Keras": layers.BatchNormalization,
    "bn": keras_norms.BatchNormalization,
    "bn without gamma": lambda **k: keras_norms.BatchNormalization(scale=False, **k),
    "bn without beta": lambda **k: layers.BatchNormalization(center=False, **k),
    "renorm": lambda **k: keras_norms.BatchNormalization(renorm=True, **k),
    "mobn": keras_norms.MeanOnlyBatchNormalization,
}
# Layers that take a norm after them, with the shape of an input.
BEFORE = {
    "dense": (lambda: layers.Dense(6), (5,)),
    "dense of tokens": (lambda: layers.Dense(6, use_bias=False), (4, 5)),
    "conv1d": (lambda: layers.Conv1D(6, 3, padding="causal"), (7, 3)),
    "conv2d": (lambda: layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False), (8, 8, 3)),
    "conv3d": (lambda: layers.Conv3D(6, 2), (4, 4, 4, 2)),
    "groups": (lambda: layers.Conv2D(6, 3, groups=2), (8, 8, 4)),
    "transposed": (lambda: layers.Conv2DTranspose(6, 3, strides=2), (4, 4, 3)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 3)),
    "separable": (lambda: layers.SeparableConv2D(6, 3, use_bias=False), (8, 8, 3)),
    "einsum": (lambda: layers.EinsumDense("abc,cd->abd", (None, 6), bias_axes="d"), (4, 5)),
    "einsum of heads": (lambda: layers.EinsumDense("abc,cde->abde", (None, 3, 6)), (4, 5)),
    "einsum, one bias": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 3, 6), bias_axes="e"),
        (4, 5),
    ),
    "wn": (lambda: keras_norms.WeightNormalization(layers.Dense(6)), (5,)),
    "ws": (lambda: keras_norms.WeightStandardization(layers.Conv2D(6, 3)), (8, 8, 3)),
}
# Layers that take a norm before them.
AFTER = {
    "dense": (lambda: layers.Dense(6, activation="relu"), (5,)),
    "valid": (lambda: layers.Conv2D(6, 3, activation="tanh", use_bias=False), (8, 8, 3)),
    "pointwise": (lambda: layers.Conv2D(6, 1, strides=2, padding="same"), (8, 8, 3)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 3)),
    "depthwise1d": (lambda: layers.DepthwiseConv1D(3), (8, 3)),
    "conv1d": (lambda: layers.Conv1D(6, 3, dilation_rate=2), (9, 3)),
}


def check(model, rng, removed, tolerance=1e-5):
    randomize(model, rng)
    x = rng.normal(size=(3, *model.input_shape[1:])).astype("float32")
    y = outputs(model, x)
    copy, report = keras_norms.fold(model)
    gone = [change for change in report if change.after == "removed"]
    assert len(gone) == removed, report
    norms = [layer for layer in named_layers(copy).values() if is_norm(layer)]
    assert len(norms) == sum(map(is_norm, named_layers(model).values())) - removed
    assert relative(outputs(copy, x), y) < tolerance
    np.testing.assert_array_equal(outputs(model, x), y)
    return copy, report


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layer", BEFORE)
def test_into_the_layer_before(layer, norm, rng):
    build, shape = BEFORE[layer]
    inputs = keras.Input(shape)
    check(keras.Model(inputs, layers.ReLU()(NORMS[norm]()(build()(inputs)))), rng, 1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layer", AFTER)
def test_into_the_layer_after(layer, norm, rng):
    build, shape = AFTER[layer]
    inputs = keras.Input(shape)
    check(keras.Model(inputs, build()(NORMS[norm]()(inputs))), rng, 1)


def test_channels_first(rng):
    inputs = keras.Input((3, 8, 8))
    x = layers.Conv2D(6, 3, data_format="channels_first")(inputs)
    model = keras.Model(inputs, layers.BatchNormalization(axis=1)(x))
    randomize(model, rng)
    copy, report = keras_norms.fold(model)
    assert [change.after for change in report] == ["removed"]
    # The CPU has no such convolution, so the weights are compared.
    norm, (kernel, bias) = model.layers[-1], model.layers[1].get_weights()
    scale = norm.gamma / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
    expected = [kernel * scale, (bias - norm.moving_mean) * scale + norm.beta]
    for value, right in zip(copy.layers[-1].get_weights(), expected, strict=True):
        np.testing.assert_allclose(value, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("to", ["sn", "bin"])
def test_norms_that_chose_the_batch_are_folded(to, rng):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs)))
    model, _ = keras_norms.convert(model, to)
    check(model, rng, 1)
    norm = model.layers[-1]
    if to == "sn":
        norm.mean_logits.assign([0, 0, 5.0])
        share = "1.3%"
    else:
        norm.gate.assign([1, 1, 1, 0.9])
        share = "2.5%"
    _, (change,) = keras_norms.fold(model)
    assert change.note == f"takes {share} of its statistics from other than the batch"


def test_every_reason_to_stay_is_given(rng):
    inputs = keras.Input((8, 8, 3))
    bn = layers.BatchNormalization
    conv = layers.Conv2D(3, 3, name="conv")(inputs)

    def left(outputs):
        _, report = check(keras.Model(inputs, outputs), rng, 0)
        return report[-1].note

    active = layers.Conv2D(3, 3, activation="relu", name="conv")
    last = "; its output has other uses than one layer"
    assert left(bn()(active(inputs))) == "conv has an activation" + last
    assert left(bn(axis=1)(conv)) == "conv has its channels on another axis" + last
    elsewhere = left(conv + bn()(conv))
    assert elsewhere == "the output of conv is used elsewhere too; add is no layer with a kernel"
    relu = layers.ReLU(name="relu")
    assert left(relu(bn()(relu(conv)))).endswith("; relu is used more than once")
    padded = layers.Conv2D(3, 3, padding="same", name="conv")
    reason = "conv pads its input with zeros, which the norm would have shifted"
    assert left(padded(bn()(inputs))).endswith(reason)
    grouped = layers.Conv2D(3, 3, groups=3, name="conv")
    assert left(grouped(bn()(inputs))).endswith("; conv has groups of channels")
    assert left(keras_norms.InstanceNormalization()(conv)) == "normalizes each sample by itself"
    assert left(keras_norms.SwitchableNormalization()(conv)).startswith("takes 66.7% of its")
    twice = bn()
    assert left(twice(twice(conv))) == "is used more than once"
    lstm = layers.LSTM(3, name="lstm")(layers.Reshape((64, 3))(inputs))
    assert left(bn()(lstm)) == "lstm does not compute w.x + b" + last
    dense = layers.Dense(4, name="dense")
    model = keras.Model(inputs, bn()(dense(inputs)))
    dense.quantize("int8")
    _, (change,) = keras_norms.fold(model)
    assert change.note == "dense is quantized or has LoRA enabled" + last


def test_a_norm_that_is_not_built_stays():
    _, report = keras_norms.fold(Subclassed())
    assert {change.note for change in report.left} == {"is not in the graph of a model"}
    assert len(report.left) == 2 and report.changed, "the backbone is built"


def test_two_norms_beside_one_layer(rng):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(layers.BatchNormalization()(inputs))
    _, report = check(keras.Model(inputs, layers.BatchNormalization()(x)), rng, 1)
    assert report.left[0].note.startswith("conv has taken another norm")


@pytest.mark.parametrize(
    ("name", "removed"),
    [
        ("sequential", 1),
        ("functional", 3),
        ("nested", 4),
        ("wrapped", 1),
        ("composite", 0),
        ("subclassed", 5),
        ("shared", 0),
    ],
)
def test_models_as_people_have_them(name, removed, rng):
    model, x = make(name, rng)
    y = outputs(model, x)
    copy, report = keras_norms.fold(model)
    assert sum(change.after == "removed" for change in report) == removed, report
    assert relative(outputs(copy, x), y) < 1e-5
    if name == "composite":
        assert {change.note for change in report} == {"is not in the graph of a model"}


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
def test_a_folded_model_is_saved_quantized_and_trained(rng, tmp_path):
    model = zoo.convnet("conv6", 10, norm="bn", input_shape=(16, 16, 3), width=0.25)
    randomize(model, rng)
    x = rng.normal(size=(16, 16, 16, 3)).astype("float32")
    y = outputs(model, x)
    copy, _ = keras_norms.fold(model)
    copy.save(tmp_path / "copy.keras")
    loaded = keras.models.load_model(tmp_path / "copy.keras")
    np.testing.assert_array_equal(outputs(loaded, x), outputs(copy, x))
    loaded.quantize("int8")
    assert 0 < relative(outputs(loaded, x), y) < 0.05
    copy.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert np.isfinite(copy.train_on_batch(x, np.arange(16) % 10))


ZOO = {
    "resnet": lambda norm: zoo.resnet(20, 10, norm, width=0.25),
    "resnet of bottlenecks": lambda norm: zoo.resnet(50, 10, norm, (64, 64, 3), width=0.125),
    "conv6": lambda norm: zoo.convnet("conv6", 10, norm, width=0.125),
    "convpool": lambda norm: zoo.convnet("convpool", 10, norm, width=0.125),
    "mlp": lambda norm: zoo.mlp(10, norm, (8, 8, 1), hidden=(16, 8)),
    "lstm": lambda norm: zoo.lstm(10, norm, input_shape=(12, 8), width=0.125),
    "transformer": lambda norm: zoo.transformer(10, norm, input_shape=(12, 8), width=0.125),
}


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        pytest.param(name, norm, marks=[] if i % 4 == j or norm == "bn" else pytest.mark.slow)
        for i, name in enumerate(ZOO)
        for j, norm in enumerate(["bn", "wn", "wn_mobn", "mobn"])
    ],
)
def test_models_of_the_zoo(name, norm, rng):
    model = ZOO[name](norm)
    randomize(model, rng)
    x = rng.normal(size=(3, *model.input_shape[1:])).astype("float32")
    y = outputs(model, x)
    copy, report = keras_norms.fold(model)
    assert relative(outputs(copy, x), y) < 1e-5
    wrapped = (keras_norms.WeightNormalization, keras_norms.MeanOnlyBatchNormalization)
    if name not in ("lstm", "transformer"):
        assert not report.left
        kept = named_layers(copy).values()
        assert not [each for each in kept if is_norm(each) or isinstance(each, wrapped)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("ResNet50", 0),
        ("MobileNetV3Small", 0),
        ("EfficientNetV2B0", 0),
        ("Xception", 0),
        ("DenseNet121", 62),
    ],
)
def test_networks_of_keras_applications(name, left, rng):
    model = getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3), classes=5)
    randomize(model, rng)
    x = rng.normal(0, 50, (2, 96, 96, 3)).astype("float32")
    copy, report = keras_norms.fold(model)
    assert len(report.left) == left and report.changed
    assert relative(outputs(copy, x), outputs(model, x)) < 1e-5
