"""The models of a comparison begin alike, and the user's model stays as it was."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_norms
from keras_norms.model_layers import is_norm, named_layers
from keras_norms.selection.candidates import Candidates, Recipe
from keras_norms.selection.data import Samples
from tests.selection.made import mlp, points, state
from tests.surgery.models import subclassed

NORMS = ("bn", "gn(2)", "sn(statistics=('layer', 'batch'))", "none", "wn")


def candidates(model, **recipe):
    return Candidates(model, Samples(*points()), Recipe(32, **recipe))


def kernels(model):
    found = [layer for layer in named_layers(model).values() if isinstance(layer, layers.Dense)]
    return [keras.ops.convert_to_numpy(layer.kernel) for layer in found]


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_all_norms_begin_with_the_same_weights_and_seeds_differ():
    model = mlp()
    before = state(model)
    makers = candidates(model)
    first = [kernels(makers.make(norm, 32, 0)) for norm in NORMS]
    for own in first[1:4]:
        assert_equal(own, first[0])
    # Weight norm is initialized from the data, which keeps the directions of the kernels.
    direction = [k / np.linalg.norm(k, axis=0) for k in (first[4][0], first[0][0])]
    np.testing.assert_allclose(*direction, atol=1e-6)
    assert (kernels(makers.make("bn", 32, 1))[0] != first[0][0]).any()
    assert_equal(kernels(makers.make("bn", 32, 0)), first[0])
    assert_equal(before[0], state(model)[0])
    assert before[1:] == state(model)[1:]


def test_a_model_is_traced_once_and_begins_anew():
    makers = candidates(mlp())
    model = makers.get("bn", 32, 0)
    before = state(model)[0]
    model.train_on_batch(*points(32))
    function = model.train_function
    assert makers.get("bn", 32, 0) is model and model.train_function is function
    assert_equal(before, state(model)[0])


def test_nothing_is_shared_with_the_model():
    model = mlp()
    copy = candidates(model).make("bn", 32, 0)
    assert copy.optimizer is not model.optimizer and copy.loss is model.loss  # without a state
    assert {id(v) for v in copy.variables}.isdisjoint(id(v) for v in model.variables)
    assert not set(map(id, copy.metrics)) & set(map(id, model.metrics))


def test_weights_may_be_kept_and_frozen_ones_are():
    model = mlp()
    model.layers[0].trainable = False
    model.compile("adam", "mse")
    assert_equal(kernels(candidates(model).make("gn(2)", 32, 3))[:1], kernels(model)[:1])
    assert (kernels(candidates(model).make("gn(2)", 32, 3))[1] != kernels(model)[1]).any()
    kept = candidates(model, keep_weights=True).make("gn(2)", 32, 3)
    assert_equal(kernels(kept), kernels(model))


def test_the_rate_follows_the_batch():
    assert float(candidates(mlp()).make("bn", 8, 0).optimizer.learning_rate) == pytest.approx(
        2.5e-4
    )
    assert float(candidates(mlp(), ghost=True).make("bn", 8, 0).optimizer.learning_rate) == (
        pytest.approx(1e-3)
    )
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    optimizer = candidates(mlp(keras.optimizers.SGD(decay))).make("bn", 8, 0).optimizer
    optimizer.iterations.assign(40)  # as many samples as 10 steps of 32
    assert float(optimizer.learning_rate) == pytest.approx(0.1 * 0.5 / 4)
    again = type(optimizer).from_config(optimizer.get_config())
    again.iterations.assign(40)
    assert float(again.learning_rate) == pytest.approx(0.1 * 0.5 / 4)


def test_ghost_batches():
    makers = candidates(mlp(), ghost=True)
    model = makers.make("bn", 8, 0)
    assert [n.ghost_batch_size for n in model.layers if is_norm(n)] == [8]
    for norm in ("bn", "gn(2)"):
        makers.get(norm, 32, 0)
    assert makers.size("bn", 8) == 8 and makers.size("gn(2)", 8) == 32

    def build(norm):
        return mlp()

    with pytest.raises(ValueError, match="needs norms of keras_norms"):
        candidates(build, ghost=True).make("bn", 8, 0)


def test_norms_may_be_exempt_from_decay():
    optimizer = keras.optimizers.AdamW(1e-3)
    configured = candidates(mlp(optimizer), configure_optimizer=True).make("bn", 32, 0).optimizer
    assert any("gamma" in path for path in configured.no_decay_paths)
    assert not any("kernel" in path for path in configured.no_decay_paths)


def own_loss(y, prediction):
    return keras.ops.mean(keras.ops.square(prediction), -1)


def test_functions_that_keras_does_not_know():
    model = mlp(loss=own_loss, metrics=[own_loss])
    assert candidates(model).make("gn(2)", 32, 0).loss is own_loss
    model = mlp(loss=lambda y, p: own_loss(y, p))
    assert candidates(model).make("gn(2)", 32, 0).loss is model.loss


def test_subclassed_models():
    model = subclassed()
    model.compile("adam", "mse")
    copy = candidates(model).make("gn(2)", 32, 0)
    assert copy.compiled and copy.loss == "mse"
    assert any(isinstance(n, keras_norms.GroupNormalization) for n in named_layers(copy).values())


def test_a_function_of_a_norm():
    def build(norm):
        return mlp(norm=keras_norms.get(norm).normalize)

    makers = candidates(build)
    makers.check()
    assert_equal(*(kernels(makers.make("gn(2)", 32, 1)) for _ in range(2)))
    with pytest.raises(ValueError, match="must return a built and compiled"):
        candidates(lambda norm: keras.Sequential([layers.Dense(1)])).make("bn", 32, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: keras.Sequential([keras.Input((6,)), layers.BatchNormalization()]), "compiled"),
        (lambda: mlp(norm=layers.ReLU), "no norm that could be replaced.*function"),
        (lambda: 3, "compiled Keras model, or a function.*int"),
    ],
)
def test_models_that_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        candidates(change()).check()


def test_an_optimizer_with_exclusions_is_refused():
    optimizer = keras.optimizers.AdamW(1e-3)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    for wrap in (lambda each: each, keras.optimizers.LossScaleOptimizer):
        with pytest.raises(ValueError, match="exclude_from_weight_decay"):
            candidates(mlp(wrap(optimizer))).check()


def test_frozen_norms_stay_with_what_they_have_learnt():
    body = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.BatchNormalization()])
    for variable in body.layers[1].variables:
        variable.assign(np.full(variable.shape, 0.5))
    head = [layers.Dense(8), layers.BatchNormalization(name="head_norm"), layers.Dense(2)]
    model = keras.Sequential([keras.Input((6,)), body, *head])
    body.trainable = False
    model.compile("adam", "mse")
    copy = candidates(model).make("gn(2)", 32, 0)
    x = points()[0]
    assert_equal([copy.layers[0](x)], [body(x)])
    assert isinstance(copy.get_layer("head_norm"), keras_norms.GroupNormalization)
    model.trainable = False
    with pytest.raises(ValueError, match="no norm that could be replaced.*frozen"):
        candidates(model).check()


def test_a_norm_that_the_model_cannot_take():
    with pytest.raises(ValueError, match="'in' cannot be put into this model.*(?s:.)*spatial"):
        candidates(mlp()).make("in", 32, 0)
