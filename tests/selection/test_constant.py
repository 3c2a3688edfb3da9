"""What a constant prediction reaches, by the model's own loss and metrics."""

import keras
import numpy as np
import pytest

from keras_norms.selection.constant import constant_metrics
from keras_norms.selection.data import Samples
from tests.selection.made import mlp, points

TRAIN, VALIDATION = Samples(*points()), Samples(*points(64, seed=1))


def of(loss, metrics=(), change=lambda y: y):
    model = mlp(loss=loss, metrics=list(metrics))
    return constant_metrics(model, *(s._replace(y=change(s.y)) for s in (TRAIN, VALIDATION)), 32)


def test_classes():
    share = TRAIN.y.mean()
    most = int(share > 0.5)
    entropy = -np.mean(np.where(VALIDATION.y == 1, np.log(share), np.log(1 - share)))
    sparse = keras.losses.SparseCategoricalCrossentropy
    for loss in (sparse(from_logits=True), sparse(), "sparse_categorical_crossentropy"):
        found = of(loss, ["accuracy"])
        assert found["accuracy"] == pytest.approx((VALIDATION.y == most).mean())
        assert found["loss"] == pytest.approx(entropy, abs=1e-5)
    hot = of("categorical_crossentropy", ["accuracy"], lambda y: np.eye(2)[y])
    assert hot["loss"] == pytest.approx(entropy, abs=1e-5)
    both = of(
        keras.losses.BinaryCrossentropy(from_logits=True), [], lambda y: np.stack([y, y], 1) * 1.0
    )
    assert both["loss"] == pytest.approx(entropy, abs=1e-5)


def test_numbers():
    def numbers(y):
        return np.stack([y, 2.0 * y], 1)

    squared = np.mean((numbers(VALIDATION.y) - numbers(TRAIN.y).mean(0)) ** 2)
    assert of("mse", [], numbers)["loss"] == pytest.approx(squared, abs=1e-5)
    absolute = np.mean(np.abs(numbers(VALIDATION.y) - np.median(numbers(TRAIN.y), 0)))
    assert of("mae", [], numbers)["loss"] == pytest.approx(absolute, abs=1e-5)


def test_a_loss_whose_best_constant_is_not_known():
    assert of("log_cosh", [], lambda y: np.eye(2)[y]) is None


def test_weights_and_classes_that_are_left_out():
    model, weight = mlp(), np.where(TRAIN.y == 1, 9.0, 1.0).astype("float32")
    found = constant_metrics(model, TRAIN._replace(weight=weight), VALIDATION, 32)
    share = weight[TRAIN.y == 1].sum() / weight.sum()
    entropy = -np.mean(np.where(VALIDATION.y == 1, np.log(share), np.log(1 - share)))
    assert found["loss"] == pytest.approx(entropy, abs=1e-5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    found = of(loss, [], lambda y: np.where(np.arange(len(y)) % 3, y, -1))
    assert 0.5 < found["loss"] < 0.8


def test_models_of_all_kinds():
    x, y = points()
    inputs = {"a": keras.Input((6,), name="a"), "b": keras.Input((6,), name="b")}
    merged = keras.layers.Concatenate()(list(inputs.values()))
    regularized = keras.layers.Dense(1, kernel_regularizer="l2")(merged)
    two = keras.Model(inputs, regularized)
    two.compile("adam", ["mse"], metrics=["mae"])
    samples = Samples({"a": x, "b": x}, y[:, None].astype("float32"))
    found = constant_metrics(two, samples, samples, 32)
    assert found["mae"] == pytest.approx(np.abs(y - y.mean()).mean(), abs=1e-5)
    assert "loss" not in found  # a constant has no penalty

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

    own = Own()
    own.compile("adam", "mse")
    assert constant_metrics(own, samples._replace(x=x), samples._replace(x=x), 32)["loss"] > 0
