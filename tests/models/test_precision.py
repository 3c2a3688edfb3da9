"""Mixed precision trains every norm in every model of the zoo."""

import keras
import numpy as np
import pytest

import keras_norms
import zoo
from tests.support.norms import needs_tensorflow
from zoo.norms import SUPPORT

pytestmark = needs_tensorflow  # PyTorch has no half precision convolution on a CPU
STEPS = 6
CLASSES = 3
POLICIES = ("mixed_float16", "mixed_bfloat16")
LABELS = np.array([0, 1, 2, 0])
IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
ROWS = IMAGES[..., 0]
TOKENS = np.array([[1, 2, 3, 4, 0], [4, 3, 2, 1, 1], [2, 2, 0, 0, 0], [3, 1, 3, 1, 3]])
FULL = np.maximum(TOKENS, 1)
WORDS = {"input_shape": (5,), "vocabulary": 5, "width": 1 / 16}

# {name: (row in the table of norms, builder, examples, labels)}
MODELS = {
    "resnet20": (
        "resnet",
        lambda norm: zoo.resnet(20, CLASSES, norm, (8, 8, 3), width=1 / 8),
        *(IMAGES, LABELS),
    ),
    "resnet18": (
        "resnet",
        lambda norm: zoo.resnet(18, CLASSES, norm, (64, 64, 3), width=1 / 32),
        *(IMAGES.repeat(8, 1).repeat(8, 2), LABELS),
    ),
    "conv6": (
        "convnet",
        lambda norm: zoo.convnet("conv6", CLASSES, norm, (8, 8, 3), width=1 / 16),
        *(IMAGES, LABELS),
    ),
    "convpool": (
        "convnet",
        lambda norm: zoo.convnet("convpool", CLASSES, norm, (8, 8, 3), width=1 / 12),
        *(IMAGES, LABELS),
    ),
    "mlp": (
        "mlp",
        lambda norm: zoo.mlp(CLASSES, norm, (192,), width=1 / 4),
        *(IMAGES.reshape(4, -1), LABELS),
    ),
    "lstm": (
        "lstm",
        lambda norm: zoo.lstm(CLASSES, norm, (8, 8), width=1 / 16),
        *(ROWS, LABELS),
    ),
    "lstm_words": ("lstm", lambda norm: zoo.lstm(CLASSES, norm, **WORDS), TOKENS, LABELS),
    "lstm_causal": (
        "lstm",
        lambda norm: zoo.lstm(5, norm, causal=True, **WORDS),
        *(FULL, np.roll(FULL, -1, 1)),
    ),
    "transformer": (
        "transformer",
        lambda norm: zoo.transformer(CLASSES, norm, dropout=0.0, **WORDS),
        *(TOKENS, LABELS),
    ),
    "transformer_causal": (
        "causal_transformer",
        lambda norm: zoo.transformer(5, norm, causal=True, dropout=0.0, **WORDS),
        *(FULL, np.roll(FULL, -1, 1)),
    ),
}


def cases():
    """Norm x model x precision; by default one model for each norm, and each model for some."""
    result = []
    for i, norm in enumerate(SUPPORT):
        for j, (model, (row, *_)) in enumerate(MODELS.items()):
            if SUPPORT[norm][row]:
                for k, policy in enumerate(POLICIES):
                    chosen = j == (3 * i) % len(MODELS) and k == i % 2
                    marks = [] if chosen else pytest.mark.slow
                    result.append(pytest.param(norm, model, policy, marks=marks))
    return result


@pytest.mark.parametrize("norm, name, policy", cases())
def test_loss_falls(norm, name, policy):
    keras.config.set_dtype_policy(policy)
    _, build, x, y = MODELS[name]
    # By default so few channels make groups of pairs, and a pair that is close has large gradients.
    model = build({"gn": "gn(groups=2)"}.get(norm, norm))
    optimizer = keras.optimizers.SGD(0.02)
    if policy == "mixed_float16":
        # So low that no step is lost to an overflow.
        optimizer = keras_norms.LossScaleOptimizer(optimizer, initial_scale=64.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, run_eagerly=True)
    seeds = {v.path: keras.ops.convert_to_numpy(v) for v in model.variables if "seed" in v.path}
    losses = []
    for _ in range(STEPS):
        for variable in model.variables:
            if variable.path in seeds:  # the same noise and dropout every time
                variable.assign(seeds[variable.path])
        losses.append(float(model.train_on_batch(x, y)))
    assert np.isfinite(losses).all() and losses[-1] < losses[0], losses
    for variable in model.weights:
        assert variable.dtype == "float32", variable.path
        assert np.isfinite(keras.ops.convert_to_numpy(variable)).all(), variable.path
    assert np.isfinite(model.predict_on_batch(x)).all()


def line_of_tokens():
    inputs = keras.Input((2,), dtype="int32")
    x = keras.layers.Embedding(3, 4)(inputs)
    return keras.Model(inputs, keras.layers.Dense(1, dtype="float32")(x))


def assert_skipped(model, optimizer, targets):
    model.compile(optimizer, "mse", run_eagerly=True)
    before = model.get_weights()
    model.train_on_batch(np.ones((1, 2), "int32"), targets)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("place", [0, 1])
def test_an_overflow_in_the_embedding_of_a_repeated_token(place):
    """Keras looks at the last gradient of each token only."""
    keras.config.set_dtype_policy("mixed_float16")
    optimizer = keras_norms.LossScaleOptimizer(keras.optimizers.SGD(1e-3), initial_scale=2.0**10)
    targets = np.zeros((1, 2, 1), "float32")
    targets[:, place] = 1e4  # times the scale, more than float16 can hold
    assert_skipped(line_of_tokens(), optimizer, targets)
    assert float(optimizer.dynamic_scale) == 2.0**9


@pytest.mark.parametrize("place", [0, 1])
def test_a_step_that_is_not_finite_for_a_repeated_token(place):
    model = line_of_tokens()
    model.layers[-1].trainable = False  # so that nothing but the embedding has a gradient
    optimizer = keras_norms.configure_optimizer(
        keras.optimizers.SGD(1e-3), model, skip_nonfinite=True
    )
    targets = np.zeros((1, 2, 1), "float32")
    targets[:, place] = np.inf
    assert_skipped(model, optimizer, targets)
