"""recalibrate, freeze, unfreeze."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_norms
from keras_norms import statistics

NORMS = {
    "keras_bn": layers.BatchNormalization,
    "bn": keras_norms.BatchNormalization,
    "sn": keras_norms.SwitchableNormalization,
    "bin": keras_norms.BatchInstanceNormalization,
    "mobn": keras_norms.MeanOnlyBatchNormalization,
}
X = np.random.default_rng(0).normal(2, 3, (48, 6, 6, 3)).astype("float32")
SPLITS = ([48], [16, 16, 16], [5, 20, 23])


def model(norm, names=("norm1", "norm2")):
    x = inputs = keras.Input((6, 6, 3))
    for name in names:
        x = layers.Conv2D(8, 3)(x)
        x = norm(name=name)(x)
        x = layers.Dropout(0.5)(layers.ReLU()(x))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def split(sizes):
    return np.split(X, np.cumsum(sizes)[:-1])


def moving(net, name):
    norm = net.get_layer(name)
    variables = [norm.moving_mean, getattr(norm, "moving_variance", None)]
    return np.concatenate([ops.convert_to_numpy(v) for v in variables if v is not None])


@pytest.mark.parametrize("norm", NORMS)
def test_split_into_batches_does_not_matter(norm):
    net = model(NORMS[norm])
    one_pass, exact = [], []
    for sizes in SPLITS:
        keras_norms.recalibrate(net, split(sizes))
        one_pass.append(moving(net, "norm1"))
    for sizes in SPLITS:
        keras_norms.recalibrate(net, split(sizes), exact=True)
        exact.append(np.concatenate([moving(net, "norm1"), moving(net, "norm2")]))
    for other in one_pass[1:]:
        np.testing.assert_allclose(other, one_pass[0], rtol=2e-6, atol=2e-6)
    for other in exact[1:]:
        np.testing.assert_allclose(other, exact[0], rtol=2e-6, atol=2e-6)


def test_identical_batches_give_exactly_their_statistics():
    # The official batch average keeps raw sums without a count.
    net = keras.Sequential([keras.Input((6, 6, 3)), keras_norms.BatchNormalization(name="norm")])
    batch = X[:8]
    keras_norms.recalibrate(net, [batch] * 5)
    mean, variance = moving(net, "norm").reshape(2, 3)
    np.testing.assert_allclose(mean, batch.astype("float64").mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(variance, batch.astype("float64").var((0, 1, 2)), rtol=1e-6)


def test_exact_statistics_make_inference_equal_training_on_the_whole_set():
    net = model(keras_norms.BatchNormalization)
    norms = [net.get_layer("norm1"), net.get_layer("norm2")]
    keras_norms.recalibrate(net, split(SPLITS[2]), exact=True)
    inference = ops.convert_to_numpy(net(X, training=False))
    for layer in net.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0
    for norm in norms:
        norm.momentum = 1.0
    training = ops.convert_to_numpy(net(X, training=True))
    np.testing.assert_allclose(inference, training, atol=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_nothing_but_moving_statistics_changes(exact):
    net = model(keras_norms.SwitchableNormalization)
    net.get_layer("norm2").trainable = False
    before = {v.path: ops.convert_to_numpy(v) for v in net.variables}
    keras_norms.recalibrate(net, split(SPLITS[1]), exact=exact)
    for variable in net.variables:
        if "moving" in variable.path:
            assert not np.array_equal(before[variable.path], variable), variable.path
        else:
            np.testing.assert_array_equal(before[variable.path], variable, variable.path)
    norm1, norm2 = net.get_layer("norm1"), net.get_layer("norm2")
    assert (norm1.momentum, norm1.trainable, norm2.trainable) == (0.9, True, False)
    assert "call" not in vars(norm1)


def test_repairs_statistics_that_are_not_finite():
    net = model(keras_norms.BatchNormalization)
    net.get_layer("norm1").moving_variance.assign(np.full(8, np.inf))
    keras_norms.recalibrate(net, [X])
    assert np.isfinite(moving(net, "norm1")).all()


def test_states_of_a_stateful_rnn_stay():
    net = keras.Sequential([keras.Input(batch_shape=(2, 3, 4))])
    net.add(layers.SimpleRNN(3, stateful=True))
    net.add(keras_norms.BatchNormalization())
    keras_norms.recalibrate(net, [X[:2, 0, :3, :1].repeat(4, -1)])
    assert not np.any(ops.convert_to_numpy(net.layers[0].states[0]))


def test_masked_elements_do_not_count():
    inputs = keras.Input((None, 4))
    norm = keras_norms.BatchNormalization(name="norm")
    net = keras.Model(inputs, norm(layers.Masking()(inputs)))
    rng = np.random.default_rng(0)
    long, short = rng.normal(size=(2, 7, 4)), rng.normal(size=(3, 2, 4))
    padded = np.concatenate([short, np.zeros((3, 5, 4))], 1)
    keras_norms.recalibrate(net, [long.astype("float32"), padded.astype("float32")])
    valid = np.concatenate([long.reshape(-1, 4), short.reshape(-1, 4)])
    expected = np.concatenate([valid.mean(0), valid.var(0)])
    np.testing.assert_allclose(moving(net, "norm"), expected, rtol=1e-5, atol=1e-6)


def test_uses_steps_batches_and_batches_with_targets():
    net = model(keras_norms.BatchNormalization)
    assert keras_norms.recalibrate(net, [(X[:4], None), (X[4:], None)], steps=1) == 1
    first = moving(net, "norm1")
    keras_norms.recalibrate(net, [X[:4]])
    np.testing.assert_array_equal(first, moving(net, "norm1"))


def test_a_failure_leaves_the_model_as_it_was():
    net = model(keras_norms.BatchNormalization)
    before = [ops.convert_to_numpy(v) for v in net.variables]

    def broken():
        yield X[:8]
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        keras_norms.recalibrate(net, broken())
    for value, variable in zip(before, net.variables, strict=True):
        np.testing.assert_array_equal(value, variable)


def test_arrays_are_divided_into_batches():
    net = model(keras_norms.BatchNormalization)
    results = []
    images = keras.Input((6, 6, 3), name="images")
    named = keras.Model({"images": images}, net(images))
    for each, data, options in (
        (net, split([20, 20, 8]), {}),
        (net, X, {"batch_size": 20}),
        (net, ops.convert_to_tensor(X), {"batch_size": 20}),
        (named, {"images": X}, {"batch_size": 20}),
    ):
        assert keras_norms.recalibrate(each, data, verbose=False, **options) == 3
        results.append(np.concatenate([moving(net, "norm1"), moving(net, "norm2")]))
    assert not [other for other in results if np.any(other != results[0])]
    assert keras_norms.recalibrate(net, X) == 2  # batches of 32, as `fit` makes them
    with pytest.raises(ValueError, match="these are batches already.*batch_size=8, data=list"):
        keras_norms.recalibrate(net, [X], batch_size=8)


def test_progress_ends_where_the_data_ends(capsys):
    net = model(keras_norms.BatchNormalization)
    for data in (split(SPLITS[1]), iter(split(SPLITS[1]))):
        assert keras_norms.recalibrate(net, data, steps=200) == 3
        printed = capsys.readouterr().out
        assert "3/3" in printed.rpartition("\r")[2].rpartition("\b")[2] and printed[-1] == "\n"
    keras_norms.recalibrate(net, [X], verbose=False)
    keras_norms.recalibrate(net, [X], exact=True, verbose=False)
    assert not capsys.readouterr().out


def test_recalibrate_errors():
    net = model(keras_norms.BatchNormalization)
    with pytest.raises(ValueError, match="no batch"):
        keras_norms.recalibrate(net, [])
    with pytest.raises(ValueError, match="once per norm.*generator"):
        keras_norms.recalibrate(net, (x for x in [X]), exact=True)
    with pytest.raises(ValueError, match="no built layer with batch statistics"):
        keras_norms.recalibrate(model(keras_norms.InstanceNormalization), [X])


@pytest.mark.skipif(
    "renorm" not in inspect.signature(layers.BatchNormalization).parameters,
    reason="this Keras has no batch renormalization",
)
def test_recalibrate_refuses_batch_renormalization_of_keras():
    with pytest.raises(ValueError, match="renormalization"):
        keras_norms.recalibrate(model(lambda name: layers.BatchNormalization(renorm=True)), [X])


def test_freeze_and_unfreeze():
    backbone = model(keras_norms.SwitchableNormalization)
    net = keras.Sequential([backbone, layers.Dense(2), layers.LayerNormalization()])
    net.build((None, 6, 6, 3))
    kernels = {v.path for v in net.trainable_variables if v.name in ("kernel", "bias")}
    keras_norms.freeze(net)
    assert {v.path for v in net.trainable_variables} == kernels
    before = moving(backbone, "norm1")
    np.testing.assert_array_equal(
        backbone.get_layer("norm1")(X[..., :1].repeat(8, -1), training=True),
        backbone.get_layer("norm1")(X[..., :1].repeat(8, -1), training=False),
    )
    np.testing.assert_array_equal(before, moving(backbone, "norm1"))
    keras_norms.unfreeze(net)
    assert len(net.trainable_variables) > len(kernels)
    assert all(layer.trainable for layer in backbone.layers)
    with pytest.raises(ValueError, match="no normalization"):
        statistics.freeze(keras.Sequential([keras.Input((2,)), layers.Dense(2)]))


def test_frozen_norms_stay_frozen_in_a_file(tmp_path):
    """Those too that a layer makes itself."""
    inputs = keras.Input((5, 3))
    x = keras_norms.NormalizedLSTM(4, norm="ln", return_sequences=True)(inputs)
    dense = keras_norms.WeightNormalization(layers.Dense(4), mean_only_batch_norm=True)
    net = keras.Model(inputs, keras_norms.BatchNormalization()(dense(x)))
    keras_norms.freeze(net)
    net.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    assert [v.path for v in loaded.trainable_variables] == [v.path for v in net.trainable_variables]
    dense = loaded.layers[2]
    assert dense.trainable and not dense.mean_only_batch_norm.trainable
    keras_norms.unfreeze(loaded)
    assert len(loaded.trainable_variables) > len(net.trainable_variables)
    net.layers[2].trainable = False  # the whole layer
    copy = type(net.layers[2]).from_config(net.layers[2].get_config())
    assert not copy.trainable and not copy.mean_only_batch_norm.trainable


def test_a_model_that_calls_none_of_its_norms(rng):
    class Idle(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = keras_norms.BatchNormalization()
            self.norm.build((None, 3))

        def call(self, x):
            return x

    model, before = Idle(), np.arange(3.0)
    model.norm.moving_mean.assign(before)
    with pytest.raises(ValueError, match="called none of its norms.*nothing was measured"):
        keras_norms.recalibrate(model, [np.ones((4, 3), "float32")])
    np.testing.assert_array_equal(model.norm.moving_mean, before)


def test_a_norm_that_is_not_called_stays_as_it_is(rng):
    called, other = (
        keras_norms.BatchNormalization(batch_axis=(0, 1), max_steps=3, name=name)
        for name in ("called", "other")
    )
    other.build((None, None, 2))
    other.moving_steps.assign(2)

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.called, self.other = called, other

        def call(self, x):
            return self.called(x)

    x = rng.normal(2, 3, (4, 3, 2)).astype("float32")
    net = Model()
    net(x)
    keras_norms.recalibrate(net, [x], verbose=False)
    np.testing.assert_allclose(ops.convert_to_numpy(called.moving_mean), x.mean(0), rtol=1e-5)
    assert float(other.moving_steps) == 2 and (ops.convert_to_numpy(other.moving_mean) == 0).all()


def test_a_batch_is_what_fit_takes(rng):
    """A list is `x, y` as a tuple is."""
    x = rng.normal(2, 3, (6, 4)).astype("float32")
    for batch in (x, (x,), [x], (x, x[:, :1]), [x, x[:, :1]], (x, x[:, :1], x[:, 0])):
        norm = keras_norms.BatchNormalization()
        model = keras.Sequential([keras.Input((4,)), norm])
        keras_norms.recalibrate(model, [batch])
        np.testing.assert_allclose(norm.moving_mean, x.mean(0), rtol=1e-5)
        wrapper = keras_norms.WeightNormalization(keras.layers.Dense(2))
        keras_norms.data_dependent_init(keras.Sequential([keras.Input((4,)), wrapper]), batch)
        np.testing.assert_allclose(np.std(ops.convert_to_numpy(wrapper(x)), axis=0), 1, rtol=1e-4)


def test_renormalized_batch_norm(rng):
    """The moving deviation agrees with the moving variance, which the next step moves."""
    norm = keras_norms.BatchNormalization(renorm=True, momentum=0.5)
    model = keras.Sequential([keras.Input((4,)), norm])
    x = rng.normal(2, 3, (6, 4)).astype("float32")
    keras_norms.recalibrate(model, [x])
    std = np.sqrt(x.var(0) + norm.epsilon)
    np.testing.assert_allclose(norm.moving_stddev, std, rtol=1e-5)
    norm(2 * x, training=True)
    moved = (std + np.sqrt(4 * x.var(0) + norm.epsilon)) / 2
    np.testing.assert_allclose(norm.moving_variance, moved**2 - norm.epsilon, rtol=1e-4)
