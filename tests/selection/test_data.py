"""A user's data: read from all that `fit` takes, in an order that a seed fixes."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_norms.selection.data import Samples, read
from tests.selection.made import points


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        x, y = points()
        return x[32 * index :][:32], y[32 * index :][:32]


def test_all_kinds_of_data_are_the_same_samples():
    x, y = points()
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    for data in ((x, y), batches, Sequence()):
        samples, size = read(data, "train")
        assert size == 32 and samples.count == 96 and samples.weight is None
        np.testing.assert_array_equal(samples.x, x)
        np.testing.assert_array_equal(samples.y, y)


def test_inputs_may_be_nested_and_have_weights():
    x, y = points()
    samples, _ = read(({"one": x, "two": [x, y]}, y, np.ones(96)), "train")
    inputs, targets, weight = next(samples.batches(5, 0))
    assert inputs["two"][0].shape == (5, 6) and targets.shape == weight.shape == (5,)


def test_the_seed_fixes_the_order_and_the_size_does_not():
    samples = Samples(np.arange(20), np.arange(20))

    def order(size, seed):
        batches = itertools.islice(samples.batches(size, seed), 40 // size)
        return np.concatenate([x for x, _, _ in batches])

    np.testing.assert_array_equal(order(4, 0), order(2, 0))
    assert (order(4, 0) != order(4, 1)).any()
    first, second = np.split(order(4, 0), 2)
    assert sorted(first) == sorted(second) == list(range(20)) and (first != second).any()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (points()[0], "must be arrays"),
        (tf.data.Dataset.from_tensor_slices(points()[0]).batch(4), "yields no targets"),
        (tf.data.Dataset.from_tensor_slices(points()).batch(4).repeat(), "has no end.*take"),
        (tf.data.Dataset.from_tensor_slices(points()).batch(4).take(0), "has no batch"),
        ((points()[0], points()[1][:5]), "as many samples.*5, 96"),
        ((points()[0][:0], points()[1][:0]), "at least one"),
    ],
    ids=["one array", "no targets", "endless", "empty", "lengths", "no samples"],
)
def test_what_cannot_be_used_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        read(data, "train")
