"""Configurations, `.keras` files, weights files and exported models are exact.

Runs on every backend, as test_laws does.
"""

import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_norms
from tests.support.norms import BY_NAME, MOVING, NORMS, needs_tensorflow, over, randomize, values


@keras.saving.register_keras_serializable("tests")
class Halves(keras.initializers.Initializer):
    def __init__(self, of=1.0):
        self.of = of

    def __call__(self, shape, dtype=None):
        return ops.full(shape, self.of / 2, dtype)

    def get_config(self):
        return {"of": self.of}


@keras.saving.register_keras_serializable("tests")
class Pull(keras.regularizers.Regularizer):
    def __init__(self, towards):
        self.towards = towards

    def __call__(self, x):
        return ops.sum(ops.square(x - self.towards))

    def get_config(self):
        return {"towards": self.towards}


@keras.saving.register_keras_serializable("tests")
class AtMost(keras.constraints.Constraint):
    def __init__(self, most):
        self.most = most

    def __call__(self, w):
        return ops.minimum(w, self.most)

    def get_config(self):
        return {"most": self.most}


@keras.saving.register_keras_serializable("tests")
def halves(shape, dtype=None):
    return ops.full(shape, 0.5, dtype)


@keras.saving.register_keras_serializable("tests")
def pull(x):
    return ops.sum(ops.square(x - 2.0))


def everything(norm):
    """Every option of a norm at another value than its default."""
    options = {
        "axis": 2,
        "batch_axis": (0, 1),
        "name": "mine",
        "trainable": False,
        "dtype": "mixed_float16",
        "beta_initializer": Halves(2.0),
        "beta_regularizer": Pull(1.0),
        "beta_constraint": AtMost(3.0),
    }
    if norm.name != "mean_only_bn":
        options |= {
            "epsilon": 0.25,
            "gamma_initializer": Halves(3.0),
            "gamma_regularizer": keras.regularizers.L1L2(0.1, 0.2),
            "gamma_constraint": keras.constraints.MaxNorm(2.0),
        }
    if issubclass(norm.cls, keras_norms.moving.MovingNormalization):
        options |= {
            "momentum": 0.75,
            "synchronized": True,
            "moving_mean_initializer": keras.initializers.RandomNormal(1.0, 2.0, seed=3),
        }
        if norm.name != "mean_only_bn":
            options["moving_variance_initializer"] = Halves(4.0)
    if norm.cls is keras_norms.SwitchableNormalization:
        options |= {"logits_initializer": Halves(0.5), "logits_regularizer": Pull(0.0)}
    if norm.cls is keras_norms.BatchInstanceNormalization:
        options |= {"gate_initializer": Halves(0.5), "gate_regularizer": Pull(0.5)}
    return options


@over()
@pytest.mark.parametrize("full", [False, True], ids=["defaults", "all options"])
def test_configurations(norm, full):
    """JSON, the same before and after build, and of a layer that does the same."""
    layer = norm(**everything(norm)) if full else norm()
    config = layer.get_config()
    serialized = json.dumps(config)
    layer.build((2, 3, 8, 4) if full else (2, 3, 4, 8))
    assert json.dumps(layer.get_config()) == serialized
    other = type(layer).from_config(json.loads(serialized))
    assert json.dumps(other.get_config()) == serialized
    if full:
        for name, value in everything(norm).items():
            if not hasattr(value, "get_config") and name != "dtype":
                assert getattr(other, name) == value
        assert other.dtype_policy.name == "mixed_float16"
        other.build((2, 3, 8, 4))
        for name, value in values(layer).items():
            np.testing.assert_array_equal(value, values(other)[name])
        assert values(other)["beta"][0] == 1
    revived = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    )
    assert type(revived) is type(layer)
    assert json.dumps(revived.get_config()) == serialized


@over()
def test_every_constructor_argument_is_in_the_configuration(norm):
    keras_own = {"name", "trainable", "dtype"}
    options = set(everything(norm)) | set(norm.options) | {"center"}
    assert options <= set(norm().get_config())
    absent = {"scale"} if norm.name == "mean_only_bn" else set()
    assert set(norm().get_config()) - keras_own >= options - keras_own - absent


@over()
def test_options_reach_their_weights(norm):
    layer = norm(**everything(norm) | {"trainable": True, "dtype": "float32"})
    layer.build((2, 3, 8, 4))
    assert isinstance(layer.beta.constraint, AtMost)
    losses = {"beta": layer.beta_regularizer}
    if norm.name != "mean_only_bn":
        assert layer.gamma.constraint.max_value == 2
        losses["gamma"] = layer.gamma_regularizer
    for name, kind in (("gate", "gate"), ("mean_logits", "logits"), ("variance_logits", "logits")):
        if hasattr(layer, name):
            losses[name] = getattr(layer, f"{kind}_regularizer")
    assert len(layer.losses) == len(losses)
    expected = [float(ops.convert_to_numpy(f(getattr(layer, n)))) for n, f in losses.items()]
    actual = [float(ops.convert_to_numpy(loss)) for loss in layer.losses]
    np.testing.assert_allclose(sorted(actual), sorted(expected), rtol=1e-6)


@over()
def test_registered_functions_for_options(norm):
    """As in keras.layers, an initializer or regularizer may be a function."""
    options = {"beta_initializer": halves, "beta_regularizer": pull}
    layer = norm(**options)
    config = json.loads(json.dumps(layer.get_config()))
    other = type(layer).from_config(config)
    assert other.beta_initializer is halves and other.beta_regularizer is pull


def model_of(norm, rng=None):
    inputs = keras.Input((None, None, 8))
    layer = norm(name="norm")
    model = keras.Model(inputs, layer(inputs))
    if rng is not None:
        randomize(layer, rng)
    return model


@over()
def test_keras_and_weights_files_are_exact(norm, rng, tmp_path):
    model, x = model_of(norm, rng), rng.normal(2, 3, (3, 4, 5, 8)).astype("float32")
    expected = ops.convert_to_numpy(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("norm")) is norm.cls
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(x)), expected)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = model_of(norm)
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(ops.convert_to_numpy(fresh(x)), expected)
    for name, value in values(model.get_layer("norm")).items():
        np.testing.assert_array_equal(values(loaded.get_layer("norm"))[name], value)
        np.testing.assert_array_equal(values(fresh.get_layer("norm"))[name], value)


@keras.saving.register_keras_serializable("tests")
class Scaled(keras_norms.SwitchableNormalization):
    """A user's subclass that adds arguments and writes no get_config."""

    def __init__(self, factor=1.0, taps=(1, 2), kernel_initializer="ones", **kwargs):
        super().__init__(**kwargs)
        self.factor = factor
        self.taps = tuple(taps)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def call(self, inputs, training=None, mask=None):
        return self.factor * super().call(inputs, training, mask)


def test_a_subclass_that_adds_arguments(rng, tmp_path):
    inputs = keras.Input((4, 8))
    layer = Scaled(3.0, [4, 5], Halves(1.0), statistics=("layer", "batch"), name="norm")
    assert layer.get_config()["factor"] == 3 and layer.get_config()["axis"] == -1
    model = keras.Model(inputs, layer(inputs))
    randomize(layer, rng)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    other = loaded.get_layer("norm")
    assert type(other) is Scaled and other.get_config() == layer.get_config()
    assert (other.factor, other.taps, other.statistics) == (3, (4, 5), ("layer", "batch"))
    assert isinstance(other.kernel_initializer, Halves)
    x = rng.normal(2, 3, (3, 4, 8)).astype("float32")
    np.testing.assert_array_equal(*(ops.convert_to_numpy(m(x)) for m in (model, loaded)))


def test_cloned_models_share_nothing(rng):
    model = model_of(BY_NAME["sn_all"], rng)
    clone = keras.models.clone_model(model)
    assert clone.get_layer("norm").get_config() == model.get_layer("norm").get_config()
    clone.set_weights(model.get_weights())
    before = model.get_weights()
    clone(rng.normal(2, 3, (3, 4, 5, 8)).astype("float32"), training=True)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@needs_tensorflow
def test_exported_models_are_exact(rng, tmp_path):
    """Every norm in one SavedModel, served at sizes that the export did not know."""
    import tensorflow as tf

    inputs = keras.Input((None, None, 8))
    layers = [norm(name=norm.name) for norm in NORMS]
    model = keras.Model(inputs, {layer.name: layer(inputs) for layer in layers})
    for layer in layers:
        randomize(layer, rng)
    model.compile(jit_compile=False)
    model.export(tmp_path / "exported", verbose=False)
    # One of TensorFlow's graph optimizers orders sums of three terms by the names in the graph.
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    try:
        served = tf.saved_model.load(tmp_path / "exported")
        for shape in ((3, 4, 5, 8), (1, 2, 7, 8)):
            x = rng.normal(2, 3, shape).astype("float32")
            outputs, expected = served.serve(x), model.predict(x, verbose=0)
            assert set(outputs) == {layer.name for layer in layers}
            for name, value in expected.items():
                np.testing.assert_array_equal(outputs[name], value, err_msg=name)
    finally:
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": True} | before)


@pytest.mark.slow
@needs_tensorflow
@over(MOVING)
def test_exported_sequences_with_masks(norm, rng, tmp_path):
    import tensorflow as tf

    model = keras.Sequential(
        [keras.Input((None,), dtype="int32"), keras.layers.Embedding(5, 8, mask_zero=True)]
        + [norm(name="norm"), keras.layers.GlobalAveragePooling1D()]
    )
    randomize(model.get_layer("norm"), rng)
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    ids = np.array([[1, 2, 0, 0], [3, 4, 1, 0]], "int32")
    np.testing.assert_allclose(served.serve(ids), model.predict(ids, verbose=0), rtol=1e-6)
