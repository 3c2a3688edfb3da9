"""NormalizedGRU and its cell: formulas, gradients, masks, states, statistics, files, training.

The loop, the norms and the files are those of the LSTM, on which test_lstm tries them at length.
"""

import keras
import numpy as np
import pytest
from keras import layers

import keras_norms
from keras_norms import NormalizedGRU, NormalizedGRUCell
from tests.support import reference_gru
from tests.support.norms import BACKEND, DTYPE, needs_tensorflow
from tests.support.recurrent import (
    CASES,
    KINDS,
    MASKS,
    SPATIAL,
    UNITS,
    Kind,
    X,
    but,
    call,
    randomize,
    same,
)
from tests.support.recurrent import OPTIONS as KERAS_OPTIONS
from tests.support.reference_lstm import BATCH, PER_SAMPLE, SPECS, values
from tests.support.running import tensor, to_numpy

GRU = Kind(NormalizedGRU, NormalizedGRUCell, layers.GRU, 1, reference_gru.expected)
layer_of = GRU.make


# The formulas.


@pytest.mark.parametrize(
    "spec, case, padding",
    [
        pytest.param(
            *(spec, case, padding),
            marks=[] if (i + j + k) % 9 == 0 else pytest.mark.slow,
            id=f"{spec}-{case}-{padding}",
        )
        for i, spec in enumerate(SPECS)
        for j, case in enumerate(CASES)
        for k, padding in enumerate(MASKS)
    ],
)
def test_formulas(spec, case, padding, rng):
    layer = layer_of(spec, rng, **CASES[case])
    x, state, _ = GRU.draws(rng)
    # On JAX, Keras's loop (norm="none") takes the output of a masked first step from the state.
    mask = MASKS[padding]
    GRU.check(layer, x, mask, None if spec == "none" and mask is not None else state)


@pytest.mark.parametrize("per_gate", [False, True])
@pytest.mark.parametrize("spec", SPECS)
def test_weights_and_defaults(spec, per_gate):
    """Without `per_gate`, the gates are one vector and the candidate another."""
    layer = NormalizedGRU(UNITS, norm=spec, per_gate=per_gate, name="gru")
    layer.build((None, None, 3))
    sizes = {"z": 1, "r": 1, "h": 1} if per_gate else {"zr": 2, "h": 1}
    found = values(layer)
    norms = {name.split("/")[0] for name in found if "/" in name}
    assert norms == {
        f"{contribution}_norm_{end}"
        for contribution in ("input", "recurrent")
        for end in sizes
        if spec not in ("none", "wn")
    }
    for name, value in found.items():
        norm, _, weight = name.partition("/")
        if weight in ("gamma", "scale"):
            start, size = np.float32(0.1 if spec in BATCH else 1), sizes[norm.split("_")[-1]]
            np.testing.assert_array_equal(value, np.full(size * UNITS, start))
        elif weight == "moving_mean":
            assert value.shape == (100, sizes[norm.split("_")[-1]] * UNITS)
        assert weight != "beta"  # the two rows of the bias stand behind the norms
    assert found["bias"].shape == (2, 3 * UNITS)
    gains = [name for name in found if name.endswith("gain")]
    assert gains == (["gain", "recurrent_gain"] if spec.startswith("wn") else [])


@pytest.mark.parametrize("name", ["kernel", "recurrent_kernel"])
def test_weight_normalization_of_one_kernel(name, rng):
    layer = layer_of(f"wn(kernels=({name!r},))", rng)
    x, state, _ = GRU.draws(rng)
    plain = layer_of("none")
    for weight in ("kernel", "recurrent_kernel", "bias"):
        getattr(plain.cell, weight).assign(getattr(layer.cell, weight))
    kernel = to_numpy(getattr(layer.cell, name))
    gain = values(layer)["gain" if name == "kernel" else "recurrent_gain"]
    getattr(plain.cell, name).assign(gain * kernel / np.sqrt((kernel**2).sum(0)))
    same(call(layer, x, state=state), call(plain, x, state=state), 1e-6)


@needs_tensorflow  # needs float64: statistics of two samples have large derivatives
@pytest.mark.parametrize("padding", but(["no mask", "holes"], "holes"))
@pytest.mark.parametrize("spec", but(KINDS, "ln", "bn", "wn_mobn"))
def test_gradients_are_those_of_the_reference(spec, padding, rng):
    GRU.check_gradients(layer_of(spec, rng, per_gate=spec == "ln"), MASKS[padding], rng)


@pytest.mark.parametrize("padding", but(["no mask", "holes"], "holes"))
@pytest.mark.parametrize("spec", but(SPECS, "bn"))
def test_loop_and_unrolled(spec, padding, rng):
    GRU.check_loop(spec, True, MASKS[padding], rng)


# Keras's own layer.

OPTIONS = KERAS_OPTIONS | {"reset before": {"reset_after": False}}


@pytest.mark.parametrize(
    ("spec", "option"),
    [
        (spec, option)
        for spec in ("none", "wn")
        for option in OPTIONS
        if (spec, option) != ("wn", "reset before")  # an error, tested elsewhere
    ],
)
def test_equals_keras(spec, option, rng):
    """norm="none" runs in Keras's loop; weight normalization, as it starts, in ours."""
    ours, theirs = GRU.beside_keras(spec, OPTIONS[option], rng)
    x, _, _ = GRU.draws(rng)
    for padding in ("right",) if spec == "none" else ("no mask", "left"):
        if option == "zeros" and BACKEND == "jax":
            continue  # Keras does not return the states there
        for training in (False, True):
            arguments = training, MASKS[padding]
            tolerance = 0 if spec == "none" else 1e-6
            same(call(ours, x, *arguments), call(theirs, x, *arguments), tolerance)


@pytest.mark.parametrize("option", ["plain", "reset before"])
def test_a_cell_without_a_norm_equals_keras(option, rng):
    ours = NormalizedGRUCell(UNITS, norm="none", dtype=DTYPE, **OPTIONS[option])
    theirs = layers.GRUCell(UNITS, dtype=DTYPE, **OPTIONS[option])
    x, h = tensor(rng.normal(0, 1, (4, 3))), tensor(rng.normal(0, 1, (4, UNITS)))
    for cell in (ours, theirs):
        cell.build((4, 3))
    theirs.set_weights([rng.normal(0, 1, weight.shape) for weight in theirs.get_weights()])
    ours.set_weights(theirs.get_weights())
    same([to_numpy(y) for y in ours(x, h)], [to_numpy(y) for y in theirs(x, h)], 0)


# Padding.


@pytest.mark.parametrize("spec", but(SPECS, "ln", "bn", "wn_mobn"))
def test_padded_equals_truncated(spec, rng):
    GRU.check_truncated(spec, True, rng)


@pytest.mark.parametrize("spec", but(KINDS, "ln", "bn"))
def test_what_padding_holds_reaches_nothing(spec, rng):
    GRU.check_padding(spec, True, rng)


# States and statistics.


@pytest.mark.parametrize("spec", but(["ln", *BATCH], "bn"))
def test_a_stateful_layer_counts_on(spec, rng):
    GRU.check_stateful(spec, rng)


def test_an_untrainable_layer_is_frozen(rng):
    layer = layer_of("bn", rng, trainable=False)
    x, state, _ = GRU.draws(rng)
    before, inference = values(layer), call(layer, x, False, None, state)
    same(call(layer, x, True, None, state), inference, 0)
    same(values(layer), before, 0)


def net_of(spec, **options):
    inputs = keras.Input((6, 3))
    layer = NormalizedGRU(UNITS, norm=spec, max_steps=6, name="gru", **options)
    return keras.Model(inputs, layers.Dense(1)(layer(layers.Masking()(inputs))))


def test_recalibrate_and_freeze(rng):
    """Inference with the statistics of a whole set is training on the whole set."""
    model = net_of("bn", gamma_initializer="ones")
    layer = randomize(model.get_layer("gru"), rng)
    keras_norms.recalibrate(model, [X], exact=True)
    mask = X.any(-1)
    same(call(layer, X, False, mask), call(layer, X, True, mask), 1e-4)
    keras_norms.freeze(model)
    assert len(layer.trainable_variables) == 3  # of the cell
    before = values(layer)
    call(model, X, True)
    same(values(layer), before, 0)


# Files.

GROUPS = keras.saving.serialize_keras_object(keras_norms.GroupNormalization(4))


@pytest.mark.parametrize("cls", [NormalizedGRU, NormalizedGRUCell])
@pytest.mark.parametrize("spec", but([*SPECS, GROUPS], "sn", "ln", "wn"))
def test_configurations(spec, cls):
    GRU.check_configuration(cls, spec)


@pytest.mark.parametrize("spec", but([*SPECS, keras_norms.BatchNormalization], "bn", ids=None))
def test_bidirectional_models_are_saved_exactly(spec, rng, tmp_path):
    GRU.check_files(spec, rng, tmp_path)


# Training.


@pytest.mark.parametrize("spec", but(KINDS, "bn"))
@pytest.mark.parametrize(
    "policy", but(["float32", "mixed_float16", "mixed_bfloat16"], "mixed_float16")
)
def test_fit(policy, spec):
    """Every weight and statistic moves, and keeps float32."""
    keras.config.set_dtype_policy(policy)
    model = net_of(spec)
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
    # Keras's loss scale starts high, and halves in each of the first steps.
    history = model.fit(X, X.mean((1, 2))[:, None], batch_size=4, epochs=10, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    for weight, old in zip(model.weights, before, strict=True):
        if "seed" not in weight.path:
            assert weight.dtype == "float32" and (to_numpy(weight) != old).any(), weight.path
    assert np.isfinite(model.predict(X * 1e3, verbose=0)).all()


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("spec", KINDS)
def test_fit_with_jit_compile(spec):
    """What XLA computes is what TensorFlow computes."""
    if spec == "gn":  # whose groups are pairs: where these are almost equal, rounding is amplified
        spec = "gn(epsilon=0.1)"
    results = []
    for options in ({"run_eagerly": True}, {"jit_compile": True}):
        keras.utils.set_random_seed(0)
        model = net_of(spec)
        model.compile(keras.optimizers.SGD(0.05), "mse", **options)
        model.fit(X, X.mean((1, 2))[:, None], batch_size=4, epochs=3, verbose=0)
        results.append(values(model.get_layer("gru")))
    same(*results, 1e-3)


# The cell.


@pytest.mark.parametrize("spec", but(PER_SAMPLE, "ln", "wn"))
@pytest.mark.parametrize("options", but([{}, {"per_gate": True}, {"dropout": 0.4}], {}), ids=str)
def test_a_cell_in_an_rnn_equals_the_layer(spec, options, rng):
    GRU.check_cell(spec, options, rng)


def test_stacked_cells_are_saved_exactly(rng, tmp_path):
    inputs = keras.Input((None, 3))
    cells = [NormalizedGRUCell(UNITS, per_gate=i > 0) for i in range(2)]
    model = keras.Model(inputs, layers.RNN(cells)(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(call(loaded, X), call(model, X))


# Refusals.


@pytest.mark.parametrize("cls", [NormalizedGRU, NormalizedGRUCell])
def test_refusals(cls):
    with pytest.raises(ValueError, match=r"as with reset_after=True.*Received: reset_after=False"):
        cls(UNITS, reset_after=False)
    for spec in SPATIAL:
        with pytest.raises(ValueError, match="no spatial axis.*Use one of 'none', 'bn', 'ln'"):
            cls(UNITS, norm=spec)
    if cls is NormalizedGRUCell:
        for spec in BATCH:
            with pytest.raises(ValueError, match="cannot keep moving stat.*Use NormalizedGRU. "):
                cls(UNITS, norm=spec)
    assert keras.saving.get_registered_name(cls) == f"keras_norms>{cls.__name__}"
