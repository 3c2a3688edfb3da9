"""Models as others write them: a copy of each computes what the model does, or says why not."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_norms
from keras_norms.surgery.rebuild import rebuild
from tests.support.norms import BACKEND
from tests.surgery.models import outputs, randomize, relative


def check(model, x, removed=None):
    """Copied, converted and folded, a model computes the same, and is itself as it was."""
    y = outputs(model, x)
    copies = [rebuild(model, {}), keras_norms.convert(model, "sn")[0]]
    folded, report = keras_norms.fold(model)
    assert removed is None or len([c for c in report if c.after == "removed"]) == removed, report
    for copy in (*copies, folded):
        assert relative(outputs(copy, x), y) < 1e-5
    np.testing.assert_array_equal(outputs(model, x), y)
    return folded


def vectors(*parts, cls=keras.Sequential, size=6):
    return cls([keras.Input((size,)), *parts])


def test_what_preprocessing_has_learnt(rng):
    x = rng.normal(5, 3, (8, 6)).astype("float32")
    scaled = layers.Normalization()
    scaled.adapt(x)
    model = randomize(vectors(scaled, layers.Dense(4), layers.BatchNormalization()), rng)
    check(model, x, removed=1)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="words need TensorFlow")
def test_words_that_preprocessing_has_learnt(rng):
    words = np.array([["a b c"], ["b c"], ["c d e"], ["e"]])
    table = layers.TextVectorization(output_mode="multi_hot")
    table.adapt(words[:, 0])
    inputs = keras.Input((), dtype="string")
    x = layers.Dense(4)(table(inputs))
    model = randomize(keras.Model(inputs, layers.BatchNormalization()(x)), rng)
    import tensorflow as tf

    check(model, tf.constant(words[:, 0]), removed=1)


class Standardized(layers.Conv1D):
    """Computes by another kernel than the one it has."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel - ops.mean(kernel, (0, 1)))


class Doubled(layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training, mask=mask)


def test_layers_that_compute_otherwise_than_their_class(rng):
    x = rng.normal(size=(4, 7, 3)).astype("float32")
    parts = [keras.Input((7, 3)), Standardized(4, 3), layers.BatchNormalization()]
    model = randomize(keras.Sequential(parts), rng)
    _, report = keras_norms.fold(model)
    assert "does not compute w.x + b, but what its own `convolution_op` says" in report[0].note
    check(model, x, removed=0)
    model = randomize(vectors(layers.Dense(4), Doubled()), rng)
    _, report = keras_norms.fold(model)
    assert report[0].note == "computes what its own `call` says"
    _, report = keras_norms.convert(model, "bn")
    assert "train it" in report[0].note


class Tied(layers.Layer):
    """Reads the kernel of another layer."""

    def __init__(self, other=None, **kwargs):
        super().__init__(**kwargs)
        self.other = other

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.other.kernel))

    def get_config(self):
        return {**super().get_config(), "other": keras.saving.serialize_keras_object(self.other)}

    @classmethod
    def from_config(cls, config):
        other = keras.saving.deserialize_keras_object(config.pop("other"))
        return cls(other, **config)


def test_tied_weights_stay(rng):
    inputs, dense = keras.Input((6,)), layers.Dense(4, name="wide")
    x = layers.ReLU()(layers.BatchNormalization()(dense(inputs)))
    model = randomize(keras.Model(inputs, Tied(dense)(x)), rng)
    _, report = keras_norms.fold(model)
    assert "another layer may read the weights of wide" in report[0].note


class Scaled(layers.Layer):
    def call(self, x, **options):
        return x * options.get("factor", 1.0)


def test_arguments_of_calls(rng):
    inputs = keras.Input((6,))
    x = layers.BatchNormalization()(inputs=layers.Dense(4)(inputs))
    model = randomize(keras.Model(inputs, Scaled()(x, factor=3.0)), rng)
    check(model, rng.normal(size=(5, 6)).astype("float32"), removed=1)


class Twice(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training)


class Widened(keras.Sequential):
    def __init__(self, width):
        super().__init__([keras.Input((6,)), layers.Dense(width), layers.BatchNormalization()])

    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training)


def test_models_of_other_classes(rng):
    x = rng.normal(size=(5, 6)).astype("float32")
    model = randomize(vectors(layers.Dense(4), layers.BatchNormalization(), cls=Twice), rng)
    assert type(check(model, x, removed=1)) is Twice
    with pytest.raises(ValueError, match="Widened has a `call` of its own, and no copy"):
        keras_norms.fold(Widened(3))


class Lazy(layers.Layer):
    """Leaves it to Keras to build the layers inside, when it calls them."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense, self.norm = layers.Dense(units), layers.BatchNormalization()

    def call(self, x):
        return self.norm(self.dense(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_layers_without_a_build_method(rng):
    x = rng.normal(size=(5, 6)).astype("float32")
    model = randomize(vectors(Lazy(), layers.Dense(3), layers.BatchNormalization()), rng)
    check(model, x, removed=1)


class Cell(layers.SimpleRNNCell):
    """Not registered with Keras."""


def own_start(shape, dtype=None):
    return ops.ones(shape, dtype) / 7


def test_functions_and_classes_that_keras_does_not_know(rng):
    inputs = keras.Input((5, 6))
    x = layers.RNN(Cell(4), return_sequences=True)(inputs)
    x = layers.Lambda(lambda v: v * BACKEND.count("o"))(x)
    x = layers.TimeDistributed(layers.Dense(3, activation=ops.gelu))(x)
    x = layers.Dense(4, kernel_initializer=own_start, activation=ops.gelu)(x)
    model = randomize(keras.Model(inputs, layers.BatchNormalization()(x)), rng)
    check(model, rng.normal(size=(2, 5, 6)).astype("float32"))


def own_loss(y, predicted):
    return ops.mean(ops.square(y - predicted), -1)


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.125 / (1.0 + ops.cast(step, "float32"))

    def get_config(self):
        return {}


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.norm = layers.Dense(4), layers.BatchNormalization()

    def call(self, x, training=None):
        return self.norm(self.dense(x), training=training)


@pytest.mark.parametrize("kind", ["sequential", "functional", "subclassed"])
def test_a_copy_is_compiled_as_the_model(kind, rng):
    x = rng.normal(size=(8, 6)).astype("float32")
    model = vectors(layers.Dense(4), layers.BatchNormalization())
    if kind == "functional":
        model = keras.Model(model.inputs, model.outputs)
    if kind == "subclassed":
        model = Subclassed()
        model(x)
    metrics = [keras.metrics.MeanAbsoluteError(name="mae"), lambda y, p: ops.mean(y - p)]
    model.compile(keras.optimizers.SGD(Rate(), momentum=0.9), own_loss, metrics=metrics)
    model.train_on_batch(x, x[:, :4])
    copy, _ = keras_norms.convert(model, "bn")
    assert copy.compiled and copy.optimizer is not model.optimizer
    assert int(copy.optimizer.iterations) == 0 and copy.optimizer.momentum == 0.9
    assert model.compiled and int(model.optimizer.iterations) == 1
    before = model.evaluate(x, x[:, :4], verbose=0)
    np.testing.assert_allclose(copy.evaluate(x, x[:, :4], verbose=0), before, rtol=1e-5)
    copy.train_on_batch(x, x[:, :4])
    np.testing.assert_allclose(model.evaluate(x, x[:, :4], verbose=0), before, rtol=1e-6)


def test_a_list_of_inputs_to_a_sequential_model(rng):
    x = [rng.normal(size=(5, size)).astype("float32") for size in (2, 3)]
    model = keras.Sequential([layers.Concatenate(), layers.Dense(4), layers.BatchNormalization()])
    model(x)
    copy, _ = keras_norms.convert(randomize(model, rng), "sn")
    assert relative(outputs(copy, x), outputs(model, x)) < 1e-5
