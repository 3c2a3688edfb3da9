"""The XLA programs of `keras_norms.fused` compute what the layers do, or leave it to them."""

import collections
import functools
import gc
import math
import threading
import weakref

import keras
import numpy as np
import pytest

import keras_norms
from tests.support import reference
from tests.support.child import run_tests
from tests.support.norms import (
    BACKEND,
    BY_NAME,
    NORMS,
    assert_close,
    in_turn,
    over,
    random_layer,
    values,
)

if BACKEND != "tensorflow":
    pytest.skip("needs TensorFlow", allow_module_level=True)
import tensorflow as tf

from keras_norms import fused, programs
from tests.support.both_ways import both, function

FUSIBLE = tuple(norm for norm in NORMS if norm.cls.fusible and not norm.held)
SHAPE = (4, 5, 6, 8)


@pytest.fixture
def calls(monkeypatch):
    """How often layers were fused, which small ones are as well here."""
    monkeypatch.setattr(fused, "LEAST_ELEMENTS", 0)
    count = collections.Counter()
    apply = fused.normalize

    def counted(layer, *arguments):
        count[layer.name] += 1
        return apply(layer, *arguments)

    monkeypatch.setattr(fused, "normalize", counted)
    return count


OPTIONS = {
    "ghost batches": ("sn", {"ghost_batch_size": 3}),
    "no gamma": ("bn", {"scale": False}),
    "no beta": ("gn", {"center": False}),
    "neither": ("sn_all", {"scale": False, "center": False}),
    "one replica": ("bin", {"synchronized": True}),
    "batch statistics alone": ("sn", {"statistics": ("batch",)}),
    "steps": ("bn", {"batch_axis": (0, 1), "max_steps": 3}),
    "clipping without renorm": ("bn", {"renorm_clipping": {"rmax": 3.0}}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, rng, calls):
    norm, options = OPTIONS[name]
    layer = random_layer(BY_NAME[norm], SHAPE, rng, **options)
    for one, other in both(layer, rng.normal(3, 2, SHAPE), rng.normal(0, 1, SHAPE)):
        assert_close(other, one, 1e-9)
    assert calls[layer.name] == 1


@over(FUSIBLE)
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "shape, batch_axis",
    [
        (SHAPE, 0),
        pytest.param((3, 31, 8), 0, marks=pytest.mark.slow),
        pytest.param((2, 3, 7, 8), (0, 1), marks=pytest.mark.slow),
        pytest.param((2, 3, 2, 4, 8), 0, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_programs_and_the_layer_agree(norm, shape, batch_axis, jit_compile, rng, calls):
    layer = random_layer(norm, shape, rng, batch_axis=batch_axis)
    x, dy = rng.normal(3, 2, shape), rng.normal(0, 1, shape)
    for one, other in both(layer, x, dy, jit_compile=jit_compile):
        assert_close(other, one, 1e-9)
    assert calls[layer.name] == 1


@pytest.mark.parametrize("norm, size", in_turn(FUSIBLE, (4, 1), always=[BY_NAME["sn_all"]]))
def test_batches_of_unknown_size(norm, size, rng, calls):
    layer = random_layer(norm, SHAPE, rng)
    signature = [tf.TensorSpec((None, *SHAPE[1:]), "float64")]
    x, dy = rng.normal(3, 2, (size, *SHAPE[1:])), rng.normal(0, 1, (size, *SHAPE[1:]))
    for one, other in both(layer, x, dy, signature=signature):
        assert_close(other, one, 1e-9)
    assert calls


@pytest.mark.parametrize("known", [0, None])
@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
@pytest.mark.parametrize("name", ["bn", "sn", "bin"])
def test_an_empty_batch_moves_nothing(name, epsilon, known, rng, calls):
    layer = random_layer(BY_NAME[name], SHAPE, rng, epsilon=epsilon)
    before = values(layer)
    run = function(layer, 0.0, signature=[tf.TensorSpec((known, *SHAPE[1:]), "float64")])
    _, dx, *slopes = run(tf.zeros((0, *SHAPE[1:]), "float64"))
    assert calls and dx.shape == (0, *SHAPE[1:])
    assert all(np.isfinite(slope).all() for slope in slopes)
    for name, value in values(layer).items():
        assert_close(value, before[name], 0)


# Programs take long to compile, of the second order most: the others' are in the full matrices.
@over([BY_NAME["bn"], BY_NAME["gn"], BY_NAME["sn_all"]], default=["gn"])
def test_gradients_of_gradients(norm, rng, calls):
    layer = random_layer(norm, SHAPE, rng)
    x, dy = rng.normal(3, 2, SHAPE), rng.normal(0, 1, SHAPE)
    for one, other in both(layer, x, dy, order=2):
        assert_close(other, one, 1e-7)
    assert calls


@pytest.mark.parametrize("norm, policy", in_turn(FUSIBLE, ("mixed_bfloat16", "mixed_float16")))
def test_mixed_precision(norm, policy, rng, calls):
    """As exact as half precision can tell, with gradients in the dtype of what they belong to."""
    layer = random_layer(norm, SHAPE, rng, dtype=policy)
    half = policy[len("mixed_") :]
    x, dy = tf.cast(rng.normal(3, 2, SHAPE), half), rng.normal(0, 1, SHAPE)
    for one, other in both(layer, x, dy):
        assert_close(other, one, 0.05)
    y, dx, *slopes = function(layer, dy)(x)
    assert calls and (y.dtype, dx.dtype) == (half, half)
    assert {slope.dtype for slope in slopes} == {tf.float32}
    exact, _ = reference.expected(layer, tf.cast(x, "float64").numpy(), training=True)
    assert_close(tf.cast(y, "float64"), exact, 0.02 if policy == "mixed_bfloat16" else 2e-3)


def far_off(rng, shape, where):
    """Standard normal numbers, but for large ones."""
    x = rng.standard_normal(shape, "float32")
    if where == "all":
        return x + np.float32(1e4)
    if where == "channels":
        return x + rng.uniform(-1e4, 1e4, shape[-1]).astype("float32")
    # The pivots of all sets, or of one.
    x[(slice(None), 0, 0) if where == "pivots" else (0, 0, 0, 0)] = 1e6
    return x


@over(FUSIBLE)
@pytest.mark.parametrize("where", ["all", "channels", "pivots", "pivot"])
def test_accuracy_at_large_numbers(norm, where, rng, calls):
    """Within 1e-5 of float64 at large means, and 1e-3 where the pivot is an outlier."""
    shape, limit = (16, 16, 16, 8), 1e-5 if where in ("all", "channels") else 1e-3
    x, dy = far_off(rng, shape, where), rng.standard_normal(shape, "float32")
    layer, exact = norm(), norm(dtype="float64")
    layer.build(shape), exact.build(shape)
    found = function(layer, dy)(tf.constant(x))
    assert calls[layer.name] == 1
    with tf.GradientTape() as tape:
        wide = tf.constant(x, "float64")
        tape.watch(wide)
        y = exact(wide, training=True)
        loss = tf.reduce_sum(y * dy)
    weights = [variable.value for variable in exact.trainable_variables]
    expected = y, *tape.gradient(loss, [wide, *weights])
    for one, other in zip(found, expected, strict=True):
        one, other = tf.cast(one, "float64").numpy(), other.numpy()
        assert np.linalg.norm(one - other) <= limit * max(np.linalg.norm(other), 0.1)
    for name, value in values(exact).items():
        assert_close(values(layer)[name], value, limit)


def test_what_is_no_number_stays_in_its_sample(rng, calls):
    x = rng.standard_normal(SHAPE, "float32")
    x[0, 0, 0, 0] = np.nan
    for name in ("in", "gn", "ln", "sn_no_batch"):
        y = tf.function(BY_NAME[name]())(tf.constant(x), training=True)
        assert np.isnan(y[0]).any() and np.isfinite(y[1:]).all()
    layer = BY_NAME["bn"]()
    tf.function(layer)(tf.constant(x), training=True)
    assert np.isnan(values(layer)["moving_variance"]).any()
    assert len(calls) == 5


@over(FUSIBLE, default=["bn"])
def test_forward_mode_is_that_of_finite_differences(norm, rng, calls):
    layer = random_layer(norm, SHAPE, rng)
    x, direction, weight = (tf.constant(rng.normal(2, 3, SHAPE)) for _ in range(3))

    def value(x):
        return tf.reduce_sum(tf.sin(layer(x, training=True)) * weight)

    @tf.function
    def slope(x, direction):
        with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
            y = value(x)
        return accumulator.jvp(y)

    step = 1e-5
    expected = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    assert_close(slope(x, direction), expected, 1e-5)
    assert calls


@over(FUSIBLE, default=["bn"])
def test_a_gradient_penalty_in_float32(norm, rng):
    """The gradient of the squared gradient is as precise as by the layers' own path."""
    shape = (8, 32, 32, 16)
    x, weight = rng.normal(2, 2, shape), rng.normal(0, 1, shape)

    def penalty_slope(dtype, fusible):
        layer = norm(dtype=dtype)
        layer.build(shape)
        layer.fusible = fusible

        @tf.function
        def slope(x):
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = tf.reduce_sum(layer(x, training=True) * tf.constant(weight, dtype))
                penalty = tf.reduce_sum(tf.square(tape.gradient(y, x)))
            return outer.gradient(penalty, x)

        return slope(tf.constant(x, dtype)).numpy().astype("float64")

    expected = penalty_slope("float64", False)
    error = penalty_slope("float32", True) - expected
    assert np.linalg.norm(error) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("number", [2, pytest.param(16, marks=pytest.mark.slow)])
def test_threads_train_models_of_their_own(number, calls):
    """Many at a time, two of each norm, and each with programs that no other thread has."""
    failures, caches = [], []

    def train(index):
        try:
            fitted(FUSIBLE[index // 2 % len(FUSIBLE)], np.random.default_rng(index))
            caches.append(programs.here())
        except Exception as error:  # whatever TensorFlow makes of a race
            failures.append(repr(error))

    threads = [threading.Thread(target=train, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and calls
    assert len(set(caches)) == number


def test_layers_of_one_kind_share_programs(rng, calls):
    programs.here().cache_clear()
    kinds = (
        (SHAPE, {}),
        (SHAPE, {"gamma_initializer": functools.partial(keras.ops.zeros), "name": "another"}),
        (SHAPE, {"epsilon": 0.5}),
        ((4, 6, 6, 8), {}),
    )
    sizes = []
    for shape, options in kinds:
        layer = random_layer(BY_NAME["bn"], shape, rng, **options)
        for one, other in both(layer, rng.normal(3, 2, shape), rng.normal(0, 1, shape)):
            assert_close(other, one, 1e-9)  # each with weights of its own
        sizes.append(programs.here().cache_info().currsize)
    assert sizes == [1, 1, 2, 3]


@pytest.mark.parametrize("name", ["gn", "sn"])
def test_groups_of_numpy(name, calls):
    layer = BY_NAME[name].cls(groups=np.gcd(4, 8))
    assert type(layer.get_config()["groups"]) is int
    tf.function(layer)(tf.ones(SHAPE), training=True)
    assert calls


def test_programs_keep_no_model(rng, calls):
    programs.here().cache_clear()
    model = fitted(BY_NAME["bn"], rng)
    assert calls
    layer = weakref.ref(model.layers[1])
    del model
    gc.collect()
    assert layer() is None


class Shifted(keras_norms.InstanceNormalization):
    """A layer that does more than compute where its statistics come from."""

    calls = 0

    def mean_and_inverse_std(self, instance, batch, weights):
        self.calls += 1
        mean, inverse_std = super().mean_and_inverse_std(instance, batch, weights)
        return mean + self.calls, inverse_std


def test_other_peoples_layers_compute_themselves(rng, calls):
    x, layer = tf.constant(rng.normal(3, 2, SHAPE)), Shifted(dtype="float64")
    layer.build(SHAPE)
    function(layer, 0.0)(x)
    assert layer.calls == 1 and not calls


STANDS_ASIDE = {
    "a mask": (SHAPE, {}, {"mask": np.ones((4, 5), bool)}),
    "channels that are not last": (SHAPE, {"axis": 1}, {}),
    "no positions": ((6, 8), {}, {}),
    "every token a sample": ((6, 5, 8), {"batch_axis": (0, 1)}, {}),
    "samples that are not first": ((5, 6, 8), {"batch_axis": 1}, {}),
    "frozen weights": (SHAPE, {"trainable": False}, {}),
}


@pytest.mark.parametrize("name", STANDS_ASIDE)
def test_where_the_layer_computes_itself(name, rng, calls):
    shape, arguments, options = STANDS_ASIDE[name]
    layer = keras_norms.SwitchableNormalization(dtype="float64", **arguments)
    layer.build(shape)
    x, weights = tf.constant(rng.normal(3, 2, shape)), layer.get_weights()
    expected = layer(x, training=True, **options)
    layer.set_weights(weights)
    assert_close(tf.function(layer)(x, training=True, **options), expected)
    assert not calls


@pytest.mark.parametrize("shape, batch_axis", [((6, 8), 0), ((6, 5, 8), (0, 1))], ids=str)
def test_batch_norm_pools_samples_as_positions(shape, batch_axis, rng, calls):
    layer = random_layer(BY_NAME["bn"], shape, rng, batch_axis=batch_axis)
    for one, other in both(layer, rng.normal(3, 2, shape), rng.normal(0, 1, shape)):
        assert_close(other, one, 1e-9)
    assert calls


def test_small_and_unknown_sizes_and_inference_are_the_layers(monkeypatch, calls):
    layer = keras_norms.GroupNormalization(2)
    layer.build((None, None, None, 8))

    def trace(shape, training=True):
        tf.function(layer).get_concrete_function(tf.TensorSpec(shape), training=training)

    trace((4, None, 6, 8))
    trace(SHAPE, training=False)
    layer(tf.ones(SHAPE), training=True)  # eager
    elements = int(np.prod(SHAPE[1:]))
    monkeypatch.setattr(fused, "LEAST_ELEMENTS", elements + 1)
    trace(SHAPE)
    trace((None, *SHAPE[1:]))
    assert not calls
    monkeypatch.setattr(fused, "LEAST_ELEMENTS", elements)
    trace((1, *SHAPE[1:]))  # no batch is too small, or a run would change over at its last one
    trace((None, *SHAPE[1:]))
    assert calls[layer.name] == 2


def test_the_backward_pass_keeps_the_input_and_little_more(rng, calls):
    """No tensor of the size of an activation enters the backward program but `x` and `dy`."""
    layer = random_layer(BY_NAME["sn_all"], SHAPE, rng, dtype="float32")
    graph = function(layer, 1.0).get_concrete_function(tf.TensorSpec(SHAPE)).graph
    functions = {f.signature.name: f for f in graph.as_graph_def().library.function}
    kept = []
    for node in (node for f in functions.values() for node in f.node_def):
        if node.attr["_XlaMustCompile"].b and "gradients" in node.name:
            program = functions[node.attr["f"].func.name]
            for i in range(len(program.signature.input_arg)):
                (shape,) = program.arg_attr[i].attr["_output_shapes"].list.shape
                kept.append(tuple(size.size for size in shape.dim))
    assert kept.count(SHAPE) == 2
    assert max(math.prod(shape) for shape in kept if shape != SHAPE) == SHAPE[0] * SHAPE[-1]


def fitted(norm, rng, **compile_options):
    x, y = rng.normal(3, 2, (10, *SHAPE[1:])), rng.integers(0, 3, 10)
    model = keras.Sequential(
        [
            keras.layers.Input(SHAPE[1:]),
            keras.layers.Conv2D(8, 3),
            norm(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **compile_options,
    )
    model.fit(x.astype("float32"), y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model


@over([BY_NAME["bn"], BY_NAME["sn"]], default=["sn"])
def test_fit_and_export(norm, rng, tmp_path, monkeypatch, calls):
    """A partial batch at the end of an epoch, then a file that needs no XLA."""
    seed = rng.bit_generator.state
    models = []
    for least in (0, 10**9):
        monkeypatch.setattr(fused, "LEAST_ELEMENTS", least)
        rng.bit_generator.state = seed
        keras.utils.set_random_seed(0)
        models.append(fitted(norm, rng))
    assert len(calls) == 1
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        assert_close(one, other, 1e-4)
    monkeypatch.setattr(fused, "LEAST_ELEMENTS", 0)
    models[0].export(tmp_path / "model", verbose=False)
    assert b"XlaMustCompile" not in (tmp_path / "model" / "saved_model.pb").read_bytes()
    served = tf.saved_model.load(tmp_path / "model")
    x = rng.normal(3, 2, (3, *SHAPE[1:])).astype("float32")
    assert_close(served.serve(x), models[0].predict(x, verbose=0), 1e-5)


def test_fit_on_one_replica(rng, calls):
    """Where every `fit` has threads of its own, which share the programs of the strategy."""
    strategy, sizes = tf.distribute.MirroredStrategy(["CPU:0"]), []
    for _ in range(2):
        with strategy.scope():
            model = fitted(BY_NAME["sn"], rng)
            sizes.append(programs.here().cache_info().currsize)
        assert calls and all(np.isfinite(weight).all() for weight in model.get_weights())
    assert sizes == [1, 1]


@pytest.mark.process
@pytest.mark.slow
def test_what_else_is_known_of_the_layers():
    """Tests that know nothing of the programs, with all that can be fused."""
    names = ("graph", "ghost", "laws", "precision", "masks", "statistics", "lstm")
    files = [f"tests/layers/test_{name}.py" for name in names]
    run_tests("-m", "not slow", *files, "tests/training/test_nonfinite.py", FUSE_EVERYTHING="1")


@pytest.mark.slow
def test_recomputed_gradients(rng, calls):
    layer = random_layer(BY_NAME["sn"], SHAPE, rng)
    x, dy = tf.constant(rng.normal(3, 2, SHAPE)), rng.normal(0, 1, SHAPE)
    kept = function(layer, dy)(x)
    remade = tf.recompute_grad(lambda x: layer(x, training=True))

    @tf.function
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = remade(x)
            loss = tf.reduce_sum(y * dy)
        return y, tape.gradient(loss, x)

    for one, other in zip(run(x), kept[:2], strict=True):
        assert_close(one, other, 1e-9)
    assert calls


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"jit_compile": True}, {"steps_per_execution": 3}], ids=str)
def test_fit_otherwise(options, rng, calls):
    model = fitted(BY_NAME["sn"], rng, **options)
    assert calls and all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.parametrize("fusible", [True, False])
def test_fit_with_one_statistic(fusible, rng, calls):
    """Its logits change nothing. Keras warns of weights without a gradient, which is an error."""
    layer = keras_norms.SwitchableNormalization(statistics=("batch",))
    layer.fusible = fusible
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    model.compile("sgd", "mse")
    x = rng.normal(3, 2, SHAPE)
    model.fit(x, x, verbose=0)
    assert bool(calls) == fusible
    assert layer.importance()["mean"] == {"batch": 1.0}
