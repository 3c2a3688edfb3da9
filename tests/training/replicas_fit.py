"""`fit` on two replicas, with what `fit` and `compile` offer. Run by test_replicas.py.

Where one device can do the same, it has to have the same result: with synchronized statistics on
the whole batch, without on slices of it (`ghost_batch_size`).
"""

import contextlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_norms
from tests.support.mirrored import assert_copies_agree, copies, mirrored
from tests.support.norms import BY_NAME, MOVING
from tests.tools import test_callbacks
from zoo import data
from zoo.training import distribution

REPLICAS, BATCH = 2, 8
SGD = keras.optimizers.SGD


@pytest.fixture(scope="module", autouse=True)
def devices():
    mirrored(REPLICAS)  # before TensorFlow has only one


@contextlib.contextmanager
def scope(replicas):
    """Of a strategy if there are several; where models have the same weights and names."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    with mirrored(replicas).scope() if replicas > 1 else contextlib.nullcontext():
        yield


def net(norm, vectors=False, **options):
    """A model of one norm, by default of images."""
    inputs = keras.Input((6,) if vectors else (4, 4, 3))
    x = layers.Dense(8)(inputs) if vectors else layers.Conv2D(8, 3)(inputs)
    x = layers.ReLU()(norm(name="norm", **options)(x))
    x = x if vectors else layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(1, dtype="float32")(x))


def examples(samples, vectors=False):
    """Samples of different means, so that no two replicas have the same statistics."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (samples, *((6,) if vectors else (4, 4, 3)))).astype("float32")
    x *= rng.uniform(0.5, 2, (samples, *(1,) * (x.ndim - 1))).astype("float32")
    x[::8] += 2
    return x, np.sign(x.reshape(samples, -1)[:, :1])


def trained(
    model,
    samples=24,
    vectors=False,
    optimizer=None,
    unknown=False,
    length=None,
    epochs=1,
    **compilation,
):
    """`(model, losses)` after training on batches of eight."""
    x, y = examples(samples, vectors)
    optimizer = optimizer(model) if optimizer else SGD(0.05, momentum=0.9)
    model.compile(optimizer, "mse", **{"jit_compile": False, **compilation})
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    if unknown:
        batches = batches.filter(lambda *_: True)
        assert batches.cardinality() == tf.data.UNKNOWN_CARDINALITY
    if length:
        batches = batches.apply(tf.data.experimental.assert_cardinality(length))
    history = model.fit(batches, epochs=epochs, shuffle=False, verbose=0).history
    return model, history["loss"]


def assert_sound(model, tmp_path, samples=24, vectors=False, counted=True):
    """Replicas agree on everything, all is finite, and a file holds the model that is live.

    `counted`: on the number of steps too. Where Keras finds out that the data has ended, it has
    counted one more on some replicas.
    """
    assert_copies_agree(model.variables)
    assert_copies_agree(v for v in model.optimizer.variables if counted or v.name != "iteration")
    for variable in model.variables:
        assert np.isfinite(copies(variable)[0]).all(), variable.path
    for name in ("moving_mean", "moving_variance"):
        moving = getattr(model.get_layer("norm"), name, None)
        if moving is not None:
            assert np.abs(copies(moving)[0] - (name == "moving_variance")).max() > 1e-3
    x, _ = examples(samples, vectors)
    live = model.predict(x, batch_size=BATCH, verbose=0)
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")(x, training=False)
    np.testing.assert_allclose(live, reloaded, rtol=1e-5, atol=1e-5)


def assert_same(model, single, names=None, tolerance=1e-5):
    for variable, other in zip(model.variables, single.variables, strict=True):
        assert variable.path == other.path
        if names is None or variable.name in names:
            value = copies(variable)[0]
            np.testing.assert_allclose(
                value, other.numpy(), rtol=tolerance, atol=tolerance, err_msg=variable.path
            )


def configured(model):
    return keras_norms.configure_optimizer(
        SGD(0.05, momentum=0.9), model, control_multiplier=10.0, l2=0.01, skip_nonfinite=True
    )


def averaging(model):
    return SGD(0.05, momentum=0.9, use_ema=True, ema_momentum=0.5)


def scaled(model):
    inner = SGD(0.05, momentum=0.9, global_clipnorm=1.0)
    return keras_norms.LossScaleOptimizer(keras_norms.configure_optimizer(inner, model))


def pairs(features, default):
    """Feature x norm x synchronized; those in `default` always, the rest when there is time."""
    return [
        pytest.param(
            *(feature, norm, synchronized),
            id=f"{feature}-{norm}-{'synchronized' if synchronized else 'apart'}",
            marks=[] if default.get(feature) == (norm.name, synchronized) else pytest.mark.slow,
        )
        for feature in features
        for norm in MOVING
        for synchronized in (False, True)
    ]


SAME = {
    "plain": {},
    "unknown_cardinality": {"unknown": True, "epochs": 2},
    "asserted_cardinality": {"unknown": True, "length": 3, "epochs": 2},
    "steps_per_execution": {"steps_per_execution": 2},
    "ema": {"optimizer": averaging},
    "configured": {"optimizer": configured},
}
SOUND = {
    "clipnorm": {"optimizer": lambda _: keras.optimizers.Adam(0.05, clipnorm=0.01)},
    "global_clipnorm": {"optimizer": lambda _: keras.optimizers.Adam(0.05, global_clipnorm=0.01)},
    "clipvalue": {"optimizer": lambda _: keras.optimizers.Adam(0.05, clipvalue=0.01)},
    "mixed_bfloat16": {},
    "mixed_float16": {"optimizer": scaled},
}


class TestFit:
    @pytest.mark.filterwarnings("ignore:Your input ran out of data")  # its length is unknown
    @pytest.mark.parametrize(
        "feature, norm, synchronized",
        pairs(
            SAME,
            {
                "asserted_cardinality": ("mean_only_bn", False),
                "steps_per_execution": ("bn", True),
                "ema": ("sn", False),
                "configured": ("bin", True),
            },
        ),
    )
    def test_the_same_as_one_device(self, feature, norm, synchronized, tmp_path):
        options = SAME[feature]
        with scope(REPLICAS):
            model = net(norm, synchronized=synchronized)
            model, losses = trained(model, **options)
        size = None if synchronized else BATCH // REPLICAS
        with scope(1):
            single = net(norm, ghost_batch_size=size)
            options = {**options, "steps_per_execution": 1}
            single, expected = trained(single, run_eagerly=True, **options)
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        assert_same(model, single)
        assert_sound(model, tmp_path, counted=feature != "unknown_cardinality")

    @pytest.mark.slow
    @pytest.mark.parametrize("synchronized", [False, True])
    @pytest.mark.parametrize("norm", MOVING, ids=str)
    def test_eight_replicas(self, norm, synchronized, tmp_path):
        with scope(8):
            model, losses = trained(net(norm, synchronized=synchronized))
        with scope(1):
            size = None if synchronized else 1
            single, expected = trained(net(norm, ghost_batch_size=size), run_eagerly=True)
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
        assert_same(model, single)
        assert_sound(model, tmp_path)

    @pytest.mark.parametrize(
        "feature, norm, synchronized",
        pairs(
            SOUND,
            {
                "global_clipnorm": ("bn", False),
                "mixed_float16": ("sn", True),
                "mixed_bfloat16": ("bin", False),
            },
        ),
    )
    def test_sound(self, feature, norm, synchronized, tmp_path):
        if feature.startswith("mixed"):
            keras.config.set_dtype_policy(feature)
        with scope(REPLICAS):
            model = net(norm, synchronized=synchronized)
            model, losses = trained(model, epochs=2, **SOUND[feature])
        assert losses[1] < losses[0]
        assert_sound(model, tmp_path)

    @pytest.mark.parametrize(
        "feature, norm, synchronized",
        pairs(
            ("uneven", "empty"),
            {"uneven": ("sn_all", True), "empty": ("bn", False)},
        ),
    )
    def test_an_uneven_last_batch(self, feature, norm, synchronized, tmp_path):
        """Three samples here and two there, or one and none; all count alike in the statistics."""
        samples, vectors = {"uneven": (21, False), "empty": (17, True)}[feature]
        if vectors and norm.needs_spatial:
            pytest.skip("needs positions, and a convolution fails on an empty replica")
        with scope(REPLICAS):
            model = net(norm, vectors, synchronized=synchronized)
            model, _ = trained(model, samples, vectors)
        assert_sound(model, tmp_path, 24, vectors)
        if synchronized or feature == "empty":  # slices of 4 + 1 are not 3 + 2
            size = None if synchronized else BATCH // REPLICAS
            with scope(1):
                single = net(norm, vectors, ghost_batch_size=size)
                # Not eagerly: a batch that is known to have one sample is refused.
                single, _ = trained(single, samples, vectors, run_eagerly=not vectors)
            assert_same(model, single, ("moving_mean", "moving_variance"))

    @pytest.mark.slow
    def test_what_no_keras_model_can_do(self):
        """If one of these passes, docs/REPLICAS.md has to be shortened."""

        def fit(samples, **compilation):
            with scope(REPLICAS):
                inputs = keras.Input((4, 4, 3))
                hidden = layers.Flatten()(layers.Conv2D(8, 3)(inputs))
                model = keras.Model(inputs, layers.Dense(1)(hidden))
                trained(model, samples, **compilation)

        with pytest.raises(tf.errors.InvalidArgumentError, match="AddN"):
            fit(5)  # the first batch: 3 + 2
        with pytest.raises(tf.errors.OpError, match="Conv2D|[Ss]hape"):
            fit(17)  # the last batch: 1 + 0
        with pytest.raises(tf.errors.OpError):
            fit(16, jit_compile=True)

    def test_data_of_the_zoo_is_never_uneven(self):
        """Not the first batch, where every Keras model fails, and not the last one."""
        digits = data.load("digits", train_examples=70, test_examples=35)
        for replicas in (2, 4, 8):
            for batches in (digits.train_batches(16, 0).take(9), digits.test_batches(16)):
                distributed = mirrored(replicas).experimental_distribute_dataset(batches)
                for x, *_ in distributed:
                    assert [len(part) for part in x.values] == [16 // replicas] * replicas


class TestOptimizers:
    def line(self, replicas=REPLICAS):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,))
        return keras.Model(inputs, layers.Dense(1, name="dense")(inputs))

    @pytest.mark.parametrize("replica", range(REPLICAS))
    def test_an_overflow_on_any_replica(self, replica):
        """Skips the step, and halves the scale; Keras's own looks at the first replica only."""
        x, y = np.ones((4, 3), "float32"), np.zeros((4, 1), "float32")
        y[2 * replica :][:2] = 1e36
        with scope(REPLICAS):
            model = self.line()
            optimizer = keras_norms.LossScaleOptimizer(SGD(1e-3), initial_scale=2.0**15)
            model.compile(optimizer, "mse", jit_compile=False)
        before = model.get_weights()
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        assert [float(scale) for scale in copies(optimizer.dynamic_scale)] == [2.0**14] * REPLICAS
        model.fit(x, np.zeros_like(y), batch_size=4, verbose=0)
        assert_copies_agree(model.variables + optimizer.variables)
        assert (model.get_weights()[0] != before[0]).all()

    @pytest.mark.parametrize("replica", range(REPLICAS))
    def test_what_is_not_finite_on_any_replica_is_skipped(self, replica):
        x, y = np.ones((4, 3), "float32"), np.zeros((4, 1), "float32")
        x[2 * replica] = np.nan
        with scope(REPLICAS):
            model = self.line()
            model.compile(configured(model), "mse", jit_compile=False)
        before = model.get_weights()
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        # Nothing but the decay of the kernel.
        np.testing.assert_allclose(model.get_weights()[0], before[0] * (1 - 0.05 * 0.01), 1e-6)
        np.testing.assert_array_equal(model.get_weights()[1], before[1])

    @pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
    def test_each_replica_clips_its_share(self, clip):
        """So that a limit L of one device is L / replicas here, for replicas of equal samples."""
        rng = np.random.default_rng(0)
        half, limit = rng.normal(0, 1, (2, 3)).astype("float32"), 1e-2
        x, y = np.concatenate([half, half]), np.ones((4, 1), "float32")
        start, end = self.clipped(x, y, lambda _, limit: SGD(1.0, **{clip: limit}), limit)
        moved = [np.sum((a - b) ** 2) for a, b in zip(start, end, strict=True)]
        total = np.sqrt(moved[0] if clip == "clipnorm" else sum(moved))
        np.testing.assert_allclose(total, limit, rtol=1e-4)

    @pytest.mark.parametrize("tokens", [False, True])
    def test_a_configured_optimizer_clips_the_whole(self, tokens):
        """... and for replicas of any samples. A token may occur more than once."""

        def embedded():
            inputs = keras.Input((3,), dtype="int32")
            return keras.Model(inputs, layers.Dense(1)(layers.Embedding(4, 2)(inputs)))

        def optimizer(model, limit):
            return keras_norms.configure_optimizer(SGD(1.0, global_clipnorm=limit), model)

        rng = np.random.default_rng(0)
        x = rng.normal(0, 1, (4, 3)).astype("float32") * np.float32([[1], [1], [9], [9]])
        x = np.array([[0, 0, 0], [0, 1, 1], [1, 2, 3], [3, 3, 3]]) if tokens else x
        y = np.ones((4, 3, 1) if tokens else (4, 1), "float32")
        start, end = self.clipped(x, y, optimizer, 1e-2, embedded if tokens else self.line)
        moved = sum(np.sum((a - b) ** 2) for a, b in zip(start, end, strict=True))
        np.testing.assert_allclose(np.sqrt(moved), 1e-2, rtol=1e-4)

    def clipped(self, x, y, optimizer, limit, make=None):
        """Weights before and after a step, which is the same on one device and on replicas."""
        weights = {}
        for replicas in (1, REPLICAS):
            with scope(replicas):
                model = (make or self.line)()
                chosen = optimizer(model, limit / replicas)
                model.compile(chosen, "mse", jit_compile=False)
            before = model.get_weights()
            model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
            weights[replicas] = model.get_weights()
        for one, two in zip(*weights.values(), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6)
        return before, weights[1]

    @pytest.mark.parametrize(
        "options",
        [{"gradient_accumulation_steps": 2}, {"use_ema": True, "ema_overwrite_frequency": 2}],
        ids=lambda options: list(options)[-1],
    )
    def test_what_keras_cannot_do_is_refused(self, options):
        """Conditions of the optimizer; Keras's own message is about `merge_call`."""
        x, y = np.ones((4, 3), "float32"), np.zeros((4, 1), "float32")
        with scope(REPLICAS):
            model = self.line()
            optimizer = keras_norms.configure_optimizer(SGD(0.1, **options), model)
            model.compile(optimizer, "mse", jit_compile=False)
        with pytest.raises(ValueError, match=f"{list(options)[-1]}.*several replicas"):
            model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        with scope(REPLICAS):
            plain = self.line()
            plain.compile(SGD(0.1, **options), "mse", jit_compile=False)
        with pytest.raises(RuntimeError, match="merge_call"):
            plain.fit(x, y, batch_size=4, verbose=0)
        with scope(1):
            single = self.line()
        single.compile(keras_norms.configure_optimizer(SGD(0.1, **options), single), "mse")
        single.fit(x, y, batch_size=2, verbose=0)

    def test_gradient_accumulation_on_one_device(self):
        """Two batches of four are one of eight, whose statistics are those of slices of four."""
        x, y = examples(BATCH)
        norm = BY_NAME["sn_all"]
        models = []
        for steps, size, ghost in ((2, 4, None), (None, 8, 4)):
            with scope(1):
                model = net(norm, ghost_batch_size=ghost)
            models.append(model)
            model.compile(SGD(0.1, gradient_accumulation_steps=steps), "mse", jit_compile=False)
            model.fit(x, y, batch_size=size, shuffle=False, verbose=0)
        for one, two in zip(*(m.trainable_variables for m in models), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6, err_msg=one.path)


class TestWeights:
    def model(self):
        options = {"mean_only_batch_norm": True, "synchronized": True}
        conv = layers.Conv1D(6, 3, activation="relu")
        rnn = layers.LSTM(4, dropout=1e-9, return_sequences=True)
        return keras.Sequential(
            [
                keras.Input((7, 3)),
                keras_norms.WeightNormalization(conv, **options),
                keras_norms.WeightNormalization(layers.Dense(4, use_bias=False)),
                keras_norms.WeightNormalization(rnn),
                keras_norms.WeightNormalization(layers.Dense(3), **options),
            ]
        )

    def test_weight_normalization_is_that_of_one_device(self):
        """Initialized by data from outside and from inside of the replicas, and trained."""
        rng = np.random.default_rng(0)
        x, y = (rng.normal(0, 1, shape).astype("float32") for shape in ((8, 7, 3), (8, 5, 3)))
        with scope(REPLICAS):
            mirror = self.model()
            mirror.compile(SGD(0.1, momentum=0.9), "mse", jit_compile=False)
        with scope(1):
            single = self.model()
            single.compile(SGD(0.1, momentum=0.9), "mse", run_eagerly=True)

        def check():
            assert_copies_agree(mirror.weights)
            assert_same(mirror, single, tolerance=1e-6)

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "data_dependent_init left out")
            for model in (mirror, single):
                assert len(keras_norms.data_dependent_init(model, x)) == 3
        check()
        before = single.get_weights()
        for model in (mirror, single):
            model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
        assert all((a != b).any() for a, b in zip(before, single.get_weights(), strict=True))
        check()
        strategy = mirrored(REPLICAS)
        parts = distribution.split(strategy, [x[:6], x[6:]])
        strategy.run(mirror.layers[0].initialize, [parts])
        single.layers[0].initialize(x)
        check()


class TestCallbacks:
    def test_a_switch_logger_writes_what_the_replicas_have(self, tmp_path):
        with scope(REPLICAS):
            model = test_callbacks.make_small_model()
        logger = test_callbacks.SwitchLogger(tmp_path, figures=False)
        test_callbacks.fit(model, logger, epochs=2)
        curve = test_callbacks.read_events(tmp_path)["switch/stem_norm/mean/batch"]
        share = keras_norms.importance(model)["stem_norm"]["mean"]["batch"]
        assert list(curve) == [0, 5, 10]
        assert curve[0] == pytest.approx(1 / 3) and abs(share - 1 / 3) > 1e-5
        assert curve[10] == pytest.approx(share, rel=1e-6)


class TestMetrics:
    def test_sums_go_on_where_each_replica_was(self):
        """As a checkpoint within an epoch keeps them."""
        with scope(REPLICAS):
            metric = keras.metrics.Mean()
            metric.update_state(0.0)
            metric.reset_state()
        strategy = mirrored(REPLICAS)

        def add(values):
            parts = distribution.split(strategy, [np.float32(v) for v in values])
            strategy.run(tf.function(metric.update_state), args=(parts,))

        def state():
            return [copies(variable) for variable in metric.variables]

        for values in ((1.0, 1e8), (3.0, -1e8)):
            add(values)
        kept = [distribution.sums(variable, REPLICAS) for variable in metric.variables]
        before = state()
        assert before[0] == [4.0, 0.0] and [sums.shape for sums in kept] == [(2,), (2,)]
        metric.reset_state()
        for variable, values in zip(metric.variables, kept, strict=True):
            distribution.assign_sums(variable, values)
        assert state() == before and float(metric.result()) == 1.0
        # On several hosts, and in older checkpoints, there is one sum.
        for values in (np.float32([4.0]), np.float32(4.0)):
            metric.reset_state()
            distribution.assign_sums(metric.variables[0], values)
            assert state()[0] == [2.0, 2.0]
