"""NormalizedLSTM and its cell: formulas, gradients, masks, states, statistics, files, training.

What does not need TensorFlow runs on every backend, as test_laws does.
"""

import keras
import numpy as np
import pytest
from keras import layers

import keras_norms
from keras_norms import NormalizedLSTM, NormalizedLSTMCell
from tests.support import reference_lstm
from tests.support.norms import BACKEND, assert_close, needs_tensorflow
from tests.support.recurrent import (
    CASES,
    KINDS,
    MASKS,
    OPTIONS,
    SHAPE,
    SPATIAL,
    UNITS,
    Kind,
    X,
    but,
    call,
    randomize,
    same,
    slopes,
)
from tests.support.reference_lstm import BATCH, PER_SAMPLE, SPECS, values, variables
from tests.support.running import tensor, to_numpy

LSTM = Kind(NormalizedLSTM, NormalizedLSTMCell, layers.LSTM, 2, reference_lstm.expected)
layer_of = LSTM.make
over = pytest.mark.parametrize("spec", SPECS)


# The formulas.


@pytest.mark.parametrize(
    "spec, case, padding",
    [
        pytest.param(
            spec,
            case,
            padding,
            marks=[] if (i + j + k) % 5 == 0 else pytest.mark.slow,
            id=f"{spec}-{case}-{padding}",
        )
        for i, spec in enumerate(SPECS)
        for j, case in enumerate(CASES)
        for k, padding in enumerate(MASKS)
    ],
)
def test_formulas(spec, case, padding, rng):
    layer = layer_of(spec, rng, **CASES[case])
    x, state, _ = LSTM.draws(rng)
    # On JAX, Keras's loop (norm="none") takes the output of a masked first step from the state.
    mask = MASKS[padding]
    LSTM.check(layer, x, mask, None if spec == "none" and mask is not None else state)


@over
def test_weights_and_defaults(spec):
    layer = NormalizedLSTM(UNITS, norm=spec)
    layer.build((None, None, 3))
    found = values(layer)
    start = 0.1 if spec in BATCH else 1
    norm = keras_norms.get(spec)
    for name, value in found.items():
        if name.endswith(("gamma", "scale")):
            np.testing.assert_array_equal(value, np.float32(start))
        elif name.endswith("beta"):
            assert name == "cell_norm/beta" and not value.any()
        elif name.endswith("moving_mean"):
            assert value.shape == (100, UNITS if "cell" in name else 4 * UNITS)
        elif "/" not in name and name.endswith("gain"):
            kernel = found[name.replace("gain", "kernel")]
            np.testing.assert_allclose(value, np.sqrt((kernel**2).sum(0)), rtol=1e-6)
    contributions = {name.split("/")[0] for name in found if "/" in name}
    if spec in ("none", "wn"):
        assert not contributions
    else:
        assert contributions == {"input_norm", "recurrent_norm"} | (
            set() if spec == "wn_mobn" else {"cell_norm"}
        )
    assert ("gain" in found) == (norm.weight_norm is not None) == ("recurrent_gain" in found)
    assert ("cell_norm/beta" in found) == (norm.is_identity is False and not norm.use_bias)
    per_gate = NormalizedLSTM(UNITS, norm=spec, per_gate=True)
    per_gate.build((None, None, 3))
    assert len(per_gate.input_norms) == 4 * len(layer.input_norms)
    assert len(per_gate.cell_norms) == len(layer.cell_norms)


@pytest.mark.parametrize("spec", ["ln", "bn"])
def test_gamma_initializer(spec):
    layer = NormalizedLSTM(UNITS, norm=spec, gamma_initializer="ones")
    layer.build((None, None, 3))
    gammas = [value for name, value in values(layer).items() if name.endswith("gamma")]
    assert len(gammas) == 3 and all((gamma == 1).all() for gamma in gammas)


@pytest.mark.parametrize("kernels", [("kernel",), ("recurrent_kernel",)])
def test_weight_normalization_of_one_kernel(kernels, rng):
    layer = layer_of(f"wn(kernels={kernels!r})", rng)
    assert (layer.gain is None, layer.recurrent_gain is None) == (
        "kernel" not in kernels,
        "recurrent_kernel" not in kernels,
    )
    x, state, _ = LSTM.draws(rng)
    reference_lstm.STATISTICS[layer.norm.spec] = ()
    LSTM.check(layer, x, MASKS["holes"], state)


# The loop over time.


@pytest.mark.parametrize(
    "spec, padding, training",
    [
        pytest.param(
            spec,
            padding,
            training,
            marks=[] if training and (padding == "holes") == bool(i % 2) else pytest.mark.slow,
        )
        for i, spec in enumerate(SPECS)
        for padding in ("no mask", "holes")
        for training in (True, False)
    ],
)
def test_loop_and_unrolled(spec, padding, training, rng):
    LSTM.check_loop(spec, training, MASKS[padding], rng)


@needs_tensorflow  # needs float64: statistics of two samples have large derivatives
@pytest.mark.parametrize("padding", ["no mask", "holes"])
@pytest.mark.parametrize("spec", KINDS)
def test_gradients_are_those_of_the_reference(spec, padding, rng):
    layer = layer_of(spec, rng, per_gate=spec in ("ln", "bn"))
    LSTM.check_gradients(layer, MASKS[padding], rng)


# Keras's own layer.


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("spec", ["none", "wn"])
def test_equals_keras(spec, option, rng):
    """norm="none" runs in Keras's loop; weight normalization, as it starts, in ours."""
    ours, theirs = LSTM.beside_keras(spec, OPTIONS[option], rng)
    x, _, _ = LSTM.draws(rng)
    for padding in ("right",) if spec == "none" else ("no mask", "right", "left", "empty"):
        if option == "zeros" and BACKEND == "jax":
            continue  # Keras does not return the states there
        for training in (False, True):
            arguments = training, MASKS[padding]
            same(call(ours, x, *arguments), call(theirs, x, *arguments), 1e-6)


@pytest.mark.parametrize("spec", ["none", "wn"])
def test_stateful_equals_keras(spec, rng):
    ours, theirs = LSTM.beside_keras(spec, {"stateful": True}, rng)
    for _ in range(2):
        x, _, _ = LSTM.draws(rng)
        first = call(ours, x)
        same(first, call(theirs, x), 1e-6)
    ours.reset_state()
    theirs.reset_state()
    again = call(ours, x)
    same(again, call(theirs, x), 1e-6)
    assert np.abs(again[0] - first[0]).max() > 1e-3


@pytest.mark.parametrize("spec", ["none", "wn"])
def test_gradients_equal_keras(spec, rng):
    ours, theirs = LSTM.beside_keras(spec, {}, rng)
    x, state, dy = LSTM.draws(rng)
    theirs.gain = theirs.recurrent_gain = None
    theirs.input_norms = theirs.recurrent_norms = theirs.cell_norms = ()
    actual = slopes(ours, x, dy, True, MASKS["right"], state)
    for name, slope in slopes(theirs, x, dy, True, MASKS["right"], state).items():
        if spec == "none" or "kernel" not in name:
            assert_close(actual[name], slope, 1e-6)


@pytest.mark.parametrize("spec", ["ln", "bn", "wn_mobn"])
@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.5, 0.5)], ids=str)
def test_dropout(spec, rates, rng):
    """Drops the same units at every step of a call, others in the next; none at inference."""
    layer = layer_of(spec, rng, dropout=rates[0], recurrent_dropout=rates[1], seed=3)
    without = LSTM.copy(layer, spec)
    x, _, dy = LSTM.draws(rng)
    same(call(layer, x), call(without, x), 0)
    one, two = call(layer, x, True)[0], call(layer, x, True)[0]
    assert np.abs(one - two).max() > 1e-3
    assert np.abs(one - call(without, x, True)[0]).max() > 1e-3
    if rates[1] == 0:  # recurrent dropout drops other units for each gate
        dx = slopes(layer, x, dy, True, None, np.zeros((2, 4, UNITS)))["x"]
        dropped = np.abs(dx).max(1) == 0
        assert dropped.any() and not dropped.all()
        assert ((np.abs(dx) == 0) == dropped[:, None]).all()


# Padding.


@over
@pytest.mark.parametrize("training", [False, True])
def test_padded_equals_truncated(spec, training, rng):
    LSTM.check_truncated(spec, training, rng)


@over
def test_each_sequence_is_as_if_alone_and_truncated_at_inference(spec, rng):
    layer = layer_of(spec, rng)
    x, state, _ = LSTM.draws(rng)
    y, h, c = call(layer, x, False, MASKS["right"], state)
    for sample, length in enumerate(MASKS["right"].sum(1)):
        one = slice(sample, sample + 1)
        alone = call(layer, x[one, :length], False, None, state[:, one])
        same([y[one, :length], h[one], c[one]], alone)


@pytest.mark.parametrize("spec", PER_SAMPLE)
def test_left_padding_and_backwards_equal_truncated_for_norms_of_single_samples(spec, rng):
    """Batch statistics count steps from the start of the array, padding included."""
    x, _, _ = LSTM.draws(rng)
    for backwards, padding in ((False, "left"), (True, "right")):
        layer = layer_of(spec, rng, go_backwards=backwards, return_sequences=False)
        y, h, c = call(layer, x, True, MASKS[padding])
        for sample, valid in enumerate(MASKS[padding]):
            one = slice(sample, sample + 1)
            same([y[one], h[one], c[one]], call(layer, x[one][:, valid], True))


@over
@pytest.mark.parametrize("training", but([False, True], True))
def test_what_padding_holds_reaches_nothing(spec, training, rng):
    LSTM.check_padding(spec, training, rng)


@pytest.mark.parametrize("spec", ["ln", "bn", "sn", "wn_mobn"])
def test_masks_of_an_embedding(spec, rng):
    """The layers after this one get the same mask."""
    ids = np.array([[3, 1, 2, 0, 0, 0], [1, 2, 1, 2, 0, 0]], "int32")
    embedding = layers.Embedding(4, 3, mask_zero=True)
    layer = NormalizedLSTM(UNITS, norm=spec, return_sequences=True, name="lstm")
    tokens = keras.Input((None,), dtype="int32")
    hidden = layer(embedding(tokens))
    assert hidden._keras_mask is not None
    model = keras.Model(tokens, hidden)
    randomize(layer, rng)
    x = to_numpy(embedding(tensor(ids)))
    y, _, moving = reference_lstm.expected(layer, x, ids > 0, training=True)
    assert_close(to_numpy(model(tensor(ids), training=True)), y, 1e-4)
    after = values(layer)
    same({name: after[name] for name in moving}, moving, 1e-5)


# Statistics.


def test_inference_uses_moving_statistics_of_each_step(rng):
    """After enough identical batches, inference equals training."""
    layer = layer_of("bn", rng)
    for norm in (*layer.input_norms, *layer.recurrent_norms, *layer.cell_norms):
        norm.momentum = 0.0
    x, state, _ = LSTM.draws(rng)
    trained = call(layer, x, True, None, state)
    same(call(layer, x, False, None, state), trained, 1e-6)


@pytest.mark.parametrize("spec", BATCH)
@pytest.mark.parametrize("how", ["attribute", "argument", "norms"])
def test_an_untrainable_layer_is_frozen(spec, how, rng):
    layer = layer_of(spec, rng, **({"trainable": False} if how == "argument" else {}))
    if how == "attribute":
        layer.trainable = False
    elif how == "norms":
        for norm in (*layer.input_norms, *layer.recurrent_norms, *layer.cell_norms):
            norm.trainable = False
    assert how == "norms" or not layer.trainable_variables
    x, state, _ = LSTM.draws(rng)
    before, inference = values(layer), call(layer, x, False, None, state)
    same(call(layer, x, True, None, state), inference, 0)
    same(values(layer), before, 0)
    layer.trainable = False  # each of these sets the norms below as well
    layer.trainable = True
    call(layer, x, True, None, state)
    moved = values(layer)["recurrent_norm/moving_mean"] - before["recurrent_norm/moving_mean"]
    assert np.abs(moved).max() > 1e-3


def test_some_norms_frozen(rng):
    """The statistics of the others are not mistaken for theirs."""
    layer = layer_of("bn", rng)
    layer.recurrent_norms[0].trainable = False
    before = values(layer)
    x, state, _ = LSTM.draws(rng)
    call(layer, x, True, None, state)
    changed = {n for n, value in values(layer).items() if (value != before[n]).any()}
    kinds = ("moving_mean", "moving_variance", "moving_steps")
    assert changed == {f"{norm}_norm/{kind}" for norm in ("input", "cell") for kind in kinds}


# States.


@pytest.mark.parametrize("spec", ["ln", *BATCH])
def test_a_stateful_layer_counts_on(spec, rng):
    LSTM.check_stateful(spec, rng)


@pytest.mark.parametrize("spec", ["ln", "bn"])
def test_a_loaded_stateful_layer_starts_over(spec, rng, tmp_path):
    """A file holds no states, as for Keras's LSTM, and no number of steps."""
    inputs = keras.Input(batch_shape=SHAPE)
    model = keras.Model(inputs, layer_of(spec, dtype="float32", stateful=True)(inputs))
    randomize(model.layers[-1], rng)
    x = rng.normal(1, 2, SHAPE).astype("float32")

    def run(model):  # not with `call`: compiled functions of JAX keep no states
        return keras.tree.map_structure(to_numpy, model(tensor(x)))

    first = run(model)
    second = run(model)
    assert np.abs(first[0] - second[0]).max() > 1e-3
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    same(run(loaded), first, 1e-6)
    same(run(loaded), second, 1e-6)
    # Loading weights into a model does not change its states.
    model.save_weights(tmp_path / "model.weights.h5")
    third = run(model)
    loaded.load_weights(tmp_path / "model.weights.h5")
    same(run(loaded), third, 1e-6)


def test_a_stateful_layer_has_one_batch_size(rng):
    layer = layer_of("bn", rng, stateful=True)
    with pytest.raises(ValueError, match="stateful"):
        layer(np.ones((5, 6, 3), "float32"))


# recalibrate, freeze, unfreeze.


def net_of(spec, rng=None, **options):
    inputs = keras.Input((6, 3))
    layer = NormalizedLSTM(UNITS, norm=spec, max_steps=6, name="lstm", **options)
    outputs = layers.Dense(2)(layers.Dropout(0.5)(layer(layers.Masking()(inputs))))
    model = keras.Model(inputs, outputs)
    if rng is not None:
        randomize(layer, rng)
    return model


SPLITS = ([12], [4, 4, 4], [1, 3, 8])


def batches(sizes):
    return np.split(X, np.cumsum(sizes)[:-1])


def moving(model, *norms):
    found = values(model.get_layer("lstm"))
    return {n: v for n, v in found.items() if n.split("/")[0] in norms and "/moving_" in n}


@pytest.mark.parametrize("spec", but(BATCH, "bn", "wn_mobn"))
def test_recalibrate_in_one_pass(spec, rng):
    """The split into batches does not matter for the norm of the input."""
    model = net_of(spec, rng, dropout=0.5, recurrent_dropout=0.5)
    before = {v.path: to_numpy(v) for v in model.variables}
    found = []
    for sizes in SPLITS:
        assert keras_norms.recalibrate(model, batches(sizes)) == len(sizes)
        found.append(moving(model, "input_norm"))
    for other in found[1:]:
        same(other, found[0], 1e-5)
    layer = model.get_layer("lstm")
    kernel = values(layer)["kernel"]
    if spec == "wn_mobn":
        kernel = values(layer)["gain"] * kernel / np.sqrt((kernel**2).sum(0))
    rows = [(X[:, t] @ kernel)[X[:, t].any(-1)].mean(0) for t in range(6)]
    assert_close(found[0]["input_norm/moving_mean"], rows, 1e-5)
    assert found[0]["input_norm/moving_steps"] == 6
    for variable in model.variables:
        if "/moving_" in variable.path:
            assert (to_numpy(variable) != before[variable.path]).any(), variable.path
        else:
            np.testing.assert_array_equal(variable, before[variable.path], variable.path)
    assert "apply" not in vars(layer.recurrent_norms[0])


def test_recalibrate_exactly(rng):
    """Inference with the statistics of a whole set is training on the whole set."""
    model = net_of("bn", rng, gamma_initializer="ones")
    keras_norms.recalibrate(model, [X], exact=True)
    layer = model.get_layer("lstm")
    mask = X.any(-1)
    same(call(layer, X, False, mask), call(layer, X, True, mask), 1e-4)


def test_freeze_and_unfreeze(rng):
    model = net_of("bn", rng)
    keras_norms.freeze(model)
    names = {v.path for v in model.trainable_variables}
    assert names == {
        *(f"lstm/lstm_cell/{name}" for name in ("kernel", "recurrent_kernel", "bias")),
        *(v.path for v in model.layers[-1].variables),
    }
    model.get_layer("dropout").rate = 0
    before = moving(model, "input_norm", "recurrent_norm", "cell_norm")
    same(call(model, X, True), call(model, X), 1e-6)
    same(moving(model, "input_norm", "recurrent_norm", "cell_norm"), before, 0)
    keras_norms.unfreeze(model)
    assert len(model.trainable_variables) == len(names) + 4
    call(model, X, True)
    for name, value in moving(model, "input_norm", "recurrent_norm", "cell_norm").items():
        assert (value != before[name]).any()


# Files.

OBJECTS = {
    "class": keras_norms.BatchNormalization,
    "Keras's class": layers.RMSNormalization,
    "function": lambda: keras_norms.SwitchableNormalization(statistics=("layer", "batch")),
    "config": keras.saving.serialize_keras_object(keras_norms.GroupNormalization(4, epsilon=0.1)),
    "get": keras_norms.get("sn(statistics=('group', 'batch'), groups=2)"),
    "None": None,
}
EVERY = [*((spec, spec) for spec in SPECS), *OBJECTS.items()]
every = pytest.mark.parametrize("spec", [s for _, s in EVERY], ids=[name for name, _ in EVERY])


@every
@pytest.mark.parametrize("cls", [NormalizedLSTM, NormalizedLSTMCell])
def test_configurations(spec, cls):
    LSTM.check_configuration(cls, spec)


@pytest.mark.parametrize(
    "spec",
    but(
        [s for _, s in EVERY],
        "bn",
        OBJECTS["class"],
        OBJECTS["get"],
        ids=[name for name, _ in EVERY],
    ),
)
def test_keras_and_weights_files_are_exact(spec, rng, tmp_path):
    LSTM.check_files(spec, rng, tmp_path)


@needs_tensorflow
def test_exported_models_are_exact(rng, tmp_path):
    """An exported model runs at numbers of samples and steps that differ from the export's."""
    import tensorflow as tf

    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(5, 3, mask_zero=True)(inputs)
    model = keras.Model(inputs, {s: NormalizedLSTM(UNITS, norm=s)(x) for s in ("ln", "bn")})
    for layer in LSTM.within(model):
        randomize(layer, rng)
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    for shape in ((3, 4), (1, 9)):
        ids = rng.integers(1, 5, shape).astype("int32")
        ids[0, 3:] = 0
        for name, value in served.serve(ids).items():
            assert_close(value, model(ids)[name], 1e-6)


def test_a_frozen_layer_is_frozen_once_loaded(rng, tmp_path):
    model = net_of("bn", rng)
    model.get_layer("lstm").trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    before = moving(loaded, "input_norm", "recurrent_norm", "cell_norm")
    call(loaded, X, True)
    same(moving(loaded, "input_norm", "recurrent_norm", "cell_norm"), before, 0)


# Training.


def fit(specs, time=None, epochs=3, **options):
    inputs = keras.Input((time, 3))
    outputs = [
        layers.Dense(1)(NormalizedLSTM(UNITS, norm=spec, name=name_of(spec))(inputs))
        for spec in specs
    ]
    model = keras.Model(inputs, outputs)
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.05), ["mse"] * len(specs), **options)
    y = [X.mean((1, 2))[:, None]] * len(specs)
    history = model.fit(X, y, batch_size=4, epochs=epochs, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert history.history["loss"][-1] < history.history["loss"][0]
    for weight, old in zip(model.weights, before, strict=True):
        assert weight.dtype == "float32" or "seed" in weight.path
        changed = (to_numpy(weight) != old).any()
        assert changed or "seed" in weight.path, weight.path
    return model


def name_of(spec):
    return "".join(letter for letter in spec if letter.isalnum())


@pytest.mark.parametrize("spec", but(KINDS, "ln"))
def test_fit(spec):
    fit([spec], jit_compile=False)


@needs_tensorflow
@pytest.mark.parametrize("spec", but(KINDS, "bn"))
def test_fit_with_jit_compile(spec, rng):
    """What XLA computes is what TensorFlow computes."""
    results = []
    for options in ({"run_eagerly": True}, {"jit_compile": True}):
        keras.utils.set_random_seed(0)
        model = fit([spec], time=6, **options)
        results.append(values(model.get_layer(name_of(spec))))
    same(*results, 1e-3)


@pytest.mark.parametrize("spec", but(KINDS, "bn"))
@pytest.mark.parametrize("policy", but(["mixed_float16", "mixed_bfloat16"], "mixed_float16"))
def test_fit_with_mixed_precision(policy, spec):
    keras.config.set_dtype_policy(policy)
    # Keras's loss scale starts high, and halves in each of the first steps.
    model = fit([spec], epochs=10, jit_compile=False)
    assert LSTM.within(model)[0].compute_dtype == policy.removeprefix("mixed_")
    assert np.isfinite(model.predict(X * 1e3, verbose=0)).all()


@pytest.mark.parametrize("spec", but(KINDS, "bn", "wn"))
def test_mixed_precision_is_close_to_float32(spec, rng):
    """With and without a mask; moving statistics are float32."""
    full, half = layer_of(spec, rng, dtype="float32"), layer_of(spec, dtype="mixed_bfloat16")
    for mine, other in zip(variables(half).values(), variables(full).values(), strict=True):
        mine.assign(other)
        assert mine.dtype == "float32"
    x, state, _ = LSTM.draws(rng)
    x, state = x.astype("float32"), state.astype("float32")
    for training in (False, True):
        arguments = training, MASKS["right"], state
        one, two = call(full, x, *arguments), call(half, x.astype("bfloat16"), *arguments)
        same([part.astype("float32") for part in two], one, 0.1)
    same(values(half), values(full), 0.05)


@pytest.mark.parametrize("spec", but(KINDS, "none"))
def test_inputs_at_once_are_those_of_each_step(spec, rng):
    one, two = layer_of(spec, rng), layer_of(spec)
    for mine, other in zip(variables(two).values(), variables(one).values(), strict=True):
        mine.assign(other)
    one.inputs_at_once, two.inputs_at_once = (lambda: True), (lambda: False)
    x, state, _ = LSTM.draws(rng)
    for training in (False, True):
        arguments = training, MASKS["right"], state
        same(call(two, x, *arguments), call(one, x, *arguments))
    same(values(two), values(one))


@needs_tensorflow
def test_inputs_are_taken_at_once_where_a_loop_would_not_do():
    assert not layer_of("bn").inputs_at_once()
    assert layer_of("bn(synchronized=True)").inputs_at_once()
    assert layer_of("ln", dtype="mixed_bfloat16").inputs_at_once()


# The cell.


@pytest.mark.parametrize("spec", PER_SAMPLE)
@pytest.mark.parametrize("options", but([{}, {"per_gate": True}, {"dropout": 0.4}], {}), ids=str)
def test_a_cell_in_an_rnn_equals_the_layer(spec, options, rng):
    LSTM.check_cell(spec, options, rng)


@pytest.mark.parametrize("spec", but(["ln", "rms", "wn"], "ln"))
def test_models_with_cells(spec, rng, tmp_path):
    """Stacked cells train, and their files are exact."""
    inputs = keras.Input((None, 3))
    cells = [NormalizedLSTMCell(UNITS, norm=spec, per_gate=i > 0) for i in range(2)]
    model = keras.Model(inputs, layers.Dense(1)(layers.RNN(cells)(inputs)))
    model.compile("adam", "mse", run_eagerly=True)
    before = model.get_weights()
    model.fit(X, X.mean((1, 2))[:, None], batch_size=6, verbose=0)
    for weight, old in zip(model.weights, before, strict=True):
        assert "seed" in weight.path or (to_numpy(weight) != old).any()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(call(loaded, X), call(model, X))


# Refusals.


@pytest.mark.parametrize("cls", [NormalizedLSTM, NormalizedLSTMCell])
@pytest.mark.parametrize("spec", [*SPATIAL, keras_norms.InstanceNormalization], ids=str)
def test_norms_that_need_a_spatial_axis(cls, spec):
    with pytest.raises(
        ValueError, match="no spatial axis.*Use one of 'none', 'bn', 'ln'"
    ) as caught:
        cls(UNITS, norm=spec)
    for name in ("'in'", "'bin'"):
        assert name not in str(caught.value).split("Use one of")[1].split("Received")[0]
    assert f"Received: norm={spec!r}" in str(caught.value)


@pytest.mark.parametrize("spec", [*BATCH, keras_norms.BatchNormalization], ids=str)
def test_a_cell_has_no_batch_statistics(spec):
    with pytest.raises(ValueError, match="cannot keep moving statistics.*Use NormalizedLSTM"):
        NormalizedLSTMCell(UNITS, norm=spec)


def test_bidirectional_does_not_pass_by_the_norms():
    """With `use_cudnn`, Keras runs both directions by itself where a GPU is."""
    layer = layers.Bidirectional(NormalizedLSTM(UNITS, norm="ln"))
    assert not layer.forward_layer.use_cudnn and not layer.backward_layer.use_cudnn
    copy = type(layer).from_config(layer.get_config())
    assert not copy.forward_layer.use_cudnn


def test_norms_of_keras():
    for cls in (layers.BatchNormalization, lambda: layers.LayerNormalization(axis=(1, 2))):
        with pytest.raises(ValueError, match="has no `batch_axis`.*Use a norm of"):
            NormalizedLSTM(UNITS, norm=cls)
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    found = []
    for norm in ("ln", lambda: layers.LayerNormalization(epsilon=1e-5)):
        keras.utils.set_random_seed(0)
        found.append(to_numpy(NormalizedLSTM(UNITS, norm=norm)(x)))
    np.testing.assert_allclose(*found, atol=1e-6)


@pytest.mark.parametrize("most", [0, -1, None, 1.5, "10"])
def test_max_steps_is_a_positive_int(most):
    with pytest.raises(ValueError, match="`max_steps`.*positive int.*Received: max_steps="):
        NormalizedLSTM(UNITS, norm="bn", max_steps=most)


def test_public():
    for cls in (NormalizedLSTM, NormalizedLSTMCell):
        assert keras.saving.get_registered_name(cls) == f"keras_norms>{cls.__name__}"
        assert "Args:" in cls.__doc__ and "Reference:" in cls.__doc__
