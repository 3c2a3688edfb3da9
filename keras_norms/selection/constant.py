"""What a model reaches that has learnt nothing but the frequencies of the targets."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_norms.selection.data import Samples
from keras_norms.selection.training import evaluate


def constant_metrics(
    model: keras.Model, train: Samples, validation: Samples
) -> dict[str, float] | None:
    """The validation metrics of the constant prediction with the least loss on the training data.

    Returns:
        The metrics; None if the model's loss is not one for which that constant is known.
    """
    if not isinstance(train.y, np.ndarray) or not isinstance(validation.y, np.ndarray):
        return None
    outputs = model.compute_output_shape((1, *np.shape(keras.tree.flatten(train.x)[0])[1:]))
    if not isinstance(outputs, tuple) or not isinstance(outputs[-1], int):
        return None
    best = _best_constant(keras.losses.get(model.loss), train.y, outputs[-1])
    if best is None:
        return None
    constant = _Constant(best, outputs[1:])
    constant.compile_from_config({**model.get_compile_config(), "optimizer": "sgd"})
    places = np.zeros((validation.count, 1), "float32")
    return evaluate(constant, validation._replace(x=places), 256)


def _best_constant(loss: Any, y: np.ndarray, units: int) -> np.ndarray | None:
    """The prediction `(units,)` with the least loss; None for losses that are not known."""
    name = getattr(loss, "__name__", type(loss).__name__).replace("_", "").lower()
    logits = bool(getattr(loss, "_fn_kwargs", {}).get("from_logits"))
    if name == "sparsecategoricalcrossentropy":
        counts = np.bincount(y.astype("int64").ravel(), minlength=units).astype("float64")
        return _probabilities(counts / counts.sum(), logits)
    flat = y.reshape(-1, units) if y.size % units == 0 else y.reshape(-1, 1)
    mean = flat.mean(0, dtype="float64")
    if name == "categoricalcrossentropy":
        return _probabilities(mean, logits)
    if name == "binarycrossentropy":
        odds = np.log(np.clip(mean, 1e-7, 1)) - np.log(np.clip(1 - mean, 1e-7, 1))
        return odds if logits else mean
    if name in ("meansquarederror", "mse"):
        return mean
    if name in ("meanabsoluteerror", "mae"):
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
