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
    return constant_metrics(model, *(s._replace(y=change(s.y)) for s in (TRAIN, VALIDATION)))


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
