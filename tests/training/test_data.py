"""zoo.data: the pipelines are pure functions of (seed, epoch, index), and count what they hold."""

import dataclasses
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support.data_sets import store, write_folder
from zoo import data
from zoo.data import catalog, synthetic, tensorflow_datasets
from zoo.data.images import _IMAGENET

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def numbers(count, buffer=None):
    """A set whose prepared images are the numbers below `count` and the seeds they came with."""

    def prepare(stored, seed):
        return stored if seed is None else tf.concat([[stored], tf.cast(seed, tf.int64)], 0)

    examples = tf.data.Dataset.range(count).map(lambda i: (i, i))
    return data.LabelledSet(examples, examples, 10, (3,), prepare, buffer or count)


def epochs(examples, batch, seed, first, count):
    """`count` epochs as arrays of examples, `(count, steps * batch, ...)`."""
    steps = examples.steps_per_epoch(batch)
    stream = examples.train_batches(batch, seed, first).take(count * steps)
    x = np.concatenate([x for x, _ in stream.as_numpy_iterator()])
    return x.reshape(count, steps * batch, *x.shape[1:])


# Shuffling and augmentation.


def test_seed_and_epoch_decide_every_pixel(digits):
    tf.random.set_seed(1)  # the seed of the process does not
    one = epochs(digits, 64, seed=0, first=0, count=2)
    tf.random.set_seed(2)
    again = epochs(digits, 64, seed=0, first=0, count=2)
    np.testing.assert_array_equal(one, again)


def test_images_and_labels_stay_together(digits):
    plain = dataclasses.replace(digits, prepare=lambda stored, seed: stored)
    pairs = {(x.tobytes(), y) for x, y in digits.train.as_numpy_iterator()}
    images, labels = next(plain.train_batches(1400, seed=0).as_numpy_iterator())
    assert {(x.tobytes(), y) for x, y in zip(images, labels, strict=True)} <= pairs


@pytest.mark.parametrize("buffer", [None, 10])
def test_training_started_later_continues(buffer):
    images = numbers(103, buffer)
    whole = epochs(images, 8, seed=3, first=0, count=5)
    np.testing.assert_array_equal(whole[2:], epochs(images, 8, seed=3, first=2, count=3))


def test_digits_started_later_continue(digits):
    whole = epochs(digits, 128, seed=0, first=0, count=3)
    np.testing.assert_array_equal(whole[2:], epochs(digits, 128, seed=0, first=2, count=1))


@pytest.mark.parametrize("buffer", [None, 10])
def test_every_example_once_per_epoch(buffer):
    order = epochs(numbers(103, buffer), 8, seed=0, first=0, count=4)[:, :, 0]
    assert order.shape == (4, 96)
    dropped = [frozenset(range(103)) - set(epoch) for epoch in order]
    assert [len(rest) for rest in dropped] == [7] * 4, "some example came twice"
    if buffer is None:  # a small buffer leaves the last ones last
        assert len(set(dropped)) == 4, "always the same examples are dropped"
    assert len({tuple(epoch) for epoch in order}) == 4, "epochs repeat their order"


def test_the_whole_set_is_shuffled():
    order = epochs(numbers(1000), 1000, seed=0, first=0, count=1)[0, :, 0]
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1


def test_seeds_differ():
    one, other = (epochs(numbers(103), 8, seed, 0, 1) for seed in (0, 1))
    assert (one[..., 0] != other[..., 0]).mean() > 0.9


def test_augmentation_is_a_function_of_seed_epoch_and_index():
    def seeds(seed, batch, first=0):
        """The seed of each example, by its number, in two epochs."""
        drawn = epochs(numbers(96), batch, seed, first, 2)
        return [{tuple(x)[0]: tuple(x)[1:] for x in epoch} for epoch in drawn]

    first, second = seeds(0, 8)
    assert (first, second) == tuple(seeds(0, 32)), "the batch size matters"
    assert second == seeds(0, 8, first=1)[0]
    assert len({*first.values(), *second.values(), *seeds(1, 8)[0].values()}) == 3 * 96


def test_the_set_decides_the_augmentation(digits):
    # One bright pixel tells where the image went.
    def places(prepare, stored):
        seeds = [tf.random.fold_in(tf.constant([0, 0]), i) for i in range(200)]
        images = np.stack([prepare(stored, seed) for seed in seeds]).mean(-1)
        images -= images.min(axis=(1, 2), keepdims=True)
        return {np.unravel_index(image.argmax(), image.shape) for image in images}

    stored = np.zeros((8, 8, 1), "uint8")
    stored[4, 1] = 16
    assert places(digits.prepare, stored) == {(r, c) for r in (3, 4, 5) for c in (0, 1, 2)}


# Test sets are padded.


def test_test_batches_are_full_and_in_order():
    batches = list(numbers(23).test_batches(8).as_numpy_iterator())
    x, y, weight = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert len(batches) == 3 and x.shape == (24,)
    np.testing.assert_array_equal(x[:23], np.arange(23))
    np.testing.assert_array_equal(x, y)
    np.testing.assert_allclose(weight, [24 / 23] * 23 + [0.0], rtol=1e-6)


@pytest.mark.parametrize("batch", [7, 360, 500])
def test_evaluation_is_exact_on_a_padded_set(digits, batch):
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseCategoricalCrossentropy("cross_entropy", from_logits=True),
        ],
    )
    scores = model.evaluate(digits.test_batches(batch), verbose=0, return_dict=True)
    x = np.stack([digits.prepare(x, None) for x, _ in digits.test])
    y = np.array([y for _, y in digits.test.as_numpy_iterator()])
    logits = x.reshape(360, 64) @ model.layers[-1].kernel.numpy()
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert scores["accuracy"] == pytest.approx(np.mean(logits.argmax(-1) == y), abs=1e-6)
    for name in ("cross_entropy", "loss"):
        assert scores[name] == pytest.approx(-log_p[np.arange(360), y].mean(), rel=1e-5)


def test_evaluation_is_exact_where_labels_have_steps(rng):
    """As language models have them: 11 examples in batches of 4, 5 steps of 3 classes."""
    logits = rng.normal(size=(11, 5, 3)).astype("float32")
    labels = rng.integers(3, size=(11, 5)).astype("int32")
    stored = tf.data.Dataset.from_tensor_slices((logits, labels))
    examples = data.LabelledSet(stored, stored, 3, (5, 3), lambda x, seed: x, 11)
    model = keras.Sequential([keras.Input((5, 3)), keras.layers.Identity()])
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseCategoricalCrossentropy("cross_entropy", from_logits=True),
        ],
    )
    scores = model.evaluate(examples.test_batches(4), verbose=0, return_dict=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_p, labels[..., None], -1).mean()
    assert scores["accuracy"] == pytest.approx(np.mean(logits.argmax(-1) == labels), abs=1e-6)
    for name in ("cross_entropy", "loss"):
        assert scores[name] == pytest.approx(expected, rel=1e-5)


# Where images come from.


def test_digits(digits):
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.num_classes == 10 and digits.example_shape == (8, 8, 1)
    for part in (digits.train, digits.test):
        share = np.bincount([y for _, y in part.as_numpy_iterator()]) / len(part)
        np.testing.assert_allclose(share, 0.1, atol=0.005)
    x = np.stack([digits.prepare(x, None) for x, _ in digits.train])
    assert x.dtype == np.float32
    np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=0.01)
    train, test = (
        {x.tobytes() for x, _ in part.as_numpy_iterator()} for part in (digits.train, digits.test)
    )
    assert not train & test


def test_subsets_and_sizes():
    images = data.load("digits", image_size=16, train_examples=100, test_examples=10)
    assert (len(images.train), len(images.test)) == (100, 10)
    x, _ = next(images.train_batches(50, seed=0).as_numpy_iterator())
    assert x.shape == (50, *images.example_shape) == (50, 16, 16, 1)
    assert images.steps_per_epoch(33) == 3
    with pytest.raises(ValueError, match="100 training examples do not fill .* batch of 128"):
        images.train_batches(128, seed=0)
    for wrong in (0, -1, 1438):
        with pytest.raises(ValueError, match=f"1437 train examples.*train_examples={wrong}"):
            data.load("digits", train_examples=wrong)


def test_a_seed_draws_the_examples(digits):
    def drawn(seed, name="digits"):
        examples = data.load(name, train_examples=100, test_examples=10, draw_seed=seed)
        assert len(examples.train) == 100
        tests = [x.tobytes() for x, _ in examples.test.as_numpy_iterator()]
        assert tests == [x.tobytes() for x, _ in digits.test.take(10).as_numpy_iterator()]
        return [x.tobytes() for x, _ in examples.train.as_numpy_iterator()]

    whole = [x.tobytes() for x, _ in digits.train.as_numpy_iterator()]
    one, other = drawn(0), drawn(1)
    assert one == drawn(0)
    assert len({*one, *other, *whole[:100]}) > 250, "different ones"
    places = [whole.index(x) for x in one]
    assert places == sorted(places) and len(set(places)) == 100
    with pytest.raises(ValueError, match="draw_examples has no effect without train_examples"):
        data.load("digits", draw_seed=0)


def test_rows_are_those_of_the_images(prepared):
    for name in ("digits", "tiny/plain"):
        images, rows = (data.load(name, prepared, sequences=flag) for flag in (False, True))
        height, width, channels = images.example_shape
        assert rows.example_shape == (height, width * channels)
        batches = [
            (examples.train_batches(32, seed=0), examples.test_batches(7))
            for examples in (images, rows)
        ]
        for of_images, of_rows in zip(*batches, strict=True):
            (x, *labels), (sequence, *same) = (
                next(part.as_numpy_iterator()) for part in (of_images, of_rows)
            )
            # In training, the augmentation is the same too.
            np.testing.assert_array_equal(x.reshape(sequence.shape), sequence)
            for step in range(height):
                np.testing.assert_array_equal(sequence[:, step], x[:, step].reshape(len(x), -1))
            for one, other in zip(labels, same, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data_dir of TensorFlow Datasets with sets that TFDS knows by their files only."""
    data_dir = str(tmp_path_factory.mktemp("tfds"))

    def examples(count, labels):
        # Image i has brightness i at the left, 0 at the right.
        image = np.zeros((count, 32, 32, 3), "uint8")
        image[:, :, :16] = np.arange(count)[:, None, None, None]
        return {"image": image, "label": np.resize(labels, count)}

    image = {
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    store(data_dir, "tiny", image, train=examples(40, [0, 1, 2]), test=examples(7, [2, 0, 1]))
    unlabelled = {"test": examples(5, [-1]), "validation": examples(6, [0, 1, 2])}
    store(data_dir, "unlabelled", image, train=examples(40, [0, 1, 2]), **unlabelled)
    store(data_dir, "only_train", image, train=examples(40, [0, 1, 2]))
    store(data_dir, "numbers", {"value": tfds.features.Scalar(tf.int64)}, train={"value": [1, 2]})
    return data_dir


def test_tfds_from_disk(prepared):
    images = data.load("tiny/plain", prepared)
    assert (len(images.train), len(images.test), images.num_classes) == (40, 7, 3)
    assert images.example_shape == (32, 32, 3)
    x, y, _ = next(images.test_batches(7).as_numpy_iterator())
    order = np.round(((x * _IMAGENET[1]) + _IMAGENET[0])[:, 0, 0, 0] * 255).astype(int)
    np.testing.assert_array_equal(np.sort(order), np.arange(7))
    np.testing.assert_array_equal(y, np.resize([2, 0, 1], 7)[order])


def test_natural_images_are_shifted_and_mirrored(prepared):
    images = data.load("tiny/plain", prepared)
    x = epochs(images, 40, 0, 0, 4).reshape(160, 32, 32, 3)
    left, right = (x[:, 8:24, side].mean((1, 2)) for side in (5, 26))
    share = (left < right).mean()  # the brighter half is the left one of what is stored
    assert 0.3 < share < 0.7
    steps = np.abs(np.diff(x[:, 16, :, 0], axis=1))[:, 8:24]
    edges = steps[steps.max(1) > 0.1].argmax(1) + 8
    assert edges.min() == 11 and edges.max() == 19, "shifts are those by -4 to 4"


def test_test_labels_of_minus_one_are_no_labels(prepared):
    images = data.load("unlabelled/plain", prepared)
    assert len(images.test) == 6


def test_large_images_are_random_resized_crops(prepared):
    images = data.load("tiny/plain", prepared, image_size=96)
    one, again = (epochs(images, 40, 0, 0, 1) for _ in range(2))
    assert one.shape == (1, 40, 96, 96, 3)
    np.testing.assert_array_equal(one, again)
    assert len({x.tobytes() for x in one[0]}) == 40
    x, *_ = next(images.test_batches(7).as_numpy_iterator())
    assert x.shape == (7, 96, 96, 3)


@pytest.mark.parametrize("test", ["test", "validation", "val"])
def test_folder_of_images(tmp_path, test):
    images = data.load(write_folder(tmp_path, test), image_size=24)
    assert (len(images.train), len(images.test), images.num_classes) == (10, 6, 2)
    x, y, weight = next(images.test_batches(8).as_numpy_iterator())
    assert x.shape == (8, 24, 24, 3) and (weight > 0).sum() == 6
    np.testing.assert_array_equal(x[:, 12, 12, 0] > x.min(), y == 1)
    assert epochs(images, 5, 0, 0, 2).shape == (2, 10, 24, 24, 3)


def test_a_folder_beside_has_no_effect_on_a_set_of_its_name(tmp_path, monkeypatch):
    expected = next(data.load("digits").test_batches(8).as_numpy_iterator())[0]
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    found = next(data.load("digits").test_batches(8).as_numpy_iterator())[0]
    np.testing.assert_array_equal(found, expected)


def test_images_of_different_sizes_get_one(tmp_path):
    images = data.load(write_folder(tmp_path))
    assert images.example_shape == (224, 224, 3)


# What is made here.


def stored(part):
    """All that a set stores, `(examples, labels)`, as nested arrays."""
    return next(part.batch(len(part)).as_numpy_iterator())


@pytest.mark.parametrize("name", ["points", "restyled_digits", "contrast_digits"])
def test_sets_that_are_made_are_the_same_each_time(name):
    one, again = data.load(name), data.load(name)
    for part in ("train", "test"):
        before, now, later = (stored(getattr(set, part)) for set in (one, one, again))
        tf.nest.map_structure(np.testing.assert_array_equal, before, now)
        tf.nest.map_structure(np.testing.assert_array_equal, before, later)
    few = stored(data.load(name, train_examples=9).train)
    tf.nest.map_structure(
        lambda all, first: np.testing.assert_array_equal(all[:9], first), stored(one.train), few
    )


def test_points():
    points = data.load("points")
    assert str(points) == "1,000 training and 1,000 test vectors of 10 numbers, 2 classes"
    assert points.vectors and points.example_shape == (10,)
    (train, _), (test, _) = parts = stored(points.train), stored(points.test)
    for x, y in parts:
        assert x.min() >= 0 and x.max() < 1
        np.testing.assert_allclose(x.mean(0), 0.5, atol=0.05)
        np.testing.assert_array_equal(y, [sum(map(float, point)) > 5 for point in x])
    assert not {x.tobytes() for x in train} & {x.tobytes() for x in test}
    x, _ = next(points.train_batches(1000, seed=0).as_numpy_iterator())
    np.testing.assert_array_equal(np.sort(x, axis=0), np.sort(train, axis=0))


def decoded(source, part, count):
    """The first images and labels, as they are before anything is standardized."""
    pairs = [(source.decode(image).numpy(), int(label)) for image, label in part.take(count)]
    images, labels = zip(*pairs, strict=True)
    return np.stack(images), np.array(labels)


@pytest.mark.parametrize("name", ["digits", "tiny/plain"])
def test_a_style_is_the_mean_and_the_variance_of_a_channel(prepared, name):
    plain = catalog.find(name, prepared)
    styled = synthetic.styled(plain)
    (x, labels), (y, same) = (decoded(source, source.train, 40) for source in (plain, styled))
    np.testing.assert_array_equal(labels, same)
    assert y.shape[-1] == 3 and y.min() >= 0 and y.max() <= 1

    def instance_norm(images):
        deviation = images - images.mean((1, 2), keepdims=True, dtype="float64")
        return deviation / deviation.std((1, 2), keepdims=True)

    clear = x.std((1, 2, 3)) > 0.02  # the others are black, or nearly
    expected = np.broadcast_to(instance_norm(x[clear]), y[clear].shape)
    np.testing.assert_allclose(instance_norm(y[clear]), expected, atol=1e-3)
    assert styled.num_classes == plain.num_classes


def test_styles_tell_nothing_about_the_label():
    digits = data.load("styled_digits")
    (_, train), labels = stored(digits.train)
    (_, test), _ = stored(digits.test)
    values = np.column_stack([np.log(train["contrast"]), train["paper"], train["ink"]])
    spread = values.std(0)
    for label in range(10):
        of_label = values[labels == label].mean(0)
        assert (np.abs(of_label - values.mean(0)) < 4 * spread / np.sqrt(130)).all()
    assert np.exp(values[:, 0]).min() < 0.11 and np.exp(values[:, 0]).max() > 0.95
    assert not set(train["contrast"]) & set(test["contrast"])


def test_no_style_of_the_test_was_seen_in_training():
    restyled = data.load("restyled_digits")
    (_, train), _ = stored(restyled.train)
    (_, test), _ = stored(restyled.test)
    assert test["contrast"].max() <= train["contrast"].min()
    assert train["paper"].max() <= test["paper"].min() < test["paper"].max() < 0.41
    assert 0.59 < test["ink"].min() < test["ink"].max() <= train["ink"].min()


@pytest.mark.parametrize("name", ["digits", "tiny/plain"])
def test_the_contrast_is_the_label(prepared, name):
    plain = catalog.find(name, prepared)
    contrast = synthetic.contrast(plain)
    (x, _), (y, levels) = (decoded(source, source.train, 40) for source in (plain, contrast))
    assert contrast.num_classes == 4 and set(levels) == {0, 1, 2, 3}
    expected = np.geomspace(0.1, 1, 4)[levels]
    np.testing.assert_allclose(y.std((1, 2, 3)), expected * x.std((1, 2, 3)), rtol=1e-4, atol=1e-6)


def test_the_contrast_is_a_factor_of_what_a_model_sees():
    """So that nothing but statistics of more than one image tells it."""
    images = data.load("contrast_digits")
    for (stored, _), _ in images.train.take(3):
        prepare = lambda level, seed=None: images.prepare((stored, level), seed)  # noqa: B023, E731
        for seed in (None, tf.constant([0, 1])):
            low, high = (prepare(level, seed).numpy() for level in (0, 3))
            np.testing.assert_allclose(10 * low, high, rtol=1e-4, atol=1e-5)


def test_the_digit_tells_nothing_about_the_contrast():
    (_, digits), (_, levels) = (
        stored(data.load(name).train) for name in ("digits", "contrast_digits")
    )
    counts = np.zeros((10, 4))
    np.add.at(counts, (digits, levels), 1)
    expected = np.outer(counts.sum(1), counts.sum(0)) / len(digits)
    assert ((counts - expected) ** 2 / expected).sum() < 50, "chi-square of 27 degrees, p = 0.005"
    np.testing.assert_allclose(counts.sum(0) / len(digits), 0.25, atol=0.03)


def test_errors_say_what_to_do(prepared, tmp_path):
    with pytest.raises(ValueError, match="Unknown dataset 'no_such'.*TensorFlow Datasets.*path"):
        data.load("no_such", prepared)
    for name in ("digits", "styled_digits", "contrast_cifar10", "points"):
        with pytest.raises(ValueError, match=f"Unknown dataset 'no_such'. Give .*'{name}'"):
            data.load("no_such", prepared)
    for option in ("image_size", "sequence_length", "vocabulary_size"):
        with pytest.raises(ValueError, match=f"{option} has no effect on dataset='points'"):
            data.load("points", **{option: 10})
    with pytest.raises(ValueError, match="'numbers/plain' holds no images or texts"):
        data.load("numbers/plain", prepared)
    for option in ("sequence_length", "vocabulary_size"):
        with pytest.raises(ValueError, match=f"{option} has no effect on dataset='digits'"):
            data.load("digits", sequences=True, **{option: 10})
    with pytest.raises(ValueError, match="needs train and test .* It has: train"):
        data.load("only_train/plain", prepared)
    with pytest.raises(ValueError, match="'imagenet2012' is not prepared in .*manual_dir"):
        data.load("imagenet2012", str(tmp_path))


def test_missing_set_without_network_is_an_error_within_seconds(tmp_path, monkeypatch):
    import requests

    def fails(*args, **kwargs):
        raise requests.ConnectionError

    monkeypatch.setattr("requests.head", fails)
    start = time.monotonic()
    with pytest.raises(ValueError) as error:
        data.load("cifar100", str(tmp_path))
    assert time.monotonic() - start < 5
    for part in ("'cifar100' is not prepared", str(tmp_path), "cannot be reached", "data_dir"):
        assert part in str(error.value)


def test_a_name_server_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("requests.head", lambda *args, **kwargs: time.sleep(30))
    start = time.monotonic()
    assert not tensorflow_datasets._reachable("https://example.org", seconds=0.2)
    assert time.monotonic() - start < 5


def test_failed_download_names_its_cause(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorflow_datasets, "_reachable", lambda url: True)

    def fails(self, **kwargs):
        raise OSError("disk full\nand a long story")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fails)
    with pytest.raises(ValueError, match=r"preparing it failed: disk full\. Name the directory"):
        data.load("cifar100", str(tmp_path))
