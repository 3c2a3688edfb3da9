"""keras_norms.convert: what is kept, what is computed, and what is refused."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_norms
from keras_norms.model_layers import is_norm, named_layers
from tests.surgery.models import MODELS, Block, make, outputs, randomize, relative


def batch_norms(path, layer):
    return isinstance(layer, layers.BatchNormalization)


def snapshot(model):
    return [keras.ops.convert_to_numpy(v) for v in model.variables]


@pytest.mark.parametrize(
    ("name", "to"),
    [
        (name, to)
        for name in MODELS
        for to in ("bn", "sn", "bin", "gn(groups=2)")
        if (name, to) != ("shared", "bin")  # it has no positions
    ],
)
def test_every_norm_is_found_and_the_rest_is_kept(name, to, rng):
    model, x = make(name, rng)
    before, y = snapshot(model), outputs(model, x)
    norms = [path for path, layer in named_layers(model).items() if is_norm(layer)]
    where = batch_norms
    if to == "bin":  # needs positions

        def where(path, layer):
            return batch_norms(path, layer) and len(layer.get_build_config()["input_shape"]) > 2

    copy, report = keras_norms.convert(model, to, where)
    assert [change.path for change in report] == norms
    for path, layer in named_layers(copy).items():
        if is_norm(layer) and path in {change.path for change in report.changed}:
            assert type(layer).__module__.startswith("keras_norms"), path
    assert report.changed and all(change.note == "not selected" for change in report.left)
    new = outputs(copy, x)
    if to in ("bn", "sn", "bin"):
        assert {change.note for change in report.changed} == {"computes the same"}
        assert relative(new, y) < 1e-5
    else:
        assert np.isfinite(new).all() and relative(new, y) > 1e-3
    np.testing.assert_array_equal(outputs(model, x), y)
    for one, other in zip(before, snapshot(model), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not {id(v) for v in model.variables} & {id(v) for v in copy.variables}


@pytest.mark.parametrize("name", ["sequential", "functional", "nested", "wrapped"])
def test_a_copy_is_saved_and_trained(name, rng, tmp_path):
    model, x = make(name, rng)
    copy, _ = keras_norms.convert(model, "bn", batch_norms)
    copy.save(tmp_path / "copy.keras")
    loaded = keras.models.load_model(tmp_path / "copy.keras")
    np.testing.assert_array_equal(outputs(loaded, x), outputs(copy, x))
    assert not [x for x in named_layers(loaded).values() if type(x) is layers.BatchNormalization]
    targets = keras.tree.map_structure(np.zeros_like, copy(x))
    copy.compile("sgd", "mse", run_eagerly=True)
    before = snapshot(copy)
    copy.train_on_batch(x, targets)
    moved = [v.path for v, old in zip(copy.variables, before, strict=True) if np.any(old != v)]
    assert [path for path in moved if path.endswith("moving_mean")]


@pytest.mark.parametrize("name", ["composite", "subclassed", "wrapped"])
def test_a_file_that_would_be_wrong_is_refused(name, rng, tmp_path):
    model, x = make(name, rng)
    copy, _ = keras_norms.convert(model, "sn")
    with pytest.raises(ValueError, match="makes its norms itself.*save_weights"):
        copy.save(tmp_path / "copy.keras")
    copy.save_weights(tmp_path / "copy.weights.h5")
    other, _ = keras_norms.convert(MODELS[name](), "sn")
    other.load_weights(tmp_path / "copy.weights.h5")
    np.testing.assert_array_equal(outputs(other, x), outputs(copy, x))
    model.save(tmp_path / "model.keras")  # the original is as it was


def norm_of(model):
    (norm,) = [layer for layer in model.layers if is_norm(layer)]
    return norm


def one_norm(norm, shape=(6, 6, 4)):
    return keras.Sequential([keras.Input(shape), norm])


def test_what_a_norm_has_is_kept():
    old = layers.BatchNormalization(
        axis=1,
        momentum=0.7,
        epsilon=1.001e-5,
        scale=False,
        name="mine",
        dtype="mixed_bfloat16",
        beta_regularizer=keras.regularizers.L2(0.1),
        beta_constraint="non_neg",
        moving_variance_initializer="zeros",
    )
    model = one_norm(old)
    old.trainable = False
    for to in ("bn", "sn", "bin", "gn"):
        new = norm_of(keras_norms.convert(model, to)[0])
        assert (new.name, new.axis, new.epsilon, new.scale) == ("mine", 1, 1.001e-5, False)
        assert new.dtype_policy.name == "mixed_bfloat16" and not new.trainable
        assert new.beta_regularizer.l2 == pytest.approx(0.1)
        assert isinstance(new.beta_constraint, keras.constraints.NonNeg)
        if to != "gn":
            assert new.momentum == 0.7
            assert isinstance(new.moving_variance_initializer, keras.initializers.Zeros)


def test_what_is_given_comes_first():
    model = one_norm(layers.BatchNormalization(epsilon=0.1, momentum=0.5))
    new = norm_of(keras_norms.convert(model, "bn(epsilon=0.2)")[0])
    assert (new.epsilon, new.momentum) == (0.2, 0.5)
    new = norm_of(keras_norms.convert(model, keras_norms.BatchNormalization)[0])
    assert (new.epsilon, new.momentum) == (0.1, 0.5)
    make_norm = lambda: keras_norms.BatchNormalization(epsilon=0.3)  # noqa: E731
    new = norm_of(keras_norms.convert(model, make_norm)[0])
    assert (new.epsilon, new.momentum) == (0.3, 0.99)


SAME = [
    (layers.BatchNormalization, "bn"),
    (layers.BatchNormalization, "sn"),
    (layers.BatchNormalization, "bin"),
    (lambda: layers.GroupNormalization(2), "gn(2)"),
    (lambda: layers.GroupNormalization(2), "sn(statistics=('group', 'batch'), groups=2)"),
    (lambda: layers.GroupNormalization(1), "ln"),
    (lambda: layers.GroupNormalization(1), "sn"),
    (lambda: layers.GroupNormalization(-1), "in"),
    (lambda: layers.GroupNormalization(-1), "sn"),
    (lambda: layers.GroupNormalization(-1), "bin"),
    (layers.LayerNormalization, "ln"),
    (layers.LayerNormalization, "sn"),
    (layers.RMSNormalization, "rms"),
    (keras_norms.InstanceNormalization, "bin"),
    (keras_norms.SwitchableNormalization, "sn"),
    (keras_norms.SwitchableNormalization, "sn(momentum=0.5)"),
    (keras_norms.BatchInstanceNormalization, "bin(momentum=0.5)"),
]


@pytest.mark.parametrize(("old", "to"), SAME)
def test_norms_that_contain_others_compute_the_same(old, to, rng):
    model = one_norm(old())
    x = rng.normal(2, 3, (5, 6, 6, 4)).astype("float32")
    for variable in model.variables:
        variable.assign(rng.uniform(0.5, 2, variable.shape))
    copy, (change,) = keras_norms.convert(model, to)
    assert change.note in ("computes the same", "is this norm already")
    assert relative(outputs(copy, x), outputs(model, x)) < 1e-5


@pytest.mark.parametrize(
    ("old", "to"),
    [
        (lambda: layers.GroupNormalization(2), "gn(4)"),
        (lambda: layers.GroupNormalization(2), "ln"),
        (layers.LayerNormalization, "bn"),
        (layers.BatchNormalization, "ln"),
        (layers.RMSNormalization, "ln"),
        (keras_norms.SwitchableNormalization, "bn"),
        (layers.BatchNormalization, "mobn"),
        (layers.BatchNormalization, "bn(epsilon=0.5)"),
        (lambda: layers.GroupNormalization(2), "sn(statistics=('group', 'batch'), groups=4)"),
        (keras_norms.SwitchableNormalization, "bin"),
        (keras_norms.SwitchableNormalization, "sn(statistics=('instance', 'batch'))"),
        (layers.LayerNormalization, "rms(epsilon=0.001)"),
    ],
)
def test_others_say_that_they_have_to_be_trained(old, to, rng):
    model = one_norm(old())
    randomize(model, rng)
    x = rng.normal(2, 3, (5, 6, 6, 4)).astype("float32")
    copy, (change,) = keras_norms.convert(model, to)
    assert change.note.endswith("; train it")
    assert relative(outputs(copy, x), outputs(model, x)) > 1e-2


def test_without_transfer_weights_are_new(rng):
    model, _ = make("sequential", rng)
    copy, (change,) = keras_norms.convert(model, "sn", transfer=False)
    norm = norm_of(copy)
    assert change.note == "its weights are new" and not np.any(norm.mean_logits - 1)
    assert not np.any(norm.gamma - 1) and not np.any(norm.moving_mean)
    np.testing.assert_array_equal(copy.layers[0].kernel, model.layers[0].kernel)


def test_where_and_to_choose_places(rng):
    model, _ = make("functional", rng)
    paths = [p for p, layer in named_layers(model).items() if is_norm(layer)]
    _, report = keras_norms.convert(model, "gn(2)", where=paths[1])
    assert [change.path for change in report.changed] == paths[1:2]
    _, report = keras_norms.convert(model, "gn(2)", where="batch_normalization*")
    assert len(report.changed) == 3
    _, report = keras_norms.convert(model, lambda path, layer: {paths[0]: "gn(2)"}.get(path))
    assert [change.path for change in report.changed] == paths[:1]
    with pytest.raises(ValueError, match=f"matches no norm. The norms are {paths[0]}, "):
        keras_norms.convert(model, "gn", where="stage*")


def test_places_that_cannot_take_a_norm_are_listed(rng):
    model, _ = make("functional", rng)
    *_, last = [p for p, layer in named_layers(model).items() if is_norm(layer)]
    with pytest.raises(ValueError, match="(?s)1 of 3 norms.*" + last + ": Instance.*spatial axis"):
        keras_norms.convert(model, "in")
    with pytest.raises(ValueError, match="(?s)1 of 1 norms.*normalizes the weights of the layer"):
        keras_norms.convert(one_norm(layers.BatchNormalization()), "wn")
    with pytest.raises(ValueError, match="(?s)1 of 1 norms.*several axes"):
        keras_norms.convert(one_norm(layers.LayerNormalization(axis=(1, 2, 3))), "gn")


def test_layers_with_norms_of_their_own_are_left(rng):
    inputs = keras.Input((5, 3))
    x = keras_norms.NormalizedLSTM(4, norm="ln", return_sequences=True)(inputs)
    x = keras_norms.WeightNormalization(layers.Dense(4), mean_only_batch_norm=True)(x)
    model = keras.Model(inputs, layers.LayerNormalization()(x))
    copy, report = keras_norms.convert(model, "bn")
    assert [change.path for change in report] == [model.layers[-1].name]
    x = rng.normal(size=(2, 5, 3)).astype("float32")
    inner = [keras.Model(m.input, m.layers[-2].output) for m in (model, copy)]
    np.testing.assert_array_equal(*(outputs(m, x) for m in inner))


def test_masks_pass_through(rng):
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True)(inputs)
    x = layers.LayerNormalization()(keras_norms.WeightNormalization(layers.Dense(4))(x))
    model = keras.Model(inputs, layers.LSTM(3)(layers.BatchNormalization()(x)))
    ids = rng.integers(0, 9, (4, 6))
    copy, report = keras_norms.convert(model, "sn")
    assert {change.note for change in report} == {"computes the same"}
    assert relative(outputs(copy, ids), outputs(model, ids)) < 1e-5


def test_trainable_flags_are_kept(rng):
    model, _ = make("nested", rng)
    for layer in named_layers(model).values():
        if isinstance(layer, layers.Conv2D):
            layer.trainable = False
    copy, _ = keras_norms.convert(model, "bn")
    flags = [{p: x.trainable for p, x in named_layers(m).items()} for m in (model, copy)]
    assert flags[0] == flags[1] and set(flags[0].values()) == {True, False}
    model.trainable = False
    copy, _ = keras_norms.convert(model, "bn")
    assert not copy.trainable and not copy.trainable_variables


def test_a_place_out_of_reach_is_an_error(rng):
    class Hidden(Block):
        def build(self, shape):
            super().build(shape)
            kept = self.norms
            self.norms = None
            self.get = lambda: kept

    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    hidden = Hidden(4)
    hidden.build((None, 8, 8, 3))
    model.hidden = hidden
    with pytest.raises(ValueError, match="Hidden holds the layer 'batch_normalization.*neither"):
        keras_norms.convert(hidden, "bn")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ResNet50", "MobileNetV3Small", "EfficientNetV2B0", "ConvNeXtTiny"]
)
def test_networks_of_keras_applications(name, rng):
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=5)
    x = rng.normal(0, 50, (2, 64, 64, 3)).astype("float32")
    for to in ("ln", "sn") if name.startswith("ConvNeXt") else ("bn", "sn", "bin"):
        copy, report = keras_norms.convert(model, to)
        assert {change.note for change in report} == {"computes the same"}
        epsilons = [
            {x.epsilon for x in named_layers(m).values() if is_norm(x)} for m in (model, copy)
        ]
        assert epsilons[0] == epsilons[1]
        assert relative(outputs(copy, x), outputs(model, x)) < 1e-5


@pytest.mark.parametrize("to", ["none", "wn"])
def test_norms_are_taken_away(to, rng):
    """Without its norms, and with gains as long as their kernels, a model computes the same."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = layers.LSTM(3)(layers.Reshape((-1, 4))(layers.BatchNormalization(name="norm")(x)))
    model = keras.Model(inputs, layers.Dense(2)(layers.LayerNormalization()(x)))
    x = rng.normal(size=(3, 8, 8, 3)).astype("float32")
    copy, report = keras_norms.convert(model, to)
    assert not [layer for layer in named_layers(copy).values() if is_norm(layer)]
    assert [change.after for change in report] == ["removed"] * 2
    assert any(variable.name == "bias" for variable in copy.layers[1].variables)  # was in the norm
    # At its start the first norm does nothing, but for epsilon.
    plain = keras.Model(model.input, model.layers[-3].output)
    shown = keras.Model(copy.input, copy.layers[-2].output)
    assert relative(outputs(shown, x), outputs(plain, x)) < 1e-2


def test_norms_that_are_in_no_graph_are_taken_away(rng):
    model, x = make("subclassed", rng)
    copy, report = keras_norms.convert(model, "none")
    assert not [layer for layer in named_layers(copy).values() if is_norm(layer)]
    assert np.isfinite(outputs(copy, x)).all() and report.changed == report


def test_the_model_survives_the_training_of_its_copy(rng):
    """On JAX, a step frees the arrays that it replaces: none may be the model's."""
    model, x = make("sequential", rng)
    before = outputs(model, x)
    for to in ("bn", "gn(groups=2)", "none"):
        copy, _ = keras_norms.convert(model, to)
        copy.compile("adam", "mse")
        copy.train_on_batch(x, np.zeros_like(keras.ops.convert_to_numpy(copy(x))))
        np.testing.assert_array_equal(outputs(model, x), before)
