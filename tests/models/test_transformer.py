"""zoo.transformer."""

import importlib
import math
import types

import keras
import numpy as np
import pytest
from keras import ops

import keras_norms
from keras_norms import WeightNormalization
from zoo import transformer
from zoo.norms import SUPPORT

VOCABULARY, STEPS = 11, 6
# Padding is in the middle, at the start and at the end; the last two columns are all padding.
IDS = np.array([[1, 2, 3, 4, 0, 0], [5, 0, 7, 8, 0, 0], [0, 9, 10, 0, 0, 0], [3, 3, 1, 0, 0, 0]])
FULL = np.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 1, 2]])
ENCODER = [spec for spec in SUPPORT if SUPPORT[spec]["transformer"]]
DECODER = [spec for spec in SUPPORT if SUPPORT[spec]["causal_transformer"]]
MODELS = [(False, spec) for spec in ENCODER] + [(True, spec) for spec in DECODER]
NEED_POSITIONS = ("in", "bin", "gn(groups=-1)", "sn(statistics=('instance',))")
PLACEMENTS = ("pre", "post")
over_placements = pytest.mark.parametrize("placement", PLACEMENTS)
over_models_and_placements = pytest.mark.parametrize(
    ("causal", "spec", "placement"),
    [
        pytest.param(causal, spec, placement, marks=() if default else pytest.mark.slow)
        for causal, spec in MODELS
        for placement in PLACEMENTS
        for default in [causal == (placement == "post")]
    ],
)


def build(spec="ln", causal=False, steps=STEPS, vocabulary=VOCABULARY, **options):
    options = {"depth": 1, "heads": 2, "width": 1 / 16, "dropout": 0.0} | options
    return transformer(3, spec, (steps,), vocabulary, causal, **options)


def build_random(*args, **kwargs):
    """A model in which no weight has the value that it starts from."""
    rng = np.random.default_rng(0)
    model = build(*args, **kwargs)
    for v in model.weights:
        if v.name in ("moving_variance", "gate"):
            v.assign(rng.uniform(0.3, 0.9, v.shape))
        elif "float" in v.dtype:
            v.assign(v + rng.normal(0, 0.3, v.shape))
    return model


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@over_models_and_placements
def test_every_norm_trains_a_step_and_survives_saving(causal, spec, placement, tmp_path):
    model = build(spec, causal, placement=placement, dropout=0.1)
    model.compile(keras.optimizers.SGD(0.1), cross_entropy(), run_eagerly=True)
    before = [numpy(v) for v in model.trainable_variables]
    labels = IDS % 3 if causal else np.array([0, 1, 2, 0])
    assert np.isfinite(model.train_on_batch(IDS, labels))
    moved = [
        np.any(old != numpy(v)) for old, v in zip(before, model.trainable_variables, strict=True)
    ]
    assert np.mean(moved) > 0.5
    logits = model(IDS, training=False)
    assert logits.shape == ((4, STEPS, 3) if causal else (4, 3)) and logits.dtype == "float32"
    assert np.all(np.ptp(logits, axis=0) > 1e-5)  # of samples: a classifier looks at its input
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits, loaded(IDS, training=False))


@pytest.mark.parametrize("spec", [spec for spec in ENCODER if spec not in DECODER])
def test_a_causal_model_refuses_norms_that_look_ahead(spec):
    build(spec)
    alternatives = ", ".join(map(repr, DECODER))
    with pytest.raises(ValueError, match=f"later ones. Use one of {alternatives}"):
        build(spec, causal=True)


def change_after(model, t):
    """Logits until `t` and after it, before and after a change of all tokens after `t`."""
    changed = FULL.copy()
    changed[:, t + 1 :] = changed[:, t + 1 :] % (VOCABULARY - 1) + 1
    first, second = numpy(model(FULL, training=False)), numpy(model(changed, training=False))
    return (first[:, : t + 1], second[:, : t + 1]), (first[:, t + 1 :], second[:, t + 1 :])


@over_placements
@pytest.mark.parametrize("spec", [*DECODER, "sn(statistics=('instance', 'layer'))"])
def test_nothing_leaks_from_later_tokens(spec, placement):
    model = build_random(spec, causal=True, placement=placement)
    for t in (0, 3):
        before, after = change_after(model, t)
        np.testing.assert_array_equal(*before)
        assert np.all(np.any(after[0] != after[1], axis=(0, 2)))


@over_placements
def test_what_the_test_of_leaks_would_find(placement, monkeypatch):
    """Were time a spatial axis, layer normalization would tell the future; so would no mask."""
    before, _ = change_after(build_random("none", causal=False, placement=placement), 0)
    assert before[0].shape == (2, 1)  # an encoder has one output for all
    module = importlib.import_module("zoo.transformer")
    norm = keras_norms.get("ln")
    over_time = types.SimpleNamespace(
        normalize=norm.normalize, wrap=norm.wrap, needs_spatial_axis=True
    )
    monkeypatch.setattr(module, "norm_for", lambda model, spec: over_time)
    before, _ = change_after(build_random("ln", causal=True, placement=placement), 3)
    assert np.all(np.any(before[0] != before[1], axis=(0, 2)))


def truncated(model, steps, *args, **kwargs):
    """The same model for the first `steps` steps."""
    short = build(*args, steps=steps, **kwargs)
    for new, old in zip(short.weights, model.weights, strict=True):
        new.assign(old[:steps] if "positions" in old.path else old)
    return short


@over_models_and_placements
def test_padding_changes_nothing(causal, spec, placement):
    model = build_random(spec, causal, placement=placement)
    short = truncated(model, 4, spec, causal, placement=placement)
    for training in (False, True):
        logits = numpy(model(IDS, training=training))
        expected = numpy(short(IDS[:, :4], training=training))
        if causal:
            logits, expected = logits[:, :4][IDS[:, :4] > 0], expected[IDS[:, :4] > 0]
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    # Training has moved the moving statistics, where there are any.
    for old, new in zip(model.non_trainable_variables, short.non_trainable_variables, strict=True):
        np.testing.assert_allclose(old, new, rtol=1e-5, atol=1e-6, err_msg=old.path)


@pytest.mark.parametrize(
    ("causal", "spec"),
    [
        pytest.param(*model, marks=pytest.mark.slow if model[0] and i % 2 else ())
        for i, model in enumerate(MODELS)
    ],
)
def test_padding_may_stand_anywhere(causal, spec):
    """A sequence is what its tokens are, wherever they stand; padding alone is finite."""
    model = build_random(spec, causal)
    ids = np.array([[1, 2, 3, 0, 0, 0], [0, 0, 0, 1, 2, 3], [1, 0, 2, 0, 0, 3], [0] * 6])
    logits = numpy(model(ids, training=False))
    assert np.all(np.isfinite(logits)) and np.all(np.isfinite(model(ids, training=True)))
    samples = [x[row > 0] if causal else x for x, row in zip(logits, ids, strict=True)]
    for sample in samples[1:3]:
        np.testing.assert_allclose(sample, samples[0], rtol=1e-4, atol=1e-5)


@over_placements
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("spec", ["bn", "wn_mobn"])
def test_batch_statistics_are_those_of_the_tokens(spec, causal, placement):
    model = build(f"{spec}(momentum=0)", causal, placement=placement)
    model(IDS, training=True)  # with momentum 0, inference uses these statistics from here on
    suffix = "norm" if spec == "bn" else "_wn"
    layers = [x for x in model.layers if x.name.startswith("block") and x.name.endswith(suffix)]
    assert len(layers) == (2 if spec == "bn" else 6)
    outputs = keras.Model(model.input, [layer.output for layer in layers])(IDS, training=False)
    for layer, output in zip(layers, map(numpy, outputs), strict=True):
        tokens = output[IDS > 0]
        np.testing.assert_allclose(tokens.mean(0), 0, atol=1e-6, err_msg=layer.name)
        if spec == "bn":
            np.testing.assert_allclose(tokens.var(0), 1, atol=0.05, err_msg=layer.name)
        assert np.max(np.abs(output.mean((0, 1)))) > 1e-4  # that of padding is something else


@pytest.mark.parametrize("spec", ["none", "rms", "bn", "wn_mobn"])
def test_loss_counts_the_tokens_only(spec, tmp_path):
    model = build_random(spec, causal=True)
    model.save(tmp_path / "model.keras")
    labels = np.random.default_rng(1).integers(0, 3, IDS.shape)
    logits = numpy(model(IDS))[IDS > 0]
    chosen = np.take_along_axis(logits, labels[IDS > 0][:, None], -1)[:, 0]
    expected = np.mean(np.log(np.exp(logits).sum(-1)) - chosen)
    for same in (model, keras.models.load_model(tmp_path / "model.keras")):
        same.compile(loss=cross_entropy(), run_eagerly=True)
        assert same.test_on_batch(IDS, labels) == pytest.approx(expected, rel=1e-5)


def reference(model, ids, causal, placement):
    """The equations for one block with layer normalization, in NumPy."""
    w = {v.path: np.asarray(numpy(v), "float64") for v in model.weights}
    present = ids > 0

    def dense(x, name):
        return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-5)
        return x * w[f"{name}/gamma"] + w[f"{name}/beta"]

    def gelu(x):
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2

    def attention(x, name):
        q, k, v = (
            dense(x, f"{name}_{role}").reshape(*ids.shape, 2, -1).swapaxes(1, 2)
            for role in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(2, 3) / math.sqrt(q.shape[-1])
        seen = present[:, None, None, :] & (np.tri(ids.shape[1], dtype=bool) | (not causal))
        scores = np.exp(np.where(seen, scores, -1e9))
        x = (scores / np.maximum(scores.sum(-1, keepdims=True), 1e-9)) @ v
        return dense(x.swapaxes(1, 2).reshape(*ids.shape, -1), f"{name}_output")

    def mlp(x, name):
        return dense(gelu(dense(x, f"{name}_hidden")), f"{name}_output")

    positions = np.maximum(np.cumsum(present, 1) - 1, 0)
    x = w["embedding/embeddings"][ids] + w["positions/embeddings"][positions]
    for branch in (attention, mlp):
        name = f"block1_{branch.__name__}"
        if placement == "pre":
            x = x + branch(norm(x, f"{name}_norm"), name)
        else:
            x = norm(x + branch(x, name), f"{name}_norm")
    if placement == "pre":
        x = norm(x, "final_norm")
    if not causal:
        x = np.where(present[..., None], gelu(x), 0).sum(1) / present.sum(1, keepdims=True)
    return dense(x, "logits")


@over_placements
@pytest.mark.parametrize("causal", [False, True])
def test_equations(causal, placement):
    model = build_random("ln", causal, placement=placement)
    logits, expected = numpy(model(IDS)), reference(model, IDS, causal, placement)
    if causal:
        logits, expected = logits[IDS > 0], expected[IDS > 0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@over_placements
def test_where_norms_stand(placement):
    model = build("ln", depth=2, placement=placement)
    names = [layer.name for layer in model.layers if layer.name.endswith("norm")]
    blocks = [f"block{b}_{branch}_norm" for b in (1, 2) for branch in ("attention", "mlp")]
    assert names == blocks + ["final_norm"] * (placement == "pre")
    before = "embedding_dropout" if placement == "pre" else "block1_attention_add"
    inputs, _ = model.get_layer("block1_attention_norm").input  # and the mask
    assert inputs is model.get_layer(before).output


@pytest.mark.parametrize(
    ("causal", "spec"), MODELS + [(False, spec) for spec in NEED_POSITIONS[2:]]
)
def test_every_token_is_a_sample_unless_the_norm_needs_positions(causal, spec):
    model = build(spec, causal)
    norms = [layer for layer in model.layers if hasattr(layer, "batch_axis")]
    assert len(norms) == (0 if spec in ("none", "rms", "wn", "wn_mobn") else 3)
    expected = 0 if spec in NEED_POSITIONS else (0, 1)
    assert all(layer.batch_axis == expected for layer in norms)
    if spec == "rms":  # per position by itself
        layers = [layer for layer in model.layers if layer.name.endswith("norm")]
        assert len(layers) == 3
        assert all(isinstance(layer, keras.layers.RMSNormalization) for layer in layers)


@over_placements
def test_ln_is_keras_layer_normalization(placement):
    model = build_random("ln", causal=True, placement=placement)
    norm = model.get_layer("block1_attention_norm")
    twin = keras.layers.LayerNormalization(epsilon=1e-5)
    twin.build((None, STEPS, 8))
    twin.gamma.assign(norm.gamma)
    twin.beta.assign(norm.beta)
    inputs, outputs = keras.Model(model.input, [norm.input[0], norm.output])(FULL)
    np.testing.assert_allclose(outputs, twin(inputs), rtol=1e-5, atol=1e-5)
    of_keras = build_random(
        lambda: keras.layers.LayerNormalization(epsilon=1e-5), causal=True, placement=placement
    )
    of_keras.set_weights(model.get_weights())
    np.testing.assert_allclose(of_keras(FULL), model(FULL), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", ["wn", "wn_mobn"])
def test_weight_norm_wraps_every_projection(spec):
    roles = ("attention_query", "attention_key", "attention_value", "attention_output")
    blocks = [
        f"block{block}_{role}" for block in (1, 2) for role in (*roles, "mlp_hidden", "mlp_output")
    ]
    for vocabulary, shape, first in ((VOCABULARY, (STEPS,), []), (None, (STEPS, 5), ["embedding"])):
        model = transformer(3, spec, shape, vocabulary, heads=2, width=1 / 16)
        wrappers = [layer for layer in model.layers if isinstance(layer, WeightNormalization)]
        assert [w.layer.name for w in wrappers] == [*first, *blocks, "logits"]
        assert all((w.mean_only_batch_norm is not None) == (spec == "wn_mobn") for w in wrappers)
        assert not any(isinstance(layer, keras.layers.Dense) for layer in model.layers)


def test_weight_norm_is_initialized_by_tokens():
    """Data-dependent initialization leaves padding out, as the statistics do."""
    model = build_random("wn", causal=True)
    short = truncated(model, 4, "wn", causal=True)
    keras_norms.data_dependent_init(model, IDS)
    keras_norms.data_dependent_init(short, IDS[:, :4])
    for name in ("block1_attention_query_wn", "block1_mlp_output_wn", "logits_wn"):
        gains = model.get_layer(name).gain, short.get_layer(name).gain
        np.testing.assert_allclose(*gains, rtol=1e-4, err_msg=name)


def test_number_of_trainable_parameters():
    # embeddings, per block q, k, v, output, MLP and two norms, final norm, logits
    block = 4 * (128 * 128 + 128) + (128 * 512 + 512) + (512 * 128 + 128) + 2 * 2 * 128
    expected = (VOCABULARY + STEPS) * 128 + 2 * block + 2 * 128 + (128 * 3 + 3)
    model = transformer(3, "ln", (STEPS,), VOCABULARY)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == expected
    # A norm changes its own weights only: a projection keeps its bias.
    rms, none = (transformer(3, spec, (STEPS,), VOCABULARY) for spec in ("rms", "none"))
    assert rms.count_params() == expected - 5 * 128
    assert none.count_params() == expected - 2 * 5 * 128


@pytest.mark.parametrize(("width", "heads", "channels"), [(1, 4, 128), (1, 3, 129), (0.01, 8, 8)])
def test_channels_are_a_multiple_of_the_heads(width, heads, channels):
    model = build(width=width, heads=heads)
    assert model.get_layer("block1_attention_output").units == channels
    assert model.get_layer("block1_mlp_hidden").units == 4 * channels


@pytest.mark.parametrize("spec", ["ln", "in", "sn", "wn_mobn"])
def test_vectors(spec):
    vectors = np.random.default_rng(0).normal(size=(4, STEPS, 5)).astype("float32")
    model = transformer(3, spec, (STEPS, 5), depth=1, heads=2, width=1 / 16)
    model.compile("sgd", cross_entropy(), run_eagerly=True)
    assert np.isfinite(model.train_on_batch(vectors, np.array([0, 1, 2, 0])))
    logits, reversed_ = model(vectors, training=False), model(vectors[:, ::-1], training=False)
    assert logits.shape == (4, 3)
    assert np.max(np.abs(logits - reversed_)) > 1e-6  # positions count


def test_a_causal_model_of_vectors():
    vectors = np.random.default_rng(0).normal(size=(2, STEPS, 5)).astype("float32")
    model = transformer(3, "sn", (STEPS, 5), causal=True, depth=1, heads=2, width=1 / 16)
    changed = np.concatenate([vectors[:, :3], -vectors[:, 3:]], axis=1)
    logits, others = model(vectors, training=False), model(changed, training=False)
    assert logits.shape == (2, STEPS, 3)
    np.testing.assert_array_equal(logits[:, :3], others[:, :3])
    assert np.all(np.any(logits[:, 3:] != others[:, 3:], axis=-1))


def test_dropout_is_in_training_only():
    model = build("ln", dropout=0.5)
    np.testing.assert_array_equal(model(IDS, training=False), model(IDS, training=False))
    assert np.any(model(IDS, training=True) != model(IDS, training=True))
    rates = {x.name: x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)}
    places = ("embedding", "block1_attention", "block1_mlp")
    assert rates == {f"{place}_dropout": 0.5 for place in places}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize(("causal", "spec"), [(False, "in"), (True, "sn"), (True, "wn_mobn")])
def test_logits_are_float32_under_mixed_precision(policy, causal, spec):
    keras.config.set_dtype_policy(policy)
    model = build(spec, causal)
    model.compile("sgd", cross_entropy(), run_eagerly=True)
    labels = IDS % 3 if causal else np.array([0, 1, 2, 0])
    assert np.isfinite(model.train_on_batch(IDS, labels))
    logits = model(IDS)
    assert model.output.dtype == logits.dtype == "float32" and np.all(np.isfinite(logits))
    assert model.get_layer("block1_mlp_dropout").compute_dtype == policy.removeprefix("mixed_")


@pytest.mark.parametrize(
    ("causal", "spec"),
    [
        pytest.param(
            *model, marks=() if model in [(False, "in"), (True, "sn")] else pytest.mark.slow
        )
        for model in MODELS
    ],
)
def test_exported_models_are_exact(causal, spec, tmp_path):
    import tensorflow as tf

    model = build_random(spec, causal)
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(IDS.astype("int32")), model(IDS), atol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="`placement` must be 'pre' or 'post'.*'middle'"):
        build(placement="middle")
    with pytest.raises(ValueError, match="Received: 'batch'"):
        build("batch")
    for shape, vocabulary in (((6, 5), 11), ((6,), None), (None, 11)):
        with pytest.raises(ValueError, match=f"`input_shape` must be .*vocabulary={vocabulary}"):
            transformer(3, "ln", shape, vocabulary)
    for shape, vocabulary in (((None,), 11), ((None, 5), None)):
        with pytest.raises(ValueError, match="`input_shape` must be without None"):
            transformer(3, "ln", shape, vocabulary)
