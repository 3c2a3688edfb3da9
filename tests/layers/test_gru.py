"""NormalizedGRU and its cell: formulas, gradients, masks, states, statistics, files, training.

The loop, the norms and the files are those of the LSTM, on which test_lstm tries them at length.
"""

import json
import pickle

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_norms
from keras_norms import NormalizedGRU, NormalizedGRUCell
from tests.layers.test_lstm import (
    CASES,
    KINDS,
    MASKS,
    SHAPE,
    SPATIAL,
    UNITS,
    X,
    but,
    call,
    check,
    check_gradients,
    draws,
    randomize,
    same,
    slopes,
    steps,
)
from tests.support.norms import BACKEND, DTYPE, needs_tensorflow
from tests.support.reference_gru import expected
from tests.support.reference_lstm import BATCH, PER_SAMPLE, SPECS, values, variables
from tests.support.running import tensor, to_numpy


def layer_of(spec, rng=None, **options):
    options = {"max_steps": 10, "return_sequences": True, "return_state": True, **options}
    layer = NormalizedGRU(UNITS, norm=spec, **{"dtype": DTYPE, "name": "gru", **options})
    layer.build(SHAPE)
    return layer if rng is None else randomize(layer, rng)


def copy_of(layer, spec, **options):
    copy = layer_of(spec, **options)
    for mine, other in zip(variables(copy).values(), variables(layer).values(), strict=True):
        mine.assign(other)
    return copy


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
    x, state, _ = draws(rng, 1)
    # On JAX, Keras's loop (norm="none") takes the output of a masked first step from the state.
    mask = MASKS[padding]
    check(layer, x, mask, None if spec == "none" and mask is not None else state, expected)


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
    x, state, _ = draws(rng, 1)
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
    layer = layer_of(spec, rng, per_gate=spec == "ln")
    check_gradients(layer, *draws(rng, 1), MASKS[padding], rng, expected)


@pytest.mark.parametrize("padding", but(["no mask", "holes"], "holes"))
@pytest.mark.parametrize("spec", but(SPECS, "bn"))
def test_loop_and_unrolled(spec, padding, rng):
    """Outputs, moving statistics and all gradients."""
    loop = layer_of(spec, rng)
    unrolled = copy_of(loop, spec, unroll=True)
    x, state, dy = draws(rng, 1)
    arguments = True, MASKS[padding], state
    same(slopes(loop, x, dy, *arguments), slopes(unrolled, x, dy, *arguments))
    same(call(loop, x, *arguments), call(unrolled, x, *arguments))
    same(values(loop), values(unrolled))


# Keras's own layer.

OPTIONS = {
    "plain": {},
    "last": {"return_sequences": False},
    "backwards": {"go_backwards": True},
    "unroll": {"unroll": True},
    "activations": {"activation": "relu", "recurrent_activation": "hard_sigmoid"},
    "no bias": {"use_bias": False},
    "zeros": {"zero_output_for_mask": True},
    "dropout": {"dropout": 0.4, "seed": 1},
    "recurrent dropout": {"dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
    "reset before": {"reset_after": False},
}


def beside_keras(spec, options, rng):
    """Our layer and Keras's, with the same weights and seeds."""
    options = {"return_state": True, "return_sequences": True, **options}
    ours = layer_of(spec, **options)
    theirs = layers.GRU(UNITS, dtype=DTYPE, **options)
    theirs.build(SHAPE)
    for weight in ours.cell.trainable_variables:
        weight.assign(rng.normal(0, 0.7, weight.shape))
    for name in ("", "recurrent_"):
        gain, kernel = getattr(ours, f"{name}gain"), getattr(ours.cell, f"{name}kernel")
        if gain is not None:
            gain.assign(ops.sqrt(ops.sum(ops.square(kernel), 0)))
    theirs.cell.set_weights(ours.cell.get_weights())
    return ours, theirs


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("spec", ["none", "wn"])
def test_equals_keras(spec, option, rng):
    """norm="none" runs in Keras's loop; weight normalization, as it starts, in ours."""
    if spec == "wn" and option == "reset before":
        pytest.skip("refused")
    ours, theirs = beside_keras(spec, OPTIONS[option], rng)
    x, _, _ = draws(rng, 1)
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
    """The longest sequence has four steps; padding after them changes nothing."""
    x, state, _ = draws(rng, 1)
    mask = steps < np.array([[4], [2], [1], [3]])
    results = []
    for length in (6, 4):
        layer = layer_of(spec, np.random.default_rng(1))
        y, h = call(layer, x[:, :length], True, mask[:, :length], state)
        results.append([np.where(mask[:, :4, None], y[:, :4], 0), h, values(layer)])
    same(*results)


@pytest.mark.parametrize("spec", but(KINDS, "ln", "bn"))
def test_what_padding_holds_reaches_nothing(spec, rng):
    """NaN in padding reaches neither outputs nor statistics nor gradients."""
    x, state, dy = draws(rng, 1)
    mask = MASKS["holes"]
    results = []
    for padding in (x, np.where(mask[..., None], x, np.nan)):
        layer = layer_of(spec, np.random.default_rng(1))
        results.append([*call(layer, padding, True, mask, state), values(layer)])
        results[-1].append(slopes(layer, padding, dy, True, mask, state))
    same(*results)


# States and statistics.


@pytest.mark.parametrize("spec", but(["ln", *BATCH], "bn"))
def test_a_stateful_layer_counts_on(spec, rng):
    """Calls keep states and step numbers, in training and inference, until a reset."""
    layer = layer_of(spec, rng, stateful=True)
    state, first = np.zeros((1, 4, UNITS)), 0
    for training in (True, False, True):
        x, _, _ = draws(rng, 1)
        y, last, moving = expected(layer, x, None, training, state, first)
        same(call(layer, x, training), [y, *last])
        after = values(layer)
        same({name: after[name] for name in moving}, moving)
        state, first = last, first + 6
        if first == 12:
            layer.reset_state()
            state, first = np.zeros((1, 4, UNITS)), 0


def test_an_untrainable_layer_is_frozen(rng):
    layer = layer_of("bn", rng, trainable=False)
    x, state, _ = draws(rng, 1)
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


@pytest.mark.parametrize("cls", [NormalizedGRU, NormalizedGRUCell])
@pytest.mark.parametrize("spec", but([*SPECS, keras_norms.GroupNormalization], "sn", "ln", "wn"))
def test_configurations(spec, cls):
    """A config is JSON, the same before and after build, and makes an equal layer."""
    options = {"per_gate": True, "use_bias": False, "dtype": "mixed_float16", "name": "mine"}
    if cls is NormalizedGRU:
        options |= {"max_steps": 7, "gamma_initializer": "ones", "go_backwards": True}
    elif keras_norms.get(spec).has_batch_statistics:
        pytest.skip("no norm of a cell")
    layer, shape = cls(UNITS, norm=spec, **options), (2, 6, 3)[cls is NormalizedGRUCell :]
    serialized = json.dumps(layer.get_config())
    layer.build(shape)
    assert json.dumps(layer.get_config()) == serialized
    other = cls.from_config(pickle.loads(pickle.dumps(json.loads(serialized))))
    assert json.dumps(other.get_config()) == serialized
    other.build(shape)
    assert [(v.path, v.shape, v.dtype) for v in other.weights] == [
        (v.path, v.shape, v.dtype) for v in layer.weights
    ]


@pytest.mark.parametrize("spec", but([*SPECS, keras_norms.BatchNormalization], "bn", ids=None))
def test_bidirectional_models_are_saved_exactly(spec, rng, tmp_path):
    def net():
        inputs = keras.Input((None, 3))
        options = {"norm": spec, "per_gate": spec == "bn", "max_steps": 4}
        both = layers.Bidirectional(NormalizedGRU(UNITS, **options, name="gru"), name="both")
        one = NormalizedGRU(UNITS, return_sequences=True, **options, name="one")
        return keras.Model(inputs, both(one(inputs)))

    def grus(model):
        found = keras_norms.tree.named_layers(model).values()
        return [layer for layer in found if isinstance(layer, NormalizedGRU)]

    model, x = net(), rng.normal(1, 2, SHAPE).astype("float32")
    names = [w.path for w in model.weights]
    assert len(set(names)) == len(names) and len(grus(model)) == 3
    for layer in grus(model):
        randomize(layer, rng)
    y = call(model, x)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = net()
    fresh.load_weights(tmp_path / "model.weights.h5")
    for other in (keras.models.load_model(tmp_path / "model.keras"), fresh):
        np.testing.assert_array_equal(call(other, x), y)
        for one, two in zip(grus(model), grus(other), strict=True):
            same(values(one), values(two), 0)


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
    layer = layer_of(spec, rng, seed=2, **options)
    cell = NormalizedGRUCell(UNITS, norm=spec, dtype=DTYPE, seed=2, name="gru", **options)
    wrapped = layers.RNN(cell, return_sequences=True, return_state=True, dtype=DTYPE)
    wrapped.build(SHAPE)
    for name, variable in variables(cell).items():
        variable.assign(variables(layer)[name])
    x, state, _ = draws(rng, 1)
    for training in (False, True):
        same(call(wrapped, x, training, None, state), call(layer, x, training, None, state))
        arguments = training, MASKS["right"]
        same(call(wrapped, x, *arguments), call(layer, x, *arguments))


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
