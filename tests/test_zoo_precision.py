"""Mixed precision trains every norm in every model of the zoo."""

import keras
import numpy as np
import pytest
from norms import needs_tensorflow

import keras_norms
import zoo
from zoo.norms import SUPPORT

pytestmark = needs_tensorflow  # PyTorch has no half precision convolution on a CPU
STEPS = 5
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
    model = build(norm)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    if policy == "mixed_float16":
        optimizer = keras_norms.LossScaleOptimizer(optimizer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, run_eagerly=True)
    losses = [float(model.train_on_batch(x, y)) for _ in range(STEPS)]
    assert np.isfinite(losses).all() and losses[-1] <= losses[0], losses
    for variable in model.weights:
        if "float" in variable.dtype:
            assert variable.dtype == "float32", variable.path
            assert np.isfinite(variable).all(), variable.path
    assert np.isfinite(model.predict_on_batch(x)).all()
