"""The norms on replicas against one. Run by test_replicas.py, or `pytest tests/layers/replicas.py`.

Not named test_*, because logical devices must be there before TensorFlow starts.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_norms
from tests.support import reference, reference_lstm
from tests.support.mirrored import assert_copies_agree, copies, mirrored
from tests.support.norms import BY_NAME, MOVING, NORMS, assert_close, randomize, values
from tests.support.running import forward, gradients
from zoo.laboratory.tasks.agreement import step_on_replicas

SHAPE = (8, 3, 4, 8)
SPLITS = ((4, 4), (6, 2), (8, 0))
RATE = 2**-7  # exact in float32


@pytest.fixture(scope="module")
def strategy():
    return mirrored(2)


def cases(norms=MOVING, splits=SPLITS):
    """Norm x split x mask; by default everything for one norm and one of each for the others."""
    result = []
    for i, norm in enumerate(norms):
        for j, split in enumerate(splits):
            for masked in (False, True):
                default = norm.name == "sn_all" or (i % 3 == j and masked == bool(i % 2))
                name = f"{norm}-{split[0]}+{split[1]}{'-masked' if masked else ''}"
                marks = [] if default else pytest.mark.slow
                result.append(pytest.param(norm, split, masked, id=name, marks=marks))
    return result


def mask_of(masked, rng):
    """Some positions, and all of the last two samples: the second replica of 6+2."""
    if not masked:
        return None
    mask = rng.random(SHAPE[:3]) < 0.7
    mask[6:] = False
    return mask


def layer_on(strategy, norm, rng, shape=SHAPE, **kwargs):
    with strategy.scope():
        layer = norm(dtype="float64", **kwargs)
        layer.build((None, *shape[1:]))
        return randomize(layer, rng)


def parts(array, split):
    if isinstance(array, list):
        return array
    return np.split(array, np.cumsum(split)[:-1])


def step(strategy, layer, split, *arrays, optimizer=None, compiled=False):
    """One training step: outputs and input gradients of all replicas, weight gradients of each."""
    pieces = [parts(array, split) for array in arrays if array is not None]
    y, dx, slopes = step_on_replicas(
        strategy, layer, pieces, lambda y, dy: tf.reduce_sum(y * dy), optimizer, compiled
    )
    names = [v.name for v in layer.trainable_variables]
    return y, dx, dict(zip(names, slopes, strict=True))


class TestStatistics:
    @pytest.mark.parametrize("norm, split, masked", cases())
    def test_synchronized_replicas_are_one_batch(self, strategy, norm, split, masked, rng):
        layer = layer_on(strategy, norm, rng, synchronized=True)
        single = norm(dtype="float64")
        single.build(SHAPE)
        for mine, theirs in zip(single.weights, layer.weights, strict=True):
            mine.assign(copies(theirs)[0])
        mask = mask_of(masked, rng)
        valid = np.ones(SHAPE[:3], bool) if mask is None else mask
        x, dy = rng.normal(2, 3, SHAPE), rng.normal(0, 1, SHAPE) * valid[..., None]
        # The halves of the batch differ: a mean of variances is not the variance.
        x[4:] += 5
        y, moving = reference.expected(single, x, mask, training=True)
        expected = gradients(single, x, dy, True, mask)

        # Tracing takes longest: those with a mask are traced, and all that `fit` does.
        actual, dx, slopes = step(strategy, layer, split, x, dy, mask, compiled=masked)
        assert_close(np.concatenate(actual)[valid], y[valid])
        assert_close(np.concatenate(dx), expected.pop("x"))
        assert set(slopes) == set(expected)
        for name, locals_ in slopes.items():
            assert_close(sum(locals_), expected[name])
            if name.endswith("logits"):
                assert_close([slope.sum() for slope in locals_], [0, 0], 1e-12)
        for weight in layer.non_trainable_weights:
            for copy in copies(weight):
                assert_close(copy, moving[weight.name])
        assert_copies_agree(layer.weights)

    @pytest.mark.parametrize("norm, split, masked", cases())
    def test_unsynchronized_replicas_use_their_own(self, strategy, norm, split, masked, rng):
        """... and move by the mean of their own statistics, weighted by their counts."""
        layer = layer_on(strategy, norm, rng)
        before = {w.name: copies(w)[0] for w in layer.weights}
        mask = mask_of(masked, rng)
        valid = np.ones(SHAPE[:3], bool) if mask is None else mask
        x = rng.normal(2, 3, SHAPE)
        x[4:] += 5
        x[~valid] = np.nan
        actual, _, _ = step(strategy, layer, split, x, np.ones(SHAPE), mask, compiled=masked)

        outputs, counts, batches = [], [], []
        for piece, seen in zip(parts(x, split), parts(valid, split), strict=True):
            if len(piece):
                y, _ = reference.expected(layer, piece, seen, True, before)
                outputs.append(y)
            counts.append(seen.sum())
            flat = piece[seen][None]
            batches.append(reference.moments(flat, np.ones(flat.shape, bool), (0, 1)))
        assert_close(np.concatenate(actual)[valid], np.concatenate(outputs)[valid])
        for weight in layer.non_trainable_weights:
            if norm.held and weight.name != "moving_mean":
                continue  # deviations move by the root of the replicas' mean variance
            kind = ["moving_mean", "moving_variance"].index(weight.name)
            batch = np.average([b[kind].ravel() for b in batches], 0, weights=counts)
            new = layer.momentum * before[weight.name] + (1 - layer.momentum) * batch
            for copy in copies(weight):
                assert_close(copy, new)
        assert_copies_agree(layer.weights)

    @pytest.mark.parametrize("synchronized", [False, True])
    def test_replicas_with_maps_of_other_sizes(self, strategy, synchronized, rng):
        """What counts is elements, not samples."""
        layer = layer_on(strategy, BY_NAME["bn"], rng, (4, None, 8), synchronized=synchronized)
        before = {w.name: copies(w)[0] for w in layer.weights}
        x = [rng.normal(2, 3, (4, 2, 8)), rng.normal(7, 1, (4, 9, 8))]
        actual, _, _ = step(strategy, layer, None, x, [np.ones_like(part) for part in x])
        joined, moving = reference.expected(layer, np.concatenate(x, 1), None, True, before)
        if synchronized:
            assert_close(np.concatenate(actual, 1), joined)
        else:
            apart = [reference.expected(layer, part, None, True, before) for part in x]
            for one, (two, _) in zip(actual, apart, strict=True):
                assert_close(one, two)
            moving = {n: (2 * apart[0][1][n] + 9 * apart[1][1][n]) / 11 for n in moving}
        for weight in layer.non_trainable_weights:
            for copy in copies(weight):
                assert_close(copy, moving[weight.name])

    def test_sequences_of_other_lengths(self, strategy, rng):
        """Each step of time has the statistics of the replicas that reach it."""
        shape = (None, None, 8)
        layer = layer_on(strategy, BY_NAME["bn"], rng, shape, batch_axis=(0, 1), max_steps=6)
        before = {w.name: copies(w)[0] for w in layer.weights}
        x = [rng.normal(2, 3, (4, 3, 8)), rng.normal(7, 1, (4, 5, 8))]
        step(strategy, layer, None, x, [np.ones_like(part) for part in x])
        for name, of in (("moving_mean", np.mean), ("moving_variance", np.var)):
            moved = before[name].copy()
            for time in range(5):
                batch = np.mean([of(p[:, time], 0) for p in x if time < p.shape[1]], 0)
                moved[time] += (1 - layer.momentum) * (batch - moved[time])
            for copy in copies(getattr(layer, name)):
                assert_close(copy, moved)

    @pytest.mark.parametrize("other", [(4, 16, 16, 64), (4, 3, 3, 64)], ids=["fewer", "too small"])
    @pytest.mark.parametrize("name", ["bn", "sn"])
    def test_one_replica_is_fused_and_the_other_smaller(self, strategy, name, other, rng):
        with strategy.scope():
            layer = BY_NAME[name]()
            layer.build((None, None, None, 64))
        x = [rng.normal(2, 3, shape).astype("float32") for shape in ((12, 16, 16, 64), other)]
        step(strategy, layer, None, x, [np.ones_like(part) for part in x], compiled=True)
        mean = np.concatenate([part.reshape(-1, 64) for part in x]).mean(0)
        for copy in copies(layer.moving_mean):
            assert_close(copy, (1 - layer.momentum) * mean, 1e-5)

    @pytest.mark.parametrize("synchronized", [False, True])
    @pytest.mark.parametrize("name", ["bn", "sn"])
    def test_a_replica_whose_only_sample_is_padding(self, strategy, name, synchronized, rng):
        """What the padding holds, NaN included, reaches no replica's moving statistics."""
        shape = (2, 3, 8)
        layer = layer_on(strategy, BY_NAME[name], rng, shape, synchronized=synchronized)
        before = {w.name: copies(w)[0] for w in layer.weights}
        x, mask = rng.normal(2, 3, shape), np.array([[True], [False]])
        x[1] = np.nan
        y, moving = reference.expected(layer, x[:1], mask[:1], True, before)
        actual, _, _ = step(strategy, layer, (1, 1), x, np.ones(shape), mask[..., None])
        assert_close(actual[0], y)
        for weight in layer.non_trainable_weights:
            for copy in copies(weight):
                assert_close(copy, moving[weight.name])

    def test_no_valid_element_anywhere_moves_nothing(self, strategy, rng):
        for synchronized in (False, True):
            layer = layer_on(strategy, BY_NAME["sn"], rng, synchronized=synchronized)
            before = [copies(w)[0] for w in layer.weights]
            mask = np.zeros(SHAPE[:3], bool)
            step(strategy, layer, (4, 4), rng.normal(2, 3, SHAPE), np.ones(SHAPE), mask)
            for old, weight in zip(before, layer.weights, strict=True):
                for copy in copies(weight):
                    np.testing.assert_array_equal(copy, old)


def model_of(norms, **kwargs):
    inputs = keras.Input((4, 4, 3))
    hidden = keras.layers.Conv2D(8, 3, name="conv")(inputs)
    outputs = []
    for norm in norms:
        y = norm(name=norm.name, **(kwargs if norm.moving else {}))(hidden)
        outputs.append(keras.layers.Dense(1)(keras.layers.GlobalMaxPooling2D()(y)))
    return keras.Model(inputs, outputs)


class TestTraining:
    @pytest.mark.parametrize("name", ["bn", "bin", "sn"])
    def test_unequal_batches_train_gamma_and_beta_as_one(self, strategy, name, rng):
        """Six samples here and two there: every weight steps as on one replica, on both."""
        layer = layer_on(strategy, BY_NAME[name], rng, synchronized=True)
        single = BY_NAME[name](dtype="float64")
        single.build(SHAPE)
        for mine, theirs in zip(single.weights, layer.weights, strict=True):
            mine.assign(copies(theirs)[0])
        x, dy = rng.normal(2, 3, SHAPE), rng.normal(0, 1, SHAPE)
        expected = values(single)
        for weight, slope in gradients(single, x, dy).items():
            if weight != "x":
                expected[weight] = expected[weight] - RATE * slope
        if name == "bin":
            expected["gate"] = np.clip(expected["gate"], 0, 1)
        with strategy.scope():
            optimizer = keras.optimizers.SGD(RATE)
            optimizer.build(layer.trainable_variables)
        step(strategy, layer, (6, 2), x, dy, optimizer=optimizer)
        for weight in layer.trainable_variables:
            for copy in copies(weight):
                assert_close(copy, expected[weight.name])
        assert_copies_agree(layer.weights)

    @pytest.mark.parametrize(
        "norms, synchronized",
        [
            pytest.param([BY_NAME["bn"], BY_NAME["sn_all"]], True, id="synchronized"),
            pytest.param(NORMS, False, id="all"),
            *(
                pytest.param([norm], flag, id=f"{norm}-{flag}", marks=pytest.mark.slow)
                for norm in NORMS
                for flag in (False, True)
            ),
        ],
    )
    def test_fit(self, strategy, norms, synchronized, rng, tmp_path):
        """Replicas agree on every weight; a reloaded model predicts what the live one does."""
        with strategy.scope():
            model = model_of(norms, synchronized=synchronized)
            for norm in norms:
                if norm.name == "bin":
                    model.get_layer("bin").gate.assign(np.full(8, 0.5))
            # Adam's first step is as large as its rate: it throws gates out of [0, 1].
            model.compile(keras.optimizers.Adam(0.6), ["mse"] * len(norms))
        x = rng.normal(2, 3, (24, 4, 4, 3)).astype("float32")
        x[::8] += 9  # the replicas' halves differ
        targets = [np.sign(rng.normal(0, 1, (24, 1))).astype("float32")] * len(norms)
        model.fit(x, targets, batch_size=8, epochs=2, shuffle=False, verbose=0)

        assert_copies_agree(model.weights)
        for norm in norms:
            layer = model.get_layer(norm.name)
            for name, value in values(layer).items():
                if name.startswith("moving_"):
                    assert np.abs(value - (name == "moving_variance")).max() > 1e-2
            if norm.name == "bin":
                for gate in copies(layer.gate):
                    assert gate.min() >= 0 and gate.max() <= 1
                    assert ((gate == 0) | (gate == 1)).any()
        live = model.predict(x, batch_size=8, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        pairs = (keras.tree.flatten(outputs) for outputs in (live, loaded(x, training=False)))
        for norm, one, two in zip(norms, *pairs, strict=True):
            assert np.isfinite(one).all()
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4, err_msg=str(norm))


COUNTS = (1, 2, 4, 8)
MANY = (16, *SHAPE[1:])


SEQUENCES = (8, 3, 3)  # of few steps, as an unrolled loop is traced step by step


class TestCounts:
    """The same global batch on one to eight replicas."""

    @pytest.mark.parametrize(
        "norm, synchronized, replicas",
        [
            pytest.param(
                *(norm, flag, replicas),
                id=f"{norm}-{'synchronized' if flag else 'apart'}-{replicas}",
                marks=[] if replicas == (8 if norm.name == "sn_all" else 4) else pytest.mark.slow,
            )
            for norm in NORMS
            for flag in (False, True)[: 1 + norm.moving]
            for replicas in COUNTS
        ],
    )
    def test_the_replicas_are_one_device(self, norm, replicas, synchronized, rng):
        """Synchronized on the whole batch; apart, on slices of the size of their own ones."""
        options = {"synchronized": synchronized} if norm.moving else {}
        layer = layer_on(mirrored(replicas), norm, rng, MANY, **options)
        apart = norm.moving and not synchronized
        size = MANY[0] // replicas
        single = norm(dtype="float64", **({"ghost_batch_size": size} if apart else {}))
        single.build(MANY)
        for mine, theirs in zip(single.weights, layer.weights, strict=True):
            mine.assign(copies(theirs)[0])
        x, dy = rng.normal(2, 3, MANY), rng.normal(0, 1, MANY)
        x += rng.normal(0, 5, (len(x), 1, 1, 1))  # the replicas' samples differ
        expected = gradients(single, x, dy)
        whole = norm(dtype="float64")
        whole.build(MANY)
        for mine, theirs in zip(whole.weights, single.weights, strict=True):
            mine.assign(theirs)
        y, of_the_whole = (forward(one, x, training=True) for one in (single, whole))

        split = (size,) * replicas
        actual, dx, slopes = step(mirrored(replicas), layer, split, x, dy)
        assert_close(np.concatenate(actual), y)
        assert_close(np.concatenate(dx), expected.pop("x"))
        for name, value in expected.items():
            assert_close(sum(slopes[name]), value)
            if name.endswith("logits"):
                assert_close([slope.sum() for slope in slopes[name]], [0] * replicas, 1e-12)
        for weight in layer.non_trainable_weights:
            assert_close(copies(weight)[0], values(single)[weight.name])
        assert_copies_agree(layer.weights)
        differs = apart and replicas > 1
        assert (np.abs(np.concatenate(actual) - of_the_whole).max() > 1e-2) == differs

    @pytest.mark.parametrize(
        "spec, replicas, masked",
        [
            pytest.param(
                *(spec, replicas, masked),
                marks=[] if (spec, replicas, masked) == ("wn_mobn", 4, True) else pytest.mark.slow,
            )
            for spec in ("bn", "sn", "wn_mobn")
            for replicas in COUNTS[1:]
            if SEQUENCES[0] // replicas > 1  # one sample has no statistics of a batch
            for masked in (False, True)
        ],
    )
    def test_lstms_apart_are_slices(self, spec, replicas, masked, rng):
        """The statistics of every step too, of which some replicas see only padding."""
        split = (SEQUENCES[0] // replicas,) * replicas
        layer, _ = lstm_on(mirrored(replicas), spec, np.random.default_rng(0))
        # The same seed gives the same weights.
        ghost = f"{spec}(ghost_batch_size={split[0]})"
        _, single = lstm_on(mirrored(replicas), ghost, np.random.default_rng(0))
        x, mask = rng.normal(1, 2, SEQUENCES), lengths(masked)
        x[4:] += 3
        dy = rng.normal(0, 1, (*SEQUENCES[:2], 4))
        expected = gradients(single, x, dy, True, mask)
        y = forward(single, x, training=True, mask=mask)
        actual, dx, slopes = step(mirrored(replicas), layer, split, x, dy, mask)
        assert_close(np.concatenate(actual), y)
        assert_close(np.concatenate(dx), expected["x"])
        kernels = [name for name in slopes if name.endswith("kernel")]
        assert kernels
        for name in kernels:
            assert_close(sum(slopes[name]), expected[name])
        found, after = (reference_lstm.variables(one) for one in (layer, single))
        for name, variable in found.items():
            if "moving" in name:
                assert_close(copies(variable)[0], after[name].numpy())
        assert_copies_agree(layer.weights)


MOST_STEPS = 2


def lstm_on(strategy, spec, rng, **options):
    """A `NormalizedLSTM` on all replicas, and one with its weights on a single device."""
    options = {"return_sequences": True, "max_steps": MOST_STEPS, "dtype": "float64", **options}
    with strategy.scope():
        layer = keras_norms.NormalizedLSTM(4, norm=spec, name="lstm", **options)
        layer.build((None, *SEQUENCES[1:]))
    single = keras_norms.NormalizedLSTM(4, norm=spec, name="lstm", **options)
    single.build(SEQUENCES)
    pairs = zip(*(reference_lstm.variables(one).values() for one in (layer, single)), strict=True)
    for theirs, mine in pairs:
        value = rng.uniform(0.5, 1.5, mine.shape) if len(mine.shape) else MOST_STEPS
        for variable in (theirs, mine):
            variable.assign(value)
    return layer, single


def lengths(masked):
    """The last two sequences are padding: the second replica of 6+2."""
    if not masked:
        return None
    return np.arange(SEQUENCES[1]) < np.array([3, 2, 1, 2, 3, 2, 0, 0])[:, None]


class TestRecurrent:
    @pytest.mark.parametrize(
        "spec, split, masked",
        [
            pytest.param(
                spec,
                split,
                masked,
                marks=[] if (spec, j, masked) == ("bn", 1, True) else pytest.mark.slow,
                id=f"{spec}-{split[0]}+{split[1]}{'-masked' if masked else ''}",
            )
            for spec in ("bn", "sn", "wn_mobn")
            for j, split in enumerate(SPLITS)
            for masked in (False, True)
        ],
    )
    def test_synchronized_and_unrolled_is_one_batch(self, strategy, spec, split, masked, rng):
        """Outputs, all gradients and the moving statistics of every step."""
        layer, single = lstm_on(strategy, f"{spec}(synchronized=True)", rng, unroll=True)
        x, mask = rng.normal(1, 2, SEQUENCES), lengths(masked)
        x[4:] += 3
        dy = rng.normal(0, 1, (*SEQUENCES[:2], 4))
        before = reference_lstm.values(single)
        inputs = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = single(inputs, training=True, mask=mask)
            loss = tf.reduce_sum(y * dy)
        weights = single.trainable_variables
        slope, *slopes = tape.gradient(loss, [inputs, *(v.value for v in weights)])
        for weight, gradient in zip(weights, slopes, strict=True):
            weight.assign_sub(RATE * gradient)
        with strategy.scope():
            optimizer = keras.optimizers.SGD(RATE)
            optimizer.build(layer.trainable_variables)
        actual, dx, _ = step(
            strategy, layer, split, x, dy, mask, optimizer=optimizer, compiled=True
        )
        assert_close(np.concatenate(actual), y)
        assert_close(np.concatenate(dx), slope)
        after = reference_lstm.values(single)
        for name, variable in reference_lstm.variables(layer).items():
            for copy in copies(variable):
                assert_close(copy, after[name], 1e-10)
            assert (after[name] != before[name]).any() == ("moving_steps" not in name), name
        assert_copies_agree(layer.weights)

    @pytest.mark.parametrize(
        "spec, split",
        [
            ("bn", (6, 2)),
            pytest.param("sn", (4, 4), marks=pytest.mark.slow),
            pytest.param("wn_mobn", (8, 0), marks=pytest.mark.slow),
        ],
    )
    def test_unsynchronized_replicas_use_their_own(self, strategy, spec, split, rng):
        """... and move, after the loop, by the mean of their own statistics of every step."""
        layer, single = lstm_on(strategy, spec, rng)
        before = reference_lstm.values(single)
        x, mask = rng.normal(1, 2, SEQUENCES), lengths(True)
        x[4:] += 3
        actual, _, _ = step(strategy, layer, split, x, np.ones((*SEQUENCES[:2], 4)), mask)
        found, counts = [], []
        for norm in (*single.input_norms, *single.recurrent_norms, *single.cell_norms):
            norm.momentum = 0.0
        for piece, valid, y in zip(parts(x, split), parts(mask, split), actual, strict=True):
            if len(piece):
                for name, variable in reference_lstm.variables(single).items():
                    variable.assign(before[name])
                assert_close(y, single(piece, training=True, mask=valid))
                found.append(reference_lstm.values(single))
                steps = valid.sum(0)
                counts.append([steps[0], steps[1:].sum()])
        for name, variable in reference_lstm.variables(layer).items():
            expected = before[name]
            if name.endswith(("moving_mean", "moving_variance")):
                batch = sum(
                    np.array(c)[:, None] * f[name] for c, f in zip(counts, found, strict=True)
                )
                batch = batch / sum(map(np.array, counts))[:, None]
                expected = 0.9 * before[name] + 0.1 * batch
            for copy in copies(variable):
                assert_close(copy, expected)
        assert_copies_agree(layer.weights)

    def test_synchronized_needs_an_unrolled_loop(self, strategy, rng):
        layer, single = lstm_on(strategy, "bn(synchronized=True)", rng)
        x, dy = rng.normal(1, 2, SEQUENCES), np.ones((*SEQUENCES[:2], 4))
        with pytest.raises(ValueError, match="cannot be synchronized.*Use unroll=True"):
            step(strategy, layer, (4, 4), x, dy)
        inference = strategy.run(lambda: layer(tf.constant(x)))
        for copy in strategy.experimental_local_results(inference):
            assert_close(copy, single(x))

    @pytest.mark.parametrize(
        "specs",
        [
            ("bn",),
            pytest.param(("sn", "wn_mobn", "bn(synchronized=True)"), marks=pytest.mark.slow),
        ],
        ids=["bn", "others"],
    )
    def test_fit(self, strategy, specs, rng, tmp_path):
        """Replicas agree on every weight; a reloaded model predicts what the live one does."""
        with strategy.scope():
            inputs = keras.Input(SEQUENCES[1:])
            hidden = keras.layers.Masking()(inputs)
            outputs = []
            for i, spec in enumerate(specs):
                lstm = keras_norms.NormalizedLSTM(
                    4, norm=spec, unroll="synchronized" in spec, name=f"lstm{i}"
                )
                outputs.append(keras.layers.Dense(1)(lstm(hidden)))
            model = keras.Model(inputs, outputs)
            model.compile(keras.optimizers.Adam(0.1), ["mse"] * len(specs))
        x = rng.normal(2, 3, (24, *SEQUENCES[1:])).astype("float32")
        x[::8] += 9  # the replicas' halves differ
        x[3::8, 2:] = 0
        targets = [np.sign(rng.normal(0, 1, (24, 1))).astype("float32")] * len(specs)
        model.fit(x, targets, batch_size=8, epochs=2, shuffle=False, verbose=0)
        assert_copies_agree(model.weights)
        for i in range(len(specs)):
            for key, value in reference_lstm.values(model.get_layer(f"lstm{i}")).items():
                if key.endswith("moving_mean"):
                    assert np.abs(value[:3]).max() > 1e-3 and not value[3:].any()
        live = model.predict(x, batch_size=8, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        pairs = (keras.tree.flatten(outputs) for outputs in (live, loaded(x, training=False)))
        for one, two in zip(*pairs, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)
