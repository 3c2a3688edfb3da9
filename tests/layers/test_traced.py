"""What replaces methods of layers also works where a model's `call` is a traced function."""

import keras
import numpy as np
import pytest

import keras_norms
from tests.support.norms import BACKEND

if BACKEND != "tensorflow":
    pytest.skip("needs TensorFlow", allow_module_level=True)
import tensorflow as tf


class Traced(keras.Model):
    """A model whose `call` is a function that TensorFlow traces once."""

    def __init__(self, *layers):
        super().__init__()
        self.stack = list(layers)
        self.run = tf.function(self.pass_through)

    def pass_through(self, x, training):
        for layer in self.stack:
            x = layer(x, training=training)
        return x

    def build(self, shape):
        # Not in the function, where Keras makes constants of new variables.
        self.pass_through(tf.zeros(shape), False)

    def call(self, x, training=False):
        return self.run(x, training)


@pytest.mark.parametrize("norm", ["bn", keras.layers.BatchNormalization], ids=str)
@pytest.mark.parametrize("exact", [False, True])
def test_a_traced_function_inside_of_the_model(norm, exact, rng):
    """It is measured as if it was not traced, and stays as it was."""
    dense, norm = keras.layers.Dense(3), keras_norms.get(norm).normalize("norm")
    model = Traced(dense, norm)
    x = rng.normal(2, 3, (20, 5)).astype("float32")
    before = model(x)
    assert keras_norms.recalibrate(model, [x[:8], x[8:]], exact=exact) == 2
    hidden = keras.ops.convert_to_numpy(dense(x))
    np.testing.assert_allclose(norm.moving_mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, hidden.var(0), rtol=1e-4)
    assert np.abs(model(x) - before).max() > 0.1
    assert not tf.config.functions_run_eagerly()


def test_initialization_from_data(rng):
    wrapper = keras_norms.WeightNormalization(keras.layers.Dense(3), name="wrapped")
    model, x = Traced(wrapper), rng.normal(2, 3, (200, 5)).astype("float32")
    model(x)
    assert keras_norms.data_dependent_init(model, x) == ["wrapped"]
    np.testing.assert_allclose(np.std(model(x), axis=0), 1, rtol=1e-4)
