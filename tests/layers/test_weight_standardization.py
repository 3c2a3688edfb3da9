"""WeightStandardization: formulas, gradients, files, training.

What does not need TensorFlow runs on every backend. The layers are those of test_weight.
"""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_norms
from keras_norms import WeightNormalization, WeightStandardization
from tests.layers.test_keras_suites import Runner
from tests.layers.test_weight import CASES, copy, get, inputs
from tests.layers.test_weight import randomize as randomize_signs
from tests.support.norms import DTYPE, assert_close, needs_tensorflow
from tests.support.running import constants, grad, tensor, to_numpy

over_cases = pytest.mark.parametrize("name", CASES)
EPSILON = 1e-5


def standardized(v, axes, epsilon=EPSILON):
    """The formula of the paper, in NumPy."""
    mean = v.mean(axes, keepdims=True)
    return (v - mean) / np.sqrt(((v - mean) ** 2).mean(axes, keepdims=True) + epsilon)


def kernels(layer, name):
    """`{path of a kernel: its float64 value and the axes that are summed over}`."""
    return {
        path: (np.asarray(to_numpy(get(layer, path)), "float64"), axes)
        for path, axes in CASES[name][2].values()
    }


def make(name, **options):
    layer, shape, _ = CASES[name]
    wrapper = WeightStandardization(layer(dtype=DTYPE), **options)
    wrapper.build(shape)
    randomize_signs(wrapper)
    return wrapper


def call(layer, x):
    return to_numpy(layer(tensor(x)))


@over_cases
def test_computes_the_plain_layer_with_standardized_kernels(name):
    wrapper, x, shape = make(name), inputs(name), CASES[name][1]
    plain = copy(wrapper.layer, shape)
    assert len(wrapper.weights) == len(plain.weights)  # it adds none
    plain.set_weights(wrapper.layer.get_weights())
    before = call(plain, x)
    for path, (v, axes) in kernels(plain, name).items():
        get(plain, path).assign(standardized(v, axes))
    y = call(wrapper, x)
    assert_close(y, call(plain, x))
    assert np.abs(y - before).max() > 0.01
    removed = wrapper.remove()
    assert type(removed) is type(wrapper.layer)
    assert removed.get_config() == wrapper.layer.get_config()
    assert_close(call(removed, x), y)
    for v, axes in kernels(removed, name).values():
        assert_close(v.mean(axes), 0, 1e-6)
        assert_close(v.var(axes), 1, 1e-2)


@pytest.mark.parametrize("name", ["dense", "conv2d", "depthwise_conv2d", "separable_conv1d", "gru"])
def test_directional_derivatives(name, rng):
    """Of the kernels, against differences of the plain layer with kernels of the formula."""
    wrapper, x, shape = make(name), inputs(name), CASES[name][1]
    plain = copy(wrapper.layer, shape)
    plain.set_weights(wrapper.layer.get_weights())
    start = kernels(wrapper.layer, name)
    variables = wrapper.trainable_variables
    dy = rng.normal(0, 1, call(wrapper, x).shape)

    def loss(*weights):
        y, _ = wrapper.stateless_call(weights, constants(wrapper.non_trainable_variables), x)
        return ops.sum(y * tensor(dy))

    x = tensor(x)
    slopes = grad(loss)(*constants(variables))
    slopes = {id(v): to_numpy(slope) for v, slope in zip(variables, slopes, strict=True)}
    step = 1e-5 if DTYPE == "float64" else 1e-2
    for path, (v, axes) in start.items():
        direction = rng.normal(0, 1, v.shape)

        def at(step, path=path, v=v, axes=axes, direction=direction):
            for other, (value, summed) in start.items():
                get(plain, other).assign(standardized(value, summed))
            get(plain, path).assign(standardized(v + step * direction, axes))
            return float(np.sum(call(plain, x) * dy))

        difference = (at(step) - at(-step)) / (2 * step)
        slope = np.sum(slopes[id(get(wrapper.layer, path))] * direction)
        assert_close(slope, difference, 1e-6 if DTYPE == "float64" else 2e-2)


def test_a_unit_of_equal_weights_is_zero_with_finite_gradient():
    wrapper = WeightStandardization(layers.Dense(2, kernel_initializer="ones", dtype=DTYPE))
    x = np.ones((3, 4))
    wrapper.build(x.shape)
    assert (call(wrapper, x) == 0).all()

    def loss(*weights):
        y, _ = wrapper.stateless_call(weights, [], tensor(x + np.arange(4)))
        return ops.sum(y)

    for slope in grad(loss)(*constants(wrapper.trainable_variables)):
        assert np.isfinite(to_numpy(slope)).all()


def test_the_scale_and_the_mean_of_the_kernel_do_not_matter(rng):
    wrapper, x = make("conv2d", epsilon=1e-12), inputs("conv2d")
    y = call(wrapper, x)
    kernel = wrapper.layer.kernel
    kernel.assign(3 * to_numpy(kernel) + rng.normal(0, 1, 4))
    assert_close(call(wrapper, x), y, 1e-8)


def test_chosen_kernels():
    wrapper = WeightStandardization(layers.LSTM(4), kernels=["kernel"])
    wrapper.build((2, 5, 3))
    removed = wrapper.remove().cell
    ours, theirs = (to_numpy(c.recurrent_kernel) for c in (wrapper.layer.cell, removed))
    np.testing.assert_array_equal(ours, theirs)
    assert_close(to_numpy(removed.kernel).mean(0), 0, 1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    """The statistics have float32, the output the compute dtype."""
    layer = WeightStandardization(layers.Dense(4, dtype=policy))
    x = np.random.default_rng(0).normal(size=(5, 64)).astype("float32")
    y = layer(ops.convert_to_tensor(x))
    assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")
    v = np.asarray(to_numpy(layer.layer.kernel), "float64")
    expected = x @ standardized(v, (0,))
    assert np.abs(to_numpy(ops.cast(y, "float32")) - expected).max() < 0.3
    assert keras.backend.standardize_dtype(layer.layer.kernel.dtype) == "float32"


def test_masks_pass_through():
    inputs = keras.Input((5, 3))
    hidden = WeightStandardization(layers.LSTM(4, return_sequences=True))(layers.Masking()(inputs))
    assert hidden._keras_mask.shape == (None, 5)
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    x[0, 3:] = 0
    model = keras.Model(inputs, hidden)
    y = model.predict(x, verbose=0)
    np.testing.assert_array_equal(y[0, 3], y[0, 2])  # the state stays


@pytest.mark.parametrize("options", [{}, {"epsilon": 0.25, "kernels": ["kernel"]}], ids=str)
def test_configuration(options):
    layer = WeightStandardization(layers.Dense(4, activation="relu"), **options)
    serialized = json.dumps(layer.get_config())
    layer.build((None, 3))
    assert json.dumps(layer.get_config()) == serialized
    revived = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    )
    assert type(revived) is WeightStandardization
    assert json.dumps(revived.get_config()) == serialized


def convnet():
    """Weight standardization with group normalization, the recipe of the paper."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            WeightStandardization(layers.Conv2D(8, 3, use_bias=False), name="conv"),
            keras_norms.GroupNormalization(4),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )


def test_fit_and_files(rng, tmp_path):
    """Trains on batches of one sample; files, clones and the plain layer give the same."""
    model = convnet()
    y = rng.integers(2, size=32)
    x = rng.normal(0, 1, (32, 8, 8, 2)).astype("float32")
    x[..., 0] *= 1 + 2 * y[:, None, None]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    history = model.fit(x, y, batch_size=1, epochs=10, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for other in (loaded, clone):
        np.testing.assert_array_equal(other.predict(x, verbose=0), expected)
    plain = model.layers[0].remove()
    outputs = keras.Sequential([plain, *model.layers[1:]]).predict(x, verbose=0)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


@needs_tensorflow
def test_exported_models_are_exact(rng, tmp_path):
    import tensorflow as tf

    model, x = convnet(), rng.normal(0, 1, (3, 8, 8, 2)).astype("float32")
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    assert_close(served.serve(x), model.predict(x, verbose=0), 1e-6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: WeightStandardization(layers.BatchNormalization()), "whose kernel it knows"),
        (lambda: WeightStandardization(layers.Dense(2), kernels=["gain"]), "`kernels` must list"),
        (lambda: WeightStandardization(layers.Dense(2), epsilon=0), "finite and positive"),
        (lambda: WeightStandardization(layers.Dense(2), epsilon="a"), "must be a number"),
        (
            lambda: WeightStandardization(layers.Dense(2)).build((None, 1)),
            r"a single one.*\(1, 2\)",
        ),
        (lambda: WeightStandardization(layers.Dense(2)).remove(), "no weights yet"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_is_no_weight_normalization():
    """So that nothing tries to initialize gains that it does not have."""
    assert not issubclass(WeightStandardization, WeightNormalization)
    with pytest.raises(ValueError, match="WeightNormalization"):
        keras_norms.data_dependent_init(convnet(), np.ones((2, 8, 8, 2), "float32"))


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
@pytest.mark.parametrize(
    "layer, shape, output",
    [
        (layers.Dense(4), (2, 3), (2, 4)),
        (layers.Conv2D(4, 3, kernel_regularizer="l2"), (2, 6, 6, 3), (2, 4, 4, 4)),
    ],
    ids=["dense", "conv2d"],
)
def test_run_layer_test(layer, shape, output):
    """Build, symbolic and eager calls, training, serialization and mixed precision."""
    Runner().run_layer_test(
        WeightStandardization,
        init_kwargs={"layer": layer},
        input_shape=shape,
        expected_output_shape=output,
        expected_num_trainable_weights=2,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=0,
        expected_num_losses=int(layer.kernel_regularizer is not None),
        supports_masking=layer.supports_masking,
        run_mixed_precision_check=False,  # the wrapped layer has a dtype of its own
    )
