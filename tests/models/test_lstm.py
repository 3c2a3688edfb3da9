"""zoo.lstm."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_norms
from keras_norms import analysis
from zoo import lstm
from zoo.norms import SUPPORT

VOCABULARY, STEPS, UNITS = 11, 6, 8
IDS = np.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 0, 0], [2, 0, 0, 0, 0, 0], [3, 3, 1, 0, 0, 0]])
FULL = np.array([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 1, 2], [3, 3, 1, 5, 5, 9]])
VECTORS = np.random.default_rng(0).normal(1, 2, (4, STEPS, 3)).astype("float32")
LABELS = np.array([0, 1, 2, 0])
WORKING = [spec for spec in SUPPORT if SUPPORT[spec]["lstm"]]
BATCH = [spec for spec in WORKING if keras_norms.get(spec).has_batch_statistics]
over = pytest.mark.parametrize("spec", WORKING)


def tokens(spec="ln", steps=STEPS, **options):
    return lstm(3, spec, (steps,), VOCABULARY, **{"width": UNITS / 128, **options})


def vectors(spec="ln", steps=STEPS, **options):
    return lstm(3, spec, (steps, 3), **{"width": UNITS / 128, **options})


MODELS = {
    "classifier": (lambda spec: tokens(spec, dropout=0.1), IDS, LABELS),
    "language model": (lambda spec: tokens(spec, None, causal=True, depth=2), FULL, FULL % 3),
    "vectors": (lambda spec: vectors(spec, None), VECTORS, LABELS),
    "both ways": (lambda spec: vectors(spec, bidirectional=True, depth=2), VECTORS, LABELS),
}


def randomized(model):
    """The model with other weights than those it starts from."""
    rng = np.random.default_rng(0)
    for v in model.weights:
        if v.name == "moving_variance":
            v.assign(rng.uniform(0.3, 2, v.shape))
        elif v.name == "moving_steps":
            v.assign(4)
        elif "float" in v.dtype:
            v.assign(v + rng.normal(0, 0.5, v.shape))
    return model


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        pytest.param(spec, kind, marks=[] if (i + j) % 4 == 0 else pytest.mark.slow)
        for i, spec in enumerate(WORKING)
        for j, kind in enumerate(MODELS)
    ],
)
def test_every_norm_trains_a_step_and_survives_saving(spec, kind, tmp_path):
    build, x, y = MODELS[kind]
    model = build(spec)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    before = [numpy(v) for v in model.trainable_variables]
    assert np.isfinite(model.train_on_batch(x, y))
    after = zip(before, model.trainable_variables, strict=True)
    assert all(np.any(old != numpy(v)) for old, v in after)
    logits = model(x, training=False)
    assert logits.shape == (*y.shape, 3) and logits.dtype == "float32"
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits, loaded(x, training=False))


@pytest.mark.parametrize(
    ("spec", "training"),
    [(spec, False) for spec in WORKING]
    + [
        pytest.param(spec, True, marks=[] if spec == "bn" else pytest.mark.slow) for spec in WORKING
    ],
)
def test_a_language_model_does_not_see_later_tokens(spec, training):
    """Not even by the statistics of the batch, but for the mean of the classifier's own norm."""
    if training and spec == "wn_mobn":
        pytest.skip("mean-only batch normalization of the logits, over all steps")
    model = randomized(tokens(spec, None, causal=True, depth=2))
    weights = model.get_weights()
    logits = numpy(model(FULL, training=training))
    for step in (1, 4):
        other = FULL.copy()
        other[:, step:] = (other[:, step:] + 3) % (VOCABULARY - 1) + 1
        model.set_weights(weights)
        changed = numpy(model(other, training=training))
        np.testing.assert_array_equal(changed[:, :step], logits[:, :step])
        assert np.abs(changed[:, step:] - logits[:, step:]).max() > 1e-3


@pytest.mark.parametrize(
    ("spec", "bidirectional"),
    [(spec, False) for spec in WORKING]
    + [
        pytest.param(spec, True, marks=[] if spec in ("bn", "ln") else pytest.mark.slow)
        for spec in WORKING
    ],
)
def test_padding_changes_nothing(spec, bidirectional):
    model = randomized(tokens(spec, None, bidirectional=bidirectional))
    logits = numpy(model(IDS))
    padded = numpy(model(np.pad(IDS, ((0, 0), (0, 3)))))
    if bidirectional and spec in BATCH:
        # Backwards, padding comes first, and what follows has the statistics of later steps.
        assert np.abs(padded - logits).max() > 1e-3
        return
    np.testing.assert_allclose(padded, logits, atol=1e-5)
    for sample, length in zip(range(4), (IDS > 0).sum(1), strict=True):
        alone = numpy(model(IDS[sample : sample + 1, :length]))
        np.testing.assert_allclose(alone[0], logits[sample], atol=1e-5)


def test_padding_of_a_language_model():
    model = randomized(tokens("bn", None, causal=True))
    logits, padded = numpy(model(IDS)), numpy(model(np.pad(IDS, ((0, 0), (0, 3)))))
    np.testing.assert_allclose(padded[:, :STEPS][IDS > 0], logits[IDS > 0], atol=1e-5)


def parameters(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


# The embedding, 11 * 8; the kernels and the bias, (8 + 8 + 1) * 32; the classifier, (8 + 1) * 3.
PLAIN = 88 + 544 + 27


@pytest.mark.parametrize(
    ("spec", "more"),
    [
        ("none", 0),
        ("ln", 2 * 32 + 2 * 8),
        ("gn", 2 * 32 + 2 * 8),
        ("bn", 2 * 32 + 2 * 8),
        ("rms", 2 * 32 + 8),
        ("sn", 2 * 32 + 2 * 8 + 3 * 4),
        ("wn", 2 * 32 + 3),  # the classifier has gains too
        ("wn_mobn", 2 * 32 + 3),
    ],
)
def test_number_of_trainable_parameters(spec, more):
    assert parameters(tokens(spec)) == PLAIN + more


def test_units_steps_and_names():
    model = lstm(3, "bn", (7,), VOCABULARY, depth=2)
    names = [layer.name for layer in model.layers if not layer.name.startswith("not_equal")]
    assert names == "tokens embedding layer1 layer1_dropout layer2 layer2_dropout logits".split()
    layer = model.get_layer("layer2")
    assert (layer.units, layer.max_steps) == (128, 7)
    assert layer.cell_norms[0].moving_mean.shape == (7, 128)
    assert tokens("bn", None).get_layer("layer1").max_steps == 100
    assert lstm(3).input_shape == (None, None, 1)
    assert lstm(3, vocabulary=5).input_shape == (None, None)
    assert lstm(3, "bn", width=1e-9).get_layer("layer1").units == 1


PATHS = {
    False: ["layer1/layer1_", "layer2/layer2_"],
    True: [
        f"layer{i}_bidirectional/{way}_layer{i}/{way}_layer{i}_"
        for i in (1, 2)
        for way in ("forward", "backward")
    ],
}


def switches(bidirectional):
    contributions = ("input", "recurrent", "cell")
    return [f"{path}{c}_norm" for path in PATHS[bidirectional] for c in contributions]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_switches_inside_are_found(bidirectional):
    model = vectors("sn", bidirectional=bidirectional, depth=2)
    expected = switches(bidirectional)
    table = keras_norms.importance(model)
    assert list(table) == expected
    assert table[expected[0]] == {
        kind: {"layer": 0.5, "batch": 0.5} for kind in ("mean", "variance")
    }
    controls = keras_norms.control_variables(model)
    assert len(controls) == 2 * len(expected)
    assert all(v.path.endswith(("_norm/mean_logits", "_norm/variance_logits")) for v in controls)
    assert len({v.path for v in controls}) == len(controls)


@pytest.mark.parametrize("bidirectional", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_switches_inside_are_trained_and_logged(bidirectional, tmp_path):
    model, expected = vectors("sn", bidirectional=bidirectional, depth=2), switches(bidirectional)
    optimizer = keras_norms.configure_optimizer(keras.optimizers.SGD(0.1), model, 10.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, run_eagerly=True)
    logger = keras_norms.callbacks.SwitchLogger(tmp_path, figures=False)
    model.fit(VECTORS, LABELS, epochs=2, verbose=0, callbacks=[logger])
    preferences = analysis.read(tmp_path)
    assert list(preferences.last) == expected
    stages = {"forward", "backward"} if bidirectional else {"layer1", "layer2"}
    assert set(preferences.means()) == stages | {"net"}
    for path, kinds in keras_norms.importance(model).items():
        for kind, shares in kinds.items():
            assert preferences.last[path][kind] == pytest.approx(shares)
            assert path.endswith("recurrent_norm") or shares["layer"] != 0.5
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.control_paths == optimizer.control_paths


@over
def test_no_decay(spec):
    """Gammas, betas, gains, biases and scales; never kernels, embeddings or switches."""
    model = tokens(spec, depth=2)
    spared = {v.path for v in keras_norms.no_decay_variables(model)}
    for v in model.trainable_variables:
        weight = v.name.endswith(("kernel", "embeddings", "logits"))
        assert (v.path in spared) == (not weight), v.path


@pytest.mark.parametrize(
    "spec", [pytest.param(s, marks=[] if s == "bn" else pytest.mark.slow) for s in BATCH]
)
def test_recalibrate_freeze_and_unfreeze(spec):
    model = tokens(spec, depth=2, dropout=0.5)
    variables = {v.path: v for v in model.variables}
    before = {path: numpy(v) for path, v in variables.items()}
    assert keras_norms.recalibrate(model, [IDS, FULL]) == 2
    for path, v in variables.items():
        moving = "moving_mean" in path or "moving_variance" in path or "moving_steps" in path
        assert np.any(numpy(v) != before[path]) == moving, path
    trainable = len(model.trainable_variables)
    keras_norms.freeze(model)
    norms = 0 if spec == "wn_mobn" else sum(v.path.count("_norm/") for v in model.weights)
    moving = sum("/moving_" in v.path for v in model.weights)
    assert trainable - len(model.trainable_variables) == max(norms - moving, 0)
    keras_norms.unfreeze(model)
    assert len(model.trainable_variables) == trainable


@pytest.mark.parametrize("spec", ["in", "bin", "sn(statistics=('instance',))", "gn(groups=-1)"])
def test_norms_that_need_positions(spec):
    with pytest.raises(ValueError, match="one step at a time.*Use one of 'none', 'bn'"):
        tokens(spec)


def test_errors():
    with pytest.raises(ValueError, match="cannot read from the end"):
        tokens(causal=True, bidirectional=True)
    with pytest.raises(
        ValueError, match=r"`input_shape` must be .*input_shape=\(6,\), vocabulary=None"
    ):
        lstm(3, input_shape=(6,))
    with pytest.raises(ValueError, match=r"input_shape=\(6, 3\), vocabulary=11"):
        lstm(3, input_shape=(6, 3), vocabulary=11)
