"""What a model reaches that has learnt nothing but the frequencies of the targets."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_norms.selection.data import Samples
from keras_norms.selection.training import evaluate
from keras_norms.surgery.new_like import compile_like


def constant_metrics(
    model: keras.Model, train: Samples, validation: Samples, size: int
) -> dict[str, float] | None:
    """The validation metrics of the constant prediction with the least loss on the training data.

    Without the loss where the model adds a penalty to it, which a constant does not have.

    Args:
        model: compiled.
        train: the data that the constant is for.
        validation: the data to evaluate it on.
        size: samples of a batch in evaluation.

    Returns:
        The metrics; None if the model's loss is not one for which that constant is known.
    """
    if not isinstance(train.y, np.ndarray) or not isinstance(validation.y, np.ndarray):
        return None
    x, _, _ = train.at(np.arange(1))
    outputs = model.predict_on_batch(x)
    if not isinstance(outputs, np.ndarray) or outputs.ndim < 2:
        return None
    loss = model.loss[0] if isinstance(model.loss, list) and len(model.loss) == 1 else model.loss
    if isinstance(loss, (list, tuple, dict)):
        return None
    best = _best_constant(keras.losses.get(loss), train, outputs.shape[-1])
    if best is None:
        return None
    constant = _Constant(best, outputs.shape[1:])
    compile_like(model, constant)
    places = np.zeros((validation.count, 1), "float32")
    found = evaluate(constant, validation._replace(x=places), size)
    if model.losses:
        found.pop("loss")
    return found


def _best_constant(loss: Any, train: Samples, units: int) -> np.ndarray | None:
    """The prediction `(units,)` with the least loss; None for losses that are not known."""
    name = getattr(loss, "__name__", type(loss).__name__).replace("_", "").lower()
    options = getattr(loss, "_fn_kwargs", {})
    logits, y = bool(options.get("from_logits")), train.y
    each = np.ones(len(y)) if train.weight is None else np.asarray(train.weight, "float64")
    if name == "sparsecategoricalcrossentropy":
        classes = y.astype("int64").reshape(len(y), -1)
        each = np.broadcast_to(each.reshape(len(y), -1), classes.shape)
        counted = classes != options.get("ignore_class")
        counts = np.bincount(classes[counted], each[counted], minlength=units)
        return _probabilities(counts / counts.sum(), logits)
    flat = y.reshape(-1, units) if y.size % units == 0 else y.reshape(-1, 1)
    if each.size != len(y) or len(flat) % len(y):
        return None
    mean = np.average(flat.astype("float64"), 0, each.ravel().repeat(len(flat) // len(y)))
    if name == "categoricalcrossentropy":
        return _probabilities(mean, logits)
    if name == "binarycrossentropy":
        odds = np.log(np.clip(mean, 1e-7, 1)) - np.log(np.clip(1 - mean, 1e-7, 1))
        return odds if logits else mean
    if name in ("meansquarederror", "mse"):
        return mean
    if name in ("meanabsoluteerror", "mae") and train.weight is None:
        return np.median(flat, 0)
    return None


def _probabilities(shares: np.ndarray, logits: bool) -> np.ndarray:
    return np.log(np.clip(shares, 1e-7, 1)) if logits else shares


class _Constant(keras.Model):
    """Predicts the same for all samples."""

    def __init__(self, value: np.ndarray, shape: tuple[int, ...]) -> None:
        super().__init__(name="constant")
        self._value = np.broadcast_to(value, shape).astype("float32")
        self.built = True

    def call(self, inputs: Any) -> Any:
        ones = ops.ones((ops.shape(inputs)[0], *([1] * self._value.ndim)))
        return ones * self._value[None]
