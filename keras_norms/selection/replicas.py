"""How far training on two replicas is from training on one device."""

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_norms.model_layers import named_layers
from keras_norms.replicas import mirrored
from keras_norms.selection.candidates import Candidates
from keras_norms.selection.data import Samples

STEPS = 3
RATE = 0.01


def agreement(
    candidates: Candidates, norms: Sequence[str], train: Samples, size: int, replicas: int
) -> dict[str, float | None]:
    """The difference of the outputs after some steps with the same global batches.

    The steps are those of SGD, and without dropout, whose masks would differ.

    Args:
        candidates: the models.
        norms: which to try.
        train: the data.
        size: samples of a global batch.
        replicas: how many.

    Returns:
        `{norm: largest difference of outputs, divided by their standard deviation}`; None where a
        model cannot be trained on replicas.

    Raises:
        ValueError: without TensorFlow, or with fewer devices.
    """
    strategy = mirrored(replicas)
    found: dict[str, float | None] = {}
    for norm in norms:
        try:
            one = _trained(candidates, norm, train, size, None)
            several = _trained(candidates, norm, train, size, strategy)
        except Exception:  # whatever a model may raise there
            found[norm] = None
            continue
        spread = float(np.std(one)) or 1.0
        found[norm] = float(np.abs(one - several).max()) / spread
    return found


def _trained(
    candidates: Candidates, norm: str, train: Samples, size: int, strategy: Any
) -> np.ndarray:
    """The outputs for the last batch after some steps, on one device or on replicas."""
    import tensorflow as tf

    scope = strategy or tf.distribute.get_strategy()
    origin = candidates.make(norm, size, 0)
    with scope.scope():
        model = candidates.make(norm, size, 0)
        for own, other in zip(model.variables, origin.variables, strict=True):
            own.assign(keras.ops.convert_to_numpy(other))
        model.optimizer = keras.optimizers.SGD(RATE)
        model.optimizer.build(model.trainable_variables)
    for layer in named_layers(model).values():
        for name in ("rate", "dropout", "recurrent_dropout"):
            if isinstance(getattr(layer, name, None), float):
                with contextlib.suppress(AttributeError):  # what only shows the rate of a part
                    setattr(layer, name, 0.0)
    batches = list(itertools.islice(train.batches(size, 0), STEPS))
    for batch in batches:
        # `fit` gives each replica its share; without weights of samples, it takes pairs.
        data = tf.data.Dataset.from_tensors(batch if batch[2] is not None else batch[:2])
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        model.fit(data.with_options(options), shuffle=False, verbose=0)
    outputs = model(batches[-1][0], training=False)
    return np.concatenate([np.ravel(part) for part in keras.tree.flatten(outputs)])
